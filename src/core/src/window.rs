//! Windows: the slices of an interval for which the transformation runs once.
//!
//! Knows ticks and event times, not tables: which rows are read and written is the worker's business.

use crate::api::Stamp;
use crate::condition::Reason;
use crate::contract::{Schedule, Ticks};
use crate::time::{Interval, show};
use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// The most windows that one backfill runs.
pub const WINDOWS_MAX: usize = 100_000;

/// One run of the transformation, and the rows that belong to it.
///
/// Row ranges of one interval's windows never overlap and never leave the interval. With `stamp: Start` they cover it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    start: DateTime<Utc>,
    stop: DateTime<Utc>,
    rows: Interval,
    partial: bool,
}

impl Window {
    /// The one window of a feature set without a schedule: the interval itself.
    pub const fn whole(interval: Interval) -> Self {
        Self { start: interval.start(), stop: interval.stop(), rows: interval, partial: false }
    }

    /// `$window_start`: a tick, or the interval's start when that lies between two ticks (`stamp: Start` only).
    pub const fn start(&self) -> DateTime<Utc> {
        self.start
    }

    /// `$window_stop`: a tick, or the interval's stop when that lies between two ticks (`stamp: Start` only).
    pub const fn stop(&self) -> DateTime<Utc> {
        self.stop
    }

    /// Whether a bound of the interval, not a tick, ends this window.
    pub const fn partial(&self) -> bool {
        self.partial
    }

    /// Whether a row with event time `t` belongs to this window.
    pub fn owns(&self, t: DateTime<Utc>) -> bool {
        self.rows.contains(t)
    }

    /// The event times of the rows that belong to this window, in microseconds since 1970: lower bound inclusive, upper exclusive.
    pub const fn rows(&self) -> (i64, i64) {
        (self.rows.start().timestamp_micros(), self.rows.stop().timestamp_micros())
    }
}

/// Why an interval cannot be cut into windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The expression is no cron expression of five fields.
    #[error(
        "\"{expression}\" is not a cron expression of five fields (minute hour day-of-month month day-of-week), in UTC: {why}"
    )]
    Cron {
        /// The expression as given.
        expression: String,
        /// What is wrong with it.
        why: String,
    },
    /// There are more than [`WINDOWS_MAX`].
    #[error("the interval {interval} has more than {WINDOWS_MAX} windows; replace it in several backfills")]
    TooMany {
        /// The interval.
        interval: Interval,
    },
    /// With `stamp: Stop`, no tick lies in the interval.
    #[error("no window of the feature set stops in {interval}{}", hint(*nearest))]
    NoTick {
        /// The interval.
        interval: Interval,
        /// The first tick after the interval.
        nearest: Option<DateTime<Utc>>,
    },
}

fn hint(nearest: Option<DateTime<Utc>>) -> String {
    nearest.map_or_else(String::new, |tick| format!("; the next one stops at {}: give a later stopTime", show(tick)))
}

impl WindowError {
    /// The reason under which the error is shown.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Cron { .. } => Reason::InvalidSchedule,
            Self::TooMany { .. } => Reason::TooManyWindows,
            Self::NoTick { .. } => Reason::EmptyInterval,
        }
    }
}

/// Cuts `interval` at the ticks of `schedule`; without one there is a single window.
///
/// With `stamp: Start`, a window is what lies between two ticks, and the interval cuts the first and the last. With `stamp: Stop`,
/// windows are whole: those whose stop lies in the interval, also when they begin before it. Their rows are those after the
/// window's start, up to and including its stop, as far as they lie in the interval.
///
/// The result is in order, never empty, and has at most [`WINDOWS_MAX`] windows.
pub fn windows(schedule: Option<&Schedule>, interval: Interval) -> Result<Vec<Window>, WindowError> {
    let Some(schedule) = schedule else { return Ok(vec![Window::whole(interval)]) };
    let ruler = Ruler::new(&schedule.ticks)?;
    match schedule.stamp {
        Stamp::Start => between_ticks(&ruler, interval),
        Stamp::Stop => up_to_ticks(&ruler, interval),
    }
}

fn between_ticks(ruler: &Ruler, interval: Interval) -> Result<Vec<Window>, WindowError> {
    let mut windows = Vec::new();
    let mut start = interval.start();
    let mut starts_at_tick = ruler.first_from(start) == Some(start);
    while start < interval.stop() {
        if windows.len() == WINDOWS_MAX {
            return Err(WindowError::TooMany { interval });
        }
        let tick = ruler.next_after(start).filter(|tick| *tick <= interval.stop());
        let stop = tick.unwrap_or(interval.stop());
        if let Ok(rows) = Interval::new(start, stop) {
            windows.push(Window { start, stop, rows, partial: !starts_at_tick || tick.is_none() });
        }
        start = stop;
        starts_at_tick = true;
    }
    Ok(windows)
}

fn up_to_ticks(ruler: &Ruler, interval: Interval) -> Result<Vec<Window>, WindowError> {
    let mut windows = Vec::new();
    let first = ruler.first_from(interval.start());
    let mut start = first.and_then(|tick| ruler.last_before(tick)).unwrap_or(interval.start());
    let mut next = first;
    while let Some(stop) = next.filter(|tick| *tick < interval.stop()) {
        if windows.len() == WINDOWS_MAX {
            return Err(WindowError::TooMany { interval });
        }
        let after = |t: DateTime<Utc>| t + TimeDelta::microseconds(1);
        if let Ok(rows) = Interval::new(after(start).max(interval.start()), after(stop)) {
            windows.push(Window { start, stop, rows, partial: false });
        }
        start = stop;
        next = ruler.next_after(stop);
    }
    if windows.is_empty() { Err(WindowError::NoTick { interval, nearest: next }) } else { Ok(windows) }
}

/// Finds ticks. Ticks are whole seconds, so times are compared by their second.
enum Ruler {
    Every(TimeDelta),
    Cron(Box<Cron>),
}

impl Ruler {
    fn new(ticks: &Ticks) -> Result<Self, WindowError> {
        match ticks {
            Ticks::EverySeconds(seconds) => Ok(Self::Every(TimeDelta::seconds((*seconds).clamp(1, 1 << 40).cast_signed()))),
            Ticks::Cron(expression) => cron(expression).map(|cron| Self::Cron(Box::new(cron))),
        }
    }

    /// The first tick at or after `t`.
    fn first_from(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let second = whole_second(t);
        match self {
            Self::Every(_) => self.next_after(t - TimeDelta::nanoseconds(1)),
            Self::Cron(cron) => cron.find_next_occurrence(&second, second == t).ok(),
        }
    }

    /// The first tick after `t`.
    fn next_after(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(step) => floor(t, *step)?.checked_add_signed(*step),
            Self::Cron(cron) => cron.find_next_occurrence(&whole_second(t), false).ok(),
        }
    }

    /// The last tick before the tick `t`.
    fn last_before(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(step) => t.checked_sub_signed(*step),
            Self::Cron(cron) => cron.find_previous_occurrence(&t, false).ok(),
        }
    }
}

fn floor(t: DateTime<Utc>, step: TimeDelta) -> Option<DateTime<Utc>> {
    let seconds = step.num_seconds();
    DateTime::from_timestamp(t.timestamp().div_euclid(seconds).checked_mul(seconds)?, 0)
}

fn whole_second(t: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(t.timestamp(), 0).unwrap_or(t)
}

fn cron(expression: &str) -> Result<Cron, WindowError> {
    let refuse = |why: String| WindowError::Cron { expression: expression.to_owned(), why };
    let fields = expression.split_whitespace().count();
    if fields != 5 {
        return Err(refuse(format!("it has {fields}")));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(expression).map_err(|error| refuse(error.to_string().trim_end_matches('.').to_owned()))?;
    match cron.find_next_occurrence(&DateTime::UNIX_EPOCH, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(refuse("there is no such day".to_owned())),
    }
}

#[cfg(test)]
mod tests;
