//! Watches, and what is kept of them: no more than decisions need.

use crate::index::{Index, Text};
use crate::latest::Latest;
use crate::strict::{Strict, Unread};
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::plan::run::{MANAGED_BY, MANAGER, label};
use backfill_core::plan::{Rival, rests};
use futures::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
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
    pub open: Index<FeatureSetBackfill, Open>,
    /// The feature sets.
    pub feature_sets: Store<FeatureSet>,
    /// The stores.
    pub stores: Store<FeatureStore>,
    /// Our Jobs by the uid of their backfill, by what decisions read.
    pub jobs: Index<Job, Text<Job>>,
    /// Our pods by the uid of their backfill, by what decisions read.
    pub pods: Index<Pod, Text<Pod>>,
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
    /// What of our resources, of all scopes, cannot be read.
    pub unread: Arc<Unread>,
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
    let readable = |guard: DeserializeGuard<K>| {
        let tell = |error| tracing::warn!(kind = %K::kind(&()), %error, "an object cannot be read and is left alone");
        guard.0.map_err(|invalid| tell(invalid.error)).ok()
    };
    heard(api, config, health, move |event| present(each(event, readable)), prune)
}

/// The same for our own resources, of which it keeps what cannot be read.
pub fn events_of_ours<K>(
    api: Api<DeserializeGuard<Strict<K>>>,
    health: Arc<Health>,
    unread: Arc<Unread>,
    prune: fn(&mut K),
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    heard(api, watcher::Config::default(), health, move |event| unread.note(event), prune)
}

fn heard<K, R>(
    api: Api<R>,
    config: watcher::Config,
    health: Arc<Health>,
    read: impl Fn(Event<R>) -> Option<Event<K>> + Send,
    prune: fn(&mut K),
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: Send + Sync + 'static,
    R: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = R::kind(&()).to_string();
    watch(api, config).default_backoff().filter_map(move |item| {
        health.saw(&kind, &item);
        let event = item.map(|event| read(event).map(|event| event.modify(prune))).transpose();
        std::future::ready(event)
    })
}

/// The event, with another form of its object.
pub fn each<A, B>(event: Event<A>, form: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(form(object)),
        Event::Delete(object) => Event::Delete(form(object)),
        Event::InitApply(object) => Event::InitApply(form(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// The event, if its object is there.
pub fn present<K>(event: Event<Option<K>>) -> Option<Event<K>> {
    Some(match event {
        Event::Apply(object) => Event::Apply(object?),
        Event::Delete(object) => Event::Delete(object?),
        Event::InitApply(object) => Event::InitApply(object?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

/// What has changed, as a watch tells.
pub enum Changed<'a, K> {
    /// This object.
    One(&'a K),
    /// Any object, since a new list has come. Some may be gone.
    Any,
}

/// Follows a watch: `keep` takes every event, then `changed` hears what of that can be seen. The objects of a new list are kept at its
/// end: whoever looked as soon as one is named would find the old ones, and would not look again.
pub async fn follow<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    mut keep: impl FnMut(&Event<K>),
    mut changed: impl FnMut(Changed<'_, K>),
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let Ok(event) = event else { continue };
        keep(&event);
        match &event {
            Event::Apply(object) | Event::Delete(object) => changed(Changed::One(object)),
            Event::InitDone => changed(Changed::Any),
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// The objects that have changed, of a watch that writes into `kept`: those of a new list at its end, for the same reason.
pub fn changed_objects<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    kept: Store<K>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    events.flat_map(move |event| {
        let (one, all) = match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => (Some(Ok(object)), vec![]),
            Ok(Event::InitDone) => (None, kept.state()),
            Ok(Event::Init | Event::InitApply(_)) => (None, vec![]),
            Err(error) => (Some(Err(error)), vec![]),
        };
        let all = all.into_iter().map(|object| Ok(Arc::unwrap_or_clone(object)));
        futures::stream::iter(one.into_iter().chain(all))
    })
}

/// Our children only.
pub fn of_ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"))
}

/// Keeps a child with its backfill's uid.
pub fn by_backfill<K: Resource + Serialize + DeserializeOwned>(object: &K) -> Option<(String, Text<K>)> {
    Some((object.meta().labels.as_ref()?.get(label::UID)?.clone(), Text::of(object)))
}

/// What matters to others of a backfill that has not ended.
pub struct Open {
    /// It itself.
    pub backfill: ObjectRef<FeatureSetBackfill>,
    /// Its place in the queue.
    pub rival: Rival,
    /// Whether it is being deleted.
    pub deleted: bool,
    /// Whether nothing was ordered for it yet.
    pub unordered: bool,
    /// Whether its status says that it is queued.
    pub queued: bool,
}

/// Keeps a backfill that has not ended with its namespace and feature set.
pub fn by_feature_set(backfill: &FeatureSetBackfill) -> Option<(String, Open)> {
    if rests(backfill) {
        return None;
    }
    let status = backfill.status.as_ref();
    let open = Open {
        backfill: ObjectRef::from_obj(backfill),
        rival: Rival::of(backfill),
        deleted: backfill.metadata.deletion_timestamp.is_some(),
        unordered: status.is_none_or(|status| status.attempts.is_empty()),
        queued: status.and_then(|status| status.phase.as_deref()) == Some("Queued"),
    };
    Some((queue(&backfill.namespace().unwrap_or_default(), &backfill.spec.feature_set), open))
}

/// Where the backfills of a feature set are kept.
pub fn queue(namespace: &str, feature_set: &str) -> String {
    format!("{namespace}/{feature_set}")
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

/// Of a Job its status counts.
pub fn prune_job(job: &mut Job) {
    prune_child(&mut job.metadata);
    job.spec = None;
    if let Some(status) = &mut job.status {
        let JobStatus { conditions, succeeded, failed, .. } = std::mem::take(status);
        *status = JobStatus { conditions, succeeded, failed, ..JobStatus::default() };
    }
}

/// Of a pod it counts where it is, how its containers are, and whether a node was found.
pub fn prune_pod(pod: &mut Pod) {
    prune_child(&mut pod.metadata);
    pod.spec = None;
    let Some(status) = &mut pod.status else { return };
    let PodStatus { phase, pod_ip, mut conditions, mut container_statuses, .. } = std::mem::take(status);
    conditions.iter_mut().for_each(|conditions| conditions.retain(|condition| condition.type_ == "PodScheduled"));
    for container in container_statuses.iter_mut().flatten() {
        let ContainerStatus { name, state, last_state, container_id, .. } = std::mem::take(container);
        *container = ContainerStatus { name, state, last_state, container_id, ..ContainerStatus::default() };
    }
    *status = PodStatus { phase, pod_ip, conditions, container_statuses, ..PodStatus::default() };
}

fn prune_child(metadata: &mut ObjectMeta) {
    let ObjectMeta { name, namespace, uid, resource_version, labels, creation_timestamp, deletion_timestamp, .. } =
        std::mem::take(metadata);
    *metadata = ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        creation_timestamp,
        deletion_timestamp,
        ..ObjectMeta::default()
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector;
    use serde_json::json;

    fn object(name: &str) -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "n", "uid": name } })).expect("an object")
    }

    fn told(events: Vec<Event<ConfigMap>>) -> impl Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Send {
        futures::stream::iter(events.into_iter().map(Ok))
    }

    fn a_new_list() -> Vec<Event<ConfigMap>> {
        vec![
            Event::Apply(object("gone")),
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
            Event::Delete(object("b")),
        ]
    }

    #[tokio::test]
    async fn whoever_hears_of_a_change_finds_it_in_the_index() {
        let index = Index::new(|object: &ConfigMap| Some(("all".to_owned(), Text::of(object))));
        let mut heard = Vec::new();
        let names = || index.of("all").iter().map(|object| object.read().name_any()).collect::<Vec<_>>().join(" ");
        follow(
            told(a_new_list()),
            |event| index.apply(event),
            |changed| {
                heard.push(match changed {
                    Changed::One(object) => format!("{} of {}", object.name_any(), names()),
                    Changed::Any => format!("any of {}", names()),
                });
            },
        )
        .await;
        assert_eq!(heard, ["gone of gone", "any of a b", "b of a"]);
    }

    #[tokio::test]
    async fn whoever_hears_of_a_change_finds_it_in_the_store() {
        let (kept, writer) = reflector::store::<ConfigMap>();
        let reader = kept.clone();
        let events = told(a_new_list()).reflect(writer);
        let heard = changed_objects(events, kept).map(|object| {
            let object = object.expect("a watch that does not fail");
            format!("{}, there: {}", object.name_any(), reader.get(&ObjectRef::from_obj(&object)).is_some())
        });
        let mut heard: Vec<String> = heard.collect().await;
        heard[1..3].sort();
        assert_eq!(heard, ["gone, there: true", "a, there: true", "b, there: true", "b, there: false"]);
    }
}
