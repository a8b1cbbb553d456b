//! An aligned table of text.

use super::progress::Style;

/// Between two columns.
const GAP: &str = "  ";

/// Rows of `N` cells under a heading. Every character is taken to be one column wide.
pub(super) struct Table<const N: usize> {
    heading: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&'static str; N]) -> Self {
        Self { heading, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The table, each line ended; `None` without rows. Columns without a heading have no rule under it;
    /// marks are coloured.
    pub(super) fn render(&self, style: Style) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let widths = self.widths();
        let heading = self.heading.map(str::to_owned);
        let rules: [String; N] = std::array::from_fn(|column| {
            if self.heading[column].is_empty() { String::new() } else { "─".repeat(widths[column]) }
        });
        let mut text = String::new();
        text += &style.bold(&line(&heading, &widths, str::to_owned));
        text.push('\n');
        text += &style.dim(&line(&rules, &widths, str::to_owned));
        text.push('\n');
        for row in &self.rows {
            text += &line(row, &widths, |cell| match cell {
                "✓" => style.mark(true),
                "✗" => style.mark(false),
                cell => cell.to_owned(),
            });
            text.push('\n');
        }
        Some(text)
    }

    fn widths(&self) -> [usize; N] {
        std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| width(&row[column]));
            cells.chain([width(self.heading[column])]).max().unwrap_or(0)
        })
    }
}

/// One line, without blanks at its end.
fn line<const N: usize>(cells: &[String; N], widths: &[usize; N], paint: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (index, (cell, column)) in cells.iter().zip(widths).enumerate() {
        if index > 0 {
            text += GAP;
        }
        // Painted text has characters that take no room, so the padding is counted before.
        text += &paint(cell);
        text += &" ".repeat(column - width(cell));
    }
    text.truncate(text.trim_end().len());
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> Option<String> {
        let mut table = Table::new(["", "Name", "Value"]);
        for row in rows {
            table.row(row.map(str::to_owned));
        }
        table.render(Style::PLAIN)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(&[["✓", "a", "1"], ["✗", "left → right", "12,345"]]);
        assert_eq!(
            text.unwrap(),
            "   Name          Value\n   ────────────  ──────\n✓  a             1\n✗  left → right  12,345\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_none() {
        assert_eq!(table(&[]), None);
    }

    #[test]
    fn no_line_ends_in_blanks() {
        assert!(table(&[["✓", "a", ""], ["", "", "1"]]).unwrap().lines().all(|line| line == line.trim_end()));
    }
}
