//! What is left to do when a run has ended: let go of everything, keep the children for a while.

use super::seen::Children;
use super::{Effect, LOOK_SOON, Plan, Situation};
use crate::api::{FeatureSetBackfill, LedgerEntry};
use crate::condition::{ConditionType, is_true};
use crate::plan::run::BACKFILL_FINALIZER;
use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use std::time::Duration;

/// How long Jobs and pods are kept when the backfill does not say.
const TTL_SECONDS: u32 = 86_400;

/// Whether the run that the spec asks for has ended, or its plan rests until it is to be published.
pub fn rests(backfill: &FeatureSetBackfill) -> bool {
    let Some(status) = &backfill.status else { return false };
    let ended = is_true(&status.conditions, ConditionType::Complete) || is_true(&status.conditions, ConditionType::Failed);
    let planned = is_true(&status.conditions, ConditionType::Ready) && backfill.spec.cancel != Some(true);
    let mode = status.resolved.as_ref().map(|resolved| resolved.mode);
    let same_mode = mode == Some(backfill.spec.mode.unwrap_or_default());
    status.run_id == backfill.spec.run_id && (ended || (planned && same_mode))
}

impl Situation<'_> {
    /// The plan of a run that has ended, also one that another has followed.
    pub(super) fn at_rest(mut self) -> Plan {
        // What is still held belongs to the run that the stored status tells of; that of an ended run stays as it is.
        let over = rests(self.observed.backfill) || self.finishes_another_run();
        let stored = self.observed.backfill.status.clone().filter(|_| over);
        self.status = stored.unwrap_or(self.status);
        self.children = self.children.of_all_runs();
        if self.children.may_write() {
            let effects = stop(&self.children);
            return Plan { status: self.status, effects, requeue: Some(LOOK_SOON) };
        }
        let entry = super::record::entry(self.observed.backfill, &self.status, self.now);
        let mut effects = self.lets_go(entry);
        let mut requeue = None;
        if let (Some(ended), false, false) = (self.ended_at(), self.observed.jobs.is_empty(), self.deleted()) {
            let ttl = self.observed.backfill.spec.ttl_seconds_after_finished.unwrap_or(TTL_SECONDS);
            let left = ended + TimeDelta::seconds(i64::from(ttl)) - self.now;
            match left.to_std() {
                Ok(left) if !left.is_zero() => requeue = Some(left + Duration::from_secs(1)),
                _ => effects.push(Effect::CleanUp),
            }
        }
        Plan { status: self.status, effects, requeue }
    }

    /// Lets go of an object that has begun nothing.
    pub(super) fn let_go(self) -> Plan {
        let effects = self.lets_go(None);
        let status = self.observed.backfill.status.clone().unwrap_or_default();
        Plan { status, effects, requeue: None }
    }

    /// Gives everything back. While the finalizer is there something may be held that caches do not show yet.
    fn lets_go(&self, entry: Option<LedgerEntry>) -> Vec<Effect> {
        match self.has_finalizer() {
            true => vec![Effect::Release { entry: entry.map(Box::new) }, Effect::LetGo],
            false => self.releases(entry),
        }
    }

    /// Gives back what this backfill holds, if it holds anything.
    pub(super) fn releases(&self, entry: Option<LedgerEntry>) -> Vec<Effect> {
        let held = self.holds() || self.finishes_another_run() || self.slot().is_some();
        if held { vec![Effect::Release { entry: entry.map(Box::new) }] } else { vec![] }
    }

    fn has_finalizer(&self) -> bool {
        self.observed.backfill.finalizers().iter().any(|finalizer| finalizer == BACKFILL_FINALIZER)
    }

    fn ended_at(&self) -> Option<DateTime<Utc>> {
        let of = |kind| self.status.conditions.iter().find(|condition| condition.kind == kind);
        let ends = [ConditionType::Complete, ConditionType::Failed, ConditionType::Ready];
        let ended = ends.into_iter().filter(|kind| is_true(&self.status.conditions, *kind)).find_map(of)?;
        DateTime::parse_from_rfc3339(&ended.last_transition_time).ok().map(|t| t.to_utc())
    }
}

/// Deletes what still makes pods.
pub fn stop(children: &Children<'_>) -> Vec<Effect> {
    let jobs: Vec<_> = children.live_jobs().map(|job| (job.name_any(), job.uid().unwrap_or_default())).collect();
    if jobs.is_empty() { vec![] } else { vec![Effect::Stop { jobs }] }
}
