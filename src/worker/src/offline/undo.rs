//! Takes a backfill back: its span holds again what it held before, and what others landed there since.
//!
//! Never a RESTORE: that would take back everything that happened since, also outside the span.

use crate::delta::{self, DataFile};
use crate::failure::{Failure, Result};
use crate::offline::pin;
use crate::offline::preflight;
use crate::offline::publish::{self, scope_of};
use crate::offline::scope::{Deletes, Overlap, quoted};
use crate::offline::shape;
use backfill_core::condition::Reason;
use backfill_core::contract::{Order, Scope};
use deltalake::DeltaTable;
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::prelude::{DataFrame, SessionContext, cast, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::kernel::{Action, Add, Version};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// What is undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undone {
    /// The key of the run that is undone.
    pub key: String,
    /// The version that it made.
    pub version: Version,
    /// What it was asked to replace.
    pub scope: Scope,
    /// The rows that it replaced.
    pub deletes: Deletes,
    /// The files that others landed since, with the versions in which they did.
    pub landed: Vec<(Version, Add)>,
}

/// Finds the last published run of a backfill of this namespace and looks at what happened since.
///
/// Fails with `UndoNotFound`, `UndoSuperseded`, `SnapshotExpired` or `SchemaChanged`.
pub async fn find(order: &Order, backfill: &str, key: Option<&str>, table: Option<&DeltaTable>) -> Result<Undone> {
    let not_found = || {
        Failure::permanent(
            Reason::UndoNotFound,
            format!("backfill \"{backfill}\" has published nothing in this table; check the name of the backfill to undo"),
        )
    };
    let table = table.ok_or_else(not_found)?;
    let mut newest: Option<Undone> = None;
    for pin in pin::all(table).await? {
        let theirs = &pin.order.backfill;
        if key.is_some_and(|key| key != pin.order.key) {
            continue;
        }
        if theirs.name != backfill || theirs.namespace != order.backfill.namespace {
            continue;
        }
        let app = delta::publish_app(&pin.order.key);
        if delta::transaction(table, &app).await?.is_none() {
            continue;
        }
        let version = publish::find(table, &app, pin.version.unwrap_or(0)).await?;
        if newest.as_ref().is_none_or(|undone| undone.version < version) {
            newest = Some(Undone { scope: pin.scope(), key: pin.order.key, version, deletes: pin.deletes, landed: vec![] });
        }
    }
    let mut undone = newest.ok_or_else(not_found)?;
    undone.landed = landed_since(table, &undone, &order.definition.timestamp_column).await?;
    refuse_expired(table, &undone, &order.definition.timestamp_column).await?;
    Ok(undone)
}

/// What others landed in the span since; refused when the span was replaced or deleted from since.
async fn landed_since(table: &DeltaTable, undone: &Undone, time: &str) -> Result<Vec<(Version, Add)>> {
    let superseded = |version: Version, what: &str| {
        Failure::permanent(
            Reason::UndoSuperseded,
            format!("version {version} {what} in the span of the backfill; undo that first, or start a new backfill"),
        )
    };
    let then = delta::at(table, undone.version).await?;
    let mut known: Vec<DataFile> = delta::files(&then, time);
    let mut landed = Vec::new();
    for version in undone.version + 1..=delta::version(table) {
        let actions = delta::commit_at(table, version).await?.ok_or_else(|| {
            let message = format!("the log entry of version {version} is gone, so that nobody knows what happened since");
            Failure::permanent(Reason::SnapshotExpired, message)
        })?;
        if actions.iter().any(|action| matches!(action, Action::Txn(txn) if txn.app_id.starts_with("fsb/"))) {
            if scope_of(&actions).unwrap_or(Deletes::All).overlaps(undone.deletes) {
                return Err(superseded(version, "is a later backfill"));
            }
            continue;
        }
        for action in actions {
            match action {
                Action::Add(add) => {
                    let file = DataFile::new(add, time);
                    if file.add.data_change && undone.deletes.overlap(file.time) != Overlap::Outside {
                        landed.push((version, file.add.clone()));
                    }
                    known.push(file);
                }
                Action::Remove(remove) if remove.data_change => {
                    let file = known.iter().find(|file| file.add.path == remove.path);
                    if file.is_none_or(|file| undone.deletes.overlap(file.time) != Overlap::Outside) {
                        return Err(superseded(version, "removed rows"));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(landed)
}

/// The files that an undo reads may have been vacuumed.
async fn refuse_expired(table: &DeltaTable, undone: &Undone, time: &str) -> Result<()> {
    let mut needed: Vec<String> = undone.landed.iter().map(|(_, add)| add.path.clone()).collect();
    if let Some(before) = before(table, undone).await? {
        refuse_other_columns(table, &before)?;
        let files = publish::affected(delta::files(&before, time), undone.deletes, |_| false);
        needed.extend(files.into_iter().map(|(file, _)| file.add.path));
    }
    let store = table.object_store();
    for path in needed {
        // The path as it stands in the log: names of partitions may be escaped in it, which is part of the name.
        let found = match Path::parse(&path) {
            Ok(path) => store.head(&path).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = found {
            return Err(Failure::permanent(
                Reason::SnapshotExpired,
                format!(
                    "file {path}, which the undo needs, is gone ({error}); VACUUM keeps files for 7 days unless told otherwise"
                ),
            ));
        }
    }
    Ok(())
}

/// The table right before the run that is undone; `None` when it was the first load.
async fn before(table: &DeltaTable, undone: &Undone) -> Result<Option<DeltaTable>> {
    let Some(version) = undone.version.checked_sub(1) else { return Ok(None) };
    let before = delta::at(table, version).await?;
    Ok(Some(before).filter(|before| !shape::is_unused(before)))
}

fn refuse_other_columns(table: &DeltaTable, before: &DeltaTable) -> Result<()> {
    let now = preflight::arrow_schema(table);
    for field in preflight::arrow_schema(before).fields() {
        if now.column_with_name(field.name()).is_none_or(|(_, found)| found.data_type() != field.data_type()) {
            return Err(Failure::permanent(
                Reason::SchemaChanged,
                format!("column \"{}\" was dropped or has another type since; its values cannot be brought back", field.name()),
            ));
        }
    }
    Ok(())
}

/// The rows that the span is to hold, with the table's columns of today.
pub async fn rows(session: &SessionContext, table: &DeltaTable, undone: &Undone, time: &str) -> Result<DataFrame> {
    let columns = preflight::arrow_schema(table);
    let mut parts: Vec<(DeltaTable, Vec<DataFile>)> = Vec::new();
    if let Some(before) = before(table, undone).await? {
        let files = publish::affected(delta::files(&before, time), undone.deletes, |_| false);
        parts.push((before, files.into_iter().map(|(file, _)| file).collect()));
    }
    for (version, add) in &undone.landed {
        parts.push((delta::at(table, *version).await?, vec![DataFile::new(add.clone(), time)]));
    }
    let mut frame: Option<DataFrame> = None;
    for (version, files) in parts.into_iter().filter(|(_, files)| !files.is_empty()) {
        let provider = delta::provider(&version, Some(&files), None)?;
        let present = preflight::arrow_schema(&version);
        let part = session.read_table(provider).and_then(|part| {
            let part = part.filter(undone.deletes.predicate(time))?.select(select(&columns, &present))?;
            match frame.take() {
                Some(all) => all.union(part),
                None => Ok(part),
            }
        });
        frame = Some(part.map_err(|error| unreadable(&error))?);
    }
    match frame {
        Some(frame) => Ok(frame),
        // Before the first load there was nothing.
        None => session
            .read_table(delta::provider(table, None, None)?)
            .and_then(|all| all.filter(lit(false))?.select(select(&columns, &columns)))
            .map_err(|error| unreadable(&error)),
    }
}

fn select(columns: &SchemaRef, present: &SchemaRef) -> Vec<deltalake::datafusion::prelude::Expr> {
    let column = |field: &deltalake::arrow::datatypes::FieldRef| {
        let value = match present.column_with_name(field.name()) {
            Some(_) => cast(col(quoted(field.name())), field.data_type().clone()),
            None => cast(lit(ScalarValue::Null), field.data_type().clone()),
        };
        value.alias(field.name())
    };
    columns.fields().iter().map(column).collect()
}

fn unreadable(error: &DataFusionError) -> Failure {
    crate::session::failure(error, Reason::TableCorrupted)
}
