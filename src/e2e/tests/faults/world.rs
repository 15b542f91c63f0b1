//! A cluster for all runs; for each run a namespace, a proxy, and operators that are started anew when they were killed.

use crate::fault::{Fault, What};
use crate::history::History;
use crate::meddler::Meddler;
use anyhow::{Context, Result};
use backfill_core::api::{FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::plan::run::label;
use backfill_e2e::kubelet::{Rule, Run};
use backfill_e2e::{
    Act, Cluster, Kubelet, Namespace, Operator, OperatorOptions, Proxy, Who, eventually, in_phase, manifest, until,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

/// Nothing more is expected of an operator that has written nothing for so long.
const QUIET: Duration = Duration::from_millis(300);

/// How often it is looked whether an operator has ended by itself.
const PACE: Duration = Duration::from_millis(500);

/// What all runs share.
pub struct Shared {
    pub cluster: Cluster,
    pub kubelet: Kubelet,
    pub history: History,
}

impl Shared {
    pub async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let kubelet = Kubelet::start(cluster.client()).await?;
        let spec = json!({ "engine": "DataFusion", "cores": 2, "memory": "4Gi", "online": { "parallelism": 1, "cores": 1, "memory": "1Gi" } });
        cluster.apply(&manifest("ClusterTemplate", "small", spec).to_string()).await?;
        let history = History::of(&cluster.client());
        Ok(Self { cluster, kubelet, history })
    }
}

/// An operator and those that follow it when it is killed.
#[derive(Default)]
pub struct Fleet {
    start: OnceLock<(PathBuf, OperatorOptions)>,
    operators: Mutex<Operators>,
    crashed: Notify,
}

#[derive(Default)]
struct Operators {
    killed: Vec<Operator>,
    at_work: Option<Operator>,
}

impl Fleet {
    /// Kills the operator.
    pub async fn crash(&self) {
        let mut operators = self.operators.lock().await;
        if let Some(mut operator) = operators.at_work.take() {
            operator.kill();
            operators.killed.push(operator);
        }
        self.crashed.notify_one();
    }

    /// Starts an operator, and the next one whenever one was killed. Fails when one ends by itself that has no lease to lose.
    async fn keep(&self) -> Result<()> {
        let (kubeconfig, options) = self.start.get().context("it is known how")?;
        loop {
            self.operators.lock().await.at_work = Some(Operator::start(kubeconfig, options)?);
            while tokio::time::timeout(PACE, self.crashed.notified()).await.is_err() {
                if let (None, Some(operator)) = (&options.lease_namespace, &mut self.operators.lock().await.at_work) {
                    operator.check()?;
                }
            }
        }
    }

    /// The logs of all of them, the ends of.
    async fn logs(&self) -> String {
        let operators = self.operators.lock().await;
        let end = |log: String| log.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        let all = operators.killed.iter().chain(&operators.at_work);
        all.map(|operator| end(operator.log())).collect::<Vec<_>>().join("\n--- the next operator\n")
    }

    /// Whether the operator at work answers with something that contains this.
    async fn says(&self, path: &str, what: &str) -> bool {
        match &self.operators.lock().await.at_work {
            Some(operator) => operator.get(path).await.is_ok_and(|answer| answer.contains(what)),
            None => false,
        }
    }
}

/// A proxy and its operators.
struct Side {
    fleet: Arc<Fleet>,
    meddler: Arc<Meddler>,
    _proxy: Proxy,
}

/// One run.
pub struct World {
    pub shared: Arc<Shared>,
    pub namespace: Namespace,
    pub fault: Option<Fault>,
    sides: Vec<Side>,
}

impl World {
    pub async fn new(shared: Arc<Shared>, fault: Option<Fault>, reference: &[String]) -> Result<Self> {
        let namespace = shared.cluster.namespace("fault").await?;
        let what = fault.map(|fault| fault.what);
        let mut sides = Vec::new();
        for _ in 0..if matches!(what, Some(What::Twins | What::Replicas)) { 2 } else { 1 } {
            let fleet = Arc::new(Fleet::default());
            let meddler = Arc::new(Meddler::new(fault, reference, Arc::clone(&fleet)));
            let asked = Arc::clone(&meddler);
            let proxy =
                Proxy::start(shared.cluster.client(), move |request, server| Arc::clone(&asked).meddle(request, server)).await?;
            let kubeconfig = shared.cluster.kubeconfig_of(&Who::Admin, Some(proxy.url())).await?;
            let lease_namespace = matches!(what, Some(What::Replicas)).then(|| namespace.name().to_owned());
            let options =
                OperatorOptions { namespaces: vec![namespace.name().to_owned()], lease_namespace, ..OperatorOptions::default() };
            fleet.start.get_or_init(|| (kubeconfig, options));
            sides.push(Side { fleet, meddler, _proxy: proxy });
        }
        let world = Self { shared, namespace, fault, sides };
        let store = json!({
            "offline": { "uri": "s3://bucket/tables", "credentialsSecret": "s3" },
            "online": { "redis": { "urlSecret": { "name": "redis", "key": "url" } } },
        });
        world.create::<FeatureStore>("FeatureStore", "default", store).await?;
        let set = json!({
            "entities": [{ "name": "user_id", "type": "int64" }],
            "timestampColumn": "t",
            "features": [{ "name": "amount", "type": "int64" }],
            "sources": [{ "name": "raw", "parquet": { "uri": "s3://bucket/raw/" } }],
            "transformation": { "sql": "SELECT user_id, t, amount FROM raw" },
        });
        world.create::<FeatureSet>("FeatureSet", "clicks", set).await?;
        Ok(world)
    }

    /// Keeps the operators running.
    pub async fn keep(&self) -> Result<()> {
        let (first, second) = (&self.sides[0].fleet, self.sides.get(1).map(|side| &side.fleet));
        let second = async {
            match second {
                Some(second) => {
                    // The first is to lead.
                    if self.is(What::Replicas) {
                        self.leads(0).await?;
                    }
                    second.keep().await
                }
                None => std::future::pending().await,
            }
        };
        futures::future::try_join(first.keep(), second).await.map(drop)
    }

    pub fn is(&self, what: What) -> bool {
        self.fault.is_some_and(|fault| fault.what == what)
    }

    async fn leads(&self, side: usize) -> Result<()> {
        eventually("the operator to lead", async || {
            Ok(self.sides[side].fleet.says("/metrics", "\nleader_election_master_status 1").await.then_some(()))
        })
        .await
    }

    /// While a backfill runs: what needs that.
    pub async fn running(&self) -> Result<()> {
        if self.is(What::Replicas) {
            self.sides[0].meddler.delay_leases();
            self.leads(1).await?;
        }
        Ok(())
    }

    /// Waits until nobody has anything left to do.
    pub async fn quiet(&self) -> Result<()> {
        let ready = async || {
            for side in &self.sides {
                // One of two that lost its lease has ended.
                if !self.is(What::Replicas) && !side.fleet.says("/readyz", "200 OK").await {
                    return false;
                }
            }
            self.sides.iter().all(|side| side.meddler.is_quiet(QUIET))
        };
        eventually("the operators to be ready and quiet", async || Ok(ready().await.then_some(()))).await
    }

    /// What pods have done.
    pub fn runs(&self) -> Vec<Run> {
        self.shared.kubelet.tables().runs(self.namespace.name())
    }

    pub fn writes(&self) -> Vec<String> {
        self.sides[0].meddler.writes()
    }

    pub fn fired(&self) -> bool {
        self.sides.iter().any(|side| side.meddler.fired())
    }

    /// The Jobs and pods as they are, for whoever looks for what went wrong.
    pub async fn children(&self) -> String {
        let (jobs, pods) = (self.namespace.api::<Job>(), self.namespace.api::<Pod>());
        let found = async {
            let jobs = jobs.list(&Default::default()).await?.items.into_iter().map(|job| json!([job.metadata.name, job.status]));
            let pods = pods.list(&Default::default()).await?.items.into_iter().map(|pod| json!([pod.metadata.name, pod.status]));
            anyhow::Ok(jobs.chain(pods).map(|child| child.to_string()).collect::<Vec<_>>().join("\n"))
        };
        found.await.unwrap_or_else(|error| error.to_string())
    }

    pub async fn logs(&self) -> String {
        futures::future::join_all(self.sides.iter().map(|side| side.fleet.logs())).await.join("\n=== the other side\n")
    }

    pub fn backfills(&self) -> Api<FeatureSetBackfill> {
        self.namespace.api()
    }

    pub async fn create<K>(&self, kind: &str, name: &str, spec: Value) -> Result<()>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(manifest(kind, name, spec))?;
        self.namespace.api::<K>().create(&PostParams::default(), &object).await.with_context(|| format!("create {name}"))?;
        Ok(())
    }

    pub async fn backfill(&self, name: &str, spec: Value) -> Result<()> {
        self.create::<FeatureSetBackfill>("FeatureSetBackfill", name, spec).await
    }

    /// Waits until the backfill shows this phase.
    pub async fn phase(&self, name: &str, phase: &str) -> Result<()> {
        until(&self.backfills(), name, in_phase(phase)).await.map(drop)
    }

    /// Waits until nobody holds the feature set, a slot or a backfill.
    pub async fn released(&self) -> Result<()> {
        eventually("everything to be let go", async || {
            let set = self.namespace.api::<FeatureSet>().get("clicks").await?;
            let store = self.namespace.api::<FeatureStore>().get("default").await?;
            let backfills = self.backfills().list(&Default::default()).await?;
            let busy = store.status.is_some_and(|status| !status.running.is_empty());
            let held = set.status.as_ref().is_some_and(|status| status.active.is_some()) || !set.finalizers().is_empty();
            let bound = backfills.iter().any(|backfill| !backfill.finalizers().is_empty());
            Ok((!held && !busy && !bound).then_some(()))
        })
        .await
    }

    /// The pods of the offline step of a backfill run until the rule is removed.
    pub fn hold(&self, backfill: &'static str) -> Rule {
        let namespace = self.namespace.name().to_owned();
        let is = move |pod: &Pod| {
            let has = |key: &str, value: &str| pod.labels().get(key).is_some_and(|found| found == value);
            pod.metadata.namespace.as_ref() == Some(&namespace) && has(label::BACKFILL, backfill) && has(label::STEP, "offline")
        };
        self.shared.kubelet.script().set(is, Act::run())
    }
}
