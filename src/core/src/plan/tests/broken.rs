//! Runs that do not get to their end: cancelled, deleted, failed, out of time.

use super::*;

fn cancel(cluster: &mut Cluster) {
    cluster.edit("fix", |spec| spec.cancel = Some(true));
}

/// A cluster in which the offline step has failed, and `fix` is being settled.
fn settling() -> Cluster {
    let mut cluster = running(json!({}));
    cluster.fails("fix", Reason::ShrinkGuard);
    cluster.rest("fix");
    assert_eq!(
        (cluster.steps("fix"), cluster.stands("fix").1),
        (vec!["offline 1".to_owned(), "settle 1".to_owned()], Reason::Settling)
    );
    cluster
}

fn gone(cluster: &Cluster) -> bool {
    !cluster.backfills.contains_key("fix")
}

// ---- cancel

#[test]
fn cancelling_before_the_first_order_ends_at_once() {
    let mut cluster = world(json!({}));
    cluster.step("fix");
    cancel(&mut cluster);
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix"), cluster.jobs.len()), (("failed", Reason::Cancelled), 0));
    assert_eq!(cluster.status("fix").phase.as_deref(), Some("Cancelled"));
    cluster.nothing_is_held();
}

#[test]
fn cancelling_a_running_step_ends_its_pods_then_settles_then_fails() {
    let mut cluster = running(json!({}));
    cancel(&mut cluster);
    assert_eq!(effects(&cluster.step("fix")), ["Stop"]);
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), [""; 0], "pods that run may write");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["settle 1"]);
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.stores_say("fix")[0].as_str()),
        (("failed", Reason::Cancelled), "False Cancelled")
    );
    assert_eq!(cluster.set_status("clicks").ledger, []);
    cluster.nothing_is_held();
}

#[test]
fn a_cancelled_run_that_turns_out_to_have_published_says_so() {
    let mut cluster = running(json!({}));
    cancel(&mut cluster);
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    cluster.reports("fix", settled(Some(5)));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.stores_say("fix")),
        (("failed", Reason::Cancelled), ["True Replaced", "False Cancelled"].map(str::to_owned))
    );
    assert_eq!(cluster.set_status("clicks").ledger[0].version, 5);
    let steps: Vec<_> = cluster.status("fix").attempts.iter().map(|attempt| attempt.step).collect();
    assert_eq!(steps, [Step::Offline, Step::Settle], "a cancel does not go on with the online store");
    cluster.nothing_is_held();
}

#[test]
fn cancelling_after_the_publish_ends_the_online_step_and_needs_no_settling() {
    let mut cluster = published(json!({}));
    cancel(&mut cluster);
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "going", "its pods have not ended");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.stores_say("fix")),
        (("failed", Reason::Cancelled), ["True Replaced", "False Cancelled"].map(str::to_owned))
    );
    assert_eq!((cluster.steps("fix"), cluster.set_status("clicks").ledger[0].online), (vec!["offline 1".to_owned()], false));
}

#[test]
fn cancelling_what_is_done_changes_nothing() {
    let mut cluster = published(json!({}));
    cluster.reports("fix", reconciled(5));
    cancel(&mut cluster);
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "complete", "the report was there before the cancel was seen");
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "complete");
}

/// A pod of the current Job whose image cannot be pulled.
fn kept_from_beginning(cluster: &mut Cluster) -> String {
    let pod = cluster.add_pod(&cluster.job("fix"));
    cluster.pod_is(&pod, "Pending", json!({"waiting": {"reason": "ImagePullBackOff"}}));
    pod
}

#[test]
fn a_step_that_is_kept_from_beginning_has_nothing_to_settle() {
    // A kubelet calls a pod failed that is deleted before its containers were made. That may be seen, or the pod is gone before.
    for is_seen in [false, true] {
        let mut cluster = world(json!({}));
        cluster.rest("fix");
        let pod = kept_from_beginning(&mut cluster);
        cancel(&mut cluster);
        cluster.rest("fix");
        if is_seen {
            cluster.pod_is(&pod, "Failed", json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}));
            cluster.rest("fix");
        }
        cluster.pods_end();
        cluster.rest("fix");
        assert_eq!((cluster.stands("fix"), cluster.jobs.len()), (("failed", Reason::Cancelled), 0), "seen: {is_seen}");
    }
}

#[test]
fn what_an_earlier_attempt_may_have_done_is_settled_although_this_one_is_kept_from_beginning() {
    let mut cluster = running(json!({}));
    for suspend in [Some(true), None] {
        cluster.edit("fix", |spec| spec.suspend = suspend);
        cluster.rest("fix");
        cluster.pods_end();
        cluster.rest("fix");
    }
    kept_from_beginning(&mut cluster);
    cancel(&mut cluster);
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["settle 1"]);
}

#[test]
fn a_step_that_may_have_begun_unseen_is_settled() {
    for hide in [(|cluster| cluster.jobs.clear()) as fn(&mut Cluster), |_| {}] {
        let mut cluster = world(json!({}));
        cluster.rest("fix");
        hide(&mut cluster);
        cancel(&mut cluster);
        cluster.rest("fix");
        assert_eq!(cluster.steps("fix"), ["settle 1"]);
    }
}

#[test]
fn a_pod_that_begins_while_it_is_stopped_is_settled() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    let pod = kept_from_beginning(&mut cluster);
    cancel(&mut cluster);
    cluster.rest("fix");
    cluster.pod_is(&pod, "Running", json!({"running": {}}));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["settle 1"]);
}

// ---- delete

#[test]
fn deleting_before_the_first_order_lets_go_at_once() {
    let mut cluster = world(json!({}));
    cluster.step("fix");
    cluster.delete_backfill("fix");
    assert!(!gone(&cluster), "it waits for its finalizer");
    assert_eq!(effects(&cluster.step("fix")), ["Release", "LetGo"]);
    assert!(gone(&cluster));
    cluster.nothing_is_held();
}

#[test]
fn a_run_that_is_asked_for_of_a_deleted_backfill_does_not_begin() {
    // The status is written; or everything but that the finalizer goes.
    for writes in [1, 4] {
        let mut cluster = published(json!({}));
        cluster.reports("fix", reconciled(5));
        let plan = cluster.plan("fix");
        let mut fates = [cluster::Fate::Succeeds].repeat(writes).into_iter();
        assert!(cluster.perform("fix", &plan, &mut || fates.next().unwrap_or(cluster::Fate::Fails)).is_err());
        cluster.delete_backfill("fix");
        cluster.edit("fix", |spec| spec.run_id = Some("2".to_owned()));
        let plan = cluster.step("fix");
        assert_eq!((effects(&plan), row(&plan.status)), (vec!["Release", "LetGo"], "complete"), "what is told stays");
        assert_eq!((gone(&cluster), cluster.set_status("clicks").ledger.len()), (true, 1));
    }
}

#[test]
fn what_caches_do_not_show_yet_is_given_back_before_the_finalizer_goes() {
    let mut cluster = world(json!({}));
    let before = cluster.clone();
    cluster.step("fix");
    cluster.delete_backfill("fix");
    let plan = cluster.observe("fix", &before).plan(cluster.now);
    assert_eq!(effects(&plan), ["Release", "LetGo"]);
}

#[test]
fn deleting_a_running_backfill_settles_it_and_lets_go() {
    let mut cluster = running(json!({}));
    cluster.delete_backfill("fix");
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!((cluster.steps("fix"), gone(&cluster)), (vec!["settle 1".to_owned()], false));
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert!(gone(&cluster));
    cluster.nothing_is_held();
}

#[test]
fn deleting_after_the_publish_finishes_the_online_store_first() {
    for (suspended, unseen) in [(false, false), (true, false), (false, true)] {
        let mut cluster = if unseen { running(json!({})) } else { published(json!({})) };
        cluster.edit("fix", |spec| spec.suspend = suspended.then_some(true));
        cluster.delete_backfill("fix");
        cluster.rest("fix");
        if unseen {
            cluster.pods_end();
            cluster.rest("fix");
            cluster.reports("fix", settled(Some(5)));
            cluster.rest("fix");
        }
        assert_eq!((cluster.stands("fix").0, gone(&cluster)), ("going", false));
        assert_eq!(cluster.status("fix").attempts.last().map(|attempt| attempt.step), Some(Step::Online));
        cluster.reports("fix", reconciled(5));
        cluster.rest("fix");
        assert!(gone(&cluster), "suspended: {suspended}, unseen: {unseen}");
        assert!(cluster.set_status("clicks").ledger[0].online);
        cluster.nothing_is_held();
    }
}

#[test]
fn deleting_with_cancel_after_the_publish_does_not_finish_the_online_store() {
    let mut cluster = published(json!({}));
    cancel(&mut cluster);
    cluster.delete_backfill("fix");
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert!(gone(&cluster));
    assert!(!cluster.set_status("clicks").ledger[0].online);
    cluster.nothing_is_held();
}

#[test]
fn a_feature_set_that_is_deleted_breaks_its_backfill_off_and_goes_when_it_is_settled() {
    let mut cluster = running(json!({}));
    cluster.delete_feature_set("clicks");
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert!(cluster.feature_sets.contains_key("clicks"), "the finalizer keeps it");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::FeatureSetDeleted));
    assert!(!cluster.feature_sets.contains_key("clicks"));
    cluster.nothing_is_held();
}

#[test]
fn in_a_namespace_that_is_deleted_nothing_is_made_and_everything_is_let_go_after_a_minute() {
    let mut cluster = running(json!({}));
    cluster.terminating = true;
    cluster.rest("fix");
    cluster.pods_end();
    let names: Vec<_> = cluster.jobs.keys().cloned().collect();
    cluster.rest("fix");
    cluster.wait(TimeDelta::seconds(59));
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix").0, cluster.jobs.keys().cloned().collect::<Vec<_>>()), ("going", names));
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::Abandoned));
    cluster.nothing_is_held();
}

#[test]
fn in_a_namespace_that_is_deleted_nothing_begins() {
    for steps in 0..2 {
        let mut cluster = world(json!({}));
        (0..steps).for_each(|_| drop(cluster.step("fix")));
        cluster.terminating = true;
        cluster.rest("fix");
        assert_eq!((cluster.jobs.len(), cluster.message("fix")), (0, "the namespace is being deleted"));
    }
}

// ---- failures

#[test]
fn a_failed_offline_step_is_settled_then_fails_and_frees_the_feature_set() {
    let mut cluster = settling();
    assert!(cluster.message("fix").starts_with("because; "), "{}", cluster.message("fix"));
    assert_eq!(cluster.slots().len(), 1, "settling raises the fence, which only the holder may");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.message("fix")),
        (("failed", Reason::ShrinkGuard), "because; nothing was replaced")
    );
    assert_eq!(cluster.stores_say("fix"), ["False ShrinkGuard", "False ShrinkGuard"]);
    assert_eq!(cluster.status("fix").broken, None);
    cluster.nothing_is_held();
}

#[test]
fn a_failed_offline_step_that_had_published_goes_on_with_the_online_step() {
    let mut cluster = settling();
    cluster.reports("fix", settled(Some(5)));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "settle 1", "online 1"]);
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("complete", Reason::Succeeded));
}

#[test]
fn a_failed_online_step_leaves_what_is_published() {
    let mut cluster = published(json!({}));
    cluster.fails("fix", Reason::OnlineAuth);
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.stores_say("fix")),
        (("failed", Reason::OnlineAuth), ["True Replaced", "False OnlineAuth"].map(str::to_owned))
    );
    assert_eq!(cluster.steps("fix"), ["offline 1", "online 1"], "nothing is settled");
    let ledger = cluster.set_status("clicks").ledger;
    assert_eq!((ledger.len(), ledger[0].version, ledger[0].online), (1, 5, false));
    cluster.nothing_is_held();
}

#[test]
fn an_online_step_that_fails_after_a_settle_has_its_pods_ended_before_it_is_said() {
    let mut cluster = settling();
    cluster.reports("fix", settled(Some(5)));
    cluster.rest("fix");
    cluster.begins("fix");
    cancel(&mut cluster);
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "going", "its pods may still write");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::Cancelled));
}

#[test]
fn a_settle_step_that_fails_is_tried_again() {
    let mut cluster = settling();
    cluster.fails("fix", Reason::OfflineUnavailable);
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "settle 1", "settle 2"]);
    cluster.reports("fix", settled(None));
    cluster.pods.clear();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 1", "settle 1", "settle 2", "settle 3"], "its report vanished with its pod");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::ShrinkGuard));
}

#[test]
fn what_cannot_be_settled_for_a_quarter_of_an_hour_is_abandoned_and_says_what_may_be_left() {
    let mut cluster = settling();
    cluster.begins("fix");
    cluster.wait(TimeDelta::seconds(899));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix").0, "going");
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::Abandoned));
    assert!(cluster.message("fix").contains("VACUUM"), "{}", cluster.message("fix"));
    cluster.nothing_is_held();
}

#[test]
fn what_keeps_a_settle_step_from_running_is_told() {
    let mut cluster = settling();
    let pod = cluster.add_pod(&cluster.job("fix"));
    cluster.pod_is(&pod, "Pending", json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
    cluster.rest("fix");
    assert!(cluster.message("fix").contains("no such image"), "{}", cluster.message("fix"));
}

#[test]
fn the_deadline_ends_a_run_and_says_how_long_it_was() {
    let mut cluster = running(json!({"deadline": "1h"}));
    cluster.wait(TimeDelta::seconds(3600));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Running));
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::DeadlineExceeded));
    assert_eq!(
        cluster.message("fix"),
        "the backfill has held the feature set for 3601 s; its deadline is 3600 s; nothing was replaced"
    );
}

#[test]
fn memory_that_runs_out_twice_fails_the_step() {
    let mut cluster = running(json!({"retries": 9}));
    let job = cluster.job("fix");
    let pod = cluster.pods_of(&job)[0].clone();
    cluster.pod_ends(&pod, 137, "OOMKilled", None);
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Retrying), "once may be bad luck");
    let pod = cluster.begins("fix");
    cluster.pod_ends(&pod, 137, "OOMKilled", None);
    cluster.rest("fix");
    assert_eq!(
        (cluster.steps("fix"), cluster.status("fix").broken.as_ref().map(|broken| broken.reason)),
        (vec!["settle 1".to_owned()], Some(Reason::OOMKilled))
    );
    assert!(cluster.message("fix").contains("choose a larger clusterTemplate"));
}

#[test]
fn a_feature_set_that_was_taken_by_force_is_taken_again_before_anything_runs() {
    let mut cluster = running(json!({}));
    cluster.feature_sets.get_mut("clicks").expect("clicks").status = None;
    assert_eq!(effects(&cluster.step("fix")), ["Stop"]);
    cluster.pods_end();
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["offline 2"]);
    assert!(cluster.set_status("clicks").active.is_some());
}

#[test]
fn a_published_run_whose_definition_is_lost_says_that_it_is_published() {
    let mut cluster = published(json!({}));
    cluster.jobs.clear();
    cluster.config_maps.clear();
    cluster.pods.clear();
    cluster.feature_sets.get_mut("clicks").expect("clicks").spec.features.clear();
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.stores_say("fix")),
        (("failed", Reason::InvalidRequest), ["True Replaced", "False InvalidRequest"].map(str::to_owned))
    );
    assert_eq!(cluster.set_status("clicks").ledger.len(), 1);
}
