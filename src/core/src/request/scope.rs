//! What is replaced: exactly one of a reset, an interval and an undo, with its boundaries settled.

use super::Rejection;
use super::names::check_label;
use crate::api::{FeatureSet, FeatureSetBackfillSpec, Store};
use crate::condition::Reason;
use crate::contract::{Notice, Scope};
use crate::time::{Interval, parse_time, show};
use crate::window::Window;
use chrono::{DateTime, Utc};

/// The longest comment, in characters.
const COMMENT_MAX: usize = 1024;

/// What the spec asks for, before the feature set's defaults and the clock.
pub enum Asked {
    /// `startTime`, `stopTime` or both.
    Interval(Bounds),
    /// `reset`, with what bounds the fill.
    Reset(Bounds),
    /// `undo`.
    Undo(String),
}

/// Bounds as given.
#[derive(Clone, Copy)]
pub struct Bounds {
    start: Option<DateTime<Utc>>,
    stop: Option<DateTime<Utc>>,
}

/// A scope, and whether its stop was rounded down.
pub struct Resolved {
    pub scope: Scope,
    pub clamped: Option<Notice>,
}

/// Reads the spec as far as it can be judged alone.
pub fn asked(name: &str, spec: &FeatureSetBackfillSpec) -> Result<Asked, Rejection> {
    let refuse = |message: &str| Err(Rejection::new(Reason::InvalidRequest, message));
    check_text(spec)?;
    check_stores(spec)?;
    let time = |field, text: &Option<String>| {
        let read = text.as_deref().map(|text| parse_time(field, text)).transpose();
        read.map_err(|error| Rejection::new(Reason::InvalidTime, error.to_string()))
    };
    let bounds = Bounds { start: time("spec.startTime", &spec.start_time)?, stop: time("spec.stopTime", &spec.stop_time)? };
    if let (Some(start), Some(stop)) = (bounds.start, bounds.stop) {
        interval(start, stop)?;
    }
    let bounded = bounds.start.is_some() || bounds.stop.is_some();
    match (spec.reset.unwrap_or(false), &spec.undo) {
        (true, Some(_)) => refuse("spec: give reset or undo, not both"),
        (false, Some(_)) if bounded => {
            refuse("spec.undo takes no startTime and stopTime: they are those of the backfill that is undone")
        }
        (false, Some(_)) if spec.sources.is_some() || spec.transformation.is_some() => {
            refuse("spec.undo takes no sources and transformation: the table's own history is used")
        }
        (false, Some(undo)) if undo == name => {
            refuse("spec.undo: a backfill cannot undo itself; give the undo a name of its own")
        }
        (false, Some(undo)) if spec.stores.as_deref() == Some(&[Store::Online]) => {
            let message = format!(
                "spec.undo: \"{undo}\" is undone in the offline table; leave stores out, or give [Offline]; to rebuild the online store alone \
                 give the interval and stores [Online]"
            );
            Err(Rejection::new(Reason::InvalidRequest, message))
        }
        (false, Some(undo)) => {
            check_label("spec.undo", undo, Reason::InvalidRequest)?;
            Ok(Asked::Undo(undo.clone()))
        }
        (true, None) => Ok(Asked::Reset(bounds)),
        (false, None) if bounded => Ok(Asked::Interval(bounds)),
        (false, None) => {
            refuse("spec: give reset: true (all data), startTime and/or stopTime (an interval), or undo (an earlier backfill)")
        }
    }
}

fn check_text(spec: &FeatureSetBackfillSpec) -> Result<(), Rejection> {
    check_label("spec.featureSet", &spec.feature_set, Reason::InvalidRequest)?;
    let refuse = |message: String| Err(Rejection::new(Reason::InvalidRequest, message));
    if let Some(comment) = &spec.comment {
        if comment.chars().count() > COMMENT_MAX {
            return refuse(format!("spec.comment is longer than {COMMENT_MAX} characters"));
        }
        if comment.chars().any(char::is_control) {
            return refuse("spec.comment holds a control character; write it in one line".to_owned());
        }
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    match &spec.run_id {
        Some(run_id) if run_id.is_empty() || run_id.len() > 64 || !run_id.chars().all(fits) => {
            refuse(format!("spec.runId: \"{run_id}\" is not 1 to 64 of A-Z, a-z, 0-9, ., _, : and -"))
        }
        _ => Ok(()),
    }
}

fn check_stores(spec: &FeatureSetBackfillSpec) -> Result<(), Rejection> {
    let refuse = |message: &str| Err(Rejection::new(Reason::InvalidRequest, message));
    match spec.stores.as_deref() {
        Some([] | [Store::Offline, Store::Offline] | [Store::Online, Store::Online] | [_, _, _, ..]) => {
            refuse("spec.stores: give Offline, Online or both, each once")
        }
        Some([Store::Online]) if spec.sources.is_some() || spec.transformation.is_some() => refuse(
            "spec.stores: [Online] rebuilds the online store from the offline table and takes no sources and transformation",
        ),
        _ => Ok(()),
    }
}

/// Settles the boundaries. `now` is a whole second.
pub fn resolve(asked: &Asked, feature_set: &FeatureSet, now: DateTime<Utc>) -> Result<Resolved, Rejection> {
    match asked {
        Asked::Undo(backfill) => {
            let ledger = feature_set.status.iter().flat_map(|status| &status.ledger);
            let key = ledger.into_iter().find(|entry| entry.backfill == *backfill).map(|entry| entry.key.clone());
            Ok(Resolved { scope: Scope::Undo { backfill: backfill.clone(), key }, clamped: None })
        }
        Asked::Interval(bounds) => {
            let (interval, clamped) = boundaries(*bounds, feature_set, now)?;
            Ok(Resolved { scope: Scope::Interval { interval }, clamped })
        }
        Asked::Reset(bounds) => {
            let (interval, clamped) = boundaries(*bounds, feature_set, now)?;
            let delete_before = bounds.stop.is_none().then_some(now);
            Ok(Resolved { scope: Scope::Reset { interval, delete_before }, clamped })
        }
    }
}

fn boundaries(bounds: Bounds, feature_set: &FeatureSet, now: DateTime<Utc>) -> Result<(Interval, Option<Notice>), Rejection> {
    let start = match bounds.start {
        Some(start) => start,
        None => default_start(feature_set)?,
    };
    if start > now {
        let message = format!("the start {} lies in the future; it is {} now", show(start), show(now));
        return Err(Rejection::new(Reason::StartInFuture, message));
    }
    let stop = bounds.stop.unwrap_or(now).min(now);
    let clamped = bounds.stop.filter(|given| *given > now).map(|given| Notice {
        reason: Reason::StopClamped,
        message: format!("the stop {} lies in the future and was rounded down to {}", show(given), show(now)),
    });
    Ok((interval(start, stop)?, clamped))
}

fn default_start(feature_set: &FeatureSet) -> Result<DateTime<Utc>, Rejection> {
    let name = feature_set.metadata.name.as_deref().unwrap_or_default();
    let Some(text) = feature_set.spec.backfill.as_ref().and_then(|backfill| backfill.start_time.as_deref()) else {
        let message =
            format!("spec.startTime is not given and the feature set \"{name}\" has no backfill.startTime; give one of them");
        return Err(Rejection::new(Reason::StartTimeUnknown, message));
    };
    let field = format!("feature set \"{name}\": spec.backfill.startTime");
    parse_time(&field, text).map_err(|error| Rejection::new(Reason::InvalidTime, error.to_string()))
}

fn interval(start: DateTime<Utc>, stop: DateTime<Utc>) -> Result<Interval, Rejection> {
    Interval::new(start, stop)
        .map_err(|error| Rejection::new(Reason::EmptyInterval, format!("startTime must be before stopTime: {error}")))
}

/// The interval that is filled; an undo's is known to the run record only.
pub const fn filled(scope: &Scope) -> Option<Interval> {
    match scope {
        Scope::Interval { interval } | Scope::Reset { interval, .. } => Some(*interval),
        Scope::Undo { .. } => None,
    }
}

/// Says which windows the interval cuts.
pub fn partial(windows: &[Window]) -> Option<Notice> {
    let cut: Vec<String> = windows
        .iter()
        .filter(|window| window.partial())
        .map(|window| format!("[{}, {})", show(window.start()), show(window.stop())))
        .collect();
    (!cut.is_empty()).then(|| Notice {
        reason: Reason::PartialWindows,
        message: format!("the boundaries lie between ticks of the feature set's windows; partial: {}", cut.join(", ")),
    })
}

/// A time cut to its second.
pub fn whole_second(t: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(t.timestamp(), 0).unwrap_or(t)
}
