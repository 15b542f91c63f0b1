//! The cluster that all tests of this process share, with the operator installed, and a namespace of one test in it.

use crate::data;
use crate::stores::{Stores, is_available, project};
use anyhow::{Context, Result, anyhow, bail, ensure};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::ConditionType;
use backfill_core::plan::run::label;
use backfill_e2e::helm::CHART;
use backfill_e2e::{
    Cluster, Namespace, Options, eventually_within, manifest, programs, skip_long, skip_without_nodes, until, until_within,
    wants_long,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// How long a backfill may take, with the machine busy with those of other tests.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How many tests run at the same time.
const AT_ONCE: usize = 3;

/// How long a backfill of Spark in several pods may take, when some of them are killed.
pub const PATIENCE_OF_SPARK: Duration = Duration::from_secs(420);

/// The namespace of the operator.
pub const SYSTEM: &str = "backfill-system";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// Runs the body of a test on the shared cluster, in a namespace of its own, or says why it is skipped.
pub fn test<F: AsyncFnOnce(World) -> Result<()>>(body: F) -> Result<()> {
    static SHARED: LazyLock<Result<Cluster>> = LazyLock::new(|| RUNTIME.block_on(start()));
    if skip_without_nodes(&name_of::<F>())? {
        return Ok(());
    }
    let cluster = SHARED.as_ref().map_err(|error| anyhow!("the cluster did not start: {error:#}"))?;
    // The node has as many processors as this machine: more tests at once only wait for each other's pods.
    static ROOM: Semaphore = Semaphore::const_new(AT_ONCE);
    RUNTIME.block_on(async {
        let _room = ROOM.acquire().await?;
        body(World::new(cluster).await?).await
    })
}

/// The same for a test that takes minutes, for which only `make test-long` has the patience.
pub fn long_test<F: AsyncFnOnce(World) -> Result<()>>(body: F) -> Result<()> {
    if skip_long(&name_of::<F>())? { Ok(()) } else { test(body) }
}

/// Runs the body of a test that needs nodes, but not the shared cluster.
pub fn alone<F: AsyncFnOnce() -> Result<()>>(body: F) -> Result<()> {
    if skip_without_nodes(&name_of::<F>())? { Ok(()) } else { RUNTIME.block_on(body()) }
}

/// The name of the function in which a body was written: the test.
fn name_of<F>() -> String {
    std::any::type_name::<F>().trim_end_matches("::{{closure}}").to_owned()
}

/// A cluster whose node has the images of this build; with two nodes, each of which has as many processors as this machine, where
/// several pods of Spark must run at the same time.
pub async fn with_images() -> Result<Cluster> {
    let nodes = if wants_long() { 2 } else { 1 };
    let cluster = Cluster::start_with(&Options { nodes, ..Options::default() }).await?;
    for image in programs::images().await? {
        cluster.nodes()?.import(&image).await?;
    }
    Ok(cluster)
}

async fn start() -> Result<Cluster> {
    let cluster = with_images().await?;
    install(&cluster).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), SYSTEM);
    until(&deployments, "backfill-operator", is_available).await?;
    Ok(cluster)
}

/// Installs the chart as users do, with the images of this build. The cluster has the definitions already.
async fn install(cluster: &Cluster) -> Result<()> {
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": restricted}});
    cluster.apply(&namespace.to_string()).await?;
    let values = [
        "crds.install=false",
        "image.repository=backfill-operator",
        "image.tag=test",
        "worker.image.repository=backfill-worker",
        "worker.image.tag=test",
        "worker.image.pullPolicy=Never",
        "spark.enabled=true",
        "spark.image.repository=backfill-worker-spark",
        "spark.image.tag=test",
        "log.format=text",
    ];
    let mut arguments = vec!["install", "backfill-operator", CHART, "--namespace", SYSTEM];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    cluster.helm(&arguments).await?.ok()?;
    let template = json!({
        "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": {"name": "test"},
        "spec": {
            "engine": "DataFusion", "cores": 1, "memory": "1Gi", "scratch": "1Gi",
            "online": {"parallelism": 1, "cores": 1, "memory": "512Mi"},
        },
    });
    cluster.apply(&template.to_string()).await
}

/// A namespace whose pods must be restricted, with stores, a feature set `clicks` and its source.
pub struct World {
    pub cluster: &'static Cluster,
    pub namespace: Namespace,
    pub stores: Stores,
}

impl World {
    async fn new(cluster: &'static Cluster) -> Result<Self> {
        let namespace = cluster.namespace("real").await?;
        let name = namespace.name().to_owned();
        cluster.kubectl(&["label", "namespace", &name, "pod-security.kubernetes.io/enforce=restricted"]).await?.ok()?;
        let stores = Stores::start(&namespace).await?;
        let world = Self { cluster, namespace, stores };
        world.apply("FeatureStore", "default", store_spec(&world.namespace)).await?;
        world.apply("FeatureSet", "clicks", set_spec()).await?;
        Ok(world)
    }

    /// Fills the table with rows of version 1.
    pub async fn filled(&self) -> Result<()> {
        self.stores.put_source(1).await?;
        self.backfill("fill", json!({"reset": true, "startTime": "2024-05-01", "stopTime": "2024-06-01"})).await?;
        self.complete("fill").await?;
        self.holds(1).await
    }

    /// Applies the backfill that corrects the interval.
    pub async fn correct(&self, name: &str) -> Result<()> {
        self.backfill(name, json!({"startTime": data::INTERVAL.0, "stopTime": data::INTERVAL.1})).await
    }

    /// Applies a backfill of `clicks`.
    pub async fn backfill(&self, name: &str, mut spec: Value) -> Result<()> {
        spec["featureSet"] = json!("clicks");
        self.apply("FeatureSetBackfill", name, spec).await
    }

    pub async fn apply(&self, kind: &str, name: &str, spec: Value) -> Result<()> {
        self.namespace.apply(&manifest(kind, name, spec).to_string()).await
    }

    pub fn backfills(&self) -> Api<FeatureSetBackfill> {
        self.namespace.api()
    }

    /// Waits until the backfill is complete; fails as soon as it has failed.
    pub async fn complete(&self, name: &str) -> Result<FeatureSetBackfill> {
        self.ended(name, "Complete").await
    }

    /// Waits until the backfill has ended with this condition; fails as soon as it has ended otherwise.
    pub async fn ended(&self, name: &str, how: &str) -> Result<FeatureSetBackfill> {
        self.ended_within(name, how, PATIENCE).await
    }

    /// The same with another limit.
    pub async fn ended_within(&self, name: &str, how: &str, limit: Duration) -> Result<FeatureSetBackfill> {
        let ended = |backfill: Option<&FeatureSetBackfill>| {
            backfill.is_none_or(|backfill| ["Complete", "Failed"].iter().any(|word| is(backfill, word)))
        };
        let found = match until_within(&self.backfills(), name, ended, limit).await {
            Ok(found) => found.context("it was deleted")?,
            Err(error) => return Err(error.context(self.pods().await?)),
        };
        if is(&found, how) { Ok(found) } else { bail!("{name} is not {how}: {:#?}\n{}", found.status, self.pods().await?) }
    }

    /// Waits until a condition has this reason, and returns its message.
    pub async fn says(&self, name: &str, kind: ConditionType, reason: &str) -> Result<String> {
        self.says_within(name, kind, reason, PATIENCE).await
    }

    /// The same with another limit.
    pub async fn says_within(&self, name: &str, kind: ConditionType, reason: &str, limit: Duration) -> Result<String> {
        let message = |backfill: &FeatureSetBackfill| {
            let conditions = backfill.status.iter().flat_map(|status| &status.conditions);
            let mut found = conditions.filter(|condition| condition.kind == kind && condition.reason.word() == reason);
            found.next().map(|condition| condition.message.clone())
        };
        let seen = |backfill: Option<&FeatureSetBackfill>| backfill.is_some_and(|backfill| message(backfill).is_some());
        let found = until_within(&self.backfills(), name, seen, limit).await?.context("it was deleted")?;
        message(&found).context("it was there")
    }

    /// The pods of a step.
    pub async fn pods_of(&self, backfill: &str, step: &str) -> Result<Vec<Pod>> {
        let labels = format!("{}={backfill},{}={step}", label::BACKFILL, label::STEP);
        Ok(self.namespace.api::<Pod>().list(&ListParams::default().labels(&labels)).await?.items)
    }

    /// Waits until the pod of a step is seen that satisfies a condition.
    pub async fn pod_of(&self, backfill: &str, step: &str, is: impl Fn(&Pod) -> bool) -> Result<Pod> {
        eventually_within(&format!("a pod of {backfill} {step}"), PATIENCE, async || {
            Ok(self.pods_of(backfill, step).await?.into_iter().find(|pod| is(pod)))
        })
        .await
    }

    /// The uid of a backfill.
    pub async fn uid(&self, backfill: &str) -> Result<String> {
        self.backfills().get(backfill).await?.uid().context("an object has a uid")
    }

    /// Kills all processes of a pod's containers, as the kernel kills what takes too much memory.
    pub async fn kill(&self, pod: &Pod) -> Result<()> {
        let uid = pod.uid().context("a pod has a uid")?;
        // A container may have ended since. The pod itself goes on: its first process is spared.
        let script = format!(
            "for file in $(find /sys/fs/cgroup -path '*pod{uid}/*' -name cgroup.procs | sort -u); do \
             for id in $(cat $file); do [ \"$(cat /proc/$id/comm)\" = pause ] || kill -9 $id; done; done 2> /dev/null || :"
        );
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("it was given to a node")?;
        let nodes = self.cluster.nodes()?;
        nodes.run(nodes.number(node)?, &["sh", "-c", &script]).await.map(drop)
    }

    /// Checks that both stores hold rows of version `inside` in the interval and of version 1 outside.
    pub async fn holds(&self, inside: i64) -> Result<()> {
        let (found, wanted) = (self.stores.offline().await?, data::mixed(inside, 1));
        let differing: Vec<&String> = found.symmetric_difference(&wanted).take(3).collect();
        ensure!(found == wanted, "offline holds {} rows, not {}; such as {differing:?}", found.len(), wanted.len());
        let users: Vec<i64> = (1..=data::USERS).collect();
        let wanted: Vec<i64> = users.iter().map(|user| data::online(*user, inside, 1)).collect();
        ensure!(self.stores.online(&users).await? == wanted, "online does not follow offline");
        Ok(())
    }

    /// What the pods of this namespace are at, and why, for a test that fails.
    async fn pods(&self) -> Result<String> {
        let pods = self.namespace.kubectl(&["get", "pods", "--output", "wide"]).await?.stdout;
        let events = self.namespace.api::<Event>().list(&ListParams::default()).await?;
        let said: BTreeSet<String> = events.items.into_iter().filter_map(|event| event.message).collect();
        let log =
            self.cluster.kubectl(&["logs", "--namespace", SYSTEM, "deployment/backfill-operator", "--tail=20"]).await?.stdout;
        Ok(format!("{pods}{}\n{log}", said.into_iter().collect::<Vec<_>>().join("\n")))
    }
}

/// Whether a condition is true.
pub fn is(backfill: &FeatureSetBackfill, word: &str) -> bool {
    let found = serde_json::to_value(backfill).unwrap_or_default();
    let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == word && condition["status"] == "True")
}

pub fn store_spec(namespace: &Namespace) -> Value {
    json!({
        "project": project(namespace),
        "offline": {"uri": "s3://bucket/tables", "credentialsSecret": "s3"},
        "online": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}},
        "defaultClusterTemplate": "test",
    })
}

fn set_spec() -> Value {
    json!({
        "entities": [{"name": "user_id", "type": "int64"}],
        "timestampColumn": "t",
        "features": [{"name": "version", "type": "int64"}, {"name": "twin", "type": "int64"}],
        "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw.parquet"}}],
        "transformation": {"sql": "SELECT user_id, t, version, twin FROM raw"},
    })
}
