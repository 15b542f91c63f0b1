//! Staging by Apache Spark: the transformation runs there, everything else is ours.
//!
//! Spark writes into a Delta table of this attempt alone, a folder inside the table's. Its log names the files of committed tasks;
//! they are looked at row by row and become staged files like any others. See docs/decisions/0012 and docs/engines.md.

mod app;
mod cluster;
mod inspect;
mod plan;
mod reader;
mod running;
mod settings;
pub mod types;

use crate::delta;
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::conform::{Dropped, KEEP_LAST, Matched, counts_sizes, match_columns};
use crate::offline::shape::Layout;
use crate::offline::sources::{self, Content};
use crate::offline::stage::Staged;
use crate::offline::staging::Staging;
use crate::session;
use crate::storage::{self, Location, unreachable_store};
use app::{App, Said, Say, Told, unexpected};
use backfill_core::condition::Reason;
use backfill_core::contract::SourceFormat;
use backfill_core::sql::{self, Piece};
use backfill_core::time::Interval;
use backfill_core::window::{self, Window};
pub use cluster::assist;
use deltalake::arrow::datatypes::Schema;
use futures::TryStreamExt;
use inspect::Inspection;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use plan::Group;
pub use running::Shelf;
use running::{Running, Setup};
use serde_json::{Value, json};
use settings::{Properties, Role};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The column that orders duplicates, in files that are staged. Delta takes no name with a space.
const ORDER_COLUMN: &str = "keep-last";

/// Memory that looking at one file takes, about: a group of rows as it is stored, and a few batches of it.
const INSPECTION_BYTES: u64 = 192 << 20;

/// The transformation of an order, computed by Spark.
pub struct Spark<'a> {
    /// What staging knows.
    pub staging: Staging<'a>,
    /// What is filled.
    pub interval: Interval,
    /// How many pods compute.
    pub nodes: u32,
    /// The template's further settings.
    pub conf: &'a BTreeMap<String, String>,
}

/// A source as Spark reads it, and its size.
struct Source {
    says: Value,
    bytes: u64,
}

impl Spark<'_> {
    /// Runs the transformation over the interval and stages its rows.
    pub async fn transformation(&self) -> Result<Staged> {
        let definition = &self.staging.order.definition;
        let windows = window::windows(definition.windows.as_ref(), self.interval)
            .map_err(|error| Failure::permanent(error.reason(), error.to_string()))?;
        let mut properties = settings::store(self.staging.target.location)?;
        let sources = self.sources(&mut properties).await?;
        let bytes = sources.iter().map(|source| source.bytes).sum();
        let folder = format!("{}-spark", self.staging.target.prefix);
        let mut running = self.running(properties).await?;
        let computed = self.compute(&mut running.app, sources, &windows, bytes, &folder).await;
        match &self.staging.cx.spark {
            Some(shelf) if running.app.is_idle() => shelf.put(running).await,
            // When a failure is known, nothing may be written any more.
            _ => running.end().await,
        }
        let (matched, notices, told) = computed?;
        failpoint::reach("spark-ended");
        let mut staged = self.collect(&folder, matched).await?;
        staged.notices = notices;
        staged.windows = windows.len() as u64;
        self.count(&mut staged, &windows, &told)?;
        Ok(staged)
    }

    /// Spark with these settings of the stores: as the last order of this process left it, or new.
    async fn running(&self, store: Properties) -> Result<Running> {
        let cx = self.staging.cx;
        let setup = Setup { role: self.role()?, size: self.staging.order.size, conf: self.conf.clone(), store };
        let folder = match &cx.spark {
            None => &cx.scratch,
            Some(shelf) => {
                if let Some(running) = shelf.take(&setup).await {
                    return Ok(running);
                }
                &shelf.folder
            }
        };
        cx.stage("starting Spark", 1);
        let scratch = tempfile::tempdir_in(folder)
            .map_err(|error| Failure::permanent(Reason::DiskFull, format!("cannot use the scratch space: {error}")))?;
        Running::start(setup, scratch).await
    }

    fn role(&self) -> Result<Role> {
        match self.nodes {
            0 | 1 => Ok(Role::Alone),
            nodes => settings::Cluster::find(nodes - 1).map(Role::Driver),
        }
    }

    /// What the sources held at the pin, in Spark's words, and what is needed to reach them.
    async fn sources(&self, properties: &mut Properties) -> Result<Vec<Source>> {
        let Staging { cx, order, pin, runtime, .. } = self.staging;
        let secret = order.table.credentials_secret.as_deref();
        let mut all = Vec::new();
        for (source, pin) in order.definition.sources.iter().zip(&pin.sources) {
            let location = storage::locate(cx, &source.uri, secret)?;
            properties.extend(settings::store(&location)?);
            let name = &source.name;
            all.push(match &pin.content {
                Content::Version(version) => {
                    let says = json!({
                        "name": name, "format": "delta", "uri": settings::hadoop_uri(&location)?, "version": version
                    });
                    Source { says, bytes: bytes_of_table(&location, *version).await? }
                }
                Content::Files(files) => {
                    let paths: Vec<String> = files.iter().map(|file| settings::hadoop_path(&location, &file.path)).collect();
                    let columns = sources::columns_of_files(&session::session(runtime, 1), source, &location, files).await?;
                    let says = match source.format {
                        SourceFormat::Parquet | SourceFormat::Delta => {
                            json!({ "name": name, "format": "parquet", "files": paths, "nanos": types::nanos(&columns) })
                        }
                        format => {
                            let format = if format == SourceFormat::Csv { "csv" } else { "json" };
                            json!({ "name": name, "format": format, "files": paths, "schema": types::declaration(&columns) })
                        }
                    };
                    Source { says, bytes: files.iter().map(|file| file.size).sum() }
                }
            });
        }
        Ok(all)
    }

    /// Lets Spark analyse the transformation, judges what it returns, and lets Spark write it.
    async fn compute(
        &self,
        app: &mut App,
        sources: Vec<Source>,
        windows: &[Window],
        bytes: u64,
        folder: &str,
    ) -> Result<(Matched, Vec<backfill_core::contract::Notice>, Vec<Told>)> {
        let Staging { cx, order, target, .. } = self.staging;
        let first = windows.first().ok_or_else(|| Failure::permanent(Reason::EmptyInterval, "there is no window"))?;
        let sources: Vec<Value> = sources.into_iter().map(|source| source.says).collect();
        let task = json!({ "sources": sources, "sql": self.sql()?, "window": self.window(first) });
        app.say(&Say::Analyse(&task)).await?;
        let found = match app.hear().await? {
            Said::Columns(columns) => types::schema(&columns),
            said => return Err(unexpected(&said)),
        };
        let (matched, notices) = match_columns(target.shape, &order.guards, &found)?;
        let groups = plan::groups(windows, bytes);
        let asked = self.asked(&matched, &found, &groups, folder)?;
        cx.stage("staging", windows.len() as u64);
        app.say(&Say::Stage(&asked)).await?;
        loop {
            match app.hear().await? {
                Said::Progress(progress) => {
                    failpoint::reach("spark-staging");
                    cx.tell(windows.len() as u64, progress.windows, (progress.ended, progress.tasks), progress.rows);
                }
                Said::Staged { windows } => return Ok((matched, notices, windows)),
                said => return Err(unexpected(&said)),
            }
        }
    }

    /// Texts and, between them, names of parameters.
    fn sql(&self) -> Result<Vec<String>> {
        let pieces = sql::for_spark(&self.staging.order.definition.sql)
            .map_err(|error| Failure::permanent(Reason::TransformFailed, format!("the SQL cannot be read: {error}")))?;
        Ok(pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) | Piece::Parameter(text) => text,
            })
            .collect())
    }

    /// The values of the parameters, and the event times of the rows that are taken.
    fn window(&self, window: &Window) -> Value {
        let mut says = json!({
            "start": self.interval.start().timestamp_micros(),
            "stop": self.interval.stop().timestamp_micros(),
            "from": window.rows().0,
            "to": window.rows().1,
        });
        if self.staging.order.definition.windows.is_some() {
            says["window_start"] = window.start().timestamp_micros().into();
            says["window_stop"] = window.stop().timestamp_micros().into();
        }
        says
    }

    fn asked(&self, matched: &Matched, found: &Schema, groups: &[Group<'_>], folder: &str) -> Result<Value> {
        let target = self.staging.target;
        let column = |(from, field): (&usize, &deltalake::arrow::datatypes::Field)| {
            let given = found.field(*from).data_type();
            let (name, kind) = match field.name().as_str() {
                KEEP_LAST => (ORDER_COLUMN, None),
                name if given == field.data_type() => (name, None),
                name => (name, Some(types::name(field.data_type()))),
            };
            json!({ "from": from, "name": name, "type": kind, "checked": types::narrows(given, field.data_type()) })
        };
        let columns: Vec<Value> = matched.columns.iter().zip(&matched.fields).map(column).collect();
        let date = match &target.shape.layout {
            Layout::Date { column, month } if !self.rewrites() => json!({ "column": column, "month": month }),
            Layout::Date { .. } | Layout::Flat | Layout::Values { .. } => Value::Null,
        };
        let group = |group: &Group<'_>| {
            let windows: Vec<Value> = group.windows.iter().map(|window| self.window(window)).collect();
            json!({
                "from": group.from, "step": group.step, "slices": group.slices, "buckets": group.buckets, "windows": windows
            })
        };
        Ok(json!({
            "columns": columns,
            "keys": target.shape.keys,
            "time": target.shape.time,
            "keepLast": self.staging.order.guards.keep_last_by.is_some(),
            "date": date,
            "table": settings::hadoop_uri(&target.location.join(folder))?,
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
        }))
    }

    /// Whether our own writer writes all files again: it alone knows how values become partitions, and leaves out what only
    /// ordered duplicates.
    fn rewrites(&self) -> bool {
        self.staging.order.guards.keep_last_by.is_some() || matches!(self.staging.target.shape.layout, Layout::Values { .. })
    }

    /// The files that the log of Spark's table names, looked at and made ours.
    async fn collect(&self, folder: &str, matched: Matched) -> Result<Staged> {
        let Staging { cx, order, target, .. } = self.staging;
        let table = delta::open(&target.location.join(folder)).await?;
        let files = table.as_ref().map(|table| delta::files(table, &target.shape.time)).unwrap_or_default();
        cx.stage("checking", files.len() as u64);
        let inspection = Inspection {
            store: Arc::clone(&target.store),
            shape: target.shape.clone(),
            counts_sizes: counts_sizes(&matched.fields),
            schema: Arc::new(Schema::new(matched.fields)),
            order_column: ORDER_COLUMN,
            bounds: self.interval.start().timestamp_micros()..self.interval.stop().timestamp_micros(),
            served: if order.stores.online() { order.definition.features.clone() } else { vec![] },
            rewrites: self.rewrites(),
            folder: folder.to_owned(),
            prefix: target.prefix.clone(),
        };
        let at_once = (order.size.memory_bytes / 2 / INSPECTION_BYTES).clamp(1, u64::from(order.size.cores));
        let inspected = inspect::all(inspection, files, usize::try_from(at_once).unwrap_or(1)).await?;
        let mut staged = Staged::default();
        staged.lay(inspected);
        self.remove_log(folder).await?;
        Ok(staged)
    }

    /// The log has said all. VACUUM would leave it for ever.
    async fn remove_log(&self, folder: &str) -> Result<()> {
        let store = &self.staging.target.store;
        let log = Path::from_iter([folder, "_delta_log"]);
        let files: Vec<_> = store.list(Some(&log)).try_collect().await.map_err(|error| unreachable_store(&error))?;
        for file in files {
            store.delete(&file.location).await.map_err(|error| unreachable_store(&error))?;
        }
        Ok(())
    }

    /// Takes over what Spark dropped, and holds its own count of what it kept against what was found.
    fn count(&self, staged: &mut Staged, windows: &[Window], told: &[Told]) -> Result<()> {
        let kept: u64 = told.iter().map(|told| told.kept).sum();
        let found = staged.rows + staged.duplicates.dropped + staged.duplicates.ambiguous;
        // A task that ran again after its executor was lost is counted twice, never less than once.
        if kept < found || told.len() != windows.len() {
            let message = format!(
                "Spark counted {kept} rows of {} windows and staged {found} of {}; nothing was changed; report this as a defect",
                told.len(),
                windows.len()
            );
            return Err(Failure::permanent(Reason::TableCorrupted, message));
        }
        for (window, told) in windows.iter().zip(told) {
            staged.null_key += told.null_key;
            staged.outside += told.outside;
            if self.staging.order.definition.windows.is_some() {
                let dropped = Dropped::default();
                dropped.outside.store(told.outside, std::sync::atomic::Ordering::Relaxed);
                dropped.at_stop.store(told.at_stop, std::sync::atomic::Ordering::Relaxed);
                dropped.refuse_stop_stamps(window, told.kept)?;
            }
        }
        Ok(())
    }
}

async fn bytes_of_table(location: &Location, version: u64) -> Result<u64> {
    let Some(newest) = delta::open(location).await? else { return Ok(0) };
    let table = delta::at(&newest, version).await?;
    Ok(delta::files(&table, "").iter().map(|file| file.add.size.unsigned_abs()).sum())
}
