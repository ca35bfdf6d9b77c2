//! What the tools get to know of the node: [`Report`]s as the types of [`api`](super::api).

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::api::{
    Bridge, CheckResult, DataPath, Device, FastPath, FastPathHook, Lease, Peer, PeerKind, Registry,
    Rules, Status, Traffic, readiness,
};
use super::without_report;
use crate::control::backend::{FastPathStats, HookStats};
use crate::control::host::findings::BridgeFacts;
use crate::control::host::firewall::{RuleTool, RulesState};
use crate::control::host::net::LinkAddr;
use crate::control::node::status::{Check, NoReport, PeerLease, Report};
use crate::control::util::{build_info, time_text};
use crate::dataplane::stats::peers::PeerCount;

/// The status of a daemon that has run for `uptime`.
pub(super) fn status(report: Result<Report, NoReport>, uptime: Duration) -> Status {
    let status = Status {
        product: "twill".to_owned(),
        version: build_info::VERSION.to_owned(),
        commit: build_info::COMMIT.map(str::to_owned),
        pid: std::process::id(),
        uptime_seconds: uptime.as_secs(),
        at_millis: millis(uptime),
        ..Status::default()
    };
    match report {
        Ok(report) => of_node(status, &report),
        Err(reason) => {
            let phase = match reason {
                NoReport::NoNode(phase) => phase.to_owned(),
                NoReport::Silence => "the node's loop does not answer".to_owned(),
            };
            Status { phase: Some(phase), checks: results(&without_report(reason)), ..status }
        }
    }
}

/// Of the daemon's clock.
pub(super) fn millis(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}

fn of_node(status: Status, report: &Report) -> Status {
    let stats = &report.stats;
    Status {
        ready: readiness::of(&report.checks, &report.warnings).0,
        registry: Some(Registry {
            name: report.facts.registry.clone(),
            answers: report.facts.is_reachable,
            latency_micros: report
                .facts
                .latency
                .map(|it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX)),
        }),
        lease: Some(Lease {
            network: stats.network,
            subnet: stats.subnet,
            ipv6_subnet: report.facts.ipv6_subnet,
            public_ip: stats.public_ip,
            expires: report.lease_expires.map(time_text::utc),
        }),
        device: Some(Device { name: stats.backend.device.clone(), mtu: stats.mtu }),
        data_path: Some(data_path(report)),
        rules: Some(rules(report)),
        checks: results(&report.checks),
        bridges: report.facts.host.bridges.iter().map(bridge).collect(),
        warnings: warnings(report),
        peers: peers(report),
        ..status
    }
}

/// The problem of a bridge is shown with the bridge.
fn warnings(report: &Report) -> BTreeMap<String, String> {
    let others = report.warnings.iter().filter(|(name, _)| **name != "bridge");
    others.map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
}

fn bridge(facts: &BridgeFacts) -> Bridge {
    let BridgeFacts { name, mtu, addrs, problem } = facts;
    let range = |own: &LinkAddr| format!("{}/{}", own.addr, own.prefix_len).parse().ok();
    let addresses = addrs.iter().filter_map(range).collect();
    Bridge { name: name.clone(), mtu: *mtu, addresses, problem: problem.clone() }
}

fn results(checks: &BTreeMap<&'static str, Check>) -> BTreeMap<String, CheckResult> {
    let result = |check: &Check| CheckResult {
        ok: check.ok,
        required: check.required,
        reason: check.reason.clone(),
        valid_until: check.valid_until.clone(),
    };
    checks.iter().map(|(name, check)| ((*name).to_owned(), result(check))).collect()
}

fn data_path(report: &Report) -> DataPath {
    let workers = report.stats.backend.dataplane.as_ref().map(|it| it.workers.as_slice());
    let offloads = workers.unwrap_or_default().first().map(|worker| worker.offloads.as_str());
    let offloads = offloads.filter(|names| *names != "off").unwrap_or_default();
    let fast_path = report.stats.backend.fast_path.as_ref();
    DataPath {
        fast_path: fast_path.map(of_fast_path),
        backend: report.facts.backend.clone(),
        carried_by: if workers.is_some() { "workers" } else { "kernel" }.to_owned(),
        workers: workers.map_or(0, <[_]>::len),
        offloads: offloads.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}

fn of_fast_path(stats: &FastPathStats) -> FastPath {
    let hook = |hook: &HookStats| {
        hook.used.as_ref().map(|used| FastPathHook {
            name: hook.name.to_owned(),
            device: used.device.clone(),
            ifindex: used.ifindex,
            program_id: used.program_id,
            attached_by: used.attached_by.name().to_owned(),
        })
    };
    FastPath {
        active: stats.active,
        carries: stats.carries.iter().map(|what| (*what).to_owned()).collect(),
        reason: stats.reason.clone(),
        hooks: stats.hooks.iter().filter_map(hook).collect(),
    }
}

fn rules(report: &Report) -> Rules {
    let (in_place, problem) = match &report.rules {
        RulesState::NotWanted | RulesState::InPlace { .. } => (true, None),
        RulesState::Pending => (false, None),
        RulesState::Failed { reason, .. } => (false, Some(reason.clone())),
    };
    let tool = match report.facts.rule_tool {
        RuleTool::Iptables => "iptables",
        RuleTool::Nftables => "nftables",
    };
    let firewall = report.facts.firewall;
    let kinds = [(firewall.forward_rules, "forward"), (firewall.ip_masq, "masquerade")];
    let wanted = kinds.into_iter().filter(|(is_wanted, _)| *is_wanted);
    Rules {
        tool: tool.to_owned(),
        wanted: wanted.map(|(_, kind)| kind.to_owned()).collect(),
        in_place,
        problem,
    }
}

/// The peers, by subnet.
pub(super) fn peers(report: &Report) -> Vec<Peer> {
    let counts = report.stats.backend.dataplane.is_some();
    let (sent, received) = (by_peer(&report.to_peers), by_peer(&report.from_peers));
    let traffic = |all: &HashMap<Ipv4Addr, Traffic>, ip: Ipv4Addr| {
        counts.then(|| all.get(&ip).copied().unwrap_or_default())
    };
    let dataplane = report.stats.backend.dataplane.as_ref();
    let narrow = dataplane.iter().flat_map(|it| &it.narrow_paths).map(|path| (path.peer, path.mtu));
    let narrow: HashMap<Ipv4Addr, u16> = narrow.collect();
    let health = &report.stats.backend.peers;
    let health: HashMap<_, _> = health.iter().map(|peer| (peer.public_ip, peer)).collect();
    let peer = |lease: &PeerLease| Peer {
        public_ip: lease.public_ip,
        subnet: lease.subnet,
        public_ipv6: lease.public_ipv6,
        ipv6_subnet: lease.ipv6_subnet,
        kind: kind(lease, &report.facts.backend),
        backend: lease.backend.clone(),
        last_heard_seconds: health.get(&lease.public_ip).and_then(|it| it.last_heard_seconds),
        sent: traffic(&sent, lease.public_ip),
        received: traffic(&received, lease.public_ip),
        path_mtu: narrow.get(&lease.public_ip).copied(),
        problem: health.get(&lease.public_ip).and_then(|it| it.problem.clone()),
    };
    report.facts.peers.values().map(peer).collect()
}

fn kind(lease: &PeerLease, ours: &str) -> PeerKind {
    if !lease.backend.eq_ignore_ascii_case(ours) {
        PeerKind::OtherBackend
    } else if lease.is_twill {
        PeerKind::Twill
    } else if ours == "udp" {
        PeerKind::Stock
    } else {
        PeerKind::Unknown
    }
}

fn by_peer(counts: &[PeerCount]) -> HashMap<Ipv4Addr, Traffic> {
    let mut sums: HashMap<Ipv4Addr, Traffic> = HashMap::new();
    for count in counts {
        let sum = sums.entry(count.peer).or_default();
        sum.packets += count.packets;
        sum.bytes += count.bytes;
    }
    sums
}
