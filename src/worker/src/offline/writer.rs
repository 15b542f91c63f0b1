//! Writes sorted rows as Parquet files of a Delta table, partition by partition, and says what they are for the log.

use crate::failure::{Failure, Result};
use crate::offline::shape::{Layout, Shape};
use crate::session;
use backfill_core::condition::Reason;
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use deltalake::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use deltalake::arrow::compute::take_record_batch;
use deltalake::arrow::datatypes::{DataType, FieldRef, Fields, TimestampMicrosecondType};
use deltalake::arrow::error::ArrowError;
use deltalake::arrow::row::{RowConverter, SortField};
use deltalake::arrow::util::display::{ArrayFormatter, FormatOptions};
use deltalake::datafusion::error::DataFusionError;
use deltalake::kernel::Add;
use deltalake::parquet::arrow::AsyncArrowWriter;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::metadata::ParquetMetaData;
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use deltalake::parquet::file::statistics::Statistics;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Files are closed when they reach about this size.
const FILE_BYTES: usize = 128 << 20;

/// Rows that are encoded together. A writer holds one such group in memory.
const GROUP_ROWS: usize = 128 * 1024;

/// A dictionary of numbers ends here: of numbers that hardly repeat it is as large as they are, and slow to make. By default it
/// would just hold every number of a group.
const NUMBERS_DICTIONARY_BYTES: usize = 128 << 10;

/// How many partitions may be open at a time when rows do not come in the order of the partitions.
const OPEN_MAX: usize = 32;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// Text longer than this has no bounds in the statistics.
const STATS_TEXT_MAX: usize = 64;

/// The partition of a row: one value for each partition column, `None` for null.
type Partition = Vec<(String, Option<String>)>;

/// Where the files of one stream of rows go.
pub struct TableWriter {
    store: Arc<dyn ObjectStore>,
    shape: Shape,
    prefix: String,
    next: usize,
    open: BTreeMap<Partition, FileWriter>,
    done: Vec<Add>,
}

struct FileWriter {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
}

impl TableWriter {
    /// A writer into the table's own object store. File names begin with `prefix`, which no other writer of the table uses.
    pub fn new(store: Arc<dyn ObjectStore>, shape: &Shape, prefix: String) -> Self {
        Self { store, shape: shape.clone(), prefix, next: 0, open: BTreeMap::new(), done: Vec::new() }
    }

    /// Writes rows that have the shape's columns; further columns are left out.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for (partition, rows) in self.split(batch)? {
            self.write_to(partition, &rows).await?;
        }
        Ok(())
    }

    /// Writes rows of one partition, whatever their event times say: rows that are rescued stay in their partition.
    pub async fn write_to(&mut self, partition: Partition, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&partition) {
            self.make_room().await?;
            let file = self.create(&partition, rows)?;
            self.open.insert(partition.clone(), file);
        }
        let columns = self.stored(rows);
        let file = self.open.get_mut(&partition).expect("it was just opened");
        file.writer.write(&columns).await.map_err(|error| cannot_write(&file.path, &error))?;
        if file.writer.bytes_written() + file.writer.in_progress_size() >= FILE_BYTES {
            self.close(&partition).await?;
        }
        Ok(())
    }

    /// Closes all files and returns them for the log.
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        let open: Vec<Partition> = self.open.keys().cloned().collect();
        for partition in open {
            self.close(&partition).await?;
        }
        Ok(self.done)
    }

    /// The columns that the files hold: all but the partition columns.
    fn stored(&self, rows: &RecordBatch) -> RecordBatch {
        let partition = self.shape.partition_columns();
        let names = self.shape.rows.fields().iter().map(|field| field.name());
        let indices: Vec<usize> =
            names.filter(|name| !partition.contains(name)).filter_map(|name| rows.schema().index_of(name).ok()).collect();
        rows.project(&indices).expect("the indices are the batch's own")
    }

    /// Rows sorted by time come in the order of date partitions, so one open file suffices; others get a bounded number.
    async fn make_room(&mut self) -> Result<()> {
        let most = match self.shape.layout {
            Layout::Flat | Layout::Date { .. } => 1,
            Layout::Values { .. } => OPEN_MAX,
        };
        while self.open.len() >= most {
            let largest = self.open.iter().max_by_key(|(_, file)| file.writer.bytes_written() + file.writer.in_progress_size());
            let largest = largest.map(|(partition, _)| partition.clone()).expect("there is an open file");
            self.close(&largest).await?;
        }
        Ok(())
    }

    fn create(&mut self, partition: &Partition, rows: &RecordBatch) -> Result<FileWriter> {
        let name = format!("{}-{:05}.parquet", self.prefix, self.next);
        self.next += 1;
        let path = match folder(partition) {
            Some(folder) => format!("{folder}/{name}"),
            None => name,
        };
        let properties = properties(rows.schema().fields(), &self.shape.time);
        let target = BufWriter::new(Arc::clone(&self.store), Path::from(path.as_str()));
        let writer = AsyncArrowWriter::try_new(target, self.stored(rows).schema(), Some(properties))
            .map_err(|error| cannot_write(&path, &error))?;
        Ok(FileWriter { path, writer })
    }

    async fn close(&mut self, partition: &Partition) -> Result<()> {
        let Some(FileWriter { path, mut writer }) = self.open.remove(partition) else { return Ok(()) };
        let metadata = writer.finish().await.map_err(|error| cannot_write(&path, &error))?;
        self.done.push(Add {
            stats: Some(stats(&metadata).to_string()),
            partition_values: partition.iter().cloned().collect::<HashMap<_, _>>(),
            size: writer.bytes_written() as i64,
            modification_time: Utc::now().timestamp_millis(),
            data_change: true,
            path,
            ..Add::default()
        });
        Ok(())
    }

    /// Cuts a batch into the partitions that its rows belong to.
    fn split(&self, batch: &RecordBatch) -> Result<Vec<(Partition, RecordBatch)>> {
        let times = || -> &TimestampMicrosecondArray {
            batch.column_by_name(&self.shape.time).expect("the shape has the event time").as_primitive()
        };
        Ok(match &self.shape.layout {
            Layout::Flat => vec![(vec![], batch.clone())],
            Layout::Date { column, month } => by_date(batch, times(), column, *month),
            Layout::Values { columns, date } => by_values(batch, times(), columns, date.as_ref())?,
        })
    }
}

/// How files are encoded. Statistics are kept of every column, and of the event time by page.
fn properties(columns: &Fields, time: &str) -> WriterProperties {
    let numbers = columns.iter().filter(|column| column.data_type().is_primitive());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a level of zstd")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_statistics_enabled(time.into(), EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        // Event times hardly repeat.
        .set_column_dictionary_enabled(time.into(), false);
    let limit = |properties: WriterPropertiesBuilder, column: &FieldRef| {
        properties.set_column_dictionary_page_size_limit(column.name().as_str().into(), NUMBERS_DICTIONARY_BYTES)
    };
    numbers.fold(properties, limit).build()
}

fn cannot_write(path: &str, error: &ParquetError) -> Failure {
    let failure = session::failure(
        &DataFusionError::ParquetError(Box::new(ParquetError::General(error.to_string()))),
        Reason::OfflineUnavailable,
    );
    Failure { message: format!("cannot write {path}: {error}"), retry: true, ..failure }
}

/// The folder of a partition, as Hive names it; values that a path would have to escape get none, which Delta allows.
fn folder(partition: &Partition) -> Option<String> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let parts: Option<Vec<String>> = partition
        .iter()
        .map(|(column, value)| {
            let value = value.as_deref().unwrap_or("__HIVE_DEFAULT_PARTITION__");
            (plain(value) && plain(column) && !value.is_empty()).then(|| format!("{column}={value}"))
        })
        .collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join("/"))
}

/// The date of an event time, or the first day of its month.
pub fn date_of(t: i64, month: bool) -> NaiveDate {
    let date = NaiveDate::default() + TimeDelta::days(t.div_euclid(MICROS_A_DAY));
    if month { date.with_day(1).expect("every month has a first day") } else { date }
}

/// Runs of rows of the same date; rows sorted by time have one run a date.
fn by_date(batch: &RecordBatch, times: &TimestampMicrosecondArray, column: &str, month: bool) -> Vec<(Partition, RecordBatch)> {
    let date = |row: usize| times.is_valid(row).then(|| date_of(times.value(row), month));
    let mut parts = Vec::new();
    let mut start = 0;
    while start < batch.num_rows() {
        let value = date(start);
        // Within a day the whole batch is usually one run: look at its end first.
        let last = batch.num_rows() - 1;
        let sorted = value.is_some() && date(last) == value && times.null_count() == 0;
        let stop = if sorted { last + 1 } else { (start..=last).find(|row| date(*row) != value).unwrap_or(last + 1) };
        parts.push((vec![(column.to_owned(), value.map(|date| date.to_string()))], batch.slice(start, stop - start)));
        start = stop;
    }
    parts
}

/// Rows by the values of the partition columns, each part in the rows' order.
fn by_values(
    batch: &RecordBatch,
    times: &TimestampMicrosecondArray,
    columns: &[String],
    date: Option<&(String, bool)>,
) -> Result<Vec<(Partition, RecordBatch)>> {
    let incompatible = |error: &dyn std::fmt::Display| {
        Failure::permanent(Reason::TableIncompatible, format!("cannot partition rows by ({}): {error}", columns.join(", ")))
    };
    let values: Vec<ArrayRef> = columns
        .iter()
        .map(|name| match date {
            Some((column, month)) if column == name => {
                let days = times
                    .iter()
                    .map(|t| t.map(|t| date_of(t, *month).signed_duration_since(NaiveDate::default()).num_days() as i32));
                Arc::new(days.collect::<deltalake::arrow::array::Date32Array>()) as ArrayRef
            }
            _ => batch.column_by_name(name).expect("partition columns are keys, features or the date").clone(),
        })
        .collect();
    let fields = values.iter().map(|array| SortField::new(array.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(|error| incompatible(&error))?;
    let rows = converter.convert_columns(&values).map_err(|error| incompatible(&error))?;
    let mut groups: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
    let keys: Vec<_> = rows.iter().collect();
    for (index, row) in keys.iter().enumerate() {
        groups.entry(row.as_ref()).or_default().push(index as u32);
    }
    let mut parts = Vec::with_capacity(groups.len());
    for indices in groups.into_values() {
        let first = indices[0] as usize;
        let partition = columns
            .iter()
            .zip(&values)
            .map(|(name, array)| Ok((name.clone(), partition_value(array, first).map_err(|error| incompatible(&error))?)))
            .collect::<Result<Partition>>()?;
        let part = take_record_batch(batch, &UInt32Array::from(indices)).map_err(|error| incompatible(&error))?;
        parts.push((partition, part));
    }
    Ok(parts)
}

/// A value as Delta writes partition values: plain text. An empty text would be read as null, so there must be none.
fn partition_value(array: &ArrayRef, row: usize) -> Result<Option<String>, ArrowError> {
    if array.is_null(row) {
        return Ok(None);
    }
    if matches!(array.data_type(), DataType::Binary) {
        return Err(ArrowError::InvalidArgumentError("bytes have no text of their own".to_owned()));
    }
    if let DataType::Timestamp(_, _) = array.data_type() {
        let t = DateTime::from_timestamp_micros(array.as_primitive::<TimestampMicrosecondType>().value(row)).unwrap_or_default();
        return Ok(Some(t.format("%Y-%m-%d %H:%M:%S%.6f").to_string()));
    }
    let text = ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).to_string();
    if text.is_empty() {
        return Err(ArrowError::InvalidArgumentError("an empty text would be read as null".to_owned()));
    }
    Ok(Some(text))
}

/// The statistics of a file as the Delta log keeps them: number of rows, and bounds and nulls of top-level columns.
pub fn stats(metadata: &ParquetMetaData) -> Value {
    let mut columns: BTreeMap<String, Bounds> = BTreeMap::new();
    for group in metadata.row_groups() {
        for chunk in group.columns() {
            // Columns of lists have several parts; their statistics would say nothing about rows.
            let [name] = chunk.column_descr().path().parts() else { continue };
            let bounds = columns.entry(name.clone()).or_default();
            match chunk.statistics() {
                Some(statistics) => bounds.add(statistics, is_time(chunk.column_descr())),
                None => bounds.unknown = true,
            }
        }
    }
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (name, bounds) in columns {
        if let Some(count) = bounds.nulls {
            nulls.insert(name.clone(), json!(count));
        }
        if let (Some(low), Some(high), false) = (bounds.min, bounds.max, bounds.unknown) {
            min.insert(name.clone(), low.json());
            max.insert(name, high.json());
        }
    }
    json!({
        "numRecords": metadata.file_metadata().num_rows(),
        "minValues": min,
        "maxValues": max,
        "nullCount": nulls,
    })
}

fn is_time(column: &deltalake::parquet::schema::types::ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(deltalake::parquet::basic::LogicalType::Timestamp { .. }))
}

#[derive(Default)]
struct Bounds {
    min: Option<Bound>,
    max: Option<Bound>,
    nulls: Option<u64>,
    unknown: bool,
}

#[derive(Clone, PartialEq, PartialOrd)]
enum Bound {
    Int(i64),
    Micros(i64),
    Text(String),
}

impl Bound {
    fn json(&self) -> Value {
        match self {
            Self::Int(value) => json!(value),
            Self::Text(value) => json!(value),
            // Cut down to the millisecond, as every writer of Delta does; readers add it again to the largest.
            Self::Micros(value) => {
                let t = DateTime::from_timestamp_millis(value.div_euclid(1000)).unwrap_or_default();
                json!(t.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
            }
        }
    }
}

impl Bounds {
    fn add(&mut self, statistics: &Statistics, time: bool) {
        if let Some(nulls) = statistics.null_count_opt() {
            *self.nulls.get_or_insert(0) += nulls;
        }
        let (min, max) = match statistics {
            Statistics::Int32(s) => (s.min_opt().map(|v| Bound::Int((*v).into())), s.max_opt().map(|v| Bound::Int((*v).into()))),
            Statistics::Int64(s) if time => (s.min_opt().map(|v| Bound::Micros(*v)), s.max_opt().map(|v| Bound::Micros(*v))),
            Statistics::Int64(s) => (s.min_opt().map(|v| Bound::Int(*v)), s.max_opt().map(|v| Bound::Int(*v))),
            Statistics::ByteArray(s) => {
                let text = |bytes: &[u8]| {
                    std::str::from_utf8(bytes)
                        .ok()
                        .filter(|text| text.len() <= STATS_TEXT_MAX)
                        .map(|text| Bound::Text(text.to_owned()))
                };
                let exact = s.min_is_exact() && s.max_is_exact();
                (s.min_bytes_opt().and_then(text).filter(|_| exact), s.max_bytes_opt().and_then(text).filter(|_| exact))
            }
            // Bounds of floats leave NaN out, which Delta orders above all numbers: a reader would skip rows that it looks for.
            Statistics::Double(_) | Statistics::Float(_) => (None, None),
            Statistics::Boolean(_) | Statistics::Int96(_) | Statistics::FixedLenByteArray(_) => (None, None),
        };
        match (min, max) {
            (Some(min), Some(max)) => {
                self.min = Some(self.min.take().map_or(min.clone(), |old| if old <= min { old } else { min }));
                self.max = Some(self.max.take().map_or(max.clone(), |old| if old >= max { old } else { max }));
            }
            // A group of nulls alone has no bounds and does not widen those of the file.
            (None, None) if all_null(statistics) => {}
            _ => self.unknown = true,
        }
    }
}

fn all_null(statistics: &Statistics) -> bool {
    statistics.null_count_opt().is_some_and(|nulls| nulls > 0) && statistics.min_bytes_opt().is_none()
}
