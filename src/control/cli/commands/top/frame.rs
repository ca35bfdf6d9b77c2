//! A frame of `flanneld top` as text.

use super::rates::{TopRates, WorkerRates};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::table::{Align, Table};
use crate::control::cli::term::{WIDTH, units, wrap};
use crate::control::observe::api::Status;

/// The room for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Default for Size {
    /// For a reader with as many lines as needed.
    fn default() -> Self {
        Self { columns: WIDTH, rows: usize::MAX }
    }
}

/// Workers, then what is dropped, then as many peers as there is room for, the busiest first.
pub(super) fn frame(status: &Status, rates: &TopRates, size: Size, paint: Paint) -> String {
    let mut text = head(status);
    if !rates.workers.is_empty() {
        text += &workers(rates, size, paint);
        text.push('\n');
    }
    for drop in &rates.drops {
        let rate = units::scaled(drop.packets_per_second, "");
        let line = format!("dropped {rate} packets/s: {}, {}", drop.reason, drop.direction);
        for line in wrap(&line, size.columns) {
            text += &paint.yellow(&line);
            text.push('\n');
        }
    }
    let rows = size.rows.saturating_sub(text.lines().count());
    text + &peers(rates, Size { rows, ..size }, paint)
}

/// The frame while the daemon gives no answer.
pub(super) fn away(problem: &str, size: Size, paint: Paint) -> String {
    let lines = wrap(problem, size.columns).into_iter().map(|line| paint.red(&line) + "\n");
    lines.collect::<String>() + "\nwaiting for it\n"
}

fn head(status: &Status) -> String {
    let Status { product, version, .. } = status;
    let node = match (&status.lease, &status.device, &status.phase) {
        (Some(lease), Some(device), _) => format!("{} on {}", lease.subnet, device.name),
        (_, _, Some(phase)) => format!("not ready: {phase}"),
        (_, _, None) => "not ready".to_owned(),
    };
    let fast_path = status.data_path.as_ref().and_then(|path| path.fast_path.as_ref());
    let fast_path = match fast_path {
        Some(fast_path) if fast_path.active => "fast path: the kernel carries packets\n",
        Some(_) | None => "",
    };
    format!("{product} {version}, {node}\n{fast_path}\n")
}

fn workers(rates: &TopRates, size: Size, paint: Paint) -> String {
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
    ])
    .with_optional(&[4, 7, 3, 6, 8]);
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
    table.render_within(size.columns, paint)
}

fn peers(rates: &TopRates, size: Size, paint: Paint) -> String {
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
    ])
    .with_optional(&[3, 5, 1]);
    // One line is the head.
    let (mut room, mut num_left_out) = (size.rows.saturating_sub(1), rates.peers.len());
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
        let width = size.columns.saturating_sub(4);
        let problem = peer.problem.iter().flat_map(|problem| wrap(problem, width));
        let notes: Vec<String> = problem.map(|line| paint.red(&format!("    {line}"))).collect();
        // The line about those that are left out needs room, too.
        if 1 + notes.len() + usize::from(num_left_out > 1) > room {
            break;
        }
        room -= 1 + notes.len();
        num_left_out -= 1;
        table.row(cells, notes);
    }
    let mut text = table.render_within(size.columns, paint);
    if num_left_out > 0 {
        text += &format!("and {num_left_out} more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::reading;
    use super::*;
    use crate::control::cli::commands::peer_table::tests::peer;

    fn busy(num_peers: u8) -> TopRates {
        let (mut before, mut now) = (reading(1000, 0), reading(1500, 4_444_444_444));
        for reading in [&mut before, &mut now] {
            reading.peers.peers.extend((3..=num_peers).map(|number| peer(number, 0)));
        }
        let mut rates = TopRates::new(&before, &now);
        rates.workers[0].ingress = rates.workers[0].egress;
        rates
    }

    #[test]
    fn frame_fits_a_terminal_of_80_columns() {
        let text = frame(&Status::default(), &busy(2), Size::default(), Paint::off());
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.contains("\n0       25 %     71.1 T  8.89 G"), "{text}");
        assert!(text.contains("\n192.168.100.2  10.244.2.0/24"), "{text}");
    }

    #[test]
    fn narrow_terminal_shows_rates_without_the_rest() {
        let size = Size { columns: 40, rows: 24 };
        let text = frame(&Status::default(), &busy(2), size, Paint::off());
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
        assert!(text.contains("\n0       25 %     71.1 T    71.1 T\n"), "{text}");
        assert!(text.contains("\n192.168.100.2     71.1 T"), "{text}");
    }

    #[test]
    fn peers_take_the_rows_that_are_left_and_the_others_are_counted() {
        let mut rates = busy(200);
        rates.peers[1].problem = Some("silent ".repeat(12));
        for rows in 0..40 {
            let size = Size { columns: 80, rows };
            let text = frame(&Status::default(), &rates, size, Paint::off());
            assert!(text.lines().count() <= rows.max(7), "{rows}: {text}");
        }
        let size = Size { columns: 80, rows: 12 };
        let text = frame(&Status::default(), &rates, size, Paint::off());
        assert!(text.ends_with("\nand 197 more\n"), "{text}");
        let away = away(&"nobody listens ".repeat(9), size, Paint::off());
        assert!(away.lines().all(|line| line.len() <= 80), "{away}");
    }
}
