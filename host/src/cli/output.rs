//! What commands print.

use std::fmt;
use std::io::{self, Write as _};

/// Prints a line on standard output. A reader that has gone, as `head` has, wants no more: that is no error.
pub(super) fn print(line: fmt::Arguments<'_>) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

/// `println!` that does not panic.
macro_rules! say {
    ($($line:tt)*) => { $crate::cli::output::print(format_args!($($line)*))? };
}
