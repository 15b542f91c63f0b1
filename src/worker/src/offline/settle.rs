//! The settle step: makes sure that a run that was broken off can write nothing more, finds out whether it had published, and
//! removes what it staged.

use crate::context::Context;
use crate::delta::{self, FENCE};
use crate::failure::Result;
use crate::offline::pin::{MANIFEST, PIN, Pin};
use crate::offline::publish;
use crate::offline::shape::Shape;
use crate::offline::{raise_fence, staged_prefix};
use crate::record::RunRecord;
use crate::report::report;
use crate::storage::{self, unreachable_store};
use backfill_core::contract::{Order, Outcome, Report};
use deltalake::DeltaTable;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::ObjectStore;
use std::collections::HashSet;
use std::sync::Arc;

/// Settles the run of an order. May be repeated.
pub async fn run(cx: &Context, order: &Order) -> Result<Report> {
    let location = storage::locate(cx, &order.table.uri, order.table.credentials_secret.as_deref())?;
    let store = delta::unloaded(&location)?.object_store();
    let record = RunRecord::new(store.clone(), &order.key);
    let mut table = delta::open(&location).await?;
    if table.is_none() && record.get::<Pin>(PIN).await?.is_some() {
        // An attempt of a first load that hangs could still create the table: an empty one with the fence keeps it out.
        table = Some(take_version_zero(order, &location).await?);
    }
    let published = match &mut table {
        Some(table) => {
            raise_fence(table, order).await?;
            delta::transaction(table, &delta::publish_app(&order.key)).await?.is_some()
        }
        None => false,
    };
    if let Some(table) = &table {
        remove_staged(order, table, &store).await?;
    }
    if !published {
        // The next run of the same request begins anew, at its own moment.
        record.remove(MANIFEST).await?;
        record.remove(PIN).await?;
    }
    Ok(report(order, Outcome::Settled { published }))
}

async fn take_version_zero(order: &Order, location: &storage::Location) -> Result<DeltaTable> {
    let mut actions = publish::creation(order, &Shape::of_new_table(order))?;
    actions.insert(0, delta::commit_info("BACKFILL SETTLED", None, serde_json::json!({ "key": order.key })));
    actions.push(delta::txn(FENCE, 1));
    // Whoever was first: what counts is the table that is there now.
    let tried = delta::commit(&delta::unloaded(location)?, 0, &actions).await;
    delta::open(location).await?.ok_or_else(|| {
        crate::failure::Failure::passing(
            backfill_core::condition::Reason::OfflineUnavailable,
            format!("cannot take version 0 of the table: {tried:?}"),
        )
    })
}

/// Deletes files that attempts of this run staged and that no version of the table names.
async fn remove_staged(order: &Order, table: &DeltaTable, store: &Arc<dyn ObjectStore>) -> Result<()> {
    let named: HashSet<String> =
        delta::files(table, &order.definition.timestamp_column).into_iter().map(|file| file.add.path).collect();
    let app = delta::publish_app(&order.key);
    if delta::transaction(table, &app).await?.is_some() {
        // Files of a published run may have been replaced since and still serve time travel and undo: VACUUM is theirs.
        return Ok(());
    }
    let prefix = staged_prefix(&order.key);
    let mut listed = store.list(None);
    while let Some(meta) = listed.try_next().await.map_err(|error| unreachable_store(&error))? {
        let staged = meta.location.filename().is_some_and(|name| name.starts_with(&prefix));
        if staged && !named.contains(meta.location.as_ref()) {
            store.delete(&meta.location).await.map_err(|error| unreachable_store(&error))?;
        }
    }
    Ok(())
}
