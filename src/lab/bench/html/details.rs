//! All figures, and what each of them means.

use std::fmt::{self, Write};

use super::{escape, number};
use crate::lab::bench::metric::Metric;
use crate::lab::bench::results::{Case, Figure, Results};
use crate::lab::bench::table::bases;

/// Writes the tables, closed at first, then the explanations.
pub(super) fn write(page: &mut String, results: &Results) -> fmt::Result {
    page.write_str("<section><h2>All figures</h2>")?;
    for case in &results.cases {
        write_case(page, case)?;
    }
    page.write_str("</section>\n")?;
    write_meanings(page, results)
}

/// Writes what could not be measured, if anything.
pub(super) fn write_failures(page: &mut String, results: &Results) -> fmt::Result {
    if results.failures.is_empty() {
        return Ok(());
    }
    page.write_str("<section class=\"failures\"><h2>What failed</h2><ul>")?;
    for failure in &results.failures {
        write!(page, "<li>{}</li>", escape(failure))?;
    }
    page.write_str("</ul></section>\n")
}

fn write_case(page: &mut String, case: &Case) -> fmt::Result {
    let bases = bases(case);
    write!(
        page,
        "<details><summary>{} <span>{}</span></summary><div class=\"scroll\"><table><thead><tr>\
         <th>system</th><th>pod MTU</th><th>figure</th><th>median</th><th>spread</th><th>unit</th>",
        escape(&case.title),
        escape(&case.setting_title)
    )?;
    for base in &bases {
        write!(page, "<th>to {}</th>", escape(base))?;
    }
    page.write_str("</tr></thead><tbody>")?;
    for row in &case.rows {
        for (index, figure) in row.figures.iter().enumerate() {
            let (system, mtu) = match index {
                0 => (escape(&row.system), row.pod_mtu.to_string()),
                _ => Default::default(),
            };
            write!(page, "<tr><th>{system}</th><td>{mtu}</td>")?;
            write_figure(page, figure, &bases)?;
        }
    }
    page.write_str("</tbody></table></div></details>\n")
}

fn write_figure(page: &mut String, figure: &Figure, bases: &[String]) -> fmt::Result {
    let (metric, spread) = (figure.metric.title(), &figure.spread);
    let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
    let unit = figure.unit;
    write!(
        page,
        "<td class=\"name\">{metric}</td><td>{median}</td><td>{min}…{max}</td><td class=\"name\">{unit}</td>"
    )?;
    for base in bases {
        match figure.ratios.get(base) {
            Some(ratio) => {
                let [median, min, max] = [ratio.median, ratio.min, ratio.max].map(number);
                write!(page, "<td>{median} <small>{min}…{max}</small></td>")?;
            }
            None => page.write_str("<td>–</td>")?,
        }
    }
    page.write_str("</tr>")
}

fn write_meanings(page: &mut String, results: &Results) -> fmt::Result {
    page.write_str("<section><h2>What each figure means</h2><dl>")?;
    let rows = || results.cases.iter().flat_map(|case| &case.rows);
    for metric in Metric::ALL {
        if rows().any(|row| row.figure(metric).is_some()) {
            let (title, unit, meaning) = (metric.title(), metric.unit(), metric.meaning());
            write!(page, "<dt>{title}, {unit}</dt><dd>{}</dd>", escape(meaning))?;
        }
    }
    page.write_str("</dl></section>\n")
}
