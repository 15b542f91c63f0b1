//! Tests that cannot run on every machine say so, by name and reason.

use crate::node;
use anyhow::{Result, bail};
use std::io::Write;

/// Set to `required`, tests that need nodes fail instead of being skipped.
const NODES: &str = "BACKFILL_NODES";

/// A file to which skipped tests are added, for a summary.
const SKIPPED: &str = "BACKFILL_SKIPPED";

/// Whether a test of this name has to be skipped, since nodes cannot run on this machine. It says so where it is seen.
pub fn skip_without_nodes(test: &str) -> Result<bool> {
    let Some(missing) = node::missing() else { return Ok(false) };
    if std::env::var(NODES).is_ok_and(|nodes| nodes == "required") {
        bail!("{test} cannot run: {missing}");
    }
    let line = format!("SKIPPED {test}: {missing}\n");
    // Not by the macro, whose output is kept back for tests that pass.
    std::io::stderr().write_all(line.as_bytes())?;
    if let Some(path) = std::env::var_os(SKIPPED) {
        std::fs::File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    }
    Ok(true)
}
