//! What a Job says it did.

use super::Scope;
use crate::condition::Reason;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a Job did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`VERSION`](super::VERSION).
    pub version: u32,
    /// The run's idempotency key.
    pub key: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The backfill's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What the run record pinned as the scope; for an undo the scope of what was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// What happened in the offline store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineReport>,
    /// What happened in the online store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineReport>,
    /// What a person should know although it did not stop the backfill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Notice>,
}

/// The most bytes of a container's termination message.
pub const REPORT_BYTES_MAX: usize = 4096;

impl Report {
    /// Makes the report fit into `bytes_max` bytes of JSON: texts are cut, then guards that held are left out, then the last warnings
    /// and guards. How it ended, the scope and the numbers stay. A report that fits is not changed.
    ///
    /// Holds for 2048 bytes and more.
    pub fn fit(mut self, bytes_max: usize) -> Self {
        let too_long = |report: &Self| serde_json::to_string(report).is_ok_and(|json| json.len() > bytes_max);
        for chars_max in [1024, 512, 256, 128, 64] {
            if too_long(&self) {
                self.cut_texts(chars_max);
            }
        }
        if too_long(&self)
            && let Some(offline) = &mut self.offline
        {
            offline.guards.retain(|guard| guard.verdict != Verdict::Passed);
        }
        while too_long(&self) && self.leave_one_out() {}
        self
    }

    fn cut_texts(&mut self, chars_max: usize) {
        let failure = match &mut self.outcome {
            Outcome::Failed { message, .. } => Some(message),
            Outcome::Done | Outcome::AlreadyApplied { .. } | Outcome::Planned | Outcome::Settled { .. } => None,
        };
        let guards = self.offline.iter_mut().flat_map(|offline| &mut offline.guards).map(|guard| &mut guard.message);
        let warnings = self.warnings.iter_mut().map(|warning| &mut warning.message);
        for text in guards.chain(warnings).chain(failure).chain(&mut self.comment) {
            cut(text, chars_max);
        }
    }

    /// Leaves out the last of the guards or of the warnings, of which there are more. False when there is neither.
    fn leave_one_out(&mut self) -> bool {
        match self.offline.as_mut().map(|offline| &mut offline.guards).filter(|guards| guards.len() > self.warnings.len()) {
            Some(guards) => guards.pop().is_some(),
            None => self.warnings.pop().is_some(),
        }
    }
}

/// Cuts a text after so many characters, and says so.
pub(crate) fn cut(text: &mut String, chars_max: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
        text.push('…');
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Outcome {
    /// The step did what it was to do.
    Done,
    /// The table already held this run's result; nothing was written.
    AlreadyApplied {
        /// Whether the definition has changed since.
        definition_changed: bool,
    },
    /// A plan was made; nothing is published.
    Planned,
    /// `settle`: whether the run had published.
    Settled {
        /// Whether the run had published.
        published: bool,
    },
    /// The step failed.
    Failed {
        /// In one word.
        reason: Reason,
        /// For a person, with the way out.
        message: String,
        /// Whether trying again may help.
        retry: bool,
    },
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// In one word.
    #[schemars(schema_with = "crate::api::schema::word")]
    pub reason: Reason,
    /// For a person.
    #[schemars(schema_with = "crate::api::schema::text::<4096>")]
    pub message: String,
}

/// What happened in the offline store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfflineReport {
    /// Rows that were replaced.
    pub rows_removed: u64,
    /// Rows that replace them.
    pub rows_written: u64,
    /// Rows outside the interval that were rewritten because their file straddles a bound.
    pub rows_rescued: u64,
    /// Rows of the result outside the interval or their window, dropped.
    pub rows_outside: u64,
    /// Rows without a key or event time, dropped.
    #[serde(default)]
    pub rows_null_key: u64,
    /// Rows equal in keys, event time and features to another, dropped; and rows that `KeepLast` dropped.
    #[serde(default)]
    pub rows_duplicate: u64,
    /// With `mode: Plan`: rows that are the same before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_unchanged: Option<u64>,
    /// Rows read from the table, at most those of the interval and its boundary files.
    #[serde(default)]
    pub rows_read: u64,
    /// Windows run.
    pub windows: u64,
    /// Files added by the commit.
    #[serde(default)]
    pub files_added: u64,
    /// Files removed by the commit.
    #[serde(default)]
    pub files_removed: u64,
    /// Bytes written.
    #[serde(default)]
    pub bytes_written: u64,
    /// The table version before the commit. Absent for the first load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_before: Option<u64>,
    /// The table version that the commit made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_after: Option<u64>,
    /// When the step took the table, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub started_at: Option<String>,
    /// When the commit was seen, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub finished_at: Option<String>,
    /// How it was shown that the outside is unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What the guards saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub guards: Vec<GuardResult>,
}

/// What one guard saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardResult {
    /// The guard, or the check's name.
    #[schemars(schema_with = "crate::api::schema::text::<128>")]
    pub name: String,
    /// Whether it held.
    pub verdict: Verdict,
    /// What it saw.
    #[schemars(schema_with = "crate::api::schema::text::<2048>")]
    pub message: String,
}

/// Whether a guard held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It did not hold and warns.
    Warned,
    /// It did not hold.
    Failed,
    /// There was nothing to compare with.
    NotApplicable,
}

/// How it was shown that data outside the boundaries is unchanged: the new version against its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Whether everything agreed.
    pub verdict: Verdict,
    /// Files that are the same in both versions.
    pub files_untouched: u64,
    /// Rows outside the boundaries in removed files.
    pub rows_outside_before: u64,
    /// Rows outside the boundaries in the files that replace them.
    pub rows_outside_after: u64,
    /// The 128-bit sum of the canonical hashes of the former, in hexadecimal digits.
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub hash_before: String,
    /// The same of the latter.
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub hash_after: String,
}

/// What happened in the online store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnlineReport {
    /// Entities whose row was written.
    pub entities_updated: u64,
    /// Entities whose row was removed.
    pub entities_removed: u64,
    /// Entities whose row lies at or after the stop and stayed.
    pub entities_kept_newer: u64,
    /// Entities whose row reached the online store before the table and stayed.
    pub entities_kept_live: u64,
    /// Entities whose row was right already.
    pub entities_unchanged: u64,
    /// Entities of several rows with the same newest event time; the one committed last is served.
    #[serde(default)]
    pub duplicates_at_rest: u64,
    /// Rows read from the table to find newest rows.
    #[serde(default)]
    pub rows_looked_up: u64,
    /// Entities read back after the write.
    #[serde(default)]
    pub entities_verified: u64,
    /// The table version with which the online store agrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When the step began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub started_at: Option<String>,
    /// When the online mark was committed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub finished_at: Option<String>,
}

/// How far a step is. Best effort; never used for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is being done now.
    #[schemars(schema_with = "crate::api::schema::text::<64>")]
    pub stage: String,
    /// Windows (offline) or buckets (online) done.
    pub done: u64,
    /// Windows or buckets in all.
    pub total: u64,
    /// Rows (offline) or entities (online) written so far.
    pub rows: u64,
}
