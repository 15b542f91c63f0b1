//! Instants, intervals and durations as users write them.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A non-empty span of event time in UTC: `start <= t < stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct Interval {
    start: DateTime<Utc>,
    stop: DateTime<Utc>,
}

/// The serialized form of an interval; deserializing refuses an empty one.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Bounds {
    start: DateTime<Utc>,
    stop: DateTime<Utc>,
}

/// The start does not lie before the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the start {} is not before the stop {}", show(*start), show(*stop))]
pub struct EmptyInterval {
    /// The start as resolved.
    pub start: DateTime<Utc>,
    /// The stop as resolved.
    pub stop: DateTime<Utc>,
}

impl Interval {
    /// A span from `start` up to, but not including, `stop`.
    pub fn new(start: DateTime<Utc>, stop: DateTime<Utc>) -> Result<Self, EmptyInterval> {
        if start < stop { Ok(Self { start, stop }) } else { Err(EmptyInterval { start, stop }) }
    }

    /// The first instant of the span.
    pub const fn start(self) -> DateTime<Utc> {
        self.start
    }

    /// The first instant after the span.
    pub const fn stop(self) -> DateTime<Utc> {
        self.stop
    }

    /// Whether `t` lies in the span.
    pub fn contains(self, t: DateTime<Utc>) -> bool {
        self.start <= t && t < self.stop
    }

    /// Whether the spans share an instant.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.stop && other.start < self.stop
    }

    /// The instants in both spans.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.stop.min(other.stop)).ok()
    }
}

impl From<Interval> for Bounds {
    fn from(Interval { start, stop }: Interval) -> Self {
        Self { start, stop }
    }
}

impl TryFrom<Bounds> for Interval {
    type Error = EmptyInterval;

    fn try_from(Bounds { start, stop }: Bounds) -> Result<Self, EmptyInterval> {
        Self::new(start, stop)
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {})", show(self.start), show(self.stop))
    }
}

/// An instant as status, reports and messages show it: RFC 3339 in UTC, as many digits as needed.
pub fn show(t: DateTime<Utc>) -> String {
    t.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The formats in which users give times, for messages.
pub const TIME_FORMATS: &str =
    "2024-05-01, 2024-05-01T12:30:00 or 2024-05-01 12:30:00, in UTC, with an optional Z after the time";

/// A time that cannot be used. Names the field, the value and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: \"{value}\" {fault}")]
pub struct TimeError {
    /// The field as in the manifest.
    pub field: String,
    /// The text as given.
    pub value: String,
    /// What is wrong with it.
    pub fault: TimeFault,
}

/// What is wrong with a time. The API server's rules say the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeFault {
    /// None of the formats.
    #[error("is not a time; write {TIME_FORMATS}")]
    Format,
    /// An offset or a zone.
    #[error("has an offset or a zone; times are UTC: convert it, or end it with Z")]
    Zone,
    /// A day that the calendar does not have.
    #[error("is no such day")]
    NoSuchDay,
    /// Second 60.
    #[error("is a leap second; leap seconds are not supported; use 00:00:00 of the next day")]
    LeapSecond,
    /// More than three digits of a second.
    #[error("is finer than 1 ms; give at most three digits after the second")]
    TooFine,
    /// A year before 1900 or after 9999.
    #[error("is out of range; years are 1900 to 9999")]
    Year,
}

/// Reads a time as users give it: one of [`TIME_FORMATS`], with up to three digits of a second.
///
/// `field` is the field's name, for the message.
pub fn parse_time(field: &str, text: &str) -> Result<DateTime<Utc>, TimeError> {
    instant(text).map_err(|fault| TimeError { field: field.to_owned(), value: text.to_owned(), fault })
}

fn instant(text: &str) -> Result<DateTime<Utc>, TimeFault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits < 4 {
        return Err(TimeFault::Format);
    }
    let (year, rest) = text.split_at(digits);
    let (date, rest) = rest.split_at_checked(6).ok_or(TimeFault::Format)?;
    let [month, day] = fields(date, ['-', '-'])?;
    let clock = Clock::read(rest)?;
    if digits > 4 || year < "1900" {
        return Err(TimeFault::Year);
    }
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(TimeFault::Format);
    }
    let year = year.parse().map_err(|_| TimeFault::Format)?;
    NaiveDate::from_ymd_opt(year, month, day)
        .ok_or(TimeFault::NoSuchDay)?
        .and_hms_milli_opt(clock.hour, clock.minute, clock.second, clock.milli)
        .map(|naive| naive.and_utc())
        .ok_or(TimeFault::Format)
}

/// The part of a time after the date.
#[derive(Default)]
struct Clock {
    hour: u32,
    minute: u32,
    second: u32,
    milli: u32,
}

impl Clock {
    fn read(text: &str) -> Result<Self, TimeFault> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (clock, rest) = text.split_at_checked(9).ok_or(TimeFault::Format)?;
        let separator = if clock.starts_with('T') { 'T' } else { ' ' };
        let [hour, minute, second] = fields(clock, [separator, ':', ':'])?;
        let (fraction, zone) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("0", rest),
        };
        if fraction.is_empty() || hour > 23 || minute > 59 || second > 60 {
            return Err(TimeFault::Format);
        }
        if !matches!(zone, "" | "Z") {
            let begins_zone = |c: char| c == '+' || c == '-' || c.is_ascii_alphabetic();
            return Err(if zone.trim_start_matches(' ').starts_with(begins_zone) { TimeFault::Zone } else { TimeFault::Format });
        }
        if second == 60 {
            return Err(TimeFault::LeapSecond);
        }
        if fraction.len() > 3 {
            return Err(TimeFault::TooFine);
        }
        let milli = format!("{fraction:0<3}").parse().map_err(|_| TimeFault::Format)?;
        Ok(Self { hour, minute, second, milli })
    }
}

/// Reads numbers of two digits, each after its separator, from text of exactly that form.
fn fields<const N: usize>(text: &str, separators: [char; N]) -> Result<[u32; N], TimeFault> {
    let mut values = [0; N];
    let bytes = text.as_bytes();
    for (index, (value, separator)) in values.iter_mut().zip(separators).enumerate() {
        match bytes.get(index * 3..index * 3 + 3) {
            Some(&[found, tens @ b'0'..=b'9', units @ b'0'..=b'9']) if char::from(found) == separator => {
                *value = u32::from(tens - b'0') * 10 + u32::from(units - b'0');
            }
            _ => return Err(TimeFault::Format),
        }
    }
    Ok(values)
}

/// A duration that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: \"{value}\" is not a duration; write for instance 90s, 15m, 1h30m or 2d, more than zero and at most {DURATION_DAYS_MAX}d"
)]
pub struct DurationError {
    /// The field as in the manifest.
    pub field: String,
    /// The text as given.
    pub value: String,
}

/// The longest duration in days.
pub const DURATION_DAYS_MAX: u64 = 36_500;

/// Reads a duration in seconds: whole numbers with the units `d`, `h`, `m` and `s`, each at most once and in this order.
///
/// `field` is the field's name, for the message.
pub fn parse_duration(field: &str, text: &str) -> Result<u64, DurationError> {
    seconds(text)
        .filter(|seconds| (1..=DURATION_DAYS_MAX * 86_400).contains(seconds))
        .ok_or_else(|| DurationError { field: field.to_owned(), value: text.to_owned() })
}

fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            total = number.parse::<u64>().ok()?.checked_mul(length)?.checked_add(total)?;
            rest = after;
        }
    }
    rest.is_empty().then_some(total)
}

#[cfg(test)]
mod tests;
