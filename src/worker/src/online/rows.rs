//! The full rows that are to be written, streamed out of the table.

use crate::delta::{self, DataFile};
use crate::failure::{Failure, Result};
use crate::offline::scope::quoted;
use crate::online::bucket::{Bucket, Index};
use crate::online::keys::KeyReader;
use crate::online::read::{FILE, Reader, Selection, Times, reach};
use crate::online::store::Row;
use crate::online::values::ValueRows;
use crate::session;
use backfill_core::api::Feature;
use backfill_core::condition::Reason;
use backfill_core::online::EventTime;
use deltalake::arrow::array::cast::AsArray;
use deltalake::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::DataType;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::logical_expr::{ColumnarValue, Expr, Volatility, create_udf};
use deltalake::datafusion::prelude::col;
use deltalake::kernel::Action;
use futures::StreamExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The event time of the row to fetch, by place in the bucket.
pub type WantedTimes = Vec<Option<EventTime>>;

/// Rows being fetched: batch by batch, in any order, one row per entity.
///
/// Among rows of equal entity and event time the one of the higher commit version is taken, then of the later file name, then
/// the later row.
pub struct Rows<'a> {
    reader: Reader<'a>,
    features: &'a [Feature],
    index: Arc<Index>,
    single: Arc<WantedTimes>,
    twins: Option<Arc<WantedTimes>>,
    stream: Option<SendableRecordBatchStream>,
}

impl<'a> Rows<'a> {
    /// Begins to fetch the wanted rows of a bucket.
    pub async fn open(reader: Reader<'a>, features: &'a [Feature], bucket: &Bucket, wanted: WantedTimes) -> Result<Self> {
        let mut twins: WantedTimes = vec![None; wanted.len()];
        let mut single = wanted;
        for (place, wanted) in single.iter_mut().enumerate() {
            if bucket.entities[place].newest.rows > 1 {
                twins[place] = wanted.take();
            }
        }
        let (index, single) = (Arc::clone(&bucket.index), Arc::new(single));
        let stream = match selection(&reader, features, &index, &single, false) {
            Some(selection) => Some(reader.stream(selection).await?),
            None => None,
        };
        Ok(Self { reader, features, index, single, twins: Some(Arc::new(twins)), stream })
    }

    /// The next rows with their places in the bucket; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(u32, Row)>>> {
        if let Some(stream) = &mut self.stream {
            if let Some(batch) = stream.next().await {
                let batch = batch.map_err(|error| session::failure(&error, Reason::TableCorrupted))?;
                return rows(self.reader.keys, self.features, &self.index, &self.single, &batch).map(Some);
            }
            self.stream = None;
        }
        match self.twins.take() {
            Some(twins) => fetch_twins(&self.reader, self.features, &self.index, twins).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What to read for the wanted rows; `None` when nothing is wanted.
fn selection(
    reader: &Reader<'_>,
    features: &[Feature],
    index: &Arc<Index>,
    wanted: &Arc<WantedTimes>,
    in_file_order: bool,
) -> Option<Selection> {
    let mut sorted: Vec<EventTime> = wanted.iter().flatten().copied().collect();
    sorted.sort_unstable();
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let times = Times { from: Some(first), to: Some(EventTime(last.0 + 1)) };
    let (files, _) = reader.files(times);
    // Wanted rows may be few and years apart: a file between them is not opened.
    let holds = |file: &DataFile| {
        reach(file).is_none_or(|(from, to)| sorted[sorted.partition_point(|t| *t < from)..].first().is_some_and(|t| *t <= to))
    };
    Some(Selection {
        times,
        files: Some(files.into_iter().filter(holds).collect()),
        columns: features.iter().map(|feature| feature.name.clone()).collect(),
        filter: Some(is_wanted(reader.keys, index, wanted)),
        in_file_order,
    })
}

/// A predicate over keys and event time that holds for wanted rows. Parquet evaluates it before it decodes the features.
fn is_wanted(keys: &KeyReader, index: &Arc<Index>, wanted: &Arc<WantedTimes>) -> Expr {
    let columns: Vec<Expr> = keys.columns().map(|name| col(quoted(name))).collect();
    let (keys, index, wanted) = (keys.clone(), Arc::clone(index), Arc::clone(wanted));
    let types = keys.types();
    let evaluate = move |arguments: &[ColumnarValue]| {
        let columns: Vec<ArrayRef> = ColumnarValue::values_to_arrays(arguments)?;
        let rows = keys.rows(&columns).map_err(|failure| DataFusionError::External(Box::new(failure)))?;
        let mut key = Vec::new();
        let holds = (0..rows.len()).map(|row| {
            let ts = rows.entity(row, &mut key).map(EventTime);
            Some(ts.is_some() && index.get(key.as_slice()).is_some_and(|place| wanted[*place as usize] == ts))
        });
        Ok(ColumnarValue::Array(Arc::new(holds.collect::<BooleanArray>())))
    };
    create_udf("fsb_wanted", types, DataType::Boolean, Volatility::Immutable, Arc::new(evaluate)).call(columns)
}

/// The wanted rows of a batch, encoded. The predicate may have let others pass.
fn rows(
    keys: &KeyReader,
    features: &[Feature],
    index: &Index,
    wanted: &WantedTimes,
    batch: &RecordBatch,
) -> Result<Vec<(u32, Row)>> {
    let entities = keys.rows(batch.columns())?;
    let mut values = ValueRows::new(features, batch, keys.columns().count())?;
    let (mut found, mut key) = (Vec::with_capacity(entities.len()), Vec::new());
    for row in 0..entities.len() {
        let Some(ts) = entities.entity(row, &mut key).map(EventTime) else { continue };
        if let Some(place) = index.get(key.as_slice()).copied().filter(|place| wanted[*place as usize] == Some(ts)) {
            found.push((place, values.row(row, ts, &key)?));
        }
    }
    Ok(found)
}

/// The winners among rows of equal entity and event time.
async fn fetch_twins(
    reader: &Reader<'_>,
    features: &[Feature],
    index: &Arc<Index>,
    wanted: Arc<WantedTimes>,
) -> Result<Vec<(u32, Row)>> {
    let Some(selection) = selection(reader, features, index, &wanted, true) else { return Ok(Vec::new()) };
    let orders = Orders::new(reader, selection.files.as_deref().unwrap_or_default()).await?;
    let mut winners: HashMap<u32, (Order, Row)> = HashMap::new();
    let mut stream = reader.stream(selection).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| session::failure(&error, Reason::TableCorrupted))?;
        let files = batch.column_by_name(FILE).expect("the file column was asked for");
        let files =
            cast(files, &DataType::Utf8).map_err(|error| Failure::permanent(Reason::TableCorrupted, error.to_string()))?;
        let files = files.as_string::<i32>();
        for at in 0..batch.num_rows() {
            let order = orders.of(files.value(at));
            for (place, row) in rows(reader.keys, features, index, &wanted, &batch.slice(at, 1))? {
                // Rows of one file come in its order, so that the last one stays.
                match winners.get(&place) {
                    Some((best, _)) if order < *best => {}
                    _ => _ = winners.insert(place, (order.clone(), row)),
                }
            }
        }
    }
    Ok(winners.into_iter().map(|(place, (_, row))| (place, row)).collect())
}

/// Where a file stands among others: commit, then name.
type Order = (i64, String);

/// The commits of files.
struct Orders {
    by_path: BTreeMap<String, i64>,
}

impl Orders {
    /// Looks the files' commits up in the log, the newest first. What the log has forgotten is older than what it knows.
    async fn new(reader: &Reader<'_>, files: &[DataFile]) -> Result<Self> {
        let mut missing: BTreeMap<&str, i64> =
            files.iter().map(|file| (file.add.path.as_str(), file.add.modification_time)).collect();
        let mut by_path = BTreeMap::new();
        let mut version = delta::version(reader.table);
        while !missing.is_empty() {
            let Some(actions) = delta::commit_at(reader.table, version).await? else { break };
            let order = commit_order(version.cast_signed(), &actions);
            for action in actions {
                if let Action::Add(add) = action
                    && missing.remove(add.path.as_str()).is_some()
                {
                    by_path.insert(add.path, order);
                }
            }
            let Some(earlier) = version.checked_sub(1) else { break };
            version = earlier;
        }
        // Forgotten commits: by the files' times, all before version 0.
        by_path.extend(missing.into_iter().map(|(path, time)| (path.to_owned(), i64::MIN.saturating_add(time.max(0)))));
        Ok(Self { by_path })
    }

    /// The file column holds the whole URL; the log, a path relative to the table.
    fn of(&self, file: &str) -> Order {
        let known = self.by_path.iter().find(|(path, _)| file.ends_with(path.as_str()));
        known.map_or((i64::MIN, file.to_owned()), |(path, order)| (*order, path.clone()))
    }
}

/// Where a commit stands among others. A backfill's stands right behind the version at which it was pinned: rows that others
/// landed after the pin come later.
fn commit_order(version: i64, actions: &[Action]) -> i64 {
    let pinned = actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.info.get("featureset")?.get("pinned")?.as_i64(),
        _ => None,
    });
    pinned.map_or(version * 2, |pinned| pinned * 2 + 1)
}
