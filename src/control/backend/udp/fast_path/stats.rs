//! [`FastPathStats`]: what `/stats` says of the fast path.

use serde::Serialize;

use crate::dataplane::fast_path::{AttachedBy, FastCounters, FastPath, HOOKS, Hook};

/// Whether the kernel carries packets by itself, and by which programs.
#[derive(Debug, Clone, Serialize)]
pub struct FastPathStats {
    /// Whether it does.
    pub active: bool,
    /// Why it does not, and what would change that.
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
    /// Of `path`, which does not run for `reason` if there is one.
    pub(in crate::control::backend::udp) fn of(path: &FastPath, reason: Option<String>) -> Self {
        let hooks = path.hooks();
        let is_active = path.config().is_some() && reason.is_none();
        let stats = |name| {
            let why = match (name, reason.as_deref()) {
                (_, Some(reason)) => reason,
                (_, None) if !is_active => "the fast path has not begun yet",
                ("gpe", None) => "XDP takes the outer headers: no superpackets arrive with them",
                (_, None) => "it takes --fast-path=xdp and a driver that has XDP",
            };
            HookStats::of(name, &hooks, why)
        };
        Self {
            active: is_active,
            hooks: HOOKS.into_iter().map(stats).collect(),
            reason,
            counters: path.counters(),
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
