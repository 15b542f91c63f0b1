//! Delta tables as the steps see them: versions, files with their time statistics, application transactions, explicit commits.

use crate::failure::{Failure, Result};
use crate::storage::{Location, behind};
use backfill_core::condition::Reason;
use chrono::{DateTime, NaiveDateTime, Utc};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext, FileSelection};
use deltalake::kernel::transaction::TransactionError;
use deltalake::kernel::{Action, Add, CommitInfo, EagerSnapshot, LogicalFileView, Remove, Transaction, Version};
use deltalake::logstore::{CommitOrBytes, get_actions};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The application id of the fence: its highest version belongs to the attempt that may commit.
pub const FENCE: &str = "fsb-fence";

/// The table property that names the feature set that the table belongs to, as `<project>/<view>`.
pub const OWNER: &str = "featureset.owner";

/// The application id that proves the offline publish of a run.
pub fn publish_app(key: &str) -> String {
    format!("fsb/{key}")
}

/// The application id that proves that a run's online part is done in one store.
pub fn online_app(key: &str, store: &str) -> String {
    format!("fsb-online/{key}/{store}")
}

/// The table at a location, not loaded yet.
pub fn unloaded(location: &Location) -> Result<DeltaTable> {
    DeltaTableBuilder::from_url(location.url.clone())
        .map(|builder| builder.with_storage_options(location.options.clone()))
        .and_then(DeltaTableBuilder::build)
        .map_err(|error| damaged(location.url.as_str(), &error))
}

/// Opens the newest version of a table; `None` when there is no table.
pub async fn open(location: &Location) -> Result<Option<DeltaTable>> {
    let mut table = unloaded(location)?;
    match table.verify_deltatable_existence().await {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) => return Err(damaged(location.url.as_str(), &error)),
    }
    table.load().await.map_err(|error| damaged(location.url.as_str(), &error))?;
    Ok(Some(table))
}

/// The same table at a version.
pub async fn at(table: &DeltaTable, version: Version) -> Result<DeltaTable> {
    let mut table = table.clone();
    if table.version() == Some(version) {
        return Ok(table);
    }
    table.load_version(version).await.map_err(|error| match behind(&error) {
        Some(failure) => failure,
        None => Failure::permanent(
            Reason::SnapshotExpired,
            format!("version {version} of the table {} cannot be read any more: {error}", table.table_url()),
        ),
    })?;
    Ok(table)
}

/// Brings a table to its newest version.
pub async fn refresh(table: &mut DeltaTable) -> Result<()> {
    let url = table.table_url().to_string();
    table.update_state().await.map_err(|error| damaged(&url, &error))
}

/// What an error of delta-rs means for the backfill.
pub fn damaged(table: &str, error: &DeltaTableError) -> Failure {
    behind(error).unwrap_or_else(|| corrupted_table(table, error))
}

fn corrupted_table(table: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::permanent(Reason::TableCorrupted, format!("cannot read the Delta table {table}: {error}; it was left as it is"))
}

/// The snapshot of a loaded table.
pub fn snapshot(table: &DeltaTable) -> &EagerSnapshot {
    table.snapshot().expect("only loaded tables are passed around").snapshot()
}

/// The version of a loaded table.
pub fn version(table: &DeltaTable) -> Version {
    table.version().expect("only loaded tables are passed around")
}

/// The version that an application has committed last.
pub async fn transaction(table: &DeltaTable, app: &str) -> Result<Option<i64>> {
    snapshot(table)
        .transaction_version(table.log_store().as_ref(), app)
        .await
        .map_err(|error| damaged(table.table_url().as_str(), &error))
}

/// What the log says of the event times in a file. Statistics are cut down to milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeStats {
    /// The smallest event time, cut down to the millisecond.
    pub min: DateTime<Utc>,
    /// The largest event time, cut down to the millisecond.
    pub max: DateTime<Utc>,
    /// Rows without an event time.
    pub nulls: u64,
}

/// A file of a table version.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// As it stands in the log.
    pub add: Add,
    /// How many rows it holds, when the log says.
    pub rows: Option<u64>,
    /// Its event times, when the log says.
    pub time: Option<TimeStats>,
}

impl DataFile {
    /// Reads what the log says about the event-time column `time`.
    pub fn new(add: Add, time: &str) -> Self {
        let stats: Option<Stats> = add.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok());
        let rows = stats.as_ref().and_then(|stats| stats.num_records);
        let time = stats.and_then(|stats| {
            Some(TimeStats {
                min: instant(stats.min_values.get(time)?)?,
                max: instant(stats.max_values.get(time)?)?,
                nulls: stats.null_count.get(time)?.as_u64()?,
            })
        });
        Self { add, rows, time }
    }

    /// The action that removes the file from the table.
    pub fn remove(&self, at: DateTime<Utc>) -> Remove {
        Remove {
            path: self.add.path.clone(),
            data_change: true,
            deletion_timestamp: Some(at.timestamp_millis()),
            extended_file_metadata: Some(true),
            partition_values: Some(self.add.partition_values.clone()),
            size: Some(self.add.size),
            ..Remove::default()
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    num_records: Option<u64>,
    #[serde(default)]
    min_values: HashMap<String, serde_json::Value>,
    #[serde(default)]
    max_values: HashMap<String, serde_json::Value>,
    #[serde(default)]
    null_count: HashMap<String, serde_json::Value>,
}

/// Writers differ in how they print instants: with `Z`, with an offset, or without a zone, which then is UTC.
fn instant(value: &serde_json::Value) -> Option<DateTime<Utc>> {
    let text = value.as_str()?;
    DateTime::parse_from_rfc3339(text)
        .map(|t| t.to_utc())
        .ok()
        .or_else(|| text.parse::<NaiveDateTime>().ok().map(|t| t.and_utc()))
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|t| t.and_utc()))
}

/// The files of a loaded table.
pub fn files(table: &DeltaTable, time: &str) -> Vec<DataFile> {
    let add = |view: LogicalFileView| Add {
        path: view.path().into_owned(),
        partition_values: view.partition_values_map(),
        size: view.size(),
        modification_time: view.modification_time(),
        data_change: true,
        stats: view.stats(),
        deletion_vector: view.deletion_vector_descriptor(),
        ..Add::default()
    };
    snapshot(table).log_data().iter().map(|view| DataFile::new(add(view), time)).collect()
}

/// A provider of the rows of a loaded table, of all files or of some, in plain Arrow types.
///
/// With `file_column`, that column holds each row's file path.
pub fn provider(table: &DeltaTable, files: Option<&[DataFile]>, file_column: Option<&str>) -> Result<Arc<dyn TableProvider>> {
    let config = DeltaScanConfig {
        file_column_name: file_column.map(str::to_owned),
        wrap_partition_values: false,
        schema_force_view_types: false,
        ..DeltaScanConfig::new()
    };
    let corrupted = |error: &dyn std::fmt::Display| corrupted_table(table.table_url().as_str(), error);
    let mut scan = DeltaScanNext::new(snapshot(table).clone(), config).map_err(|error| corrupted(&error))?;
    if let Some(files) = files {
        scan = scan.with_file_selection(FileSelection::from_adds(files.iter().map(|file| file.add.clone())));
    }
    Ok(Arc::new(scan))
}

/// Makes a session reach the files of a table. Scans of [`provider`] need it.
pub fn register_store(session: &deltalake::datafusion::prelude::SessionContext, table: &DeltaTable) {
    let log = table.log_store();
    session.runtime_env().register_object_store(log.root_url(), log.root_object_store(None));
}

/// The actions of one commit; `None` when its log entry has been cleaned up.
pub async fn commit_at(table: &DeltaTable, version: Version) -> Result<Option<Vec<Action>>> {
    let entry =
        table.log_store().read_commit_entry(version).await.map_err(|error| damaged(table.table_url().as_str(), &error))?;
    entry.map(|bytes| get_actions(version, &bytes)).transpose().map_err(|error| damaged(table.table_url().as_str(), &error))
}

/// How a try to commit ended.
#[derive(Debug)]
pub enum Tried {
    /// The version is ours.
    Committed,
    /// Another commit has that version.
    Taken,
    /// The store failed. The commit may have happened: look its transaction up.
    Unclear(TransactionError),
}

/// Tries to commit exactly `version`. Retries nothing: who calls decides again first.
pub async fn commit(table: &DeltaTable, version: Version, actions: &[Action]) -> Tried {
    let lines: Vec<String> =
        actions.iter().map(|action| serde_json::to_string(action).expect("actions have string keys")).collect();
    let bytes = CommitOrBytes::LogBytes(lines.join("\n").into());
    match table.log_store().write_commit_entry(version, bytes, Uuid::new_v4()).await {
        Ok(()) => Tried::Committed,
        Err(TransactionError::VersionAlreadyExists(_)) => Tried::Taken,
        Err(error) => Tried::Unclear(error),
    }
}

/// The information that our commits carry.
pub fn commit_info(operation: &str, comment: Option<&str>, details: serde_json::Value) -> Action {
    let mut info = HashMap::new();
    if let Some(comment) = comment {
        info.insert("userMetadata".to_owned(), comment.into());
    }
    info.insert("featureset".to_owned(), details);
    Action::CommitInfo(CommitInfo {
        timestamp: Some(Utc::now().timestamp_millis()),
        operation: Some(operation.to_owned()),
        operation_parameters: Some(HashMap::new()),
        engine_info: Some(concat!("backfill-operator/", env!("CARGO_PKG_VERSION")).to_owned()),
        is_blind_append: Some(false),
        info,
        ..CommitInfo::default()
    })
}

/// A transaction action with the current time.
pub fn txn(app: &str, version: i64) -> Action {
    Action::Txn(Transaction::new_with_last_update(app, version, Some(Utc::now().timestamp_millis())))
}

/// How often a commit that only carries a transaction is tried: others may commit as often in between.
const TRIES: usize = 100;

/// Commits only a transaction, and returns the table at the version that holds it.
///
/// `next` looks at the newest transaction version of `app` and says which one to commit, or `None` when nothing is to be done.
pub async fn commit_transaction(
    table: &mut DeltaTable,
    app: &str,
    details: serde_json::Value,
    next: impl Fn(Option<i64>) -> Option<i64>,
) -> Result<Option<i64>> {
    let mut tried: Option<i64> = None;
    for _ in 0..TRIES {
        refresh(table).await?;
        let found = transaction(table, app).await?;
        let Some(wanted) = next(found) else { return Ok(None) };
        let actions = [commit_info("BACKFILL MARK", None, details.clone()), txn(app, wanted)];
        match commit(table, version(table) + 1, &actions).await {
            Tried::Committed => {
                refresh(table).await?;
                return Ok(Some(wanted));
            }
            Tried::Taken => {}
            // The commit may have happened. If it did, the next look finds `wanted`, and a higher one is taken: that is harmless.
            Tried::Unclear(error) => {
                tracing::warn!(%error, app, "a commit's fate is unclear; looking again");
                if tried.replace(wanted) == Some(wanted) {
                    return Err(Failure::passing(Reason::OfflineUnavailable, format!("cannot commit to the table: {error}")));
                }
            }
        }
    }
    Err(Failure::passing(Reason::TableContended, format!("{TRIES} commits of others came first; the table is very busy")))
}
