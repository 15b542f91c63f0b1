//! Performs decisions on the store while rows are still being read, and decides again where an entity has moved meanwhile.

use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::online::store::{Applied, Change, EntityKey, OnlineStore, Seen};
use backfill_core::condition::Reason;
use backfill_core::contract::OnlineReport;
use backfill_core::online::{Decision, EventTime, Rules, decide};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many changes the store is given at once.
pub const BATCH: usize = 4096;

/// How often an entity may move between asking and writing: each time ingestion was faster.
const MOVES_MAX: usize = 20;

/// A change and what led to it.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The change.
    pub change: Change,
    /// The entity's newest event time at the pin.
    pub before: Option<EventTime>,
    /// The one at the published version.
    pub newest: Option<EventTime>,
}

/// What a writer did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Entities by what happened to them.
    pub report: OnlineReport,
    /// What was written, as key and digest of the row.
    pub written: Vec<(EntityKey, u64)>,
}

impl Tally {
    /// Counts an entity that is left alone.
    pub fn keep(&mut self, decision: Decision) {
        match decision {
            Decision::KeepNewer => self.report.entities_kept_newer += 1,
            Decision::KeepLive => self.report.entities_kept_live += 1,
            Decision::KeepOutside => self.report.entities_unchanged += 1,
            Decision::Nothing | Decision::Write | Decision::Remove => {}
        }
    }
}

/// A task that performs intents.
pub struct Writer {
    sender: mpsc::Sender<Vec<Intent>>,
    task: JoinHandle<Result<Tally>>,
    open: Vec<Intent>,
}

impl Writer {
    /// Starts the task.
    pub fn start(store: Arc<dyn OnlineStore>, rules: Rules, generation: u64) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Vec<Intent>>(2);
        let task = tokio::spawn(async move {
            let mut tally = Tally::default();
            while let Some(intents) = receiver.recv().await {
                perform(&*store, &rules, generation, intents, &mut tally).await?;
                failpoint::reach("online-batch-written");
            }
            Ok(tally)
        });
        Self { sender, task, open: Vec::with_capacity(BATCH) }
    }

    /// Hands an intent over.
    pub async fn put(&mut self, intent: Intent) -> Result<()> {
        self.open.push(intent);
        if self.open.len() < BATCH { Ok(()) } else { self.flush().await }
    }

    /// Waits until everything is performed.
    pub async fn finish(mut self) -> Result<Tally> {
        self.flush().await.ok();
        drop(self.sender);
        self.task.await.map_err(|error| Failure::passing(Reason::OnlineUnavailable, format!("the online writer died: {error}")))?
    }

    async fn flush(&mut self) -> Result<()> {
        let intents = std::mem::replace(&mut self.open, Vec::with_capacity(BATCH));
        // When the task has ended it has failed, and `finish` says why.
        self.sender
            .send(intents)
            .await
            .map_err(|_| Failure::passing(Reason::OnlineUnavailable, "the online writer ended before the rows did"))
    }
}

/// Performs intents, and decides again about those whose entity has moved.
async fn perform(
    store: &dyn OnlineStore,
    rules: &Rules,
    generation: u64,
    mut intents: Vec<Intent>,
    tally: &mut Tally,
) -> Result<()> {
    for _ in 0..MOVES_MAX {
        if intents.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = intents.iter_mut().map(|intent| take(&mut intent.change)).collect();
        let applied = store.apply(generation, &changes).await?;
        let mut moved = Vec::new();
        for ((mut intent, change), applied) in intents.into_iter().zip(changes).zip(applied) {
            match applied {
                Applied::Written => {
                    tally.report.entities_updated += 1;
                    let digest = change.row.as_ref().map(|row| row.digest());
                    tally.written.extend(digest.map(|digest| (change.key, digest)));
                }
                Applied::Unchanged => tally.report.entities_unchanged += 1,
                Applied::Removed => tally.report.entities_removed += 1,
                Applied::Moved => {
                    intent.change = change;
                    moved.push(intent);
                }
            }
        }
        intents = decide_again(store, rules, moved, tally).await?;
    }
    Err(Failure::passing(
        Reason::OnlineUnavailable,
        format!("{} entities of the online store change faster than they can be written", intents.len()),
    ))
}

fn take(change: &mut Change) -> Change {
    std::mem::replace(change, Change { key: Box::default(), token: Box::default(), row: None })
}

/// The intents that still stand, with what the store holds now.
async fn decide_again(
    store: &dyn OnlineStore,
    rules: &Rules,
    mut moved: Vec<Intent>,
    tally: &mut Tally,
) -> Result<Vec<Intent>> {
    if moved.is_empty() {
        return Ok(moved);
    }
    let keys: Vec<EntityKey> = moved.iter().map(|intent| intent.change.key.clone()).collect();
    let seen = store.ask(&keys).await?;
    let mut stands = Vec::with_capacity(moved.len());
    for (mut intent, Seen { current, token }) in moved.drain(..).zip(seen) {
        let decision = decide(rules, current, intent.before, intent.newest);
        if decision.keeps() {
            tally.keep(decision);
        } else {
            // What is written does not depend on what the store holds, so the intent's row is still the right one.
            intent.change.token = token;
            stands.push(intent);
        }
    }
    Ok(stands)
}

/// Reads up to `limit` of the written rows back and compares them; returns how many that were.
///
/// A row that a live writer has replaced since is not ours to judge.
pub async fn verify(store: &dyn OnlineStore, generation: u64, written: &[(EntityKey, u64)], limit: u64) -> Result<u64> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(written.len());
    for part in written[..limit].chunks(BATCH) {
        let keys: Vec<EntityKey> = part.iter().map(|(key, _)| key.clone()).collect();
        let rows = store.read_back(generation, &keys).await?;
        let differs = part.iter().zip(rows).filter(|((_, digest), row)| row.as_ref().is_some_and(|row| row.digest() != *digest));
        let count = differs.count();
        if count > 0 {
            return Err(Failure::passing(
                Reason::ProofFailed,
                format!("{count} entities hold other bytes than were just written, though nobody wrote since; they are written again"),
            ));
        }
    }
    Ok(limit as u64)
}
