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

/// All of them, or the one that `FAULT` names, as often as `TIMES` says: what is rare shows itself under load.
#[test]
fn whatever_fails_the_end_is_the_same() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let times = std::env::var("TIMES").map_or(Ok(1), |times| times.parse())?;
    runtime.block_on(async {
        match std::env::var("FAULT") {
            Ok(fault) => runs::of(fault.parse()?, times).await,
            Err(_) => runs::all().await,
        }
    })
}
