//! A frame of `flanneld top` as text.

use super::rates::{TopRates, WorkerRates};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::table::{Align, Table};
use crate::control::cli::term::{WIDTH, units, wrap};
use crate::control::observe::api::Status;

/// Workers, then what is dropped, then as many peers as there are, the busiest first.
pub(super) fn frame(status: &Status, rates: &TopRates, paint: Paint) -> String {
    let mut text = head(status);
    if !rates.workers.is_empty() {
        text += &workers(rates, paint);
        text.push('\n');
    }
    for drop in &rates.drops {
        let rate = units::scaled(drop.packets_per_second, "");
        let line = format!("dropped {rate} packets/s: {}, {}", drop.reason, drop.direction);
        text += &paint.yellow(&line);
        text.push('\n');
    }
    text + &peers(rates, paint)
}

fn head(status: &Status) -> String {
    let Status { product, version, .. } = status;
    let node = match (&status.lease, &status.device, &status.phase) {
        (Some(lease), Some(device), _) => format!("{} on {}", lease.subnet, device.name),
        (_, _, Some(phase)) => format!("not ready: {phase}"),
        (_, _, None) => "not ready".to_owned(),
    };
    format!("{product} {version}, {node}\n\n")
}

fn workers(rates: &TopRates, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("WORKER", Align::Left),
        ("CPU", Align::Right),
        ("OUT BIT/S", Align::Right),
        ("PKT/S", Align::Right),
        ("BATCH", Align::Right),
        ("IN BIT/S", Align::Right),
        ("PKT/S", Align::Right),
        ("BATCH", Align::Right),
        ("DROPS/S", Align::Right),
    ]);
    for worker in &rates.workers {
        let WorkerRates { egress, ingress, .. } = worker;
        let number = |value| units::scaled(value, "");
        let drops = egress.drops_per_second + ingress.drops_per_second;
        let cells = vec![
            worker.number.to_string(),
            worker.cpu_percent.map_or("-".to_owned(), |percent| format!("{percent:.0} %")),
            number(egress.bits_per_second),
            number(egress.packets_per_second),
            number(egress.batch),
            number(ingress.bits_per_second),
            number(ingress.packets_per_second),
            number(ingress.batch),
            number(drops),
        ];
        table.row(cells, Vec::new());
    }
    table.render(paint)
}

fn peers(rates: &TopRates, paint: Paint) -> String {
    if rates.peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let mut table = Table::new(&[
        ("PEER", Align::Left),
        ("SUBNET", Align::Left),
        ("OUT BIT/S", Align::Right),
        ("PKT/S", Align::Right),
        ("IN BIT/S", Align::Right),
        ("PKT/S", Align::Right),
    ]);
    for peer in &rates.peers {
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| units::scaled(value, ""));
        let cells = vec![
            peer.public_ip.to_string(),
            peer.subnet.to_string(),
            number(peer.sent_bits_per_second),
            number(peer.sent_packets_per_second),
            number(peer.received_bits_per_second),
            number(peer.received_packets_per_second),
        ];
        let problem = peer.problem.iter().flat_map(|problem| wrap(problem, WIDTH - 4));
        let notes = problem.map(|line| paint.red(&format!("    {line}"))).collect();
        table.row(cells, notes);
    }
    table.render(paint)
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::reading;
    use super::*;

    #[test]
    fn frame_fits_a_terminal_of_80_columns() {
        let mut rates = TopRates::new(&reading(1000, 0), &reading(1500, 4_444_444_444));
        rates.workers[0].ingress = rates.workers[0].egress;
        let text = frame(&Status::default(), &rates, Paint::off());
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.contains("\n0       25 %     71.1 T  8.89 G"), "{text}");
        assert!(text.contains("\n192.168.100.2  10.244.2.0/24"), "{text}");
    }
}
