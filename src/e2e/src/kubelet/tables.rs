//! What played pods do to data: per table a version, a fence, and the keys of what was published.
//!
//! The worker's promises at its boundary, without rows: a key is published at most once, an attempt that was overtaken publishes
//! nothing, and `settle` tells the truth.

use super::report::{done_report, report};
use backfill_core::api::Mode;
use backfill_core::condition::Reason;
use backfill_core::contract::{Order, Outcome, Report, Step, Stores};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// One life of a pod of a backfill, from the start of its container to its end.
#[derive(Clone, Debug)]
pub struct Run {
    /// The namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The backfill.
    pub backfill: String,
    /// The feature set.
    pub feature_set: String,
    /// The table's URI.
    pub table: String,
    /// The run's idempotency key.
    pub key: String,
    /// What was done.
    pub step: Step,
    /// Which attempt of the step.
    pub attempt: u32,
    /// Which pod of the Job.
    pub index: u32,
    /// When the container started.
    pub started: Instant,
    /// When it ended; `None` while it lives.
    pub ended: Option<Instant>,
    /// Whether this very pod published in the offline table.
    pub published: bool,
    /// How it ended, when it came to do what the order says.
    pub outcome: Option<Outcome>,
    fence: u64,
}

impl Run {
    pub(super) fn new(order: &Order, step: Step, pod: &str, index: u32) -> Self {
        Self {
            namespace: order.backfill.namespace.clone(),
            pod: pod.to_owned(),
            backfill: order.backfill.name.clone(),
            feature_set: order.definition.feature_set.clone(),
            table: order.table.uri.clone(),
            key: order.key.clone(),
            step,
            attempt: order.attempt,
            index,
            started: Instant::now(),
            ended: None,
            published: false,
            outcome: None,
            fence: 0,
        }
    }

    /// Whether both pods lived at the same time.
    fn meets(&self, other: &Self) -> bool {
        let before = |one: &Self, other: &Self| one.ended.is_some_and(|ended| ended <= other.started);
        !before(self, other) && !before(other, self)
    }

    /// Whether both pods may live at the same time: they share the work of one Job.
    fn shares_with(&self, other: &Self) -> bool {
        (&self.key, self.step, self.attempt) == (&other.key, other.step, other.attempt) && self.index != other.index
    }
}

/// Pairs of pods of one feature set that lived at the same time although they do not share the work of one Job.
pub fn overlapping(runs: &[Run]) -> Vec<(&Run, &Run)> {
    let pairs = runs.iter().enumerate().flat_map(|(at, one)| runs[at + 1..].iter().map(move |other| (one, other)));
    let rivals = |(one, other): &(&Run, &Run)| {
        (&one.namespace, &one.feature_set) == (&other.namespace, &other.feature_set)
            && one.meets(other)
            && !one.shares_with(other)
    };
    pairs.filter(rivals).collect()
}

#[derive(Debug, Default)]
struct Table {
    version: Option<u64>,
    fence: u64,
    /// By key: the hash of the definition, and the version.
    published: HashMap<String, (String, u64)>,
    online: BTreeSet<String>,
    /// By key: the pods of the online step that are done.
    shares: HashMap<String, BTreeSet<u32>>,
}

#[derive(Debug, Default)]
struct State {
    /// By namespace and URI: tests that use the same bucket do not meet.
    tables: HashMap<(String, String), Table>,
    runs: Vec<Run>,
}

impl State {
    fn table(&mut self, namespace: &str, uri: &str) -> &mut Table {
        self.tables.entry((namespace.to_owned(), uri.to_owned())).or_default()
    }
}

/// All tables of a played kubelet, and the history of its pods.
#[derive(Clone, Debug, Default)]
pub struct Tables(Arc<Mutex<State>>);

impl Tables {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the tables")
    }

    /// The pods of backfills in a namespace, in the order in which their containers started.
    pub fn runs(&self, namespace: &str) -> Vec<Run> {
        self.state().runs.iter().filter(|run| run.namespace == namespace).cloned().collect()
    }

    /// The newest version of a table.
    pub fn version(&self, namespace: &str, uri: &str) -> Option<u64> {
        self.state().table(namespace, uri).version
    }

    /// Whether the offline part of a run is published.
    pub fn is_published(&self, namespace: &str, uri: &str, key: &str) -> bool {
        self.state().table(namespace, uri).published.contains_key(key)
    }

    /// Whether the online part of a run is done.
    pub fn is_online(&self, namespace: &str, uri: &str, key: &str) -> bool {
        self.state().table(namespace, uri).online.contains(key)
    }

    /// A container starts: steps that may publish, or end a run, overtake all before them. Returns the run's number.
    pub(super) fn begin(&self, mut run: Run) -> usize {
        let mut state = self.state();
        let table = state.table(&run.namespace, &run.table);
        match run.step {
            Step::Offline | Step::Settle => table.fence += 1,
            Step::Online => {}
        }
        (run.fence, run.started) = (table.fence, Instant::now());
        state.runs.push(run);
        state.runs.len() - 1
    }

    /// Does what the order says.
    pub(super) fn obey(&self, number: usize, order: &Order) -> Report {
        let mut state = self.state();
        let run = state.runs[number].clone();
        let table = state.table(&run.namespace, &run.table);
        let report = match run.step {
            Step::Offline => table.offline(order, run.fence),
            Step::Online => table.online(order, run.index),
            Step::Settle => report(order, Outcome::Settled { published: table.published.contains_key(&order.key) }),
        };
        let run = &mut state.runs[number];
        run.published = run.step == Step::Offline && report.outcome == Outcome::Done;
        run.outcome = Some(report.outcome.clone());
        report
    }

    /// A container has ended.
    pub(super) fn end(&self, number: usize) {
        self.state().runs[number].ended.get_or_insert_with(Instant::now);
    }
}

impl Table {
    fn offline(&mut self, order: &Order, fence: u64) -> Report {
        if let Some((hash, _)) = self.published.get(&order.key) {
            return report(order, Outcome::AlreadyApplied { definition_changed: *hash != order.definition.hash });
        }
        let mut done = done_report(order, Step::Offline);
        let numbers = done.offline.get_or_insert_default();
        numbers.version_before = self.version;
        if order.mode == Mode::Plan {
            numbers.proof = None;
            return Report { outcome: Outcome::Planned, ..done };
        }
        if self.fence != fence {
            return superseded(order);
        }
        let version = self.version.map_or(0, |version| version + 1);
        (self.version, numbers.version_after) = (Some(version), Some(version));
        self.published.insert(order.key.clone(), (order.definition.hash.clone(), version));
        done
    }

    fn online(&mut self, order: &Order, index: u32) -> Report {
        if order.mode == Mode::Plan {
            return report(order, Outcome::Planned);
        }
        if self.online.contains(&order.key) {
            return report(order, Outcome::AlreadyApplied { definition_changed: false });
        }
        if order.stores != Stores::Online && !self.published.contains_key(&order.key) {
            let message = "the run record has no pin; the offline step comes first".to_owned();
            return report(order, Outcome::Failed { reason: Reason::TableCorrupted, message, retry: false });
        }
        let parallelism = order.online.as_ref().map_or(1, |online| online.parallelism);
        let shares = self.shares.entry(order.key.clone()).or_default();
        shares.insert(index);
        let mut done = done_report(order, Step::Online);
        if shares.len() >= parallelism as usize {
            self.online.insert(order.key.clone());
            done.online.get_or_insert_default().version = self.version;
        }
        done
    }
}

fn superseded(order: &Order) -> Report {
    let message = "another attempt or backfill has taken over the table".to_owned();
    report(order, Outcome::Failed { reason: Reason::Superseded, message, retry: false })
}
