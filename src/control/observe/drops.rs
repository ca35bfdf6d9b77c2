//! What the workers dropped, as the tools show it.

use std::collections::BTreeMap;

use super::api::{DropRow, Drops, Offender};
use crate::control::node::status::Report;
use crate::dataplane::stats::direction::DirectionSnapshot;
use crate::dataplane::stats::drop_reason::DropReason;
use crate::dataplane::stats::offender;
use crate::dataplane::stats::worker::WorkerSnapshot;

/// The name of a drop that the kernel counts for a worker.
const OVERFLOW: &str = "queue_overflow";
const OVERFLOW_MEANING: &str = "A worker's receive queue in the kernel was full: datagrams came \
                                faster than the worker took them.";

/// Sums over all workers, the largest first.
pub(super) fn drops(report: &Report, at_millis: u64) -> Drops {
    let backend = &report.stats.backend;
    let workers = backend.dataplane.as_ref().map(|it| it.workers.as_slice());
    let mut drops = rows(workers.unwrap_or_default());
    drops.sort_by_key(|row| std::cmp::Reverse(row.count));
    Drops { at_millis, device: Some(backend.device.clone()), counted: workers.is_some(), drops }
}

fn rows(workers: &[WorkerSnapshot]) -> Vec<DropRow> {
    let mut rows: BTreeMap<(DropReasonOrder, &str), DropRow> = BTreeMap::new();
    for worker in workers {
        for (direction, way) in [("egress", &worker.egress), ("ingress", &worker.ingress)] {
            for (order, reason) in DropReason::ALL.iter().enumerate() {
                add(&mut rows, (order, direction), *reason, way);
            }
        }
    }
    let overflows = workers.iter().map(|worker| worker.queue_overflows).sum();
    let overflow = DropRow {
        reason: OVERFLOW.to_owned(),
        direction: "ingress".to_owned(),
        meaning: OVERFLOW_MEANING.to_owned(),
        count: overflows,
        last: None,
    };
    rows.into_values().chain((overflows > 0).then_some(overflow)).collect()
}

/// Its place in [`DropReason::ALL`].
type DropReasonOrder = usize;

fn add<'a>(
    rows: &mut BTreeMap<(DropReasonOrder, &'a str), DropRow>,
    (order, direction): (DropReasonOrder, &'a str),
    reason: DropReason,
    way: &DirectionSnapshot,
) {
    let count = way.drops.get(reason.name()).copied().unwrap_or_default();
    if count == 0 {
        return;
    }
    let row = rows.entry((order, direction)).or_insert_with(|| DropRow {
        reason: reason.name().to_owned(),
        direction: direction.to_owned(),
        meaning: reason.meaning().to_owned(),
        count: 0,
        last: None,
    });
    row.count += count;
    if let Some(last) = way.last_dropped.get(reason.name()) {
        row.last = Some(describe(last));
    }
}

fn describe(last: &offender::Offender) -> Offender {
    let has_header = !last.src.is_unspecified() || !last.dst.is_unspecified();
    Offender {
        source: has_header.then_some(last.src),
        destination: has_header.then_some(last.dst),
        protocol: last.protocol,
        source_port: last.ports.map(|(source, _)| source),
        destination_port: last.ports.map(|(_, destination)| destination),
        len: last.len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::packet::builder::PacketBuilder;
    use crate::dataplane::stats::worker::WorkerStats;

    #[test]
    fn rows_are_sums_of_all_workers_with_the_last_packet() {
        let (first, second) = (WorkerStats::default(), WorkerStats::default());
        let packet = PacketBuilder::udp("10.1.15.2:1000", "10.9.0.1:53").payload(&[0; 72]).build();
        first.egress.drop(DropReason::NoRoute, 2, &[], 0);
        second.egress.drop(DropReason::NoRoute, 3, &packet, packet.len());
        second.ingress.drop(DropReason::NoRoute, 1, &[0; 3], 3);
        second.queue_overflows.add(9);
        let rows = rows(&[first.snapshot(), second.snapshot()]);
        let counts: Vec<_> =
            rows.iter().map(|row| (&*row.reason, &*row.direction, row.count)).collect();
        let expected =
            [("no_route", "egress", 5), ("no_route", "ingress", 1), (OVERFLOW, "ingress", 9)];
        assert_eq!(counts, expected);
        let last = rows[0].last.as_ref().unwrap();
        assert_eq!((last.destination_port, last.len), (Some(53), 100));
        assert_eq!(rows[1].last.as_ref().unwrap().source, None, "it is no IPv4 packet");
    }
}
