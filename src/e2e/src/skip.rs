//! Tests that cannot run on every machine say so, by name and reason.

use crate::node;
use anyhow::{Result, bail};
use std::io::Write;

/// Set to `required`, tests that need nodes fail instead of being skipped.
const NODES: &str = "BACKFILL_NODES";

/// A file to which skipped tests are added, for a summary.
const SKIPPED: &str = "BACKFILL_SKIPPED";

/// Set where tests are wanted that take minutes.
const LONG: &str = "BACKFILL_LONG";

/// Whether a test of this name has to be skipped, since nodes cannot run on this machine. It says so where it is seen.
pub fn skip_without_nodes(test: &str) -> Result<bool> {
    let Some(missing) = node::missing() else { return Ok(false) };
    if std::env::var(NODES).is_ok_and(|nodes| nodes == "required") {
        bail!("{test} cannot run: {missing}");
    }
    skip(test, missing)?;
    Ok(true)
}

/// Whether a test of this name takes minutes, and is left to `make test-long`. It says so where it is seen.
pub fn skip_long(test: &str) -> Result<bool> {
    if wants_long() {
        return Ok(false);
    }
    skip(test, "it takes minutes; run it by: make test-long")?;
    Ok(true)
}

/// Whether tests that take minutes are wanted.
pub fn wants_long() -> bool {
    std::env::var_os(LONG).is_some()
}

fn skip(test: &str, why: &str) -> Result<()> {
    let line = format!("SKIPPED {test}: {why}\n");
    // Not by the macro, whose output is kept back for tests that pass.
    std::io::stderr().write_all(line.as_bytes())?;
    if let Some(path) = std::env::var_os(SKIPPED) {
        std::fs::File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    }
    Ok(())
}
