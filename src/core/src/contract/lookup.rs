//! A lookup: what the online store serves of one entity now. Asked by a person, answered inside the cluster, written nowhere.

use super::{DocumentError, Notice, OnlineTarget, VERSION, read_versioned};
use crate::api::{Feature, KeyType, ValueType};
use crate::feast;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which row is looked up. Secrets by name only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lookup {
    /// [`VERSION`].
    pub version: u32,
    /// The Feast project.
    pub project: String,
    /// The Feast view.
    pub view: String,
    /// Which store.
    pub store: OnlineTarget,
    /// Rows older than this count as nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Every join key with its value, as declared.
    pub entity: Vec<JoinKey>,
    /// The features, as declared.
    pub features: Vec<Feature>,
}

/// A join key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinKey {
    /// The column's name.
    pub name: String,
    /// The value, in the key's type.
    #[serde(flatten)]
    pub value: KeyValue,
}

/// The value of a join key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type", content = "value")]
pub enum KeyValue {
    /// UTF-8 text.
    String(String),
    /// Raw bytes, in hexadecimal digits.
    Bytes(#[serde(with = "crate::hex")] Vec<u8>),
    /// Signed 32-bit integer.
    Int32(i32),
    /// Signed 64-bit integer.
    Int64(i64),
    /// An instant; online, its whole second counts.
    Timestamp(DateTime<Utc>),
}

impl KeyValue {
    /// As Feast's layout has it.
    pub fn key(&self) -> feast::Key<'_> {
        match self {
            Self::String(text) => feast::Key::String(text),
            Self::Bytes(bytes) => feast::Key::Bytes(bytes),
            Self::Int32(number) => feast::Key::Int32(*number),
            Self::Int64(number) => feast::Key::Int64(*number),
            Self::Timestamp(instant) => feast::Key::Timestamp(instant.timestamp()),
        }
    }

    /// Its type.
    pub const fn key_type(&self) -> KeyType {
        match self {
            Self::String(_) => KeyType::String,
            Self::Bytes(_) => KeyType::Bytes,
            Self::Int32(_) => KeyType::Int32,
            Self::Int64(_) => KeyType::Int64,
            Self::Timestamp(_) => KeyType::Timestamp,
        }
    }
}

/// What a lookup comes to: one line of JSON on the worker's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub outcome: LookupOutcome,
}

/// Whether the store could be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LookupOutcome {
    /// It has answered.
    Served(Served),
    /// It has not.
    Failed(Notice),
}

/// What readers of an entity are served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// The Feast project.
    pub project: String,
    /// The Feast view.
    pub view: String,
    /// The entity that was asked for.
    pub entity: Vec<JoinKey>,
    /// Whether there is a `row`.
    pub found: bool,
    /// The row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<ServedRow>,
}

/// An entity's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedRow {
    /// Its event time, as exactly as the store knows it; absent when others have removed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<DateTime<Utc>>,
    /// When it was computed, by whoever wrote it; only in SQLite, and only when the writer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<DateTime<Utc>>,
    /// Whether it is older than the feature set's `online.ttl`, so that it counts as nothing.
    #[serde(default)]
    pub expired: bool,
    /// For how many seconds more the store keeps the entity's key; absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ttl_seconds: Option<u64>,
    /// The backfill that wrote the row; absent when ingestion did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<Writer>,
    /// Every feature of the feature set, as declared.
    pub features: Vec<ServedFeature>,
}

/// Which backfill wrote a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// The version of the offline table that the backfill made.
    pub generation: u64,
    /// Its name, when the feature set's ledger still knows it. The store does not: whoever reads the ledger fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<String>,
}

/// One feature of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedFeature {
    /// Its name.
    pub name: String,
    /// The type that the feature set declares.
    #[serde(rename = "type")]
    pub value_type: ValueType,
    /// The value. Bytes are hexadecimal digits; timestamps are RFC 3339; what is no number of JSON is `"NaN"`, `"Infinity"` or
    /// `"-Infinity"`.
    pub value: Value,
    /// What a person should know of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Lookup {
    /// Reads a lookup; another version is refused by its name.
    pub fn read(json: &str) -> Result<Self, DocumentError> {
        read_versioned("lookup", json)
    }

    /// What is served: this row, or none.
    pub fn served(&self, row: Option<ServedRow>) -> Served {
        let Self { project, view, entity, .. } = self.clone();
        Served { project, view, entity, found: row.is_some(), row }
    }
}

impl Answer {
    /// An answer of this version.
    pub const fn new(outcome: LookupOutcome) -> Self {
        Self { version: VERSION, outcome }
    }

    /// The answer among the lines of a log, in which standard output and standard error are mixed. `None` when there is none.
    pub fn in_log(log: &str) -> Option<Result<Self, DocumentError>> {
        let document = |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|value| value.get("version").is_some());
        log.lines().find(document).map(|line| read_versioned("answer", line))
    }
}
