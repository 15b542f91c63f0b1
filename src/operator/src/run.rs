//! The process: leadership, watches, controllers, and their end.

use crate::caches::{self, Caches, Changed, ClusterCaches, Scope, Written, changed_objects, events, events_of_ours, follow};
use crate::clock::Clock;
use crate::index::Index;
use crate::reconcile::{again, reconcile};
use crate::server::Probes;
use crate::shell::{Desks, Known, Shell};
use crate::strict::Unread;
use crate::{caretaker, definitions, templates};
use anyhow::{Context, bail};
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::plan::Settings;
use backfill_core::plan::run::label;
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::controller;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use kube_lease_manager::LeaseManagerBuilder;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long another replica waits for a leader that says nothing, in seconds.
const LEASE_SECONDS: u64 = 15;

/// How early the leader renews its lease, in seconds.
const LEASE_GRACE_SECONDS: u64 = 5;

/// How often missing cluster templates are looked for.
const TEMPLATES_EVERY: Duration = Duration::from_secs(600);

/// How the operator is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces that are watched; empty for all.
    pub namespaces: Vec<String>,
    /// How many backfills are looked at at the same time.
    pub concurrency: u16,
    /// The namespace of the lease; `None` leads without asking.
    pub lease_namespace: Option<String>,
    /// The name under which this process leads and reports events.
    pub identity: String,
    /// Cluster templates that are created when they are missing.
    pub templates: Option<PathBuf>,
    /// What goes into Jobs.
    pub settings: Settings,
    /// The API server's clock, to which the client listens.
    pub clock: Arc<Clock>,
}

/// Runs until `shutdown` says so. Losing the lease is an error: the process must not go on.
pub async fn run(client: Client, options: Options, probes: Probes, mut shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    definitions::refuse_older(&client).await?;
    let Some(namespace) = options.lease_namespace.clone() else {
        return lead(client, &options, probes, shutdown).await;
    };
    let lease = LeaseManagerBuilder::new(client.clone(), "backfill-operator")
        .with_namespace(namespace)
        .with_identity(options.identity.clone())
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .build()
        .await
        .context("cannot use the lease")?;
    let (mut leads, keeper) = lease.watch().await;
    // A replica that stands by is ready to take over.
    probes.ready.store(true, Ordering::Relaxed);
    tokio::select! {
        gained = leads.wait_for(|leads| *leads) => drop(gained.context("the lease cannot be watched")?),
        _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(()),
    }
    tracing::info!(identity = options.identity, "leads");
    let ended = tokio::select! {
        ended = lead(client, &options, probes, shutdown) => ended,
        lost = leads.wait_for(|leads| !*leads) => {
            drop(lost);
            bail!("the lease is lost: another replica leads")
        }
    };
    // Dropping the channel gives the lease back.
    drop(leads);
    let _ = tokio::time::timeout(Duration::from_secs(5), keeper).await;
    ended
}

async fn lead(client: Client, options: &Options, probes: Probes, mut shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    probes.metrics.leads(true);
    probes.ready.store(false, Ordering::Relaxed);
    let mut tasks = JoinSet::new();
    if let Some(path) = &options.templates {
        tasks.spawn(keep_templates(client.clone(), templates::read(path)?));
    }
    let scopes = match options.namespaces.as_slice() {
        [] => vec![Scope::Cluster],
        namespaces => namespaces.iter().cloned().map(Scope::Namespace).collect(),
    };
    let (cluster, cluster_changed) = cluster_caches(&client, options, &probes, &mut tasks);
    let watched: Vec<_> =
        scopes.into_iter().map(|scope| watch_scope(&client, scope, options, &probes, &cluster, &mut tasks)).collect();
    let shells: Vec<Arc<Shell>> = watched.iter().map(|(shell, ..)| Arc::clone(shell)).collect();
    let all: Vec<Arc<Caches>> = shells.iter().map(|shell| Arc::clone(&shell.caches)).collect();
    // The caches are set once: a process leads at most once.
    let _ = probes.caches.set(all);
    tasks.spawn(wake_on_cluster_changes(cluster_changed, shells.clone()));
    // Here and nowhere else: a store wakes only one of those that wait for it.
    tokio::select! {
        ready = all_ready(&cluster, &shells) => ready?,
        _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(()),
    }
    let mut controllers = JoinSet::new();
    for (shell, controller, to_judge) in watched {
        // Not before: a store that was not seen yet is not a store that is missing.
        tasks.spawn(caretaker::run(Arc::clone(&shell), to_judge));
        controllers.spawn(control(shell, controller, options.concurrency, shutdown.clone()));
    }
    probes.ready.store(true, Ordering::Relaxed);
    tracing::info!("all caches are filled");
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
    // What is being written is finished; watches and timers need not be.
    while controllers.join_next().await.is_some() {}
    probes.metrics.leads(false);
    Ok(())
}

async fn keep_templates(client: Client, shipped: Vec<ClusterTemplate>) {
    loop {
        if let Err(error) = templates::create_missing(&client, &shipped).await {
            tracing::warn!(%error, "the shipped cluster templates cannot be created");
        }
        tokio::time::sleep(TEMPLATES_EVERY).await;
    }
}

type Changes = tokio::sync::mpsc::UnboundedReceiver<()>;

fn cluster_caches(client: &Client, options: &Options, probes: &Probes, tasks: &mut JoinSet<()>) -> (Arc<ClusterCaches>, Changes) {
    let (templates, mut templates_writer) = reflector::store::<ClusterTemplate>();
    let (namespaces, mut namespaces_writer) = reflector::store::<PartialObjectMeta<Namespace>>();
    let (changed, changes) = tokio::sync::mpsc::unbounded_channel();
    let unread = Arc::new(Unread::new(Shell::recorder(client, &options.identity)));
    let stream = events_of_ours(Api::all(client.clone()), Arc::clone(&probes.health), Arc::clone(&unread), caches::prune);
    tasks.spawn(follow(
        stream,
        move |event| templates_writer.apply_watcher_event(event),
        move |_: Changed<'_, ClusterTemplate>| {
            // Without a receiver the operator is shutting down.
            let _ = changed.send(());
        },
    ));
    let names = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default()).default_backoff();
    tasks.spawn(follow(names.modify(caches::prune), move |event| namespaces_writer.apply_watcher_event(event), |_| ()));
    (Arc::new(ClusterCaches { templates, namespaces, unread }), changes)
}

async fn wake_on_cluster_changes(mut changes: Changes, shells: Vec<Arc<Shell>>) {
    while changes.recv().await.is_some() {
        shells.iter().for_each(|shell| shell.wake_refused(None));
    }
}

type BackfillController = Controller<FeatureSetBackfill>;

/// Asks for a feature set to be judged, by namespace and name.
type Judge = tokio::sync::mpsc::UnboundedSender<(String, String)>;

/// The other end of it.
type ToJudge = tokio::sync::mpsc::UnboundedReceiver<(String, String)>;

/// Starts the watches of a scope.
fn watch_scope(
    client: &Client,
    scope: Scope,
    options: &Options,
    probes: &Probes,
    cluster: &Arc<ClusterCaches>,
    tasks: &mut JoinSet<()>,
) -> (Arc<Shell>, BackfillController, ToJudge) {
    let (backfills, backfills_writer) = reflector::store();
    let (feature_sets, mut feature_sets_writer) = reflector::store::<FeatureSet>();
    let (stores, mut stores_writer) = reflector::store::<FeatureStore>();
    let (wake, woken) = mpsc::unbounded();
    let caches = Caches {
        backfills,
        open: Index::new(caches::by_feature_set),
        feature_sets,
        stores,
        jobs: Index::new(caches::by_backfill),
        pods: Index::new(caches::by_backfill),
        written: Written::default(),
    };
    let shell = Arc::new(Shell {
        client: client.clone(),
        clock: Arc::clone(&options.clock),
        caches: Arc::new(caches),
        cluster: Arc::clone(cluster),
        settings: options.settings.clone(),
        metrics: Arc::clone(&probes.metrics),
        recorder: Shell::recorder(client, &options.identity),
        wake,
        known: Known::default(),
        desks: Desks::default(),
    });
    let (judge, to_judge) = tokio::sync::mpsc::unbounded_channel();
    let health = || Arc::clone(&probes.health);
    let unread = || Arc::clone(&cluster.unread);
    let sets = events_of_ours(scope.api(client), health(), unread(), caches::prune);
    let (on_set, judge_of_store) = (Arc::clone(&shell), judge.clone());
    tasks.spawn(follow(
        sets,
        move |event| feature_sets_writer.apply_watcher_event(event),
        move |set| feature_sets_changed(&on_set, set, &judge),
    ));
    let of_stores = events_of_ours(scope.api(client), health(), unread(), caches::prune);
    let on_store = Arc::clone(&shell);
    tasks.spawn(follow(
        of_stores,
        move |event| stores_writer.apply_watcher_event(event),
        move |store| stores_changed(&on_store, store, &judge_of_store),
    ));
    let of_jobs = events::<Job>(scope.api(client), caches::of_ours(), health(), caches::prune_job);
    let of_pods = events::<Pod>(scope.api(client), caches::of_ours(), health(), caches::prune_pod);
    let (on_job, on_pod) = (Arc::clone(&shell), Arc::clone(&shell));
    tasks.spawn(
        async move { follow(of_jobs, |event| on_job.caches.jobs.apply(event), |job| children_changed(&on_job, job)).await },
    );
    tasks.spawn(
        async move { follow(of_pods, |event| on_pod.caches.pods.apply(event), |pod| children_changed(&on_pod, pod)).await },
    );
    let of_backfills = events_of_ours(scope.api(client), health(), unread(), caches::prune_backfill);
    let controller = controller(&shell, of_backfills, backfills_writer, woken);
    (shell, controller, to_judge)
}

/// The controller of backfills, and what else their events are for.
fn controller(
    shell: &Arc<Shell>,
    events: impl Stream<Item = Result<watcher::Event<FeatureSetBackfill>, watcher::Error>> + Send + 'static,
    writer: reflector::store::Writer<FeatureSetBackfill>,
    woken: mpsc::UnboundedReceiver<ObjectRef<FeatureSetBackfill>>,
) -> BackfillController {
    let (before, after) = (Arc::clone(shell), Arc::clone(shell));
    let kept = events
        .inspect(move |event| {
            let Ok(event) = event else { return };
            before.caches.open.apply(event);
            if let watcher::Event::Apply(backfill) | watcher::Event::Delete(backfill) = event {
                before.wake_next(&backfill.namespace().unwrap_or_default(), &backfill.spec.feature_set);
            }
        })
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(watcher::Event::InitDone) = event {
                after.metrics.remember(&after.caches.backfills.state());
            }
        });
    Controller::for_stream(changed_objects(kept, shell.caches.backfills.clone()), shell.caches.backfills.clone())
        .reconcile_on(woken)
}

fn feature_sets_changed(shell: &Shell, changed: Changed<'_, FeatureSet>, judge: &Judge) {
    let Changed::One(set) = changed else {
        shell.look_at_open();
        return judge_all(shell, judge);
    };
    let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
    let status = set.status.as_ref();
    match status.and_then(|status| status.active.as_ref()) {
        Some(active) => shell.look_at(ObjectRef::new(&active.name).within(&namespace)),
        None => shell.wake_head(&namespace, &name),
    }
    if status.and_then(|status| status.observed_generation) != set.metadata.generation {
        shell.wake_refused(Some(&namespace));
        // Without a receiver the operator is shutting down.
        let _ = judge.send((namespace, name));
    }
}

/// What was judged depends on the stores that there are.
fn judge_all(shell: &Shell, judge: &Judge) {
    for set in shell.caches.feature_sets.state() {
        // Without a receiver the operator is shutting down.
        let _ = judge.send((set.namespace().unwrap_or_default(), set.name_any()));
    }
}

fn stores_changed(shell: &Shell, changed: Changed<'_, FeatureStore>, judge: &Judge) {
    let Changed::One(store) = changed else {
        shell.caches.stores.state().into_iter().for_each(|store| shell.wake_waiters(store));
        shell.wake_refused(None);
        return judge_all(shell, judge);
    };
    shell.wake_waiters(Arc::new(store.clone()));
    let seen = store.status.as_ref().and_then(|status| status.observed_generation);
    let is_gone = shell.caches.stores.get(&ObjectRef::from_obj(store)).is_none();
    if seen == store.metadata.generation && !is_gone {
        return;
    }
    shell.wake_refused(store.metadata.namespace.as_deref());
    let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
    let here = |set: &FeatureSet| set.metadata.namespace.as_ref() == Some(&namespace) && set.store() == name;
    for set in shell.caches.feature_sets.state_filter(here) {
        // Without a receiver the operator is shutting down.
        let _ = judge.send((namespace.clone(), set.name_any()));
    }
}

fn children_changed<K: Resource>(shell: &Shell, changed: Changed<'_, K>) {
    let Changed::One(child) = changed else { return shell.look_at_open() };
    let meta = child.meta();
    let name = meta.labels.as_ref().and_then(|labels| labels.get(label::BACKFILL));
    if let (Some(name), Some(namespace)) = (name, &meta.namespace) {
        shell.look_at(ObjectRef::new(name).within(namespace));
    }
}

/// Waits until everything has been seen once: nothing is decided on a part.
async fn all_ready(cluster: &ClusterCaches, shells: &[Arc<Shell>]) -> anyhow::Result<()> {
    cluster.templates.wait_until_ready().await?;
    cluster.namespaces.wait_until_ready().await?;
    for caches in shells.iter().map(|shell| &shell.caches) {
        caches.feature_sets.wait_until_ready().await?;
        caches.stores.wait_until_ready().await?;
        caches.jobs.wait_until_ready().await;
        caches.pods.wait_until_ready().await;
    }
    Ok(())
}

async fn control(shell: Arc<Shell>, controller: BackfillController, concurrency: u16, mut shutdown: watch::Receiver<bool>) {
    let config = controller::Config::default().concurrency(concurrency);
    let ends = async move { drop(shutdown.wait_for(|shutdown| *shutdown).await) };
    let reconciles = controller.with_config(config).graceful_shutdown_on(ends).run(reconcile, again, shell);
    reconciles.for_each(|_| std::future::ready(())).await;
}
