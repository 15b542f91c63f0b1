//! The life of a backfill. `cluster` carries plans out; `simulation` does so with everything going wrong.

mod cluster;
mod simulation;

use super::*;
use crate::condition::ConditionStatus;

/// The rows of the table of conditions: Ready, Reconciling, Stalled, Complete, Failed, Suspended.
const ROWS: [(&str, &str); 6] = [
    ("going", "F T – F F –"),
    ("suspended", "F – – F F T"),
    ("stalled", "F – T F F –"),
    ("planned", "T – – F F –"),
    ("complete", "T – – T F –"),
    ("failed", "F – T F T –"),
];

/// Which row of the table of conditions a status is.
fn row(status: &FeatureSetBackfillStatus) -> &'static str {
    use ConditionType::{Complete, Failed, Ready, Reconciling, Stalled, Suspended};
    let word = |kind| match status.conditions.iter().find(|condition| condition.kind == kind).map(|condition| condition.status) {
        None => "–",
        Some(ConditionStatus::True) => "T",
        Some(ConditionStatus::False) => "F",
        Some(ConditionStatus::Unknown) => "?",
    };
    let found = [Ready, Reconciling, Stalled, Complete, Failed, Suspended].map(word).join(" ");
    let known = ROWS.iter().find(|(_, row)| *row == found);
    known.unwrap_or_else(|| panic!("no moment has the conditions {found}: {:#?}", status.conditions)).0
}

/// What holds of every status that is ever written.
fn check_status(status: &FeatureSetBackfillStatus) {
    let json = serde_json::to_string(status).expect("JSON");
    assert!(json.len() <= 8 * 1024, "a status of {} bytes: {json}", json.len());
    assert!(status.attempts.len() <= 5, "{} attempts", status.attempts.len());
    row(status);
}
