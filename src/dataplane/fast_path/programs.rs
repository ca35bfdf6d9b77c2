//! The programs of `bpf/`: loaded for one pair of devices, attached and detached.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use aya::maps::{Array, Map, PerCpuArray};
use aya::programs::tc::TcError;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::counters::{FastCounters, NUM_COUNTERS};
use super::hooks::{self, AttachedBy, HOOKS, Hook};
use super::traffic::{TRAFFIC_LEN, TrafficReader, num_processors};
use super::xdp::{self, Xdp};
use crate::dataplane::io::sys::mmap::MappedWords;

/// What `make bpf` compiled.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("bpf/fast_path.bpf.o");

/// The programs' names in the object.
pub(super) const EGRESS: &str = "fast_egress";
pub(super) const INGRESS: &str = "fast_ingress";
pub(super) const GPE_INGRESS: &str = "gpe_ingress";

/// A switch of `bpf/tables.h`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Switch {
    /// What a bridge would cut, or GRO is to merge, goes through the vxlan device.
    ByGpe,
    /// XDP removes outer headers.
    OuterByXdp,
}

/// What the programs must know of this node. Addresses in host order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastConfig {
    /// First address of the overlay.
    pub network: Ipv4Addr,
    /// Bits of an address behind its slot: 32 - SubnetLen.
    pub slot_shift: u8,
    /// Slots in the overlay.
    pub num_slots: u32,
    /// First address of our lease, and the mask that its length makes.
    pub own_subnet: (Ipv4Addr, u32),
    /// What the sockets are bound to.
    pub underlay_addr: Ipv4Addr,
    /// The interface with that address.
    pub underlay: DeviceRef,
    /// The TUN device.
    pub overlay: DeviceRef,
    /// Its MTU, in bytes.
    pub overlay_mtu: u16,
    /// Where we and all peers listen.
    pub port: u16,
    /// Ports of further sockets of ours.
    pub source_ports: [u16; 8],
    /// The device that decapsulates superpackets, if there is one.
    pub gpe: Option<Gpe>,
    /// Whether XDP removes the outer headers, and whose.
    pub xdp: Option<Xdp>,
    /// How they are to be attached.
    pub attach_by: AttachedBy,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRef {
    /// Its number.
    pub index: u32,
    /// Its name, now.
    pub name: String,
}

/// A VXLAN-GPE device for what arrives from peers in superpackets, or is to become such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpe {
    /// The device.
    pub device: DeviceRef,
    /// Its UDP port.
    pub port: u16,
    /// 24 bits by which we know our own packets.
    pub vni: u32,
    /// Whether TCP arrives in single frames, all of which its GRO is to merge.
    pub merges: bool,
}

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// The kernel took none of it.
    #[error("load the BPF programs")]
    Load(#[source] EbpfError),
    /// The kernel did not take a program.
    #[error("load the BPF program {name}")]
    Program {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// It cannot be where packets pass.
    #[error("attach the BPF program {name} to {device}")]
    Attach {
        /// Which.
        name: &'static str,
        /// To what.
        device: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// The driver does not take XDP.
    #[error("attach XDP to {device}")]
    NoXdp {
        /// Whose driver.
        device: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// A table is not to be had as memory.
    #[error("map the peers' tables to memory")]
    Memory(#[source] io::Error),
    /// They were to be detached before they were attached.
    #[error("the overlay device went away meanwhile")]
    Stopped,
    /// The object lacks something.
    #[error("{0} is not in the BPF object")]
    Missing(&'static str),
}

impl FastPathError {
    /// What the kernel said, if it said something.
    pub fn errno(&self) -> Option<i32> {
        errno_of(self)
    }
}

/// The number that the kernel returned, of all causes the innermost.
pub(super) fn errno_of(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    let mut errno = None;
    while let Some(cause) = next {
        // Some errors of aya do not name the one of the kernel as their source.
        let io_error = match cause.downcast_ref::<ProgramError>() {
            Some(ProgramError::IOError(error) | ProgramError::TcError(TcError::IoError(error))) => {
                Some(error)
            }
            Some(_) | None => cause.downcast_ref::<io::Error>(),
        };
        errno = io_error.and_then(io::Error::raw_os_error).or(errno);
        next = cause.source();
    }
    errno
}

/// The loaded programs. They are detached when the value is dropped.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
    config: FastConfig,
    /// Which of the programs for XDP is loaded.
    xdp_program: Option<&'static str>,
    /// Counters of peers that each processor has.
    num_traffic: u16,
    hooks: Vec<Hook>,
}

impl Programs {
    /// Loads them, without any effect on packets so far.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub(super) fn load(config: FastConfig, num_traffic: u16) -> Result<Self, FastPathError> {
        Self::load_behind(config, num_traffic, 0)
    }

    /// The same, for an overlay device on which `link_len` bytes stand before an IP header.
    pub(super) fn load_behind(
        config: FastConfig,
        num_traffic: u16,
        link_len: u32,
    ) -> Result<Self, FastPathError> {
        let network = config.network.to_bits();
        let (shift, own) = (u32::from(config.slot_shift), config.own_subnet.0.to_bits());
        let underlay_addr = config.underlay_addr.to_bits();
        let (mtu, port) = (u32::from(config.overlay_mtu), u32::from(config.port));
        let (gpe_port, gpe_vni, gpe_merges) = config
            .gpe
            .as_ref()
            .map_or((0, 0, 0), |gpe| (u32::from(gpe.port), gpe.vni, u32::from(gpe.merges)));
        let (mac, mark) =
            config.xdp.as_ref().map_or(([0; 3], 0), |xdp| (xdp.mac_words(), xdp.mark));
        let num_processors = u32::try_from(num_processors()).unwrap_or(1);
        let all_traffic = num_processors.saturating_mul(num_traffic.into());
        let mut ebpf = EbpfLoader::new()
            .override_global("NETWORK", &network, true)
            .override_global("SLOT_SHIFT", &shift, true)
            .override_global("NUM_SLOTS", &config.num_slots, true)
            .override_global("OWN_SUBNET", &own, true)
            .override_global("OWN_MASK", &config.own_subnet.1, true)
            .override_global("UNDERLAY_ADDR", &underlay_addr, true)
            .override_global("UNDERLAY_IFINDEX", &config.underlay.index, true)
            .override_global("OVERLAY_IFINDEX", &config.overlay.index, true)
            .override_global("OVERLAY_MTU", &mtu, true)
            .override_global("PORT", &port, true)
            .override_global("NUM_TRAFFIC", &u32::from(num_traffic), true)
            .override_global("SOURCE_PORTS", &config.source_ports, true)
            .override_global("LINK_LEN", &link_len, true)
            .override_global("GPE_PORT", &gpe_port, true)
            .override_global("GPE_VNI", &gpe_vni, true)
            .override_global("GPE_MERGES", &gpe_merges, true)
            .override_global("UNDERLAY_MAC", &mac, true)
            .override_global("XDP_MARK", &mark, true)
            .map_max_entries("PEERS", config.num_slots)
            .map_max_entries("TRAFFIC", all_traffic)
            .load(OBJECT)
            .map_err(FastPathError::Load)?;
        for name in [EGRESS, INGRESS, GPE_INGRESS] {
            let loaded = program(&mut ebpf, name)?.load();
            loaded.map_err(|source| FastPathError::Program { name, source })?;
        }
        let xdp_program = match &config.xdp {
            Some(_) => Some(xdp::load(&mut ebpf, &config.underlay)?),
            None => None,
        };
        let mut programs = Self { ebpf, config, xdp_program, num_traffic, hooks: Vec::new() };
        programs.turn(Switch::ByGpe, programs.config.gpe.is_some())?;
        Ok(programs)
    }

    /// Turns a switch on or off.
    ///
    /// # Errors
    /// [`FastPathError::Missing`].
    pub(super) fn turn(&mut self, switch: Switch, on: bool) -> Result<(), FastPathError> {
        let map = self.ebpf.map_mut("SWITCHES").map(Array::<_, u64>::try_from);
        let Some(Ok(mut map)) = map else { return Err(FastPathError::Missing("SWITCHES")) };
        map.set(switch as u32, u64::from(on), 0).map_err(|_| FastPathError::Missing("SWITCHES"))
    }

    /// Attaches them: those for what arrives first, so that no answer is missed.
    ///
    /// XDP is the first, and does nothing before tc is there for what it marks.
    ///
    /// # Errors
    /// [`FastPathError::NoXdp`], [`FastPathError::Attach`].
    pub(super) fn attach(&mut self) -> Result<(), FastPathError> {
        if let Some(name) = self.xdp_program {
            self.hooks.push(xdp::attach(&mut self.ebpf, name, &self.config.underlay)?);
        }
        if let Some(device) = self.config.gpe.as_ref().map(|gpe| gpe.device.clone()) {
            self.attach_one(GPE_INGRESS, &device, TcAttachType::Ingress)?;
        }
        let (underlay, overlay) = (self.config.underlay.clone(), self.config.overlay.clone());
        self.attach_one(INGRESS, &underlay, TcAttachType::Ingress)?;
        self.turn(Switch::OuterByXdp, true)?;
        self.attach_one(EGRESS, &overlay, TcAttachType::Egress)
    }

    /// Detaches the one that sends.
    pub(super) fn detach_egress(&mut self) {
        self.detach_these(&[EGRESS]);
    }

    /// Detaches them in the opposite order. A device that is gone has taken its program along.
    pub(super) fn detach(&mut self) {
        self.detach_these(&[EGRESS]);
        if let Some(name) = self.xdp_program {
            xdp::detach(&mut self.ebpf, name);
            self.hooks.retain(|hook| hook.attached_by != AttachedBy::Xdp);
        }
        self.detach_these(&[INGRESS, GPE_INGRESS]);
    }

    fn detach_these(&mut self, names: &[&'static str]) {
        for &name in names {
            if let Ok(program) = program(&mut self.ebpf, name)
                && let Err(error) = program.unload()
            {
                tracing::debug!(name, %error, "a BPF program was detached already");
            }
            self.hooks.retain(|hook| hook.name != hook_name(name));
        }
    }

    fn attach_one(
        &mut self,
        name: &'static str,
        device: &DeviceRef,
        at: TcAttachType,
    ) -> Result<(), FastPathError> {
        let how = (self.config.attach_by, self.config.port);
        let program = program(&mut self.ebpf, name)?;
        let attached = Hook::attach(hook_name(name), program, device, at, how);
        let failed = |source| FastPathError::Attach { name, device: device.name.clone(), source };
        self.hooks.push(attached.map_err(failed)?);
        Ok(())
    }

    /// Where they are attached.
    pub(super) fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// A hook that somebody else took a program from, as far as that is known.
    pub(super) fn lost_hook(&self) -> Option<&Hook> {
        // Without /proc nothing is known.
        let links = hooks::links().ok()?;
        self.hooks.iter().find(|hook| !hook.is_in_place(&links))
    }

    /// The peers' table, as memory.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub(super) fn peers(&self) -> Result<MappedWords, FastPathError> {
        self.map_words("PEERS", self.config.num_slots as usize)
    }

    /// The peers' counters, to be read.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub(super) fn traffic(&self) -> Result<TrafficReader, FastPathError> {
        let num_processors = num_processors();
        let num_words = num_processors * usize::from(self.num_traffic) * TRAFFIC_LEN;
        let words = self.map_words("TRAFFIC", num_words)?;
        Ok(TrafficReader::new(words, self.num_traffic, num_processors))
    }

    fn map_words(
        &self,
        name: &'static str,
        num_words: usize,
    ) -> Result<MappedWords, FastPathError> {
        let Some(Map::Array(map)) = self.ebpf.map(name) else {
            return Err(FastPathError::Missing(name));
        };
        MappedWords::new(map.fd().as_fd(), num_words).map_err(FastPathError::Memory)
    }

    /// Reads what the programs counted.
    pub(super) fn counters(&self) -> FastCounters {
        let map = self.ebpf.map("COUNTERS").map(PerCpuArray::<_, u64>::try_from);
        let Some(Ok(map)) = map else { return FastCounters::default() };
        let mut sum = [0; NUM_COUNTERS];
        for (index, sum) in (0..).zip(&mut sum) {
            *sum = map.get(&index, 0).map_or(0, |values| values.iter().sum());
        }
        FastCounters::of(&sum)
    }

    /// What the programs know.
    pub(super) const fn config(&self) -> &FastConfig {
        &self.config
    }

    /// A program, to be run by a test.
    pub(super) fn program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, FastPathError> {
        program(&mut self.ebpf, name)
    }

    /// The same of XDP.
    pub(super) fn xdp_program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut aya::programs::Xdp, FastPathError> {
        xdp::program(&mut self.ebpf, name)
    }
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, FastPathError> {
    let program = ebpf.program_mut(name).ok_or(FastPathError::Missing(name))?;
    program.try_into().map_err(|source| FastPathError::Program { name, source })
}

/// The name of a program's hook.
fn hook_name(program: &str) -> &'static str {
    let [egress, ingress, gpe, _] = HOOKS;
    match program {
        EGRESS => egress,
        INGRESS => ingress,
        _ => gpe,
    }
}
