//! Observe, plan, perform; and when to do it again.

use crate::caches::queue;
use crate::observe::Facts;
use crate::shell::{Error, Shell, lock, publish};
use backfill_core::api::{FeatureSetBackfill, FeatureStore};
use backfill_core::condition::{ConditionType, Reason};
use backfill_core::plan::run::Run;
use backfill_core::plan::{Announcement, Effect, Plan, Rival, created, plan};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first pause after a failure; it doubles with every further one.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// One backfill, once.
pub async fn reconcile(backfill: Arc<FeatureSetBackfill>, shell: Arc<Shell>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = once(&backfill, &shell).await;
    shell.metrics.reconciled(started.elapsed(), result.as_ref().err().map(Error::word));
    if result.is_ok() {
        lock(&shell.known.failures).remove(&ObjectRef::from_obj(backfill.as_ref()));
    }
    result
}

async fn once(backfill: &Arc<FeatureSetBackfill>, shell: &Shell) -> Result<Action, Error> {
    let facts = shell.observe(backfill).await?;
    let plan = plan(&facts.view(shell), shell.clock.now());
    shell.waits(&facts, &plan);
    let backfill = Arc::clone(&facts.backfill);
    shell.perform(&backfill, &plan).await?;
    // What was admitted is seen in what the writes returned: the run goes on at once.
    let admitted = plan.effects.iter().any(|effect| matches!(effect, Effect::Admit { .. }));
    Ok(match (admitted, plan.requeue) {
        (true, _) => Action::requeue(Duration::ZERO),
        (false, Some(after)) => Action::requeue(after),
        (false, None) => Action::await_change(),
    })
}

/// When a reconcile that failed is done again.
pub fn again(backfill: Arc<FeatureSetBackfill>, error: &Error, shell: Arc<Shell>) -> Action {
    let failures = {
        let mut failures = lock(&shell.known.failures);
        let count = failures.entry(ObjectRef::from_obj(backfill.as_ref())).or_default();
        *count += 1;
        *count
    };
    let pause = PAUSE_MIN.saturating_mul(1_u32 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let asked = match error {
        Error::Unavailable { retry_after, .. } => retry_after.unwrap_or_default(),
        Error::Conflict { .. } | Error::Busy { .. } | Error::Forbidden { .. } | Error::Refused { .. } => Duration::ZERO,
    };
    match error {
        Error::Conflict { .. } | Error::Busy { .. } => tracing::debug!(%error, failures, "observed again"),
        Error::Forbidden { .. } | Error::Refused { .. } | Error::Unavailable { .. } => {
            tracing::warn!(%error, failures, "reconcile failed")
        }
    }
    Action::requeue(pause.max(asked))
}

impl Shell {
    /// Keeps who waits for a slot, so that as many are woken as slots get free.
    fn waits(&self, facts: &Facts, plan: &Plan) {
        let run = Run::of(&facts.backfill);
        let reconciling = plan.status.conditions.iter().find(|condition| condition.kind == ConditionType::Reconciling);
        let queued = plan.effects.is_empty() && reconciling.is_some_and(|condition| condition.reason == Reason::Queued);
        let set = facts.feature_set(run.feature_set);
        let free = set.is_some_and(|set| set.status.as_ref().is_none_or(|status| status.active.is_none()));
        let store = set.map(|set| set.store()).unwrap_or_default();
        let place = (created(&facts.backfill), run.uid.to_owned());
        let mut waiters = lock(&self.known.waiters);
        let of_store = waiters.entry(format!("{}/{store}", run.namespace)).or_default();
        match queued && free {
            true => drop(of_store.insert(place, ObjectRef::from_obj(facts.backfill.as_ref()))),
            false => drop(of_store.remove(&place)),
        }
    }

    /// Wakes as many backfills as a store has free slots.
    pub fn wake_waiters(&self, store: Arc<FeatureStore>) {
        // What a watch tells may be older than slots that were taken since.
        let store = self.caches.written.stores.newest(store);
        let free = store.slots().saturating_sub(store.status.as_ref().map_or(0, |status| status.running.len()));
        let mut waiters = lock(&self.known.waiters);
        let key = format!("{}/{}", store.namespace().unwrap_or_default(), store.name_any());
        let Some(of_store) = waiters.get_mut(&key) else { return };
        for _ in 0..free {
            let Some((_, backfill)) = of_store.pop_first() else { return };
            self.look_at(backfill);
        }
    }

    /// Asks for a backfill to be looked at.
    pub fn look_at(&self, backfill: ObjectRef<FeatureSetBackfill>) {
        // Without a receiver the operator is shutting down.
        let _ = self.wake.unbounded_send(backfill);
    }

    /// Asks for every backfill to be looked at that has not ended.
    pub fn look_at_open(&self) {
        self.caches.open.all().iter().for_each(|open| self.look_at(open.backfill.clone()));
    }

    /// Wakes the first in the queue of a feature set.
    pub fn wake_head(&self, namespace: &str, feature_set: &str) {
        let open = self.caches.open.of(&queue(namespace, feature_set));
        let waiting = open.iter().filter(|open| open.rival.waits);
        let place = |rival: &Rival| (rival.created, rival.uid.clone());
        if let Some(head) = waiting.min_by_key(|open| place(&open.rival)) {
            self.look_at(head.backfill.clone());
        }
    }

    /// Wakes the first in the queue of a feature set that nobody holds. Who holds one wakes it when it lets go.
    pub fn wake_next(&self, namespace: &str, feature_set: &str) {
        let set = self.caches.feature_sets.get(&ObjectRef::new(feature_set).within(namespace));
        if set.is_some_and(|set| set.status.as_ref().is_none_or(|status| status.active.is_none())) {
            self.wake_head(namespace, feature_set);
        }
    }

    /// Wakes backfills that lack something: it may have appeared.
    pub fn wake_refused(&self, namespace: Option<&str>) {
        for open in self.caches.open.all() {
            let here = namespace.is_none_or(|namespace| open.backfill.namespace.as_deref() == Some(namespace));
            if here && open.unordered && !open.rival.waits {
                self.look_at(open.backfill.clone());
            }
        }
    }

    /// Tells an event, if the API server takes it. What is true is in the status.
    pub fn announce(&self, backfill: &FeatureSetBackfill, announcement: Announcement) {
        publish(&self.recorder, announcement, backfill.object_ref(&()));
    }
}
