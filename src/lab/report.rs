//! What a measurement found: medians, ratios, a table for people and JSON for machines.

use serde::Serialize;

/// A measurement of several datapaths, interleaved in rounds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// Cores that both nodes, sender and receiver share.
    pub num_cpus: usize,
    /// MTU of the underlay, in bytes.
    pub underlay_mtu: u16,
    /// Whether the underlay carried no superpackets.
    pub frames_only: bool,
    /// Length of each flow, in seconds.
    pub seconds: u32,
    /// One row for each datapath.
    pub systems: Vec<Row>,
}

/// What one datapath did.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub system: String,
    /// MTU of the pods, in bytes.
    pub pod_mtu: u16,
    /// One TCP flow, in Gb/s.
    pub gbps: Spread,
    /// Median of the ratios to `raw` within a round.
    pub ratio_to_raw: Option<f64>,
    /// Median of the ratios to `twill` with offloads off within a round.
    pub ratio_to_offload_off: Option<f64>,
    /// Round-trip time of a ping: the median of each round, in microseconds.
    pub rtt_us: Spread,
    /// Segments sent again, in each round.
    pub retransmits: Vec<u64>,
}

/// A figure of every round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// The spread of one figure for each round.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: median_of_sorted(&sorted),
            min: sorted.first().copied().unwrap_or_default(),
            max: sorted.last().copied().unwrap_or_default(),
            rounds: rounds.to_vec(),
        }
    }

    /// The median of [`ratios_to`](Self::ratios_to).
    pub fn ratio_to(&self, base: &Self) -> Option<f64> {
        self.ratios_to(base).map(|ratios| ratios.median)
    }

    /// This figure divided by `base`'s in the same round, over all rounds: what slows down a whole
    /// round does not touch it.
    pub fn ratios_to(&self, base: &Self) -> Option<Self> {
        let pairs = self.rounds.iter().zip(&base.rounds);
        let ratios: Vec<f64> = pairs.filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
        (!ratios.is_empty()).then(|| Self::of(&ratios))
    }
}

/// The median of figures in ascending order; 0 of none.
pub fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(middle)) => *middle,
        (_, None) => 0.0,
    }
}

impl Report {
    /// The table that is printed.
    pub fn table(&self) -> String {
        let header =
            ["system", "pod MTU", "Gb/s (min…max)", "to raw", "to off", "ping µs", "retrans"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.systems.iter().map(|row| {
            let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |r| format!("{r:.2}"));
            let (gbps, rtt) = (&row.gbps, &row.rtt_us);
            vec![
                row.system.clone(),
                row.pod_mtu.to_string(),
                format!("{:.2} ({:.2}…{:.2})", gbps.median, gbps.min, gbps.max),
                ratio(row.ratio_to_raw),
                ratio(row.ratio_to_offload_off),
                format!("{:.0}", rtt.median),
                row.retransmits.iter().sum::<u64>().to_string(),
            ]
        }));
        let wire = if self.frames_only { "real frames" } else { "superpackets may pass" };
        let (rounds, seconds) =
            (self.systems.first().map_or(0, |r| r.gbps.rounds.len()), self.seconds);
        format!(
            "{}one TCP flow between two nodes: median of {rounds} interleaved rounds of {seconds} s\n\
             kernel {}, {} CPUs for everything, underlay MTU {}, {wire}\n",
            table(&rows),
            self.kernel,
            self.num_cpus,
            self.underlay_mtu,
        )
    }
}

/// Lines up columns: the first to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let len = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |c| c.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| len(row, column)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells =
            row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_taken_within_rounds() {
        let slow_second_round = Spread::of(&[10.0, 1.0, 10.0]);
        let base = Spread::of(&[20.0, 2.0, 40.0]);
        assert_eq!(slow_second_round.ratio_to(&base), Some(0.5));
        assert_eq!(slow_second_round.ratio_to(&Spread::of(&[0.0])), None);
    }

    #[test]
    fn spread_of_an_even_count_has_a_middle() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of(&[]).median, 0.0);
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["a", "b"]), row(["long", "……"])]), "a      b\nlong  ……\n");
    }
}
