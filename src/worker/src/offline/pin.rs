//! What a run pins once, and what its attempts leave for each other: the documents of the run record.

use crate::context::Context;
use crate::delta;
use crate::failpoint;
use crate::failure::Result;
use crate::offline::rescue::Rescued;
use crate::offline::scope::Deletes;
use crate::offline::sources::{self, SourcePin};
use crate::offline::undo::{self, Undone};
use crate::record::{FOLDER, RunRecord};
use crate::storage::unreachable_store;
use backfill_core::contract::{Notice, OfflineReport, Order, Scope};
use deltalake::DeltaTable;
use deltalake::kernel::Add;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// The document that pins a run.
pub const PIN: &str = "pin.json";

/// The document that names the staged files.
pub const MANIFEST: &str = "manifest.json";

/// The document that tells what was published. A hint: the table's transaction decides.
pub const PUBLISHED: &str = "published.json";

/// What is decided once for a run: every attempt takes it from here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// Tells pins of one run apart: a run pins anew when others replaced rows of its interval meanwhile.
    pub id: String,
    /// The order of the attempt that pinned.
    pub order: Order,
    /// The rows that are replaced.
    pub deletes: Deletes,
    /// The table's version when the run took it; `None` when there was no table.
    pub version: Option<u64>,
    /// What the sources held.
    pub sources: Vec<SourcePin>,
    /// For an undo: what is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Undone>,
}

/// The staged files of a run and what was found while staging them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The pin for which the files were staged.
    pub pin: String,
    /// Whether a plan staged them: then they are published only when nothing has moved since.
    pub planned: bool,
    /// When staging ended, in milliseconds since 1970.
    pub at: i64,
    /// The new rows.
    pub adds: Vec<Add>,
    /// The rows that stay of files that go.
    pub rescued: Vec<Rescued>,
    /// What the report says of staging.
    pub report: OfflineReport,
    /// Warnings.
    pub notices: Vec<Notice>,
}

/// What was published.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The version that the commit made.
    pub version: u64,
    /// What the report says of it.
    pub report: OfflineReport,
    /// Warnings.
    pub notices: Vec<Notice>,
}

impl Pin {
    /// The pin of this run: the one that an earlier attempt left, or a new one at the table's version.
    pub async fn take(cx: &Context, order: &Order, record: &RunRecord, table: Option<&DeltaTable>) -> Result<Self> {
        if let Some(pin) = record.get::<Self>(PIN).await? {
            return Ok(pin);
        }
        let pin = Self::look(cx, order, table).await?;
        record.put_if_absent(PIN, &pin).await
    }

    /// Pins anew, after others replaced rows of the interval. `order` is one of [`Self::order`] or [`Self::order_anew`]: the
    /// boundaries stay.
    pub async fn renew(cx: &Context, order: &Order, record: &RunRecord, table: Option<&DeltaTable>) -> Result<Self> {
        let pin = Self::look(cx, order, table).await?;
        failpoint::reach("pin-renewing");
        record.put(PIN, &pin).await?;
        Ok(pin)
    }

    /// The pin of a run that replaces nothing offline: its boundaries, and the table's version when it began.
    pub async fn of_table_alone(order: &Order, record: &RunRecord, table: &DeltaTable) -> Result<Self> {
        if let Some(pin) = record.get::<Self>(PIN).await? {
            return Ok(pin);
        }
        let pin = Self {
            id: uuid::Uuid::new_v4().to_string(),
            order: order.clone(),
            deletes: Deletes::of(&order.scope),
            version: Some(delta::version(table)),
            sources: vec![],
            undone: None,
        };
        record.put_if_absent(PIN, &pin).await
    }

    /// Whether the run was pinned for the very resource that gives this order, and not only for an equal one.
    pub fn is_of(&self, order: &Order) -> bool {
        self.order.backfill.uid.is_some() && self.order.backfill.uid == order.backfill.uid
    }

    async fn look(cx: &Context, order: &Order, table: Option<&DeltaTable>) -> Result<Self> {
        let (deletes, undone, sources) = match &order.scope {
            Scope::Undo { backfill, key } => {
                let undone = undo::find(order, backfill, key.as_deref(), table).await?;
                (undone.deletes, Some(undone), vec![])
            }
            Scope::Interval { .. } | Scope::Reset { .. } => {
                let secret = order.table.credentials_secret.as_deref();
                (Deletes::of(&order.scope), None, sources::pin(cx, &order.definition.sources, secret).await?)
            }
        };
        Ok(Self {
            id: uuid::Uuid::new_v4().to_string(),
            order: order.clone(),
            deletes,
            version: table.map(delta::version),
            sources,
            undone,
        })
    }

    /// What is replaced, for reports: of an undo, what the undone backfill replaced.
    pub fn scope(&self) -> Scope {
        self.undone.as_ref().map_or(&self.order.scope, |undone| &undone.scope).clone()
    }

    /// The order of this attempt with what the run has pinned.
    pub fn order(&self, attempt: &Order) -> Order {
        Order {
            mode: attempt.mode,
            attempt: attempt.attempt,
            size: attempt.size,
            engine: attempt.engine.clone(),
            online: attempt.online.clone(),
            ..self.order.clone()
        }
    }

    /// The order of this attempt with the boundaries that the run has pinned, and everything else as it is now.
    pub fn order_anew(&self, attempt: &Order) -> Order {
        Order { scope: self.order.scope.clone(), now: self.order.now, ..attempt.clone() }
    }
}

/// The pins of all run records of a table.
pub async fn all(table: &DeltaTable) -> Result<Vec<Pin>> {
    let store = table.object_store();
    let listed = store.list_with_delimiter(Some(&Path::from(FOLDER))).await;
    let folders = listed.map_err(|error| unreachable_store(&error))?.common_prefixes;
    let mut pins = Vec::new();
    for key in folders.iter().filter_map(Path::filename) {
        pins.extend(RunRecord::new(store.clone(), key).get::<Pin>(PIN).await?);
    }
    Ok(pins)
}
