//! What others committed to the table while the buckets were done.

use crate::delta::{self, DataFile};
use crate::failure::{Failure, Result};
use crate::online::bucket::{Bucket, Collector, ENTITIES_PER_BUCKET};
use crate::online::newest::Known;
use crate::online::read::{Selection, Times};
use crate::online::step::{Step, sum};
use crate::session;
use backfill_core::condition::Reason;
use backfill_core::contract::OnlineReport;
use deltalake::DeltaTable;
use deltalake::kernel::{Action, Version};
use futures::StreamExt;
use std::collections::BTreeSet;

/// How often is looked whether more was committed. What lands later still is for the writer who landed it.
const ROUNDS: usize = 2;

/// Reconciles the entities in commits of others after the version of `table`, and leaves `table` at the version that was reached.
pub async fn catch_up(step: &Step<'_>, table: &mut DeltaTable) -> Result<OnlineReport> {
    let mut report = OnlineReport::default();
    for _ in 0..ROUNDS {
        let from = delta::version(table);
        delta::refresh(table).await?;
        let to = delta::version(table);
        let changed = Changed::between(table, from, to).await?;
        if !changed.is_empty() {
            report = sum([&report, &changed.reconcile(step, table, from).await?]);
        }
    }
    Ok(report)
}

/// The files that others added and removed with new or deleted rows.
#[derive(Default)]
struct Changed {
    added: Vec<(Version, String)>,
    removed: Vec<(Version, String)>,
}

impl Changed {
    async fn between(table: &DeltaTable, from: Version, to: Version) -> Result<Self> {
        let mut changed = Self::default();
        for version in from + 1..=to {
            let actions = delta::commit_at(table, version).await?.ok_or_else(|| {
                Failure::passing(Reason::OfflineUnavailable, format!("the log entry of version {version} is gone already"))
            })?;
            if actions.iter().any(is_ours) {
                continue;
            }
            for action in actions {
                match action {
                    Action::Add(add) if add.data_change => changed.added.push((version, add.path)),
                    Action::Remove(remove) if remove.data_change => changed.removed.push((version, remove.path)),
                    _ => {}
                }
            }
        }
        Ok(changed)
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Reconciles the entities of all these files, some at a time.
    async fn reconcile(&self, step: &Step<'_>, table: &DeltaTable, from: Version) -> Result<OnlineReport> {
        let time = &step.order.definition.timestamp_column;
        let mut report = OnlineReport::default();
        let mut collector = Collector::default();
        let newest: Vec<DataFile> = delta::files(table, time);
        let is_live = |path: &String| newest.iter().any(|file| file.add.path == *path);
        let live: BTreeSet<&String> = self.added.iter().map(|(_, path)| path).filter(|path| is_live(path)).collect();
        let files = newest.iter().filter(|file| live.contains(&file.add.path)).cloned().collect();
        report = sum([&report, &self.read(step, table, table, files, &mut collector).await?]);
        // Removed rows are found in the version before; rows added and removed in between, in the version that added them.
        let removed = self.removed.iter().map(|(version, path)| (version - 1, path)).filter(|(version, _)| *version >= from);
        let gone = self.added.iter().filter(|(_, path)| !live.contains(path)).map(|(version, path)| (*version, path));
        let earlier: BTreeSet<(Version, &String)> = removed.chain(gone).collect();
        let versions: BTreeSet<Version> = earlier.iter().map(|(version, _)| *version).collect();
        for version in versions {
            let past = delta::at(table, version).await?;
            let files = delta::files(&past, time).into_iter().filter(|file| earlier.contains(&(version, &file.add.path)));
            report = sum([&report, &self.read(step, table, &past, files.collect(), &mut collector).await?]);
        }
        Ok(sum([&report, &reconcile(step, table, collector.take()).await?]))
    }

    /// Collects the entities of files of `past`, and reconciles them with `table` whenever there are many.
    async fn read(
        &self,
        step: &Step<'_>,
        table: &DeltaTable,
        past: &DeltaTable,
        files: Vec<DataFile>,
        collector: &mut Collector,
    ) -> Result<OnlineReport> {
        let mut report = OnlineReport::default();
        if files.is_empty() {
            return Ok(report);
        }
        let selection = Selection { times: Times::default(), files: Some(files), ..Selection::default() };
        let mut stream = step.reader(past).stream(selection).await?;
        let mut key = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| session::failure(&error, Reason::TableCorrupted))?;
            let rows = step.keys.rows(batch.columns())?;
            for row in 0..rows.len() {
                if rows.entity(row, &mut key).is_some() {
                    collector.entity(&key);
                }
            }
            if collector.len() as u64 >= ENTITIES_PER_BUCKET {
                report = sum([&report, &reconcile(step, table, collector.take()).await?]);
            }
        }
        Ok(report)
    }
}

/// Backfills of this feature set and their marks: a backfill brings its own entities in line.
fn is_ours(action: &Action) -> bool {
    matches!(action, Action::Txn(txn) if txn.app_id.starts_with("fsb"))
}

async fn reconcile(step: &Step<'_>, table: &DeltaTable, bucket: Bucket) -> Result<OnlineReport> {
    let report = step.reconcile(table, bucket, Known::Nothing).await?;
    // Most entities have been counted with their bucket already; only what changed again is added.
    let (entities_kept_newer, entities_kept_live, entities_unchanged) = (0, 0, 0);
    Ok(OnlineReport { entities_kept_newer, entities_kept_live, entities_unchanged, ..report })
}
