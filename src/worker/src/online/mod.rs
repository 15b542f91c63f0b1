//! The online step: brings the newest row of every affected entity in line with the committed offline table.
//!
//! Ask the store, decide in [`backfill_core::online`], perform under compare-and-set. The cost follows the interval: the table is
//! read for entities whose row the store's answer does not settle.

mod bucket;
mod catch_up;
mod keys;
mod lookup;
mod newest;
mod read;
pub mod redis;
mod rows;
mod scan;
pub mod sqlite;
mod step;
pub mod store;
mod values;
mod writer;

pub use lookup::look_up;
pub use values::refuse_nulls_in_lists;

use crate::context::Context;
use crate::delta;
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::record::RunRecord;
use backfill_core::api::EvictionPolicy;
use backfill_core::condition::Reason;
use backfill_core::contract::{Notice, Online, OnlineReport, OnlineTarget, Order, Scope, Stores};
use backfill_core::online::{Bounds, EventTime, Rules};
use backfill_core::time::show;
use chrono::{DateTime, TimeDelta, Utc};
use deltalake::DeltaTable;
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use store::{OnlineStore, View};

/// How often buckets are done again because the store's history changed under them.
const REDONE_MAX: usize = 5;

/// What the step starts from.
pub struct Input {
    /// The order's online store.
    pub store: Arc<dyn OnlineStore>,
    /// The table as pinned (V0); `None` on a first load.
    pub before: Option<DeltaTable>,
    /// The table as published (V1), or at its [`generation`] with `stores: [Online]`.
    pub published: DeltaTable,
    /// The first replaced event time; `None` is minus infinity.
    pub start: Option<DateTime<Utc>>,
    /// The first event time that is not replaced any more; `None` is plus infinity.
    pub stop: Option<DateTime<Utc>>,
    /// Whether an overlapping backfill has published without its online mark.
    pub overlaps_unmarked: bool,
    /// The run's record.
    pub record: RunRecord,
    /// Memory and spill space of queries.
    pub runtime: Arc<RuntimeEnv>,
}

/// How the step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The online store agrees with the table; the mark is in the table's log.
    All(OnlineReport),
    /// The mark was there already; the report is that of the attempt that set it, when it was kept.
    Before(Option<OnlineReport>),
    /// This pod's share is done; another pod does the rest and sets the mark.
    Share(OnlineReport),
}

/// Opens the order's online store. `before` is the table as pinned: features that it has and the feature set lacks leave the rows.
pub fn open(cx: &Context, order: &Order, before: Option<&DeltaTable>) -> Result<Arc<dyn OnlineStore>> {
    let view = view(order, before);
    match &online(order)?.store {
        OnlineTarget::Redis { secret, key, key_ttl_seconds } => {
            Ok(Arc::new(redis::RedisStore::new(&cx.secret(secret, key)?, &view, *key_ttl_seconds)?))
        }
        OnlineTarget::Sqlite { path } => Ok(Arc::new(sqlite::SqliteStore::new(path, &cx.on_volume(path)?, &view))),
    }
}

/// Checks the online store before anything is replaced: it answers, takes writes and has room for `entities` more rows.
///
/// With `guards.evictionPolicy: Fail` a store that may evict rows is refused.
pub async fn preflight(cx: &Context, order: &Order, entities: u64) -> Result<Vec<Notice>> {
    check(open(cx, order, None)?.as_ref(), order, entities).await
}

async fn check(store: &dyn OnlineStore, order: &Order, entities: u64) -> Result<Vec<Notice>> {
    let row_bytes = order.definition.features.iter().map(|feature| if feature.value_type.list { 128 } else { 16 }).sum::<u64>()
        + order.definition.entities.iter().map(|entity| 40 + entity.name.len() as u64).sum::<u64>();
    let notices = store.preflight(entities, row_bytes).await?;
    match notices.iter().find(|notice| notice.reason == Reason::EvictionPolicy) {
        Some(notice) if order.guards.eviction_policy == EvictionPolicy::Fail => {
            Err(Failure::permanent(Reason::EvictionPolicy, format!("{}, or guards.evictionPolicy to Warn", notice.message)))
        }
        _ => Ok(notices),
    }
}

/// Whether the table's log says that this run's online part is done.
pub async fn is_marked(store: &dyn OnlineStore, order: &Order, table: &DeltaTable) -> Result<bool> {
    Ok(delta::transaction(table, &delta::online_app(&order.key, store.id())).await?.is_some())
}

/// The table at a version of its own for a run that publishes nothing offline: a commit of only a transaction, once per run.
pub async fn generation(order: &Order, table: &mut DeltaTable, record: &RunRecord) -> Result<()> {
    own_version(order, table, record, "online/generation.json").await
}

async fn own_version(order: &Order, table: &mut DeltaTable, record: &RunRecord, document: &str) -> Result<()> {
    let version = match record.get::<u64>(document).await? {
        Some(version) => version,
        None => {
            let details = serde_json::json!({ "key": order.key });
            delta::commit_transaction(table, &format!("fsb-generation/{}", order.key), details, |found| {
                Some(found.map_or(1, |found| found + 1))
            })
            .await?;
            failpoint::reach("online-generation");
            record.put_if_absent(document, &delta::version(table)).await?
        }
    };
    *table = delta::at(table, version).await?;
    Ok(())
}

/// The table at a version of its own for an attempt that begins when a later backfill has had the online store: it comes after that
/// one. `None` when none has. All pods and attempts that meet the same fence take the same version.
///
/// An attempt that is overtaken while it runs is not helped: it ends as superseded.
pub async fn after_others(
    store: &dyn OnlineStore,
    order: &Order,
    table: &DeltaTable,
    record: &RunRecord,
) -> Result<Option<DeltaTable>> {
    let (mut own, mut made) = (table.clone(), false);
    loop {
        let generation = delta::version(&own);
        let failure = match store.raise_fence(generation).await {
            Ok(()) => return Ok((generation > delta::version(table)).then_some(own)),
            Err(failure) => failure,
        };
        let document = format!("online/{}/after-{generation}.json", store.id());
        let known = record.get::<u64>(&document).await?.is_some();
        // A fence above a version that was just made is of another table in this place.
        if failure.reason != Reason::Superseded || (made && !known) {
            return Err(failure);
        }
        made |= !known;
        own_version(order, &mut own, record, &document).await?;
        if delta::version(&own) <= generation {
            return Err(failure);
        }
    }
}

/// Brings the online store in line.
///
/// Guarantees that a bucket which an earlier attempt finished is not done again unless the store may have lost it, that everything
/// may be done twice, and that the mark is set only when all buckets of all pods are done.
pub async fn run(cx: &Context, order: &Order, input: Input) -> Result<(Finished, Vec<Notice>)> {
    let Input { store, before, published, start, stop, overlaps_unmarked, record, runtime } = input;
    let started_at = show(Utc::now());
    let app = delta::online_app(&order.key, store.id());
    let mut newest = published.clone();
    delta::refresh(&mut newest).await?;
    let done = format!("online/{}/report.json", store.id());
    if delta::transaction(&newest, &app).await?.is_some() {
        return Ok((Finished::Before(record.get(&done).await?), Vec::new()));
    }
    let notices = check(store.as_ref(), order, 0).await?;
    let generation = delta::version(&published);
    let rules = rules(order, start, stop)?;
    let keys = keys::KeyReader::new(&order.definition);
    let step = step::Step { cx, order, runtime, store, rules, generation, record, keys, verified: AtomicU64::new(0) };
    step.store.raise_fence(generation).await?;
    failpoint::reach("online-fence-raised");
    let scans = overlaps_unmarked || order.stores == Stores::Online || matches!(order.scope, Scope::Reset { .. });
    // Nothing was published: what was before is what is.
    let before = if order.stores == Stores::Online { Some(published.clone()) } else { before };
    let affected = step::Affected::survey(&step, before.as_ref(), &published, scans).await?;
    failpoint::reach("online-surveyed");
    step.do_buckets(&affected).await?;
    let marks = step.marks(affected.buckets).await?;
    if marks.iter().any(Option::is_none) {
        return Ok((Finished::Share(step::sum(marks.iter().flatten().map(|mark| &mark.report))), notices));
    }
    let (mut report, mut table) = settle(&step, &affected).await?;
    report.version = Some(delta::version(&table));
    report.started_at = Some(started_at);
    failpoint::reach("online-before-mark");
    // Also an attempt that had nothing to write must not mark what another one is changing now.
    step.store.raise_fence(generation).await?;
    let details = serde_json::json!({ "key": order.key, "store": step.store.id(), "reconciledTo": report.version });
    delta::commit_transaction(&mut table, &app, details, |found| found.is_none().then_some(1)).await?;
    failpoint::reach("online-after-mark");
    report.finished_at = Some(show(Utc::now()));
    step.record.put(&done, &report).await?;
    Ok((Finished::All(report), notices))
}

/// Once every bucket is marked: reconciles what others committed meanwhile, and does everything again whose writes the store may
/// have lost. Returns what was done in all, and the table at the version that was reached.
async fn settle(step: &step::Step<'_>, affected: &step::Affected<'_>) -> Result<(OnlineReport, DeltaTable)> {
    for _ in 0..REDONE_MAX {
        let stale = step.stale(affected.buckets).await?;
        if !stale.is_empty() {
            tracing::warn!(buckets = stale.len(), "a primary of the online store changed; its buckets are done again");
        }
        for bucket in stale {
            step.do_bucket(affected, bucket).await?;
        }
        let mut table = affected.published.clone();
        let caught_up = catch_up::catch_up(step, &mut table).await?;
        failpoint::reach("online-caught-up");
        if step.stale(affected.buckets).await?.is_empty() {
            let marks = step.marks(affected.buckets).await?;
            return Ok((step::sum(marks.iter().flatten().map(|mark| &mark.report).chain([&caught_up])), table));
        }
    }
    Err(Failure::passing(Reason::OnlineUnavailable, "the primaries of the online store keep changing"))
}

fn online(order: &Order) -> Result<&Online> {
    order.online.as_ref().ok_or_else(|| {
        Failure::permanent(
            Reason::InvalidStore,
            "the feature set has no online store; give the FeatureStore one, or set stores: [Offline]",
        )
    })
}

fn rules(order: &Order, start: Option<DateTime<Utc>>, stop: Option<DateTime<Utc>>) -> Result<Rules> {
    let online = online(order)?;
    // A time to live that reaches back beyond the calendar expires nothing.
    let expired = online.ttl_seconds.and_then(|seconds| {
        let ttl = i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds)?;
        order.now.checked_sub_signed(ttl).map(EventTime::from)
    });
    let bounds = Bounds { start: start.map(EventTime::from), stop: stop.map(EventTime::from) };
    Ok(Rules { bounds, expired, unknown: online.unknown })
}

fn view(order: &Order, before: Option<&DeltaTable>) -> View {
    let definition = &order.definition;
    let features: Vec<String> = definition.features.iter().map(|feature| feature.name.clone()).collect();
    let retired = before.map(|table| {
        let schema = delta::snapshot(table).schema();
        let known = |name: &&String| {
            features.contains(name)
                || **name == definition.timestamp_column
                || **name == order.table.date_column
                || definition.entities.iter().any(|entity| entity.name == **name)
        };
        let names: Vec<String> = schema.fields().map(|field| field.name().clone()).collect();
        names.iter().filter(|name| !known(name)).cloned().collect()
    });
    View {
        project: definition.project.clone(),
        name: definition.view.clone(),
        keys: definition.entities.iter().map(|entity| (entity.name.clone(), entity.value_type)).collect(),
        features,
        retired: retired.unwrap_or_default(),
    }
}

fn vanished(entities: usize, table: &DeltaTable) -> Failure {
    Failure::permanent(
        Reason::TableCorrupted,
        format!(
            "rows of {entities} entities vanished from version {} of {} while it was read",
            delta::version(table),
            table.table_url()
        ),
    )
}
