//! Runs that do not get to their end: suspended, cancelled, deleted, out of time, failed.
//!
//! Pods are stopped first. When something may be left in the stores, a settle step raises the fence, finds out whether the run had
//! published, and removes what it staged. Only then the feature set is let go.

use super::rest::stop;
use super::seen::{Activity, Standing};
use super::{LOOK_SOON, Plan, Situation, message};
use crate::api::{Broken, Held};
use crate::condition::{Ending, Moment, Reason};
use crate::contract::{Outcome, Report, Step};
use crate::time::show;
use chrono::{DateTime, TimeDelta};
use std::time::Duration;

/// How long settling is tried.
const SETTLE_MAX: TimeDelta = TimeDelta::minutes(15);

/// How long it is tried in a namespace that is being deleted, in which nothing can be created.
const SETTLE_MAX_TERMINATING: TimeDelta = TimeDelta::minutes(1);

/// What is known of a settle step.
enum Settled {
    /// It is not over; this is the plan.
    Not(Box<Plan>),
    /// Nothing of the run can write any more.
    Published(Option<Box<Report>>),
    /// It could not be found out in time.
    Unknown,
}

impl Situation<'_> {
    /// Why the run must not go on, as found before or now.
    pub(super) fn breaks_off(&self) -> Option<Broken> {
        if let Some(broken) = &self.status.broken {
            return Some(broken.clone());
        }
        let (reason, message) = self.broken_by()?;
        // A step that never began has left nothing. A Job that is not seen may be there nevertheless: caches lag.
        let began = match self.standing(Step::Offline) {
            Standing::Active(activity) => activity.began || self.is_repeated(Step::Offline),
            Standing::Absent | Standing::Leaving | Standing::Succeeded(_) | Standing::Failed { .. } => true,
        };
        Some(Broken { reason, message, at: show(self.now), settle: began && self.publishes() })
    }

    /// Whether another attempt of a step went before.
    fn is_repeated(&self, step: Step) -> bool {
        self.status.attempts.iter().any(|attempt| attempt.step == step && (attempt.attempt > 1 || attempt.ended.is_some()))
    }

    /// Whether the run may publish, or may have published without having said so.
    fn publishes(&self) -> bool {
        self.stores().offline() && !self.offline_done()
    }

    fn broken_by(&self) -> Option<(Reason, String)> {
        // What is published is followed by the online store, also when the backfill is deleted.
        let terminating = self.observed.namespace_terminating;
        let finishes = self.offline_done() && self.stores().offline() && !terminating;
        if self.cancelled() {
            return Some((Reason::Cancelled, "spec.cancel was set".to_owned()));
        }
        if (self.deleted() || terminating) && !finishes {
            let what = if terminating { "namespace" } else { "backfill" };
            return Some((Reason::Deleted, format!("the {what} was deleted while the backfill ran")));
        }
        if self.feature_set().is_none_or(|set| set.metadata.deletion_timestamp.is_some()) {
            let message = format!("feature set \"{}\" was deleted while the backfill ran", self.run.feature_set);
            return Some((Reason::FeatureSetDeleted, message));
        }
        let limit = self.status.resolved.as_ref().map(|resolved| resolved.deadline_seconds)?;
        let held = self.seconds_held();
        (held > limit).then(|| {
            (Reason::DeadlineExceeded, format!("the backfill has held the feature set for {held} s; its deadline is {limit} s"))
        })
    }

    /// When the deadline has to be looked at.
    pub(super) fn time_left(&self) -> Duration {
        let limit = self.status.resolved.as_ref().map_or(u64::MAX, |resolved| resolved.deadline_seconds);
        // Past the deadline there is no hurry any more: what follows has its own times.
        match limit.checked_sub(self.seconds_held()) {
            Some(left) => Duration::from_secs(left.saturating_add(1)),
            None => Duration::MAX,
        }
    }

    /// How long pods of this run could run.
    fn seconds_held(&self) -> u64 {
        let Some(Held { since, seconds_before }) = &self.status.held else { return 0 };
        let since = since.as_deref().and_then(|since| DateTime::parse_from_rfc3339(since).ok());
        seconds_before + since.map_or(0, |since| u64::try_from((self.now - since.to_utc()).num_seconds()).unwrap_or(0))
    }

    /// The plan of a run that is broken off.
    pub(super) fn break_off(mut self, mut broken: Broken) -> Plan {
        broken.settle |= self.publishes() && self.children.has_begun(Step::Offline);
        self.status.broken = Some(broken.clone());
        let others = self.children.without(Step::Settle);
        if others.may_write() {
            let effects = stop(&others);
            let message = format!("{}; waiting for its pods to end", broken.message);
            return self.going(&Moment::Going { reason: broken.reason, message }, effects, Some(LOOK_SOON));
        }
        if !broken.settle {
            return self.broke_off(broken);
        }
        if self.offline_done() {
            return self.settled(broken);
        }
        match self.settle(&broken) {
            Settled::Not(plan) => *plan,
            Settled::Published(report) => {
                self.attempt_ended(Step::Settle, Reason::Settling);
                if let Some(report) = report {
                    self.take_report(Step::Settle, &report);
                }
                self.settled(broken)
            }
            Settled::Unknown => {
                let message = format!(
                    "{}; it could not be settled: files whose names begin with fsb- and this run's record may be left beside the \
                     table, VACUUM removes the former",
                    broken.message
                );
                self.broke_off(Broken { reason: Reason::Abandoned, message, ..broken })
            }
        }
    }

    /// It is known whether the run has published: what is, is followed by the online store.
    fn settled(mut self, broken: Broken) -> Plan {
        match self.offline_done() && goes_on_after(broken.reason) {
            true => {
                self.status.broken = None;
                self.go_on()
            }
            false => self.broke_off(broken),
        }
    }

    fn settle(&self, broken: &Broken) -> Settled {
        let since = DateTime::parse_from_rfc3339(&broken.at).map_or(self.now, |at| at.to_utc());
        let most = if self.observed.namespace_terminating { SETTLE_MAX_TERMINATING } else { SETTLE_MAX };
        let late = self.now - since >= most;
        let standing = self.standing(Step::Settle);
        if let Standing::Succeeded(Some(report)) = standing {
            return match report.outcome {
                Outcome::Settled { published } => Settled::Published(published.then_some(report)),
                _ => Settled::Unknown,
            };
        }
        if late {
            return Settled::Unknown;
        }
        let mut again = self.clone();
        let waits = |situation: Self, what: &str| {
            let message = format!("{}; {what}", broken.message);
            situation.going(&Moment::Going { reason: Reason::Settling, message }, vec![], Some(LOOK_SOON))
        };
        Settled::Not(Box::new(match standing {
            _ if self.observed.namespace_terminating => waits(again, "the namespace is being deleted"),
            // Settling raises the table's fence, which only the holder of the feature set may.
            _ if !self.holds() => again.take(),
            Standing::Active(Activity { trouble: Some(trouble), .. }) => {
                waits(again, &format!("what it left cannot be removed yet: {}", trouble.message))
            }
            Standing::Leaving | Standing::Active(_) => waits(again, "what it left is being removed"),
            Standing::Absent => again.launch_again(Step::Settle),
            Standing::Succeeded(_) | Standing::Failed { .. } => {
                again.attempt_ended(Step::Settle, Reason::PodFailed);
                again.launch_again(Step::Settle)
            }
        }))
    }

    pub(super) fn broke_off(mut self, broken: Broken) -> Plan {
        self.end_attempts(broken.reason);
        let Broken { reason, mut message, .. } = broken;
        // Of what could not be settled nobody knows.
        if reason != Reason::Abandoned {
            message += message::replaced(&self.status, self.stores());
        }
        let ending = match self.offline_done() || !self.stores().offline() {
            true => Ending::OnlineFailed { reason, message },
            false => Ending::OfflineFailed { reason, message },
        };
        self.end(&ending)
    }

    /// Holds the run: pods are stopped, what is staged is kept. Before anything is published others may have the feature set.
    pub(super) fn suspend(mut self) -> Plan {
        if self.children.may_write() {
            let effects = stop(&self.children);
            let message = "spec.suspend is set; pods are ending".to_owned();
            return self.going(&Moment::Suspended { message }, effects, Some(LOOK_SOON));
        }
        self.end_attempts(Reason::Suspended);
        let held = self.seconds_held();
        if let Some(time) = &mut self.status.held {
            *time = Held { since: None, seconds_before: held };
        }
        let keeps = self.offline_done() && self.stores().offline();
        let effects = if keeps { vec![] } else { self.releases(None) };
        let message = match keeps {
            true => "spec.suspend is set; the offline part is published, so the feature set stays held",
            false => "spec.suspend is set; what is staged is kept, and others may have the feature set",
        };
        self.going(&Moment::Suspended { message: message.to_owned() }, effects, None)
    }
}

/// Whether a run that turns out to have published goes on with the online store.
const fn goes_on_after(reason: Reason) -> bool {
    !matches!(reason, Reason::Cancelled | Reason::FeatureSetDeleted | Reason::DeadlineExceeded | Reason::Abandoned)
}
