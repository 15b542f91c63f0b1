//! How far a backfill is in each of its two stores.

use crate::print::{number, phase};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::{Condition, ConditionType, Reason, is_true};
use backfill_core::contract::{OfflineReport, OnlineReport, Progress, Step, Stores};
use kube::ResourceExt;

/// One store's part of a backfill.
#[derive(Clone, Debug, PartialEq)]
pub enum Lane {
    /// Not part of the backfill.
    Skipped,
    /// Its turn has not come.
    Waiting,
    /// Its Job is at work.
    Running(Progress),
    /// Replaced; with a plan: computed.
    Done,
    /// It ended without that.
    Failed,
}

/// The offline and the online lane.
pub fn lanes(backfill: &FeatureSetBackfill) -> [Lane; 2] {
    [(ConditionType::OfflineReplaced, Step::Offline), (ConditionType::OnlineReplaced, Step::Online)]
        .map(|(kind, step)| lane(backfill, kind, step))
}

fn lane(backfill: &FeatureSetBackfill, kind: ConditionType, step: Step) -> Lane {
    let Some(status) = &backfill.status else { return Lane::Waiting };
    let condition = status.conditions.iter().find(|condition: &&Condition| condition.kind == kind);
    let is = |kind| is_true(&status.conditions, kind);
    let current = status.attempts.last().is_some_and(|attempt| attempt.step == step && attempt.ended.is_none());
    match condition {
        Some(condition) if condition.reason == Reason::Skipped => Lane::Skipped,
        _ if is(kind) || is(ConditionType::Ready) => Lane::Done,
        _ if is(ConditionType::Failed) => Lane::Failed,
        _ if current => Lane::Running(status.progress.clone().unwrap_or_default()),
        _ => Lane::Waiting,
    }
}

/// One line on how a backfill stands: `Running: the offline step is at work; stage 3/31, 12,345 rows`.
pub fn line(backfill: &FeatureSetBackfill) -> String {
    let word = phase(backfill);
    let progress = lanes(backfill).into_iter().find_map(|lane| match lane {
        Lane::Running(progress) if progress.total > 0 => Some(amount(&progress)),
        Lane::Running(_) | Lane::Skipped | Lane::Waiting | Lane::Done | Lane::Failed => None,
    });
    let parts: Vec<String> = [message(backfill).map(str::to_owned), progress].into_iter().flatten().collect();
    match parts.as_slice() {
        [] => word.to_owned(),
        parts => format!("{word}: {}", parts.join("; ")),
    }
}

/// How much of a step is done.
pub fn amount(progress: &Progress) -> String {
    format!("{} {}/{}, {}", progress.stage, number(progress.done), number(progress.total), number(progress.rows))
}

/// What is said of a backfill; nothing before the operator has seen it.
pub fn conditions(backfill: &FeatureSetBackfill) -> &[Condition] {
    backfill.status.as_ref().map_or(&[], |status| &status.conditions)
}

/// What the operator says of the whole.
pub fn message(backfill: &FeatureSetBackfill) -> Option<&str> {
    let ready = conditions(backfill).iter().find(|condition| condition.kind == ConditionType::Ready)?;
    Some(ready.message.as_str()).filter(|message| !message.is_empty())
}

/// Which stores are replaced.
pub const fn stores(stores: Stores) -> &'static str {
    match stores {
        Stores::Both => "offline and online",
        Stores::Offline => "offline",
        Stores::Online => "online, from the offline table",
    }
}

/// What was replaced offline.
pub fn offline(report: &OfflineReport) -> String {
    let mut text = format!("{} rows replaced by {}", number(report.rows_removed), number(report.rows_written));
    let more = [
        (report.rows_rescued, "rescued"),
        (report.rows_outside, "outside dropped"),
        (report.rows_null_key, "without a key dropped"),
        (report.rows_duplicate, "duplicates dropped"),
    ];
    for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {} {what}", number(count));
    }
    if let Some(unchanged) = report.rows_unchanged {
        text += &format!(", {} of them equal", number(unchanged));
    }
    match (report.version_before, report.version_after) {
        (Some(before), Some(after)) => text + &format!("; version {before} → {after}"),
        (None, Some(after)) => text + &format!("; version {after}"),
        (_, None) => text,
    }
}

/// What was replaced online.
pub fn online(report: &OnlineReport) -> String {
    let kept = report.entities_kept_newer + report.entities_kept_live;
    format!(
        "{} entities updated, {} removed, {} kept newer, {} unchanged",
        number(report.entities_updated),
        number(report.entities_removed),
        number(kept),
        number(report.entities_unchanged)
    )
}

/// Whether publishing the plan would change anything. Without numbers it might.
pub fn would_change(backfill: &FeatureSetBackfill) -> bool {
    let Some(status) = &backfill.status else { return true };
    let Some(offline) = &status.offline else { return true };
    let rows = offline.rows_unchanged.is_none_or(|same| offline.rows_removed != same || offline.rows_written != same);
    let entities = status.online.as_ref().is_some_and(|online| online.entities_updated + online.entities_removed > 0);
    rows || entities
}

/// Names a backfill on the command line.
pub fn place(backfill: &FeatureSetBackfill) -> String {
    format!("{} -n {}", backfill.name_any(), backfill.namespace().unwrap_or_default())
}
