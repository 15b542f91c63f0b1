//! Draws what of a feature set's event time was replaced, offline and online, and by which backfill.

use crate::print::{columns_of_terminal, instant};
use crate::sets::day;
use backfill_core::api::{FeatureSet, LedgerEntry, Span};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use std::fmt::Write;
use std::io::IsTerminal;

/// The columns of a drawing that nobody looks at on a terminal.
const WIDTH: usize = 72;

/// The columns left of the lanes.
const MARGIN: usize = 12;

/// How many columns there are.
pub fn width() -> usize {
    if std::io::stdout().is_terminal() { usize::from(columns_of_terminal()).clamp(40, 200) } else { WIDTH + MARGIN }
}

/// An axis of event time, cut into cells.
struct Axis {
    start: i64,
    stop: i64,
    cells: usize,
}

impl Axis {
    fn bounds(&self, cell: usize) -> (i64, i64) {
        let at = |cell: usize| {
            let share = (i128::from(self.stop) - i128::from(self.start)) * cell as i128 / self.cells as i128;
            self.start + i64::try_from(share).unwrap_or_default()
        };
        (at(cell), at(cell + 1).max(at(cell) + 1))
    }

    /// A letter for each cell.
    fn lane(&self, letter: impl Fn((i64, i64)) -> char) -> String {
        (0..self.cells).map(|cell| letter(self.bounds(cell))).collect()
    }
}

/// The lanes of a feature set, and a line for each of the last replacements.
pub fn draw(set: &FeatureSet, width: usize) -> String {
    let status = set.status.clone().unwrap_or_default();
    let covered: Vec<(i64, i64)> = status.coverage.iter().filter_map(seconds).collect();
    let entries: Vec<(&LedgerEntry, (i64, i64))> =
        status.ledger.iter().filter_map(|entry| Some((entry, replaced(entry)?))).collect();
    let all = || covered.iter().copied().chain(entries.iter().filter_map(|(entry, _)| entry.filled.as_ref().and_then(seconds)));
    let bounded = entries.iter().map(|(_, span)| *span).filter(|(start, stop)| *start > i64::MIN && *stop < i64::MAX);
    let (Some(start), Some(stop)) =
        (all().chain(bounded.clone()).map(|span| span.0).min(), all().chain(bounded).map(|span| span.1).max())
    else {
        return format!("Nothing of \"{}\" was replaced yet.\n", set.name_any());
    };
    let axis = Axis { start, stop, cells: width.saturating_sub(MARGIN).max(10) };
    let mut text = format!("{}\n{:MARGIN$}{}\n", set.name_any(), "", scale(&axis));
    let touches = |(a, b): (i64, i64), (c, d): (i64, i64)| a < d && c < b;
    let offline = axis.lane(|cell| if covered.iter().any(|span| touches(*span, cell)) { '█' } else { '·' });
    let online = axis.lane(|cell| {
        // The newest is the first.
        match entries.iter().find(|(_, span)| touches(*span, cell)) {
            Some((entry, _)) if entry.online => '█',
            Some(_) => '░',
            None if covered.iter().any(|span| touches(*span, cell)) => '▒',
            None => '·',
        }
    });
    let _ = writeln!(text, "{:<MARGIN$}{offline}\n{:<MARGIN$}{online}", "offline", "online");
    let _ = writeln!(text, "{:MARGIN$}█ replaced  ░ offline only  ▒ before the last 20 replacements  · never", "");
    for (entry, span) in &entries {
        let lane = axis.lane(|cell| if touches(*span, cell) { '█' } else { '·' });
        let stores = if entry.online { "offline and online" } else { "offline" };
        let comment = entry.comment.as_ref().map_or_else(String::new, |comment| format!(", {comment}"));
        let _ = writeln!(text, "\n{:MARGIN$}{}: {stores}, version {}{comment}", "", entry.backfill, entry.version);
        let _ = writeln!(text, "{:<MARGIN$.10}{lane}", day(&entry.at));
    }
    text
}

/// The first and the last day.
fn scale(axis: &Axis) -> String {
    let day = |seconds| {
        DateTime::<Utc>::from_timestamp(seconds, 0).map_or_else(String::new, |time| time.format("%Y-%m-%d").to_string())
    };
    let (first, last) = (day(axis.start), day(axis.stop));
    let gap = axis.cells.saturating_sub(first.len() + last.len());
    format!("{first}{}{last}", " ".repeat(gap))
}

fn seconds(span: &Span) -> Option<(i64, i64)> {
    let second = |text: &str| Some(instant(text)?.timestamp());
    Some((second(&span.start)?, second(&span.stop)?))
}

/// What an entry replaced: of a reset everything, up to its stop.
fn replaced(entry: &LedgerEntry) -> Option<(i64, i64)> {
    let second = |text: &Option<String>, otherwise: i64| match text {
        Some(text) => Some(instant(text)?.timestamp()),
        None => Some(otherwise),
    };
    Some((second(&entry.start, i64::MIN)?, second(&entry.stop, i64::MAX)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(status: &serde_json::Value) -> FeatureSet {
        serde_json::from_value(json!({
            "metadata": { "name": "clicks" },
            "spec": { "entities": [], "timestampColumn": "t", "features": [], "sources": [], "transformation": { "sql": "" } },
            "status": status,
        }))
        .expect("a feature set")
    }

    #[test]
    fn lanes_show_what_was_replaced() {
        let entry = |name: &str, start: &str, stop: &str, online: bool| {
            json!({ "backfill": name, "key": "k", "start": start, "stop": stop, "version": 3, "online": online,
                    "definition": "d", "at": "2024-06-01T12:00:00Z" })
        };
        let status = json!({
            "coverage": [{ "start": "2024-01-01T00:00:00Z", "stop": "2024-01-21T00:00:00Z" }],
            "ledger": [entry("second", "2024-01-06T00:00:00Z", "2024-01-11T00:00:00Z", false),
                       entry("first", "2024-01-01T00:00:00Z", "2024-01-16T00:00:00Z", true)],
        });
        let text = draw(&set(&status), 32);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "            2024-01-012024-01-21");
        assert_eq!(lines[2], "offline     ████████████████████");
        assert_eq!(lines[3], "online      █████░░░░░█████▒▒▒▒▒");
        assert_eq!(lines[6], "            second: offline, version 3");
        assert_eq!(lines[7], "2024-06-01  ·····█████··········");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(draw(&set(&json!({})), 80), "Nothing of \"clicks\" was replaced yet.\n");
    }
}
