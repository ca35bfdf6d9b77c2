//! What each worker has done, as the tools show it.

use std::collections::HashMap;

use procfs::process::Process;

use super::api::{Way, Worker, Workers};
use crate::control::node::status::Report;
use crate::dataplane::stats::direction::DirectionSnapshot;

/// What the names of the workers' threads begin with; the number follows.
const THREAD: &str = "flannel-w";

pub(super) fn workers(report: &Report, at_millis: u64) -> Workers {
    let cpu = cpu_millis();
    let workers = report.stats.backend.dataplane.iter().flat_map(|it| &it.workers);
    let worker = |(number, it): (usize, &crate::dataplane::stats::worker::WorkerSnapshot)| Worker {
        number,
        cpu_millis: cpu.get(&number).copied(),
        egress: way(&it.egress),
        ingress: way(&it.ingress),
        queue_overflows: it.queue_overflows,
        sleeps: it.polls,
    };
    Workers { at_millis, workers: workers.enumerate().map(worker).collect() }
}

fn way(way: &DirectionSnapshot) -> Way {
    Way {
        packets: way.packets,
        bytes: way.bytes,
        reads: way.reads,
        writes: way.writes,
        drops: way.drops.values().sum(),
    }
}

/// What each worker's thread has used so far, as proc_pid_stat(5) counts it.
fn cpu_millis() -> HashMap<usize, u64> {
    let tasks = Process::myself().and_then(|process| process.tasks());
    let stats = tasks.into_iter().flatten().filter_map(|task| task.ok()?.stat().ok());
    let millis = |ticks: u64| ticks * 1000 / procfs::ticks_per_second().max(1);
    stats
        .filter_map(|stat| {
            let number = stat.comm.strip_prefix(THREAD)?.parse().ok()?;
            Some((number, millis(stat.utime + stat.stime)))
        })
        .collect()
}
