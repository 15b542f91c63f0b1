//! `FeatureSetBackfill`: the replacement of a feature set's data.

use super::schema;
use super::{Guards, Source, Span, Transformation};
use crate::condition::{Condition, Reason};
use crate::contract::{Notice, OfflineReport, OnlineReport, Progress, Step, Stores};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Replaces all data of a feature set (`reset`) or an interval of it (`startTime`, `stopTime`), offline and online, or takes an
/// earlier backfill back (`undo`). Data outside the boundaries stays as it was.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "featureset.dev", version = "v1alpha1", kind = "FeatureSetBackfill", namespaced, status = "FeatureSetBackfillStatus", derive = "PartialEq",
    shortname = "fsb", category = "featureset",
    doc = "Replaces all data of a feature set (`reset`) or an interval of it (`startTime`, `stopTime`), offline and online, or takes an earlier backfill back (`undo`). Data outside the boundaries stays as it was.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    validation = ("!has(self.spec.undo) || self.spec.undo != self.metadata.name", "spec.undo: a backfill cannot undo itself; give the undo a name of its own"),
    validation = schema::run_id_after_the_end(),
    selectable = ".spec.featureSet",
    selectable = ".spec.undo",
    printcolumn(name = "Feature set", type_ = "string", json_path = ".spec.featureSet"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Start", type_ = "string", json_path = ".status.resolved.interval.start"),
    printcolumn(name = "Stop", type_ = "string", json_path = ".status.resolved.interval.stop"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Offline", type_ = "string", json_path = ".status.conditions[?(@.type==\"OfflineReplaced\")].status"),
    printcolumn(name = "Online", type_ = "string", json_path = ".status.conditions[?(@.type==\"OnlineReplaced\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Template", type_ = "string", json_path = ".status.resolved.clusterTemplate", priority = 1),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.offline.rowsWritten", priority = 1),
    printcolumn(name = "Entities", type_ = "integer", json_path = ".status.online.entitiesUpdated", priority = 1),
    printcolumn(name = "Comment", type_ = "string", json_path = ".spec.comment", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.reset) && self.reset) || has(self.startTime) || has(self.stopTime) || has(self.undo)",
    "give reset: true (all data), startTime and/or stopTime (an interval), or undo (an earlier backfill)",
))]
#[x_kube(validation = ("!has(self.undo) || !has(self.reset) || !self.reset", "give reset or undo, not both"))]
#[x_kube(validation = (
    "!has(self.undo) || !(has(self.startTime) || has(self.stopTime))",
    "undo takes no startTime and stopTime: they are those of the backfill that is undone",
))]
#[x_kube(validation = (
    "!has(self.undo) || !(has(self.sources) || has(self.transformation))",
    "undo takes no sources and transformation: the table's own history is used",
))]
#[x_kube(validation = (
    "!has(self.undo) || !has(self.stores) || 'Offline' in self.stores",
    "undo works in the offline table; leave stores out, or give [Offline]; to rebuild the online store alone give the interval and stores [Online]",
))]
#[x_kube(validation = schema::start_before_stop())]
#[x_kube(validation = (
    "!has(self.stores) || 'Offline' in self.stores || !(has(self.sources) || has(self.transformation))",
    "stores [Online] rebuilds the online store from the offline table and takes no sources and transformation",
))]
#[x_kube(validation = schema::immutable_backfill())]
#[x_kube(validation = schema::cancel_is_final())]
#[x_kube(validation = schema::mode_moves_on())]
pub struct FeatureSetBackfillSpec {
    /// The feature set, in the same namespace.
    #[schemars(schema_with = "schema::label")]
    pub feature_set: String,
    /// Replaces all data of the feature set. `startTime` and `stopTime`, when given too, bound what is filled in again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
    /// The first event time to replace, UTC: `2024-05-01`, `2024-05-01T12:30:00`, `2024-05-01 12:30:00`, each with an optional
    /// `Z` after the time. Default: the feature set's `backfill.startTime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub start_time: Option<String>,
    /// The first event time not to replace, UTC, in the same formats. Default: the moment at which the backfill starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub stop_time: Option<String>,
    /// Takes back the backfill of this name: its interval holds again what it held before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label")]
    pub undo: Option<String>,
    /// The size of the Jobs, in any case. Default: that of the feature set, then of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::template_name")]
    pub cluster_template: Option<String>,
    /// Says why. Kept in the table's history, the report and the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::comment")]
    pub comment: Option<String>,
    /// Read instead of the feature set's sources of the same name, for this backfill only; further names are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sources: Option<Vec<Source>>,
    /// Used instead of the feature set's transformation, for this backfill only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformation: Option<Transformation>,
    /// Which stores are replaced. Default: both. `[Online]` alone rebuilds the online store from the offline table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub stores: Option<Vec<Store>>,
    /// `Plan` computes and checks everything and publishes nothing; change it to `Apply` to publish. Default `Apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<Mode>")]
    pub mode: Option<Mode>,
    /// Overrides guards of the feature set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guards: Option<Guards>,
    /// What happens to online rows of unknown origin that are newer than the offline table's. Default `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<OnlineUnknown>")]
    pub online_unknown: Option<OnlineUnknown>,
    /// How often a step is tried again after a failure that may pass. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub retries: Option<u32>,
    /// How long the backfill may hold the feature set, as `6h` or `2d`. Default: the cluster template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub deadline: Option<String>,
    /// Stops the backfill's pods until it is false again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Ends the backfill. What is published stays published; `undo` takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
    /// Change it to run a finished backfill again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::run_id")]
    pub run_id: Option<String>,
    /// How long Jobs and pods are kept after the end. The backfill itself is never removed. Default 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 31536000))]
    pub ttl_seconds_after_finished: Option<u32>,
}

/// A store of a feature set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Store {
    /// The Delta table with all rows.
    Offline,
    /// The newest row of each entity.
    Online,
}

/// Whether a backfill publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Replaces the data.
    #[default]
    Apply,
    /// Computes and checks only.
    Plan,
}

/// What happens to online rows of unknown origin that are newer than the offline table's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnlineUnknown {
    /// They are taken for rows that have not reached the table yet.
    #[default]
    Keep,
    /// They are replaced when they lie in the interval.
    Replace,
}

/// What the operator knows of a backfill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureSetBackfillStatus {
    /// The generation that the operator has seen; -1 before it has seen any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for the whole, derived from the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub phase: Option<String>,
    /// What is true of the backfill now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The run that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub run_id: Option<String>,
    /// What was decided once for this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// What happened in the offline store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineReport>,
    /// What happened in the online store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineReport>,
    /// How far the running step is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last attempts of this run's steps, at most 5, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub attempts: Vec<Attempt>,
    /// How long pods of this run could run; the deadline counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Why the run is being broken off, until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

/// One Job of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// `offline`, `online` or `settle`.
    pub step: Step,
    /// Counts the attempts of the step, from 1.
    pub attempt: u32,
    /// The Job's name.
    #[schemars(schema_with = "schema::text::<63>")]
    pub job: String,
    /// When it was ordered, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub started_at: String,
    /// Why it is over; absent while it is the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::word")]
    pub ended: Option<Reason>,
}

/// How long pods of a run could run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Since when they can run now, RFC 3339; absent while the run is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub since: Option<String>,
    /// How many seconds they could run before.
    pub seconds_before: u64,
}

/// Why a run is being broken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Broken {
    /// In one word.
    #[schemars(schema_with = "schema::word")]
    pub reason: Reason,
    /// For a person.
    #[schemars(schema_with = "schema::text::<32768>")]
    pub message: String,
    /// Since when, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub at: String,
    /// Whether something may be left in the stores that a settle step has to find out about and remove.
    pub settle: bool,
}

/// What was decided once for a run and is used by all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The run's idempotency key.
    #[schemars(schema_with = "schema::text::<64>")]
    pub key: String,
    /// Whether the run publishes.
    pub mode: Mode,
    /// Which stores are replaced.
    pub stores: Stores,
    /// *Now* of the run, from which a missing stop is taken: the API server's clock when the run took the feature set.
    #[schemars(schema_with = "schema::text::<64>")]
    pub now: String,
    /// The hash of the definition that is used.
    #[schemars(schema_with = "schema::text::<64>")]
    pub definition: String,
    /// How long the run may hold the feature set, in seconds.
    pub deadline_seconds: u64,
    /// The interval that is filled. Absent for an undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// The cluster template.
    #[schemars(schema_with = "schema::text::<253>")]
    pub cluster_template: String,
    /// The feature set's generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_set_generation: Option<i64>,
    /// How many windows are run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u64>,
    /// What was not as asked, without being wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub warnings: Vec<Notice>,
}
