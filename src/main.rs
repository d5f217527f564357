//! Parse, run, exit code. Nothing else, so that no logic is beyond the reach of a test.

use std::process::ExitCode;

use bramble::cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os(), std::env::vars_os(), cli::serve)
}
