//! Condition types and reasons: the one vocabulary of status, events, logs and metrics.

use crate::contract::{Notice, Stores};
use crate::time::show;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is true of an object, as in Kubernetes' own `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about.
    #[serde(rename = "type")]
    #[schemars(schema_with = "crate::api::schema::word")]
    pub kind: ConditionType,
    /// `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// Why, in one word.
    #[schemars(schema_with = "crate::api::schema::word")]
    pub reason: Reason,
    /// Why, for a person, with the way out.
    #[serde(default)]
    #[schemars(schema_with = "crate::api::schema::text::<32768>")]
    pub message: String,
    /// When `status` last changed, RFC 3339.
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub last_transition_time: String,
    /// The generation of the object that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The types of conditions: kstatus' words, a Job's words, and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionType {
    /// The object is as it should be (kstatus).
    Ready,
    /// The operator is at work (kstatus).
    Reconciling,
    /// Nothing moves without help (kstatus).
    Stalled,
    /// The backfill has ended well (Job).
    Complete,
    /// The backfill has ended badly (Job).
    Failed,
    /// The backfill is held (Job).
    Suspended,
    /// The request is valid.
    Accepted,
    /// The offline replacement is published.
    OfflineReplaced,
    /// The online store is in line with the offline table.
    OnlineReplaced,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It cannot be told.
    Unknown,
}

/// One condition as decided, before it is stamped with time and generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, for a person.
    pub message: String,
}

/// The longest message of a condition, in characters, so that a status stays small.
const MESSAGE_CHARS_MAX: usize = 1024;

/// Sets one condition. `lastTransitionTime` moves only when the status does; a message that is too long is cut.
pub fn set(conditions: &mut Vec<Condition>, finding: Finding, now: DateTime<Utc>, generation: Option<i64>) {
    let Finding { kind, status, reason, message } = finding;
    let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
    match conditions.iter_mut().find(|condition| condition.kind == kind) {
        Some(condition) => {
            if condition.status != status {
                condition.last_transition_time = show(now);
            }
            (condition.status, condition.reason, condition.message) = (status, reason, message);
            condition.observed_generation = generation;
        }
        None => {
            let last_transition_time = show(now);
            conditions.push(Condition { kind, status, reason, message, last_transition_time, observed_generation: generation });
        }
    }
}

/// Sets all conditions of a moment: what is not found is not the case and is removed.
pub fn set_all(conditions: &mut Vec<Condition>, findings: Vec<Finding>, now: DateTime<Utc>, generation: Option<i64>) {
    conditions.retain(|condition| findings.iter().any(|finding| finding.kind == condition.kind));
    for finding in findings {
        set(conditions, finding, now, generation);
    }
    conditions.sort_by_key(|condition| condition.kind);
}

/// How a backfill stands when nothing of it runs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was refused before any Job. With `recovers` only a reference is missing: it goes on by itself.
    Rejected {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
        /// Whether it goes on by itself.
        recovers: bool,
    },
    /// The plan is ready; nothing is published.
    Planned {
        /// Whether it was to be published, but something moved, so that it was made again.
        moved: bool,
        /// What applying would do.
        message: String,
    },
    /// Everything that was asked for is done.
    Succeeded {
        /// What was done.
        message: String,
    },
    /// An earlier run with the same key had done it; nothing was written.
    AlreadyApplied {
        /// When, in which version, and how to run again.
        message: String,
    },
    /// Nothing was published.
    OfflineFailed {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
    },
    /// The offline part is done, if there was one; the online part is not.
    OnlineFailed {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
    },
}

/// How a backfill stands while it has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A reference is missing. It goes on by itself; `stalled` when that has taken long.
    Missing {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
        /// Whether a person should look at it.
        stalled: bool,
    },
    /// It is at work, or waits for its turn, for pods or for a retry.
    Going {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
    },
    /// It is held by `spec.suspend`.
    Suspended {
        /// For a person.
        message: String,
    },
}

/// What of a backfill is wanted and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The stores that are replaced.
    pub stores: Stores,
    /// Whether the offline replacement is published.
    pub offline: bool,
    /// Whether the online store is in line.
    pub online: bool,
}

/// All conditions of a backfill that has not ended. `accepted` is what resolving warned of; `None` before anything was resolved.
pub fn going(moment: &Moment, done: Option<Done>, accepted: &[Notice]) -> Vec<Finding> {
    use ConditionStatus::{False, True};
    use ConditionType::{Complete, Failed, Ready, Reconciling, Stalled, Suspended};
    let (reason, message) = match moment {
        Moment::Missing { reason, message, .. } | Moment::Going { reason, message } => (*reason, message),
        Moment::Suspended { message } => (Reason::Suspended, message),
    };
    let finding = |kind, status| Finding { kind, status, reason, message: message.clone() };
    let mut findings = vec![finding(Ready, False), finding(Complete, False), finding(Failed, False)];
    match moment {
        Moment::Missing { stalled, .. } => {
            findings.push(finding(if *stalled { Stalled } else { Reconciling }, True));
            findings.push(finding(ConditionType::Accepted, False));
        }
        Moment::Going { .. } => findings.extend([finding(Reconciling, True), admitted(accepted)]),
        Moment::Suspended { .. } => findings.extend([finding(Suspended, True), admitted(accepted)]),
    }
    findings.extend(done.iter().flat_map(|done| replaced(*done, reason, message)));
    findings
}

/// All conditions of an ended backfill. `accepted` is what resolving warned of.
pub fn conditions(ending: &Ending, stores: Stores, accepted: &[Notice]) -> Vec<Finding> {
    use ConditionStatus::{False, True};
    use ConditionType::{Complete, Failed, Ready, Stalled};
    let (reason, message) = match ending {
        Ending::Rejected { reason, message, .. }
        | Ending::OfflineFailed { reason, message }
        | Ending::OnlineFailed { reason, message } => (*reason, message),
        Ending::Planned { moved: false, message } => (Reason::Planned, message),
        Ending::Planned { moved: true, message } => (Reason::PlanMoved, message),
        Ending::Succeeded { message } => (Reason::Succeeded, message),
        Ending::AlreadyApplied { message } => (Reason::AlreadyApplied, message),
    };
    let finding = |kind, status| Finding { kind, status, reason, message: message.clone() };
    let both = |offline, online| replaced(Done { stores, offline, online }, reason, message);
    let good = |complete| [finding(Ready, True), finding(Complete, complete), finding(Failed, False), admitted(accepted)];
    let bad = |failed| [finding(Ready, False), finding(Stalled, True), finding(Complete, False), finding(Failed, failed)];
    match ending {
        Ending::Rejected { recovers, .. } => {
            let failed = if *recovers { False } else { True };
            [&bad(failed)[..], &[finding(ConditionType::Accepted, False)]].concat()
        }
        Ending::Planned { .. } => [&good(False)[..], &both(false, false)].concat(),
        Ending::Succeeded { .. } | Ending::AlreadyApplied { .. } => [&good(True)[..], &both(true, true)].concat(),
        Ending::OfflineFailed { .. } => [&bad(True)[..], &[admitted(accepted)], &both(false, false)].concat(),
        Ending::OnlineFailed { .. } => [&bad(True)[..], &[admitted(accepted)], &both(true, false)].concat(),
    }
}

fn admitted(warnings: &[Notice]) -> Finding {
    let (reason, message) = match warnings {
        [] => (Reason::Accepted, "the request is valid".to_owned()),
        [first, ..] => {
            let messages: Vec<_> = warnings.iter().map(|notice| notice.message.as_str()).collect();
            (first.reason, messages.join("; "))
        }
    };
    Finding { kind: ConditionType::Accepted, status: ConditionStatus::True, reason, message }
}

/// What was replaced; where something is missing, `reason` and `message` say why.
fn replaced(done: Done, reason: Reason, message: &str) -> [Finding; 2] {
    use ConditionStatus::{False, True};
    let because = |kind| Finding { kind, status: False, reason, message: message.to_owned() };
    let skipped =
        |kind| Finding { kind, status: False, reason: Reason::Skipped, message: "not part of this backfill".to_owned() };
    let is = |kind, reason, message: &str| Finding { kind, status: True, reason, message: message.to_owned() };
    let offline = match (done.stores.offline(), done.offline) {
        (false, _) => skipped(ConditionType::OfflineReplaced),
        (true, true) => is(ConditionType::OfflineReplaced, Reason::Replaced, "the offline table holds the new rows"),
        (true, false) => because(ConditionType::OfflineReplaced),
    };
    let online = match (done.stores.online(), done.online) {
        (false, _) => skipped(ConditionType::OnlineReplaced),
        (true, true) => is(ConditionType::OnlineReplaced, Reason::Reconciled, "the online store agrees with the offline table"),
        (true, false) => because(ConditionType::OnlineReplaced),
    };
    [offline, online]
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == ConditionStatus::True)
}

/// Declares the reasons once, with the sentence that the documentation prints.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition has its status. Names are binding: alerts and scripts match on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason with its explanation.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, concat!($($doc),+)),)+];

            /// The word as it appears in status, events, logs and metrics.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

reasons! {
    // Life of a backfill
    /// The request is valid.
    Accepted,
    /// The stop lay in the future and was rounded down to now.
    StopClamped,
    /// Another backfill holds the feature set or the store's slots.
    Queued,
    /// Rows are being computed, checked or published.
    Running,
    /// The offline replacement is published.
    Replaced,
    /// The online store agrees with the offline table.
    Reconciled,
    /// This store is not part of the backfill.
    Skipped,
    /// Everything that was asked for is done.
    Succeeded,
    /// The table already holds this run's result; set `spec.runId` to run it again.
    AlreadyApplied,
    /// The plan is ready; set `spec.mode` to Apply to publish it.
    Planned,
    /// The table, a source or the definition moved since the plan was made; it was made again.
    PlanMoved,
    /// `spec.suspend` is set.
    Suspended,
    /// `spec.cancel` was set.
    Cancelled,
    /// The Job's pods are not running yet.
    Starting,
    /// A step failed in a way that may pass and is tried again.
    Retrying,
    /// What a broken-off run left is being removed.
    Settling,
    /// The backfill was deleted while it ran.
    Deleted,
    /// The feature set was deleted while the backfill ran.
    FeatureSetDeleted,
    /// The backfill held the feature set for longer than its deadline.
    DeadlineExceeded,
    /// A broken-off run could not be settled; its message names what may be left.
    Abandoned,

    // Refused requests
    /// Neither reset, a bound nor undo is given, or more than one of them.
    InvalidRequest,
    /// A time cannot be read.
    InvalidTime,
    /// No start is given and the feature set has no default.
    StartTimeUnknown,
    /// The start is not before the stop.
    EmptyInterval,
    /// The start lies in the future.
    StartInFuture,
    /// The feature set does not exist in this namespace.
    FeatureSetNotFound,
    /// The feature store does not exist in this namespace.
    StoreNotFound,
    /// The cluster template does not exist or may not be used here.
    ClusterTemplateNotFound,
    /// A feature set that serves as a source does not exist in this namespace.
    SourceFeatureSetNotFound,
    /// The installed definitions know a field, or a value of one, that this operator does not.
    UnknownField,
    /// The transformation is not exactly one SELECT over the sources.
    TransformRejected,
    /// The schedule cannot be read.
    InvalidSchedule,
    /// The definition of the feature set contradicts itself.
    InvalidFeatureSet,
    /// The definition of the store or the template contradicts itself.
    InvalidStore,
    /// The interval has more windows than one backfill can run.
    TooManyWindows,

    // Refused by a guard: nothing was changed
    /// A column is missing or has another type.
    SchemaMismatch,
    /// Rows lack a key or the event time.
    NullKey,
    /// Rows of equal keys and event time differ in their features.
    AmbiguousDuplicates,
    /// Rows lie outside the interval or their window.
    RowsOutsideInterval,
    /// The result has no rows where there were some.
    EmptyResult,
    /// The result has far fewer rows than it replaces.
    ShrinkGuard,
    /// A row is too large for the stores.
    RowTooLarge,
    /// A value does not fit the feature's type exactly.
    CastOverflow,
    /// A check of the feature set or the backfill is violated.
    CheckFailed,

    // Refused by the stores
    /// A source does not exist, or its URI cannot be used.
    SourceNotFound,
    /// A source changed between two attempts of one run.
    SourceChanged,
    /// A source refuses the credentials.
    SourceAuth,
    /// The offline store refuses the credentials.
    OfflineAuth,
    /// The online store refuses the credentials.
    OnlineAuth,
    /// The offline store does not answer.
    OfflineUnavailable,
    /// The online store does not answer.
    OnlineUnavailable,
    /// The online store is out of memory.
    OnlineOutOfMemory,
    /// The online store has too little memory for the estimate.
    OnlineCapacity,
    /// The online store may evict keys by itself.
    EvictionPolicy,
    /// The table belongs to another feature set.
    TableOwned,
    /// The folder holds something that is not a Delta table of this shape.
    TableIncompatible,
    /// The table's log or a data file is damaged or missing.
    TableCorrupted,
    /// Others keep replacing rows of the interval.
    TableContended,
    /// The table's schema or properties changed during the backfill.
    TableChanged,
    /// The table uses Delta features that would not be kept faithfully.
    UnsupportedTableFeature,
    /// The files of the table version that is needed are gone.
    SnapshotExpired,
    /// The object store does not create atomically.
    UnsafeObjectStore,
    /// A later backfill or a delete by others touched the interval.
    UndoSuperseded,
    /// The feature set's columns changed since the backfill that is to be undone.
    SchemaChanged,
    /// There is no published run of the backfill that is to be undone.
    UndoNotFound,
    /// The proof that the outside is unchanged failed.
    ProofFailed,

    // While running
    /// A newer attempt, another backfill or the operator has taken over.
    Superseded,
    /// The transformation failed.
    TransformFailed,
    /// The scratch space is full.
    DiskFull,
    /// The memory of the cluster template does not suffice.
    OutOfMemory,
    /// Spark did not start, or went away.
    SparkUnavailable,
    /// A failure that may pass.
    Unavailable,

    /// The pod's image cannot be pulled.
    ImagePull,
    /// No node has room for the pod.
    Unschedulable,
    /// A quota of the namespace leaves no room for the pod.
    QuotaExceeded,
    /// The pod cannot be created or started.
    PodTrouble,
    /// A Secret that the store names, or an entry of it, is missing.
    SecretNotFound,
    /// The container needed more memory than the cluster template gives it.
    OOMKilled,
    /// The pod ended without saying why.
    PodFailed,

    // Warnings
    /// The feature set was changed while the backfill runs; the run keeps the definition with which it began.
    FeatureSetChanged,
    /// The boundaries lie between ticks; the first or the last window is partial.
    PartialWindows,
    /// An existing table keeps its partitioning.
    LayoutKept,
    /// Times without a zone were taken for UTC.
    NaiveTimestamps,
    /// Columns of the result are not features and were ignored.
    ExtraColumns,
    /// The offline table holds several rows of equal keys and event time.
    DuplicatesAtRest,
    /// Rows of equal keys, event time and features were counted once.
    DuplicatesCollapsed,
    /// Checkpoint or clean-up of the table's log failed; the data are not affected.
    TableMaintenance,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests;
