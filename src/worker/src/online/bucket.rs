//! A share of the affected entities that fits into memory, and what is known of each.

use crate::failure::Result;
use crate::online::keys::entity_hash;
use crate::online::store::{EntityKey, Seen};
use backfill_core::online::EventTime;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many entities a bucket is to hold.
pub const ENTITIES_PER_BUCKET: u64 = 250_000;

/// The bucket of an entity among `count`: neighbouring hashes share one.
pub fn bucket_of(hash: u64, count: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation)]
    let bucket = ((u128::from(hash) * u128::from(count)) >> 64) as u32;
    bucket
}

/// Entity keys and their places in a bucket.
pub type Index = HashMap<EntityKey, u32, BuildHasherDefault<KeyHasher>>;

/// Hashes entity keys fast; an attacker who can choose entity keys can at worst slow down his own backfill.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }
}

/// The newest of an entity's rows that have been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Its event time.
    pub ts: Option<EventTime>,
    /// How many rows have that time.
    pub rows: u32,
}

impl Newest {
    /// Takes another row into account.
    pub fn add(&mut self, ts: EventTime) {
        match self.ts {
            Some(newest) if ts < newest => {}
            Some(newest) if ts == newest => self.rows += 1,
            _ => *self = Self { ts: Some(ts), rows: 1 },
        }
    }
}

/// What is known of an entity.
#[derive(Clone, Debug, Default)]
pub struct Entity {
    /// The newest event time inside the bounds in the table as pinned.
    pub before: Option<EventTime>,
    /// The newest row in the table as published, as far as it has been read.
    pub newest: Newest,
    /// What the store holds, once asked.
    pub seen: Option<Seen>,
}

/// Some of the affected entities.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    /// Where an entity is. Shared with the queries that look for its rows.
    pub index: Arc<Index>,
    /// What is known, by place.
    pub entities: Vec<Entity>,
}

/// Collects the entities of a bucket.
#[derive(Debug, Default)]
pub struct Collector {
    index: Index,
    entities: Vec<Entity>,
}

impl Collector {
    /// The entity, new or known.
    pub fn entity(&mut self, key: &[u8]) -> &mut Entity {
        let place = match self.index.get(key) {
            Some(place) => *place,
            None => {
                let place = u32::try_from(self.entities.len()).expect("a bucket holds far fewer than 2^32 entities");
                self.index.insert(key.into(), place);
                self.entities.push(Entity::default());
                place
            }
        };
        &mut self.entities[place as usize]
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// The bucket, and an empty collector in its stead.
    pub fn take(&mut self) -> Bucket {
        let Self { index, entities } = std::mem::take(self);
        Bucket { index: Arc::new(index), entities }
    }
}

impl Bucket {
    /// The keys by place.
    pub fn keys(&self) -> Vec<EntityKey> {
        let mut keys = vec![EntityKey::default(); self.entities.len()];
        for (key, place) in self.index.iter() {
            keys[*place as usize].clone_from(key);
        }
        keys
    }
}

/// Estimates how many different entities there are, by the smallest of their hashes.
#[derive(Debug, Default)]
pub struct Distinct {
    smallest: BTreeSet<u64>,
}

impl Distinct {
    /// So many hashes are kept: the error is about 3 %.
    const KEPT: usize = 1024;

    /// Takes an entity into account.
    pub fn add(&mut self, hash: u64) {
        if self.smallest.len() < Self::KEPT {
            self.smallest.insert(hash);
        } else if self.smallest.last().is_some_and(|largest| hash < *largest) && self.smallest.insert(hash) {
            self.smallest.pop_last();
        }
    }

    /// The estimate; exact below 1024.
    pub fn count(&self) -> u64 {
        match self.smallest.last() {
            Some(largest) if self.smallest.len() == Self::KEPT => {
                let share = u128::from(*largest).max(1);
                u64::try_from(((Self::KEPT as u128 - 1) << 64) / share).unwrap_or(u64::MAX)
            }
            _ => self.smallest.len() as u64,
        }
    }

    /// How many buckets the entities fill.
    pub fn buckets(&self) -> u32 {
        u32::try_from(self.count().div_ceil(ENTITIES_PER_BUCKET).max(1)).unwrap_or(u32::MAX)
    }
}

/// Takes the entity of a row when it belongs to bucket `bucket` of `count`.
pub fn belongs(key: &[u8], bucket: u32, count: u32) -> bool {
    count == 1 || bucket_of(entity_hash(key), count) == bucket
}

/// A step over entities that stops at the first failure.
pub type Each<'a> = dyn FnMut(&[u8], EventTime) -> Result<()> + Send + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entity_has_one_bucket_and_buckets_are_even() {
        let mut sizes = [0_u32; 7];
        for number in 0_u32..70_000 {
            sizes[bucket_of(entity_hash(&number.to_le_bytes()), 7) as usize] += 1;
        }
        assert!(sizes.iter().all(|size| (9_500..10_500).contains(size)), "{sizes:?}");
        assert_eq!(bucket_of(u64::MAX, 7), 6);
        assert_eq!(bucket_of(0, 1), 0);
    }

    #[test]
    fn the_estimate_is_exact_when_small_and_close_when_large() {
        let mut distinct = Distinct::default();
        for number in (0_u32..1000).chain(0..1000) {
            distinct.add(entity_hash(&number.to_le_bytes()));
        }
        assert_eq!(distinct.count(), 1000);
        for number in 0_u32..1_000_000 {
            distinct.add(entity_hash(&number.to_le_bytes()));
        }
        assert!((900_000..1_100_000).contains(&distinct.count()), "{}", distinct.count());
        assert_eq!(distinct.buckets(), distinct.count().div_ceil(ENTITIES_PER_BUCKET) as u32);
    }

    #[test]
    fn the_newest_row_counts_its_twins() {
        let mut newest = Newest::default();
        for ts in [3, 5, 5, 4] {
            newest.add(EventTime(ts));
        }
        assert_eq!(newest, Newest { ts: Some(EventTime(5)), rows: 2 });
    }
}
