//! [`Table`]: columns as wide as their widest cell.

use super::paint::Paint;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control::cli) enum Align {
    Left,
    Right,
}

/// Rows with the same columns, under a head.
#[derive(Debug)]
pub(in crate::control::cli) struct Table {
    columns: Vec<(&'static str, Align)>,
    /// Columns to leave out on a narrow terminal, the first one first.
    optional: &'static [usize],
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    /// Lines below the row.
    notes: Vec<String>,
}

/// Between two columns.
const GAP: &str = "  ";

impl Table {
    /// No rows yet.
    pub(in crate::control::cli) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), optional: &[], rows: Vec::new() }
    }

    /// The same with columns, by their index, that [`render_within`](Self::render_within) may leave
    /// out, the first one first.
    pub(in crate::control::cli) fn with_optional(self, optional: &'static [usize]) -> Self {
        Self { optional, ..self }
    }

    /// Adds a row with lines below it, which no column holds.
    pub(in crate::control::cli) fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push(Row { cells, notes });
    }

    /// As text, with an end of line after each row.
    pub(in crate::control::cli) fn render(&self, paint: Paint) -> String {
        self.render_within(usize::MAX, paint)
    }

    /// The same in at most `width` columns of a terminal, as far as optional columns can be left out.
    pub(in crate::control::cli) fn render_within(&self, width: usize, paint: Paint) -> String {
        let shown = self.shown(width);
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = paint.bold(&self.line(&shown, &head)) + "\n";
        for row in &self.rows {
            text += &self.line(&shown, &row.cells);
            text.push('\n');
            for note in &row.notes {
                text += note;
                text.push('\n');
            }
        }
        text
    }

    /// The columns that are shown, each with its width.
    fn shown(&self, width: usize) -> Vec<(usize, usize)> {
        let mut shown: Vec<(usize, usize)> =
            (0..self.columns.len()).map(|index| (index, self.width(index))).collect();
        let sum = |shown: &[(usize, usize)]| -> usize {
            let gaps = GAP.len() * shown.len().saturating_sub(1);
            shown.iter().map(|(_, width)| width).sum::<usize>() + gaps
        };
        for left_out in self.optional {
            if sum(&shown) <= width {
                break;
            }
            shown.retain(|(index, _)| index != left_out);
        }
        shown
    }

    fn line(&self, shown: &[(usize, usize)], cells: &[String]) -> String {
        let padded = shown.iter().filter_map(|&(index, width)| {
            let ((_, align), cell) = (self.columns.get(index)?, cells.get(index)?);
            Some(match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
        });
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }

    fn width(&self, index: usize) -> usize {
        let head = self.columns.get(index).map_or(0, |(name, _)| name.len());
        let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        table.row(vec!["a".to_owned(), "1".to_owned()], vec!["  note".to_owned()]);
        table.row(vec!["longer".to_owned(), "200".to_owned()], Vec::new());
        assert_eq!(table.render(Paint::off()), "NAME      N\na         1\n  note\nlonger  200\n");
    }

    #[test]
    fn narrow_terminal_loses_optional_columns_in_their_order() {
        let columns = ["A", "BB", "CCC"].map(|name| (name, Align::Left));
        let mut table = Table::new(&columns).with_optional(&[1, 0]);
        table.row(["a", "b", "c"].map(str::to_owned).to_vec(), Vec::new());
        let head = |width| {
            let text = table.render_within(width, Paint::off());
            text.lines().next().unwrap().to_owned()
        };
        assert_eq!(head(10), "A  BB  CCC");
        assert_eq!(head(9), "A  CCC");
        assert_eq!(head(5), "CCC");
        assert_eq!(head(1), "CCC", "one column stays");
    }
}
