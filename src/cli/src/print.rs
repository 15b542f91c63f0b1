//! How objects are printed: tables for people, documents for programs. Data go to standard output.

use crate::args::{Format, Output};
use crate::failure::{Failure, Result};
use backfill_core::api::{FeatureSetBackfill, Mode};
use backfill_core::condition::{Condition, ConditionStatus, ConditionType};
use backfill_core::contract::Size;
use backfill_core::plan::created as created_at;
use backfill_core::request::Template;
use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{Cell, Color, ContentArrangement, Table};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use std::io::IsTerminal;

/// Prints objects as documents, or as the table that `table` makes.
pub fn objects<K>(found: &[K], output: Output, table: impl FnOnce(bool) -> Table) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    match output.output {
        None => println!("{}", table(false)),
        Some(Format::Wide) => println!("{}", table(true)),
        Some(Format::Name) => found.iter().for_each(|object| println!("{}", reference(object))),
        Some(Format::Json | Format::Yaml) => {
            let items: Vec<K> = found.iter().map(tidy).collect();
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
            print!("{}", document(&list, output.output)?);
        }
    }
    Ok(())
}

/// Prints one object as a document, or by its table.
pub fn object<K>(object: &K, output: Output, table: impl FnOnce(bool) -> Table) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    match output.output {
        Some(Format::Json | Format::Yaml) => print!("{}", document(&tidy(object), output.output)?),
        _ => objects(std::slice::from_ref(object), output, table)?,
    }
    Ok(())
}

/// Prints one backfill.
pub fn backfill(found: &FeatureSetBackfill, output: Output) -> Result<()> {
    object(found, output, |wide| backfills(std::slice::from_ref(found), false, wide))
}

/// Says what became of a backfill, in kubectl's words.
pub fn created(backfill: &FeatureSetBackfill, word: &str, output: Output) -> Result<()> {
    match output.output {
        None => println!("{} {word}", reference(backfill)),
        Some(_) => self::backfill(backfill, output)?,
    }
    Ok(())
}

/// A manifest for git: what was asked, and nothing of a cluster.
pub fn manifest(backfill: &FeatureSetBackfill) -> Result<String> {
    document(backfill, Some(Format::Yaml))
}

/// One document, with the newline at its end.
pub fn document<T: Serialize>(value: &T, format: Option<Format>) -> Result<String> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("cannot print the object: {error}"));
    let text = match format {
        Some(Format::Yaml) => serde_saphyr::to_string(value).map_err(|error| failed(&error))?,
        _ => serde_json::to_string_pretty(value).map_err(|error| failed(&error))?,
    };
    Ok(format!("{}\n", text.trim_end()))
}

fn tidy<K: Resource + Clone>(object: &K) -> K {
    let mut object = object.clone();
    object.meta_mut().managed_fields = None;
    object
}

fn reference<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}.{}/{}", K::kind(&()).to_lowercase(), K::group(&()), object.name_any())
}

/// A table of columns without lines.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(columns);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns_of_terminal());
    }
    if !colours() {
        table.force_no_tty();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The terminal's width, else 80.
pub fn columns_of_terminal() -> u16 {
    Table::new().width().unwrap_or(80)
}

/// Whether standard output takes colours.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Backfills as a table.
pub fn backfills(found: &[FeatureSetBackfill], namespaces: bool, wide: bool) -> Table {
    let mut columns = vec!["NAME", "FEATURE SET", "MODE", "START", "STOP", "PHASE", "OFFLINE", "ONLINE", "AGE"];
    if wide {
        columns.extend(["REASON", "TEMPLATE", "ROWS", "ENTITIES", "COMMENT"]);
    }
    if namespaces {
        columns.insert(0, "NAMESPACE");
    }
    let mut table = table(&columns);
    for backfill in found {
        let mut row: Vec<Cell> = Vec::new();
        if namespaces {
            row.push(Cell::new(backfill.namespace().unwrap_or_default()));
        }
        row.extend(cells(backfill, wide));
        table.add_row(row);
    }
    table
}

fn cells(backfill: &FeatureSetBackfill, wide: bool) -> Vec<Cell> {
    let status = backfill.status.as_ref();
    let resolved = status.and_then(|status| status.resolved.as_ref());
    let interval = resolved.and_then(|resolved| resolved.interval.as_ref());
    let condition = |kind| {
        let found = status.and_then(|status| status.conditions.iter().find(|condition: &&Condition| condition.kind == kind));
        found.map_or("", |condition| status_word(condition.status)).to_owned()
    };
    let asked = |time: &Option<String>| time.clone().unwrap_or_default();
    let phase = phase(backfill);
    let mut cells = vec![
        Cell::new(backfill.name_any()),
        Cell::new(&backfill.spec.feature_set),
        Cell::new(kind(backfill)),
        Cell::new(interval.map_or_else(|| asked(&backfill.spec.start_time), |span| span.start.clone())),
        Cell::new(interval.map_or_else(|| asked(&backfill.spec.stop_time), |span| span.stop.clone())),
        Cell::new(phase).fg(colour(phase)),
        Cell::new(condition(ConditionType::OfflineReplaced)),
        Cell::new(condition(ConditionType::OnlineReplaced)),
        Cell::new(age(created_at(backfill), Utc::now())),
    ];
    if wide {
        let ready = status.and_then(|status| status.conditions.iter().find(|condition| condition.kind == ConditionType::Ready));
        let (offline, online) = (status.and_then(|s| s.offline.as_ref()), status.and_then(|s| s.online.as_ref()));
        cells.extend(
            [
                ready.map_or_else(String::new, |condition| condition.reason.to_string()),
                resolved.map_or_else(String::new, |resolved| resolved.cluster_template.clone()),
                offline.map_or_else(String::new, |offline| number(offline.rows_written)),
                online.map_or_else(String::new, |online| number(online.entities_updated)),
                backfill.spec.comment.clone().unwrap_or_default(),
            ]
            .map(Cell::new),
        );
    }
    cells
}

/// What was asked, in one word.
pub fn kind(backfill: &FeatureSetBackfill) -> &'static str {
    let spec = &backfill.spec;
    match (spec.mode.unwrap_or_default(), spec.undo.is_some(), spec.reset == Some(true)) {
        (Mode::Plan, ..) => "Plan",
        (Mode::Apply, true, _) => "Undo",
        (Mode::Apply, false, true) => "Reset",
        (Mode::Apply, false, false) => "Interval",
    }
}

/// The operator's word; before it has seen the backfill, `Pending`.
pub fn phase(backfill: &FeatureSetBackfill) -> &str {
    backfill.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The colour of a phase.
pub fn colour(phase: &str) -> Color {
    match phase {
        "Complete" | "Planned" => Color::Green,
        "Failed" | "Stalled" => Color::Red,
        "Cancelled" | "Suspended" | "Settling" => Color::Yellow,
        "Running" | "Starting" => Color::Blue,
        _ => Color::Reset,
    }
}

/// As `kubectl` writes them.
pub const fn status_word(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

/// An instant as statuses have it.
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// How long ago, as `kubectl` writes it.
pub fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    time((now - then).max(TimeDelta::zero()))
}

/// A time in its two largest units at most.
pub fn time(time: TimeDelta) -> String {
    match (time.num_seconds(), time.num_minutes(), time.num_hours(), time.num_days()) {
        (seconds, 0..2, ..) => format!("{seconds}s"),
        (seconds, minutes @ 2..10, ..) => format!("{minutes}m{}s", seconds % 60),
        (_, minutes, 0..3, _) => format!("{minutes}m"),
        (_, minutes, hours @ 3..8, _) => format!("{hours}h{}m", minutes % 60),
        (_, _, hours, 0..2) => format!("{hours}h"),
        (.., days) => format!("{days}d"),
    }
}

/// With thousands separated: `1,234,567`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The pods of a template.
pub fn sizes(template: &Template) -> String {
    let pods = |count: u32, size: &Size| format!("{count} × {} cores, {}", size.cores, bytes(size.memory_bytes));
    format!(
        "{:?}, {}; online {}",
        template.engine,
        pods(template.nodes, &template.size),
        pods(template.online_parallelism, &template.online)
    )
}

fn bytes(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{}Gi", bytes >> 30),
        _ => format!("{}Mi", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
        let day = 86_400;
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (150, "2m30s"), (3600, "60m"), (4 * 3600 + 300, "4h5m"), (day, "24h"), (3 * day, "3d")]
        {
            assert_eq!(time(TimeDelta::seconds(seconds)), text);
        }
    }
}
