//! What surrounds a step: directories, progress, and which share of the work is ours.

use crate::failure::{Failure, Result};
use crate::offline::spark::Shelf;
use backfill_core::api::VOLUME;
use backfill_core::condition::Reason;
use backfill_core::contract::Progress;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The surroundings of a step.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the store's volume claim is mounted: `/store` in a pod, the state directory of `local`.
    pub volume: PathBuf,
    /// One folder per mounted Secret, one file per entry.
    pub secrets: PathBuf,
    /// Scratch space, empty at the start.
    pub scratch: PathBuf,
    /// Which of the Job's pods this is.
    pub index: u32,
    /// Where Spark is kept for the next order; none in a pod, which has one.
    pub spark: Option<Arc<Shelf>>,
    progress: watch::Sender<Progress>,
}

impl Context {
    /// Surroundings whose progress nobody watches yet.
    pub fn new(volume: PathBuf, secrets: PathBuf, scratch: PathBuf, index: u32) -> Self {
        Self { volume, secrets, scratch, index, spark: None, progress: watch::Sender::new(Progress::default()) }
    }

    /// Follows the progress.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Begins a stage of the work: `total` windows or buckets.
    pub fn stage(&self, stage: &str, total: u64) {
        self.progress.send_replace(Progress { stage: stage.to_owned(), done: 0, total, rows: 0 });
    }

    /// Adds what was done to the running stage.
    pub fn advance(&self, done: u64, rows: u64) {
        self.progress.send_modify(|progress| {
            progress.done += done;
            progress.rows += rows;
        });
    }

    /// Says how far the running stage is when others count: `windows` of `total`, and of a single one its tasks.
    pub fn tell(&self, total: u64, windows: u64, (ended, tasks): (u64, u64), rows: u64) {
        self.progress.send_modify(|progress| {
            (progress.done, progress.total) = if total == 1 && tasks > 0 { (ended, tasks) } else { (windows, total) };
            progress.rows += rows;
        });
    }

    /// The file behind a path on the volume claim, `/store/…`.
    pub fn on_volume(&self, path: &str) -> Result<PathBuf> {
        let relative = Path::new(path)
            .strip_prefix(VOLUME)
            .ok()
            .filter(|relative| relative.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        let Some(relative) = relative else {
            return Err(Failure::permanent(
                Reason::InvalidStore,
                format!("\"{path}\" does not lie on the volume claim; write {VOLUME}/…"),
            ));
        };
        Ok(self.volume.join(relative))
    }

    /// The content of one entry of a mounted Secret.
    pub fn secret(&self, name: &str, key: &str) -> Result<String> {
        let path = self.secrets.join(name).join(key);
        std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|error| {
            Failure::permanent(Reason::SecretNotFound, format!("cannot read entry \"{key}\" of secret \"{name}\": {error}"))
        })
    }
}
