//! The steps of a run: order, follow, take the report, go on.

use super::manifest::Attempt;
use super::rest::stop;
use super::seen::{Activity, Standing};
use super::{Effect, LOOK_AGAIN, LOOK_AT_START, LOOK_SOON, Plan, Situation, message};
use crate::api::{Attempt as AttemptStatus, Broken, Mode, Span};
use crate::condition::{ConditionStatus, ConditionType, Ending, Finding, Moment, Reason};
use crate::contract::{Notice, Outcome, Report, Scope, Step};
use crate::request::Request;
use crate::time::show;
use chrono::DateTime;

/// How many attempts the status keeps.
const ATTEMPTS_MAX: usize = 5;

/// How many warnings the status keeps.
const WARNINGS_MAX: usize = 16;

impl Situation<'_> {
    /// The next step that is wanted and not done.
    fn next_step(&self) -> Option<Step> {
        let stores = self.stores();
        if stores.offline() && !self.offline_done() {
            return Some(Step::Offline);
        }
        (stores.online() && !self.online_done()).then_some(Step::Online)
    }

    /// Whether nothing is left to do.
    pub(super) fn all_done(&self) -> bool {
        self.next_step().is_none()
    }

    /// Takes what complete steps have reported, before anything else is decided: what is published stays so, whatever is wanted now.
    pub(super) fn take_reports(mut self) -> Self {
        while let Some(step) = self.next_step().filter(|_| self.holds()) {
            match self.standing(step) {
                Standing::Succeeded(Some(report)) if is_done(&report) => self.take_report(step, &report),
                Standing::Absent | Standing::Leaving | Standing::Active(_) | Standing::Succeeded(_) | Standing::Failed { .. } => {
                    return self;
                }
            }
        }
        self
    }

    /// The plan of a run that has begun and is not broken off.
    pub(super) fn go_on(mut self) -> Plan {
        let Some(step) = self.next_step() else { return self.succeed() };
        match self.standing(step) {
            _ if !self.holds() && self.suspended() => self.suspend(),
            _ if !self.holds() => self.take_again(),
            Standing::Succeeded(Some(report)) if is_done(&report) => {
                self.take_report(step, &report);
                self.go_on()
            }
            Standing::Succeeded(Some(report)) if report.outcome == Outcome::Planned => self.planned(&report),
            Standing::Failed { reason, message } => self.fail(step, reason, message),
            _ if self.suspended() => self.suspend(),
            Standing::Absent => self.launch_again(step),
            Standing::Leaving => {
                let message = format!("waiting for pods of the {step} step to end");
                self.going(&Moment::Going { reason: Reason::Starting, message }, vec![], Some(LOOK_SOON))
            }
            Standing::Active(activity) => self.follow(step, activity),
            // The pod vanished before it was read. The next attempt finds what this one did, and reports it.
            Standing::Succeeded(_) => {
                self.attempt_ended(step, Reason::PodFailed);
                self.launch_again(step)
            }
        }
    }

    /// How the newest attempt of a step stands.
    pub(super) fn standing(&self, step: Step) -> Standing {
        let ordered = self.status.attempts.iter().filter(|attempt| attempt.step == step).map(|attempt| attempt.attempt).max();
        self.children.standing(step, ordered.unwrap_or(0), self.observed.trouble)
    }

    /// The feature set is not ours (any more): nothing may run until it is again.
    fn take_again(mut self) -> Plan {
        if self.children.may_write() {
            let effects = stop(&self.children);
            let message = "waiting for pods to end: the feature set is not held any more".to_owned();
            return self.going(&Moment::Going { reason: Reason::Queued, message }, effects, Some(LOOK_SOON));
        }
        self.end_attempts(Reason::Suspended);
        self.take()
    }

    /// The attempt that is ordered next: the same as before when it was never made, else another.
    pub(super) fn launch_again(self, step: Step) -> Plan {
        match self.request() {
            Some(request) => self.launch(step, request),
            None => {
                let message = "the definition with which this run began cannot be found any more".to_owned();
                let at = show(self.now);
                self.broke_off(Broken { reason: Reason::InvalidRequest, message, at, settle: false })
            }
        }
    }

    /// What the run does: as its first order says, or, when somebody deleted that, as resolved anew at the same moment.
    fn request(&self) -> Option<Request> {
        let resolved = self.status.resolved.as_ref()?;
        if let Some(pinned) = self.observed.pinned.filter(|pinned| pinned.key == resolved.key) {
            return Some(pinned.clone());
        }
        let now = DateTime::parse_from_rfc3339(&resolved.now).ok()?.to_utc();
        self.resolve(now).ok().map(|resolution| resolution.request)
    }

    /// Orders the next attempt of a step. The attempt is in the status before its Job exists.
    pub(super) fn launch(mut self, step: Step, request: Request) -> Plan {
        let number = self.next_attempt(step);
        self.status.held.get_or_insert_default().since.get_or_insert(show(self.now));
        self.status.progress = None;
        let attempt = Attempt { run: self.run, request, step, number };
        let (order, job) = (Box::new(attempt.config_map()), Box::new(attempt.job(self.observed.settings)));
        let company = attempt.company().map(Box::new);
        if !self.status.attempts.iter().any(|known| known.step == step && known.attempt == number) {
            let started_at = show(self.now);
            self.status.attempts.push(AttemptStatus { step, attempt: number, job: attempt.name(), started_at, ended: None });
            let surplus = self.status.attempts.len().saturating_sub(ATTEMPTS_MAX);
            self.status.attempts.drain(..surplus);
        }
        let message = match number {
            1 => format!("the {step} step is being started"),
            _ => format!("the {step} step is being started, attempt {number}"),
        };
        let reason = if step == Step::Settle { Reason::Settling } else { Reason::Starting };
        self.going(&Moment::Going { reason, message }, vec![Effect::Launch { order, job, company }], Some(LOOK_AGAIN))
    }

    fn next_attempt(&self, step: Step) -> u32 {
        let known = self.status.attempts.iter().filter(|attempt| attempt.step == step).max_by_key(|attempt| attempt.attempt);
        match known {
            Some(current) if current.ended.is_none() => current.attempt,
            Some(ended) => ended.attempt.max(self.children.attempts(step)) + 1,
            None => self.children.attempts(step) + 1,
        }
    }

    pub(super) fn attempt_ended(&mut self, step: Step, reason: Reason) {
        let newest = self.status.attempts.iter_mut().filter(|attempt| attempt.step == step).max_by_key(|attempt| attempt.attempt);
        if let Some(attempt) = newest {
            attempt.ended.get_or_insert(reason);
        }
    }

    /// No attempt is current any more.
    pub(super) fn end_attempts(&mut self, reason: Reason) {
        for attempt in &mut self.status.attempts {
            attempt.ended.get_or_insert(reason);
        }
    }

    fn follow(mut self, step: Step, activity: Activity) -> Plan {
        if let Some(progress) = self.observed.progress {
            self.status.progress = Some(progress.clone());
        }
        let (reason, message) = match activity {
            Activity { running: true, .. } => (Reason::Running, format!("the {step} step runs")),
            Activity { trouble: Some(Notice { reason, message }), .. } => (reason, format!("the {step} step waits: {message}")),
            Activity { trouble: None, .. } => (Reason::Starting, format!("the {step} step is being started")),
        };
        let look = if reason == Reason::Running { LOOK_AGAIN } else { LOOK_AT_START };
        self.going(&Moment::Going { reason, message }, vec![], Some(look))
    }

    /// Keeps what a step reports. From then on the step is done, whatever becomes of its Job.
    pub(super) fn take_report(&mut self, step: Step, report: &Report) {
        let reason = match report.outcome {
            Outcome::AlreadyApplied { .. } => Reason::AlreadyApplied,
            _ if step == Step::Online => Reason::Reconciled,
            _ => Reason::Replaced,
        };
        self.attempt_ended(step, reason);
        self.status.progress = None;
        if let Some(resolved) = &mut self.status.resolved {
            if let Some(scope) = &report.scope {
                resolved.interval = span(scope);
            }
            if matches!(report.outcome, Outcome::AlreadyApplied { definition_changed: true }) {
                let message = "the definition has changed since it was applied".to_owned();
                resolved.warnings.push(Notice { reason: Reason::FeatureSetChanged, message });
            }
            let new: Vec<_> = report.warnings.iter().filter(|warning| !resolved.warnings.contains(warning)).cloned().collect();
            resolved.warnings.extend(new);
            resolved.warnings.truncate(WARNINGS_MAX);
        }
        let kind = match step {
            Step::Online => {
                self.status.online.clone_from(&report.online);
                ConditionType::OnlineReplaced
            }
            Step::Offline | Step::Settle => {
                self.status.offline.clone_from(&report.offline);
                ConditionType::OfflineReplaced
            }
        };
        self.done(kind, reason);
    }

    fn done(&mut self, kind: ConditionType, reason: Reason) {
        let finding = Finding { kind, status: ConditionStatus::True, reason, message: String::new() };
        let generation = self.observed.backfill.metadata.generation;
        crate::condition::set(&mut self.status.conditions, finding, self.now, generation);
    }

    fn planned(mut self, report: &Report) -> Plan {
        self.attempt_ended(self.next_step().unwrap_or(Step::Offline), Reason::Planned);
        self.status.offline.clone_from(&report.offline);
        self.status.online.clone_from(&report.online);
        let moved = self.run.mode == Mode::Apply;
        let message = message::planned(&self.status, moved);
        self.end(&Ending::Planned { moved, message })
    }

    fn fail(mut self, step: Step, reason: Reason, message: String) -> Plan {
        self.attempt_ended(step, reason);
        let settle = step == Step::Offline;
        let broken = Broken { reason, message, at: show(self.now), settle };
        self.break_off(broken)
    }

    fn succeed(self) -> Plan {
        let of_step = |step| self.status.attempts.iter().rfind(|attempt| attempt.step == step).and_then(|attempt| attempt.ended);
        let steps = [(Step::Offline, self.stores().offline()), (Step::Online, self.stores().online())];
        let applied = steps.iter().filter(|(_, wanted)| *wanted).all(|(step, _)| of_step(*step) == Some(Reason::AlreadyApplied));
        let ending = match applied {
            true => Ending::AlreadyApplied { message: message::applied(&self.status) },
            false => Ending::Succeeded { message: message::success(&self.status) },
        };
        self.end(&ending)
    }
}

fn is_done(report: &Report) -> bool {
    matches!(report.outcome, Outcome::Done | Outcome::AlreadyApplied { .. })
}

/// What is filled; nothing to say for everything that there is.
pub fn span(scope: &Scope) -> Option<Span> {
    let interval = match scope {
        Scope::Interval { interval } | Scope::Reset { interval, .. } => *interval,
        Scope::Undo { .. } => return None,
    };
    Some(Span { start: show(interval.start()), stop: show(interval.stop()) })
}
