//! Turns what a transformation returns into rows of the feature set: columns by name, exact types, required values.

use crate::failure::{Failure, Result};
use crate::offline::shape::Shape;
use crate::offline::spark::types;
use backfill_core::api::Timestamps;
use backfill_core::condition::Reason;
use backfill_core::contract::{Guards, Notice};
use backfill_core::time::show;
use backfill_core::window::Window;
use deltalake::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, TimestampMicrosecondArray};
use deltalake::arrow::compute::kernels::boolean::{and, is_not_null};
use deltalake::arrow::compute::{CastOptions, cast, cast_with_options, filter_record_batch};
use deltalake::arrow::datatypes::{
    DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use deltalake::arrow::util::display::FormatOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest row that both stores take.
pub const ROW_BYTES_MAX: usize = 8 << 20;

/// Half-open bounds of event times in microseconds since 1970.
pub type Micros = std::ops::Range<i64>;

/// What was dropped on the way, counted over all streams of a run.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Rows without a key or an event time.
    pub null_key: AtomicU64,
    /// Rows outside the interval or their window.
    pub outside: AtomicU64,
    /// Of these, rows stamped exactly with their window's stop.
    pub at_stop: AtomicU64,
}

impl Dropped {
    /// Adds what another count found.
    pub fn add(&self, other: &Self) {
        let add = |to: &AtomicU64, from: &AtomicU64| to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        add(&self.null_key, &other.null_key);
        add(&self.outside, &other.outside);
        add(&self.at_stop, &other.at_stop);
    }

    /// Fails when a window lost most of its rows because they are stamped with its stop: the schedule says otherwise.
    ///
    /// SQL that does not look at the window's bounds loses rows of all other windows too, and is not meant.
    pub fn refuse_stop_stamps(&self, window: &Window, kept: u64) -> Result<()> {
        let at_stop = self.at_stop.load(Ordering::Relaxed);
        if at_stop * 2 <= self.outside.load(Ordering::Relaxed) + kept {
            return Ok(());
        }
        Err(Failure::permanent(
            Reason::RowsOutsideInterval,
            format!(
                "{at_stop} of {} rows of the window [{}, {}) are stamped with its stop, which belongs to the next window; \
                 set windows.stamp to Stop, or stamp rows with $window_start",
                at_stop + kept,
                show(window.start()),
                show(window.stop())
            ),
        ))
    }
}

/// How the columns of one transformation become the columns of the feature set.
#[derive(Debug)]
pub struct Conform {
    columns: Vec<usize>,
    schema: SchemaRef,
    keys: usize,
    truncate: bool,
    name: String,
    counts_sizes: bool,
}

impl Conform {
    /// For the columns of a result, as [`match_columns`] finds them.
    pub fn new(shape: &Shape, guards: &Guards, found: &Schema) -> Result<(Self, Vec<Notice>)> {
        let (matched, notices) = match_columns(shape, guards, found)?;
        let Matched { columns, fields } = matched;
        let counts_sizes = counts_sizes(&fields);
        let conform = Self {
            columns,
            schema: Arc::new(Schema::new(fields)),
            keys: shape.keys.len(),
            truncate: guards.timestamps == Timestamps::Truncate,
            name: shape.time.clone(),
            counts_sizes,
        };
        Ok((conform, notices))
    }

    /// The columns of conformed rows: those of the shape, and [`KEEP_LAST`] when duplicates are ordered.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Casts a batch exactly, and drops and counts rows without a key or outside `bounds`.
    pub fn rows(&self, batch: &RecordBatch, bounds: &Micros, dropped: &Dropped) -> Result<RecordBatch> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (field, index) in self.schema.fields().iter().zip(&self.columns) {
            arrays.push(self.cast(field, batch.column(*index))?);
        }
        let batch =
            RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| overflow(&self.name, &error.to_string()))?;
        if self.counts_sizes {
            refuse_large_rows(&batch, self.keys)?;
        }
        Ok(self.keep(batch, bounds, dropped))
    }

    /// Keeps the rows that have keys and a time within the bounds. Copies nothing when all have.
    fn keep(&self, batch: RecordBatch, bounds: &Micros, dropped: &Dropped) -> RecordBatch {
        let mut batch = batch;
        let required: Vec<&ArrayRef> = batch.columns()[..=self.keys].iter().filter(|column| column.null_count() > 0).collect();
        if !required.is_empty() {
            let present = required
                .iter()
                .map(|column| is_not_null(column).expect("any array has a null mask"))
                .reduce(|a, b| and(&a, &b).expect("masks of one batch are of one length"));
            let present = present.expect("there is one");
            let kept = filter_record_batch(&batch, &present).expect("the mask is of the batch's length");
            dropped.null_key.fetch_add((batch.num_rows() - kept.num_rows()) as u64, Ordering::Relaxed);
            batch = kept;
        }
        let times: &TimestampMicrosecondArray = batch.column(self.keys).as_primitive();
        if times.values().iter().all(|t| bounds.contains(t)) {
            return batch;
        }
        let at_stop = times.values().iter().filter(|t| **t == bounds.end).count();
        let inside: BooleanArray = times.values().iter().map(|t| Some(bounds.contains(t))).collect();
        let kept = filter_record_batch(&batch, &inside).expect("the mask is of the batch's length");
        dropped.outside.fetch_add((batch.num_rows() - kept.num_rows()) as u64, Ordering::Relaxed);
        dropped.at_stop.fetch_add(at_stop as u64, Ordering::Relaxed);
        kept
    }

    fn cast(&self, field: &Field, array: &ArrayRef) -> Result<ArrayRef> {
        if array.data_type() == field.data_type() || field.name() == KEEP_LAST {
            return Ok(array.clone());
        }
        let array = self.to_micros(field.name(), array)?;
        // A time without a zone is UTC: the cast would take it for local time of the target zone, which is UTC too.
        let options = CastOptions { safe: false, format_options: FormatOptions::default() };
        cast_with_options(&array, field.data_type(), &options).map_err(|error| overflow(field.name(), &error.to_string()))
    }

    /// Times of nanoseconds in microseconds, within lists too: a cast would cut them silently, and before 1970 towards zero.
    fn to_micros(&self, column: &str, array: &ArrayRef) -> Result<ArrayRef> {
        let is_nanos = |element: &FieldRef| matches!(element.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _));
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                let nanos = array.as_primitive::<TimestampNanosecondType>();
                if !self.truncate && nanos.iter().flatten().any(|t| t.rem_euclid(1000) != 0) {
                    return Err(Failure::permanent(
                        Reason::CastOverflow,
                        format!(
                            "column \"{column}\" has times finer than a microsecond; cut them in the SQL or set guards.timestamps \
                             to Truncate"
                        ),
                    ));
                }
                let micros = nanos.unary::<_, TimestampMicrosecondType>(|t| t.div_euclid(1000));
                Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
            }
            DataType::List(element) if is_nanos(element) => {
                let lists = array.as_list::<i32>();
                let values = self.to_micros(column, lists.values())?;
                let element = element.as_ref().clone().with_data_type(values.data_type().clone());
                Ok(Arc::new(ListArray::new(Arc::new(element), lists.offsets().clone(), values, lists.nulls().cloned())))
            }
            DataType::LargeList(element) | DataType::FixedSizeList(element, _) if is_nanos(element) => {
                let lists =
                    cast(array, &DataType::List(Arc::clone(element))).map_err(|error| overflow(column, &error.to_string()))?;
                self.to_micros(column, &lists)
            }
            _ => Ok(Arc::clone(array)),
        }
    }
}

/// The columns of a result that become those of the feature set.
#[derive(Debug)]
pub struct Matched {
    /// Their places in the result.
    pub columns: Vec<usize>,
    /// What they become: the shape's columns, and [`KEEP_LAST`] when duplicates are ordered.
    pub fields: Vec<Field>,
}

/// Matches the result's columns to the shape's, by name; when there is no such name, in any case.
///
/// With `keep_last_by`, that column is carried along as the last one. Fails with `SchemaMismatch` that names up to ten
/// columns, what was expected and what was found, in the words of the engine that found it.
pub fn match_columns(shape: &Shape, guards: &Guards, found: &Schema) -> Result<(Matched, Vec<Notice>)> {
    let mut columns = Vec::new();
    let mut problems = Vec::new();
    let mut notices = Vec::new();
    for field in shape.rows.fields() {
        match find(found, field.name()) {
            Ok(index) => {
                let given = found.field(index);
                match exact(given.data_type(), field.data_type(), of_spark(given)) {
                    Ok(()) => columns.push(index),
                    Err(way_out) => problems.push(format!(
                        "column \"{}\": expected {}, found {}; {way_out}",
                        field.name(),
                        shown(field.data_type(), given),
                        given.metadata().get(types::WORD).cloned().unwrap_or_else(|| given.data_type().to_string())
                    )),
                }
                if field.name() == &shape.time && matches!(given.data_type(), DataType::Timestamp(_, None)) {
                    notices.push(Notice {
                        reason: Reason::NaiveTimestamps,
                        message: format!("the times in \"{}\" have no zone and were taken for UTC", field.name()),
                    });
                }
            }
            Err(why) => problems.push(format!("column \"{}\": {why}", field.name())),
        }
    }
    let mut fields: Vec<Field> = shape.rows.fields().iter().map(|field| field.as_ref().clone()).collect();
    if let Some(by) = &guards.keep_last_by {
        match find(found, by) {
            Ok(index) => {
                columns.push(index);
                // The order alone counts; the column may be a feature too.
                fields.push(Field::new(KEEP_LAST, found.field(index).data_type().clone(), true));
            }
            Err(why) => problems.push(format!("column \"{by}\" of guards.duplicates.by: {why}")),
        }
    }
    if !problems.is_empty() {
        problems.truncate(10);
        return Err(Failure::permanent(Reason::SchemaMismatch, problems.join(", ")));
    }
    notices.extend(extra_columns(found, &columns));
    Ok((Matched { columns, fields }, notices))
}

fn of_spark(given: &Field) -> bool {
    given.metadata().contains_key(types::WORD)
}

/// A type that is expected, in the words of the engine that found another.
fn shown(wanted: &DataType, given: &Field) -> String {
    if of_spark(given) { types::name(wanted) } else { wanted.to_string() }
}

/// Whether rows of these columns can be larger than the stores take.
pub fn counts_sizes(fields: &[Field]) -> bool {
    fields.iter().any(|field| !field.data_type().is_primitive() && field.data_type() != &DataType::Boolean)
}

/// The column that orders duplicates, behind all others. The space keeps it apart from every name that a feature can have.
pub const KEEP_LAST: &str = "keep last";

fn overflow(column: &str, why: &str) -> Failure {
    Failure::permanent(Reason::CastOverflow, format!("column \"{column}\" has a value that does not fit its type: {why}"))
}

fn find(schema: &Schema, name: &str) -> Result<usize, String> {
    if let Ok(index) = schema.index_of(name) {
        return Ok(index);
    }
    let alike: Vec<usize> =
        (0..schema.fields().len()).filter(|index| schema.field(*index).name().eq_ignore_ascii_case(name)).collect();
    match alike.as_slice() {
        [one] => Ok(*one),
        [] => Err(format!(
            "missing in the transformation's result, which has {}",
            schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
        )),
        _ => Err("several columns of the result differ only in case; use quotes".to_owned()),
    }
}

fn extra_columns(found: &Schema, used: &[usize]) -> Option<Notice> {
    let extra: Vec<&str> =
        (0..found.fields().len()).filter(|index| !used.contains(index)).map(|index| found.field(index).name().as_str()).collect();
    (!extra.is_empty()).then(|| Notice {
        reason: Reason::ExtraColumns,
        message: format!("columns of the result that are no features were ignored: {}", extra.join(", ")),
    })
}

/// Whether every value of one type is kept exactly by another, up to a range that the cast checks; else the way out.
fn exact(given: &DataType, wanted: &DataType, spark: bool) -> Result<(), String> {
    use DataType as T;
    let word = || if spark { types::name(wanted).to_uppercase() } else { sql_type(wanted).to_owned() };
    let write = || Err(format!("write CAST(… AS {})", word()));
    match (given, wanted) {
        (given, wanted) if given == wanted => Ok(()),
        (T::Null, _) => Ok(()),
        (T::Dictionary(_, value), wanted) => exact(value, wanted, spark),
        (T::Utf8View | T::LargeUtf8, T::Utf8)
        | (T::BinaryView | T::LargeBinary | T::FixedSizeBinary(_), T::Binary)
        | (T::Int8 | T::Int16 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64, T::Int32)
        | (T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64, T::Int64)
        | (T::Float16, T::Float32)
        | (T::Float16 | T::Float32 | T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 | T::UInt32, T::Float64)
        | (T::Int8 | T::Int16 | T::UInt8 | T::UInt16, T::Float32)
        | (T::Timestamp(_, _), T::Timestamp(_, _)) => Ok(()),
        (T::List(given) | T::LargeList(given) | T::FixedSizeList(given, _), T::List(wanted)) => {
            exact(given.data_type(), wanted.data_type(), spark)
        }
        _ => write(),
    }
}

fn sql_type(wanted: &DataType) -> &'static str {
    match wanted {
        DataType::Utf8 => "VARCHAR",
        DataType::Binary => "BYTEA",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Boolean => "BOOLEAN",
        DataType::Timestamp(_, _) => "TIMESTAMP",
        _ => "the declared type",
    }
}

/// Fails with `RowTooLarge` for a row that the stores would not take.
pub fn refuse_large_rows(batch: &RecordBatch, keys: usize) -> Result<()> {
    if batch.get_array_memory_size() <= ROW_BYTES_MAX {
        return Ok(());
    }
    for row in 0..batch.num_rows() {
        let bytes: usize = batch.columns().iter().map(|column| bytes_of(column, row)).sum();
        if bytes > ROW_BYTES_MAX {
            let key =
                crate::offline::hash::row_hash(&batch.project(&(0..keys).collect::<Vec<_>>()).expect("keys come first"), row);
            return Err(Failure::permanent(
                Reason::RowTooLarge,
                format!("a row of {bytes} bytes is larger than {ROW_BYTES_MAX}; the hash of its keys is {key:032x}"),
            ));
        }
    }
    Ok(())
}

fn bytes_of(column: &ArrayRef, row: usize) -> usize {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value_length(row) as usize,
        DataType::Binary => column.as_binary::<i32>().value_length(row) as usize,
        // Of the list's own elements: the array behind them is that of the whole batch.
        DataType::List(_) if column.is_valid(row) => {
            column.as_list::<i32>().value(row).to_data().get_slice_memory_size().unwrap_or(0)
        }
        other => other.primitive_width().unwrap_or(1),
    }
}
