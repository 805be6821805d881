//! The `plugway` binary: reads the command line and does what it says.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match plugway::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `?`: a user is told what is wrong, not where in the source it was noticed.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
