//! A bar chart as SVG: one bar for each system, with a whisker from the smallest to the largest, and
//! columns of ratios at the right.

use std::fmt::{self, Write};
use std::iter;

use super::{escape, number};

/// One bar.
pub(super) struct Bar {
    pub(super) label: String,
    /// The CSS class that colours it.
    pub(super) class: &'static str,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// A part of the median that is drawn darker.
    pub(super) part: Option<f64>,
    /// What each column says of it.
    pub(super) notes: Vec<String>,
}

/// Lengths in the chart's own units; the page scales it to its card.
const WIDTH: f64 = 420.0;
const ROW: f64 = 26.0;
const HEADER: f64 = 16.0;
const LABEL: f64 = 94.0;
const VALUE: f64 = 46.0;
const COLUMN: f64 = 56.0;
const THICKNESS: f64 = 14.0;
/// Characters of a label that fit.
const LABEL_LEN: usize = 13;

/// Where bars begin and columns end, for one chart.
struct Layout {
    scale: f64,
    /// The right edges of the columns.
    columns: Vec<f64>,
}

/// Writes the chart; the longest whisker spans it.
pub(super) fn write(
    page: &mut String,
    title: &str,
    columns: &[String],
    bars: &[Bar],
) -> fmt::Result {
    let longest = bars.iter().map(|bar| bar.max.max(bar.median)).fold(0.0, f64::max);
    let edges = iter::successors(Some(WIDTH), |edge| Some(edge - COLUMN)).take(columns.len());
    let mut edges: Vec<f64> = edges.collect();
    edges.reverse();
    let room = edges.first().map_or(WIDTH, |edge| edge - COLUMN) - LABEL - VALUE;
    let scale = if longest > 0.0 { room / longest } else { 0.0 };
    let layout = Layout { scale, columns: edges };
    #[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
    let height = HEADER + bars.len() as f64 * ROW;
    write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\
         <line class=\"axis\" x1=\"{LABEL}\" x2=\"{LABEL}\" y1=\"{HEADER}\" y2=\"{height}\"/>",
        escape(title)
    )?;
    for (column, edge) in columns.iter().zip(&layout.columns) {
        let column = escape(column);
        write!(page, "<text class=\"column\" x=\"{edge}\" y=\"11\">{column}</text>")?;
    }
    let mut middle = HEADER + ROW / 2.0;
    for bar in bars {
        write_bar(page, bar, middle, &layout)?;
        middle += ROW;
    }
    page.write_str("</svg>")
}

fn write_bar(page: &mut String, bar: &Bar, middle: f64, layout: &Layout) -> fmt::Result {
    let x = |figure: f64| LABEL + figure * layout.scale;
    let (top, text) = (middle - THICKNESS / 2.0, middle + 4.0);
    let label: String = bar.label.chars().take(LABEL_LEN).collect();
    write!(
        page,
        "<g class=\"{class}\"><title>{full}: {median} ({min}…{max})</title>\
         <text class=\"label\" x=\"{label_x}\" y=\"{text}\">{label}</text>\
         <rect x=\"{LABEL}\" y=\"{top}\" width=\"{width:.1}\" height=\"{THICKNESS}\" rx=\"2\"/>",
        class = bar.class,
        full = escape(&bar.label),
        label = escape(&label),
        median = number(bar.median),
        min = number(bar.min),
        max = number(bar.max),
        label_x = LABEL - 8.0,
        width = (bar.median * layout.scale).max(1.0),
    )?;
    if let Some(part) = bar.part {
        let width = part * layout.scale;
        write!(
            page,
            "<rect class=\"part\" x=\"{LABEL}\" y=\"{top}\" width=\"{width:.1}\" height=\"{THICKNESS}\" rx=\"2\"/>"
        )?;
    }
    write!(
        page,
        "<path class=\"whisker\" d=\"M{min:.1} {middle}H{max:.1}M{min:.1} {up}v6M{max:.1} {up}v6\"/>\
         <text class=\"value\" x=\"{value_x:.1}\" y=\"{text}\">{median}</text>",
        min = x(bar.min),
        max = x(bar.max),
        up = middle - 3.0,
        value_x = x(bar.max.max(bar.median)) + 7.0,
        median = number(bar.median),
    )?;
    for (note, edge) in bar.notes.iter().zip(&layout.columns) {
        write!(page, "<text class=\"note\" x=\"{edge}\" y=\"{text}\">{}</text>", escape(note))?;
    }
    page.write_str("</g>")
}
