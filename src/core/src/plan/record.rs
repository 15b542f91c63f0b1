//! What a feature set remembers of its backfills: the ledger, the coverage, the newest version.

use crate::api::{FeatureSetBackfill, FeatureSetBackfillStatus, FeatureSetStatus, LedgerEntry, Span};
use crate::condition::{ConditionType, is_true};
use crate::time::{Interval, show};
use chrono::{DateTime, Utc};
use kube::ResourceExt;

/// How many replacements the ledger keeps.
const LEDGER_MAX: usize = 20;

/// How many spans the coverage keeps; the oldest go first.
const COVERAGE_MAX: usize = 100;

/// What a run has replaced, as its status tells; `None` when it has published nothing.
pub(super) fn entry(backfill: &FeatureSetBackfill, status: &FeatureSetBackfillStatus, now: DateTime<Utc>) -> Option<LedgerEntry> {
    let resolved = status.resolved.as_ref()?;
    let online = is_true(&status.conditions, ConditionType::OnlineReplaced);
    let offline = is_true(&status.conditions, ConditionType::OfflineReplaced);
    let version = match (resolved.stores.offline(), offline, online) {
        (true, true, _) => status.offline.as_ref().and_then(|report| report.version_after)?,
        (false, _, true) => status.online.as_ref().and_then(|report| report.version)?,
        _ => return None,
    };
    let whole = backfill.spec.reset == Some(true);
    let bounds = resolved.interval.as_ref().filter(|_| !whole);
    Some(LedgerEntry {
        backfill: backfill.name_any(),
        key: resolved.key.clone(),
        run_id: status.run_id.clone(),
        comment: backfill.spec.comment.clone(),
        start: bounds.map(|span| span.start.clone()),
        stop: bounds.map(|span| span.stop.clone()),
        filled: resolved.interval.clone().filter(|_| resolved.stores.offline() && backfill.spec.undo.is_none()),
        version,
        online,
        definition: resolved.definition.clone(),
        at: show(now),
    })
}

/// A feature set's status with a replacement entered. A replacement that is known by its key is brought up to date.
pub fn record(mut status: FeatureSetStatus, entry: LedgerEntry) -> FeatureSetStatus {
    if let Some(filled) = &entry.filled {
        let whole = entry.start.is_none();
        let before = if whole { Vec::new() } else { std::mem::take(&mut status.coverage) };
        status.coverage = merged(before, filled.clone());
    }
    status.offline_version = status.offline_version.max(Some(entry.version));
    match status.ledger.iter_mut().find(|known| known.key == entry.key) {
        Some(known) => {
            // When it happened stays when it happened.
            let at = known.at.clone();
            *known = LedgerEntry { at, ..entry };
        }
        None => status.ledger.insert(0, entry),
    }
    status.ledger.truncate(LEDGER_MAX);
    status
}

/// Whether the ledger says all that an entry says.
pub fn recorded(status: &FeatureSetStatus, entry: &LedgerEntry) -> bool {
    status.ledger.iter().any(|known| LedgerEntry { at: known.at.clone(), ..entry.clone() } == *known)
}

/// Spans in order of time that share no instant and do not touch.
fn merged(spans: Vec<Span>, new: Span) -> Vec<Span> {
    let read = |span: &Span| {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|t| t.to_utc());
        Interval::new(time(&span.start)?, time(&span.stop)?).ok()
    };
    let mut intervals: Vec<Interval> = spans.iter().chain([&new]).filter_map(read).collect();
    intervals.sort_by_key(|interval| interval.start());
    let mut merged: Vec<Interval> = Vec::new();
    for next in intervals {
        match merged.last_mut() {
            Some(last) if next.start() <= last.stop() => {
                *last = Interval::new(last.start(), last.stop().max(next.stop())).unwrap_or(*last);
            }
            _ => merged.push(next),
        }
    }
    let surplus = merged.len().saturating_sub(COVERAGE_MAX);
    merged.iter().skip(surplus).map(|interval| Span { start: show(interval.start()), stop: show(interval.stop()) }).collect()
}
