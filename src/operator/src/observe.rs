//! Observes a backfill and everything around it. Caches for what watches tell; live reads for what must not be missed.

use crate::caches::queue;
use crate::perform::{JOB_NAME, children};
use crate::shell::{Answer, Error, Shell, call};
use crate::{index, progress};
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::condition::Reason;
use backfill_core::contract::{Notice, Progress};
use backfill_core::plan::manifest::REQUEST;
use backfill_core::plan::run::{Run, label};
use backfill_core::plan::{Observed, Rival, Unknown, finished, instant, phase, rests};
use backfill_core::request::Request;
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Job without a running pod is asked about when it is older than this.
const TROUBLE_AFTER: TimeDelta = TimeDelta::seconds(5);

/// How many objects are asked about.
const ASKED_MAX: usize = 3;

/// An observation that owns what it saw.
pub struct Facts {
    /// The backfill.
    pub backfill: Arc<FeatureSetBackfill>,
    feature_sets: Vec<Arc<FeatureSet>>,
    stores: Vec<Arc<FeatureStore>>,
    templates: Vec<Arc<ClusterTemplate>>,
    unknown: Vec<Unknown>,
    namespace_labels: BTreeMap<String, String>,
    namespace_terminating: bool,
    rivals: Vec<Rival>,
    claimed_at: Option<DateTime<Utc>>,
    pinned: Option<Arc<Request>>,
    jobs: Vec<Job>,
    pods: Vec<Pod>,
    trouble: Option<Notice>,
    progress: Option<Progress>,
}

impl Facts {
    /// As the plan wants it.
    pub fn view<'a>(&'a self, shell: &'a Shell) -> Observed<'a> {
        Observed {
            backfill: &self.backfill,
            feature_sets: self.feature_sets.iter().map(Arc::as_ref).collect(),
            stores: self.stores.iter().map(Arc::as_ref).collect(),
            templates: self.templates.iter().map(Arc::as_ref).collect(),
            unknown: &self.unknown,
            namespace_labels: &self.namespace_labels,
            namespace_terminating: self.namespace_terminating,
            rivals: &self.rivals,
            claimed_at: self.claimed_at,
            pinned: self.pinned.as_deref(),
            jobs: &self.jobs,
            pods: &self.pods,
            trouble: self.trouble.as_ref(),
            progress: self.progress.as_ref(),
            settings: &shell.settings,
        }
    }

    /// The feature set's own store, by name.
    pub fn feature_set(&self, name: &str) -> Option<&Arc<FeatureSet>> {
        self.feature_sets.iter().find(|set| set.name_any() == name)
    }
}

impl Shell {
    /// Observes.
    pub async fn observe(&self, cached: &Arc<FeatureSetBackfill>) -> Result<Facts, Error> {
        let caches = &self.caches;
        let backfill = caches.written.backfills.newest(Arc::clone(cached));
        let run = Run::of(&backfill);
        let here = |namespace: Option<&str>| namespace == Some(run.namespace);
        let mut feature_sets = caches.feature_sets.state_filter(|set| here(set.metadata.namespace.as_deref()));
        for set in &mut feature_sets {
            if set.metadata.name.as_deref() == Some(run.feature_set) {
                *set = caches.written.feature_sets.newest(Arc::clone(set));
            }
        }
        let stores = caches.stores.state_filter(|store| here(store.metadata.namespace.as_deref()));
        let stores = stores.into_iter().map(|store| caches.written.stores.newest(store)).collect();
        let namespace = self.cluster.namespaces.get(&ObjectRef::<PartialObjectMeta<Namespace>>::new(run.namespace));
        let jobs: Vec<Job> = caches.jobs.of(run.uid).iter().map(|job| job.read()).collect();
        let mut pods: Vec<Pod> = caches.pods.of(run.uid).iter().map(|pod| pod.read()).collect();
        let ordered = backfill.status.as_ref().is_some_and(|status| !status.attempts.is_empty());
        let at_rest = rests(&backfill);
        let (mut claimed_at, mut pinned, mut trouble, mut progress) = (None, None, None, None);
        if !at_rest && self.holds(&run, &feature_sets) && !ordered {
            claimed_at = self.claimed_at(&run).await?;
        }
        if !at_rest && ordered {
            if unheard(&backfill, &jobs, &pods) {
                pods = self.pods_now(&run).await?;
            }
            pinned = self.pinned(&run, &backfill).await?;
            trouble = self.trouble(&run, &jobs, &pods).await?;
            progress = progress::of(&pods).await;
        }
        Ok(Facts {
            feature_sets,
            stores,
            templates: self.cluster.templates.state(),
            unknown: self.cluster.unread.of(run.namespace),
            namespace_labels: namespace.as_ref().map(|namespace| namespace.labels().clone()).unwrap_or_default(),
            namespace_terminating: namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()),
            rivals: if at_rest { Vec::new() } else { self.rivals(&run) },
            claimed_at,
            pinned,
            jobs,
            pods,
            trouble,
            progress,
            backfill,
        })
    }

    fn holds(&self, run: &Run<'_>, feature_sets: &[Arc<FeatureSet>]) -> bool {
        let set = feature_sets.iter().find(|set| set.metadata.name.as_deref() == Some(run.feature_set));
        set.and_then(|set| set.status.as_ref()?.active.as_ref()).is_some_and(|active| active.uid == run.uid)
    }

    fn rivals(&self, run: &Run<'_>) -> Vec<Rival> {
        let open = self.caches.open.of(&queue(run.namespace, run.feature_set));
        open.iter().filter(|other| other.rival.uid != run.uid && !other.deleted).map(|other| other.rival.clone()).collect()
    }

    async fn claimed_at(&self, run: &Run<'_>) -> Result<Option<DateTime<Utc>>, Error> {
        if let Some(at) = self.known.claim(run) {
            return Ok(Some(at));
        }
        let claim = call("get", "the claim", self.api::<ConfigMap>(run.namespace).get(&run.claim_name())).await?.found();
        let at = claim.and_then(|claim| claim.metadata.creation_timestamp.as_ref().map(instant));
        if let Some(at) = at {
            self.known.claimed(run, at);
        }
        Ok(at)
    }

    /// What the run's first order was made from, read from any order that is left.
    async fn pinned(&self, run: &Run<'_>, backfill: &FeatureSetBackfill) -> Result<Option<Arc<Request>>, Error> {
        if let Some(request) = self.known.request(run) {
            return Ok(Some(request));
        }
        let attempts = backfill.status.iter().flat_map(|status| &status.attempts);
        for attempt in attempts {
            let order = call("get", "an order", self.api::<ConfigMap>(run.namespace).get(&attempt.job)).await?.found();
            // While the run changes, the status still tells of the one before.
            let ours = order.as_ref().filter(|order| run.owns(order.metadata.labels.as_ref()));
            if let Some(request) = ours.and_then(request_of) {
                return Ok(Some(self.known.requested(run, request)));
            }
        }
        Ok(None)
    }

    /// The pods of a backfill as they are.
    async fn pods_now(&self, run: &Run<'_>) -> Result<Vec<Pod>, Error> {
        let pods = call("list", "pods", self.api::<Pod>(run.namespace).list(&children(label::UID, run.uid))).await?.found();
        let mut pods = pods.map(|pods| pods.items).unwrap_or_default();
        pods.iter_mut().for_each(crate::caches::prune_pod);
        Ok(pods)
    }

    /// What events say of a Job that has no running pod for a while, and whose pods do not say it themselves.
    ///
    /// The API server reads all events of the namespace for this. So one Job is asked about at a time, and seldom; in between
    /// counts what was heard last.
    async fn trouble(&self, run: &Run<'_>, jobs: &[Job], pods: &[Pod]) -> Result<Option<Notice>, Error> {
        let now = self.clock.now();
        let old = |job: &&Job| job.metadata.creation_timestamp.as_ref().is_some_and(|t| now - instant(t) >= TROUBLE_AFTER);
        let live = jobs.iter().filter(|job| run.owns(job.metadata.labels.as_ref()) && !finished(job));
        let Some(job) = live.filter(old).max_by_key(|job| index::version(*job)) else { return Ok(None) };
        let pods: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        if pods.iter().any(|pod| phase(pod) == "Running") || pods.iter().any(|pod| !is_scheduled(pod)) {
            return Ok(None);
        }
        let (heard, fresh) = self.known.trouble(run, job);
        let Ok(_asking) = self.known.asking.try_lock() else { return Ok(heard) };
        if fresh {
            return Ok(heard);
        }
        let uids: Vec<String> = job.uid().into_iter().chain(pods.iter().filter_map(|pod| pod.uid())).take(ASKED_MAX).collect();
        let mut told = None;
        for uid in uids {
            told = self.warning(run, &uid).await?;
            if told.is_some() {
                break;
            }
        }
        self.known.heard(run, job, told.clone());
        Ok(told)
    }

    /// The newest warning about an object.
    async fn warning(&self, run: &Run<'_>, uid: &str) -> Result<Option<Notice>, Error> {
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(20);
        let answer = call("list", "events", self.api::<Event>(run.namespace).list(&params)).await?;
        let Answer::Ok(events) = answer else { return Ok(None) };
        // Whether a pod has waited for a node for too long is read from the pod.
        let told = events.items.into_iter().filter(|event| event.reason.as_deref() != Some("FailedScheduling"));
        Ok(told.max_by_key(|event| (event.last_timestamp.clone(), index::version(event))).map(|event| trouble_of(&event)))
    }
}

/// Whether a node was found for a pod.
fn is_scheduled(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
}

/// What an order was made from.
pub fn request_of(order: &ConfigMap) -> Option<Request> {
    serde_json::from_str(order.data.as_ref()?.get(REQUEST)?).ok()
}

/// Whether a Job that is being followed has ended, and its pods are not seen to have: one watch may be ahead of another, and what a
/// pod reports must not be missed.
fn unheard(backfill: &FeatureSetBackfill, jobs: &[Job], pods: &[Pod]) -> bool {
    let attempts = backfill.status.iter().flat_map(|status| &status.attempts).filter(|attempt| attempt.ended.is_none());
    let followed = |job: &&Job| attempts.clone().any(|attempt| job.metadata.name.as_ref() == Some(&attempt.job));
    let ended = |pod: &&Pod| matches!(phase(pod), "Succeeded" | "Failed");
    jobs.iter().filter(followed).any(|job| {
        let status = job.status.clone().unwrap_or_default();
        let is = |kind: &str| matches!(kind, "Complete" | "Failed" | "FailureTarget");
        let is_over = status.conditions.iter().flatten().any(|condition| is(&condition.type_) && condition.status == "True");
        let count = status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
        let of_job = |pod: &&Pod| pod.labels().get(JOB_NAME) == job.metadata.name.as_ref();
        let seen = pods.iter().filter(of_job).filter(ended).count();
        is_over && i32::try_from(seen).is_ok_and(|seen| seen < count.max(1))
    })
}

/// What a warning event means for a backfill.
fn trouble_of(event: &Event) -> Notice {
    let message = event.message.clone().unwrap_or_default();
    let reason = match event.reason.as_deref() {
        _ if message.contains("exceeded quota") => Reason::QuotaExceeded,
        Some("FailedMount") if message.contains("secret") && message.contains("not found") => Reason::SecretNotFound,
        Some("Failed") if message.contains("image") => Reason::ImagePull,
        _ => Reason::PodTrouble,
    };
    let word = event.reason.as_deref().unwrap_or("Event");
    Notice { reason, message: format!("{word}: {message}") }
}
