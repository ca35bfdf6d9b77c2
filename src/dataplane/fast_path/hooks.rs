//! Where the programs are attached, and how: by a tcx link, or by a filter on a clsact qdisc.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use aya::programs::links::Link;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use serde::Serialize;

use super::config::DeviceRef;
use super::error::errno_of;
use super::programs::INGRESS;

/// Priority of our filters where there is no tcx, and the upper half of their handles. The lower is the
/// overlay's port: each daemon of a host has its own, and finds what an earlier one left.
const PRIORITY: u16 = 1;
const HANDLE_MAJOR: u16 = 0x7477;

/// The programs stand first: one before them that lets packets pass would end their turn.
const ORDER: fn() -> LinkOrder = LinkOrder::first;

/// tcx came with this kernel; its links go with the process, however that ends.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedBy {
    /// A link, which goes with the process.
    Tcx,
    /// A filter on a qdisc, which stays after SIGKILL.
    Clsact,
    /// A link at the driver, which goes with the process.
    Xdp,
}

/// A program where packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `egress`, `ingress`, `gpe` or `xdp`.
    pub name: &'static str,
    /// Where it is.
    pub device: DeviceRef,
    /// The kernel's number for the program.
    pub program_id: u32,
    /// How it is attached.
    pub attached_by: AttachedBy,
}

/// All hooks, by name: at the overlay device, at the underlay, where superpackets come out of the
/// device that takes them apart, and at the underlay's driver.
pub const HOOKS: [&str; 4] = ["egress", "ingress", "gpe", "xdp"];

impl AttachedBy {
    /// The better one that the kernel has.
    pub fn best() -> Self {
        let has_tcx = KernelVersion::current().is_ok_and(|kernel| kernel >= TCX);
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }

    /// As it is serialized.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
        }
    }
}

impl Hook {
    /// Attaches `program` as `name`; by a filter if the kernel has no tcx after all.
    pub(super) fn attach(
        name: &'static str,
        program: &mut SchedClassifier,
        device: &DeviceRef,
        at: TcAttachType,
        (wanted, port): (AttachedBy, u16),
    ) -> Result<Self, ProgramError> {
        let by_tcx = match wanted {
            AttachedBy::Tcx => {
                let options = TcAttachOptions::TcxOrder(ORDER());
                Some(program.attach_with_options(&device.name, at, options))
            }
            AttachedBy::Clsact | AttachedBy::Xdp => None,
        };
        let attached_by = match by_tcx {
            Some(Ok(_)) => AttachedBy::Tcx,
            Some(Err(error)) if !is_unknown(&error) => return Err(error),
            Some(Err(_)) | None => {
                let handle = TcHandle::new(HANDLE_MAJOR, port);
                make_room(device, at, handle);
                let options = NlOptions { priority: PRIORITY, handle, classid: None };
                program.attach_with_options(&device.name, at, TcAttachOptions::Netlink(options))?;
                AttachedBy::Clsact
            }
        };
        let program_id = program.info()?.id();
        Ok(Self { name, device: device.clone(), program_id, attached_by })
    }

    /// Whether it sees what leaves its device.
    pub fn is_egress(&self) -> bool {
        let [egress, ..] = HOOKS;
        self.name == egress
    }

    /// Whether it is there still, if a link holds it.
    pub(super) fn has_link(&self, links: &BTreeSet<(u32, u32)>) -> bool {
        match self.attached_by {
            AttachedBy::Tcx | AttachedBy::Xdp => {
                links.contains(&(self.program_id, self.device.index))
            }
            AttachedBy::Clsact => true,
        }
    }
}

/// Whether the kernel does not know what was asked of it.
fn is_unknown(error: &ProgramError) -> bool {
    matches!(errno_of(error), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// The links of this process: number of the program, and of the device, which is 0 once the
/// kernel has detached it.
///
/// # Errors
/// `/proc` is not to be read.
pub(super) fn links() -> io::Result<BTreeSet<(u32, u32)>> {
    let mut links = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        links.extend(link(&text));
    }
    Ok(links)
}

/// The same of one descriptor, as `bpf_link_show_fdinfo()` of the kernel prints it.
fn link(fdinfo: &str) -> Option<(u32, u32)> {
    let value = |name: &str| {
        fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let is_ours = ["tcx", "xdp"].contains(&value("link_type")?);
    let pair = (value("prog_id")?.parse().ok()?, value("ifindex")?.parse().ok()?);
    is_ours.then_some(pair)
}

/// Makes the qdisc that filters hang on, and removes a filter of ours that a process left when it
/// was killed: it would redirect to a device that is gone.
fn make_room(device: &DeviceRef, at: TcAttachType, handle: TcHandle) {
    // What fails here fails again, and is reported, when the filter is attached.
    drop(tc::qdisc_add_clsact(&device.name));
    // There is none as a rule.
    if let Ok(left) = SchedClassifierLink::attached(&device.name, at, PRIORITY, handle, None) {
        drop(left.detach());
    }
}

/// Removes the filter that a killed process of the overlay with this port left where peers' packets
/// arrive at `device`; whether there was one.
pub fn remove_own_left_over(device: &str, port: u16) -> bool {
    let handle = TcHandle::new(HANDLE_MAJOR, port);
    let left = SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, handle, None);
    left.is_ok_and(|left| left.detach().is_ok())
}

/// Removes filters of ours, of any port, from where peers' packets arrive at `device`; whether there
/// were some. Only killed processes leave them, on kernels without tcx.
pub fn remove_left_over(device: &str) -> bool {
    tc::qdisc_detach_program(device, TcAttachType::Ingress, INGRESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_the_kernel_prints_them() {
        let tcx = "pos:\t0\nflags:\t02000000\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\t1234\n\
                   prog_id:\t42\nifindex:\t3\nattach_type:\t46 (tcx_ingress)\n";
        assert_eq!(link(tcx), Some((42, 3)));
        assert_eq!(link(&tcx.replace("tcx\n", "xdp\n")), Some((42, 3)));
        assert_eq!(link(&tcx.replace("tcx\n", "netns\n")), None);
        assert_eq!(link("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn device_without_filters_of_ours_has_none_to_remove() {
        assert!(!remove_own_left_over("lo", 8285));
        assert!(!remove_left_over("no-such-device"));
    }
}
