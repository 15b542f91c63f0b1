//! What the operator tells a Job to do, and what the Job says it did: versioned JSON, in the order's ConfigMap, in termination
//! messages and in the run record beside the table. And what the plugin asks the worker to look up, in a pod's annotation and log.
//!
//! They and the worker meet only here. A field is added with a default or not at all; any other change raises [`VERSION`].

use crate::api::{
    EvictionPolicy, Feature, Mode, NullKeys, OnlineUnknown, PartitionBy, RowsOutside, SchemaGuard, Severity, Stamp, Timestamps,
};
use crate::time::Interval;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod lookup;
mod report;

pub use lookup::*;
pub use report::*;

/// The version of the contract. A worker refuses an order of another version.
pub const VERSION: u32 = 1;

/// Process exit codes of the worker. Codes from [`exit::PERMANENT`] on fail a Job at once; others are tried again.
pub mod exit {
    /// The order is fulfilled.
    pub const DONE: u8 = 0;
    /// A failure that may pass.
    pub const RETRY: u8 = 1;
    /// The command line or the order cannot be read.
    pub const USAGE: u8 = 2;
    /// The request, its data or a store refuses the backfill; trying again changes nothing.
    pub const PERMANENT: u8 = 64;
    /// A newer attempt or backfill has taken over.
    pub const SUPERSEDED: u8 = 65;
}

/// The Jobs of a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Stages, validates and publishes in the offline table.
    Offline,
    /// Brings the online store in line with the offline table.
    Online,
    /// Tidies up after a backfill that is broken off.
    Settle,
}

/// What one Job is to do. Everything a step needs, secrets by name only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// [`VERSION`].
    pub version: u32,
    /// Whether anything is published.
    pub mode: Mode,
    /// Counts the attempts of this step, from 1. Part of the names of staged files.
    pub attempt: u32,
    /// Whose order it is.
    pub backfill: BackfillRef,
    /// The idempotency key of the run, 64 hexadecimal digits.
    pub key: String,
    /// The backfill's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What is replaced.
    pub scope: Scope,
    /// Which stores are replaced.
    pub stores: Stores,
    /// *Now* of this run: the API server's clock when the run took the feature set.
    pub now: DateTime<Utc>,
    /// The feature set's shape and how its rows are computed.
    pub definition: Definition,
    /// The offline table.
    pub table: Table,
    /// The online store, when the feature set has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<Online>,
    /// What must hold before anything is replaced.
    pub guards: Guards,
    /// What the pod may use; of several, each.
    pub size: Size,
    /// What computes the rows.
    #[serde(default, skip_serializing_if = "Engine::is_data_fusion")]
    pub engine: Engine,
}

/// The backfill that an order belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackfillRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The object's uid; `local` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// What is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Scope {
    /// The rows of the interval.
    Interval {
        /// Replaced and filled.
        interval: Interval,
    },
    /// All rows; then the interval is filled.
    Reset {
        /// Filled.
        interval: Interval,
        /// With a defaulted stop: only rows before it (or without a time) are deleted. With a given stop: every row at the pin.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delete_before: Option<DateTime<Utc>>,
    },
    /// What the backfill replaced holds again what it held before.
    Undo {
        /// The backfill's name, in the same namespace.
        backfill: String,
        /// The key of its last published run, when the ledger knows it; otherwise the worker looks it up in the run records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

/// Which stores are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stores {
    /// Offline, then online.
    Both,
    /// Only offline.
    Offline,
    /// Only online, from the offline table.
    Online,
}

impl Step {
    /// The word in names, labels and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Online => "online",
            Self::Settle => "settle",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl Stores {
    /// Whether the offline table is replaced.
    pub const fn offline(self) -> bool {
        matches!(self, Self::Both | Self::Offline)
    }

    /// Whether the online store is brought in line.
    pub const fn online(self) -> bool {
        matches!(self, Self::Both | Self::Online)
    }
}

/// A feature set's shape and how its rows are computed, after the backfill's overrides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// The feature set's name.
    pub feature_set: String,
    /// The Feast project.
    pub project: String,
    /// The Feast view.
    pub view: String,
    /// The join keys, as declared.
    pub entities: Vec<crate::api::Entity>,
    /// The event-time column.
    pub timestamp_column: String,
    /// The features, as declared.
    pub features: Vec<Feature>,
    /// What the transformation reads.
    pub sources: Vec<OrderSource>,
    /// Exactly one SELECT.
    pub sql: String,
    /// The schedule at whose ticks the interval is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Schedule>,
    /// SHA-256 of sources, transformation, windows and columns: tells whether a definition has changed.
    pub hash: String,
}

/// The ticks of a feature set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// When ticks are.
    pub ticks: Ticks,
    /// Which rows belong to a window.
    pub stamp: Stamp,
}

/// When ticks are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ticks {
    /// Every so many seconds since 1970-01-01T00:00:00Z.
    EverySeconds(u64),
    /// A cron expression of five fields, in UTC.
    Cron(String),
}

/// A source of the transformation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderSource {
    /// The table's name in SQL.
    pub name: String,
    /// How it is read.
    pub format: SourceFormat,
    /// Where it lies.
    pub uri: String,
}

/// How a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceFormat {
    /// Parquet files.
    Parquet,
    /// Comma-separated text with a header line.
    Csv,
    /// One JSON object a line.
    Json,
    /// A Delta table, also that of another feature set.
    Delta,
}

/// The offline table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The table's folder.
    pub uri: String,
    /// How a new table is partitioned.
    pub partition_by: PartitionBy,
    /// The partition column of a new table, a date.
    pub date_column: String,
    /// The Secret with the object store's settings: a folder of this name under the worker's secrets directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,
}

/// The online store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Online {
    /// Which store.
    pub store: OnlineTarget,
    /// Rows older than this count as nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// What happens to rows of unknown origin that are newer than the table's.
    #[serde(default)]
    pub unknown: OnlineUnknown,
    /// How many processes share the work. Index i takes every bucket b with b mod parallelism = i.
    pub parallelism: u32,
}

/// Which online store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum OnlineTarget {
    /// Redis; the URL is in the file `<secret>/<key>` under the worker's secrets directory.
    Redis {
        /// The Secret's name.
        secret: String,
        /// The entry's key.
        key: String,
        /// How long a key lives after its last write; expiries are only lengthened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_ttl_seconds: Option<u64>,
    },
    /// A SQLite file.
    Sqlite {
        /// Its path, below `/store/`.
        path: String,
    },
}

/// The guards with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guards {
    /// Whether a reset may drop or retype columns.
    pub schema: SchemaGuard,
    /// Rows without a key or event time.
    pub null_keys: NullKeys,
    /// The column whose largest value wins among rows of equal keys and event time; `None` fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last_by: Option<String>,
    /// Rows outside the interval or their window.
    pub rows_outside: RowsOutside,
    /// Whether an empty result may replace rows.
    pub allow_empty: bool,
    /// The largest shrink in percent.
    pub max_shrink_percent: u8,
    /// Times finer than a microsecond.
    pub timestamps: Timestamps,
    /// An online store that evicts.
    pub eviction_policy: EvictionPolicy,
    /// Further conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// A condition over every new row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name.
    pub name: String,
    /// A SQL predicate.
    pub predicate: String,
    /// Whether a violation fails the backfill.
    pub severity: Severity,
}

/// What a pod may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Processor cores.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Scratch space in bytes.
    pub scratch_bytes: u64,
}

/// What computes the rows of the offline step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Engine {
    /// Apache DataFusion, in the worker's own process.
    #[default]
    DataFusion,
    /// Apache Spark, of which the worker is the driver.
    Spark {
        /// How many pods compute the rows. One alone is driver and executor; of several, the first only drives.
        nodes: u32,
        /// The template's further settings.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        conf: BTreeMap<String, String>,
    },
}

impl Engine {
    /// Whether it is the default, which orders leave out.
    pub const fn is_data_fusion(&self) -> bool {
        matches!(self, Self::DataFusion)
    }
}

/// A document of the contract that this program does not act on.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is of another version.
    #[error(
        "the {what} has version {found}, this program reads version {VERSION}; use plugin, operator and worker of one version"
    )]
    Version {
        /// What it is.
        what: &'static str,
        /// The version that it names.
        found: serde_json::Value,
    },
    /// It is not JSON, or not what it is said to be.
    #[error("the {what} cannot be read: {source}")]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

impl Order {
    /// Reads an order.
    pub fn read(json: &str) -> Result<Self, DocumentError> {
        read_versioned("order", json)
    }
}

/// Reads a document. The version is looked at before anything else, so that another version is refused by its name.
fn read_versioned<T: DeserializeOwned>(what: &'static str, json: &str) -> Result<T, DocumentError> {
    let unreadable = |source| DocumentError::Unreadable { what, source };
    let mut value: serde_json::Value = serde_json::from_str(json).map_err(unreadable)?;
    match value.get_mut("version").map(serde_json::Value::take) {
        Some(version) if version == VERSION => value["version"] = version,
        found => return Err(DocumentError::Version { what, found: found.unwrap_or_default() }),
    }
    serde_json::from_value(value).map_err(unreadable)
}

#[cfg(test)]
mod tests;
