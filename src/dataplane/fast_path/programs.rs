//! The programs of `bpf/`: loaded for one pair of devices, attached and detached.

use std::time::Duration;

use aya::maps::Array;
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};

use super::config::{DeviceRef, FastConfig};
use super::error::FastPathError;
use super::hooks::{AttachedBy, HOOKS, Hook};
use super::tables::Tables;
use super::traffic::num_processors;
use super::xdp;

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

/// What is the same on every node, and otherwise in tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    /// Bytes before an IP header on the overlay device.
    pub(super) link_len: u32,
    /// Most packets of a flow in a window of `bpf/flows.h`, answered or not.
    pub(super) max_in_window: u32,
    /// How long after loading flows that are new to the programs are the workers', which may have had
    /// them before: loading and attaching takes a part of it, the rest is a flow's silence.
    pub(super) settle: Duration,
}

/// A TUN device, and flows of at most 100,000 packets in a second.
pub(super) const CONSTANTS: Constants =
    Constants { link_len: 0, max_in_window: 2000, settle: Duration::from_millis(750) };

/// The loaded programs. They are detached when the value is dropped.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
    config: FastConfig,
    /// Which of the programs for XDP is loaded.
    xdp_program: Option<&'static str>,
    hooks: Vec<Hook>,
}

impl Programs {
    /// Loads them, without any effect on packets so far.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub(super) fn load(
        config: FastConfig,
        num_traffic: u16,
        constants: Constants,
    ) -> Result<(Self, Tables), FastPathError> {
        let mut ebpf = open(&config, num_traffic, constants)?;
        for name in [EGRESS, INGRESS, GPE_INGRESS] {
            let loaded = program(&mut ebpf, name)?.load();
            loaded.map_err(|source| FastPathError::Program { name, source })?;
        }
        let xdp_program = match &config.xdp {
            Some(_) => Some(xdp::load(&mut ebpf, &config.underlay)?),
            None => None,
        };
        let tables = Tables::take(&mut ebpf, config.num_slots, num_traffic)?;
        let mut programs = Self { ebpf, config, xdp_program, hooks: Vec::new() };
        programs.turn(Switch::ByGpe, programs.config.gpe.is_some())?;
        Ok((programs, tables))
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

/// The object with all constants, before the kernel has seen any program of it.
fn open(
    config: &FastConfig,
    num_traffic: u16,
    constants: Constants,
) -> Result<Ebpf, FastPathError> {
    let network = config.network.to_bits();
    let (shift, own) = (u32::from(config.slot_shift), config.own_subnet.0.to_bits());
    let underlay_addr = config.underlay_addr.to_bits();
    let (mtu, port) = (u32::from(config.overlay_mtu), u32::from(config.port));
    let (gpe_port, gpe_vni, gpe_merges) = config
        .gpe
        .as_ref()
        .map_or((0, 0, 0), |gpe| (u32::from(gpe.port), gpe.vni, u32::from(gpe.merges)));
    let (mac, mark) = config.xdp.as_ref().map_or(([0; 3], 0), |xdp| (xdp.mac_words(), xdp.mark));
    // The clock of `bpf_ktime_get_coarse_ns()`. One that cannot be read leaves flows to the workers.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::MAX, Duration::from);
    let flows_from = u64::try_from(now.saturating_add(constants.settle).as_nanos());
    let flows_from = flows_from.unwrap_or(u64::MAX);
    let num_processors = u32::try_from(num_processors()).unwrap_or(1);
    let all_traffic = num_processors.saturating_mul(num_traffic.into());
    EbpfLoader::new()
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
        .override_global("LINK_LEN", &constants.link_len, true)
        .override_global("MAX_IN_WINDOW", &constants.max_in_window, true)
        .override_global("FLOWS_FROM", &flows_from, true)
        .override_global("GPE_PORT", &gpe_port, true)
        .override_global("GPE_VNI", &gpe_vni, true)
        .override_global("GPE_MERGES", &gpe_merges, true)
        .override_global("BULK_TCP", &u32::from(config.bulk_tcp), true)
        .override_global("UNDERLAY_MAC", &mac, true)
        .override_global("XDP_MARK", &mark, true)
        .map_max_entries("PEERS", config.num_slots)
        .map_max_entries("TRAFFIC", all_traffic)
        .load(OBJECT)
        .map_err(FastPathError::Load)
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
