//! The run record: what a run has pinned and what its attempts have finished, beside the table in `_fsb/<key>/`.
//!
//! Every attempt, also of a backfill that was deleted and created again, takes the pin from here. VACUUM leaves folders alone
//! that begin with an underscore.

use crate::failure::{Failure, Result};
use crate::storage::unreachable_store;
use backfill_core::condition::Reason;
use deltalake::ObjectStoreError;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The folder of all run records of a table, relative to the table.
pub const FOLDER: &str = "_fsb";

/// The record of one run: JSON documents by name.
#[derive(Clone, Debug)]
pub struct RunRecord {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl RunRecord {
    /// The record of the run `key` in a table's own object store (whose root is the table).
    pub fn new(table: Arc<dyn ObjectStore>, key: &str) -> Self {
        Self { store: table, folder: Path::from_iter([FOLDER, key]) }
    }

    /// The folder of the record, relative to the table.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.folder.clone(), |path, part| path.join(part))
    }

    /// Reads a document; `None` when there is none.
    pub async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let bytes = match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await.map_err(|error| unreachable_store(&error))?,
            Err(ObjectStoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unreachable_store(&error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::permanent(Reason::TableCorrupted, format!("cannot read the run record {}: {error}", self.path(name)))
        })
    }

    /// Writes a document unless there is one, and returns the one that is there: of several writers one wins for all.
    pub async fn put_if_absent<T: Serialize + DeserializeOwned>(&self, name: &str, value: &T) -> Result<T> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name), payload(value), create).await {
            // Also our own write is read back: its acknowledgement may have been lost on an earlier try.
            Ok(_) | Err(ObjectStoreError::AlreadyExists { .. } | ObjectStoreError::Precondition { .. }) => {}
            Err(error) => return Err(unreachable_store(&error)),
        }
        self.get(name)
            .await?
            .ok_or_else(|| Failure::passing(Reason::OfflineUnavailable, format!("the run record {} vanished", self.path(name))))
    }

    /// Writes a document, replacing an earlier one.
    pub async fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        self.store.put(&self.path(name), payload(value)).await.map(|_| ()).map_err(|error| unreachable_store(&error))
    }

    /// Removes all documents of a folder of the record.
    pub async fn remove_all(&self, folder: &str) -> Result<()> {
        let mut listed = self.store.list(Some(&self.path(folder)));
        while let Some(document) = listed.try_next().await.map_err(|error| unreachable_store(&error))? {
            match self.store.delete(&document.location).await {
                Ok(()) | Err(ObjectStoreError::NotFound { .. }) => {}
                Err(error) => return Err(unreachable_store(&error)),
            }
        }
        Ok(())
    }

    /// Removes a document; it is no error when there is none.
    pub async fn remove(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(ObjectStoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(unreachable_store(&error)),
        }
    }
}

fn payload<T: Serialize>(value: &T) -> PutPayload {
    serde_json::to_vec(value).expect("documents of the record have string keys").into()
}
