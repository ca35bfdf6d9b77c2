//! The programs for XDP, `bpf/xdp.h`: one of them is loaded, and attached to the underlay's driver.

use aya::Ebpf;
use aya::programs::{self, ProgramError, XdpMode};

use super::config::DeviceRef;
use super::error::FastPathError;
use super::hooks::{AttachedBy, HOOKS, Hook};

/// The program for frames in one piece and in several, and the one for kernels before 5.18, which
/// know the former only.
pub(super) const FRAGS: &str = "fast_xdp_frags";
pub(super) const PLAIN: &str = "fast_xdp";

/// What XDP must know besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xdp {
    /// The underlay's link address.
    pub mac: [u8; 6],
    /// By which tc knows what XDP took: not 0, and known to nobody else.
    pub mark: u32,
}

impl Xdp {
    /// The address as the program has it.
    pub(super) fn mac_words(&self) -> [u16; 3] {
        let [a, b, c, d, e, f] = self.mac;
        [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
    }
}

/// Loads one of the programs; which.
///
/// # Errors
/// [`FastPathError::NoXdp`].
pub(super) fn load(ebpf: &mut Ebpf, underlay: &DeviceRef) -> Result<&'static str, FastPathError> {
    if program(ebpf, FRAGS)?.load().is_ok() {
        return Ok(FRAGS);
    }
    program(ebpf, PLAIN)?.load().map_err(|source| no_xdp(underlay, source))?;
    Ok(PLAIN)
}

/// Attaches it to the driver. The kernel refuses if the device has a program already. The link goes
/// with the process: XDP has had links since Linux 5.9.
///
/// # Errors
/// [`FastPathError::NoXdp`].
pub(super) fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    underlay: &DeviceRef,
) -> Result<Hook, FastPathError> {
    let program = program(ebpf, name)?;
    let attached = program.attach_to_if_index(underlay.index, XdpMode::Driver);
    attached.map_err(|source| no_xdp(underlay, source))?;
    let info = program.info().map_err(|source| no_xdp(underlay, source))?;
    let [.., name] = HOOKS;
    let (device, program_id) = (underlay.clone(), info.id());
    Ok(Hook { name, device, program_id, attached_by: AttachedBy::Xdp })
}

/// Detaches it, if the device did not take it along.
pub(super) fn detach(ebpf: &mut Ebpf, name: &'static str) {
    if let Ok(program) = program(ebpf, name)
        && let Err(error) = program.unload()
    {
        tracing::debug!(name, %error, "a BPF program was detached already");
    }
}

pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut programs::Xdp, FastPathError> {
    let program = ebpf.program_mut(name).ok_or(FastPathError::Missing(name))?;
    program.try_into().map_err(|source| FastPathError::Program { name, source })
}

fn no_xdp(underlay: &DeviceRef, source: ProgramError) -> FastPathError {
    FastPathError::NoXdp { device: underlay.name.clone(), source }
}

/// The name of a program that is loaded, by its number; it takes CAP_SYS_ADMIN.
pub fn program_name(id: u32) -> Option<String> {
    let mut loaded = programs::loaded_programs().filter_map(Result::ok);
    let info = loaded.find(|info| info.id() == id)?;
    info.name_as_str().map(str::to_owned)
}
