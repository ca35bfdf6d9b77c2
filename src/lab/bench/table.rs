//! The table for the terminal: medians with their spread, and ratios.

use super::results::{Case, Figure, Results, Row};
use super::testbed::{OFF, RAW, VXLAN};
use crate::lab::report::table;

/// What every form of a quick run's results says.
pub(super) const ORIENTATION: &str = "For orientation only: --quick has few and short rounds, whose figures vary widely. Quote a run \
     without it.";

/// All cases, one table each.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for case in &results.cases {
        text.push_str(&format!("{} · {}\n{}\n", case.setting_title, case.title, of_case(case)));
    }
    let machine = &results.machine;
    text.push_str(&format!(
        "medians of {} interleaved rounds of {} s (smallest…largest); ratios are medians of the \
         ratios within a round\n{}\n{} · {}\n",
        results.rounds,
        results.seconds,
        machine.describe(),
        machine.describe_versions(),
        machine.date
    ));
    if results.quick {
        text.push_str(&format!("{ORIENTATION}\n"));
    }
    for failure in &results.failures {
        text.push_str(&format!("failed: {failure}\n"));
    }
    text
}

fn of_case(case: &Case) -> String {
    let bases = bases(case);
    let mut header: Vec<String> =
        ["system", "pod MTU", "figure", "median", "spread", "unit"].map(str::to_owned).to_vec();
    header.extend(bases.iter().map(|base| format!("to {base}")));
    let mut rows = vec![header];
    for row in &case.rows {
        for (index, figure) in row.figures.iter().enumerate() {
            rows.push(line((index == 0).then_some(row), figure, &bases));
        }
    }
    table(&rows)
}

/// The systems that others are compared with in this case.
pub(super) fn bases(case: &Case) -> Vec<String> {
    let figures = case.rows.iter().flat_map(|row| &row.figures);
    let known: Vec<&String> = figures.flat_map(|figure| figure.ratios.keys()).collect();
    let mut bases: Vec<String> =
        [RAW, VXLAN, OFF].map(str::to_owned).into_iter().filter(|b| known.contains(&b)).collect();
    for name in known {
        if !bases.contains(name) {
            bases.push(name.clone());
        }
    }
    bases
}

fn line(row: Option<&Row>, figure: &Figure, bases: &[String]) -> Vec<String> {
    let spread = &figure.spread;
    let mut cells = vec![
        row.map_or_else(String::new, |row| row.system.clone()),
        row.map_or_else(String::new, |row| row.pod_mtu.to_string()),
        figure.metric.title().to_owned(),
        number(spread.median),
        format!("{}…{}", number(spread.min), number(spread.max)),
        figure.unit.to_owned(),
    ];
    let ratio =
        |base| figure.ratios.get(base).map_or("–".to_owned(), |ratio| number(ratio.median));
    cells.extend(bases.iter().map(ratio));
    cells
}

/// Three significant digits, more before the point if need be.
pub(super) fn number(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        0.0 => "0".to_owned(),
        0.001.. => format!("{figure:.3}"),
        _ => format!("{figure:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::bench::results::tests::example;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [1234.5, 12.345, 1.0, 0.01234, 0.0].map(number);
        assert_eq!(numbers, ["1234", "12.3", "1.00", "0.012", "0"]);
    }

    #[test]
    fn table_shows_medians_spread_and_ratios() {
        let text = text(&example());
        let twill = text.lines().find(|line| line.starts_with("twill udp  ")).unwrap();
        let cells: Vec<&str> = twill.split_whitespace().skip(1).collect();
        assert_eq!(
            cells,
            ["udp", "1472", "throughput", "12.0", "6.00…12.5", "Gb/s", "0.600", "0.750", "12.0"]
        );
        assert!(text.contains("failed: other in"), "{text}");
        assert!(text.contains("twill: v1.2.3 (abcdef0) · 2026"), "{text}");
        assert!(text.contains("governor schedutil · load 0.25 before"), "{text}");
        assert!(text.contains("For orientation only"), "{text}");
        assert!(text.contains("to 10 leases"), "{text}");
    }
}
