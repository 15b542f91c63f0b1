//! `kubectl features`.

use std::process::ExitCode;

fn main() -> ExitCode {
    backfill_cli::main(std::env::args_os())
}
