//! What `local` shows: progress on standard error, results on standard output.

use super::Ended;
use backfill_core::condition::{Condition, ConditionStatus, ConditionType};
use backfill_core::contract::{OfflineReport, OnlineReport, Outcome, Progress, Scope, Verdict};
use backfill_core::time::show as instant;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Shows progress while a backfill runs: a bar on a terminal, else a line per stage.
pub fn watch(name: &str, mut progress: watch::Receiver<Progress>, wanted: bool) -> JoinHandle<()> {
    let name = name.to_owned();
    tokio::spawn(async move {
        if !wanted {
            return;
        }
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix}  {msg:<12} {bar:32} {pos}/{len}");
            let bar = ProgressBar::new(0).with_prefix(name.clone());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let mut stage = String::new();
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            match &bar {
                Some(bar) => {
                    bar.set_length(now.total);
                    bar.set_position(now.done);
                    bar.set_message(now.stage);
                }
                None if now.stage != stage => {
                    eprintln!("{name}: {}", now.stage);
                    stage = now.stage;
                }
                None => {}
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    })
}

/// Prints what became of a backfill.
pub fn text(ended: &Ended) {
    println!("{}/{}  {}", ended.namespace, ended.name, word(ended));
    if let Some(comment) = &ended.comment {
        line("comment", comment);
    }
    line("feature set", &ended.feature_set);
    if let Some(scope) = &ended.scope {
        line("boundaries", &boundaries(scope));
    }
    if let Some(report) = &ended.offline {
        if let Some(offline) = &report.offline {
            offline_lines(offline, matches!(report.outcome, Outcome::Planned));
        }
        if let (Some(online), Outcome::Planned) = (&report.online, &report.outcome) {
            line(
                "online",
                &format!(
                    "{} entities to update, {} to remove, {} keep a newer row",
                    online.entities_updated, online.entities_removed, online.entities_kept_newer
                ),
            );
        }
    }
    if let Some(online) = ended.online.as_ref().and_then(|report| report.online.as_ref()) {
        line("online", &online_line(online));
    }
    for notice in &ended.warnings {
        line("warning", &format!("{}: {}", notice.reason, notice.message));
    }
    if let Some(message) = ended.conditions.first().map(|condition| &condition.message) {
        line("message", message);
    }
    let conditions: Vec<String> = ended.conditions.iter().map(condition).collect();
    for (number, conditions) in conditions.chunks(3).enumerate() {
        line(if number == 0 { "conditions" } else { "" }, &conditions.join(", "));
    }
    println!();
}

/// As the documentation writes conditions: `OnlineReplaced=False Skipped`.
fn condition(condition: &Condition) -> String {
    let status = match condition.status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    };
    format!("{:?}={status} {}", condition.kind, condition.reason)
}

/// Prints where everything is.
pub fn end(state: &Path, backfills: usize, code: u8) {
    let verdict = match code {
        0 => "all complete",
        10 => "planned; nothing was published",
        _ => "not all complete",
    };
    println!("{backfills} backfills: {verdict}. The data are in {}.", state.display());
}

fn line(name: &str, value: &str) {
    println!("  {name:<12} {value}");
}

fn word(ended: &Ended) -> &'static str {
    let true_of = |kind| ended.conditions.iter().find(|c| c.kind == kind && c.status == ConditionStatus::True);
    if true_of(ConditionType::Failed).is_some() {
        "Failed"
    } else if let Some(complete) = true_of(ConditionType::Complete) {
        complete.reason.word()
    } else if let Some(ready) = true_of(ConditionType::Ready) {
        ready.reason.word()
    } else {
        "Waiting"
    }
}

fn boundaries(scope: &Scope) -> String {
    match scope {
        Scope::Interval { interval } => interval.to_string(),
        Scope::Reset { interval, delete_before: None } => format!("all rows; filled: {interval}"),
        Scope::Reset { interval, delete_before: Some(stop) } => {
            format!("all rows before {}; filled: {interval}", instant(*stop))
        }
        Scope::Undo { backfill, .. } => format!("those of {backfill}"),
    }
}

fn offline_lines(offline: &OfflineReport, planned: bool) {
    let version = |version: Option<u64>| version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let mut rows = format!(
        "{} removed, {} written, {} rescued, {} outside dropped",
        offline.rows_removed, offline.rows_written, offline.rows_rescued, offline.rows_outside
    );
    if let (true, Some(unchanged)) = (planned, offline.rows_unchanged) {
        rows = format!("{} would go, {} would come, {unchanged} of them unchanged", offline.rows_removed, offline.rows_written);
    }
    line("windows", &offline.windows.to_string());
    line("rows", &rows);
    if !planned {
        line("version", &format!("{} → {}", version(offline.version_before), version(offline.version_after)));
    }
    if let Some(proof) = &offline.proof {
        let words = match proof.verdict {
            Verdict::Passed if proof.rows_outside_after == 0 => {
                format!("the outside is unchanged: {} files untouched, no other file had rows outside", proof.files_untouched)
            }
            Verdict::Passed => format!(
                "the outside is unchanged: {} files untouched, {} rows in rewritten files equal (hash sum {}…)",
                proof.files_untouched,
                proof.rows_outside_after,
                &proof.hash_after[..8]
            ),
            Verdict::NotApplicable => "the table is new: there is no outside".to_owned(),
            Verdict::Warned | Verdict::Failed => {
                format!("FAILED: {} rows outside before, {} after", proof.rows_outside_before, proof.rows_outside_after)
            }
        };
        line("proof", &words);
    }
    for guard in offline.guards.iter().filter(|guard| guard.verdict == Verdict::Failed) {
        line("guard", &format!("{}: {}", guard.name, guard.message));
    }
}

fn online_line(online: &OnlineReport) -> String {
    let mut text = format!(
        "{} updated, {} removed, {} kept newer, {} unchanged",
        online.entities_updated, online.entities_removed, online.entities_kept_newer, online.entities_unchanged
    );
    if online.entities_kept_live > 0 {
        text += &format!(", {} kept live", online.entities_kept_live);
    }
    text
}

/// The message of the conditions of a success.
pub fn success_message(ended: &Ended) -> String {
    let offline = ended.offline.as_ref().and_then(|report| report.offline.as_ref());
    let online = ended.online.as_ref().and_then(|report| report.online.as_ref());
    let offline = offline
        .map(|r| format!("{} rows replaced by {} in version {}", r.rows_removed, r.rows_written, r.version_after.unwrap_or(0)));
    let online = online.map(|r| format!("{} entities updated, {} removed", r.entities_updated, r.entities_removed));
    [offline, online].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The message of a run that had been done before.
pub fn applied_message(ended: &Ended) -> String {
    let report = ended.offline.as_ref();
    let version = report.and_then(|report| report.offline.as_ref()).and_then(|offline| offline.version_after);
    let at = report.and_then(|report| report.offline.as_ref()).and_then(|offline| offline.finished_at.clone());
    let changed = report.is_some_and(|r| matches!(r.outcome, Outcome::AlreadyApplied { definition_changed: true }));
    format!(
        "the table holds this result since version {}{}{}; set spec.runId to run again",
        version.map_or_else(|| "?".to_owned(), |version| version.to_string()),
        at.map(|at| format!(" of {at}")).unwrap_or_default(),
        if changed { "; the definition has changed since" } else { "" }
    )
}

/// The message of a plan.
pub fn plan_message(ended: &Ended) -> String {
    let offline = ended.offline.as_ref().and_then(|report| report.offline.as_ref());
    offline.map_or_else(
        || "nothing is published".to_owned(),
        |r| format!("{} rows would be replaced by {}; set spec.mode to Apply to publish", r.rows_removed, r.rows_written),
    )
}
