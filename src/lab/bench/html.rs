//! The report one looks at: one HTML file with everything in it.
//!
//! No script, font or image from elsewhere, so that the file can be mailed or attached. Light or
//! dark as the reader's system is. [`chart`] draws one chart, [`cards`] all of them.

mod cards;
mod chart;
mod details;

use std::fmt::{self, Write as _};

use super::metric::{Better, Metric};
use super::results::Results;
use super::table::number;
use super::testbed::TWILL_UDP;

const STYLE: &str = include_str!("html/style.css");

/// The whole page.
pub fn render(results: &Results) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    write_page(&mut page, results).unwrap_or_default();
    page
}

fn write_page(page: &mut String, results: &Results) -> fmt::Result {
    let machine = &results.machine;
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>flannel-lab bench · {date}</title><style>{STYLE}</style></head><body>\n\
         <header><h1>Overlays side by side</h1>\
         <p class=\"where\">{cpu} · {cpus} cores for nodes, senders and receivers · {memory} MiB · \
         Linux {kernel} · <time>{date}</time></p>\
         <p class=\"where\"><code>{command}</code></p></header>\n<main>\n",
        date = escape(&machine.date),
        cpu = escape(&machine.cpu),
        cpus = machine.num_cpus,
        memory = machine.memory_mib,
        kernel = escape(&machine.kernel),
        command = escape(&machine.command),
    )?;
    write_tiles(page, results)?;
    cards::write(page, results)?;
    details::write(page, results)?;
    page.write_str("</main>\n</body></html>\n")
}

/// A question that a tile answers: system, setting, workload, metric, the system's rival.
type Question = (&'static str, &'static str, &'static str, Metric, &'static str);

const QUESTIONS: [Question; 8] = [
    (TWILL_UDP, "w1-1500", "tcp-1", Metric::Gbps, "off"),
    (TWILL_UDP, "w1-1500", "tcp-1", Metric::Gbps, "vxlan"),
    (TWILL_UDP, "w2-1500", "tcp-4", Metric::Gbps, "vxlan"),
    (TWILL_UDP, "w1-1500", "udp-64", Metric::Kpps, "off"),
    (TWILL_UDP, "w1-1500", "latency-idle", Metric::RttP50Us, "off"),
    (TWILL_UDP, "w1-1500", "latency-loaded", Metric::RttP99Us, "off"),
    ("twill vxlan", "w1-1500", "tcp-1", Metric::Gbps, "vxlan"),
    ("twill host-gw", "w1-1500", "tcp-1", Metric::Gbps, "raw"),
];

/// The ratios of twill that most depends on.
fn write_tiles(page: &mut String, results: &Results) -> fmt::Result {
    let mut tiles = String::new();
    for (system, setting, workload, metric, rival) in QUESTIONS {
        let case = results.case(setting, workload);
        let figure = case.and_then(|case| case.row(system)).and_then(|row| row.figure(metric));
        let Some((case, figure)) = case.zip(figure) else { continue };
        let Some(&ratio) = figure.ratios.get(rival) else { continue };
        let is_better = match metric.better() {
            Better::Higher => ratio >= 1.0,
            Better::Lower => ratio <= 1.0,
        };
        let (wire, _) = case.setting_title.split_once(':').unwrap_or((&case.setting_title, ""));
        write!(
            tiles,
            "<div class=\"tile {class}\"><b>{ratio}×</b><span>{system} to {rival}</span>\
             <small>{title}, {metric}<br/>{wire}</small></div>",
            class = if is_better { "better" } else { "worse" },
            ratio = number(ratio),
            title = escape(&case.title),
            metric = metric.title(),
            wire = escape(wire),
        )?;
    }
    if tiles.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section class=\"tiles\">{tiles}</section>")
}

/// Text for between tags and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
