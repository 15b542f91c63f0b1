//! The settle step: makes sure that a run that was broken off can write nothing more, finds out whether it had published, and
//! removes what it staged.

use crate::context::Context;
use crate::delta::{self, FENCE};
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::pin::{MANIFEST, Manifest, PIN, PUBLISHED, Pin, Published};
use crate::offline::publish;
use crate::offline::shape::{Shape, UNUSED};
use crate::offline::{raise_fence, staged_prefix};
use crate::record::RunRecord;
use crate::report::report;
use crate::storage::{self, unreachable_store};
use backfill_core::condition::Reason;
use backfill_core::contract::{OfflineReport, Order, Outcome, Report};
use deltalake::kernel::{Action, MetadataExt};
use deltalake::{DeltaTable, ObjectStoreError};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
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
    failpoint::reach("settle-fence-raised");
    let settled = report(order, Outcome::Settled { published });
    if let Some(table) = table.filter(|_| published) {
        return tell(settled, order, &record, &table).await;
    }
    remove_staged(order, &store).await?;
    failpoint::reach("settle-files-removed");
    // The next run of the same request begins anew, at its own moment and with a generation of its own.
    record.remove_all("online").await?;
    record.remove(MANIFEST).await?;
    record.remove(PIN).await?;
    Ok(settled)
}

/// Says what the run published, as far as its attempts have recorded it.
async fn tell(settled: Report, order: &Order, record: &RunRecord, table: &DeltaTable) -> Result<Report> {
    let pin = record.get::<Pin>(PIN).await?;
    let offline = match record.get::<Published>(PUBLISHED).await? {
        Some(published) => published.report,
        // The attempt that committed died before it could tell.
        None => {
            let from = pin.as_ref().and_then(|pin| pin.version).unwrap_or(0);
            let version = publish::find(table, &delta::publish_app(&order.key), from).await?;
            let staged = record.get::<Manifest>(MANIFEST).await?.map(|manifest| manifest.report).unwrap_or_default();
            OfflineReport { version_before: version.checked_sub(1), version_after: Some(version), ..staged }
        }
    };
    Ok(Report { scope: pin.map(|pin| pin.scope()), offline: Some(offline), ..settled })
}

async fn take_version_zero(order: &Order, location: &storage::Location) -> Result<DeltaTable> {
    let mut actions = publish::creation(order, &Shape::of_new_table(order))?;
    for action in &mut actions {
        if let Action::Metadata(metadata) = action {
            let unused = metadata.clone().add_config_key(UNUSED.to_owned(), "true".to_owned());
            *metadata = unused.expect("only a property is added");
        }
    }
    actions.insert(0, delta::commit_info("BACKFILL SETTLED", None, serde_json::json!({ "key": order.key })));
    actions.push(delta::txn(FENCE, 1));
    // Whoever was first: what counts is the table that is there now.
    let tried = delta::commit(&delta::unloaded(location)?, 0, &actions).await;
    delta::open(location)
        .await?
        .ok_or_else(|| Failure::passing(Reason::OfflineUnavailable, format!("cannot take version 0 of the table: {tried:?}")))
}

/// Deletes files that attempts of a run staged that has published nothing: no version of the table names them.
///
/// Files of a published run stay, also those that were replaced since: they serve time travel and undo, and VACUUM is theirs.
async fn remove_staged(order: &Order, store: &Arc<dyn ObjectStore>) -> Result<()> {
    let prefix = staged_prefix(&order.key);
    let mut listed = store.list(None);
    while let Some(meta) = listed.try_next().await.map_err(|error| unreachable_store(&error))? {
        // Files of ours, and all in folders of ours.
        if meta.location.parts().any(|part| part.as_ref().starts_with(&prefix)) {
            match store.delete(&meta.location).await {
                Ok(()) | Err(ObjectStoreError::NotFound { .. }) => {}
                Err(error) => return Err(unreachable_store(&error)),
            }
        }
    }
    Ok(())
}
