//! Which rows of the table a run replaces, decided on statistics alone where they suffice.

use crate::delta::TimeStats;
use backfill_core::contract::Scope;
use backfill_core::time::Interval;
use chrono::{DateTime, TimeDelta, Utc};
use deltalake::arrow::array::{Array, BooleanArray, TimestampMicrosecondArray};
use deltalake::datafusion::prelude::{Expr, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};

/// The rows that a run replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Deletes {
    /// Rows with `start <= t < stop`.
    Within(Interval),
    /// Rows with `t < stop`, and rows without an event time.
    Before(DateTime<Utc>),
    /// Every row.
    All,
}

/// How a file relates to the rows that are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// None of its rows is replaced.
    Outside,
    /// All of its rows are replaced.
    Inside,
    /// Some of its rows may be replaced: it has to be read.
    Straddles,
}

/// Statistics are cut down to the millisecond: the true largest time is less than this above the stated one.
const CUT: TimeDelta = TimeDelta::milliseconds(1);

impl Deletes {
    /// The rows that a request replaces. What an undo replaces is found out from the table; until then it may be anything.
    pub fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Interval { interval } => Self::Within(*interval),
            Scope::Reset { delete_before: Some(stop), .. } => Self::Before(*stop),
            Scope::Reset { delete_before: None, .. } | Scope::Undo { .. } => Self::All,
        }
    }

    /// The bounds `[a, b)` of the replaced span; `None` is without end.
    pub fn bounds(self) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        match self {
            Self::Within(interval) => (Some(interval.start()), Some(interval.stop())),
            Self::Before(stop) => (None, Some(stop)),
            Self::All => (None, None),
        }
    }

    /// Whether two runs replace rows of the same span.
    pub fn overlaps(self, other: Self) -> bool {
        let ((a, b), (c, d)) = (self.bounds(), other.bounds());
        let before = |start: Option<DateTime<Utc>>, stop: Option<DateTime<Utc>>| match (start, stop) {
            (Some(start), Some(stop)) => start < stop,
            _ => true,
        };
        before(a, d) && before(c, b)
    }

    /// How a file relates to the replaced rows. Without statistics it has to be read.
    pub fn overlap(self, time: Option<TimeStats>) -> Overlap {
        let Self::Within(interval) = self else { return self.overlap_of_reset(time) };
        let Some(time) = time else { return Overlap::Straddles };
        // Before 1970 some writers cut towards zero, that is upwards: one more millisecond of doubt at the lower end.
        let min = if time.min < DateTime::UNIX_EPOCH { time.min - CUT } else { time.min };
        if time.max + CUT <= interval.start() || min >= interval.stop() {
            Overlap::Outside
        } else if time.nulls == 0 && min >= interval.start() && time.max + CUT <= interval.stop() {
            Overlap::Inside
        } else {
            Overlap::Straddles
        }
    }

    fn overlap_of_reset(self, time: Option<TimeStats>) -> Overlap {
        let Self::Before(stop) = self else { return Overlap::Inside };
        match time {
            None => Overlap::Straddles,
            Some(time) if time.max + CUT <= stop => Overlap::Inside,
            Some(time) if time.nulls == 0 && time.min >= stop && time.min >= DateTime::UNIX_EPOCH => Overlap::Outside,
            Some(_) => Overlap::Straddles,
        }
    }

    /// The predicate that holds for replaced rows; it is null or false for all others.
    pub fn predicate(self, time: &str) -> Expr {
        let t = || col(quoted(time));
        match self {
            Self::Within(interval) => t().gt_eq(instant(interval.start())).and(t().lt(instant(interval.stop()))),
            Self::Before(stop) => t().lt(instant(stop)).or(t().is_null()),
            Self::All => lit(true),
        }
    }

    /// Marks the replaced rows of a column of event times.
    pub fn mask(self, times: &TimestampMicrosecondArray) -> BooleanArray {
        let replaced = |t: Option<i64>| match (self, t) {
            (Self::All, _) | (Self::Before(_), None) => true,
            (Self::Within(_), None) => false,
            (Self::Before(stop), Some(t)) => t < stop.timestamp_micros(),
            (Self::Within(interval), Some(t)) => {
                interval.start().timestamp_micros() <= t && t < interval.stop().timestamp_micros()
            }
        };
        (0..times.len()).map(|row| Some(replaced((!times.is_null(row)).then(|| times.value(row))))).collect()
    }
}

/// A column reference that keeps the name's case.
pub fn quoted(name: &str) -> deltalake::datafusion::common::Column {
    deltalake::datafusion::common::Column::new_unqualified(name)
}

/// An instant as a literal of the table's event-time type.
pub fn instant(t: DateTime<Utc>) -> Expr {
    lit(micros(t.timestamp_micros()))
}

/// Microseconds since 1970 as a value of the table's event-time type.
pub fn micros(t: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(t), Some("UTC".into()))
}
