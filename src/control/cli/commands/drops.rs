//! `flanneld drops`: why packets ended here.

use std::collections::HashMap;

use clap::Args;

use super::peer_table::PAUSE;
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::table::{Align, Table};
use crate::control::cli::term::{WIDTH, print, print_json, units, wrap};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::observe::api::{DropRow, Drops, Offender, paths};

/// Flags of `flanneld drops`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct DropsArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
}

impl DropsArgs {
    pub(in crate::control::cli) async fn run(&self, client: &Client) -> Result<Exit, ToolError> {
        let before: Drops = client.get(paths::DROPS).await?;
        tokio::time::sleep(PAUSE).await;
        let now: Drops = client.get(paths::DROPS).await?;
        let rates = Rates::new(&before, &now);
        if self.ask.json {
            print_json(&now)?;
        } else {
            print(&describe(&now, &rates, Paint::stdout()))?;
        }
        let is_well = now.device.is_some() && now.drops.iter().all(|row| rates.of(row) == 0.0);
        Ok(if is_well { Exit::Well } else { Exit::Degraded })
    }
}

/// Drops a second between two readings.
pub(super) struct Rates<'a> {
    before: HashMap<(&'a str, &'a str), u64>,
    seconds: f64,
}

impl<'a> Rates<'a> {
    pub(super) fn new(before: &'a Drops, now: &Drops) -> Self {
        let rows = before.drops.iter();
        Self {
            before: rows.map(|row| ((&*row.reason, &*row.direction), row.count)).collect(),
            seconds: now.at_millis.saturating_sub(before.at_millis).max(1) as f64 / 1000.0,
        }
    }

    pub(super) fn of(&self, row: &DropRow) -> f64 {
        let before = self.before.get(&(&*row.reason, &*row.direction)).copied();
        // A count that is less than before restarted at zero.
        let new = row.count.checked_sub(before.unwrap_or_default()).unwrap_or(row.count);
        new as f64 / self.seconds
    }
}

fn describe(drops: &Drops, rates: &Rates<'_>, paint: Paint) -> String {
    let Some(device) = &drops.device else {
        return "no packets yet: flanneld has no lease (flanneld status)\n".to_owned();
    };
    if !drops.counted {
        return format!(
            "packets of this backend do not pass through flanneld: `ip -s link show {device}`\n\
             and `nstat -az` show what the kernel drops\n"
        );
    }
    if drops.drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut table = Table::new(&[
        ("REASON", Align::Left),
        ("DIRECTION", Align::Left),
        ("PACKETS", Align::Right),
        ("NOW/S", Align::Right),
    ]);
    for row in &drops.drops {
        let rate = rates.of(row);
        let cells = vec![
            row.reason.clone(),
            row.direction.clone(),
            row.count.to_string(),
            units::scaled(rate, ""),
        ];
        let meaning = wrap(&row.meaning, WIDTH - INDENT.len());
        let last = row.last.as_ref().map(|last| format!("last: {}", offender(last)));
        let notes = meaning.into_iter().chain(last).map(|line| format!("{INDENT}{line}"));
        let notes = notes.map(|line| if rate > 0.0 { paint.yellow(&line) } else { line });
        table.row(cells, notes.collect());
    }
    table.render(paint)
}

const INDENT: &str = "    ";

/// `10.1.15.2:1000 > 10.9.0.1:53, UDP, 100 bytes`.
fn offender(last: &Offender) -> String {
    let (Some(source), Some(destination)) = (last.source, last.destination) else {
        return format!("no IPv4 packet, {} bytes", last.len);
    };
    let end = |addr, port: Option<u16>| match port {
        Some(port) => format!("{addr}:{port}"),
        None => format!("{addr}"),
    };
    let (source, destination) =
        (end(source, last.source_port), end(destination, last.destination_port));
    let protocol = match last.protocol {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        number => format!("protocol {number}"),
    };
    format!("{source} > {destination}, {protocol}, {} bytes", last.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(at_millis: u64, count: u64) -> Drops {
        let last = Offender {
            source: Some("10.1.15.2".parse().unwrap()),
            destination: Some("10.9.0.1".parse().unwrap()),
            protocol: 17,
            source_port: Some(1000),
            destination_port: Some(53),
            len: 100,
        };
        let row = DropRow {
            reason: "no_route".to_owned(),
            direction: "egress".to_owned(),
            meaning: "No lease of another node covers the destination.".to_owned(),
            count,
            last: Some(last),
        };
        Drops { at_millis, device: Some("flannel0".to_owned()), counted: true, drops: vec![row] }
    }

    #[test]
    fn each_reason_has_its_meaning_count_rate_and_last_packet() {
        let (before, now) = (drops(0, 10), drops(500, 1010));
        let text = describe(&now, &Rates::new(&before, &now), Paint::off());
        let expected = "\
REASON    DIRECTION  PACKETS   NOW/S
no_route  egress        1010  2.00 k
    No lease of another node covers the destination.
    last: 10.1.15.2:1000 > 10.9.0.1:53, UDP, 100 bytes
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_dropped_and_nothing_known_are_told_apart() {
        let says = |drops: Drops| describe(&drops, &Rates::new(&drops, &drops), Paint::off());
        assert_eq!(says(Drops { drops: Vec::new(), ..drops(0, 0) }), "nothing was dropped\n");
        assert!(says(Drops { counted: false, ..drops(0, 0) }).contains("ip -s link show flannel0"));
        assert!(says(Drops::default()).contains("flanneld status"));
    }
}
