//! The operator as users run it: its program, as a process.

use crate::process::{Folder, Process};
use crate::programs;
use anyhow::{Context, Result};
use std::path::Path;

/// How an operator is run.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// The namespaces that it watches; empty for all.
    pub namespaces: Vec<String>,
    /// The namespace of the lease; `None` leads without asking.
    pub lease_namespace: Option<String>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// A running operator. It is killed on drop.
pub struct Operator {
    process: Process,
    folder: Folder,
}

impl Operator {
    /// Starts the program that was built beside this test.
    pub fn start(kubeconfig: &Path, options: &OperatorOptions) -> Result<Self> {
        let folder = Folder::create()?;
        let mut arguments: Vec<String> =
            ["run", "--worker-image", "worker:test", "--log-format", "text", "--listen", "127.0.0.1:0"]
                .map(str::to_owned)
                .to_vec();
        match &options.lease_namespace {
            Some(namespace) => arguments.extend(["--lease-namespace".to_owned(), namespace.clone()]),
            None => arguments.push("--no-leader-election".to_owned()),
        }
        if !options.namespaces.is_empty() {
            arguments.extend(["--watch-namespaces".to_owned(), options.namespaces.join(",")]);
        }
        arguments.extend_from_slice(&options.arguments);
        let mut environment =
            vec![("KUBECONFIG", kubeconfig.display().to_string()), ("RUST_LOG", "info,backfill_operator=debug".to_owned())];
        environment.extend(options.environment.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let process = Process::start_with(
            &programs::built("backfill-operator", "backfill-operator")?,
            &arguments,
            &environment,
            folder.path(),
        )?;
        Ok(Self { process, folder })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as the kernel ends a program that misbehaves.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Fails when it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("backfill-operator.log")).unwrap_or_default()
    }

    /// Answers of its probes and metrics: status line and body.
    pub async fn get(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut connection = tokio::net::TcpStream::connect(self.address()?).await?;
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Where it serves them: on a port that the kernel chose, as it says in its log.
    fn address(&self) -> Result<String> {
        let log = self.log();
        let said = log.lines().find_map(|line| line.split_once("serves probes and metrics address="));
        let address = said.and_then(|(_, rest)| rest.split_whitespace().next()).context("the operator does not listen yet")?;
        Ok(address.to_owned())
    }
}
