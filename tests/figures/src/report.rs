//! The table that a run ends with.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;

/// One measured figure.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What came out, with its unit.
    pub measured: String,
    /// What it should be; empty where it is for information.
    pub goal: &'static str,
}

impl Row {
    /// A row of the table.
    pub fn new(name: impl Into<String>, measured: impl Into<String>, goal: &'static str) -> Self {
        Self { name: name.into(), measured: measured.into(), goal }
    }
}

/// What was measured and where, as a table's description begins: the binary, the processors and how busy they are.
pub fn place(binary: &Path) -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{}, {processors} processors, load at the end {load}", binary.display())
}

/// The rows in columns, under a line that says where they come from.
pub fn table(description: &str, rows: &[Row]) -> String {
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
