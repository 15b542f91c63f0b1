//! Watches, and what is kept of them: no more than decisions need.

use crate::index::Index;
use crate::latest::Latest;
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::plan::rests;
use backfill_core::plan::run::{MANAGED_BY, MANAGER, label};
use futures::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Which namespaces are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Cluster,
    /// One.
    Namespace(String),
}

impl Scope {
    /// The objects of a kind in this scope.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// What is known of one scope.
pub struct Caches {
    /// The backfills; of ended ones no more than is needed to leave them alone.
    pub backfills: Store<FeatureSetBackfill>,
    /// The backfills of a feature set that have not ended.
    pub open: Index<FeatureSetBackfill>,
    /// The feature sets.
    pub feature_sets: Store<FeatureSet>,
    /// The stores.
    pub stores: Store<FeatureStore>,
    /// Our Jobs by the uid of their backfill, without their specs.
    pub jobs: Index<Job>,
    /// Our pods by the uid of their backfill, without their specs.
    pub pods: Index<Pod>,
    /// What our writes returned.
    pub written: Written,
}

/// What our writes returned, by kind.
#[derive(Default)]
pub struct Written {
    /// Backfills.
    pub backfills: Latest<FeatureSetBackfill>,
    /// Feature sets.
    pub feature_sets: Latest<FeatureSet>,
    /// Stores.
    pub stores: Latest<FeatureStore>,
}

/// What does not belong to a namespace.
pub struct ClusterCaches {
    /// The cluster templates.
    pub templates: Store<ClusterTemplate>,
    /// The namespaces' labels, and whether they are being deleted.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
}

/// Whether watches deliver: since when each that fails has been failing.
#[derive(Default)]
pub struct Health {
    failing: Mutex<HashMap<String, Instant>>,
}

impl Health {
    /// The watches that have failed for at least so long.
    pub fn failing(&self, at_least: Duration) -> Vec<String> {
        let failing = self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failing.iter().filter(|(_, since)| since.elapsed() >= at_least).map(|(kind, _)| kind.clone()).collect()
    }

    fn saw<T>(&self, kind: &str, item: &Result<T, watcher::Error>) {
        let mut failing = self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match item {
            Ok(_) => drop(failing.remove(kind)),
            Err(error) => {
                tracing::warn!(kind, %error, "a watch fails; it is tried again");
                failing.entry(kind.to_owned()).or_insert_with(Instant::now);
            }
        }
    }
}

/// The events of a watch, pruned. An object that cannot be read is left out, and the others go on.
pub fn events<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    health: Arc<Health>,
    prune: fn(&mut K),
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = K::kind(&()).to_string();
    watch(api, config).default_backoff().filter_map(move |item| {
        health.saw(&kind, &item);
        let event = item.map(|event| readable(event).map(|event| event.modify(prune))).transpose();
        std::future::ready(event)
    })
}

fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(kind = %K::kind(&()), name, error = %invalid.error, "an object cannot be read and is left alone");
            None
        }
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

/// Follows a watch: `keep` takes every event, then `changed` each object that it tells of.
pub async fn follow<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    mut keep: impl FnMut(&Event<K>),
    mut changed: impl FnMut(&K),
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let Ok(event) = event else { continue };
        keep(&event);
        touched(&event, &mut changed);
    }
}

fn touched<K>(event: &Event<K>, changed: &mut impl FnMut(&K)) {
    match event {
        Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) => changed(object),
        Event::Init | Event::InitDone => {}
    }
}

/// Our children only.
pub fn of_ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"))
}

/// The group of a child: its backfill's uid.
pub fn by_backfill<K: Resource>(object: &K) -> Option<String> {
    object.meta().labels.as_ref()?.get(label::UID).cloned()
}

/// The group of a backfill that has not ended: its namespace and feature set.
pub fn by_feature_set(backfill: &FeatureSetBackfill) -> Option<String> {
    (!rests(backfill)).then(|| format!("{}/{}", backfill.namespace().unwrap_or_default(), backfill.spec.feature_set))
}

/// What is not needed of any object.
pub fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// An ended backfill that holds nothing is kept as little more than its name.
pub fn prune_backfill(backfill: &mut FeatureSetBackfill) {
    prune(backfill);
    let at_rest = rests(backfill) && backfill.finalizers().is_empty() && backfill.metadata.deletion_timestamp.is_none();
    if !at_rest {
        return;
    }
    backfill.metadata.annotations = None;
    let spec = &mut backfill.spec;
    (spec.sources, spec.transformation, spec.guards, spec.comment) = (None, None, None, None);
    if let Some(status) = &mut backfill.status {
        (status.offline, status.online, status.progress, status.held) = (None, None, None, None);
        status.attempts = Vec::new();
        for condition in &mut status.conditions {
            condition.message = String::new();
        }
        status.conditions.shrink_to_fit();
        if let Some(resolved) = &mut status.resolved {
            resolved.warnings = Vec::new();
        }
    }
}

/// The status of a Job is what counts.
pub fn prune_job(job: &mut Job) {
    prune(job);
    job.spec = job.spec.take().map(|_| JobSpec::default());
}

/// The status of a pod is what counts.
pub fn prune_pod(pod: &mut Pod) {
    prune(pod);
    pod.spec = pod.spec.take().map(|_| PodSpec::default());
}
