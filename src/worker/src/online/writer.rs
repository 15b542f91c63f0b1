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
        self.task
            .await
            .map_err(|error| Failure::passing(Reason::OnlineUnavailable, format!("the online writer died: {error}")))?
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
async fn decide_again(store: &dyn OnlineStore, rules: &Rules, mut moved: Vec<Intent>, tally: &mut Tally) -> Result<Vec<Intent>> {
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
                format!(
                    "{count} entities hold other bytes than were just written, though nobody wrote since; they are written again"
                ),
            ));
        }
    }
    Ok(limit as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::online::store::{Found, Row};
    use async_trait::async_trait;
    use backfill_core::contract::Notice;
    use backfill_core::online::{Bounds, Current};
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    /// One entity that ingestion changes whenever it is about to be written, so many times.
    struct Restless {
        changes: Mutex<usize>,
        live: EventTime,
    }

    #[async_trait]
    impl OnlineStore for Restless {
        fn id(&self) -> &str {
            "restless"
        }

        async fn preflight(&self, _: u64, _: u64) -> Result<Vec<Notice>> {
            Ok(Vec::new())
        }

        async fn raise_fence(&self, _: u64) -> Result<()> {
            Ok(())
        }

        async fn ask(&self, keys: &[EntityKey]) -> Result<Vec<Seen>> {
            let current = Some(Current { ts: self.live, ours: false, whole_seconds: false });
            Ok(keys.iter().map(|_| Seen { current, token: Box::default() }).collect())
        }

        async fn apply(&self, _: u64, changes: &[Change]) -> Result<Vec<Applied>> {
            let mut left = self.changes.lock().expect("one user");
            let moves = *left > 0;
            *left = left.saturating_sub(1);
            Ok(changes.iter().map(|_| if moves { Applied::Moved } else { Applied::Written }).collect())
        }

        async fn read_back(&self, _: u64, keys: &[EntityKey]) -> Result<Vec<Option<Row>>> {
            Ok(keys.iter().map(|_| Some(Row::new(self.live, b"x", &[1]))).collect())
        }

        async fn scan(&self, _: Bounds, _: &mut Found<'_>) -> Result<()> {
            Ok(())
        }

        async fn histories(&self) -> Result<BTreeSet<String>> {
            Ok(BTreeSet::new())
        }
    }

    async fn write_over(changes: usize, live: i64) -> Result<Tally> {
        let bounds = Bounds { start: Some(EventTime(0)), stop: Some(EventTime(100)) };
        let rules = Rules { bounds, expired: None, unknown: Default::default() };
        let store = Arc::new(Restless { changes: Mutex::new(changes), live: EventTime(live) });
        let mut writer = Writer::start(store, rules, 1);
        let newest = Some(EventTime(10));
        let change = Change { key: Box::default(), token: Box::default(), row: Some(Row::new(EventTime(10), b"new", &[3])) };
        writer.put(Intent { change, before: newest, newest }).await?;
        writer.finish().await
    }

    #[tokio::test]
    async fn an_entity_that_moves_is_decided_again() {
        let tally = write_over(3, 10).await.expect("written in the end");
        assert_eq!((tally.report.entities_updated, tally.written.len()), (1, 1));
        let tally = write_over(1, 50).await.expect("kept");
        assert_eq!((tally.report.entities_updated, tally.report.entities_kept_live), (0, 1), "a live row came in between");
        let tally = write_over(1, 100).await.expect("kept");
        assert_eq!((tally.report.entities_updated, tally.report.entities_kept_newer), (0, 1));
    }

    #[tokio::test]
    async fn an_entity_that_never_rests_fails_in_passing() {
        let failure = write_over(usize::MAX, 10).await.expect_err("it never rests");
        assert_eq!((failure.reason, failure.retry), (Reason::OnlineUnavailable, true));
    }

    #[tokio::test]
    async fn other_bytes_than_were_written_are_a_failure() {
        let store = Restless { changes: Mutex::new(0), live: EventTime(10) };
        let row = |bytes: &[u8]| Row::new(EventTime(10), bytes, &[1]).digest();
        assert_eq!(verify(&store, 1, &[(Box::default(), row(b"x"))], 10).await.expect("equal"), 1);
        let failure = verify(&store, 1, &[(Box::default(), row(b"y"))], 10).await.expect_err("differs");
        assert_eq!(failure.reason, Reason::ProofFailed);
        assert_eq!(verify(&store, 1, &[(Box::default(), row(b"y"))], 0).await.expect("not looked at"), 0);
    }
}
