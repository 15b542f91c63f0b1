//! `backfill status`: how a backfill stands, what it did, and what to do next.

use crate::args::{Connection, Format, Output};
use crate::failure::{Exit, Result};
use crate::find;
use crate::lane::{self, place};
use crate::print::{self, age, instant, phase, status_word, time};
use backfill_core::api::{Attempt, FeatureSetBackfill, FeatureSetBackfillStatus, Mode};
use backfill_core::condition::{ConditionType, is_true};
use backfill_core::contract::{Proof, Verdict};
use backfill_core::plan::rests;
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use std::fmt::Write;

/// `backfill status`, and the vendor's `execution-status`.
pub async fn status(connection: &Connection, name: &str, output: Output) -> Result<Exit> {
    let (_, backfill) = find::named(connection, name).await?;
    match output.output {
        None | Some(Format::Wide) => print!("{}", text(&backfill, Utc::now())),
        Some(_) => print::backfill(&backfill, output)?,
    }
    Ok(Exit::Ok)
}

/// Everything that a person wants to know.
pub fn text(backfill: &FeatureSetBackfill, now: DateTime<Utc>) -> String {
    let mut text = format!("{}: {}\n", backfill.name_any(), lane::line(backfill));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    for (name, value) in asked(backfill) {
        line(name, &value);
    }
    if let Some(status) = &backfill.status {
        for (name, value) in done(status) {
            line(name, &value);
        }
        for (number, attempt) in status.attempts.iter().enumerate() {
            line(if number == 0 { "attempts" } else { "" }, &attempt_line(attempt, now));
        }
    }
    line("next", &next(backfill));
    if let Some(status) = backfill.status.as_ref().filter(|status| !status.conditions.is_empty()) {
        let mut table = print::table(&["  CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"]);
        for condition in &status.conditions {
            table.add_row([
                format!("  {:?}", condition.kind),
                status_word(condition.status).to_owned(),
                condition.reason.to_string(),
                instant(&condition.last_transition_time).map_or_else(String::new, |then| age(then, now)),
                condition.message.clone(),
            ]);
        }
        let _ = writeln!(text, "\n{}", table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
    }
    text
}

fn asked(backfill: &FeatureSetBackfill) -> Vec<(&'static str, String)> {
    let spec = &backfill.spec;
    let given = |time: &Option<String>| time.clone().unwrap_or_else(|| "…".to_owned());
    let bounded = spec.start_time.is_some() || spec.stop_time.is_some();
    let bounds = format!("[{}, {})", given(&spec.start_time), given(&spec.stop_time));
    let what = match (&spec.undo, spec.reset == Some(true)) {
        (Some(undo), _) => format!("undo {undo}"),
        (None, true) if bounded => format!("reset, filled again {bounds}"),
        (None, true) => "reset".to_owned(),
        (None, false) => bounds,
    };
    let plan = if spec.mode == Some(Mode::Plan) { " (plan only)" } else { "" };
    let mut lines = vec![
        ("feature set", format!("{} in {}", spec.feature_set, backfill.namespace().unwrap_or_default())),
        ("asked", format!("{what}{plan}")),
    ];
    lines.extend(spec.comment.clone().map(|comment| ("comment", comment)));
    lines
}

fn done(status: &FeatureSetBackfillStatus) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(resolved) = &status.resolved {
        if let Some(span) = &resolved.interval {
            lines.push(("boundaries", format!("{} <= t < {}", span.start, span.stop)));
        }
        lines.push(("stores", lane::stores(resolved.stores).to_owned()));
        lines.push(("template", resolved.cluster_template.clone()));
        lines.extend(resolved.warnings.iter().map(|notice| ("warning", notice.message.clone())));
    }
    if let Some(report) = &status.offline {
        lines.push(("offline", lane::offline(report) + &took(&report.started_at, &report.finished_at)));
        lines.extend(report.proof.as_ref().map(|proof| ("proof", proof_line(proof))));
        let shown = |verdict| matches!(verdict, Verdict::Failed | Verdict::Warned);
        let guards = report.guards.iter().filter(|guard| shown(guard.verdict));
        lines.extend(guards.map(|guard| ("guard", format!("{}: {}", guard.name, guard.message))));
    }
    if let Some(report) = &status.online {
        lines.push(("online", lane::online(report) + &took(&report.started_at, &report.finished_at)));
    }
    lines
}

fn took(from: &Option<String>, to: &Option<String>) -> String {
    let (Some(from), Some(to)) = (from.as_deref().and_then(instant), to.as_deref().and_then(instant)) else {
        return String::new();
    };
    format!("; {}", time(to - from))
}

fn proof_line(proof: &Proof) -> String {
    match proof.verdict {
        Verdict::Passed => format!(
            "the outside is unchanged: {} files untouched, {} rows in rewritten files equal",
            print::number(proof.files_untouched),
            print::number(proof.rows_outside_after)
        ),
        Verdict::NotApplicable => "the table is new: there is no outside".to_owned(),
        Verdict::Warned | Verdict::Failed => {
            format!("FAILED: {} rows outside before, {} after", proof.rows_outside_before, proof.rows_outside_after)
        }
    }
}

fn attempt_line(attempt: &Attempt, now: DateTime<Utc>) -> String {
    let ended = attempt.ended.map_or_else(|| "at work".to_owned(), |reason| reason.to_string());
    let since = instant(&attempt.started_at).map_or_else(String::new, |then| format!(", begun {} ago", age(then, now)));
    format!("{} {}: {ended}{since} ({})", attempt.step.word(), attempt.attempt, attempt.job)
}

fn next(backfill: &FeatureSetBackfill) -> String {
    let place = place(backfill);
    let is = |kind| is_true(lane::conditions(backfill), kind);
    let verb = match phase(backfill) {
        _ if is(ConditionType::Complete) => "undo",
        "Suspended" => "resume",
        _ if is(ConditionType::Failed) => "retry",
        _ if rests(backfill) => return format!("kubectl features backfill plan {place} --apply"),
        _ => "watch",
    };
    format!("kubectl features backfill {verb} {place}")
}
