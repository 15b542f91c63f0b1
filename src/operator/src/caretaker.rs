//! Feature sets and stores: their own status, and locks whose holders are gone.
//!
//! A lock outlives its backfill only when somebody has removed the backfill's finalizer by force.

use crate::perform::{Change, Part};
use crate::shell::{Error, Shell};
use backfill_core::api::{FeatureSet, FeatureStore};
use backfill_core::plan::{alive, finished, judge};
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

/// How often locks are looked at.
const SWEEP: Duration = Duration::from_secs(20);

/// Judges feature sets as they change, and frees what nobody holds, for ever.
pub async fn run(shell: Arc<Shell>, mut changed: tokio::sync::mpsc::UnboundedReceiver<(String, String)>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            one = changed.recv() => match one {
                Some((namespace, name)) => log(shell.judge(&namespace, &name).await),
                None => return,
            },
            _ = sweep.tick() => log(shell.sweep().await),
        }
    }
}

/// What failed is looked at again at the next sweep.
fn log(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a feature set or store could not be looked after");
    }
}

impl Shell {
    async fn judge(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let desk = self.desks.of(&format!("set {namespace}/{name}"));
        let _desk = desk.lock().await;
        let stores = self.caches.stores.state_filter(|store| store.metadata.namespace.as_deref() == Some(namespace));
        let stores: Vec<&FeatureStore> = stores.iter().map(Arc::as_ref).collect();
        let (sets, written) = (&self.caches.feature_sets, &self.caches.written.feature_sets);
        let judged = self.change(namespace, name, sets, written, Part::Status, |set: &FeatureSet| {
            let status = judge(set, &stores, self.clock.now());
            match set.status.as_ref() == Some(&status) || set.metadata.deletion_timestamp.is_some() {
                true => Change::Nothing,
                false => Change::To(Box::new(FeatureSet { status: Some(status), ..set.clone() })),
            }
        });
        judged.await.map(drop)
    }

    async fn sweep(&self) -> Result<(), Error> {
        self.count();
        for set in self.caches.feature_sets.state() {
            let namespace = set.namespace().unwrap_or_default();
            if set.status.as_ref().and_then(|status| status.observed_generation) != set.metadata.generation {
                self.judge(&namespace, &set.name_any()).await?;
            }
            let Some(active) = set.status.as_ref().and_then(|status| status.active.as_ref()) else { continue };
            if !self.still_writes(&active.uid) && !self.exists(&namespace, &active.name, &active.uid).await? {
                tracing::warn!(feature_set = %set.name_any(), holder = %active.name, "the holder is gone; its lock is released");
                self.release_feature_set(&namespace, &set.name_any(), &active.uid, None).await?;
            }
        }
        for store in self.caches.stores.state() {
            let namespace = store.namespace().unwrap_or_default();
            for running in store.status.iter().flat_map(|status| &status.running) {
                if !self.still_writes(&running.uid) && !self.exists(&namespace, &running.name, &running.uid).await? {
                    self.release_slot(&namespace, &store.name_any(), &running.uid).await?;
                }
            }
        }
        Ok(())
    }

    /// How many backfills are at work and how many wait.
    fn count(&self) {
        let held = |set: &Arc<FeatureSet>| set.status.as_ref().is_some_and(|status| status.active.is_some());
        let active = self.caches.feature_sets.state().iter().filter(|set| held(set)).count();
        let queued = self.caches.open.all().iter().filter(|open| open.queued).count();
        self.metrics.active.set(i64::try_from(active).unwrap_or(i64::MAX));
        self.metrics.queued.set(i64::try_from(queued).unwrap_or(i64::MAX));
    }

    /// Whether a Job or pod of a backfill may still write.
    fn still_writes(&self, uid: &str) -> bool {
        let now = self.clock.now();
        self.caches.jobs.of(uid).iter().any(|job| !finished(&job.read()))
            || self.caches.pods.of(uid).iter().any(|pod| alive(&pod.read(), now))
    }
}
