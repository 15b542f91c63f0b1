//! Runs Helm, and the programs that check charts, manifests, metrics and alerts.

use crate::cluster::Cluster;
use crate::kubectl::{Output, run};
use crate::tools;
use anyhow::Result;
use std::path::Path;
use tokio::process::Command;

/// The root of the repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The folder of the chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/backfill-operator");

impl Cluster {
    /// Runs Helm as admin.
    pub async fn helm(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = helm_at(self.folder())?;
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        run(command, "").await
    }
}

/// Runs one of the programs in `tools/`, which needs no cluster; `input` is its standard input.
pub async fn program(name: &str, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = match name {
        "helm" => helm_at(&std::env::temp_dir())?,
        name => Command::new(tools::path(name)?),
    };
    command.current_dir(ROOT).args(arguments);
    run(command, input).await
}

/// Helm with nothing of this machine's user: no repositories, no plugins.
fn helm_at(folder: &Path) -> Result<Command> {
    let mut command = Command::new(tools::path("helm")?);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, folder.join("helm"));
    }
    Ok(command)
}
