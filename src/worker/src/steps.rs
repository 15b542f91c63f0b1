//! From an order to a report: the steps as Jobs and `local` run them.

use crate::context::Context;
use crate::delta;
use crate::failure::{Failure, Result};
use crate::offline::pin::{self, PIN, PUBLISHED, Pin, Published};
use crate::offline::publish;
use crate::offline::scope::Deletes;
use crate::online::{Finished, Input};
use crate::record::RunRecord;
use crate::report::{failed, report};
use crate::{offline, online, session, storage};
use backfill_core::api::Mode;
use backfill_core::condition::Reason;
use backfill_core::contract::{Order, Outcome, Report, Stores};
use deltalake::DeltaTable;

/// Runs the offline step.
pub async fn offline(cx: &Context, order: &Order) -> Report {
    offline::run(cx, order).await.unwrap_or_else(|failure| failed(order, &failure))
}

/// Runs the settle step.
pub async fn settle(cx: &Context, order: &Order) -> Report {
    offline::settle::run(cx, order).await.unwrap_or_else(|failure| failed(order, &failure))
}

/// Runs the online step: of what the offline step has published, or of the table as it is with `stores: [Online]`.
pub async fn online(cx: &Context, order: &Order) -> Report {
    try_online(cx, order).await.unwrap_or_else(|failure| failed(order, &failure))
}

async fn try_online(cx: &Context, attempt: &Order) -> Result<Report> {
    let location = storage::locate(cx, &attempt.table.uri, attempt.table.credentials_secret.as_deref())?;
    let no_table = || {
        let message = format!("there is no table at {}; run a backfill of the offline store first", attempt.table.uri);
        Failure::permanent(Reason::SourceNotFound, message)
    };
    let mut table = delta::open(&location).await?.ok_or_else(no_table)?;
    let record = RunRecord::new(table.object_store(), &attempt.key);
    if attempt.mode == Mode::Plan {
        return Ok(report(attempt, Outcome::Planned));
    }
    let pin = match attempt.stores {
        Stores::Online => Pin::of_table_alone(attempt, &record, &table).await?,
        Stores::Both | Stores::Offline => published_pin(attempt, &record).await?,
    };
    let order = pin.order(attempt);
    let before = match pin.version {
        Some(version) if attempt.stores != Stores::Online => Some(delta::at(&table, version).await?),
        _ => None,
    };
    let newest = table.clone();
    if attempt.stores == Stores::Online {
        online::generation(&order, &mut table, &record).await?;
    } else {
        table = delta::at(&table, published_version(&order, &pin, &record, &newest).await?).await?;
    }
    let (start, stop) = pin.deletes.bounds();
    // Rows that an unfinished backfill, or what an undone reset filled, left online are found in the store alone.
    let resets = !matches!(pin.deletes, Deletes::Within(_));
    let mut overlaps_unmarked = resets || unmarked_overlap(cx, &order, &pin, &newest).await?;
    let store = online::open(cx, &order, before.as_ref())?;
    if !online::is_marked(store.as_ref(), &order, &newest).await?
        && let Some(own) = online::after_others(store.as_ref(), &order, &table, &record).await?
    {
        // What an earlier attempt has written since may be gone from the table; it is found in the store alone.
        (table, overlaps_unmarked) = (own, true);
    }
    let runtime = session::runtime(cx, &order.size)?;
    let input = Input { store, before, published: table, start, stop, overlaps_unmarked, record, runtime };
    let (finished, notices) = online::run(cx, &order, input).await?;
    let (outcome, online) = match finished {
        Finished::All(online) | Finished::Share(online) => (Outcome::Done, Some(online)),
        Finished::Before(online) if pin.is_of(attempt) => (Outcome::Done, online),
        Finished::Before(online) => (Outcome::AlreadyApplied { definition_changed: false }, online),
    };
    Ok(Report { scope: Some(pin.scope()), online, warnings: notices, ..report(attempt, outcome) })
}

async fn published_pin(order: &Order, record: &RunRecord) -> Result<Pin> {
    record.get::<Pin>(PIN).await?.ok_or_else(|| {
        let message = format!("the run record {} has no pin; the offline step comes first", record.folder());
        Failure::permanent(Reason::TableCorrupted, format!("backfill \"{}\": {message}", order.backfill.name))
    })
}

async fn published_version(order: &Order, pin: &Pin, record: &RunRecord, table: &DeltaTable) -> Result<u64> {
    if let Some(published) = record.get::<Published>(PUBLISHED).await? {
        return Ok(published.version);
    }
    publish::find(table, &delta::publish_app(&order.key), pin.version.unwrap_or(0)).await
}

/// Whether another run has replaced rows of this span offline and not yet brought the online store in line.
async fn unmarked_overlap(cx: &Context, order: &Order, pin: &Pin, table: &DeltaTable) -> Result<bool> {
    for other in pin::all(table).await? {
        let theirs = &other.order;
        if theirs.key == order.key || !theirs.stores.online() || !other.deletes.overlaps(pin.deletes) {
            continue;
        }
        let published = delta::transaction(table, &delta::publish_app(&theirs.key)).await?.is_some();
        if published && !online::is_marked(online::open(cx, theirs, None)?.as_ref(), theirs, table).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
