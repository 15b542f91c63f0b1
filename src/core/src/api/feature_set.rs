//! `FeatureSet`: entities, event time, features, sources and transformation.

use super::schema;
use super::{Guards, KeyType, Source, Transformation, ValueType};
use crate::condition::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows of features per entity with an event time: where they come from, how they are computed and where they are kept.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "featureset.dev", version = "v1alpha1", kind = "FeatureSet", namespaced, status = "FeatureSetStatus", derive = "PartialEq",
    shortname = "fset", category = "featureset",
    doc = "Rows of features per entity with an event time: where they come from, how they are computed and where they are kept.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    selectable = ".spec.store",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.store"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.active.name"),
    printcolumn(name = "Version", type_ = "integer", json_path = ".status.offlineVersion"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "View", type_ = "string", json_path = ".spec.view", priority = 1),
    printcolumn(name = "Timestamp", type_ = "string", json_path = ".spec.timestampColumn", priority = 1),
    printcolumn(name = "Every", type_ = "string", json_path = ".spec.windows.every", priority = 1),
    printcolumn(name = "Cron", type_ = "string", json_path = ".spec.windows.cron", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.entities.all(entity, !self.features.exists(feature, feature.name == entity.name))",
    "a column is an entity or a feature, not both",
))]
#[x_kube(validation = (
    "!self.entities.exists(entity, entity.name == self.timestampColumn) && !self.features.exists(feature, feature.name == self.timestampColumn)",
    "timestampColumn is the name of an entity or a feature",
))]
#[x_kube(validation = (
    "(has(self.offline) && has(self.offline.partitionBy) && self.offline.partitionBy == 'None') || \
     [has(self.offline) && has(self.offline.dateColumn) ? self.offline.dateColumn : 'event_date'].all(date, \
     date != self.timestampColumn && !self.entities.exists(entity, entity.name == date) && !self.features.exists(feature, feature.name == date))",
    "the table's date column (offline.dateColumn, event_date by default) is the name of another column; give it another name, or partition by None",
))]
#[x_kube(validation = (
    "has(self.view) == has(oldSelf.view) && (!has(self.view) || self.view == oldSelf.view)",
    "view is immutable: it is part of every online field; create another feature set",
))]
pub struct FeatureSetSpec {
    /// The feature store, in the same namespace. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label")]
    pub store: Option<String>,
    /// The Feast view name, part of every online field. Default: the feature set's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::view")]
    pub view: Option<String>,
    /// The join keys.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub entities: Vec<Entity>,
    /// The column that holds the event time.
    #[schemars(schema_with = "schema::column")]
    pub timestamp_column: String,
    /// The features.
    #[schemars(length(min = 1, max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Vec<Feature>,
    /// The rows that the transformation reads.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sources: Vec<Source>,
    /// How rows are computed from the sources.
    pub transformation: Transformation,
    /// Runs the transformation once per tick of a schedule instead of once per interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
    /// The offline table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineTable>,
    /// The online view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineView>,
    /// What backfills of this feature set use when they do not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillDefaults>,
}

impl FeatureSet {
    /// The name of its store.
    pub fn store(&self) -> &str {
        self.spec.store.as_deref().unwrap_or("default")
    }
}

/// A join key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entity {
    /// The column's name.
    #[schemars(schema_with = "schema::column")]
    pub name: String,
    /// The column's type.
    #[serde(rename = "type")]
    pub value_type: KeyType,
}

/// A feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// The column's name.
    #[schemars(schema_with = "schema::column")]
    pub name: String,
    /// The column's type.
    #[serde(rename = "type")]
    pub value_type: ValueType,
}

/// The schedule at whose ticks an interval is cut: exactly one of `every` and `cron`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.every) != has(self.cron)", "give exactly one of every and cron"))]
pub struct Windows {
    /// The distance of two ticks, as `15m`, `1h` or `1d`, counted from 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub every: Option<String>,
    /// A cron expression of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cron")]
    pub cron: Option<String>,
    /// Whether a row's event time is the start of its window or later (`Start`), or its window's stop (`Stop`). Default `Start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<Stamp>")]
    pub stamp: Option<Stamp>,
}

/// Which rows belong to a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stamp {
    /// Rows with `start <= t < stop`.
    #[default]
    Start,
    /// Rows stamped with the window's stop.
    Stop,
}

/// The offline table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfflineTable {
    /// The table's folder below the store's URI. Default: the feature set's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::folder")]
    pub table: Option<String>,
    /// How a new table is partitioned. Default `Day`. An existing table keeps its layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<PartitionBy>")]
    pub partition_by: Option<PartitionBy>,
    /// The partition column, a date derived from the event time. Default `event_date`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::column")]
    pub date_column: Option<String>,
}

/// How a new table is partitioned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PartitionBy {
    /// By the date of the event time.
    #[default]
    Day,
    /// By the first day of the month of the event time.
    Month,
    /// Not at all; files are clustered by event time.
    None,
}

/// The online view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnlineView {
    /// Whether the newest row of each entity is kept online. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How old a row may be to be served, as `30d`. Older rows count as nothing. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// What backfills use when they do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackfillDefaults {
    /// The start of backfills that give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub start_time: Option<String>,
    /// The cluster template of backfills that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::template_name")]
    pub cluster_template: Option<String>,
    /// What must hold before anything is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guards: Option<Guards>,
}

/// What the operator knows of a feature set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureSetStatus {
    /// The generation that the operator has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the feature set now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The backfill that holds the feature set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveBackfill>,
    /// The last 20 replacements, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub ledger: Vec<LedgerEntry>,
    /// The intervals that backfills have filled, merged and in order; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub coverage: Vec<Span>,
    /// The newest version of the offline table that a backfill made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_version: Option<u64>,
}

/// The backfill that holds a feature set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveBackfill {
    /// The backfill's uid.
    #[schemars(schema_with = "schema::text::<64>")]
    pub uid: String,
    /// The backfill's name.
    #[schemars(schema_with = "schema::text::<253>")]
    pub name: String,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub run_id: Option<String>,
    /// Since when, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub since: String,
}

/// One replacement that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// The backfill's name.
    #[schemars(schema_with = "schema::text::<253>")]
    pub backfill: String,
    /// The run's idempotency key.
    #[schemars(schema_with = "schema::text::<64>")]
    pub key: String,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub run_id: Option<String>,
    /// The backfill's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<1024>")]
    pub comment: Option<String>,
    /// The start of what was replaced; absent for a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub start: Option<String>,
    /// The stop of what was replaced; absent for a reset of everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<64>")]
    pub stop: Option<String>,
    /// What was filled in again; absent for an undo, and when only the online store was rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Span>,
    /// The table version that the replacement made.
    pub version: u64,
    /// Whether the online store was brought in line.
    #[serde(default)]
    pub online: bool,
    /// A hash of the sources and the transformation.
    #[schemars(schema_with = "schema::text::<64>")]
    pub definition: String,
    /// When, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub at: String,
}

/// A span of event time, `start <= t < stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// The first instant of the span, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub start: String,
    /// The first instant after the span, RFC 3339.
    #[schemars(schema_with = "schema::text::<64>")]
    pub stop: String,
}
