//! Value types shared by the resources.

use super::schema;
use std::fmt;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The type of one element of a feature or of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScalarType {
    /// UTF-8 text.
    String,
    /// Raw bytes.
    Bytes,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE 754 single precision.
    Float32,
    /// IEEE 754 double precision.
    Float64,
    /// True or false.
    Bool,
    /// An instant in UTC; microseconds offline, whole seconds online (Feast's type).
    Timestamp,
}

impl ScalarType {
    /// Every scalar type, in the order of the documentation.
    pub const ALL: [Self; 8] =
        [Self::String, Self::Bytes, Self::Int32, Self::Int64, Self::Float32, Self::Float64, Self::Bool, Self::Timestamp];

    /// The name used in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
        }
    }
}

/// The type of a feature: a scalar, or a list of scalars written `list<scalar>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ValueType {
    /// The scalar, or the element of the list.
    pub scalar: ScalarType,
    /// Whether the feature is a list of that scalar.
    pub list: bool,
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.list { write!(f, "list<{}>", self.scalar.name()) } else { f.write_str(self.scalar.name()) }
    }
}

impl From<ValueType> for String {
    fn from(value: ValueType) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for ValueType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, list) = match text.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
            Some(element) => (element, true),
            None => (text.as_str(), false),
        };
        ScalarType::ALL.into_iter().find(|scalar| scalar.name() == name).map(|scalar| Self { scalar, list }).ok_or_else(|| {
            format!(
                "unknown type \"{text}\"; use string, bytes, int32, int64, float32, float64, bool, timestamp or list<…> of these"
            )
        })
    }
}

impl JsonSchema for ValueType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ValueType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<String> =
            [false, true].into_iter().flat_map(|list| ScalarType::ALL.map(|scalar| Self { scalar, list }.to_string())).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

/// The type of a join key. Floats and booleans cannot be keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// UTF-8 text.
    String,
    /// Raw bytes.
    Bytes,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// An instant in UTC, whole seconds online.
    Timestamp,
}

impl From<KeyType> for ScalarType {
    fn from(key: KeyType) -> Self {
        match key {
            KeyType::String => Self::String,
            KeyType::Bytes => Self::Bytes,
            KeyType::Int32 => Self::Int32,
            KeyType::Int64 => Self::Int64,
            KeyType::Timestamp => Self::Timestamp,
        }
    }
}

/// Rows to read: exactly one of `parquet`, `csv`, `json`, `delta` and `featureSet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.parquet), has(self.csv), has(self.json), has(self.delta), has(self.featureSet)].filter(given, given).size() == 1",
    "give exactly one of parquet, csv, json, delta and featureSet",
))]
pub struct Source {
    /// Names the source in the transformation's SQL.
    #[schemars(schema_with = "schema::column")]
    pub name: String,
    /// Reads Parquet files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<FileSource>,
    /// Reads comma-separated text with a header line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<FileSource>,
    /// Reads JSON lines: one object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<FileSource>,
    /// Reads a Delta table at its newest version when the backfill starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<FileSource>,
    /// Reads the offline table of another feature set of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_set: Option<FeatureSetSource>,
}

/// Where files lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSource {
    /// The URI of a file, or of a folder whose files are all read: `s3://`, `gs://`, `abfss://`, or `file:///store/` for the
    /// store's volume claim.
    #[schemars(schema_with = "schema::uri")]
    pub uri: String,
}

/// Another feature set as a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureSetSource {
    /// The feature set's name, in the same namespace.
    #[schemars(schema_with = "schema::label")]
    pub name: String,
}

/// How rows are computed from the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transformation {
    /// Exactly one SELECT over the sources. It returns the keys, the event-timestamp column and the features; other columns
    /// are ignored. `$start` and `$stop` hold the resolved interval, `$window_start` and `$window_stop` the window when the
    /// feature set has `windows`.
    #[schemars(schema_with = "schema::filled_text::<65536>")]
    pub sql: String,
}

/// What must hold before anything is replaced. A failed guard changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guards {
    /// Whether a reset may drop or retype columns of the table (`Replace`). Default `Strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<SchemaGuard>")]
    pub schema: Option<SchemaGuard>,
    /// What happens to rows without a key or event time. Default `Fail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<NullKeys>")]
    pub null_keys: Option<NullKeys>,
    /// What happens to rows of equal keys and event time with different features. Default: the backfill fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<Duplicates>,
    /// What happens to rows outside the interval or outside their own window. Default `Drop`; they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<RowsOutside>")]
    pub rows_outside: Option<RowsOutside>,
    /// Allows a result without rows where there were some. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// The largest share, in percent, by which the number of rows may shrink. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_shrink_percent: Option<u8>,
    /// What happens to event times finer than a microsecond. Default `Exact`: the backfill fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<Timestamps>")]
    pub timestamps: Option<Timestamps>,
    /// What happens when the online store may evict keys by itself. Default `Warn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<EvictionPolicy>")]
    pub eviction_policy: Option<EvictionPolicy>,
    /// Further conditions over the new rows. Checks of a backfill are added to those of its feature set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub checks: Vec<Check>,
}

/// A condition that every new row must meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Names the check in reports.
    #[schemars(schema_with = "schema::column")]
    pub name: String,
    /// A SQL predicate over the columns of the result; a row for which it is not true violates the check.
    #[schemars(schema_with = "schema::filled_text::<4096>")]
    pub predicate: String,
    /// Whether a violation fails the backfill or only warns. Default `Fail`.
    #[serde(default)]
    pub severity: Severity,
}

/// Whether a violated check stops the backfill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// The backfill fails and changes nothing.
    #[default]
    Fail,
    /// The report carries a warning.
    Warn,
}

/// Whether a reset may drop or retype columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchemaGuard {
    /// The table's columns keep their types, none is dropped.
    Strict,
    /// A reset gives the table exactly the feature set's columns.
    Replace,
}

/// What happens to rows without a key or event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NullKeys {
    /// The backfill fails.
    Fail,
    /// The rows are dropped and counted.
    Drop,
}

/// What happens to rows outside the interval or their window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RowsOutside {
    /// The rows are dropped and counted.
    Drop,
    /// The backfill fails.
    Fail,
}

/// What happens to times finer than a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Timestamps {
    /// The backfill fails.
    Exact,
    /// Times are cut down to the microsecond.
    Truncate,
}

/// What happens when the online store may evict keys by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvictionPolicy {
    /// The report carries a warning.
    Warn,
    /// The backfill fails before anything is replaced.
    Fail,
}

/// What happens to rows of equal keys and event time with different features. Rows that are equal in every feature count as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.policy != 'KeepLast' || has(self.by)", "KeepLast needs by: the column whose largest value is kept"))]
#[x_kube(validation = ("self.policy != 'Fail' || !has(self.by)", "by is for KeepLast only"))]
pub struct Duplicates {
    /// `Fail`, or `KeepLast`: the row with the largest value in the column `by` is kept.
    pub policy: DuplicatePolicy,
    /// The column of the transformation's result that orders duplicates; with `KeepLast` only. It need not be a feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::column")]
    pub by: Option<String>,
}

/// Which of several rows of equal keys and event time is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DuplicatePolicy {
    /// None: the backfill fails.
    Fail,
    /// The one with the largest value in the named column.
    KeepLast,
}
