//! The table that a run ends with.

use std::fmt::Write as _;

/// One measured figure.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// What came out, with its unit.
    pub(crate) measured: String,
    /// What it should be; empty where it is for information.
    pub(crate) goal: &'static str,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, measured: impl Into<String>, goal: &'static str) -> Self {
        Self { name: name.into(), measured: measured.into(), goal }
    }
}

/// The rows in columns, under a line that says where they come from.
pub(crate) fn table(description: &str, rows: &[Row]) -> String {
    let width =
        |cells: &mut dyn Iterator<Item = &str>| cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
    let name = width(&mut rows.iter().map(|row| row.name.as_str()));
    let measured = width(&mut rows.iter().map(|row| row.measured.as_str()));
    let mut table = format!("\n{description}\n\n");
    for row in rows {
        let line = format!("{:name$}  {:measured$}  {}", row.name, row.measured, row.goal);
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}
