//! The ratios that most depends on, whether they are good or bad.

use std::fmt::{self, Write};

use super::{escape, number};
use crate::lab::bench::metric::{Better, Metric};
use crate::lab::bench::results::{Case, Results};
use crate::lab::bench::testbed::{OFF, RAW, TWILL_UDP, VXLAN};

/// A question that a tile answers: system, setting, workload and metric. If the setting was not
/// measured, another one answers.
type Question = (&'static str, &'static str, &'static str, Metric);

const QUESTIONS: [Question; 9] = [
    (TWILL_UDP, "w1-1500", "tcp-1", Metric::Gbps),
    (TWILL_UDP, "w2-1500", "tcp-4", Metric::Gbps),
    (TWILL_UDP, "w1-1500", "udp-64", Metric::Kpps),
    (TWILL_UDP, "w1-1500", "latency-idle", Metric::RttP50Us),
    (TWILL_UDP, "w1-1500", "latency-idle", Metric::RttP99Us),
    (TWILL_UDP, "w1-1500", "latency-loaded", Metric::RttP50Us),
    (TWILL_UDP, "w1-1500", "latency-loaded", Metric::RttP99Us),
    ("twill vxlan", "w1-1500", "tcp-1", Metric::Gbps),
    ("twill host-gw", "w1-1500", "tcp-1", Metric::Gbps),
];

/// Whom twill is compared with, as far as they took part.
const RIVALS: [&str; 3] = [VXLAN, OFF, RAW];

pub(super) fn write(page: &mut String, results: &Results) -> fmt::Result {
    let mut tiles = String::new();
    for (system, setting, workload, metric) in QUESTIONS {
        let any = || results.cases.iter().find(|case| case.workload == workload);
        if let Some(case) = results.case(setting, workload).or_else(any) {
            write_tile(&mut tiles, case, system, metric)?;
        }
    }
    if tiles.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section class=\"tiles\">{tiles}</section>")
}

fn write_tile(tiles: &mut String, case: &Case, system: &str, metric: Metric) -> fmt::Result {
    let Some(figure) = case.row(system).and_then(|row| row.figure(metric)) else { return Ok(()) };
    let (wire, _) = case.setting_title.split_once(':').unwrap_or((&case.setting_title, ""));
    let spread = &figure.spread;
    write!(
        tiles,
        "<div class=\"tile\"><b>{system}</b><small>{title}, {metric}<br/>{wire}</small>\
         <p>{median} {unit} <small>{min}…{max}</small></p>",
        title = escape(&case.title),
        metric = metric.title(),
        wire = escape(wire),
        median = number(spread.median),
        unit = figure.unit,
        min = number(spread.min),
        max = number(spread.max),
    )?;
    for rival in RIVALS {
        let Some(ratio) = figure.ratios.get(rival) else { continue };
        let is_better = match metric.better() {
            Better::Higher => ratio.median >= 1.0,
            Better::Lower => ratio.median <= 1.0,
        };
        write!(
            tiles,
            "<p class=\"{class}\"><b>{median}×</b> {rival} <small>{min}…{max}</small></p>",
            class = if is_better { "better" } else { "worse" },
            median = number(ratio.median),
            min = number(ratio.min),
            max = number(ratio.max),
        )?;
    }
    tiles.write_str("</div>")
}
