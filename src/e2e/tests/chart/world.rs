//! A cluster on which the chart is installed, and people with its roles.

use anyhow::{Context, Result, anyhow};
use backfill_core::api::FeatureSetBackfill;
use backfill_e2e::helm::CHART;
use backfill_e2e::{Cluster, Kubelet, Namespace, Operator, OperatorOptions, Output, Who, eventually, manifest};
use kube::Api;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::LazyLock;
use tokio::runtime::Runtime;

/// The namespace and the name of the release.
pub const RELEASE: &str = "backfill-operator";

/// A cluster on which the chart is installed for all namespaces, with the operator at work.
pub struct Installed {
    pub cluster: Cluster,
    pub kubelet: Kubelet,
    pub operator: Operator,
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// Runs the body of a test on the cluster that tests of this process share.
pub fn installed(body: impl AsyncFnOnce(&'static Installed) -> Result<()>) -> Result<()> {
    static SHARED: LazyLock<Result<Installed>> = LazyLock::new(|| RUNTIME.block_on(start()));
    let shared = SHARED.as_ref().map_err(|error| anyhow!("the chart was not installed: {error:#}"))?;
    RUNTIME.block_on(body(shared))
}

/// Runs the body of a test that needs no cluster, or one of its own.
pub fn alone(body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    RUNTIME.block_on(body())
}

async fn start() -> Result<Installed> {
    let (cluster, kubelet) = empty().await?;
    install(&cluster, RELEASE, &[]).await?;
    let operator = operator(&cluster, RELEASE, &[]).await?;
    established(&cluster).await?;
    Ok(Installed { cluster, kubelet, operator })
}

/// A cluster without our resources.
pub async fn empty() -> Result<(Cluster, Kubelet)> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    cluster.kubectl(&["delete", "customresourcedefinitions", "--all"]).await?.ok()?;
    Ok((cluster, kubelet))
}

/// Installs the chart as a release in a namespace of its name.
pub async fn install(cluster: &Cluster, release: &str, more: &[&str]) -> Result<()> {
    let arguments = ["install", release, CHART, "--namespace", release, "--create-namespace"];
    cluster.helm(&[&arguments, more].concat()).await?.ok().map(drop)
}

/// Starts an operator as the release's Deployment would: under its account, with its lease and its templates.
pub async fn operator(cluster: &Cluster, release: &str, namespaces: &[&str]) -> Result<Operator> {
    let account = Who::ServiceAccount { namespace: release.to_owned(), name: RELEASE.to_owned() };
    let account = match release {
        RELEASE => account,
        other => Who::ServiceAccount { namespace: other.to_owned(), name: format!("{other}-{RELEASE}") },
    };
    let templates = format!("{CHART}/files/cluster-templates.yaml");
    let mut operator = Operator::start(
        &cluster.kubeconfig_of(&account, None).await?,
        &OperatorOptions {
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            lease_namespace: Some(release.to_owned()),
            arguments: vec!["--cluster-templates".to_owned(), templates],
            environment: Vec::new(),
        },
    )?;
    let leads = eventually("the operator to lead", async || {
        operator.check()?;
        let answer = operator.get("/metrics").await.unwrap_or_default();
        Ok(answer.contains("\nleader_election_master_status 1").then_some(()))
    })
    .await;
    leads.with_context(|| operator.log())?;
    Ok(operator)
}

/// Waits until the admission policies refuse: the API server takes a moment to read them.
pub async fn established(cluster: &Cluster) -> Result<()> {
    let forged = child("ConfigMap", "probe").to_string();
    eventually("the admission policies to be in force", async || {
        let answer = cluster.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &forged).await?;
        Ok(answer.stderr.contains("is the operator's").then_some(()))
    })
    .await
}

/// An object that looks like one of the operator's.
pub fn child(kind: &str, name: &str) -> Value {
    let labels = json!({ "app.kubernetes.io/managed-by": "backfill-operator", "featureset.dev/uid": "1" });
    let metadata = json!({ "name": name, "labels": labels });
    match kind {
        "Job" => json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "worker", "image": "worker" }],
        } } } }),
        kind => json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata }),
    }
}

pub fn store() -> Value {
    let online = json!({ "redis": { "urlSecret": { "name": "redis", "key": "url" } } });
    let spec = json!({ "offline": { "uri": "s3://bucket/tables" }, "online": online, "defaultClusterTemplate": "small" });
    manifest("FeatureStore", "default", spec)
}

pub fn feature_set(name: &str) -> Value {
    manifest(
        "FeatureSet",
        name,
        json!({
            "entities": [{ "name": "user_id", "type": "int64" }],
            "timestampColumn": "t",
            "features": [{ "name": "amount", "type": "int64" }],
            "sources": [{ "name": "raw", "parquet": { "uri": "s3://bucket/raw/" } }],
            "transformation": { "sql": "SELECT user_id, t, amount FROM raw" },
        }),
    )
}

/// A backfill of May of `clicks`.
pub fn may(name: &str) -> Value {
    manifest("FeatureSetBackfill", name, json!({ "featureSet": "clicks", "startTime": "2024-05-01", "stopTime": "2024-06-01" }))
}

/// A backfill of `clicks` that replaces everything.
pub fn reset(name: &str) -> Value {
    manifest("FeatureSetBackfill", name, json!({ "featureSet": "clicks", "reset": true, "startTime": "2024-01-01" }))
}

pub fn undo(name: &str, of: &str) -> Value {
    manifest("FeatureSetBackfill", name, json!({ "featureSet": "clicks", "undo": of }))
}

/// A new namespace with a store and the feature set `clicks`.
pub async fn environment(cluster: &Cluster) -> Result<Namespace> {
    let namespace = cluster.namespace("env").await?;
    namespace.apply(&store().to_string()).await?;
    namespace.apply(&feature_set("clicks").to_string()).await?;
    Ok(namespace)
}

/// Applies backfills, one after the other, and waits until each is complete.
pub async fn complete(namespace: &Namespace, backfills: &[Value]) -> Result<()> {
    for backfill in backfills {
        namespace.apply(&backfill.to_string()).await?;
        in_phase(namespace, backfill["metadata"]["name"].as_str().context("a name")?, "Complete").await?;
    }
    Ok(())
}

/// Waits until a backfill shows this phase.
pub async fn in_phase(namespace: &Namespace, name: &str, phase: &str) -> Result<FeatureSetBackfill> {
    let api: Api<FeatureSetBackfill> = namespace.api();
    backfill_e2e::until(&api, name, backfill_e2e::in_phase(phase)).await?.context("it was deleted")
}

/// A person to whom a role of the cluster is bound in a namespace.
pub async fn person(namespace: &Namespace, name: &str, role: &str) -> Result<Who> {
    let (role, user) = (format!("--clusterrole={role}"), format!("--user={name}"));
    namespace.kubectl(&["create", "rolebinding", name, &role, &user]).await?.ok()?;
    Ok(Who::User { name: name.to_owned(), groups: vec!["system:authenticated".to_owned()] })
}

/// kubectl in a namespace as somebody.
pub struct Hand {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Hand {
    pub async fn of(cluster: &Cluster, who: &Who, namespace: &Namespace) -> Result<Self> {
        Ok(Self { kubeconfig: cluster.kubeconfig_of(who, None).await?, namespace: namespace.name().to_owned() })
    }

    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let arguments = [&["--namespace", &self.namespace], arguments].concat();
        backfill_e2e::kubectl(&self.kubeconfig, &arguments, input).await
    }

    pub async fn create(&self, object: &Value) -> Result<Output> {
        self.kubectl(&["create", "-f", "-"], &object.to_string()).await
    }
}
