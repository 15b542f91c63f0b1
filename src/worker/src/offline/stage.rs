//! Computes new rows invisibly: the transformation runs, its rows are conformed, sorted by time and keys, and written as files
//! that no log names yet.
//!
//! The interval is cut into lanes, contiguous spans that run side by side, each through its own sorted streams into its own
//! writer: memory stays bounded by the order's size and files stay clustered by time.

use crate::context::Context;
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::conform::{Conform, Dropped, Micros};
use crate::offline::dedupe::{Dedupe, Duplicates};
use crate::offline::ordered;
use crate::offline::scope::{micros, quoted};
use crate::offline::shape::Shape;
use crate::offline::writer::TableWriter;
use crate::online;
use crate::session;
use crate::storage::Location;
use backfill_core::condition::Reason;
use backfill_core::contract::{Definition, Notice, Order};
use backfill_core::time::Interval;
use backfill_core::window::{self, Window};
use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::{DataType, TimeUnit};
use deltalake::datafusion::common::{Column, ParamValues};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::context::SQLOptions;
use deltalake::datafusion::functions_aggregate::expr_fn::{count, sum};
use deltalake::datafusion::logical_expr::{LogicalPlan, when};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::prelude::{DataFrame, Expr, SessionContext, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::kernel::Add;
use futures::StreamExt;
use object_store::ObjectStore;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// About how many rows one query of a lane sorts in memory.
const RANGE_ROWS: u64 = 400_000;

/// The most queries of a row-wise transformation: each one opens its sources anew. Beyond this, larger sorts spill.
const RANGES_MAX: i64 = 500;

/// Rows a day when nothing is known.
const ROWS_A_DAY: u64 = 100_000;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// What staging made.
#[derive(Debug, Default)]
pub struct Staged {
    /// The files, for the log.
    pub adds: Vec<Add>,
    /// Their rows.
    pub rows: u64,
    /// Rows without a key or an event time.
    pub null_key: u64,
    /// Rows outside the interval or their window.
    pub outside: u64,
    /// Rows of equal keys and event time.
    pub duplicates: Duplicates,
    /// How many windows were run.
    pub windows: u64,
    /// What a person should know.
    pub notices: Vec<Notice>,
}

/// A part of it.
#[derive(Debug, Default)]
pub struct Laid {
    /// The files, for the log.
    pub adds: Vec<Add>,
    /// Their rows.
    pub rows: u64,
    /// Rows of equal keys and event time.
    pub duplicates: Duplicates,
}

impl Staged {
    /// Adds parts. Files are in the order of their paths, whichever part came first.
    pub fn lay(&mut self, parts: Vec<Laid>) {
        for Laid { adds, rows, duplicates } in parts {
            self.adds.extend(adds);
            self.rows += rows;
            self.duplicates.dropped += duplicates.dropped;
            self.duplicates.ambiguous += duplicates.ambiguous;
            self.duplicates.example = self.duplicates.example.take().or(duplicates.example);
        }
        self.adds.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

/// Where staged files go.
pub struct Target<'a> {
    /// The table's folder.
    pub location: &'a Location,
    /// The table's own object store.
    pub store: Arc<dyn ObjectStore>,
    /// The shape of the table.
    pub shape: &'a Shape,
    /// The beginning of file names; of this attempt alone.
    pub prefix: String,
}

impl Target<'_> {
    /// The same place, for files of another name.
    pub fn with_prefix(&self, prefix: String) -> Self {
        Self { prefix, store: self.store.clone(), ..*self }
    }
}

/// One run of the transformation: its parameters, and the event times of the rows that are taken from it.
#[derive(Clone, Debug)]
struct Unit {
    window: Window,
    rows: Micros,
    /// Whether the query is bounded to `rows` before anything is computed; then nothing is left to count in its result.
    bounded: bool,
}

/// Runs the transformation over the interval and writes its rows.
///
/// `rows_a_day` is an estimate of the density, for the size of the queries.
pub async fn transformation(
    cx: &Context,
    order: &Order,
    interval: Interval,
    session: &SessionContext,
    target: &Target<'_>,
    rows_a_day: Option<u64>,
) -> Result<Staged> {
    let run = Run {
        cx: cx.clone(),
        order: order.clone(),
        interval,
        session: session.clone(),
        store: Arc::clone(&target.store),
        shape: target.shape.clone(),
        prefix: target.prefix.clone(),
    };
    let probe = run.query(&Window::whole(interval)).await?;
    let rowwise = order.definition.windows.is_none() && is_rowwise(probe.logical_plan());
    let (conform, notices) = Conform::new(target.shape, &order.guards, probe.schema().as_arrow())?;
    let units = run.units(rowwise, rows_a_day)?;
    let windows = if rowwise { 1 } else { units.len() as u64 };
    cx.stage("staging", units.len() as u64);
    let dropped = Arc::new(Dropped::default());
    if rowwise {
        run.count_outside(probe, &dropped).await?;
    }
    let lanes = lanes(units, if rowwise || windows > 1 { order.size.cores as usize } else { 1 });
    let done = side_by_side(Arc::new(run), lanes, Arc::new(conform), &dropped).await?;
    let mut staged = Staged {
        null_key: dropped.null_key.load(Ordering::Relaxed),
        outside: dropped.outside.load(Ordering::Relaxed),
        windows,
        notices,
        ..Staged::default()
    };
    staged.lay(done);
    Ok(staged)
}

/// Runs every lane as a task of its own: lanes of one task would share one core.
async fn side_by_side(run: Arc<Run>, lanes: Vec<Vec<Unit>>, conform: Arc<Conform>, dropped: &Arc<Dropped>) -> Result<Vec<Laid>> {
    let mut tasks = JoinSet::new();
    for (number, units) in lanes.into_iter().enumerate() {
        let (run, conform, dropped) = (Arc::clone(&run), Arc::clone(&conform), Arc::clone(dropped));
        tasks.spawn(async move { run.lane(number, units, conform, dropped).await });
    }
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(laid) => done.push(laid),
            Err(failure) => {
                // No lane may write any more when the failure is known.
                tasks.shutdown().await;
                return Err(failure);
            }
        }
    }
    Ok(done)
}

/// Writes rows that need no transformation, sorted by time and keys, as they are.
pub async fn rows(frame: DataFrame, target: &Target<'_>) -> Result<(Vec<Add>, u64)> {
    let shape = target.shape;
    let columns = shape.rows.fields().iter().map(|field| col(quoted(field.name())));
    let sorted = frame.select(columns).and_then(|frame| frame.sort(ordered::order_by(shape, false)));
    let mut stream = failing(async { sorted?.execute_stream().await }.await, Reason::TransformFailed)?;
    let mut writer = TableWriter::new(Arc::clone(&target.store), shape, target.prefix.clone());
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        let batch = failing(batch, Reason::TransformFailed)?;
        rows += batch.num_rows() as u64;
        writer.write(&batch).await?;
    }
    Ok((writer.finish().await?, rows))
}

/// A transformation, and where its rows go. Lanes share it across threads.
struct Run {
    cx: Context,
    order: Order,
    interval: Interval,
    session: SessionContext,
    store: Arc<dyn ObjectStore>,
    shape: Shape,
    prefix: String,
}

impl Run {
    /// The transformation with its parameters bound.
    async fn query(&self, window: &Window) -> Result<DataFrame> {
        let Definition { sql, windows, .. } = &self.order.definition;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let planned = self.session.sql_with_options(sql, options).await;
        let mut parameters = vec![("start", self.interval.start()), ("stop", self.interval.stop())];
        if windows.is_some() {
            parameters.extend([("window_start", window.start()), ("window_stop", window.stop())]);
        }
        let parameters: Vec<(&str, ScalarValue)> =
            parameters.into_iter().map(|(name, t)| (name, micros(t.timestamp_micros()))).collect();
        failing(planned.and_then(|frame| frame.with_param_values(ParamValues::from(parameters))), Reason::TransformFailed)
    }

    fn all(&self) -> Micros {
        self.interval.start().timestamp_micros()..self.interval.stop().timestamp_micros()
    }

    /// The runs of the transformation, in the order of time.
    fn units(&self, rowwise: bool, rows_a_day: Option<u64>) -> Result<Vec<Unit>> {
        let all = self.all();
        if !rowwise {
            let windows = window::windows(self.order.definition.windows.as_ref(), self.interval)
                .map_err(|error| Failure::permanent(error.reason(), error.to_string()))?;
            let unit = |window: Window| Unit { rows: window.rows().0..window.rows().1, window, bounded: false };
            return Ok(windows.into_iter().map(unit).collect());
        }
        let density = rows_a_day.unwrap_or(ROWS_A_DAY).max(1);
        let days = (RANGE_ROWS / density).max(1);
        let days_min = (all.end - all.start) / MICROS_A_DAY / RANGES_MAX;
        let step = MICROS_A_DAY.saturating_mul(i64::try_from(days).unwrap_or(i64::MAX).max(days_min));
        let mut units = Vec::new();
        let mut from = all.start;
        while from < all.end {
            // Ranges end at midnight, where partitions end.
            let next = (from.div_euclid(MICROS_A_DAY) * MICROS_A_DAY).saturating_add(step).min(all.end);
            units.push(Unit { window: Window::whole(self.interval), rows: from..next, bounded: true });
            from = next;
        }
        Ok(units)
    }

    /// Counts what the ranges of a row-wise transformation leave out: rows outside the interval or without an event time.
    async fn count_outside(&self, frame: DataFrame, dropped: &Dropped) -> Result<()> {
        let time = time_of(&frame, &self.shape.time);
        let outside = within(&time, &self.all()).is_not_true();
        let null = when(col(time.0.clone()).is_null(), lit(1_i64)).otherwise(lit(0_i64));
        let counted = async {
            let counts = vec![count(lit(1_i64)).alias("outside"), sum(null?).alias("null_time")];
            frame.filter(outside)?.aggregate(vec![], counts)?.collect().await
        };
        let counted = failing(counted.await, Reason::TransformFailed)?;
        let value = |name: &str| -> u64 {
            let column = counted.first().and_then(|batch| batch.column_by_name(name).cloned());
            let value = column.and_then(|column| ScalarValue::try_from_array(&column, 0).ok());
            match value {
                Some(ScalarValue::Int64(Some(n))) => n.unsigned_abs(),
                _ => 0,
            }
        };
        dropped.null_key.fetch_add(value("null_time"), Ordering::Relaxed);
        dropped.outside.fetch_add(value("outside").saturating_sub(value("null_time")), Ordering::Relaxed);
        Ok(())
    }

    /// Runs the units of one lane one after the other into one writer.
    async fn lane(&self, number: usize, units: Vec<Unit>, conform: Arc<Conform>, dropped: Arc<Dropped>) -> Result<Laid> {
        let shape = &self.shape;
        let ordered = self.order.guards.keep_last_by.is_some();
        let mut dedupe = Dedupe::new(shape.keys.len(), ordered);
        let prefix = format!("{}-{number}", self.prefix);
        let mut writer = TableWriter::new(Arc::clone(&self.store), shape, prefix);
        let mut rows = 0;
        for unit in units {
            let lost = Arc::new(Dropped::default());
            let mut stream = self.sorted(&unit, &conform, &lost, ordered).await?;
            let mut written = 0;
            while let Some(batch) = stream.next().await {
                let batch = dedupe.rows(failing(batch, Reason::TransformFailed)?);
                if batch.num_rows() > 0 {
                    written += batch.num_rows() as u64;
                    writer.write(&batch).await?;
                }
            }
            if self.order.definition.windows.is_some() {
                lost.refuse_stop_stamps(&unit.window, written)?;
            }
            dropped.add(&lost);
            rows += written;
            self.cx.advance(1, written);
            failpoint::reach("unit-staged");
        }
        Ok(Laid { adds: writer.finish().await?, rows, duplicates: dedupe.found })
    }

    /// The rows of one unit, conformed and sorted by time, keys and what orders duplicates.
    async fn sorted(
        &self,
        unit: &Unit,
        conform: &Arc<Conform>,
        dropped: &Arc<Dropped>,
        ordered: bool,
    ) -> Result<SendableRecordBatchStream> {
        let mut frame = self.query(&unit.window).await?;
        if unit.bounded {
            let time = time_of(&frame, &self.shape.time);
            frame = failing(frame.filter(within(&time, &unit.rows)), Reason::TransformFailed)?;
        }
        let given = failing(frame.execute_stream().await, Reason::TransformFailed)?;
        let (conform, dropped, bounds) = (Arc::clone(conform), Arc::clone(dropped), unit.rows.clone());
        let schema = conform.schema().clone();
        // What the online store would not take must not be published offline either.
        let served = if self.order.stores.online() { self.order.definition.features.clone() } else { vec![] };
        let rows = given.map(move |batch| {
            let rows = conform.rows(&batch?, &bounds, &dropped);
            let rows = rows.and_then(|rows| online::refuse_nulls_in_lists(&served, &rows).map(|()| rows));
            rows.map_err(|failure| DataFusionError::External(Box::new(failure)))
        });
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        failing(ordered::in_order(&self.session, rows, &self.shape, ordered).await, Reason::TransformFailed)
    }
}

/// Contiguous spans of units, about equally many each.
fn lanes(units: Vec<Unit>, most: usize) -> Vec<Vec<Unit>> {
    let size = units.len().div_ceil(most.max(1)).max(1);
    units.chunks(size).map(<[Unit]>::to_vec).collect()
}

/// Whether every row of the result comes from one row of a source, so that a bound on the event time can be applied before
/// anything is computed, and running the query for parts of the interval costs no more than running it once.
fn is_rowwise(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.fetch.is_none(),
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => {
            plan.inputs().into_iter().all(is_rowwise) && !has_subqueries(plan)
        }
        _ => false,
    }
}

fn has_subqueries(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The walk cannot fail: the closure does not.
    let _ = plan.apply_subqueries(|_| {
        found = true;
        Ok(deltalake::datafusion::common::tree_node::TreeNodeRecursion::Stop)
    });
    found
}

/// The event-time column as the result names it, and its type.
fn time_of(frame: &DataFrame, time: &str) -> (Column, DataType) {
    let fields = frame.schema().as_arrow().fields();
    let field = fields.iter().find(|field| field.name() == time);
    let field = field.or_else(|| fields.iter().find(|field| field.name().eq_ignore_ascii_case(time)));
    let field = field.expect("the columns were matched before");
    (quoted(field.name()), field.data_type().clone())
}

/// A bound on the event time in the column's own type, so that it reaches the sources' statistics.
fn within((column, data_type): &(Column, DataType), rows: &Micros) -> Expr {
    let bound = |t: i64| -> ScalarValue {
        let zone = match data_type {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => Some("UTC".into()),
        };
        // In a coarser unit, the first instant at or after a bound is the same bound for times of that unit.
        match data_type {
            DataType::Timestamp(TimeUnit::Second, _) => ScalarValue::TimestampSecond(Some(ceil(t, 1_000_000)), zone),
            DataType::Timestamp(TimeUnit::Millisecond, _) => ScalarValue::TimestampMillisecond(Some(ceil(t, 1_000)), zone),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => ScalarValue::TimestampNanosecond(Some(t.saturating_mul(1_000)), zone),
            _ => ScalarValue::TimestampMicrosecond(Some(t), zone),
        }
    };
    let t = || col(column.clone());
    t().gt_eq(lit(bound(rows.start))).and(t().lt(lit(bound(rows.end))))
}

fn ceil(t: i64, unit: i64) -> i64 {
    -(-t).div_euclid(unit)
}

/// What an error of a query means; a failure of ours that travelled through DataFusion comes out as it was.
fn failing<T>(result: Result<T, DataFusionError>, reason: Reason) -> Result<T> {
    result.map_err(|error| match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(Failure { reason, message, retry }) => Failure { reason: *reason, message: message.clone(), retry: *retry },
            None => session::failure(&error, reason),
        },
        _ => session::failure(&error, reason),
    })
}

/// The rows of a frame that reads tables, not a transformation.
pub async fn stream(frame: DataFrame) -> Result<SendableRecordBatchStream> {
    failing(frame.execute_stream().await, Reason::TableCorrupted)
}

/// The next rows of such a stream.
pub async fn next(stream: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>> {
    stream.next().await.map(|batch| failing(batch, Reason::TableCorrupted)).transpose()
}
