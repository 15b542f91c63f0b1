//! Which changes of a status are worth an event, and a count.

use crate::api::FeatureSetBackfillStatus;
use crate::condition::{Condition, ConditionType, Reason, is_true};

/// An event of Kubernetes: said once, when something changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What it is about.
    pub kind: ConditionType,
    /// Whether a person should look at it.
    pub warning: bool,
    /// In one word.
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

/// What happened between two statuses.
pub fn announcements(old: Option<&FeatureSetBackfillStatus>, new: &FeatureSetBackfillStatus) -> Vec<Announcement> {
    let nothing = Vec::new();
    let same_run = old.filter(|old| old.run_id == new.run_id);
    let before = same_run.map_or(&nothing, |old| &old.conditions);
    let of = |conditions: &[Condition], kind| conditions.iter().find(|condition| condition.kind == kind).cloned();
    let mut found = Vec::new();
    let mut say = |condition: Condition, warning| {
        let Condition { kind, reason, message, .. } = condition;
        found.push(Announcement { kind, warning, reason, message });
    };
    use ConditionType::{Complete, Failed, OfflineReplaced, Ready, Reconciling, Stalled, Suspended};
    for kind in [OfflineReplaced, Complete, Failed, Suspended, Stalled, Ready] {
        let became = is_true(&new.conditions, kind) && !is_true(before, kind);
        let repeats = match kind {
            // The end says it already.
            Stalled => is_true(&new.conditions, Failed),
            Ready => is_true(&new.conditions, Complete),
            _ => false,
        };
        if let Some(condition) = of(&new.conditions, kind).filter(|_| became && !repeats) {
            let warning = matches!(kind, Failed | Stalled) || condition.reason == Reason::AlreadyApplied;
            say(condition, warning);
        }
    }
    if let Some(now) = of(&new.conditions, Reconciling).filter(|condition| is_trouble(condition.reason))
        && of(before, Reconciling).is_none_or(|then| then.reason != now.reason)
    {
        say(now, true);
    }
    let started = same_run.is_none_or(|old| old.attempts.is_empty()) && !new.attempts.is_empty();
    if let Some(now) = of(&new.conditions, Reconciling).filter(|_| started) {
        say(now, false);
    }
    found
}

const fn is_trouble(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ImagePull
            | Reason::Unschedulable
            | Reason::QuotaExceeded
            | Reason::PodTrouble
            | Reason::SecretNotFound
            | Reason::OOMKilled
            | Reason::Retrying
            | Reason::UnknownField
    )
}
