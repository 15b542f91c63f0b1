//! Reports of steps.

use crate::failure::Failure;
use backfill_core::contract::{Order, Outcome, Report, VERSION};

/// A report that says how a step ended and nothing else yet.
pub fn report(order: &Order, outcome: Outcome) -> Report {
    Report {
        version: VERSION,
        key: order.key.clone(),
        outcome,
        comment: order.comment.clone(),
        scope: None,
        offline: None,
        online: None,
        warnings: vec![],
    }
}

/// The report of a step that failed.
pub fn failed(order: &Order, failure: &Failure) -> Report {
    report(order, failure.outcome())
}
