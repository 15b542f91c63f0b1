//! What to do next about a backfill: the one place where the operator's decisions are made.
//!
//! [`plan`] is total and pure. It reads what was observed, never what it once intended: status is an output. What has to be
//! remembered is pinned: the boundaries and the orders of a run, what its steps have reported, and why it is broken off.
//! Every write that it asks for may fail, be lost or have happened already; then the next observation leads to the same end.

mod announce;
mod broken;
mod definition;
pub mod manifest;
mod message;
mod queue;
mod record;
mod rest;
pub mod run;
mod seen;
mod steps;

pub use announce::{Announcement, announcements};
pub use definition::judge;
pub use queue::{Rival, created};
pub use record::{record, recorded};
pub use rest::rests;
pub use seen::{alive, ended, finished, hindrance, instant, phase};

use crate::api::{
    ClusterTemplate, Engine, FeatureSet, FeatureSetBackfill, FeatureSetBackfillStatus, FeatureStore, LedgerEntry, Mode,
    RunningBackfill,
};
use crate::condition::{self, ConditionType, Ending, Finding, Moment, Reason, is_true, set_all};
use crate::contract::{Notice, Progress, Step, Stores};
use crate::request::{Input, Rejection, Request, Resolution, Template, resolve};
use crate::time::show;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use manifest::spark::Company;
use run::Run;
use seen::Children;
use std::collections::BTreeMap;
use std::time::Duration;

/// After this long a missing reference is called stalled.
const MISSING_STALLS: TimeDelta = TimeDelta::minutes(10);

/// How often a wait is looked at again that no event of a watch may end.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often a step without a running pod is looked at: events may say what is wrong.
const LOOK_AT_START: Duration = Duration::from_secs(10);

/// How soon pods that end are looked at again.
const LOOK_SOON: Duration = Duration::from_secs(5);

/// What the operator was told when it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The image of the worker.
    pub worker_image: String,
    /// The image of the worker with Spark; `None` runs none.
    pub spark_image: Option<String>,
    /// When images are pulled; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
}

/// A backfill and everything around it, at one moment. Feature sets and stores are those of the backfill's namespace that exist now.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The backfill, as the API server stores it.
    pub backfill: &'a FeatureSetBackfill,
    /// The namespace's feature sets, or at least those that the backfill may read.
    pub feature_sets: Vec<&'a FeatureSet>,
    /// The namespace's stores.
    pub stores: Vec<&'a FeatureStore>,
    /// The cluster templates.
    pub templates: Vec<&'a ClusterTemplate>,
    /// Those of these objects that this operator does not understand, because the installed definitions are newer.
    pub unknown: &'a [Unknown],
    /// The namespace's labels.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Whether the namespace is being deleted: nothing can be created in it.
    pub namespace_terminating: bool,
    /// The other backfills of the feature set that have not ended.
    pub rivals: &'a [Rival],
    /// When the run's claim was created, by the API server's clock.
    pub claimed_at: Option<DateTime<Utc>>,
    /// What the run's first order was made from.
    pub pinned: Option<&'a Request>,
    /// The Jobs of this backfill, of all its runs.
    pub jobs: &'a [Job],
    /// The pods of this backfill, of all its runs.
    pub pods: &'a [Pod],
    /// What events say of Jobs and pods that cannot start.
    pub trouble: Option<&'a Notice>,
    /// How far the running pod says it is.
    pub progress: Option<&'a Progress>,
    /// The operator's settings.
    pub settings: &'a Settings,
}

/// An object that was stored and cannot be read, or not as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// What cannot be read, such as ``unknown field spec.guards.maxRows``.
    pub what: String,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, what } = self;
        let version = env!("CARGO_PKG_VERSION");
        write!(f, "{kind} \"{name}\" is not understood by this operator ({version}): {what}; upgrade the operator, or change it")
    }
}

/// What to write, in this order: the status, then the effects.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The whole status; the same as observed when there is nothing new.
    pub status: FeatureSetBackfillStatus,
    /// What to do next. When one of them fails, the rest is not done and everything is observed again.
    pub effects: Vec<Effect>,
    /// When to look again though no watch says anything.
    pub requeue: Option<Duration>,
}

/// A coarse write. Each may be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Makes the feature set ours: finalizer, a slot of the store, the feature set itself, the claim. What is ours already is left.
    Admit {
        /// The store's name.
        store: String,
        /// The claim.
        claim: Box<ConfigMap>,
    },
    /// Creates the order, what is beside it, then the Job, if nothing of another run lives.
    Launch {
        /// The order.
        order: Box<ConfigMap>,
        /// The Job.
        job: Box<Job>,
        /// What several pods of Spark need beside it.
        company: Option<Box<Company>>,
    },
    /// Deletes these Jobs; their pods are told to end.
    Stop {
        /// Their names and uids.
        jobs: Vec<(String, String)>,
    },
    /// Enters what was replaced into the feature set's ledger, and lets go of the feature set and of the slot.
    Release {
        /// What was replaced; `None` when nothing was published.
        entry: Option<Box<LedgerEntry>>,
    },
    /// Removes Jobs, pods and orders of all runs.
    CleanUp,
    /// Removes the backfill's finalizer.
    LetGo,
}

/// Decides what is next. Equal observations give equal plans; when the plan is carried out and nothing else happens, the next one
/// has no effects and the same status.
pub fn plan(observed: &Observed<'_>, now: DateTime<Utc>) -> Plan {
    let situation = Situation::of(observed, now);
    if rests(observed.backfill) || situation.finishes_another_run() {
        return situation.at_rest();
    }
    if situation.children.of_other_runs().may_write() {
        return situation.end_other_runs();
    }
    if !situation.ordered() {
        return situation.admit();
    }
    let situation = situation.take_reports();
    match situation.breaks_off() {
        Some(broken) if !situation.all_done() => situation.break_off(broken),
        Some(_) | None => situation.go_on(),
    }
}

/// An observation, and the plan as far as it is made.
#[derive(Clone)]
struct Situation<'a> {
    observed: &'a Observed<'a>,
    run: Run<'a>,
    children: Children<'a>,
    status: FeatureSetBackfillStatus,
    now: DateTime<Utc>,
}

impl<'a> Situation<'a> {
    fn of(observed: &'a Observed<'a>, now: DateTime<Utc>) -> Self {
        // Times of conditions are whole seconds, as everywhere in Kubernetes.
        let now = now.trunc_subsecs(0);
        let run = Run::of(observed.backfill);
        let children = Children::of(run, observed.jobs, observed.pods, now);
        let old = observed.backfill.status.clone().unwrap_or_default();
        let status = match is_of_this_run(&old, observed.backfill) {
            true => old,
            false => FeatureSetBackfillStatus {
                observed_generation: old.observed_generation,
                run_id: observed.backfill.spec.run_id.clone(),
                ..FeatureSetBackfillStatus::default()
            },
        };
        Self { observed, run, children, status, now }
    }

    /// Whether a Job of this run has been ordered.
    fn ordered(&self) -> bool {
        !self.status.attempts.is_empty()
    }

    fn feature_set(&self) -> Option<&'a FeatureSet> {
        self.observed.feature_sets.iter().copied().find(|set| set.name_any() == self.run.feature_set)
    }

    /// Whether the feature set is this run's.
    fn holds(&self) -> bool {
        let active = self.feature_set().and_then(|set| set.status.as_ref()?.active.as_ref());
        active.is_some_and(|active| active.uid == self.run.uid && active.run_id.as_deref() == self.run.run_id)
    }

    /// Whether an earlier run of this backfill still has the feature set.
    fn finishes_another_run(&self) -> bool {
        let active = self.feature_set().and_then(|set| set.status.as_ref()?.active.as_ref());
        active.is_some_and(|active| active.uid == self.run.uid) && !self.holds()
    }

    /// The store in which this backfill has a slot.
    fn slot(&self) -> Option<&'a FeatureStore> {
        let ours = |store: &&FeatureStore| running(store).any(|running| running.uid == self.run.uid);
        self.observed.stores.iter().copied().find(ours)
    }

    fn deleted(&self) -> bool {
        self.observed.backfill.metadata.deletion_timestamp.is_some()
    }

    fn cancelled(&self) -> bool {
        self.observed.backfill.spec.cancel == Some(true)
    }

    /// Whether the run is held. What is deleted must come to its end.
    fn suspended(&self) -> bool {
        self.observed.backfill.spec.suspend == Some(true) && !self.deleted()
    }

    /// Judges the request as of `now`.
    fn resolve(&self, now: DateTime<Utc>) -> Result<Resolution, Rejection> {
        self.refuse_unknown("FeatureSetBackfill", self.run.name)?;
        self.refuse_unknown("FeatureSet", self.run.feature_set)?;
        self.refuse_unknown("FeatureStore", &self.store_name())?;
        let Observed { backfill, feature_sets, stores, templates, namespace_labels, .. } = self.observed;
        resolve(&Input {
            namespace: self.run.namespace,
            name: self.run.name,
            uid: Some(self.run.uid),
            spec: &backfill.spec,
            now,
            feature_sets: feature_sets.iter().copied().filter(|set| set.metadata.deletion_timestamp.is_none()).collect(),
            stores: stores.clone(),
            templates: templates.clone(),
            namespace_labels: Some(namespace_labels),
        })
        .and_then(|resolution| {
            self.refuse_unknown("ClusterTemplate", &resolution.request.template.name)?;
            self.refuse_spark(&resolution.request.template)?;
            Ok(resolution)
        })
    }

    /// What is not read is not done: then nothing is.
    fn refuse_unknown(&self, kind: &str, name: &str) -> Result<(), Rejection> {
        let found = self.observed.unknown.iter().find(|unknown| unknown.kind == kind && unknown.name == name);
        found.map_or(Ok(()), |unknown| Err(Rejection { reason: Reason::UnknownField, message: unknown.to_string() }))
    }

    /// A template that this operator cannot make pods for must not run on something else.
    fn refuse_spark(&self, template: &Template) -> Result<(), Rejection> {
        if template.engine == Engine::DataFusion || self.observed.settings.spark_image.is_some() {
            return Ok(());
        }
        let message = format!(
            "cluster template \"{}\" asks for engine Spark, which this operator has no image for; install it with spark.enabled=true \
             (--spark-image), or choose a template of DataFusion",
            template.name
        );
        Err(Rejection { reason: Reason::InvalidStore, message })
    }

    fn stores(&self) -> Stores {
        self.status.resolved.as_ref().map_or(Stores::Both, |resolved| resolved.stores)
    }

    fn offline_done(&self) -> bool {
        is_true(&self.status.conditions, ConditionType::OfflineReplaced)
    }

    fn online_done(&self) -> bool {
        is_true(&self.status.conditions, ConditionType::OnlineReplaced)
    }

    /// What a person should know of the request.
    fn warnings(&self) -> Vec<Notice> {
        let Some(resolved) = &self.status.resolved else { return Vec::new() };
        let mut warnings = resolved.warnings.clone();
        let generation = self.feature_set().and_then(|set| set.metadata.generation);
        if let (Some(then), Some(now)) = (resolved.feature_set_generation, generation)
            && then != now
        {
            let message = format!("feature set \"{}\" was changed; this run keeps what it began with", self.run.feature_set);
            warnings.push(Notice { reason: Reason::FeatureSetChanged, message });
        }
        warnings
    }

    fn find(&mut self, findings: Vec<Finding>) {
        let generation = self.observed.backfill.metadata.generation;
        set_all(&mut self.status.conditions, findings, self.now, generation);
        self.status.observed_generation = generation;
        self.status.phase = Some(message::phase(&self.status.conditions).to_owned());
    }

    /// The plan while the run has not ended.
    fn going(mut self, moment: &Moment, effects: Vec<Effect>, requeue: Option<Duration>) -> Plan {
        let done = self.status.resolved.as_ref().map(|resolved| condition::Done {
            stores: resolved.stores,
            offline: self.offline_done(),
            online: self.online_done(),
        });
        let warnings = self.warnings();
        self.find(condition::going(moment, done, &warnings));
        let requeue = requeue.map(|after| after.min(self.time_left()));
        Plan { status: message::fit(self.status), effects, requeue }
    }

    /// The plan with which the run ends.
    fn end(mut self, ending: &Ending) -> Plan {
        let warnings = self.warnings();
        self.find(condition::conditions(ending, self.stores(), &warnings));
        self.status.broken = None;
        self.status.progress = None;
        self.status = message::fit(self.status);
        self.at_rest()
    }

    /// Pods of the same backfill in another mode must be gone before this run begins.
    fn end_other_runs(self) -> Plan {
        let effects = rest::stop(&self.children.of_other_runs());
        let message = "waiting for pods of the run before to end".to_owned();
        self.going(&Moment::Going { reason: Reason::Starting, message }, effects, Some(LOOK_SOON))
    }

    /// Before anything is ordered: refused, in the queue, or on the way to the first order.
    fn admit(mut self) -> Plan {
        if self.deleted() {
            return self.let_go();
        }
        if self.cancelled() {
            let message = "cancelled before anything was begun".to_owned();
            return self.end(&Ending::OfflineFailed { reason: Reason::Cancelled, message });
        }
        let known = self.observed.claimed_at.filter(|_| self.holds());
        let resolution = match self.resolve(known.unwrap_or(self.now)) {
            Ok(resolution) => resolution,
            // Whether a time lies in the future is for the API server's clock to say, not for ours.
            Err(Rejection { reason: Reason::StartInFuture | Reason::EmptyInterval, .. }) if known.is_none() => {
                return self.take();
            }
            Err(rejection) => return self.refuse(rejection),
        };
        if let Some(entry) = self.already_recorded(&resolution.request) {
            self.pin(&resolution);
            let message = message::recorded(&entry, &resolution.request);
            return self.end(&Ending::AlreadyApplied { message });
        }
        if self.suspended() {
            return self.suspend();
        }
        match known.filter(|_| !self.observed.namespace_terminating) {
            None => self.take(),
            Some(_) => {
                self.pin(&resolution);
                self.launch(first_step(resolution.request.stores), resolution.request)
            }
        }
    }

    /// A request that is refused: for good, or until what it names appears.
    fn refuse(mut self, rejection: Rejection) -> Plan {
        let Rejection { reason, ref message } = rejection;
        let ending = Ending::Rejected { reason, message: message.clone(), recovers: false };
        if !rejection.recovers() {
            return self.end(&ending);
        }
        let accepted = self.status.conditions.iter().find(|condition| condition.kind == ConditionType::Accepted);
        let refused = accepted.filter(|condition| condition.status == condition::ConditionStatus::False);
        let since = refused.and_then(|condition| DateTime::parse_from_rfc3339(&condition.last_transition_time).ok());
        let waited = since.map_or(TimeDelta::zero(), |since| self.now - since.to_utc());
        let stalled = waited >= MISSING_STALLS;
        let requeue = (!stalled).then(|| (MISSING_STALLS - waited).to_std().unwrap_or_default().max(LOOK_SOON));
        let effects = self.releases(None);
        self.status.resolved = None;
        self.going(&Moment::Missing { reason, message: message.clone(), stalled }, effects, requeue)
    }

    /// The replacement is in the ledger already.
    fn already_recorded(&self, request: &Request) -> Option<LedgerEntry> {
        let ledger = self.feature_set()?.status.iter().flat_map(|status| &status.ledger);
        let entry = ledger.into_iter().find(|entry| entry.key == request.key)?;
        let complete = entry.online || !request.stores.online();
        (complete && request.mode == Mode::Apply).then(|| entry.clone())
    }

    /// Waits for its turn, or takes the feature set.
    fn take(self) -> Plan {
        let name = self.run.feature_set;
        if self.observed.namespace_terminating {
            let message = "the namespace is being deleted".to_owned();
            return self.going(&Moment::Going { reason: Reason::Queued, message }, vec![], None);
        }
        match self.blocked() {
            Some(message) => {
                let effects = self.releases(None);
                self.going(&Moment::Going { reason: Reason::Queued, message }, effects, Some(queue::LOOK_AGAIN))
            }
            None => {
                let message = format!("feature set \"{name}\" is being taken");
                let (store, claim) = (self.store_name(), Box::new(manifest::claim(&self.run)));
                let effects = vec![Effect::Admit { store, claim }];
                // What is taken shows itself by watches; a moment later the run goes on.
                self.going(&Moment::Going { reason: Reason::Starting, message }, effects, Some(LOOK_AGAIN))
            }
        }
    }

    /// Pins what was resolved.
    fn pin(&mut self, resolution: &Resolution) {
        let request = &resolution.request;
        self.status.resolved = Some(message::resolved(request, &resolution.warnings));
        self.status.run_id.clone_from(&self.observed.backfill.spec.run_id);
        self.status.held.get_or_insert_default().since.get_or_insert(show(self.now));
    }
}

/// Whether a status describes the run that the spec asks for.
fn is_of_this_run(status: &FeatureSetBackfillStatus, backfill: &FeatureSetBackfill) -> bool {
    let mode = status.resolved.as_ref().map(|resolved| resolved.mode);
    status.run_id == backfill.spec.run_id && mode.is_none_or(|mode| mode == backfill.spec.mode.unwrap_or_default())
}

/// The backfills that have a slot of a store.
fn running(store: &FeatureStore) -> impl Iterator<Item = &RunningBackfill> {
    store.status.iter().flat_map(|status| &status.running)
}

const fn first_step(stores: Stores) -> Step {
    match stores {
        Stores::Both | Stores::Offline => Step::Offline,
        Stores::Online => Step::Online,
    }
}

#[cfg(test)]
mod tests;
