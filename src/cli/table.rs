//! Tables on standard output, which are printed in parts, so that their length costs no memory.

use comfy_table::{Table, presets};

use super::{CliError, print};

/// How many rows are printed at once.
const PART: usize = 1000;

/// Prints a table in parts.  Its columns are as wide as what was printed so far.
pub(super) struct TablePrinter<const COLUMNS: usize> {
    headings: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
    /// The widths of the columns, in characters; `None` before the first part.
    widths: Option<Vec<u16>>,
}

impl<const COLUMNS: usize> TablePrinter<COLUMNS> {
    pub(super) fn new(headings: [&'static str; COLUMNS]) -> Self {
        Self { headings, rows: Vec::new(), widths: None }
    }

    /// Adds a row, and prints those that have been added when they are many.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn add(&mut self, row: [String; COLUMNS]) -> Result<(), CliError> {
        self.rows.push(row);
        if self.rows.len() < PART { Ok(()) } else { print(&self.part()) }
    }

    /// Prints the rest, or this text where there are no rows at all.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn finish(mut self, empty: &str) -> Result<(), CliError> {
        match (&self.widths, self.rows.is_empty()) {
            (None, true) => print(&format!("{empty}\n")),
            (Some(_), true) => Ok(()),
            (None | Some(_), false) => print(&self.part()),
        }
    }

    /// The lines of the rows that were added since the last part.
    fn part(&mut self) -> String {
        let mut table = Table::new();
        // No borders and one line a row, so that grep and cut work on it.
        table.load_style(presets::NOTHING);
        match &self.widths {
            None => table.set_header(self.headings),
            // A header that is not printed gives the columns their width.
            Some(widths) => table.set_header(widths.iter().map(|width| "-".repeat(usize::from(*width)))),
        };
        for row in self.rows.drain(..) {
            table.add_row(row);
        }
        let is_first = self.widths.replace(table.column_max_content_widths()).is_none();
        let mut text = String::new();
        for line in table.lines().skip(usize::from(!is_first)) {
            text.push_str(line.trim());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::TablePrinter;

    #[test]
    fn every_part_has_the_columns_of_the_last_one_or_wider_ones() {
        let mut printer = TablePrinter::new(["ID", "NAME", "ROLE"]);
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        printer.rows.extend([row(["1", "ci deploys", "Editor"]), row(["12", "x", ""])]);
        assert_eq!(printer.part(), "ID  NAME        ROLE\n1   ci deploys  Editor\n12  x\n");
        printer.rows.push(row(["3", "y", "Admin"]));
        assert_eq!(printer.part(), "3   y           Admin\n");
        printer.rows.push(row(["4", "longer than all", "Admin"]));
        assert_eq!(printer.part(), "4   longer than all  Admin\n");
    }
}
