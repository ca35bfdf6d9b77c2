//! What a run found. This is what `--json` writes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::machine::Machine;
use super::metric::{Better, Metric};
use super::sample::Sample;
use super::testbed::{OFF, RAW, VXLAN};
use crate::lab::report::Spread;

/// Everything a run found.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Where and how it ran.
    pub machine: Machine,
    /// Whether the run was a quick one: too few and too short rounds to quote.
    pub quick: bool,
    /// How often each figure was taken.
    pub rounds: usize,
    /// How long each measurement was, in seconds.
    pub seconds: f64,
    /// What each system is, by its name.
    pub systems: Vec<(String, String)>,
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// What went wrong with single systems.
    pub failures: Vec<String>,
}

/// One workload in one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// The setting's name, such as `w1-1500`.
    pub setting: String,
    /// What it means.
    pub setting_title: String,
    /// The workload's name, such as `tcp-4`.
    pub workload: String,
    /// What it means.
    pub title: String,
    /// One row for each system.
    pub rows: Vec<Row>,
}

/// What one system did in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The system's name; in the case of leases, with their number.
    pub system: String,
    /// MTU of the pods, in bytes.
    pub pod_mtu: u16,
    /// Its figures, in the order of [`Metric::ALL`].
    pub figures: Vec<Figure>,
}

/// A figure with its spread over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was counted.
    pub metric: Metric,
    /// The unit.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Median, extremes and all rounds.
    #[serde(flatten)]
    pub spread: Spread,
    /// The ratios to another system's figure within a round, by that system's name.
    pub ratios: BTreeMap<String, Spread>,
}

/// The figures of one system as they come in.
#[derive(Debug, Clone)]
pub(super) struct Samples {
    pub(super) system: String,
    pub(super) pod_mtu: u16,
    pub(super) rounds: Vec<Sample>,
}

impl Samples {
    pub(super) fn new(system: &str) -> Self {
        Self { system: system.to_owned(), pod_mtu: 0, rounds: Vec::new() }
    }

    /// The system's name, or in the case of leases their number.
    fn short_name(&self) -> &str {
        self.system.split_once(", ").map_or(&self.system, |(_, leases)| leases)
    }

    fn spread(&self, metric: Metric) -> Option<Spread> {
        let find = |sample: &Sample| sample.iter().find(|(m, _)| *m == metric).map(|(_, f)| *f);
        let figures: Vec<f64> = self.rounds.iter().filter_map(find).collect();
        (!figures.is_empty()).then(|| Spread::of(&figures))
    }
}

/// The rows of a case; every figure is compared with those of `raw`, `vxlan` and `off`.
pub(super) fn rows(all: &[Samples]) -> Vec<Row> {
    let bases: Vec<&Samples> =
        all.iter().filter(|s| [RAW, VXLAN, OFF].contains(&s.system.as_str())).collect();
    all.iter().map(|samples| row(samples, &bases)).collect()
}

/// One row, each figure compared with those of `bases`.
pub(super) fn row(samples: &Samples, bases: &[&Samples]) -> Row {
    let figure = |metric: Metric| {
        let spread = samples.spread(metric)?;
        let others = bases.iter().filter(|base| base.system != samples.system);
        let ratio = |base: &&Samples| {
            Some((base.short_name().to_owned(), spread.ratios_to(&base.spread(metric)?)?))
        };
        let comparable = others.filter(|_| metric.is_comparable());
        let ratios = comparable.filter_map(ratio).collect();
        Some(Figure { metric, unit: metric.unit(), better: metric.better(), spread, ratios })
    };
    let figures = Metric::ALL.into_iter().filter_map(figure).collect();
    Row { system: samples.system.clone(), pod_mtu: samples.pod_mtu, figures }
}

impl Row {
    /// Its figure of `metric`, if it has one.
    pub fn figure(&self, metric: Metric) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.metric == metric)
    }
}

impl Results {
    /// The case of this setting and workload, if it was measured.
    pub fn case(&self, setting: &str, workload: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.setting == setting && case.workload == workload)
    }
}

impl Case {
    /// The row of `system`, if it was measured.
    pub fn row(&self, system: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.system == system)
    }
}

#[cfg(test)]
pub(super) mod tests;
