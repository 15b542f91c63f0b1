//! Whatever fails between operator and API server, the end is the same.
//!
//! A run without faults shows what is written. Then each write is lost, refused or answered wrongly, watches are late, lists are old,
//! and the operator is killed: see `fault.rs` for what, `oracle.rs` for what must hold.

mod fault;
mod history;
mod meddler;
mod oracle;
mod runs;
mod workload;
mod world;

use anyhow::Result;

/// All of them, or the one that `FAULT` names.
#[test]
fn whatever_fails_the_end_is_the_same() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(runs::all(std::env::var("FAULT").ok().as_deref()))
}
