//! The words of the status.

use crate::api::{FeatureSetBackfillStatus, LedgerEntry, Resolved};
use crate::condition::{Condition, ConditionType, Reason, is_true};
use crate::contract::{Notice, Scope, Stores, cut};
use crate::plan::steps::span;
use crate::request::Request;
use crate::time::show;

/// The most bytes of a status, so that many of them fit into a cache.
const STATUS_BYTES_MAX: usize = 8 * 1024;

/// One word for the whole.
pub fn phase(conditions: &[Condition]) -> &'static str {
    let reason = |kind| conditions.iter().find(|condition| condition.kind == kind).map(|condition| condition.reason);
    let is = |kind| is_true(conditions, kind);
    match () {
        () if is(ConditionType::Complete) => "Complete",
        () if is(ConditionType::Failed) && reason(ConditionType::Failed) == Some(Reason::Cancelled) => "Cancelled",
        () if is(ConditionType::Failed) => "Failed",
        () if is(ConditionType::Ready) => "Planned",
        () if is(ConditionType::Suspended) => "Suspended",
        () if is(ConditionType::Stalled) => "Stalled",
        () => match reason(ConditionType::Reconciling) {
            Some(Reason::Queued) => "Queued",
            // What is broken off is on its way to that, while its pods end.
            Some(
                Reason::Settling | Reason::Cancelled | Reason::Deleted | Reason::FeatureSetDeleted | Reason::DeadlineExceeded,
            ) => "Settling",
            Some(Reason::Running) => "Running",
            _ if is(ConditionType::Accepted) => "Starting",
            _ => "Waiting",
        },
    }
}

/// Cuts a status to its size: messages of guards first, then those of conditions. Facts and numbers stay.
pub fn fit(mut status: FeatureSetBackfillStatus) -> FeatureSetBackfillStatus {
    let too_long =
        |status: &FeatureSetBackfillStatus| serde_json::to_string(status).is_ok_and(|json| json.len() > STATUS_BYTES_MAX);
    for chars_max in [512, 256, 128, 64] {
        if !too_long(&status) {
            return status;
        }
        let guards = status.offline.iter_mut().flat_map(|offline| &mut offline.guards).map(|guard| &mut guard.message);
        let warnings = status.resolved.iter_mut().flat_map(|resolved| &mut resolved.warnings).map(|warning| &mut warning.message);
        let conditions = status.conditions.iter_mut().map(|condition| &mut condition.message);
        let broken = status.broken.iter_mut().map(|broken| &mut broken.message);
        for text in guards.chain(warnings).chain(conditions).chain(broken) {
            cut(text, chars_max);
        }
    }
    while too_long(&status) && status.offline.as_mut().is_some_and(|offline| offline.guards.pop().is_some()) {}
    status
}

/// What is pinned of a request.
pub fn resolved(request: &Request, warnings: &[Notice]) -> Resolved {
    Resolved {
        key: request.key.clone(),
        mode: request.mode,
        stores: request.stores,
        now: show(request.now),
        definition: request.definition.hash.clone(),
        deadline_seconds: request.deadline_seconds,
        interval: span(&request.scope),
        cluster_template: request.template.name.clone(),
        feature_set_generation: request.feature_set_generation,
        windows: (!matches!(request.scope, Scope::Undo { .. })).then_some(request.windows as u64),
        warnings: warnings.to_vec(),
    }
}

/// The ledger says that the run has been done before.
pub fn recorded(entry: &LedgerEntry, request: &Request) -> String {
    let changed = if entry.definition == request.definition.hash { "" } else { "; the definition has changed since" };
    format!("applied {} as version {}{changed}; set spec.runId to run it again", entry.at, entry.version)
}

/// The stores say that the run has been done before.
pub fn applied(status: &FeatureSetBackfillStatus) -> String {
    let offline = status.offline.as_ref();
    let version =
        offline.and_then(|report| report.version_after).or_else(|| status.online.as_ref().and_then(|report| report.version));
    let at = offline.and_then(|report| report.finished_at.clone()).map_or_else(String::new, |at| format!(" {at}"));
    let version = version.map_or_else(String::new, |version| format!(" as version {version}"));
    let warnings = status.resolved.iter().flat_map(|resolved| &resolved.warnings);
    let changed =
        warnings.filter(|warning| warning.reason == Reason::FeatureSetChanged).map(|warning| format!("; {}", warning.message));
    format!("applied before{at}{version}{}; set spec.runId to run it again", changed.collect::<String>())
}

/// What was replaced.
pub fn success(status: &FeatureSetBackfillStatus) -> String {
    let offline = status.offline.as_ref().map(|report| {
        let version = report.version_after.map_or_else(String::new, |version| format!(" in version {version}"));
        format!("{} rows replaced by {}{version}", report.rows_removed, report.rows_written)
    });
    let online = status
        .online
        .as_ref()
        .map(|report| format!("{} entities updated and {} removed online", report.entities_updated, report.entities_removed));
    let parts: Vec<String> = offline.into_iter().chain(online).collect();
    if parts.is_empty() { "done".to_owned() } else { parts.join("; ") }
}

/// What a run that did not come to its end has replaced.
pub fn replaced(status: &FeatureSetBackfillStatus, stores: Stores) -> &'static str {
    match (stores.offline(), is_true(&status.conditions, ConditionType::OfflineReplaced), stores.online()) {
        (true, true, true) => "; the offline table holds the new rows, the online store was not brought in line with it",
        (true, true, false) => "; the offline table holds the new rows",
        (true, false, _) => "; nothing was replaced",
        (false, _, _) => "; the online store was not brought in line",
    }
}

/// What publishing would do.
pub fn planned(status: &FeatureSetBackfillStatus, moved: bool) -> String {
    let way_on = match moved {
        true => "what was planned has moved, so it was planned again; set a new spec.runId to publish",
        false => "set spec.mode to Apply to publish",
    };
    match &status.offline {
        Some(report) => format!("{} rows would be replaced by {}; {way_on}", report.rows_removed, report.rows_written),
        None => format!("nothing is published; {way_on}"),
    }
}
