//! Runs kubectl and kstatus, as users and their tools do.

use crate::tools;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a program printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a program that succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success, "{}{}", self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

/// Runs kubectl with a kubeconfig; `input` is what `-f -` reads.
pub async fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = Command::new(tools::path("kubectl")?);
    // Beside the kubeconfig, so that one cluster's discovery is never taken for another's.
    let cache = kubeconfig.with_extension("cache");
    command.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(cache).args(arguments);
    run(command, input).await
}

/// What kstatus (Flux, Helm 4) says to each object: `Status\tmessage`.
pub async fn kstatus(objects: &[Value]) -> Result<Vec<String>> {
    let input: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let output = run(Command::new(tools::path("kstatus")?), &input).await?.ok()?;
    Ok(output.lines().map(str::to_owned).collect())
}

/// Runs a program; `input` is its standard input.
pub async fn run(mut command: Command, input: &str) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let write = async {
        // A program that does not read its input closes it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (_, output) = tokio::join!(write, child.wait_with_output());
    let output = output?;
    Ok(Output {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
