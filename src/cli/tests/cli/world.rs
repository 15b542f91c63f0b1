//! An environment, and the program that is run in it.

use crate::kubelet::Logs;
use anyhow::{Context, Result, anyhow, ensure};
use backfill_core::api::{FeatureSet, FeatureSetBackfill};
use backfill_core::plan::manifest::LOOKUP_MANAGER;
use backfill_core::plan::run::{MANAGED_BY, label};
use backfill_e2e::kubelet::Rule;
use backfill_e2e::{Act, Cluster, Kubelet, Namespace, Operator, OperatorOptions, in_phase, manifest, until};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::runtime::Runtime;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_kubectl-features");

/// What all tests of this process share.
pub struct Shared {
    pub cluster: Cluster,
    pub kubelet: Kubelet,
    logs: Logs,
    _operator: Operator,
}

/// Runs the body of a test on the shared cluster, in an environment of its own.
pub fn test(body: impl AsyncFnOnce(World) -> Result<()>) -> Result<()> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));
    static SHARED: LazyLock<Result<Shared>> = LazyLock::new(|| RUNTIME.block_on(start()));
    let shared = SHARED.as_ref().map_err(|error| anyhow!("the cluster did not start: {error:#}"))?;
    RUNTIME.block_on(async { body(World::new(shared).await?).await })
}

async fn start() -> Result<Shared> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    let logs = Logs::serve(cluster.client()).await?;
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/cluster-templates.yaml");
    let arguments = ["--cluster-templates", templates].map(str::to_owned).to_vec();
    // With a lease, as users run it: `check` looks for it.
    let lease_namespace = Some("default".to_owned());
    let options = OperatorOptions { arguments, lease_namespace, ..OperatorOptions::default() };
    let operator = Operator::start(cluster.kubeconfig(), &options)?;
    let templates: Api<backfill_core::api::ClusterTemplate> = Api::all(cluster.client());
    until(&templates, "xxxlarge", |template: Option<&_>| template.is_some()).await?;
    Ok(Shared { cluster, kubelet, logs, _operator: operator })
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// It ended so.
    pub fn with(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit code {} instead of {code}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// All documents on standard output, one per line.
    pub fn lines(&self) -> Result<Vec<Value>> {
        self.stdout.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The document on standard output.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| self.stdout.clone())
    }
}

/// An environment with a store `default` and a feature set `user-clicks`, whose view is `UserClicks`, with daily windows.
pub struct World {
    pub shared: &'static Shared,
    pub namespace: Namespace,
    /// Further variables of the program's environment.
    pub variables: Vec<(String, String)>,
    pub kubeconfig: PathBuf,
}

impl World {
    async fn new(shared: &'static Shared) -> Result<Self> {
        let namespace = shared.cluster.namespace("env").await?;
        let kubeconfig = shared.cluster.kubeconfig().to_owned();
        let world = Self { shared, namespace, variables: Vec::new(), kubeconfig };
        let store = json!({
            "offline": { "uri": "s3://bucket/tables", "credentialsSecret": "s3" },
            "online": { "redis": { "urlSecret": { "name": "redis", "key": "url" } } },
        });
        world.apply("FeatureStore", "default", store).await?;
        world.apply("FeatureSet", "user-clicks", set("UserClicks", "raw")).await?;
        Ok(world)
    }

    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    pub fn backfills(&self) -> Api<FeatureSetBackfill> {
        self.namespace.api()
    }

    pub fn sets(&self) -> Api<FeatureSet> {
        self.namespace.api()
    }

    pub async fn apply(&self, kind: &str, name: &str, spec: Value) -> Result<()> {
        self.namespace.apply(&manifest(kind, name, spec).to_string()).await
    }

    /// The program in this environment, not on a terminal.
    pub async fn features(&self, arguments: &[&str]) -> Result<Ended> {
        self.features_with(arguments, "").await
    }

    /// The same, with standard input.
    pub async fn features_with(&self, arguments: &[&str], input: &str) -> Result<Ended> {
        let mut child = self.command(PROGRAM).args(arguments).args(["--environment", self.name()]).spawn()?;
        let mut stdin = child.stdin.take().context("piped")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = tokio::time::timeout(backfill_e2e::LIMIT, child.wait_with_output()).await.context("it does not end")??;
        Ok(Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// A program with this environment's variables and pipes.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.shared.cluster.folder())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The backfill of May, created by the program under this name.
    pub async fn may(&self, name: &str, more: &[&str]) -> Result<Ended> {
        let what =
            ["backfill", "--feature-set", "user-clicks", "--start-time", "2024-05-01", "--stop-time", "2024-06-01", "--yes"];
        self.features(&[&what[..], &["--backfill-name", name], more].concat()).await
    }

    /// What pods of a backfill's step do from now on.
    pub fn pods(&self, backfill: &str, step: &'static str, act: Act) -> Rule {
        let (namespace, backfill) = (self.name().to_owned(), backfill.to_owned());
        let is = move |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            let has = |key: &str, value: &str| labels.and_then(|labels| labels.get(key)).is_some_and(|found| found == value);
            pod.metadata.namespace.as_ref() == Some(&namespace) && has(label::BACKFILL, &backfill) && has(label::STEP, step)
        };
        self.shared.kubelet.script().set(is, act)
    }

    /// What pods of lookups do from now on.
    pub fn lookups(&self, act: Act) -> Rule {
        let namespace = self.name().to_owned();
        let is = move |pod: &Pod| {
            let manager = pod.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
            pod.metadata.namespace.as_ref() == Some(&namespace) && manager.is_some_and(|manager| manager == LOOKUP_MANAGER)
        };
        self.shared.kubelet.script().set(is, act)
    }

    /// The pods of this namespace print this from now on.
    pub fn pods_print(&self, log: &str) {
        self.shared.logs.set(self.name(), log);
    }

    /// Waits until the backfill shows this phase.
    pub async fn phase(&self, name: &str, phase: &str) -> Result<FeatureSetBackfill> {
        until(&self.backfills(), name, in_phase(phase)).await?.context("it was deleted")
    }
}

/// A feature set's spec.
pub fn set(view: &str, source: &str) -> Value {
    json!({
        "view": view,
        "entities": [{ "name": "user_id", "type": "int64" }],
        "timestampColumn": "t",
        "features": [{ "name": "amount", "type": "int64" }, { "name": "tags", "type": "list<string>" }],
        "sources": [{ "name": source, "parquet": { "uri": "s3://bucket/raw/" } }],
        "transformation": { "sql": format!("SELECT user_id, t, amount, tags FROM {source}") },
        "windows": { "every": "1d" },
        "online": { "ttl": "30d" },
    })
}
