//! One step's work on the online store: bucket by bucket, then what others committed meanwhile.

use crate::context::Context;
use crate::delta;
use crate::failpoint;
use crate::failure::Result;
use crate::online::bucket::{Bucket, Collector, Distinct, ENTITIES_PER_BUCKET, belongs};
use crate::online::keys::{KeyReader, entity_hash};
use crate::online::newest::{Known, decision, find};
use crate::online::read::{Reader, Times};
use crate::online::rows::Rows;
use crate::online::scan::{self, Scanned};
use crate::online::store::{Change, EntityKey, OnlineStore};
use crate::online::writer::{BATCH, Intent, Tally, Writer, verify};
use crate::record::RunRecord;
use backfill_core::contract::{OnlineReport, Order};
use backfill_core::online::{Decision, Rules};
use deltalake::DeltaTable;
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many written entities a pod reads back.
const VERIFIED_MAX: u64 = 1_000_000;

/// What all parts of the step share.
pub struct Step<'a> {
    /// The surroundings.
    pub cx: &'a Context,
    /// What to do.
    pub order: &'a Order,
    /// Memory and spill space of queries.
    pub runtime: Arc<RuntimeEnv>,
    /// The store.
    pub store: Arc<dyn OnlineStore>,
    /// The decision's constants.
    pub rules: Rules,
    /// The version of our commit.
    pub generation: u64,
    /// Where finished buckets are recorded.
    pub record: RunRecord,
    /// The key columns.
    pub keys: KeyReader,
    /// How many written entities have been read back.
    pub verified: AtomicU64,
}

/// The record of how the entities are cut into buckets.
#[derive(Debug, Serialize, Deserialize)]
struct Cut {
    buckets: u32,
}

/// The record of a finished bucket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketMark {
    /// What was done.
    pub report: OnlineReport,
    /// The histories of the store's primaries; when one has changed, the bucket is done again.
    pub histories: BTreeSet<String>,
}

/// What the buckets are filled from.
pub struct Affected<'a> {
    /// The table as pinned; `None` when there was none.
    pub before: Option<&'a DeltaTable>,
    /// The table as published.
    pub published: &'a DeltaTable,
    /// What the store itself holds inside the bounds, when that matters.
    pub scanned: Option<Scanned>,
    /// How many buckets there are.
    pub buckets: u32,
}

impl<'a> Affected<'a> {
    /// Scans the store when `scans`, and settles once for all attempts how many buckets there are.
    pub async fn survey(step: &Step<'_>, before: Option<&'a DeltaTable>, published: &'a DeltaTable, scans: bool) -> Result<Self> {
        let mut distinct = Distinct::default();
        let scanned = match scans {
            true => Some(scan::scan(step.cx, &*step.store, step.rules.bounds, &mut distinct).await?),
            false => None,
        };
        let document = format!("online/{}/cut.json", step.store.id());
        let cut = match step.record.get::<Cut>(&document).await? {
            Some(cut) => cut,
            None => {
                estimate(step, before, published, &mut distinct).await?;
                step.record.put_if_absent(&document, &Cut { buckets: distinct.buckets() }).await?
            }
        };
        Ok(Self { before, published, scanned, buckets: cut.buckets.max(1) })
    }

    /// The entities of one bucket, with their newest rows inside the bounds.
    async fn bucket(&self, step: &Step<'_>, bucket: u32) -> Result<Bucket> {
        let mut collector = Collector::default();
        let times = step.inside();
        let same = self.before.is_some_and(|before| delta::version(before) == delta::version(self.published));
        if let Some(before) = self.before.filter(|_| !same) {
            let reader = step.reader(before);
            let (files, _) = reader.files(times);
            let mut note = |key: &[u8], ts| {
                if belongs(key, bucket, self.buckets) {
                    let entity = collector.entity(key);
                    entity.before = entity.before.max(Some(ts));
                }
                Ok(())
            };
            reader.each(times, Some(files), &mut note).await?;
        }
        let reader = step.reader(self.published);
        let (files, _) = reader.files(times);
        let mut note = |key: &[u8], ts| {
            if belongs(key, bucket, self.buckets) {
                let entity = collector.entity(key);
                entity.newest.add(ts);
                if same {
                    entity.before = entity.newest.ts;
                }
            }
            Ok(())
        };
        reader.each(times, Some(files), &mut note).await?;
        if let Some(scanned) = &self.scanned {
            scanned.each(bucket, self.buckets, &mut |key| _ = collector.entity(key))?;
        }
        Ok(collector.take())
    }
}

/// Estimates how many entities are affected; when the log's row counts show that they are few, without reading.
async fn estimate(step: &Step<'_>, before: Option<&DeltaTable>, published: &DeltaTable, distinct: &mut Distinct) -> Result<()> {
    let times = step.inside();
    let tables: Vec<&DeltaTable> = before.into_iter().chain([published]).collect();
    let rows: Option<u64> = tables.iter().map(|table| step.reader(table).files(times).1).sum();
    if rows.is_some_and(|rows| rows + distinct.count() <= ENTITIES_PER_BUCKET) {
        return Ok(());
    }
    for table in tables {
        let reader = step.reader(table);
        let (files, _) = reader.files(times);
        let mut note = |key: &[u8], _| {
            distinct.add(entity_hash(key));
            Ok(())
        };
        reader.each(times, Some(files), &mut note).await?;
    }
    Ok(())
}

impl Step<'_> {
    /// Rows of a version of the table.
    pub fn reader<'b>(&'b self, table: &'b DeltaTable) -> Reader<'b> {
        Reader { runtime: &self.runtime, partitions: self.order.size.cores as usize, table, keys: &self.keys }
    }

    /// The event times that are replaced.
    fn inside(&self) -> Times {
        Times { from: self.rules.bounds.start, to: self.rules.bounds.stop }
    }

    fn mark_name(&self, bucket: u32, buckets: u32) -> String {
        format!("online/{}/{}/bucket-{bucket}-of-{buckets}.json", self.store.id(), self.generation)
    }

    /// The marks of all buckets that are done.
    pub async fn marks(&self, buckets: u32) -> Result<Vec<Option<BucketMark>>> {
        let mut marks = Vec::new();
        for bucket in 0..buckets {
            marks.push(self.record.get(&self.mark_name(bucket, buckets)).await?);
        }
        Ok(marks)
    }

    /// The buckets that were marked before the store's history changed: what they wrote may be lost.
    pub async fn stale(&self, buckets: u32) -> Result<Vec<u32>> {
        let histories = self.store.histories().await?;
        let marks = self.marks(buckets).await?;
        let stale = |mark: &Option<BucketMark>| mark.as_ref().is_some_and(|mark| !histories.is_subset(&mark.histories));
        Ok((0..).zip(&marks).filter(|(_, mark)| stale(mark)).map(|(bucket, _)| bucket).collect())
    }

    /// Does the buckets of our share that are not marked yet.
    pub async fn do_buckets(&self, affected: &Affected<'_>) -> Result<()> {
        let parallelism = self.order.online.as_ref().map_or(1, |online| online.parallelism.max(1));
        let share = (0..affected.buckets).filter(|bucket| bucket % parallelism == self.cx.index % parallelism);
        let share: Vec<u32> = share.collect();
        self.cx.stage("online", share.len() as u64);
        for bucket in share {
            let name = self.mark_name(bucket, affected.buckets);
            if self.record.get::<BucketMark>(&name).await?.is_some() {
                self.cx.advance(1, 0);
                continue;
            }
            self.do_bucket(affected, bucket).await?;
        }
        Ok(())
    }

    /// Does one bucket and marks it.
    pub async fn do_bucket(&self, affected: &Affected<'_>, bucket: u32) -> Result<()> {
        // Read first: writes that are lost with a history that ends now are then done again.
        let histories = self.store.histories().await?;
        let entities = affected.bucket(self, bucket).await?;
        let report = self.reconcile(affected.published, entities, Known::Inside).await?;
        failpoint::reach("online-bucket-written");
        let written = report.entities_updated + report.entities_removed;
        self.record.put(&self.mark_name(bucket, affected.buckets), &BucketMark { report, histories }).await?;
        failpoint::reach("online-bucket-done");
        self.cx.advance(1, written);
        Ok(())
    }

    /// Brings the entities in line with a version of the table, and reads what was written back.
    pub async fn reconcile(&self, table: &DeltaTable, mut bucket: Bucket, known: Known) -> Result<OnlineReport> {
        let keys = bucket.keys();
        self.ask(&keys, &mut bucket).await?;
        failpoint::reach("online-bucket-asked");
        let looked_up = find(&self.reader(table), &self.rules, &mut bucket, known).await?;
        let mut tally = self.perform(table, &keys, bucket).await?;
        tally.report.rows_looked_up += looked_up;
        let limit = VERIFIED_MAX.saturating_sub(self.verified.load(Ordering::Relaxed));
        let verified = verify(&*self.store, self.generation, &tally.written, limit).await?;
        self.verified.fetch_add(verified, Ordering::Relaxed);
        tally.report.entities_verified = verified;
        Ok(tally.report)
    }

    async fn ask(&self, keys: &[EntityKey], bucket: &mut Bucket) -> Result<()> {
        for (keys, entities) in keys.chunks(BATCH).zip(bucket.entities.chunks_mut(BATCH)) {
            for (entity, seen) in entities.iter_mut().zip(self.store.ask(keys).await?) {
                entity.seen = Some(seen);
            }
        }
        Ok(())
    }

    /// Decides about every entity and performs it.
    async fn perform(&self, table: &DeltaTable, keys: &[EntityKey], mut bucket: Bucket) -> Result<Tally> {
        let mut kept = Tally::default();
        let mut wanted = vec![None; bucket.entities.len()];
        let mut writer = Writer::start(Arc::clone(&self.store), self.rules, self.generation);
        for (place, key) in keys.iter().enumerate() {
            let entity = &mut bucket.entities[place];
            match decision(&self.rules, entity) {
                Decision::Write => {
                    wanted[place] = entity.newest.ts;
                    kept.report.duplicates_at_rest += u64::from(entity.newest.rows > 1);
                }
                Decision::Remove => {
                    let token = entity.seen.take().map(|seen| seen.token).unwrap_or_default();
                    let change = Change { key: key.clone(), token, row: None };
                    writer.put(Intent { change, before: entity.before, newest: entity.newest.ts }).await?;
                }
                keeps @ (Decision::Nothing | Decision::KeepNewer | Decision::KeepLive | Decision::KeepOutside) => {
                    kept.keep(keeps)
                }
            }
        }
        let wanting = wanted.iter().flatten().count();
        let mut found = 0;
        let mut rows = Rows::open(self.reader(table), &self.order.definition.features, &bucket, wanted).await?;
        while let Some(batch) = rows.next().await? {
            for (place, row) in batch {
                let entity = &mut bucket.entities[place as usize];
                let Some(seen) = entity.seen.take() else { continue };
                let change = Change { key: keys[place as usize].clone(), token: seen.token, row: Some(row) };
                writer.put(Intent { change, before: entity.before, newest: entity.newest.ts }).await?;
                found += 1;
            }
        }
        let mut tally = writer.finish().await?;
        if found < wanting {
            return Err(crate::online::vanished(wanting - found, table));
        }
        tally.report = sum([&tally.report, &kept.report]);
        Ok(tally)
    }
}

/// Adds reports up.
pub fn sum<'a>(reports: impl IntoIterator<Item = &'a OnlineReport>) -> OnlineReport {
    let mut sum = OnlineReport::default();
    for report in reports {
        sum.entities_updated += report.entities_updated;
        sum.entities_removed += report.entities_removed;
        sum.entities_kept_newer += report.entities_kept_newer;
        sum.entities_kept_live += report.entities_kept_live;
        sum.entities_unchanged += report.entities_unchanged;
        sum.duplicates_at_rest += report.duplicates_at_rest;
        sum.rows_looked_up += report.rows_looked_up;
        sum.entities_verified += report.entities_verified;
    }
    sum
}
