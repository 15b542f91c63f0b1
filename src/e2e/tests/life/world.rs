//! A namespace with a store and a feature set, and what users do and see there.

use anyhow::{Context, Result, anyhow, bail};
use backfill_core::api::{FeatureSet, FeatureSetBackfill, FeatureSetBackfillStatus, FeatureStore};
use backfill_core::condition::{ConditionStatus, ConditionType};
use backfill_core::plan::run::label;
use backfill_e2e::kubelet::{Rule, Run, index_of, overlapping};
use backfill_e2e::{Act, Cluster, Kubelet, Namespace, Operator, OperatorOptions, eventually, in_phase, manifest, until};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::sync::LazyLock;
use tokio::runtime::Runtime;

/// The table of the feature set `clicks`.
pub const TABLE: &str = "s3://bucket/tables/clicks";

/// What all tests of this process share.
pub struct Shared {
    pub cluster: Cluster,
    pub kubelet: Kubelet,
    _operator: Operator,
}

/// Runs the body of a test on the shared cluster, in a namespace of its own.
pub fn test(body: impl AsyncFnOnce(World) -> Result<()>) -> Result<()> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));
    static SHARED: LazyLock<Result<Shared>> = LazyLock::new(|| RUNTIME.block_on(start()));
    let shared = SHARED.as_ref().map_err(|error| anyhow!("the cluster did not start: {error:#}"))?;
    RUNTIME.block_on(async {
        let world = World::new(shared).await?;
        let kubelet = &shared.kubelet;
        let namespace = world.namespace.name().to_owned();
        body(world).await?;
        let runs = kubelet.tables().runs(&namespace);
        let met = overlapping(&runs);
        if met.is_empty() { Ok(()) } else { bail!("pods of one feature set lived at the same time: {met:#?}") }
    })
}

async fn start() -> Result<Shared> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    let template = json!({
        "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": { "name": "small" },
        "spec": { "engine": "DataFusion", "cores": 2, "memory": "4Gi", "online": { "parallelism": 2, "cores": 1, "memory": "1Gi" } },
    });
    cluster.apply(&template.to_string()).await?;
    let operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
    Ok(Shared { cluster, kubelet, _operator: operator })
}

/// A namespace with a store `default` and a feature set `clicks`.
pub struct World {
    pub shared: &'static Shared,
    pub namespace: Namespace,
}

impl World {
    async fn new(shared: &'static Shared) -> Result<Self> {
        let world = Self { shared, namespace: shared.cluster.namespace("life").await? };
        world.store(json!({})).await?;
        world.feature_set("clicks").await?;
        Ok(world)
    }

    pub fn backfills(&self) -> Api<FeatureSetBackfill> {
        self.namespace.api()
    }

    pub fn sets(&self) -> Api<FeatureSet> {
        self.namespace.api()
    }

    /// Creates or changes the store.
    pub async fn store(&self, change: Value) -> Result<()> {
        let mut spec = store_spec();
        merge(&mut spec, change);
        self.apply("FeatureStore", "default", spec).await
    }

    pub async fn feature_set(&self, name: &str) -> Result<()> {
        self.apply("FeatureSet", name, set_spec()).await
    }

    pub async fn apply(&self, kind: &str, name: &str, spec: Value) -> Result<()> {
        self.namespace.apply(&manifest(kind, name, spec).to_string()).await
    }

    /// Applies a backfill of `clicks`; without boundaries of its own it is that of May.
    pub async fn backfill(&self, name: &str, spec: Value) -> Result<()> {
        self.apply("FeatureSetBackfill", name, of_may(spec)).await
    }

    /// The backfill of May, whose offline step runs until the rule is changed.
    pub async fn running(&self, name: &str) -> Result<(Rule, Seen)> {
        let rule = self.pods("offline", Act::run());
        self.backfill(name, json!({})).await?;
        Ok((rule, self.phase(name, "Running").await?))
    }

    /// The backfill of May, published, whose online step runs until the rule is changed.
    pub async fn published(&self, name: &str) -> Result<(Rule, Seen)> {
        let rule = self.pods("online", Act::run());
        self.backfill(name, json!({})).await?;
        Ok((rule, self.reason(name, ConditionType::OfflineReplaced, "Replaced").await?))
    }

    pub async fn patch(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.backfills().patch(name, &PatchParams::default(), &patch).await.map(drop).with_context(|| format!("patch {name}"))
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.backfills().delete(name, &DeleteParams::default()).await.map(drop).with_context(|| format!("delete {name}"))
    }

    /// Changes the status behind the operator's back, so that a test need not live through the minutes that it tells of.
    pub async fn edit_status(&self, name: &str, edit: impl Fn(&mut FeatureSetBackfillStatus)) -> Result<()> {
        eventually(&format!("the status of {name} to be edited"), async || {
            let mut found = self.backfills().get(name).await?;
            edit(found.status.get_or_insert_default());
            match self.backfills().replace_status(name, &PostParams::default(), &found).await {
                Ok(_) => Ok(Some(())),
                // The operator was faster.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    pub async fn get(&self, name: &str) -> Result<Seen> {
        Ok(Seen(self.backfills().get(name).await?))
    }

    /// Waits until the backfill shows this phase.
    pub async fn phase(&self, name: &str, phase: &str) -> Result<Seen> {
        Ok(Seen(until(&self.backfills(), name, in_phase(phase)).await?.context("it was deleted")?))
    }

    /// Waits until a condition has this reason.
    pub async fn reason(&self, name: &str, kind: ConditionType, reason: &str) -> Result<Seen> {
        let is = |backfill: Option<&FeatureSetBackfill>| {
            let conditions =
                backfill.iter().filter_map(|backfill| backfill.status.as_ref()).flat_map(|status| &status.conditions);
            conditions.filter(|condition| condition.kind == kind).any(|condition| condition.reason.word() == reason)
        };
        Ok(Seen(until(&self.backfills(), name, is).await?.context("it was deleted")?))
    }

    /// Waits until the backfill is gone.
    pub async fn gone(&self, name: &str) -> Result<()> {
        until(&self.backfills(), name, |backfill: Option<&FeatureSetBackfill>| backfill.is_none()).await.map(drop)
    }

    /// Waits for an event of this reason, also about what is gone by now; returns what it says.
    pub async fn event(&self, reason: &str) -> Result<String> {
        eventually(&format!("an event {reason}"), async || {
            let events = self.namespace.api::<Event>().list(&ListParams::default()).await?;
            Ok(events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason)).and_then(|event| event.message))
        })
        .await
    }

    /// Waits until nobody holds the feature set, a slot or the backfill.
    pub async fn released(&self, set: &str) -> Result<FeatureSet> {
        eventually("everything to be let go", async || {
            let found = self.sets().get(set).await?;
            let stores = self.namespace.api::<FeatureStore>().list(&ListParams::default()).await?;
            let busy = stores.iter().flat_map(|store| &store.status).any(|status| !status.running.is_empty());
            let held = found.status.as_ref().is_some_and(|status| status.active.is_some()) || !found.finalizers().is_empty();
            Ok((!held && !busy).then_some(found))
        })
        .await
    }

    /// What pods of this namespace of a step do from now on.
    pub fn pods(&self, step: &'static str, act: Act) -> Rule {
        self.pods_that(step, |_| true, act)
    }

    /// What the pods of one share of a step do from now on.
    pub fn pods_of_share(&self, step: &'static str, share: u32, act: Act) -> Rule {
        self.pods_that(step, move |pod| index_of(pod) == share, act)
    }

    fn pods_that(&self, step: &'static str, are: impl Fn(&Pod) -> bool + Send + Sync + 'static, act: Act) -> Rule {
        let namespace = self.namespace.name().to_owned();
        let is = move |pod: &Pod| {
            pod.metadata.namespace.as_ref() == Some(&namespace)
                && pod.labels().get(label::STEP).is_some_and(|found| found == step)
                && are(pod)
        };
        self.shared.kubelet.script().set(is, act)
    }

    /// What pods have done here.
    pub fn runs(&self) -> Vec<Run> {
        self.shared.kubelet.tables().runs(self.namespace.name())
    }

    /// The steps whose pods have run, as `offline 1`.
    pub fn steps(&self) -> Vec<String> {
        let mut steps: Vec<String> = self.runs().iter().map(|run| format!("{} {}", run.step, run.attempt)).collect();
        steps.dedup();
        steps
    }

    /// How often something was published here.
    pub fn publishes(&self) -> usize {
        self.runs().iter().filter(|run| run.published).count()
    }

    pub async fn jobs(&self) -> Result<Vec<Job>> {
        Ok(self.namespace.api::<Job>().list(&ListParams::default()).await?.items)
    }

    /// The statuses by the library of Flux and Helm.
    pub async fn kstatus(&self, backfill: &Seen) -> Result<String> {
        let mut object = serde_json::to_value(&backfill.0)?;
        object["apiVersion"] = json!("featureset.dev/v1alpha1");
        object["kind"] = json!("FeatureSetBackfill");
        let said = self.shared.cluster.kstatus(&[object]).await?.pop().context("an answer")?;
        Ok(said.split('\t').next().unwrap_or_default().to_owned())
    }

    /// Creates an object as it is.
    pub async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        Ok(self.namespace.api::<K>().create(&PostParams::default(), &serde_json::from_value(object)?).await?)
    }
}

/// A backfill as it was seen.
#[derive(Debug)]
pub struct Seen(pub FeatureSetBackfill);

impl Seen {
    /// `True`, `False`, or nothing where the table has a dash: Ready, Reconciling, Stalled, Complete, Failed.
    pub fn row(&self) -> String {
        use ConditionType::{Complete, Failed, Ready, Reconciling, Stalled};
        let word = |kind| match self.condition(kind) {
            None => "–",
            Some((ConditionStatus::True, ..)) => "True",
            Some((ConditionStatus::False, ..)) => "False",
            Some((ConditionStatus::Unknown, ..)) => "Unknown",
        };
        [Ready, Reconciling, Stalled, Complete, Failed].map(word).join(" ")
    }

    pub fn condition(&self, kind: ConditionType) -> Option<(ConditionStatus, &'static str, &str)> {
        let conditions = self.0.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let found = conditions.iter().find(|condition| condition.kind == kind)?;
        Some((found.status, found.reason.word(), &found.message))
    }

    pub fn reason(&self, kind: ConditionType) -> &'static str {
        self.condition(kind).map_or("", |(_, reason, _)| reason)
    }

    pub fn message(&self, kind: ConditionType) -> &str {
        self.condition(kind).map_or("", |(_, _, message)| message)
    }

    pub fn is(&self, kind: ConditionType) -> bool {
        matches!(self.condition(kind), Some((ConditionStatus::True, ..)))
    }
}

pub fn store_spec() -> Value {
    json!({
        "offline": { "uri": "s3://bucket/tables", "credentialsSecret": "s3" },
        "online": { "redis": { "urlSecret": { "name": "redis", "key": "url" } } },
    })
}

pub fn set_spec() -> Value {
    json!({
        "entities": [{ "name": "user_id", "type": "int64" }],
        "timestampColumn": "t",
        "features": [{ "name": "amount", "type": "int64" }],
        "sources": [{ "name": "raw", "parquet": { "uri": "s3://bucket/raw/" } }],
        "transformation": { "sql": "SELECT user_id, t, amount FROM raw" },
    })
}

/// The interval of May, unless the spec says what is replaced.
pub fn of_may(change: Value) -> Value {
    let bounded = ["reset", "undo", "startTime", "stopTime"].iter().any(|field| change.get(field).is_some());
    let mut spec = json!({ "featureSet": "clicks" });
    if !bounded {
        merge(&mut spec, json!({ "startTime": "2024-05-01", "stopTime": "2024-06-01" }));
    }
    merge(&mut spec, change);
    spec
}

fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            change.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, change) => *base = change,
    }
}
