//! What users change while a backfill lives: plan and apply, run again, suspend.

use super::*;

fn planned() -> Cluster {
    let mut cluster = running(json!({"mode": "Plan"}));
    cluster.reports("fix", Report { offline: replaced(5).offline, ..report(Outcome::Planned) });
    cluster.rest("fix");
    cluster
}

fn mode_of(cluster: &Cluster) -> String {
    let order = &cluster.config_maps[&cluster.job("fix")].data.as_ref().expect("data")[manifest::ORDER];
    let order: Value = serde_json::from_str(order).expect("an order");
    order["mode"].as_str().expect("a mode").to_owned()
}

// ---- plan and apply

#[test]
fn a_plan_rests_and_publishes_nothing_and_holds_nothing() {
    let cluster = planned();
    assert_eq!(cluster.stands("fix"), ("planned", Reason::Planned));
    assert_eq!(cluster.message("fix"), "10 rows would be replaced by 12; set spec.mode to Apply to publish");
    assert_eq!(cluster.stores_say("fix"), ["False Planned", "False Planned"]);
    assert_eq!((mode_of(&cluster).as_str(), cluster.set_status("clicks").ledger.len()), ("Plan", 0));
    cluster.nothing_is_held();
}

#[test]
fn a_plan_that_is_applied_queues_again_and_is_ordered_anew() {
    let mut cluster = planned();
    cluster.apply("second", may(json!({})));
    cluster.rest("second");
    cluster.edit("fix", |spec| spec.mode = Some(Mode::Apply));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Queued));
    cluster.edit("second", |spec| spec.suspend = Some(true));
    cluster.rest("second");
    cluster.rest("fix");
    assert_eq!((cluster.steps("fix"), mode_of(&cluster).as_str()), (vec!["offline 1".to_owned()], "Apply"));
    assert_eq!(cluster.jobs.len(), 2, "the Job of the plan has another name");
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert_eq!(cluster.stores_say("fix")[0], "True Replaced");
}

#[test]
fn a_plan_that_has_moved_is_made_again_and_stays_a_plan() {
    let mut cluster = planned();
    cluster.edit("fix", |spec| spec.mode = Some(Mode::Apply));
    cluster.rest("fix");
    cluster.reports("fix", Report { offline: replaced(5).offline, ..report(Outcome::Planned) });
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("planned", Reason::PlanMoved));
    assert!(cluster.message("fix").contains("set a new spec.runId to publish"));
    cluster.nothing_is_held();
}

#[test]
fn a_plan_that_is_applied_while_it_runs_is_stopped_first() {
    let mut cluster = running(json!({"mode": "Plan"}));
    cluster.edit("fix", |spec| spec.mode = Some(Mode::Apply));
    assert_eq!(effects(&cluster.step("fix")), ["Stop"]);
    cluster.rest("fix");
    assert_eq!(cluster.jobs.len(), 0, "its pod has not ended");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!((cluster.steps("fix"), mode_of(&cluster).as_str()), (vec!["offline 1".to_owned()], "Apply"));
}

#[test]
fn a_cancelled_plan_is_settled() {
    let mut cluster = planned();
    cluster.edit("fix", |spec| spec.cancel = Some(true));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "settle 1"]);
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::Cancelled));
    cluster.nothing_is_held();
}

#[test]
fn a_plan_that_failed_stays_failed_when_it_is_to_be_applied() {
    let mut cluster = running(json!({"mode": "Plan"}));
    cluster.fails("fix", Reason::ShrinkGuard);
    cluster.rest("fix");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::ShrinkGuard));
    cluster.edit("fix", |spec| spec.mode = Some(Mode::Apply));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::ShrinkGuard), "an end never flips within one runId");
}

// ---- another run

#[test]
fn a_new_run_id_runs_an_ended_backfill_again() {
    let mut cluster = published(json!({}));
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    cluster.edit("fix", |spec| spec.run_id = Some("2".to_owned()));
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").0, cluster.status("fix").run_id.as_deref()), ("going", Some("2")));
    assert_eq!(cluster.jobs.len(), 3, "two Jobs of the first run, and one of the second");
    cluster.reports("fix", replaced(6));
    cluster.rest("fix");
    cluster.reports("fix", reconciled(6));
    cluster.rest("fix");
    let ledger = cluster.set_status("clicks").ledger;
    assert_eq!(ledger.iter().map(|entry| entry.version).collect::<Vec<_>>(), [6, 5]);
}

#[test]
fn what_a_run_replaced_is_entered_before_the_next_run_begins() {
    let mut cluster = published(json!({}));
    cluster.reports("fix", reconciled(5));
    let plan = cluster.plan("fix");
    let mut writes = 0;
    let only_status = cluster.perform("fix", &plan, &mut || {
        writes += 1;
        if writes == 1 { cluster::Fate::Succeeds } else { cluster::Fate::Fails }
    });
    assert!(only_status.is_err() && cluster.stands("fix").0 == "complete");
    cluster.edit("fix", |spec| spec.run_id = Some("2".to_owned()));
    let plan = cluster.step("fix");
    assert_eq!((effects(&plan), plan.status.run_id), (vec!["Release", "LetGo"], None), "the first run is brought to its end");
    assert_eq!(cluster.set_status("clicks").ledger.len(), 1);
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").0, cluster.status("fix").run_id.as_deref()), ("going", Some("2")));
}

// ---- suspend

#[test]
fn a_backfill_that_is_suspended_from_the_start_waits_without_holding_anything() {
    let mut cluster = world(json!({"suspend": true}));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("suspended", Reason::Suspended));
    cluster.nothing_is_held();
    cluster.edit("fix", |spec| spec.suspend = None);
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1"]);
}

#[test]
fn suspending_before_the_publish_ends_pods_and_frees_the_feature_set_and_resuming_is_the_next_attempt() {
    let mut cluster = running(json!({}));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    assert_eq!(effects(&cluster.step("fix")), ["Stop"]);
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").0, cluster.slots().len()), ("suspended", 1), "held until its pods have ended");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!((cluster.slots(), cluster.set_status("clicks").active), (vec![], None));
    cluster.edit("fix", |spec| spec.suspend = None);
    assert_eq!(effects(&cluster.step("fix")), ["Admit"]);
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 2"]);
}

#[test]
fn suspending_after_the_publish_keeps_the_feature_set_and_those_behind_are_told() {
    let mut cluster = published(json!({}));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").0, cluster.slots().len()), ("suspended", 1));
    assert_eq!(cluster.stores_say("fix"), ["True Replaced", "False Suspended"]);
    cluster.apply("second", may(json!({})));
    cluster.rest("second");
    let message = "number 1 in the queue of feature set \"clicks\", held by \"fix\", which is suspended after it has published";
    assert_eq!(cluster.message("second"), message);
    cluster.edit("fix", |spec| spec.suspend = None);
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "online 2"]);
}

#[test]
fn what_is_reported_when_a_backfill_is_suspended_is_heard() {
    let mut cluster = running(json!({}));
    cluster.reports("fix", replaced(5));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    assert_eq!(cluster.stores_say("fix"), ["True Replaced", "False Suspended"]);
    assert_eq!(cluster.slots().len(), 1, "after the publish the feature set stays held");
    let mut cluster = published(json!({}));
    cluster.reports("fix", reconciled(5));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "complete", "there is nothing left to hold");
}

#[test]
fn the_deadline_does_not_count_the_time_suspended() {
    let mut cluster = running(json!({"deadline": "1h"}));
    cluster.wait(TimeDelta::minutes(40));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    cluster.wait(TimeDelta::hours(5));
    cluster.edit("fix", |spec| spec.suspend = None);
    cluster.rest("fix");
    cluster.begins("fix");
    cluster.wait(TimeDelta::minutes(20));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Running));
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::DeadlineExceeded));
}

#[test]
fn a_store_that_is_gone_when_a_backfill_resumes_is_named() {
    let mut cluster = running(json!({}));
    cluster.edit("fix", |spec| spec.suspend = Some(true));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    cluster.stores.clear();
    cluster.edit("fix", |spec| spec.suspend = None);
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").1, cluster.message("fix")), (Reason::Queued, "feature store \"default\" does not exist"));
}
