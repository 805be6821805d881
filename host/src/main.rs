//! The `plugway` binary: reads the command line and does what it says.

use std::process::ExitCode;

use clap::Parser as _;

/// The error with its causes. Some libraries quote the cause in their own text: nothing is said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

fn main() -> ExitCode {
    match plugway::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `?`: a user is told what is wrong, not where in the source it was noticed.
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}
