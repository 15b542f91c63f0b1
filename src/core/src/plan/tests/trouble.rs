//! What people read: trouble of pods, warnings, events, and the size of it all.

use super::*;
use crate::contract::{GuardResult, Proof, Verdict};
use crate::plan::run::label;

/// A cluster in which the first Job of `fix` has one pod that does not start.
fn waiting(reason: &str) -> Cluster {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    let pod = cluster.add_pod(&cluster.job("fix"));
    cluster.pod_is(&pod, "Pending", json!({"waiting": {"reason": reason, "message": "details"}}));
    cluster.rest("fix");
    cluster
}

#[test]
fn what_keeps_a_pod_from_starting_is_told_and_the_run_goes_on_waiting() {
    for (why, reason) in [
        ("ImagePullBackOff", Reason::ImagePull),
        ("ErrImagePull", Reason::ImagePull),
        ("CreateContainerConfigError", Reason::PodTrouble),
        ("ContainerCreating", Reason::Starting),
    ] {
        let cluster = waiting(why);
        assert_eq!(cluster.stands("fix"), ("going", reason), "{why}");
        let told = cluster.message("fix").contains("details");
        assert_eq!(told, reason != Reason::Starting, "{}", cluster.message("fix"));
    }
}

#[test]
fn a_pod_without_a_node_is_trouble_after_five_minutes() {
    let mut cluster = waiting("ContainerCreating");
    let since = show(cluster.now);
    let unplaced = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes", "lastTransitionTime": since});
    let pod = cluster.pods.values_mut().next().expect("a pod");
    pod.status = serde_json::from_value(json!({"phase": "Pending", "conditions": [unplaced]})).expect("a status");
    cluster.wait(TimeDelta::seconds(299));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Starting));
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Unschedulable));
    assert!(cluster.message("fix").ends_with("0/3 nodes"), "{}", cluster.message("fix"));
}

#[test]
fn of_pods_that_compute_together_the_first_says_why_they_failed() {
    let mut cluster = world(json!({"retries": 0}));
    cluster.rest("fix");
    let job = cluster.job("fix");
    let indexed = |cluster: &mut Cluster, index: &str| {
        let pod = cluster.add_pod(&job);
        let labels = cluster.pods.get_mut(&pod).expect("it").metadata.labels.get_or_insert_default();
        labels.insert(label::INDEX.to_owned(), index.to_owned());
        pod
    };
    let (first, other) = (indexed(&mut cluster, "0"), indexed(&mut cluster, "1"));
    let told = Outcome::Failed { reason: Reason::TransformFailed, message: "no such column".to_owned(), retry: false };
    let told = report(told);
    cluster.pod_ends(&first, 1, "Error", Some(&told));
    cluster.wait(TimeDelta::seconds(9));
    cluster.pod_ends(&other, 143, "Error", None);
    cluster.job_is(&job, "Failed");
    cluster.rest("fix");
    assert_eq!(cluster.status("fix").broken.as_ref().map(|broken| broken.reason), Some(Reason::TransformFailed));
}

#[test]
fn what_events_say_is_told_until_a_pod_runs() {
    for reason in [Reason::QuotaExceeded, Reason::SecretNotFound] {
        let mut cluster = world(json!({}));
        cluster.rest("fix");
        cluster.trouble = Some(Notice { reason, message: "as the event says".to_owned() });
        cluster.rest("fix");
        assert_eq!(
            (cluster.stands("fix"), cluster.message("fix")),
            (("going", reason), "the offline step waits: as the event says")
        );
        cluster.begins("fix");
        cluster.rest("fix");
        assert_eq!(cluster.stands("fix"), ("going", Reason::Running));
    }
}

#[test]
fn a_failure_that_may_pass_is_told_while_the_job_tries_again() {
    let mut cluster = running(json!({}));
    let pod = cluster.pods_of(&cluster.job("fix"))[0].clone();
    let passing = Outcome::Failed { reason: Reason::OfflineUnavailable, message: "no answer".to_owned(), retry: true };
    cluster.pod_ends(&pod, 1, "Error", Some(&report(passing)));
    cluster.rest("fix");
    assert_eq!(
        (cluster.stands("fix"), cluster.message("fix")),
        (("going", Reason::Retrying), "the offline step waits: no answer")
    );
    cluster.begins("fix");
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Running));
}

#[test]
fn a_pod_that_dies_without_a_word_is_told_with_its_exit_code() {
    let mut cluster = running(json!({}));
    let job = cluster.job("fix");
    let pod = cluster.pods_of(&job)[0].clone();
    cluster.pod_ends(&pod, 139, "Error", None);
    cluster.job_is(&job, "Failed");
    cluster.rest("fix");
    let broken = cluster.status("fix").broken.clone().expect("broken off");
    assert_eq!(broken.reason, Reason::PodFailed);
    assert!(broken.message.contains("exit code 139 (Error) and no report"), "{}", broken.message);
}

#[test]
fn a_job_without_pods_fails_with_the_words_of_the_job_controller() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    cluster.job_is(&cluster.job("fix"), "Failed");
    cluster.rest("fix");
    let broken = cluster.status("fix").broken.clone().expect("broken off");
    assert!(broken.message.ends_with("failed: the backoff limit is reached"), "{}", broken.message);
}

#[test]
fn a_pod_that_does_not_end_is_waited_for_no_longer_than_five_minutes() {
    let mut cluster = running(json!({}));
    cluster.edit("fix", |spec| spec.cancel = Some(true));
    cluster.rest("fix");
    // Thirty seconds of grace, and five minutes.
    cluster.wait(TimeDelta::seconds(330));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), [""; 0]);
    cluster.wait(TimeDelta::seconds(1));
    cluster.rest("fix");
    assert_eq!(cluster.steps("fix"), ["settle 1"], "the fence keeps out what hangs");
    cluster.reports("fix", settled(None));
    cluster.rest("fix");
    assert_eq!((cluster.stands("fix"), cluster.pods.len()), (("failed", Reason::Cancelled), 2), "it still hangs");
    cluster.nothing_is_held();
}

#[test]
fn of_several_pods_of_the_online_step_the_one_that_finished_it_is_heard() {
    let mut cluster = published(json!({}));
    let job = cluster.job("fix");
    let share = Report { online: Some(OnlineReport { entities_updated: 1, ..OnlineReport::default() }), ..report(Outcome::Done) };
    let finisher = cluster.add_pod(&job);
    cluster.reports("fix", share);
    cluster.pod_ends(&finisher, 0, "Completed", Some(&reconciled(5)));
    cluster.rest("fix");
    assert_eq!(cluster.status("fix").online.as_ref().map(|report| report.entities_updated), Some(3));
}

#[test]
fn a_feature_set_that_is_edited_while_its_backfill_runs_is_warned_of_and_the_run_keeps_its_definition() {
    let mut cluster = running(json!({}));
    let hash = cluster.status("fix").resolved.clone().expect("pinned").definition;
    let set = cluster.feature_sets.get_mut("clicks").expect("clicks");
    set.metadata.generation = Some(8);
    set.spec.transformation.sql = "SELECT user_id, t, n + 1 AS n FROM raw".to_owned();
    cluster.rest("fix");
    let accepted = condition(cluster.status("fix"), ConditionType::Accepted).cloned().expect("accepted");
    assert_eq!((accepted.status, accepted.reason), (ConditionStatus::True, Reason::FeatureSetChanged));
    cluster.reports("fix", replaced(5));
    cluster.pods.clear();
    cluster.rest("fix");
    let order = &cluster.config_maps[&cluster.job("fix")].data.as_ref().expect("data")[manifest::ORDER];
    assert_eq!(cluster.steps("fix"), ["offline 1", "offline 2"]);
    assert!(order.contains(&hash) && !order.contains("n + 1"), "{order}");
    assert_eq!(cluster.status("fix").resolved.as_ref().map(|resolved| resolved.definition.clone()), Some(hash));
}

#[test]
fn events_are_said_once_and_on_transitions_only() {
    let mut cluster = published(json!({}));
    cluster.rest("fix");
    cluster.reports("fix", reconciled(5));
    cluster.rest("fix");
    let said: Vec<_> = cluster.said.iter().map(|(_, said)| (said.kind, said.reason, said.warning)).collect();
    let expected = [
        (ConditionType::Reconciling, Reason::Starting, false),
        (ConditionType::OfflineReplaced, Reason::Replaced, false),
        (ConditionType::Complete, Reason::Succeeded, false),
    ];
    assert_eq!(said, expected);
    let mut cluster = waiting("ImagePullBackOff");
    cluster.said.clear();
    cluster.wait(TimeDelta::minutes(1));
    cluster.rest("fix");
    assert_eq!(cluster.said, [], "the same trouble is said once");
    assert_eq!(announcements(Some(cluster.status("fix")), cluster.status("fix")), []);
    cluster.edit("fix", |spec| spec.cancel = Some(true));
    cluster.rest("fix");
    cluster.pods_end();
    cluster.rest("fix");
    let said: Vec<_> = cluster.said.iter().map(|(_, said)| (said.kind, said.reason, said.warning)).collect();
    assert_eq!(said, [(ConditionType::Failed, Reason::Cancelled, true)], "and the end once, as a warning");
}

#[test]
fn a_status_stays_small_whatever_is_reported() {
    let long = "é".repeat(4_000);
    let warnings = (0..60).map(|n| Notice { reason: Reason::ExtraColumns, message: format!("{n} {long}") }).collect();
    let guards =
        (0..60).map(|n| GuardResult { name: format!("{n}{}", "x".repeat(120)), verdict: Verdict::Passed, message: long.clone() });
    let proof = Proof {
        verdict: Verdict::Passed,
        files_untouched: u64::MAX,
        rows_outside_before: 1,
        rows_outside_after: 1,
        hash_before: "f".repeat(32),
        hash_after: "f".repeat(32),
    };
    let offline = OfflineReport { guards: guards.collect(), proof: Some(proof), ..replaced(5).offline.expect("a report") };
    let mut cluster = running(json!({}));
    cluster.reports("fix", Report { offline: Some(offline), warnings, ..report(Outcome::Done) });
    // Every write is checked.
    cluster.rest("fix");
    let job = cluster.job("fix");
    let pod = cluster.add_pod(&job);
    let failed = Outcome::Failed { reason: Reason::OnlineAuth, message: long, retry: false };
    cluster.pod_ends(&pod, 64, "Error", Some(&report(failed)));
    cluster.rest("fix");
    cluster.job_is(&job, "Failed");
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("failed", Reason::OnlineAuth));
    assert_eq!(cluster.status("fix").offline.as_ref().map(|report| report.rows_written), Some(12), "numbers stay");
}

#[test]
fn a_status_stays_small_while_it_is_broken_off() {
    let mut cluster = running(json!({}));
    let job = cluster.job("fix");
    let pod = cluster.pods_of(&job)[0].clone();
    let failed = Outcome::Failed { reason: Reason::CheckFailed, message: "é".repeat(20_000), retry: false };
    cluster.pod_ends(&pod, 64, "Error", Some(&report(failed)));
    cluster.job_is(&job, "Failed");
    cluster.rest("fix");
    assert_eq!(cluster.stands("fix"), ("going", Reason::Settling));
}

#[test]
fn the_oldest_attempts_leave_the_status_and_numbers_go_on() {
    let mut cluster = running(json!({}));
    for _ in 0..6 {
        cluster.reports("fix", replaced(5));
        cluster.pods.clear();
        cluster.rest("fix");
    }
    let numbers: Vec<_> = cluster.status("fix").attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [3, 4, 5, 6, 7]);
}

#[test]
fn a_pod_says_at_once_what_hinders_it_and_how_it_has_ended() {
    let pod =
        |status: Value| -> Pod { serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod") };
    let worker =
        |state: Value| json!({"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let hindered = |status: Value| hindrance(&pod(status)).map(|notice| (notice.reason, notice.message));
    let unplaced =
        |reason: &str| json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason, "message": "0/3"}]});
    assert_eq!(hindered(unplaced("Unschedulable")), Some((Reason::Unschedulable, "pod p: 0/3".to_owned())));
    assert_eq!(hindered(unplaced("SchedulingGated")), None);
    let stuck =
        json!({"containerStatuses": [worker(json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}))]});
    assert_eq!(hindered(stuck), Some((Reason::ImagePull, "pod p: ErrImagePull: no such image".to_owned())));
    assert_eq!(hindered(json!({"phase": "Pending"})), None);

    let words = |status: Value| ended(&pod(status));
    let exited = |code: i32, reason: &str| worker(json!({"terminated": {"exitCode": code, "reason": reason}}));
    for (status, expected) in [
        (json!({"phase": "Pending"}), None),
        (json!({"phase": "Running", "containerStatuses": [worker(json!({"running": {}}))]}), None),
        // Something beside the worker goes on.
        (
            json!({"phase": "Running", "containerStatuses": [exited(0, "Completed")]}),
            Some("it ended with exit code 0 (Completed)"),
        ),
        (
            json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long", "containerStatuses": [exited(137, "Error")]}),
            Some("it ended with exit code 137 (Error): DeadlineExceeded: too long"),
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), Some("it never ran: Evicted")),
    ] {
        assert_eq!(words(status.clone()).as_deref(), expected, "{status}");
    }
}
