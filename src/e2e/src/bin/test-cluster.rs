//! Starts a test cluster with a played kubelet, prints how to talk to it, and ends it on Ctrl-C or when it is killed.

use backfill_e2e::{Cluster, Kubelet};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let cluster = Cluster::start().await?;
    let _kubelet = Kubelet::start(cluster.client()).await?;
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    eprintln!("ready after {:.1} s; press Ctrl-C to end it", begun.elapsed().as_secs_f64());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
