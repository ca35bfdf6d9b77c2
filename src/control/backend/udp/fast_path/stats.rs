//! [`FastPathStats`]: what `/stats` says of the fast path.

use serde::Serialize;

use super::said::{Reasons, Said};
use crate::dataplane::fast_path::{AttachedBy, FastConfig, FastCounters, FastPath, HOOKS, Hook};

/// Whether the kernel carries packets by itself, and by which programs.
#[derive(Debug, Clone, Serialize)]
pub struct FastPathStats {
    /// Whether it does.
    pub active: bool,
    /// What it carries: `TCP` or `sparse TCP`, `ICMP`, `sparse UDP`.
    pub carries: &'static [&'static str],
    /// Why it does not carry all that it could, and what would change that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every hook, in use or not.
    pub hooks: Vec<HookStats>,
    /// What was carried, and what was left to the workers.
    #[serde(flatten)]
    pub counters: FastCounters,
}

/// One place for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookStats {
    /// `egress`, `ingress`, `gpe` or `xdp`.
    pub name: &'static str,
    /// What is there; absent if nothing is.
    #[serde(flatten)]
    pub used: Option<HookUse>,
    /// Why nothing is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A program in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookUse {
    /// Name and number of the device.
    pub device: String,
    /// The kernel's number for it.
    pub ifindex: u32,
    /// The kernel's number for the program.
    pub program_id: u32,
    /// `tcx`, `clsact` or `xdp`.
    pub attached_by: AttachedBy,
}

impl FastPathStats {
    /// Of `path`, of which this is said.
    pub(in crate::control::backend::udp) fn of(path: &FastPath, said: &Said) -> Self {
        let Reasons { off, no_bulk_tcp, no_xdp } = said.reasons();
        let (hooks, config) = (path.hooks(), path.config().filter(|_| off.is_none()));
        let stats = |name| {
            let why = match (name, off.as_deref()) {
                (_, Some(off)) => off,
                (_, None) if config.is_none() => "the fast path has not begun yet",
                ("gpe", None) => no_bulk_tcp.as_deref().unwrap_or("XDP takes the outer headers"),
                (_, None) => {
                    let for_xdp = "it takes --fast-path=xdp and a driver that has XDP";
                    no_xdp.as_deref().unwrap_or(for_xdp)
                }
            };
            HookStats::of(name, &hooks, why)
        };
        Self {
            active: config.is_some(),
            carries: match &config {
                None => &[],
                Some(FastConfig { bulk_tcp: false, .. }) => &["ICMP", "sparse TCP", "sparse UDP"],
                Some(_) => &["TCP", "ICMP", "sparse UDP"],
            },
            hooks: HOOKS.into_iter().map(stats).collect(),
            counters: path.counters(),
            reason: off.or(no_bulk_tcp),
        }
    }
}

impl HookStats {
    fn of(name: &'static str, hooks: &[Hook], why: &str) -> Self {
        let used = hooks.iter().find(|hook| hook.name == name).map(|hook| HookUse {
            device: hook.device.name.clone(),
            ifindex: hook.device.index,
            program_id: hook.program_id,
            attached_by: hook.attached_by,
        });
        let reason = used.is_none().then(|| why.to_owned());
        Self { name, used, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::fast_path::DeviceRef;

    #[test]
    fn every_hook_says_where_it_is_or_why_it_is_not() {
        let hook = |name, device: &str, index, attached_by| Hook {
            name,
            device: DeviceRef { index, name: device.to_owned() },
            program_id: 40 + index,
            attached_by,
        };
        let hooks = [
            hook("ingress", "eth0", 2, AttachedBy::Tcx),
            hook("gpe", "flannel0.gpe", 9, AttachedBy::Clsact),
        ];
        let stats: Vec<_> =
            HOOKS.iter().map(|name| HookStats::of(name, &hooks, "nobody sends")).collect();
        let expected = serde_json::json!([
            { "name": "egress", "reason": "nobody sends" },
            { "name": "ingress", "device": "eth0", "ifindex": 2, "program_id": 42,
              "attached_by": "tcx" },
            { "name": "gpe", "device": "flannel0.gpe", "ifindex": 9, "program_id": 49,
              "attached_by": "clsact" },
            { "name": "xdp", "reason": "nobody sends" },
        ]);
        assert_eq!(serde_json::to_value(stats).unwrap(), expected);
    }
}
