//! Reading rows of a table version: which files, which times, which columns.

use crate::delta::{self, DataFile};
use crate::failure::Result;
use crate::offline::scope::{micros, quoted};
use crate::online::bucket::Each;
use crate::online::keys::KeyReader;
use crate::session;
use backfill_core::condition::Reason;
use backfill_core::online::EventTime;
use deltalake::DeltaTable;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::datafusion::prelude::{Expr, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use futures::StreamExt;
use std::sync::Arc;

/// The column that holds a row's file.
pub const FILE: &str = "_fsb_file";

/// A span of event times: `from <= t < to`; a missing bound is infinitely far away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The first event time to read.
    pub from: Option<EventTime>,
    /// The first event time not to read.
    pub to: Option<EventTime>,
}

impl Times {
    /// Whether a file may hold rows of the span. Statistics are cut to milliseconds, either way before 1970.
    pub fn touch(self, file: &DataFile) -> bool {
        let Some((first, last)) = reach(file) else { return true };
        self.from.is_none_or(|from| from <= last) && self.to.is_none_or(|to| first < to)
    }
}

/// The earliest and the latest event time that a file may hold, when the log says.
pub fn reach(file: &DataFile) -> Option<(EventTime, EventTime)> {
    let time = file.time?;
    Some((EventTime(time.min.timestamp_micros() - 999), EventTime(time.max.timestamp_micros() + 999)))
}

/// Rows of one version of a table.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// Memory and spill space.
    pub runtime: &'a Arc<RuntimeEnv>,
    /// How many threads a query runs on.
    pub partitions: usize,
    /// The table, loaded.
    pub table: &'a DeltaTable,
    /// The key columns and the event-time column.
    pub keys: &'a KeyReader,
}

/// What is read beside the keys and the event time, and of which rows.
#[derive(Default)]
pub struct Selection {
    /// Of these event times.
    pub times: Times,
    /// Of these files; `None` is all of them.
    pub files: Option<Vec<DataFile>>,
    /// Further columns; one that the table does not have reads as null.
    pub columns: Vec<String>,
    /// Of rows for which this holds.
    pub filter: Option<Expr>,
    /// Adds [`FILE`] as the last column, and keeps the order of rows within each file.
    pub in_file_order: bool,
}

impl Reader<'_> {
    /// The files that may hold rows of a span, and how many rows they have at most when the log says.
    pub fn files(&self, times: Times) -> (Vec<DataFile>, Option<u64>) {
        let time = self.keys.columns().last().expect("the event time is the last column");
        let files: Vec<DataFile> = delta::files(self.table, time).into_iter().filter(|file| times.touch(file)).collect();
        let rows = files.iter().map(|file| file.rows).sum();
        (files, rows)
    }

    /// Streams rows: keys in the order of the layout, event time, further columns.
    pub async fn stream(&self, selection: Selection) -> Result<SendableRecordBatchStream> {
        let Selection { times, files, columns, filter, in_file_order } = selection;
        let partitions = if in_file_order { 1 } else { self.partitions };
        let session = session::session(self.runtime, partitions);
        delta::register_store(&session, self.table);
        let provider = delta::provider(self.table, files.as_deref(), in_file_order.then_some(FILE))?;
        let schema = provider.schema();
        let time = self.keys.columns().last().expect("the event time is the last column");
        let mut condition = col(quoted(time)).is_not_null();
        if let Some(from) = times.from {
            condition = condition.and(col(quoted(time)).gt_eq(lit(micros(from.0))));
        }
        if let Some(to) = times.to {
            condition = condition.and(col(quoted(time)).lt(lit(micros(to.0))));
        }
        let column = |name: &str| match schema.column_with_name(name) {
            Some(_) => col(quoted(name)),
            None => lit(ScalarValue::Null).alias(name),
        };
        let file = in_file_order.then(|| col(quoted(FILE)));
        let selected: Vec<Expr> =
            self.keys.columns().map(column).chain(columns.iter().map(|name| column(name))).chain(file).collect();
        let failed = |error| session::failure(&error, Reason::TableCorrupted);
        let mut rows = session.read_table(provider).map_err(failed)?.filter(condition).map_err(failed)?;
        if let Some(filter) = filter {
            rows = rows.filter(filter).map_err(failed)?;
        }
        rows.select(selected).map_err(failed)?.execute_stream().await.map_err(failed)
    }

    /// Visits the entity and the event time of every row, and returns how many rows that were.
    pub async fn each(&self, times: Times, files: Option<Vec<DataFile>>, each: &mut Each<'_>) -> Result<u64> {
        if files.as_ref().is_some_and(Vec::is_empty) {
            return Ok(0);
        }
        let mut stream = self.stream(Selection { times, files, ..Selection::default() }).await?;
        let (mut visited, mut key) = (0, Vec::new());
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| session::failure(&error, Reason::TableCorrupted))?;
            let rows = self.keys.rows(batch.columns())?;
            for row in 0..rows.len() {
                if let Some(ts) = rows.entity(row, &mut key) {
                    each(&key, EventTime(ts))?;
                }
            }
            visited += rows.len() as u64;
        }
        Ok(visited)
    }
}
