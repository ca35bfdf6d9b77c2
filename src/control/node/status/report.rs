//! [`Report`]: a snapshot of the node's status.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::Serialize;

use super::PeerLeases;
use crate::control::backend::BackendStats;
use crate::control::host::findings::HostFindings;
use crate::control::host::firewall::{FirewallConfig, RuleTool, RulesState};
use crate::control::subnet::conflict::Conflict;
use crate::dataplane::stats::peers::PeerCount;

/// A snapshot of the node's status.
#[derive(Debug)]
pub struct Report {
    /// What `/stats` serves.
    pub(in crate::control) stats: Stats,
    /// What `/readyz` serves, by name.
    pub(in crate::control) checks: BTreeMap<&'static str, Check>,
    /// Warnings in `/readyz`: problems that leave the node ready.
    pub(in crate::control) warnings: BTreeMap<&'static str, String>,
    /// When our lease ends unless it is renewed; `None` for a reservation, which never does.
    pub(in crate::control) lease_expires: Option<SystemTime>,
    /// Times that our lease was renewed, or created again.
    pub(in crate::control) lease_renewals: u64,
    /// Times that the registry answered again after a silence.
    pub(in crate::control) registry_reconnects: u64,
    /// Entries of the registry that do not read as leases.
    pub(in crate::control) num_malformed: usize,
    /// The host's rules.
    pub(in crate::control) rules: RulesState,
    /// What the tools show as well.
    pub(in crate::control) facts: NodeFacts,
    /// What each worker carried to each peer.
    pub(in crate::control) to_peers: Vec<PeerCount>,
    /// What each worker took in from each peer.
    pub(in crate::control) from_peers: Vec<PeerCount>,
}

/// What a node is set up for, and who its peers are.
#[derive(Debug)]
pub(in crate::control) struct NodeFacts {
    /// The name of our backend.
    pub(in crate::control) backend: String,
    /// The lease source, and where it is.
    pub(in crate::control) registry: String,
    /// Whether it answered when it was last asked, and how long that took if it was asked for this.
    pub(in crate::control) is_reachable: bool,
    pub(in crate::control) latency: Option<Duration>,
    /// The name of the interface that outer packets leave by.
    pub(in crate::control) interface: String,
    /// Our IPv6 subnet, on a dual-stack network.
    pub(in crate::control) ipv6_subnet: Option<Ipv6Network>,
    /// What the rules are written with.
    pub(in crate::control) rule_tool: RuleTool,
    /// Which rules are asked for.
    pub(in crate::control) firewall: FirewallConfig,
    /// The other nodes.
    pub(in crate::control) peers: PeerLeases,
    /// Faults of this host, and its bridges.
    pub(in crate::control) host: HostFindings,
}

/// The state of the data plane, and this node's identity in its lease.
#[derive(Debug, Serialize)]
pub(in crate::control) struct Stats {
    pub(in crate::control) network: Ipv4Network,
    pub(in crate::control) subnet: Ipv4Network,
    pub(in crate::control) public_ip: Ipv4Addr,
    pub(in crate::control) conflicts: Vec<Conflict>,
    pub(in crate::control) mtu: u16,
    #[serde(flatten)]
    pub(in crate::control) backend: BackendStats,
}

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::control) struct Check {
    /// Whether it holds.
    pub(in crate::control) ok: bool,
    /// Whether a node without it is not ready. Shown only where it is not so.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub(in crate::control) required: bool,
    /// Why not, or what is special about it: one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::control) reason: Option<String>,
    /// Until when it does, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::control) valid_until: Option<String>,
}

impl Check {
    /// It holds.
    pub(in crate::control) const fn holds() -> Self {
        Self { ok: true, required: true, reason: None, valid_until: None }
    }

    /// It holds until `time`, which is RFC 3339.
    pub(in crate::control) const fn holds_until(time: String) -> Self {
        Self { ok: true, required: true, reason: None, valid_until: Some(time) }
    }

    /// It does not hold, for `reason`.
    pub(in crate::control) fn fails(reason: impl Into<String>) -> Self {
        Self { ok: false, required: true, reason: Some(reason.into()), valid_until: None }
    }

    /// The same, with a word on it.
    pub(in crate::control) fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    /// The same, but a node without it is ready all the same.
    pub(in crate::control) fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// Whether it keeps the node from being ready.
    pub(in crate::control) fn blocks(&self) -> bool {
        self.required && !self.ok
    }
}
