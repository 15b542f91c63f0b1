//! Makes everything that a commit needs, invisibly: new rows, rows that stay, and the guards' verdict on them.

use super::pin::{Manifest, Pin};
use super::scope::Overlap;
use super::shape::{Layout, Shape};
use super::spark::Spark;
use super::stage::{self, Staged, Target};
use super::{guards, preflight, publish, rescue, sources, undo};
use crate::context::Context;
use crate::delta::{self, DataFile};
use crate::failure::{Failure, Result};
use crate::session;
use backfill_core::api::{Mode, Severity};
use backfill_core::condition::Reason;
use backfill_core::contract::{Check, Engine, Guards, OfflineReport, Order, Scope};
use backfill_core::time::Interval;
use chrono::Utc;
use deltalake::DeltaTable;
use deltalake::arrow::datatypes::{Schema, SchemaRef};
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use std::sync::Arc;

/// What staging needs to know.
#[derive(Clone, Copy)]
pub struct Staging<'a> {
    /// The surroundings.
    pub cx: &'a Context,
    /// The order, with what is pinned.
    pub order: &'a Order,
    /// The pin.
    pub pin: &'a Pin,
    /// The table as pinned.
    pub pinned: Option<&'a DeltaTable>,
    /// Memory and spill space.
    pub runtime: &'a Arc<RuntimeEnv>,
    /// Where files go.
    pub target: &'a Target<'a>,
}

impl Staging<'_> {
    /// Computes the new rows, rescues the rows that stay, and judges. A guard that fails comes with what it saw.
    pub async fn stage(&self) -> Result<Result<Manifest, (Failure, Manifest)>> {
        let time = &self.order.definition.timestamp_column;
        let files = self.pinned.map(|table| delta::files(table, time)).unwrap_or_default();
        let gone = publish::affected(files, self.pin.deletes, |_| false);
        let session = session::session(self.runtime, 1);
        if let Some(table) = self.pinned {
            delta::register_store(&session, table);
        }
        let staged = self.new_rows(&gone).await?;
        let mut rescued = Vec::new();
        let mut removed = 0;
        for (number, (file, overlap)) in gone.iter().enumerate() {
            let table = self.pinned.expect("files come from a table");
            match (overlap, file.rows) {
                (Overlap::Inside, Some(rows)) => removed += rows,
                _ => {
                    let prefix = format!("{}-r{number}", self.target.prefix);
                    let target = self.target.with_prefix(prefix);
                    let copy = rescue::copy(&session, table, file, self.pin.deletes, rescue::Which::Outside, &target).await?;
                    removed += copy.rows - copy.kept;
                    rescued.push(copy);
                }
            }
        }
        let guarded = self.guarded();
        let judged = guards::judge(&guarded, &staged, self.pinned.map(|_| removed), &session, self.target).await?;
        let rows_rescued = rescued.iter().map(|copy| copy.kept).sum();
        let read: u64 = rescued.iter().map(|copy| copy.rows).sum();
        let mut notices = staged.notices;
        notices.extend(judged.notices);
        let report = OfflineReport {
            rows_removed: removed,
            rows_written: staged.rows,
            rows_rescued,
            rows_outside: staged.outside,
            rows_null_key: staged.null_key,
            rows_duplicate: staged.duplicates.dropped,
            rows_read: read,
            windows: staged.windows,
            version_before: self.pin.version,
            guards: judged.results,
            ..OfflineReport::default()
        };
        let manifest = Manifest {
            pin: self.pin.id.clone(),
            planned: self.order.mode == Mode::Plan,
            at: Utc::now().timestamp_millis(),
            adds: staged.adds,
            rescued,
            report,
            notices,
        };
        Ok(match judged.failure {
            None => Ok(manifest),
            Some(failure) => Err((failure, manifest)),
        })
    }

    /// The order's guards, and what the table itself demands. An undo brings back what was there, however little it is.
    fn guarded(&self) -> Guards {
        let mut guards = self.order.guards.clone();
        if self.pin.undone.is_some() {
            guards.allow_empty = true;
            guards.max_shrink_percent = 100;
            guards.checks.clear();
        }
        let columns = self.pinned.map(preflight::arrow_schema);
        let required = columns.iter().flat_map(|schema| schema.fields()).filter(|field| !field.is_nullable());
        let features = &self.order.definition.features;
        let required = required.filter(|field| features.iter().any(|feature| &feature.name == field.name()));
        guards.checks.extend(required.map(|field| Check {
            name: format!("{} is never null in the table", field.name()),
            predicate: format!("\"{}\" IS NOT NULL", field.name()),
            severity: Severity::Fail,
        }));
        guards
    }

    async fn new_rows(&self, gone: &[(DataFile, Overlap)]) -> Result<Staged> {
        let time = &self.order.definition.timestamp_column;
        if let (Some(undone), Some(table)) = (&self.pin.undone, self.pinned) {
            let session = session::session(self.runtime, self.order.size.cores as usize);
            delta::register_store(&session, table);
            let shape = self.target.shape.with_rows(without_partition_date(table, self.target.shape));
            let target = Target { shape: &shape, ..self.target.with_prefix(self.target.prefix.clone()) };
            self.cx.stage("staging", 1);
            let (adds, rows) = stage::rows(undo::rows(&session, table, undone, time).await?, &target).await?;
            self.cx.advance(1, rows);
            return Ok(Staged { adds, rows, windows: 1, ..Staged::default() });
        }
        let interval = match &self.order.scope {
            Scope::Interval { interval } | Scope::Reset { interval, .. } => *interval,
            Scope::Undo { .. } => unreachable!("an undo has pinned what it undoes"),
        };
        let secret = self.order.table.credentials_secret.as_deref();
        let definition = &self.order.definition;
        sources::verify(self.cx, &definition.sources, &self.pin.sources, secret).await?;
        let staged = match &self.order.engine {
            Engine::DataFusion => {
                let session = session::session(self.runtime, 1);
                sources::register(self.cx, &session, &definition.sources, &self.pin.sources, secret).await?;
                let density = density(gone, interval);
                stage::transformation(self.cx, self.order, interval, &session, self.target, density).await
            }
            Engine::Spark { nodes, conf } => Spark { staging: *self, interval, nodes: *nodes, conf }.transformation().await,
        };
        match staged {
            // The engine's words about a file that is gone are of no help.
            Err(failure) if failure.reason == Reason::TransformFailed => {
                sources::verify(self.cx, &definition.sources, &self.pin.sources, secret).await?;
                sources::refuse_vacuumed(self.cx, &definition.sources, &self.pin.sources, secret).await?;
                Err(failure)
            }
            staged => staged,
        }
    }
}

/// The columns that an undo brings back: all but the date column, which derives from the event time.
fn without_partition_date(table: &DeltaTable, shape: &Shape) -> SchemaRef {
    let date = match &shape.layout {
        Layout::Date { column, .. } | Layout::Values { date: Some((column, _)), .. } => Some(column),
        Layout::Flat | Layout::Values { date: None, .. } => None,
    };
    let all = preflight::arrow_schema(table);
    let kept = all.fields().iter().filter(|field| date != Some(field.name())).cloned();
    Arc::new(Schema::new(kept.collect::<Vec<_>>()))
}

/// How many rows a day the replaced files hold.
fn density(gone: &[(DataFile, Overlap)], interval: Interval) -> Option<u64> {
    let rows: u64 = gone.iter().filter_map(|(file, _)| file.rows).sum();
    let days = (interval.stop() - interval.start()).num_days().max(1);
    (rows > 0).then(|| rows / days.unsigned_abs())
}
