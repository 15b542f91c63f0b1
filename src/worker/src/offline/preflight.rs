//! Whether a table can be replaced faithfully, judged from its log before anything is staged.

use crate::delta::{self, OWNER};
use crate::failure::{Failure, Result};
use crate::offline::publish;
use crate::offline::shape::{self, Shape};
use backfill_core::api::SchemaGuard;
use backfill_core::condition::Reason;
use backfill_core::contract::{Notice, Order, Scope};
use deltalake::DeltaTable;
use deltalake::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::kernel::{Metadata, MetadataExt, StructType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Transactions must be remembered at least this long: they are the proof that a run has published.
const TRANSACTION_DAYS_MIN: i64 = 30;

/// What has to change in the table's metadata when the run publishes.
#[derive(Debug, Default)]
pub struct Changes {
    /// The new metadata, when they change.
    pub metadata: Option<Metadata>,
    /// What a person should know.
    pub notices: Vec<Notice>,
}

/// Refuses a table that this run must not or cannot replace, and says what has to change in its metadata.
pub fn check(order: &Order, table: &DeltaTable, shape: &Shape) -> Result<Changes> {
    refuse_features(table)?;
    if shape::is_unused(table) {
        let metadata = publish::metadata(order, shape)?.with_table_id(delta::snapshot(table).metadata().id().to_owned());
        let metadata = metadata.expect("only the id is another");
        return Ok(Changes { metadata: Some(metadata), notices: vec![] });
    }
    refuse_owner(order, table)?;
    let mut changes = Changes::default();
    let metadata = delta::snapshot(table).metadata();
    let unfit = |error: &dyn std::fmt::Display| {
        Failure::permanent(Reason::TableIncompatible, format!("the table's metadata cannot be changed: {error}"))
    };
    if let Some(schema) = evolve(order, table, shape)? {
        changes.metadata = Some(metadata.clone().with_schema(&schema).map_err(|error| unfit(&error))?);
    }
    if !metadata.configuration().contains_key(OWNER) {
        let owned = changes.metadata.take().unwrap_or_else(|| metadata.clone());
        let owned = owned.add_config_key(OWNER.to_owned(), shape::owner(&order.definition));
        changes.metadata = Some(owned.map_err(|error| unfit(&error))?);
    }
    if Shape::of_new_table(order).partition_columns() != shape.partition_columns() {
        changes.notices.push(Notice {
            reason: Reason::LayoutKept,
            message: format!("the existing table keeps its partitioning by ({})", shape.partition_columns().join(", ")),
        });
    }
    Ok(changes)
}

/// Tables with features that we would not write faithfully are refused by name.
fn refuse_features(table: &DeltaTable) -> Result<()> {
    let snapshot = delta::snapshot(table);
    let protocol = serde_json::to_value(snapshot.protocol()).expect("a protocol has string keys");
    let configuration = snapshot.metadata().configuration();
    let schema = serde_json::to_string(snapshot.schema().as_ref()).expect("a schema has string keys");
    let on = |key: &str| configuration.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut found: Vec<String> = Vec::new();
    for list in ["readerFeatures", "writerFeatures"] {
        let names = protocol[list].as_array().into_iter().flatten().filter_map(|name| name.as_str());
        // These two change nothing for a writer unless a property or a column uses them, which is looked at below.
        found.extend(names.filter(|name| !["appendOnly", "invariants"].contains(name)).map(str::to_owned));
    }
    let in_use = [
        ("appendOnly", on("delta.appendOnly")),
        ("changeDataFeed", on("delta.enableChangeDataFeed")),
        ("deletionVectors", on("delta.enableDeletionVectors") || has_deletion_vectors(table)),
        ("rowTracking", on("delta.enableRowTracking")),
        ("columnMapping", configuration.get("delta.columnMapping.mode").is_some_and(|mode| mode != "none")),
        ("checkConstraints", configuration.keys().any(|key| key.starts_with("delta.constraints."))),
        ("invariants", schema.contains("delta.invariants")),
        ("generatedColumns", schema.contains("delta.generationExpression")),
        ("identityColumns", schema.contains("delta.identity.")),
        ("timestampNtz", schema.contains("\"timestamp_ntz\"")),
    ];
    found.extend(in_use.into_iter().filter(|(_, used)| *used).map(|(name, _)| name.to_owned()));
    found.sort();
    found.dedup();
    if !found.is_empty() {
        return Err(Failure::permanent(
            Reason::UnsupportedTableFeature,
            format!("the table uses {}, which would not be kept; use a table without", found.join(", ")),
        ));
    }
    refuse_short_memory(configuration.get("delta.setTransactionRetentionDuration"))
}

fn has_deletion_vectors(table: &DeltaTable) -> bool {
    delta::snapshot(table).log_data().iter().any(|file| file.deletion_vector_descriptor().is_some())
}

/// `interval 30 days`, as Delta writes durations.
fn refuse_short_memory(retention: Option<&String>) -> Result<()> {
    let Some(retention) = retention else { return Ok(()) };
    let words: Vec<&str> = retention.split_whitespace().collect();
    let days = match words.as_slice() {
        ["interval", number, unit] => number.parse::<i64>().ok().and_then(|n| match unit.trim_end_matches('s') {
            "day" => Some(n),
            "week" => Some(n * 7),
            "hour" => Some(n / 24),
            _ => None,
        }),
        _ => None,
    };
    if days.is_some_and(|days| days >= TRANSACTION_DAYS_MIN) {
        return Ok(());
    }
    Err(Failure::permanent(
        Reason::UnsupportedTableFeature,
        format!(
            "the table forgets transactions after \"{retention}\", so that a backfill could run twice; set \
             delta.setTransactionRetentionDuration to interval {TRANSACTION_DAYS_MIN} days or more, or remove it"
        ),
    ))
}

/// One owner a table: two feature sets would replace each other's rows.
fn refuse_owner(order: &Order, table: &DeltaTable) -> Result<()> {
    let ours = shape::owner(&order.definition);
    match delta::snapshot(table).metadata().configuration().get(OWNER) {
        Some(owner) if *owner != ours => Err(Failure::permanent(
            Reason::TableOwned,
            format!("the table {} belongs to {owner}, not to {ours}; set offline.table to another name", table.table_url()),
        )),
        _ => Ok(()),
    }
}

/// The table's schema after the run, when it changes: new features are added, and a reset may replace it whole.
fn evolve(order: &Order, table: &DeltaTable, shape: &Shape) -> Result<Option<StructType>> {
    let existing = arrow_schema(table);
    let wanted = shape.table_schema();
    let replace = order.guards.schema == SchemaGuard::Replace && matches!(order.scope, Scope::Reset { delete_before: None, .. });
    let mut fields: BTreeMap<&str, &Field> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut added = Vec::new();
    for field in existing.fields() {
        fields.insert(field.name(), field);
    }
    for field in wanted.fields() {
        match fields.get(field.name().as_str()) {
            Some(found) if same_type(found.data_type(), field.data_type()) => {}
            Some(found) => problems.push(format!(
                "column \"{}\" is {} in the table and {} in the feature set",
                field.name(),
                found.data_type(),
                field.data_type()
            )),
            None if shape.rows.column_with_name(field.name()).is_some() && is_feature(shape, field.name()) => {
                added.push(field.as_ref().clone())
            }
            None => problems.push(format!("column \"{}\" is missing in the table", field.name())),
        }
    }
    for field in existing.fields() {
        if wanted.column_with_name(field.name()).is_none() && !field.is_nullable() {
            problems
                .push(format!("column \"{}\" of the table must not be null and is no column of the feature set", field.name()));
        }
    }
    let dropped = existing.fields().iter().any(|field| wanted.column_with_name(field.name()).is_none());
    if replace && (dropped || !problems.is_empty() || !added.is_empty()) {
        return kernel_schema(&wanted).map(Some);
    }
    if !problems.is_empty() {
        problems.truncate(10);
        return Err(Failure::permanent(
            Reason::SchemaMismatch,
            format!("{}; a reset with guards.schema Replace gives the table the feature set's columns", problems.join(", ")),
        ));
    }
    if added.is_empty() {
        return Ok(None);
    }
    let all: Vec<Field> = existing.fields().iter().map(|field| field.as_ref().clone()).chain(added).collect();
    kernel_schema(&Schema::new(all)).map(Some)
}

fn is_feature(shape: &Shape, name: &str) -> bool {
    name != shape.time && !shape.keys.iter().any(|key| key == name)
}

/// The table's columns in plain Arrow types.
pub fn arrow_schema(table: &DeltaTable) -> SchemaRef {
    let plain = |data_type: &DataType| match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        other => other.clone(),
    };
    let fields = delta::snapshot(table).arrow_schema();
    let fields = fields.fields().iter().map(|field| Field::new(field.name(), plain(field.data_type()), field.is_nullable()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether two types hold the same values. The name of a list's element does not matter.
fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_type(a.data_type(), b.data_type()),
        _ => a == b,
    }
}

/// The schema as the Delta log keeps it.
pub fn kernel_schema(schema: &Schema) -> Result<StructType> {
    use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
    let converted: Result<StructType, _> = schema.try_into_kernel();
    converted
        .map_err(|error| Failure::permanent(Reason::InvalidFeatureSet, format!("the columns cannot be kept in Delta: {error}")))
}
