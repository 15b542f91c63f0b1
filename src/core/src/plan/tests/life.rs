//! From the queue to the ledger, when nothing is in the way.

use super::*;
use crate::api::{FeatureSetStatus, Span};

fn entry(key: &str, span: Option<(&str, &str)>) -> LedgerEntry {
    let span = span.map(|(start, stop)| Span { start: show(at(start)), stop: show(at(stop)) });
    LedgerEntry {
        backfill: "fix".to_owned(),
        key: key.to_owned(),
        run_id: None,
        comment: None,
        start: span.as_ref().map(|span| span.start.clone()),
        stop: span.as_ref().map(|span| span.stop.clone()),
        filled: span,
        version: 3,
        online: true,
        definition: String::new(),
        at: "2024-06-01T00:00:00Z".to_owned(),
    }
}

fn covers(status: &FeatureSetStatus) -> Vec<String> {
    status.coverage.iter().map(|span| format!("{}..{}", &span.start[..10], &span.stop[..10])).collect()
}

// ---- refused, or waiting

#[test]
fn a_request_that_cannot_be_carried_out_fails_for_good() {
    let mut cluster = world(json!({"undo": "other"}));
    let plan = cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::InvalidRequest));
    assert_eq!(condition(&plan.status, ConditionType::Accepted).map(|found| found.status), Some(ConditionStatus::False));
    assert_eq!((effects(&plan), plan.requeue), (vec![], None), "nothing is done, and nothing is waited for");
    cluster.nothing_is_held();
}

fn unknown(kind: &str, name: &str) -> Unknown {
    Unknown { kind: kind.to_owned(), name: name.to_owned(), what: "unknown field spec.sampling".to_owned() }
}

#[test]
fn a_field_that_only_the_definitions_know_stops_what_reads_it_and_nothing_else() {
    let mut cluster = world(json!({}));
    cluster.unknown = vec![unknown("FeatureSetBackfill", "other"), unknown("FeatureSet", "views")];
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1"]);
    let mut cluster = world(json!({}));
    cluster.unknown = vec![unknown("FeatureSet", "clicks")];
    let plan = cluster.rest("fix");
    let message = &condition(&plan.status, ConditionType::Accepted).expect("judged").message;
    assert!(message.starts_with("FeatureSet \"clicks\" is not understood by this operator ("), "{message}");
    assert!(message.contains("): unknown field spec.sampling; upgrade the operator"), "{message}");
    cluster.nothing_is_held();
    // What is under way was understood when it began.
    let mut cluster = running(json!({}));
    cluster.unknown = vec![unknown("FeatureSetBackfill", "fix")];
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "online 1"]);
}

#[test]
fn what_is_missing_is_waited_for_and_stalls_after_ten_minutes_and_goes_on_when_it_appears() {
    for (reason, remove) in [
        (Reason::FeatureSetNotFound, (|cluster| cluster.feature_sets.clear()) as fn(&mut Cluster)),
        (Reason::StoreNotFound, |cluster| cluster.stores.clear()),
        (Reason::ClusterTemplateNotFound, |cluster| cluster.templates.clear()),
        (Reason::UnknownField, |cluster| cluster.unknown.push(unknown("FeatureSetBackfill", "fix"))),
        (Reason::UnknownField, |cluster| cluster.unknown.push(unknown("FeatureSet", "clicks"))),
        (Reason::UnknownField, |cluster| cluster.unknown.push(unknown("FeatureStore", "default"))),
        (Reason::UnknownField, |cluster| cluster.unknown.push(unknown("ClusterTemplate", "small"))),
    ] {
        let mut cluster = world(json!({}));
        let full = cluster.clone();
        remove(&mut cluster);
        let plan = cluster.rest("fix");
        assert_eq!(cluster.stands("fix"), ("going", reason));
        assert_eq!(plan.requeue, Some(Duration::from_secs(600)), "it is looked at again when it stalls");
        cluster.wait(TimeDelta::seconds(599));
        cluster.rest("fix");
        assert_eq!(cluster.stands("fix"), ("going", reason));
        cluster.wait(TimeDelta::seconds(1));
        cluster.rest("fix");
        assert_eq!(cluster.stands("fix"), ("stalled", reason));
        (cluster.feature_sets, cluster.stores, cluster.templates) = (full.feature_sets, full.stores, full.templates);
        cluster.unknown.clear();
        cluster.rest("fix");
        assert_eq!(cluster.steps("fix"), ["offline 1"], "{reason}");
    }
}

#[test]
fn a_start_in_the_future_is_judged_by_the_clock_of_the_claim() {
    let mut cluster = world(json!({"startTime": "2024-06-02", "stopTime": null}));
    assert_eq!(effects(&cluster.step("fix")), ["Admit"], "the operator's own clock does not judge");
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::StartInFuture));
    cluster.nothing_is_held();
}

#[test]
fn backfills_of_a_feature_set_run_in_the_order_of_their_creation() {
    let mut cluster = world(json!({}));
    for name in ["second", "third"] {
        cluster.wait(TimeDelta::seconds(1));
        cluster.apply(name, may(json!({})));
    }
    cluster.rest("third");
    assert_eq!(cluster.message("third"), "number 2 in the queue of feature set \"clicks\"");
    cluster.rest("fix");
    cluster.rest("third");
    assert_eq!(cluster.message("third"), "number 2 in the queue of feature set \"clicks\", held by \"fix\"");
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    cluster.rest("third");
    assert_eq!(cluster.stands("third"), ("going", Reason::Queued), "it is the second's turn");
    cluster.rest("second");
    assert_eq!(cluster.steps("second"), ["offline 1"]);
}

#[test]
fn backfills_of_other_feature_sets_do_not_wait() {
    let mut cluster = running(json!({}));
    cluster.apply("other", may(json!({"featureSet": "views"})));
    cluster.rest("other");
    assert_eq!(cluster.steps("other"), ["offline 1"]);
}

#[test]
fn nobody_waits_for_a_backfill_that_is_refused_or_suspended() {
    for first in [json!({"clusterTemplate": "gone"}), json!({"suspend": true})] {
        let mut cluster = world(first);
        cluster.rest("fix");
        cluster.wait(TimeDelta::seconds(1));
        cluster.apply("second", may(json!({})));
        cluster.rest("second");
        assert_eq!(cluster.steps("second"), ["offline 1"]);
    }
}

#[test]
fn as_many_backfills_run_as_the_store_has_slots() {
    let mut cluster = running(json!({}));
    cluster.stores.get_mut("default").expect("the store").spec.max_concurrent_backfills = Some(1);
    cluster.apply("other", may(json!({"featureSet": "views"})));
    cluster.rest("other");
    let message = "all 1 slots of feature store \"default\" are taken (spec.maxConcurrentBackfills)";
    assert_eq!((cluster.stands("other").0, cluster.message("other")), ("going", message));
    cluster.stores.get_mut("default").expect("the store").spec.max_concurrent_backfills = Some(2);
    cluster.rest("other");
    assert_eq!(cluster.slots().len(), 2);
}

#[test]
fn what_was_taken_in_vain_is_given_back() {
    let mut cluster = world(json!({}));
    let mut writes = 0;
    let plan = cluster.plan("fix");
    let taken = cluster.perform("fix", &plan, &mut || {
        writes += 1;
        // Status, finalizer, slot, and no further.
        if writes < 4 { cluster::Fate::Succeeds } else { cluster::Fate::Fails }
    });
    assert!(taken.is_err() && cluster.slots().len() == 1);
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    assert_eq!(cluster.slots(), []);
}

// ---- the run

#[test]
fn the_feature_set_is_taken_first_then_the_first_step_is_ordered() {
    let mut cluster = world(json!({}));
    assert_eq!(effects(&cluster.step("fix")), ["Admit"]);
    assert!(cluster.jobs.is_empty() && cluster.status("fix").resolved.is_none(), "nothing is pinned before the claim");
    let plan = cluster.step("fix");
    assert_eq!(effects(&plan), ["Launch"]);
    assert_eq!(plan.status.attempts.len(), 1, "the attempt is in the status before its Job exists");
    let plan = cluster.rest("fix");
    assert_eq!((cluster.stands("fix"), effects(&plan)), (("going", Reason::Starting), vec![]));
}

#[test]
fn a_missing_stop_is_the_moment_of_the_claim_and_not_of_the_plan() {
    let mut cluster = world(json!({"stopTime": null}));
    cluster.step("fix");
    cluster.wait(TimeDelta::hours(3));
    cluster.rest("fix");
    let resolved = cluster.status("fix").resolved.clone().expect("pinned");
    assert_eq!(resolved.interval.map(|span| span.stop), Some("2024-06-01T12:00:00Z".to_owned()));
    assert_eq!(resolved.now, "2024-06-01T12:00:00Z");
}

#[test]
fn the_online_step_follows_the_published_offline_step() {
    let mut cluster = running(json!({}));
    assert_eq!(cluster.stands("fix"), ("going", Reason::Running));
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "online 1"]);
    assert_eq!(cluster.stores_say("fix"), ["True Replaced", "False Starting"]);
    assert_eq!(cluster.set_status("clicks").ledger, [], "the ledger is written at the end");
}

#[test]
fn a_run_that_is_done_is_complete_and_entered_and_lets_go() {
    let mut cluster = published(json!({"comment": "why"}));
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("complete", Reason::Succeeded));
    assert_eq!(cluster.message("fix"), "10 rows replaced by 12 in version 5; 3 entities updated and 0 removed online");
    assert_eq!(cluster.stores_say("fix"), ["True Replaced", "True Reconciled"]);
    let status = cluster.set_status("clicks");
    let told = &status.ledger[0];
    assert_eq!((told.version, told.online, told.comment.as_deref()), (5, true, Some("why")));
    assert_eq!((status.ledger.len(), status.offline_version), (1, Some(5)));
    assert_eq!(covers(&status), ["2024-05-01..2024-05-08"]);
    cluster.nothing_is_held();
}

#[test]
fn with_one_store_only_its_step_runs() {
    let mut cluster = running(json!({"stores": ["Offline"]}));
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix").0, cluster.stores_say("fix")),
        ("complete", ["True Replaced", "False Skipped"].map(str::to_owned))
    );
    let mut cluster = running(json!({"stores": ["Online"]}));
    assert_eq!(cluster.steps("fix"), ["online 1"]);
    cluster.reports("fix", reconciled(9));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix").0, cluster.stores_say("fix")),
        ("complete", ["False Skipped", "True Reconciled"].map(str::to_owned))
    );
    let status = cluster.set_status("clicks");
    assert_eq!((status.ledger[0].version, covers(&status)), (9, vec![]), "nothing was filled");
}

#[test]
fn jobs_are_removed_when_their_time_is_over_and_the_backfill_stays() {
    let mut cluster = published(json!({"ttlSecondsAfterFinished": 60}));
    cluster.reports("fix", reconciled(5));
    let plan = cluster.rest("fix");
    assert_eq!(plan.requeue, Some(Duration::from_secs(61)));
    cluster.wait(TimeDelta::seconds(59));
    assert_eq!(effects(&cluster.step("fix")), [""; 0]);
    cluster.wait(TimeDelta::seconds(1));
    assert_eq!(effects(&cluster.step("fix")), ["CleanUp"]);
    cluster.rest("fix");
    assert_eq!((cluster.jobs.len(), cluster.pods.len(), cluster.stands("fix").0), (0, 0, "complete"));
}

#[test]
fn a_report_that_vanished_with_its_pod_costs_one_more_attempt() {
    let mut cluster = running(json!({}));
    cluster.reports("fix", replaced(5));
    cluster.pods.clear();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "offline 2"]);
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "offline 2", "online 1"]);
}

#[test]
fn a_job_that_somebody_deleted_is_made_again_under_the_same_name() {
    let mut cluster = running(json!({}));
    let job = cluster.job("fix");
    cluster.jobs.clear();
    cluster.collect_garbage();
    cluster.rest("fix");
    assert!(cluster.jobs.is_empty(), "its pod has not ended");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.jobs.keys().collect::<Vec<_>>(), [&job]);
    assert_eq!(cluster.status("fix").attempts.len(), 1);
}

#[test]
fn planning_again_changes_nothing_at_any_moment() {
    let mut cluster = running(json!({}));
    for report in [replaced(5), reconciled(5)] {
        let again = cluster.plan("fix");
        assert_eq!((Some(&again.status), effects(&again)), (cluster.backfills["fix"].status.as_ref(), vec![]));
        cluster.reports("fix", report);
        cluster.rest("fix");
    }
    cluster.wait(TimeDelta::minutes(1));
    let again = cluster.plan("fix");
    assert_eq!((Some(&again.status), effects(&again)), (cluster.backfills["fix"].status.as_ref(), vec![]));
}

#[test]
fn progress_is_shown_while_a_step_runs_and_not_longer() {
    let mut cluster = running(json!({}));
    cluster.progress = Some(Progress { stage: "stage".to_owned(), done: 1, total: 7, rows: 100 });
    cluster.rest("fix");
    assert_eq!(cluster.status("fix").progress, cluster.progress);
    cluster.progress = None;
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(cluster.status("fix").progress, None);
}

#[test]
fn an_undo_tells_the_interval_that_the_worker_found() {
    let mut cluster = running(json!({"startTime": null, "stopTime": null, "undo": "other"}));
    assert_eq!(cluster.status("fix").resolved.as_ref().and_then(|resolved| resolved.interval.clone()), None);
    let interval = crate::time::Interval::new(at("2024-05-02"), at("2024-05-03")).expect("not empty");
    cluster.reports("fix", Report { scope: Some(crate::contract::Scope::Interval { interval }), ..replaced(5) });
    cluster.rest("fix");
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    let told = &cluster.set_status("clicks").ledger[0];
    assert_eq!((told.start.as_deref(), told.stop.as_deref()), (Some("2024-05-02T00:00:00Z"), Some("2024-05-03T00:00:00Z")));
    assert_eq!(told.filled, None, "an undo fills nothing");
}

// ---- done before

#[test]
fn what_the_ledger_knows_is_not_done_again() {
    let mut cluster = published(json!({}));
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    cluster.delete_backfill("fix");
    cluster.apply("fix", may(json!({})));
    let plan = cluster.rest("fix");
    assert_eq!((cluster.stands("fix"), cluster.jobs.len()), (("complete", Reason::AlreadyApplied), 0));
    assert_eq!(cluster.message("fix"), "applied 2024-06-01T12:00:00Z as version 5; set spec.runId to run it again");
    assert_eq!(effects(&plan), [""; 0]);
    cluster.nothing_is_held();
    let said: Vec<_> = cluster.said.iter().filter(|(_, said)| said.reason == Reason::AlreadyApplied && said.warning).collect();
    assert_eq!(said.len(), 1, "it is a warning, once");
}

#[test]
fn what_the_ledger_knows_in_part_is_done_to_its_end() {
    let mut cluster = published(json!({}));
    cluster.fails("fix", Reason::OnlineAuth);
    cluster.rest("fix");
    cluster.delete_backfill("fix");
    cluster.apply("fix", may(json!({})));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1"]);
}

#[test]
fn what_the_stores_know_is_already_applied() {
    let applied = |report| Report { outcome: Outcome::AlreadyApplied { definition_changed: true }, ..report };
    let mut cluster = running(json!({}));
    cluster.reports("fix", applied(replaced(5)));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "online 1"]);
    cluster.reports("fix", applied(reconciled(5)));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("complete", Reason::AlreadyApplied));
    assert!(cluster.message("fix").contains("definition has changed since"), "{}", cluster.message("fix"));
    let mut cluster = running(json!({}));
    cluster.reports("fix", applied(replaced(5)));
    cluster.rest("fix");
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("complete", Reason::Succeeded), "the online part was done now");
}

// ---- what the feature set remembers

#[test]
fn a_reset_covers_only_what_it_filled() {
    let before = record(FeatureSetStatus::default(), entry("one", Some(("2024-01-01", "2024-02-01"))));
    let touching = record(before.clone(), entry("two", Some(("2024-02-01", "2024-03-01"))));
    assert_eq!(covers(&touching), ["2024-01-01..2024-03-01"], "spans that touch are one");
    let apart = record(before.clone(), entry("two", Some(("2024-02-02", "2024-03-01"))));
    assert_eq!(covers(&apart), ["2024-01-01..2024-02-01", "2024-02-02..2024-03-01"]);
    let reset = LedgerEntry { start: None, stop: None, ..entry("two", Some(("2024-02-02", "2024-03-01"))) };
    assert_eq!(covers(&record(before, reset)), ["2024-02-02..2024-03-01"]);
}

#[test]
fn a_replacement_is_entered_once_and_brought_up_to_date() {
    let first = record(FeatureSetStatus::default(), LedgerEntry { online: false, ..entry("one", None) });
    let later = LedgerEntry { at: "2024-06-02T00:00:00Z".to_owned(), ..entry("one", None) };
    assert!(!recorded(&first, &later), "the online part is news");
    let second = record(first, later.clone());
    assert_eq!((second.ledger.len(), second.ledger[0].online, second.ledger[0].at.as_str()), (1, true, "2024-06-01T00:00:00Z"));
    assert!(recorded(&second, &later));
}

#[test]
fn a_feature_set_remembers_twenty_replacements_and_a_hundred_spans() {
    let mut status = FeatureSetStatus::default();
    for day in 0..150 {
        let start = at("2024-01-01") + TimeDelta::days(2 * day);
        let span = Span { start: show(start), stop: show(start + TimeDelta::days(1)) };
        let key = day.to_string();
        status = record(status, LedgerEntry { filled: Some(span), ..entry(&key, Some(("2024-01-01", "2024-01-02"))) });
    }
    assert_eq!((status.ledger.len(), status.coverage.len(), status.ledger[0].key.as_str()), (20, 100, "149"));
}
