//! What `/metrics` serves: a report in Prometheus' text format.
//!
//! Everything is read at a scrape; only [`TopPeers`] keeps state between two.
//! docs/metrics.md lists every metric; tests/health.rs compares it with a scrape.

mod exposition;
mod top_peers;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::UNIX_EPOCH;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;

use self::exposition::Exposition;
use self::top_peers::TopPeers;
use crate::control::backend::{FastPathStats, HookStats, PeerHealth};
use crate::control::host::firewall::RulesState;
use crate::control::node::status::Report;
use crate::control::subnet::conflict::ConflictKind;
use crate::control::util::build_info::{COMMIT, VERSION};
use crate::dataplane::fast_path::{FastCounters, FastDirection};
use crate::dataplane::stats::direction::DirectionSnapshot;
use crate::dataplane::stats::worker::WorkerSnapshot;

/// What must be remembered from one scrape to the next.
#[derive(Debug)]
pub(super) struct Metrics {
    peers: TopPeers,
    process: ProcessCollector,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { peers: TopPeers::default(), process: ProcessCollector::for_self() }
    }
}

impl Metrics {
    /// The metrics of the node that `report` is about, if there is one yet.
    pub(super) fn text(&mut self, is_ready: bool, report: Option<&Report>) -> String {
        let mut out = Exposition::default();
        out.gauge("flannel_build_info", "Always 1; the labels tell what runs.")
            .sample(&[("version", VERSION), ("commit", COMMIT.unwrap_or("unknown"))], 1.0);
        out.gauge("flannel_ready", "Whether /readyz answers with 200: 1 or 0.")
            .sample(&[], is_ready.into());
        if let Some(report) = report {
            node(&mut out, report);
            lease(&mut out, report);
            if let Some(dataplane) = &report.stats.backend.dataplane {
                let fast_path = report.stats.backend.fast_path.as_ref();
                workers(&mut out, &dataplane.workers, fast_path);
            }
            self.peers.read(&report.to_peers, &report.from_peers);
            peers(&mut out, &self.peers);
            health(&mut out, &self.peers, &report.stats.backend.peers);
        }
        out.extend(self.process.collect());
        out.into_text()
    }
}

fn node(out: &mut Exposition, report: &Report) {
    let mut checks = out.gauge("flannel_check_ok", "Whether a condition of /readyz holds: 1 or 0.");
    for (name, check) in &report.checks {
        checks.sample(&[("check", name)], check.ok.into());
    }
    out.gauge("flannel_warnings", "What /readyz warns of.")
        .sample(&[], report.warnings.len() as f64);
    let (stats, rules) = (&report.stats, &report.rules);
    out.gauge("flannel_peers", "Peers there is a route to.")
        .sample(&[], stats.backend.num_peers as f64);
    out.gauge("flannel_overlay_mtu_bytes", "Longest packet of the overlay.")
        .sample(&[], stats.mtu.into());
    let help = "Leases that contradict this node's own.";
    let mut conflicts = out.gauge("flannel_conflicts", help);
    for (kind, name) in ConflictKind::ALL {
        let num = stats.conflicts.iter().filter(|conflict| conflict.kind == kind).count();
        conflicts.sample(&[("kind", name)], num as f64);
    }
    let help = "Entries of the registry that do not read as leases; the log names each.";
    out.gauge("flannel_malformed_leases", help).sample(&[], report.num_malformed as f64);
    if let RulesState::InPlace { num_writes } | RulesState::Failed { num_writes, .. } = rules {
        let help = "Times that rules were written: at the start, and to repair them.";
        out.counter("flannel_rule_writes_total", help).sample(&[], *num_writes as f64);
    }
}

fn lease(out: &mut Exposition, report: &Report) {
    if let Some(expires) = report.lease_expires {
        let time = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        let help = "When this node's lease ends unless it is renewed; absent if it never does.";
        out.gauge("flannel_lease_expiry_timestamp_seconds", help)
            .sample(&[], time.as_secs_f64().round());
    }
    let help = "Times that this node's lease was renewed, or created again.";
    out.counter("flannel_lease_renewals_total", help).sample(&[], report.lease_renewals as f64);
    let help = "Times that the registry answered again after a silence.";
    out.counter("flannel_registry_reconnects_total", help)
        .sample(&[], report.registry_reconnects as f64);
}

/// One value of each direction of a worker: the metric's name, what it means, and where it is.
type OfDirection = (&'static str, &'static str, fn(&DirectionSnapshot) -> u64);

const OF_DIRECTION: [OfDirection; 4] = [
    ("flannel_packets_total", "Inner packets carried.", |way| way.packets),
    ("flannel_bytes_total", "Bytes of inner packets carried, headers included.", |way| way.bytes),
    ("flannel_reads_total", "System calls that brought packets in.", |way| way.reads),
    ("flannel_writes_total", "System calls that carried packets out.", |way| way.writes),
];

/// The same for the worker as a whole.
type OfWorker = (&'static str, &'static str, fn(&WorkerSnapshot) -> u64);

const OF_WORKER: [OfWorker; 13] = [
    (
        "flannel_queue_overflows_total",
        "Datagrams that the kernel dropped because a worker's receive queue was full.",
        |worker| worker.queue_overflows,
    ),
    ("flannel_ignored_ipv6_total", "The kernel's own IPv6 on the overlay device.", |worker| {
        worker.ignored_ipv6
    }),
    ("flannel_icmp_sent_total", "ICMP errors sent.", |worker| worker.icmp_sent),
    ("flannel_icmp_limited_total", "ICMP errors not sent: there were too many.", |worker| {
        worker.icmp_limited
    }),
    ("flannel_socket_errors_total", "Receive calls that failed.", |worker| worker.socket_errors),
    ("flannel_tun_errors_total", "Reads from the TUN that failed.", |worker| worker.tun_errors),
    ("flannel_underlay_errors_total", "ICMP errors that came back about datagrams.", |worker| {
        worker.underlay_errors
    }),
    ("flannel_pmtu_decreases_total", "Times that the path MTU of a peer went down.", |worker| {
        worker.pmtu_decreases
    }),
    (
        "flannel_paths_recovered_total",
        "Times that the path MTU of a peer went up again.",
        |worker| worker.paths_recovered,
    ),
    ("flannel_pmtu_refused_total", "Claims of a narrow path that were not believed.", |worker| {
        worker.pmtu_refused
    }),
    ("flannel_pmtu_probes_total", "Datagrams sent to see whether a path takes them.", |worker| {
        worker.pmtu_probes
    }),
    (
        "flannel_budget_exhausted_total",
        "Turns that used up their budget and left packets for the next turn.",
        |worker| worker.budget_exhausted,
    ),
    ("flannel_sleeps_total", "Times that a worker found nothing to do.", |worker| worker.polls),
];

/// What the kernel counted by itself of the same metrics; it makes no system calls.
fn by_kernel(name: &str, way: &FastDirection) -> Option<u64> {
    match name {
        "flannel_packets_total" => Some(way.packets),
        "flannel_bytes_total" => Some(way.bytes),
        _ => None,
    }
}

fn fast_path(out: &mut Exposition, fast_path: &FastPathStats) {
    out.gauge("flannel_fast_path_active", "Whether the kernel carries packets by itself: 1 or 0.")
        .sample(&[], fast_path.active.into());
    let help = "Whether a program of the fast path is attached: 1 or 0.";
    let mut hooks = out.gauge("flannel_fast_path_hook_attached", help);
    for HookStats { name, used, .. } in &fast_path.hooks {
        let place = used.as_ref().map(|it| (it.device.as_str(), it.attached_by.name()));
        let (device, by) = place.unwrap_or_default();
        let labels = [("hook", *name), ("device", device), ("attached_by", by)];
        hooks.sample(&labels, used.is_some().into());
    }
    let help = "Packets and superpackets that the fast path left to the workers.";
    let mut passed = out.counter("flannel_fast_path_passed_packets_total", help);
    let hooks = || {
        let xdp = ("xdp", &fast_path.counters.xdp);
        fast_directions(&fast_path.counters).into_iter().chain([xdp])
    };
    for (hook, way) in hooks() {
        for (reason, num) in &way.passed {
            passed.sample(&[("direction", hook), ("reason", reason)], *num as f64);
        }
    }
    let help = "Packets that the fast path could not finish.";
    let mut dropped = out.counter("flannel_fast_path_dropped_packets_total", help);
    for (hook, way) in hooks() {
        dropped.sample(&[("direction", hook)], way.dropped as f64);
    }
    let FastCounters { xdp, merged, .. } = &fast_path.counters;
    let help = "Packets from which XDP removed the outer headers; path=\"kernel\" counts them too.";
    out.counter("flannel_fast_path_xdp_packets_total", help).sample(&[], xdp.packets as f64);
    let help = "Superpackets that GRO made of what XDP or the decapsulating device took.";
    out.counter("flannel_fast_path_merged_superpackets_total", help).sample(&[], *merged as f64);
}

const fn fast_directions(counters: &FastCounters) -> [(&'static str, &FastDirection); 2] {
    [("egress", &counters.egress), ("ingress", &counters.ingress)]
}

fn workers(out: &mut Exposition, workers: &[WorkerSnapshot], kernel: Option<&FastPathStats>) {
    let numbered = || workers.iter().enumerate().map(|(number, w)| (number.to_string(), w));
    for (name, help, value) in OF_DIRECTION {
        let mut family = out.counter(name, help);
        for (number, worker) in numbered() {
            for (direction, way) in directions(worker) {
                let labels =
                    [("path", "worker"), ("worker", number.as_str()), ("direction", direction)];
                family.sample(&labels, value(way) as f64);
            }
        }
        for (direction, way) in kernel.iter().flat_map(|kernel| fast_directions(&kernel.counters)) {
            if let Some(value) = by_kernel(name, way) {
                family.sample(&[("path", "kernel"), ("direction", direction)], value as f64);
            }
        }
    }
    if let Some(kernel) = kernel {
        fast_path(out, kernel);
    }
    let mut drops = out.counter("flannel_dropped_packets_total", "Packets that ended here.");
    for (number, worker) in numbered() {
        for (direction, way) in directions(worker) {
            for (reason, num) in &way.drops {
                let labels = [("worker", &*number), ("direction", direction), ("reason", reason)];
                drops.sample(&labels, *num as f64);
            }
        }
    }
    for (name, help, value) in OF_WORKER {
        let mut family = out.counter(name, help);
        for (number, worker) in numbered() {
            family.sample(&[("worker", &number)], value(worker) as f64);
        }
    }
    let mut offloads = out.gauge("flannel_offload_in_use", "Whether an offload is used: 1 or 0.");
    for (number, worker) in numbered() {
        for offload in ["tso", "uso", "gso", "gro"] {
            let in_use = worker.offloads.split(',').any(|name| name == offload);
            offloads.sample(&[("worker", &number), ("offload", offload)], in_use.into());
        }
    }
}

const fn directions(worker: &WorkerSnapshot) -> [(&'static str, &DirectionSnapshot); 2] {
    [("egress", &worker.egress), ("ingress", &worker.ingress)]
}

/// How the peers are that have a name, and how many are silent.
fn health(out: &mut Exposition, top: &TopPeers, peers: &[PeerHealth]) {
    if peers.is_empty() {
        return;
    }
    let num_silent = peers.iter().filter(|peer| peer.problem.is_some()).count();
    out.gauge("flannel_peers_silent", "Peers that packets go to and that do not answer.")
        .sample(&[], num_silent as f64);
    let named: BTreeSet<Ipv4Addr> = top.named().map(|(ip, _)| ip).collect();
    let named = || peers.iter().filter(|peer| named.contains(&peer.public_ip));
    let help = "Seconds since a packet came from a peer; absent if none has.";
    let mut heard = out.gauge("flannel_peer_last_heard_seconds", help);
    for peer in named() {
        if let Some(seconds) = peer.last_heard_seconds {
            heard.sample(&[("peer", &peer.public_ip.to_string())], seconds as f64);
        }
    }
    let mut mtus = out.gauge("flannel_peer_path_mtu_bytes", "Longest packet that the path takes.");
    for peer in named() {
        mtus.sample(&[("peer", &peer.public_ip.to_string())], peer.path_mtu.into());
    }
}

fn peers(out: &mut Exposition, peers: &TopPeers) {
    let named = peers.named().map(|(ip, both_ways)| (ip.to_string(), both_ways));
    let all: Vec<_> = named.chain([("other".to_owned(), peers.other())]).collect();
    for (name, help, is_bytes) in [
        ("flannel_peer_packets_total", "Inner packets carried to a peer, or from it.", false),
        ("flannel_peer_bytes_total", "Bytes of inner packets carried to a peer, or from it.", true),
    ] {
        let mut family = out.counter(name, help);
        for (peer, both_ways) in &all {
            for (direction, carried) in ["egress", "ingress"].into_iter().zip(both_ways) {
                let value = if is_bytes { carried.bytes } else { carried.packets };
                family.sample(&[("peer", peer), ("direction", direction)], value as f64);
            }
        }
    }
}
