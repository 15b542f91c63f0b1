//! One run of a backfill: who it is, and what its children are called.

use crate::api::{FeatureSetBackfill, GROUP, Mode};
use crate::contract::Step;
use crate::key::sha256;
use std::collections::BTreeMap;

/// The value of `app.kubernetes.io/managed-by` on everything that the operator makes. Watches select by it.
pub const MANAGER: &str = "backfill-operator";

/// The label that carries [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What all other labels of children begin with.
pub const LABELS: &str = "featureset.dev/";

/// The finalizer of a backfill from its first claim until it has let go of everything.
pub const BACKFILL_FINALIZER: &str = "featureset.dev/backfill";

/// The finalizer of a feature set while a backfill holds it.
pub const HELD_FINALIZER: &str = "featureset.dev/held";

/// The labels of children, in the order of their meaning.
pub mod label {
    /// The backfill's uid.
    pub const UID: &str = "featureset.dev/uid";
    /// The backfill's name.
    pub const BACKFILL: &str = "featureset.dev/backfill";
    /// The feature set's name.
    pub const FEATURE_SET: &str = "featureset.dev/feature-set";
    /// The run, see [`Run::id`](super::Run::id).
    pub const RUN: &str = "featureset.dev/run";
    /// `plan` or `apply`.
    pub const MODE: &str = "featureset.dev/mode";
    /// `offline`, `online` or `settle`.
    pub const STEP: &str = "featureset.dev/step";
    /// Counts from 1.
    pub const ATTEMPT: &str = "featureset.dev/attempt";
    /// Which of a Job's pods a pod is; the Job controller sets it.
    pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
}

/// The longest name of a child. Pods of an Indexed Job append their index and five characters to it.
const NAME_MAX: usize = 52;

/// One run of a backfill: the object and its `runId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The backfill's name.
    pub name: &'a str,
    /// The backfill's uid.
    pub uid: &'a str,
    /// The run, as the user named it.
    pub run_id: Option<&'a str>,
    /// The feature set's name.
    pub feature_set: &'a str,
    /// Whether the run publishes.
    pub mode: Mode,
}

impl<'a> Run<'a> {
    /// The run that the spec asks for now. An object that the API server has stored has a name, a namespace and a uid.
    pub fn of(backfill: &'a FeatureSetBackfill) -> Self {
        let meta = &backfill.metadata;
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            run_id: backfill.spec.run_id.as_deref(),
            feature_set: &backfill.spec.feature_set,
            mode: backfill.spec.mode.unwrap_or_default(),
        }
    }

    /// Names the run in labels: a function of uid and `runId`.
    pub fn id(&self) -> String {
        let mut hash = sha256(&format!("{}\n{}", self.uid, self.run_id.unwrap_or_default()));
        hash.truncate(16);
        hash
    }

    /// The name of the ConfigMap whose creation is the run's *now*.
    pub fn claim_name(&self) -> String {
        self.child_name("claim", "")
    }

    /// The name of an attempt's order and Job: a function of (uid, runId, mode, step, attempt), so that making them a second time is a
    /// conflict and not a second run.
    pub fn attempt_name(&self, step: Step, attempt: u32) -> String {
        self.child_name(step.word(), &format!("{}\n{attempt}", mode_word(self.mode)))
    }

    fn child_name(&self, what: &str, which: &str) -> String {
        let hash = sha256(&format!("{}\n{}\n{what}\n{which}", self.uid, self.run_id.unwrap_or_default()));
        let rest = format!("-{what}-{}", &hash[..10]);
        let name = &self.name[..self.name.len().min(NAME_MAX - rest.len())];
        format!("{}{rest}", name.trim_end_matches('-'))
    }

    /// The labels of everything that belongs to the run.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let labels = [
            (MANAGED_BY, MANAGER.to_owned()),
            (label::UID, self.uid.to_owned()),
            (label::BACKFILL, self.name.to_owned()),
            (label::FEATURE_SET, self.feature_set.to_owned()),
            (label::RUN, self.id()),
        ];
        labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The labels of an attempt's order, Job and pods.
    pub fn attempt_labels(&self, step: Step, attempt: u32) -> BTreeMap<String, String> {
        let more = [
            (label::MODE, mode_word(self.mode).to_owned()),
            (label::STEP, step.word().to_owned()),
            (label::ATTEMPT, attempt.to_string()),
        ];
        self.labels().into_iter().chain(more.map(|(key, value)| (key.to_owned(), value))).collect()
    }

    /// Whether labels are those of this run in this mode.
    pub fn owns(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let Some(labels) = labels else { return false };
        let is = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
        is(label::UID, self.uid) && is(label::RUN, &self.id()) && is(label::MODE, mode_word(self.mode))
    }
}

/// The word of a mode in labels and names.
pub const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Apply => "apply",
        Mode::Plan => "plan",
    }
}

/// The `apiVersion` of our resources.
pub fn api_version() -> String {
    format!("{GROUP}/v1alpha1")
}
