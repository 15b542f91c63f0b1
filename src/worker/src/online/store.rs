//! What an online store can do for a backfill: answer what it holds, and change rows that are still as they were seen.
//!
//! A store takes no decision. It performs one only if the row that was decided on is still there, so that asking and performing
//! are one atomic step to everybody else, and refuses everything of a generation that has been superseded.

use crate::failure::{Failure, Result};
use async_trait::async_trait;
use backfill_core::condition::Reason;
use backfill_core::contract::Notice;
use backfill_core::online::{Bounds, Current, EventTime};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The bytes of an entity key in Feast's layout, without the project.
pub type EntityKey = Box<[u8]>;

/// The largest value that every store takes (Redis' limit for a string).
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// The view that a store is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The Feast project.
    pub project: String,
    /// The view's name.
    pub name: String,
    /// The join keys and their types, as declared.
    pub keys: Vec<(String, backfill_core::api::KeyType)>,
    /// The features, in the order of the values of a [`Row`].
    pub features: Vec<String>,
    /// Features that the table had before and the view has no more: they leave with the next write.
    pub retired: Vec<String>,
}

/// What a store holds of one entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The row, as far as the decision needs it.
    pub current: Option<Current>,
    /// What must still be there when the decision is performed. Opaque to all but the store.
    pub token: Box<[u8]>,
}

/// A row as it is to stand online: its event time and one encoded value per feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The event time.
    pub ts: EventTime,
    bytes: Box<[u8]>,
    ends: Box<[u32]>,
}

impl Row {
    /// A row of values that lie one behind the other in `bytes`, each up to its end.
    pub fn new(ts: EventTime, bytes: &[u8], ends: &[u32]) -> Self {
        Self { ts, bytes: bytes.into(), ends: ends.into() }
    }

    /// The values, in the order of the view's features.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            let value = &self.bytes[start..end];
            start = end;
            value
        })
    }

    /// Tells rows apart: event time and every value.
    pub fn digest(&self) -> u64 {
        let ends: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        xxh3_64_with_seed(&self.bytes, xxh3_64_with_seed(&ends, self.ts.0.cast_unsigned()))
    }

    /// How many bytes the values have.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// Everything that a store holds of one entity, for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The event time; `None` when somebody has removed it.
    pub ts: Option<EventTime>,
    /// When the row was computed, when its writer has said so.
    pub created: Option<EventTime>,
    /// The generation that wrote the row; `None` when ingestion did.
    pub generation: Option<u64>,
    /// For how long the store keeps the entity's key; `None` for ever.
    pub key_ttl_seconds: Option<u64>,
    /// What there is of the view's features, in their order.
    pub values: Vec<Option<HeldValue>>,
}

/// The value of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldValue {
    /// As it is stored.
    pub bytes: Vec<u8>,
    /// The event time of the row that the value belongs to, when that is not the row that is looked at.
    pub stale: Option<EventTime>,
}

/// A change of one entity, on condition that it still is as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entity.
    pub key: EntityKey,
    /// As seen.
    pub token: Box<[u8]>,
    /// The row to write; `None` removes the entity's row of this view.
    pub row: Option<Row>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The row was written.
    Written,
    /// The row was there already, byte for byte; nothing was written.
    Unchanged,
    /// The row was removed.
    Removed,
    /// The entity is not as it was seen: ask and decide again. Nothing was written.
    Moved,
}

/// Takes the entity keys that a scan finds.
pub type Found<'a> = dyn FnMut(&[u8]) -> Result<()> + Send + 'a;

/// An online store, opened for one view.
#[async_trait]
pub trait OnlineStore: Send + Sync {
    /// A stable name of the store without secrets, fit for an application id in the table's log.
    fn id(&self) -> &str;

    /// Checks that the store answers, takes writes, and has room for `entities` more rows of about `row_bytes` each.
    async fn preflight(&self, entities: u64, row_bytes: u64) -> Result<Vec<Notice>>;

    /// Raises the fence to `generation`: from now on nothing of a lower generation is written. [`Reason::Superseded`] when it is
    /// higher already.
    async fn raise_fence(&self, generation: u64) -> Result<()>;

    /// What the store holds, in the order of the keys.
    async fn ask(&self, keys: &[EntityKey]) -> Result<Vec<Seen>>;

    /// Performs the changes and says what became of each, in order. Each is atomic; together they are not.
    async fn apply(&self, generation: u64, changes: &[Change]) -> Result<Vec<Applied>>;

    /// Reads whole rows back, in the order of the keys: the values of the features, and whether the row is one that
    /// `generation` wrote.
    async fn read_back(&self, generation: u64, keys: &[EntityKey]) -> Result<Vec<Option<Row>>>;

    /// Finds every entity whose row lies inside the bounds; it may find one twice.
    async fn scan(&self, bounds: Bounds, found: &mut Found<'_>) -> Result<()>;

    /// What identifies the history that acknowledged writes are part of. When it changes, writes may have been lost.
    async fn histories(&self) -> Result<BTreeSet<String>>;
}

/// The failure of a generation that somebody has overtaken. `fence` says where the fence is kept, for a person who must move it.
pub fn superseded(found: &str, fence: &str) -> Failure {
    Failure::permanent(
        Reason::Superseded,
        format!(
            "a newer backfill of this view (generation {found}) has taken the online store over; \
             if the table was deleted and made anew since, remove {fence}"
        ),
    )
}
