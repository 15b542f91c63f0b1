//! Rows in the order of time and keys. Those that come in that order already are held, not sorted: sources mostly are.

use crate::offline::conform::KEEP_LAST;
use crate::offline::scope::quoted;
use crate::offline::shape::Shape;
use deltalake::arrow::array::{Array, ArrayRef, AsArray, DynComparator, RecordBatch, make_comparator};
use deltalake::arrow::compute::SortOptions;
use deltalake::arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use deltalake::arrow::error::ArrowError;
use deltalake::datafusion::catalog::streaming::StreamingTable;
use deltalake::datafusion::error::{DataFusionError, Result};
use deltalake::datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::logical_expr::expr::Sort;
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::PartitionStream;
use deltalake::datafusion::prelude::{SessionContext, col};
use futures::{Stream, StreamExt};
use std::cmp::Ordering;
use std::sync::{Arc, Mutex};

/// The order in which rows are written: equal keys and times are neighbours. With `ordered`, [`KEEP_LAST`] orders those, the
/// largest first.
pub fn order_by(shape: &Shape, ordered: bool) -> Vec<Sort> {
    let names = std::iter::once(&shape.time).chain(&shape.keys);
    let mut order: Vec<Sort> = names.map(|name| col(quoted(name)).sort(true, true)).collect();
    if ordered {
        order.push(col(quoted(KEEP_LAST)).sort(false, false));
    }
    order
}

/// Conformed rows in the order of [`order_by`], whatever order they come in.
///
/// Reads all of them first, within the session's memory: rows that do not fit are sorted by way of its spill space.
pub async fn in_order(
    session: &SessionContext,
    mut rows: SendableRecordBatchStream,
    shape: &Shape,
    ordered: bool,
) -> Result<SendableRecordBatchStream> {
    let mut held = Held::new(session, shape, ordered);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 && !held.take(&batch)? {
            let schema = rows.schema();
            let known = futures::stream::iter(held.batches.into_iter().chain([batch]).map(Ok));
            // What was held is the sort's from now on, and counted there.
            drop(held.reservation);
            return sort(session, schema, known.chain(rows), order_by(shape, ordered)).await;
        }
    }
    Ok(held.into_stream(rows.schema()))
}

async fn sort(
    session: &SessionContext,
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    order: Vec<Sort>,
) -> Result<SendableRecordBatchStream> {
    let rows = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows));
    session.read_table(Arc::new(OneStream::table(schema, rows)?))?.sort(order)?.execute_stream().await
}

/// Rows that came in order so far.
struct Held {
    keys: usize,
    ordered: bool,
    batches: Vec<RecordBatch>,
    reservation: MemoryReservation,
}

impl Held {
    fn new(session: &SessionContext, shape: &Shape, ordered: bool) -> Self {
        // To the pool it is a sort, in whose place it is: it gets a share as large, and gives way when that is used up.
        let consumer = MemoryConsumer::new("rows in order").with_can_spill(true);
        let reservation = consumer.register(&session.runtime_env().memory_pool);
        Self { keys: shape.keys.len(), ordered, batches: Vec::new(), reservation }
    }

    /// Holds a batch when it is in order, comes after all before and fits into the memory.
    fn take(&mut self, batch: &RecordBatch) -> Result<bool> {
        let follows = is_in_order(self.batches.last(), batch, self.keys, self.ordered)?;
        let fits = follows && self.reservation.try_grow(batch.get_array_memory_size()).is_ok();
        if fits {
            self.batches.push(batch.clone());
        }
        Ok(fits)
    }

    fn into_stream(self, schema: SchemaRef) -> SendableRecordBatchStream {
        let Self { batches, reservation, .. } = self;
        let rows = batches.into_iter().map(move |batch| {
            reservation.shrink(batch.get_array_memory_size());
            Ok(batch)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows)))
    }
}

/// Whether each event time, in the column after the keys, is larger than the one before.
pub fn rises(batch: &RecordBatch, keys: usize) -> bool {
    let times = batch.column(keys).as_primitive_opt::<TimestampMicrosecondType>();
    times.is_some_and(|times| times.nulls().is_none() && times.values().windows(2).all(|pair| pair[0] < pair[1]))
}

/// Whether rows are in the order of [`order_by`] and come after the last one of `before`.
pub fn is_in_order(before: Option<&RecordBatch>, batch: &RecordBatch, keys: usize, ordered: bool) -> Result<bool, ArrowError> {
    if batch.num_rows() == 0 {
        return Ok(true);
    }
    if let Some(before) = before.filter(|before| before.num_rows() > 0)
        && !Neighbours::new(before, batch, keys, ordered)?.in_order(before.num_rows() - 1, 0)
    {
        return Ok(false);
    }
    // The times alone mostly decide.
    if rises(batch, keys) {
        return Ok(true);
    }
    let neighbours = Neighbours::new(batch, batch, keys, ordered)?;
    Ok((1..batch.num_rows()).all(|row| neighbours.in_order(row - 1, row)))
}

/// Compares rows by time, keys and what orders duplicates.
struct Neighbours(Vec<DynComparator>);

impl Neighbours {
    fn new(left: &RecordBatch, right: &RecordBatch, keys: usize, ordered: bool) -> Result<Self, ArrowError> {
        let column = |batch: &RecordBatch, index: usize| -> ArrayRef { Arc::clone(batch.column(index)) };
        let compare = |index, options| make_comparator(&column(left, index), &column(right, index), options);
        let rising = SortOptions { descending: false, nulls_first: true };
        let mut all = std::iter::once(keys).chain(0..keys).map(|index| compare(index, rising)).collect::<Result<Vec<_>, _>>()?;
        if ordered {
            all.push(compare(left.num_columns() - 1, SortOptions { descending: true, nulls_first: false })?);
        }
        Ok(Self(all))
    }

    fn in_order(&self, left: usize, right: usize) -> bool {
        let decided = self.0.iter().map(|compare| compare(left, right)).find(|ordering| ordering.is_ne());
        decided != Some(Ordering::Greater)
    }
}

/// A table over a stream that is read once.
struct OneStream {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl OneStream {
    fn table(schema: SchemaRef, stream: SendableRecordBatchStream) -> Result<StreamingTable> {
        StreamingTable::try_new(schema.clone(), vec![Arc::new(Self { schema, stream: Mutex::new(Some(stream)) })])
    }
}

impl std::fmt::Debug for OneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneStream")
    }
}

impl PartitionStream for OneStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let stream = self.stream.lock().map(|mut stream| stream.take()).ok().flatten();
        stream.unwrap_or_else(|| {
            let twice = Err(DataFusionError::Internal("a stream is read once".to_owned()));
            Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter([twice])))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::shape::{Layout, time_type};
    use deltalake::arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use deltalake::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use deltalake::datafusion::execution::memory_pool::FairSpillPool;
    use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;

    /// A key, an event time, what orders duplicates.
    type Row = (i64, i64, Option<i64>);

    fn shape(key: DataType) -> Shape {
        let fields = vec![Field::new("key", key, true), Field::new("time", time_type(), true)];
        Shape { keys: vec!["key".into()], time: "time".into(), rows: Arc::new(Schema::new(fields)), layout: Layout::Flat }
    }

    fn times(times: impl Iterator<Item = i64>) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
    }

    fn batch(rows: &[Row]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
        let order: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
        let columns = [("key", keys, true), ("time", times(rows.iter().map(|row| row.1)), true), (KEEP_LAST, order, true)];
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns are of one length")
    }

    fn stream(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
        let schema = batches[0].schema();
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches.into_iter().map(Ok))))
    }

    async fn sorted(batches: &[&[Row]]) -> Vec<Row> {
        let rows = stream(batches.iter().map(|rows| batch(rows)).collect());
        let rows = in_order(&SessionContext::new(), rows, &shape(DataType::Int64), true).await;
        let batches: Vec<_> = rows.expect("rows can be sorted").collect().await;
        let rows = |batch: Result<RecordBatch>| {
            let batch = batch.expect("rows can be read");
            let (keys, order) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(2).as_primitive::<Int64Type>());
            let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
            let row = |row| (keys.value(row), times.value(row), order.is_valid(row).then(|| order.value(row)));
            (0..batch.num_rows()).map(row).collect::<Vec<_>>()
        };
        batches.into_iter().flat_map(rows).collect()
    }

    #[tokio::test]
    async fn rows_come_out_in_order_whether_or_not_they_came_so() {
        let wanted = [(7, 1, None), (3, 2, Some(9)), (3, 2, Some(4)), (3, 2, None), (5, 2, Some(1)), (1, 4, None)];
        assert_eq!(sorted(&[&wanted]).await, wanted, "rows in order");
        for cut in 1..wanted.len() {
            let (first, second) = wanted.split_at(cut);
            assert_eq!(sorted(&[first, &[], second]).await, wanted, "in order over batches cut at {cut}");
            assert_eq!(sorted(&[second, first]).await, wanted, "batches out of order, cut at {cut}");
        }
        for (a, b) in (0..wanted.len()).flat_map(|b| (0..b).map(move |a| (a, b))) {
            let mut rows = wanted;
            rows.swap(a, b);
            assert_eq!(sorted(&[&rows]).await, wanted, "rows {a} and {b} swapped");
            assert_eq!(sorted(&[&rows[..3], &rows[3..]]).await, wanted, "rows {a} and {b} of two batches swapped");
        }
    }

    #[tokio::test]
    async fn rows_in_order_that_do_not_fit_into_memory_spill() {
        const ROWS: i64 = 4096;
        let pool = Arc::new(FairSpillPool::new(24 << 20));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().expect("a runtime");
        let session = crate::session::session(&runtime, 1);
        let batch = |number: i64| {
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["k".repeat(200); ROWS as usize]));
            RecordBatch::try_from_iter([("key", keys), ("time", times(number * ROWS..(number + 1) * ROWS))]).expect("a batch")
        };
        let batches: Vec<_> = (0..50).map(batch).collect();
        assert!(batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>() > 32 << 20);
        let mut rows = in_order(&session, stream(batches), &shape(DataType::Utf8), false).await.expect("rows can be sorted");
        let mut next = 0;
        while let Some(batch) = rows.next().await {
            for time in batch.expect("rows can be read").column(1).as_primitive::<TimestampMicrosecondType>().values() {
                assert_eq!(*time, next);
                next += 1;
            }
        }
        assert_eq!(next, 50 * ROWS);
        drop(rows);
        assert_eq!(deltalake::datafusion::execution::memory_pool::MemoryPool::reserved(pool.as_ref()), 0, "all is given back");
    }
}
