//! One cluster for all tests of a process.

use crate::{Cluster, Kubelet};
use anyhow::{Result, anyhow};
use std::sync::LazyLock;
use tokio::runtime::Runtime;

/// What all tests of a process share. Each works in a namespace of its own.
pub struct Shared {
    /// The control plane.
    pub cluster: Cluster,
    /// Plays all pods of backfills, by default as their orders say.
    pub kubelet: Kubelet,
}

/// Runs the body of a test on the shared cluster, which the first test starts.
pub fn test(body: impl AsyncFnOnce(&'static Shared) -> Result<()>) -> Result<()> {
    // One runtime for all: connections and the played kubelet live as long as the process, not as the test that was first.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));
    static SHARED: LazyLock<Result<Shared>> = LazyLock::new(|| RUNTIME.block_on(start()));
    let shared = SHARED.as_ref().map_err(|error| anyhow!("the cluster did not start: {error:#}"))?;
    RUNTIME.block_on(body(shared))
}

async fn start() -> Result<Shared> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    Ok(Shared { cluster, kubelet })
}
