//! The charts, by what they are about and by setting.

use std::fmt::{self, Write};

use super::chart::{self, Bar};
use super::{escape, number};
use crate::lab::bench::metric::{Better, Metric};
use crate::lab::bench::results::{Case, Results, Row};
use crate::lab::bench::testbed::TWILL;

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
        about: "A request of 64 bytes and its response, one after the other: on an idle machine, \
                and while four TCP flows fill the way of the requests.",
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
    let bars: Vec<Bar> = case.rows.iter().filter_map(|row| bar(row, metric)).collect();
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
    chart::write(page, &title, &bars)?;
    page.write_str("</figure>")
}

fn bar(row: &Row, metric: Metric) -> Option<Bar> {
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
        note: note(row, metric),
    })
}

/// The loss of a flood, and otherwise the ratio to the rival that says most.
fn note(row: &Row, metric: Metric) -> String {
    if let (Metric::Kpps, Some(loss)) = (metric, row.figure(Metric::LossPercent)) {
        return format!("{} % lost", number(loss.spread.median));
    }
    let Some(figure) = row.figure(metric) else { return String::new() };
    let rival = match row.system.as_str() {
        "vxlan" | "twill host-gw" => "raw",
        name if name.contains(", ") => "10 leases",
        _ => "vxlan",
    };
    // Beyond that the bars say it.
    let ratio = figure.ratios.get(rival).filter(|ratio| (0.01..100.0).contains(*ratio));
    ratio.map_or_else(String::new, |ratio| format!("{}× {rival}", number(*ratio)))
}

/// `10000 leases` as `10k`.
fn short(leases: &str) -> String {
    let num = leases.split(' ').next().unwrap_or(leases);
    num.strip_suffix("000").map_or_else(|| num.to_owned(), |thousands| format!("{thousands}k"))
}

/// The CSS class that gives a system its colour.
fn class(system: &str) -> &'static str {
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
