//! The charts, by what they are about and by setting.

use std::fmt::{self, Write};

use super::chart::{self, Bar};
use super::{escape, number};
use crate::lab::bench::metric::{Better, Metric};
use crate::lab::bench::results::{Case, Results, Row};
use crate::lab::bench::table::bases;
use crate::lab::bench::testbed::{OFF, TWILL, VXLAN};

/// A chapter: its title, what it says, whose workloads it is about, and what it shows of them.
struct Chapter {
    title: &'static str,
    about: &'static str,
    workloads: &'static str,
    charts: &'static [Metric],
}

const CHAPTERS: [Chapter; 6] = [
    Chapter {
        title: "TCP throughput",
        about: "Payload from a pod on one node to a pod on the other.",
        workloads: "tcp-",
        charts: &[Metric::Gbps],
    },
    Chapter {
        title: "Packet rate",
        about: "Single UDP packets, flooded by a sender that is faster than any overlay; what \
                arrives counts.",
        workloads: "udp-",
        charts: &[Metric::Kpps],
    },
    Chapter {
        title: "Round trips",
        about: "A request of 64 bytes and its response, one after the other, by UDP and in a TCP \
                connection: on an idle machine, and while four TCP flows fill the way of the requests.",
        workloads: "latency-",
        charts: &[Metric::RttP50Us, Metric::RttP99Us],
    },
    Chapter {
        title: "What a gigabit costs",
        about: "CPU time of the whole machine; the darker part is the two daemons'.",
        workloads: "tcp-",
        charts: &[Metric::MachineMsPerGbit],
    },
    Chapter {
        title: "What a packet costs",
        about: "CPU time of the whole machine for each packet delivered; the darker part is the \
                two daemons'.",
        workloads: "udp-",
        charts: &[Metric::MachineNsPerPacket],
    },
    Chapter {
        title: "Many leases",
        about: "One TCP flow between two of many nodes, first while leases stay, then with a thousand lease \
                changes a second, and a restart of the sending node's daemon.",
        workloads: "leases",
        charts: &[
            Metric::Gbps,
            Metric::ChurnKept,
            Metric::ChangeMs,
            Metric::DaemonUsPerChange,
            Metric::StartMs,
            Metric::RssMib,
        ],
    },
];

/// Writes every chapter that has a case.
pub(super) fn write(page: &mut String, results: &Results) -> fmt::Result {
    for chapter in &CHAPTERS {
        let cases: Vec<&Case> =
            results.cases.iter().filter(|c| c.workload.starts_with(chapter.workloads)).collect();
        if !cases.is_empty() {
            write_chapter(page, chapter, &cases)?;
        }
    }
    Ok(())
}

fn write_chapter(page: &mut String, chapter: &Chapter, cases: &[&Case]) -> fmt::Result {
    let Chapter { title, about, charts, .. } = chapter;
    write!(page, "<section><h2>{title}</h2><p>{about}</p><div class=\"settings\">")?;
    for settings in cases.chunk_by(|a, b| a.setting == b.setting) {
        let title = settings.first().map_or("", |case| &case.setting_title);
        let (num, title) = (settings.len() * charts.len(), escape(title));
        write!(page, "<div style=\"--num:{num}\"><h3>{title}</h3><div class=\"cards\">")?;
        for case in settings {
            for metric in *charts {
                write_card(page, case, *metric)?;
            }
        }
        page.write_str("</div></div>")?;
    }
    page.write_str("</div></section>\n")
}

fn write_card(page: &mut String, case: &Case, metric: Metric) -> fmt::Result {
    let columns = columns(case, metric);
    let bars: Vec<Bar> = case.rows.iter().filter_map(|row| bar(row, metric, &columns)).collect();
    if bars.is_empty() {
        return Ok(());
    }
    let title = match case.workload.as_str() {
        "leases" => metric.title().to_owned(),
        _ if metric == Metric::RttP50Us => format!("{}, p50", case.title),
        _ if metric == Metric::RttP99Us => format!("{}, p99", case.title),
        _ => case.title.clone(),
    };
    let better = match metric.better() {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    write!(
        page,
        "<figure><figcaption>{}<span>{}, {better}</span></figcaption>",
        escape(&title),
        metric.unit()
    )?;
    let headings: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    chart::write(page, &title, &headings, &bars)?;
    page.write_str("</figure>")
}

fn bar(row: &Row, metric: Metric, columns: &[String]) -> Option<Bar> {
    let figure = row.figure(metric)?;
    let daemons = metric.daemons().and_then(|metric| row.figure(metric));
    let (label, class) = match row.system.split_once(", ") {
        // Of twill's the backend is enough.
        Some((system, leases)) => {
            let name = system.strip_prefix(TWILL).unwrap_or(system).trim_start();
            (format!("{name} {}", short(leases)), class(system))
        }
        None => (row.system.clone(), class(&row.system)),
    };
    Some(Bar {
        label,
        class,
        median: figure.spread.median,
        min: figure.spread.min,
        max: figure.spread.max,
        part: daemons.map(|figure| figure.spread.median),
        notes: columns.iter().map(|column| note(row, metric, column)).collect(),
    })
}

/// What the columns of a chart are about: the rivals whose ratios there are, and the loss of a flood.
fn columns(case: &Case, metric: Metric) -> Vec<String> {
    let figures = case.rows.iter().filter_map(|row| row.figure(metric));
    let known: Vec<&String> = figures.flat_map(|figure| figure.ratios.keys()).collect();
    // A case of leases has other rivals: the same system with the fewest.
    let rivals = match case.workload.as_str() {
        "leases" => bases(case),
        _ => [VXLAN, OFF].map(str::to_owned).to_vec(),
    };
    let mut columns: Vec<String> =
        rivals.into_iter().filter(|rival| known.contains(&rival)).collect();
    if metric == Metric::Kpps {
        columns.push(LOST.to_owned());
    }
    columns
}

/// The column of a flood's loss.
const LOST: &str = "lost";

/// What `column` says of `row`.
fn note(row: &Row, metric: Metric, column: &str) -> String {
    if column == LOST {
        let loss = row.figure(Metric::LossPercent);
        return loss.map_or_else(String::new, |loss| format!("{} %", number(loss.spread.median)));
    }
    let ratio = row.figure(metric).and_then(|figure| figure.ratios.get(column));
    ratio.map_or_else(String::new, |ratio| format!("{}×", number(ratio.median)))
}

/// How a column is headed.
fn heading(column: &str) -> String {
    match column {
        LOST => LOST.to_owned(),
        rival => format!("to {}", rival.trim_end_matches(" leases")),
    }
}

/// `10000 leases` as `10k`.
fn short(leases: &str) -> String {
    let num = leases.split(' ').next().unwrap_or(leases);
    num.strip_suffix("000").map_or_else(|| num.to_owned(), |thousands| format!("{thousands}k"))
}

/// The CSS class that gives a system its colour.
pub(super) fn class(system: &str) -> &'static str {
    match system {
        "raw" => "raw",
        "vxlan" => "vxlan",
        "twill udp" => "twill",
        "twill vxlan" => "twill-vxlan",
        "twill host-gw" => "twill-host-gw",
        "off" => "off",
        _ => "other",
    }
}
