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
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with lines below it, which no column holds.
    pub(in crate::control::cli) fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push(Row { cells, notes });
    }

    /// As text, with an end of line after each row.
    pub(in crate::control::cli) fn render(&self, paint: Paint) -> String {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = paint.bold(&self.line(&head)) + "\n";
        for row in &self.rows {
            text += &self.line(&row.cells);
            text.push('\n');
            for note in &row.notes {
                text += note;
                text.push('\n');
            }
        }
        text
    }

    fn line(&self, cells: &[String]) -> String {
        let columns = self.columns.iter().enumerate().zip(cells);
        let padded = columns.map(|((index, (_, align)), cell)| {
            let width = self.width(index);
            match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            }
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
}
