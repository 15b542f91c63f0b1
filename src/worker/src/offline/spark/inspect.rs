//! Looks at every row of every file that Spark staged before anything counts as staged.
//!
//! Nothing here trusts what was written: columns, order, bounds, partitions and numbers are read back. Files whose rows have to
//! become other rows (duplicates, a layout by values) are written again by our own writer.

use super::reader::Reader;
use crate::delta::DataFile;
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::conform::{KEEP_LAST, Micros, refuse_large_rows};
use crate::offline::dedupe::{Dedupe, Duplicates};
use crate::offline::ordered::is_in_order;
use crate::offline::shape::{Layout, Shape};
use crate::offline::stage::Laid;
use crate::offline::writer::{TableWriter, date_of, stats};
use crate::online;
use crate::storage::unreachable_store;
use backfill_core::api::Feature;
use backfill_core::condition::Reason;
use deltalake::ObjectStoreError;
use deltalake::arrow::array::{Array, AsArray, RecordBatch};
use deltalake::arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use deltalake::kernel::Add;
use deltalake::parquet::arrow::ParquetRecordBatchStreamBuilder;
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStream;
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::metadata::ParquetMetaData;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Rows that are looked at together.
const BATCH_ROWS: usize = 8192;

/// Statistics are cut to the millisecond.
const CUT_MICROS: i64 = 1_000;

/// What every file must be.
pub struct Inspection {
    /// The table's own object store.
    pub store: Arc<dyn ObjectStore>,
    /// The shape of the table.
    pub shape: Shape,
    /// The columns of the rows, with what orders duplicates as the last.
    pub schema: SchemaRef,
    /// The name in the files of what orders duplicates.
    pub order_column: &'static str,
    /// The event times of all rows.
    pub bounds: Micros,
    /// Features that are served online.
    pub served: Vec<Feature>,
    /// Whether every file is written again.
    pub rewrites: bool,
    /// Whether rows can be too large.
    pub counts_sizes: bool,
    /// The folder of the files, relative to the table.
    pub folder: String,
    /// The beginning of the names of files that are written again.
    pub prefix: String,
}

/// Looks at files, some at a time.
pub async fn all(inspection: Inspection, files: Vec<DataFile>, at_once: usize) -> Result<Vec<Laid>> {
    let inspection = Arc::new(inspection);
    let mut waiting = files.into_iter().enumerate();
    let mut tasks = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while tasks.len() < at_once.max(1)
            && let Some((number, file)) = waiting.next()
        {
            let inspection = Arc::clone(&inspection);
            tasks.spawn(async move { inspection.file(number, &file).await });
        }
        let Some(ended) = tasks.join_next().await else { return Ok(done) };
        match ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(inspected) => done.push(inspected),
            Err(failure) => {
                // Nothing may be written any more when the failure is known.
                tasks.shutdown().await;
                return Err(failure);
            }
        }
    }
}

/// What was seen of one file.
#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    kept: u64,
    times: Option<(i64, i64)>,
    duplicates: Duplicates,
}

impl Inspection {
    async fn file(&self, number: usize, file: &DataFile) -> Result<Laid> {
        let path = format!("{}/{}", self.folder, file.add.path);
        let mut writer = self.rewrites.then(|| self.writer(number));
        let (seen, metadata) = self.pass(&path, file, writer.as_mut()).await?;
        self.compare(&path, file, &seen)?;
        if seen.duplicates.dropped > 0 && writer.is_none() {
            let mut again = self.writer(number);
            self.pass(&path, file, Some(&mut again)).await?;
            writer = Some(again);
        }
        let adds = match writer {
            Some(writer) => {
                let adds = writer.finish().await?;
                failpoint::reach("file-rewritten");
                self.delete(&path).await?;
                adds
            }
            None if seen.rows == 0 => {
                self.delete(&path).await?;
                vec![]
            }
            None => vec![self.add(path, file, &metadata)],
        };
        Ok(Laid { adds, rows: seen.kept, duplicates: seen.duplicates })
    }

    fn writer(&self, number: usize) -> TableWriter {
        TableWriter::new(Arc::clone(&self.store), &self.shape, format!("{}-w{number}", self.prefix))
    }

    fn add(&self, path: String, file: &DataFile, metadata: &ParquetMetaData) -> Add {
        Add {
            path,
            stats: Some(stats(metadata).to_string()),
            partition_values: file.add.partition_values.clone(),
            size: file.add.size,
            modification_time: file.add.modification_time,
            data_change: true,
            ..Add::default()
        }
    }

    /// Reads all rows; with a writer, those that stay are written again.
    async fn pass(&self, path: &str, file: &DataFile, writer: Option<&mut TableWriter>) -> Result<(Seen, Arc<ParquetMetaData>)> {
        let (mut stream, metadata) = self.open(path, file).await?;
        let keys = self.shape.keys.len();
        let ordered = self.ordered();
        let mut dedupe = Dedupe::new(keys, ordered);
        let mut seen = Seen::default();
        let mut before: Option<RecordBatch> = None;
        let mut writer = writer;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| unreadable(path, &error))?;
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())
                .map_err(|error| other_than_asked(path, &error.to_string()))?;
            self.look(path, file, &batch, &mut seen)?;
            let in_order = is_in_order(before.as_ref(), &batch, keys, ordered);
            if !in_order.map_err(|error| other_than_asked(path, &error.to_string()))? {
                return Err(other_than_asked(path, "its rows are not in order"));
            }
            before = Some(batch.clone());
            let batch = dedupe.rows(batch);
            seen.kept += batch.num_rows() as u64;
            if let Some(writer) = &mut writer
                && batch.num_rows() > 0
            {
                writer.write(&batch).await?;
            }
        }
        seen.duplicates = dedupe.found;
        Ok((seen, metadata))
    }

    fn ordered(&self) -> bool {
        self.schema.fields().last().is_some_and(|field| field.name() == KEEP_LAST)
    }

    async fn open(&self, path: &str, file: &DataFile) -> Result<(ParquetRecordBatchStream<Reader>, Arc<ParquetMetaData>)> {
        let size = file.add.size.unsigned_abs();
        let reader = Reader { store: Arc::clone(&self.store), path: Path::from(path), size };
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| unreadable(path, &error))?;
        self.compare_columns(path, builder.schema())?;
        let metadata = Arc::clone(builder.metadata());
        let stream = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| unreadable(path, &error))?;
        Ok((stream, metadata))
    }

    fn compare_columns(&self, path: &str, found: &Schema) -> Result<()> {
        let of_file = |name: &'_ str| if name == KEEP_LAST { self.order_column.to_owned() } else { name.to_owned() };
        let wanted: Vec<_> = self.schema.fields().iter().map(|field| (of_file(field.name()), field.data_type())).collect();
        let columns: Vec<_> = found.fields().iter().map(|field| (field.name().clone(), field.data_type())).collect();
        if wanted == columns {
            return Ok(());
        }
        Err(other_than_asked(path, &format!("its columns are {columns:?}, not {wanted:?}")))
    }

    /// Every value that must hold in itself.
    fn look(&self, path: &str, file: &DataFile, batch: &RecordBatch, seen: &mut Seen) -> Result<()> {
        let keys = self.shape.keys.len();
        if batch.columns()[..=keys].iter().any(|column| column.null_count() > 0) {
            return Err(other_than_asked(path, "a key or an event time is null"));
        }
        let times = batch.column(keys).as_primitive::<TimestampMicrosecondType>().values();
        if let (Some(min), Some(max)) = (times.iter().min().copied(), times.iter().max().copied()) {
            if min < self.bounds.start || max >= self.bounds.end {
                return Err(other_than_asked(path, "an event time lies outside the interval"));
            }
            if let Layout::Date { column, month } = &self.shape.layout
                && !self.rewrites
            {
                let value = file.add.partition_values.get(column).cloned().flatten();
                let dates = [min, max].map(|t| Some(date_of(t, *month).to_string()));
                if dates.iter().any(|date| *date != value) {
                    return Err(other_than_asked(path, &format!("its rows are of {dates:?}, its partition is {value:?}")));
                }
            }
            seen.times = Some(seen.times.map_or((min, max), |(a, b)| (a.min(min), b.max(max))));
        }
        seen.rows += batch.num_rows() as u64;
        if self.counts_sizes {
            refuse_large_rows(batch, keys)?;
        }
        online::refuse_nulls_in_lists(&self.served, batch)
    }

    /// What the log says of a file must be what the file holds.
    fn compare(&self, path: &str, file: &DataFile, seen: &Seen) -> Result<()> {
        if file.rows.is_some_and(|rows| rows != seen.rows) {
            return Err(other_than_asked(path, &format!("it holds {} rows, its log says {:?}", seen.rows, file.rows)));
        }
        if let (Some(stated), Some((min, max))) = (file.time, seen.times) {
            let far = |stated: i64, found: i64| (stated - found).abs() >= CUT_MICROS;
            if far(stated.min.timestamp_micros(), min) || far(stated.max.timestamp_micros(), max) {
                return Err(other_than_asked(path, "its event times are not those that its log says"));
            }
        }
        Ok(())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&Path::from(path)).await {
            Ok(()) | Err(ObjectStoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(unreachable_store(&error)),
        }
    }
}

fn unreadable(path: &str, error: &ParquetError) -> Failure {
    Failure::passing(Reason::OfflineUnavailable, format!("cannot read {path}, which Spark staged: {error}"))
}

fn other_than_asked(path: &str, what: &str) -> Failure {
    Failure::permanent(
        Reason::TableCorrupted,
        format!("{path}, which Spark staged, is not what was asked for: {what}; nothing was changed; report this as a defect"),
    )
}
