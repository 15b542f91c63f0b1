//! The rows that the tests of this folder replace: users' events of May 2024, and what a source that was corrected says.

use serde_json::{Value, json};
use std::collections::BTreeSet;

/// How many users there are.
pub const USERS: i64 = 120;

/// Even users have no events after this day of May: their newest rows are inside the interval that is corrected.
pub const EVEN_LAST: i64 = 20;

const DAY: i64 = 86_400_000_000;

/// 2024-05-01T00:00:00Z in microseconds.
pub const MAY: i64 = 1_714_521_600_000_000;

/// The bounds of the correction: from 10 to 25 May.
pub const INTERVAL: (&str, &str) = ("2024-05-10", "2024-05-25");

/// The same in microseconds.
pub fn interval() -> (i64, i64) {
    (MAY + 9 * DAY, MAY + 24 * DAY)
}

/// One row per user and day of May. `version` and `twin` always agree, so that a mixed row can be told.
pub fn rows(version: i64) -> Vec<Value> {
    let days = (0..31).flat_map(|day| (1..=USERS).map(move |user| (day, user)));
    let kept = days.filter(|(day, user)| user % 2 == 1 || *day < EVEN_LAST);
    kept.map(|(day, user)| json!({"user_id": user, "t": MAY + day * DAY + user, "version": version, "twin": version})).collect()
}

/// What the table holds when the interval has rows of `inside` and the rest those of `outside`, in no order.
pub fn mixed(inside: i64, outside: i64) -> BTreeSet<String> {
    let (start, stop) = interval();
    let is_inside = |row: &&Value| row["t"].as_i64().is_some_and(|t| (start..stop).contains(&t));
    let (new, old) = (rows(inside), rows(outside));
    let chosen = new.iter().filter(is_inside).chain(old.iter().filter(|row| !is_inside(row)));
    chosen.map(Value::to_string).collect()
}

/// How many rows are outside and inside the interval.
pub fn counts() -> (usize, usize) {
    let (start, stop) = interval();
    let all = rows(0);
    let inside = all.iter().filter(|row| row["t"].as_i64().is_some_and(|t| (start..stop).contains(&t))).count();
    (all.len() - inside, inside)
}

/// The version that a user's online row has: that of their newest row.
pub fn online(user: i64, inside: i64, outside: i64) -> i64 {
    if user % 2 == 0 { inside } else { outside }
}
