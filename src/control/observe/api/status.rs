//! [`Status`]: the daemon, its node, and the host as far as the overlay needs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use super::Peer;

/// The answer to [`paths::STATUS`](super::paths::STATUS).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `twill`.
    pub product: String,
    pub version: String,
    /// Of the source, if the build knew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// Milliseconds of the daemon's clock, for rates from two answers.
    pub at_millis: u64,
    /// Whether `/readyz` answers with 200.
    pub ready: bool,
    /// What the daemon waits for, while it has no node; all that follows is absent then, except for
    /// checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Underlay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    /// Bridges of containers: those that have addresses of our subnet or the usual names.
    #[serde(default)]
    pub bridges: Vec<Bridge>,
    /// The conditions of `/readyz`, by name.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckResult>,
    /// What is not as it should be though the node is ready, in plain words, by what it is about.
    #[serde(default)]
    pub warnings: BTreeMap<String, String>,
    /// One for each lease of another node, by subnet.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// Where leases are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// What it is and where.
    pub name: String,
    /// Whether it answered when it was last asked.
    pub answers: bool,
    /// How long its last answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_micros: Option<u64>,
}

/// This node's lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The overlay.
    pub network: Ipv4Network,
    /// This node's part of it.
    pub subnet: Ipv4Network,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<Ipv6Network>,
    pub public_ip: Ipv4Addr,
    /// When it ends unless it is renewed, in RFC 3339; absent if it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// The interface that outer packets leave by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Underlay {
    pub interface: String,
    pub mtu: u32,
    pub address: IpAddr,
}

/// The overlay device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    /// Of the overlay, in bytes.
    pub mtu: u16,
}

/// What carries the packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataPath {
    /// `udp`, `vxlan`, `host-gw` and so on.
    pub backend: String,
    /// `workers` if packets pass through this process, `kernel` if they do not.
    pub carried_by: String,
    /// How many workers there are; 0 if the kernel forwards.
    pub workers: usize,
    /// Offloads that every worker uses, by name.
    #[serde(default)]
    pub offloads: Vec<String>,
    /// The fast path, if the backend has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_path: Option<FastPath>,
}

/// Whether the kernel carries packets by itself, past the workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPath {
    pub active: bool,
    /// What it carries: `TCP` or `sparse TCP`, `ICMP`, `sparse UDP`.
    #[serde(default)]
    pub carries: Vec<String>,
    /// Why it does not carry all that it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where its programs are attached.
    #[serde(default)]
    pub hooks: Vec<FastPathHook>,
}

/// A program of the fast path in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathHook {
    /// `egress`, `ingress`, `gpe` or `xdp`.
    pub name: String,
    pub device: String,
    pub ifindex: u32,
    pub program_id: u32,
    /// `tcx`, `clsact` or `xdp`.
    pub attached_by: String,
}

/// The rules of the host's firewall that are ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// `iptables` or `nftables`.
    pub tool: String,
    /// Which rules are asked for: `forward`, `masquerade`.
    pub wanted: Vec<String>,
    pub in_place: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A bridge that containers are on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bridge {
    pub name: String,
    pub mtu: u32,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Network>,
    /// Why pods on it do not reach the overlay, or lose long packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Whether it holds.
    pub ok: bool,
    /// Whether the node is ready only while it holds.
    pub required: bool,
    /// Why not, or what is special about it: one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it does, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
}
