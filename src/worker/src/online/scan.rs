//! The entities that the online store itself holds inside the bounds, kept on scratch space until their bucket comes.

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::online::bucket::{Distinct, bucket_of};
use crate::online::keys::entity_hash;
use crate::online::store::OnlineStore;
use backfill_core::condition::Reason;
use backfill_core::online::Bounds;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

/// How many files the keys are spread over, by the first bits of their hash.
const SLICES: u32 = 64;

/// Keys found in the store.
pub struct Scanned {
    folder: PathBuf,
}

/// Scans the store once; entities are added to `distinct`.
pub async fn scan(cx: &Context, store: &dyn OnlineStore, bounds: Bounds, distinct: &mut Distinct) -> Result<Scanned> {
    let folder = cx.scratch.join(format!("online-{}", store.id()));
    std::fs::create_dir_all(&folder).map_err(|error| full(&error))?;
    let create = |slice: u32| File::create(folder.join(slice.to_string())).map(BufWriter::new);
    let mut slices = (0..SLICES).map(create).collect::<std::io::Result<Vec<_>>>().map_err(|error| full(&error))?;
    store
        .scan(bounds, &mut |key| {
            let hash = entity_hash(key);
            distinct.add(hash);
            let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes();
            let slice = &mut slices[bucket_of(hash, SLICES) as usize];
            slice.write_all(&length).and_then(|()| slice.write_all(key)).map_err(|error| full(&error))
        })
        .await?;
    slices.iter_mut().try_for_each(Write::flush).map_err(|error| full(&error))?;
    Ok(Scanned { folder })
}

impl Scanned {
    /// Visits the keys of one bucket; a key may come twice.
    pub fn each(&self, bucket: u32, count: u32, found: &mut dyn FnMut(&[u8])) -> Result<()> {
        // Buckets and slices both cut the hashes into spans: a bucket touches few slices.
        let slice_of = |position: u64| u32::try_from(position * u64::from(SLICES) / u64::from(count)).unwrap_or(SLICES);
        let (first, last) = (slice_of(u64::from(bucket)), slice_of(u64::from(bucket) + 1).min(SLICES - 1));
        for slice in first..=last {
            let file = File::open(self.folder.join(slice.to_string())).map_err(|error| full(&error))?;
            let mut keys = BufReader::new(file);
            let mut key = Vec::new();
            while let Some(length) = next_length(&mut keys)? {
                key.resize(length, 0);
                keys.read_exact(&mut key).map_err(|error| full(&error))?;
                if bucket_of(entity_hash(&key), count) == bucket {
                    found(&key);
                }
            }
        }
        Ok(())
    }
}

fn next_length(keys: &mut impl Read) -> Result<Option<usize>> {
    let mut length = [0; 4];
    match keys.read_exact(&mut length) {
        Ok(()) => Ok(Some(u32::from_le_bytes(length) as usize)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(full(&error)),
    }
}

fn full(error: &std::io::Error) -> Failure {
    Failure::permanent(
        Reason::DiskFull,
        format!("cannot use the scratch space: {error}; choose a cluster template with more scratch"),
    )
}
