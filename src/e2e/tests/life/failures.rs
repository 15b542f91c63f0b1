//! What goes wrong in pods reaches the status, with the way out.

use crate::world::{TABLE, test};
use anyhow::{Context, Result};
use backfill_core::condition::ConditionType::{Failed, OfflineReplaced, OnlineReplaced, Ready, Reconciling};
use backfill_core::condition::Reason;
use backfill_core::contract::Step;
use backfill_core::plan::run::label;
use backfill_e2e::{Act, eventually};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt;
use serde_json::json;
use std::time::Duration;

#[test]
fn a_guard_that_fails_ends_the_backfill_settled_and_changes_nothing() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::fail(Reason::ShrinkGuard, "2 rows would replace 100", false));
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!(seen.row(), "False – True False True");
        assert_eq!(
            (seen.reason(Failed), seen.message(Failed)),
            ("ShrinkGuard", "2 rows would replace 100; nothing was replaced")
        );
        assert_eq!((seen.reason(OfflineReplaced), seen.is(OfflineReplaced)), ("ShrinkGuard", false));
        assert_eq!(world.steps(), ["offline 1", "settle 1"]);
        assert!(world.released("clicks").await?.status.context("a status")?.ledger.is_empty());
        rule.remove();
        world.patch("may", json!({ "runId": "again" })).await?;
        world.phase("may", "Complete").await?;
        assert_eq!(world.publishes(), 1);
        Ok(())
    })
}

#[test]
fn a_failure_that_may_pass_is_tried_again() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::fail(Reason::OfflineUnavailable, "503 of the object store", true));
        world.backfill("may", json!({ "retries": 5 })).await?;
        let seen = world.reason("may", Reconciling, "Retrying").await?;
        assert!(seen.message(Reconciling).contains("503 of the object store"), "{}", seen.message(Reconciling));
        rule.remove();
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn a_failure_that_does_not_pass_ends_with_its_own_words() -> Result<()> {
    test(async |world| {
        world.pods("offline", Act::fail(Reason::OfflineUnavailable, "503 of the object store", true));
        world.backfill("may", json!({ "retries": 0 })).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!(
            (seen.reason(Failed), seen.message(Failed)),
            ("OfflineUnavailable", "503 of the object store; nothing was replaced")
        );
        Ok(())
    })
}

#[test]
fn a_pod_that_published_and_died_before_it_told_is_followed_by_one_that_tells() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::obey_and_die());
        world.backfill("may", json!({ "retries": 3 })).await?;
        eventually("it to publish", async || Ok((world.publishes() == 1).then_some(()))).await?;
        rule.remove();
        let seen = world.phase("may", "Complete").await?;
        assert_eq!((world.publishes(), seen.reason(Ready)), (1, "Succeeded"));
        Ok(())
    })
}

#[test]
fn a_job_that_fails_after_it_has_published_goes_on_with_the_online_store() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::obey_and_die());
        world.backfill("may", json!({ "retries": 0 })).await?;
        let seen = world.phase("may", "Complete").await?;
        rule.remove();
        assert!(seen.is(OfflineReplaced) && seen.is(OnlineReplaced));
        assert_eq!((world.publishes(), world.steps()[..2].to_vec()), (1, vec!["offline 1".to_owned(), "settle 1".to_owned()]));
        Ok(())
    })
}

#[test]
fn offline_done_and_online_failed_is_repaired_by_a_backfill_of_the_online_store() -> Result<()> {
    test(async |world| {
        let rule = world.pods("online", Act::fail(Reason::OnlineAuth, "WRONGPASS", false));
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Failed").await?;
        assert!(seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        assert_eq!((seen.reason(Failed), seen.reason(OnlineReplaced)), ("OnlineAuth", "OnlineAuth"));
        let ledger = world.released("clicks").await?.status.context("a status")?.ledger;
        assert_eq!((ledger.len(), ledger[0].online), (1, false));
        rule.remove();
        world.backfill("repair", json!({ "stores": ["Online"] })).await?;
        let seen = world.phase("repair", "Complete").await?;
        assert_eq!((seen.reason(OfflineReplaced), seen.is(OnlineReplaced)), ("Skipped", true));
        Ok(())
    })
}

#[test]
fn one_share_of_the_online_step_that_fails_is_tried_again_alone() -> Result<()> {
    test(async |world| {
        let rule = world.pods_of_share("online", 1, Act::fail(Reason::OnlineUnavailable, "down", true));
        world.backfill("may", json!({})).await?;
        let seen = world.reason("may", Reconciling, "Retrying").await?;
        assert!(seen.message(Reconciling).contains("down"), "{}", seen.message(Reconciling));
        assert_eq!(
            (seen.row().as_str(), seen.is(OfflineReplaced), seen.is(OnlineReplaced)),
            ("False True – False False", true, false)
        );
        let key = seen.0.status.context("a status")?.resolved.context("pinned")?.key;
        let is_online = || world.shared.kubelet.tables().is_online(world.namespace.name(), TABLE, &key);
        assert!(!is_online(), "half of the entities are missing");
        rule.remove();
        world.phase("may", "Complete").await?;
        assert!(is_online());
        let runs = world.runs();
        let lives = |share| runs.iter().filter(|run| run.step == Step::Online && run.index == share).count();
        assert!(lives(0) == 1 && lives(1) >= 2, "what was done is kept: {runs:#?}");
        Ok(())
    })
}

#[test]
fn one_share_of_the_online_step_that_cannot_succeed_fails_the_backfill_and_not_the_table() -> Result<()> {
    test(async |world| {
        world.pods_of_share("online", 1, Act::fail(Reason::OnlineAuth, "WRONGPASS", false));
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!(seen.reason(Failed), "OnlineAuth");
        assert!(seen.message(Failed).starts_with("WRONGPASS"), "{}", seen.message(Failed));
        assert!(seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        let ledger = world.released("clicks").await?.status.context("a status")?.ledger;
        assert_eq!(ledger.iter().map(|entry| (entry.backfill.as_str(), entry.online)).collect::<Vec<_>>(), [("may", false)]);
        assert_eq!(world.publishes(), 1);
        Ok(())
    })
}

#[test]
fn pods_that_run_out_of_memory_twice_fail_with_the_advice() -> Result<()> {
    test(async |world| {
        world.pods("offline", Act::out_of_memory());
        world.backfill("may", json!({ "retries": 10 })).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!(seen.reason(Failed), "OOMKilled");
        assert!(seen.message(Failed).contains("choose a larger clusterTemplate"), "{}", seen.message(Failed));
        assert_eq!(world.runs().iter().filter(|run| run.step == Step::Offline).count(), 2);
        Ok(())
    })
}

#[test]
fn an_evicted_pod_is_nobodys_failure() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::evicted());
        world.backfill("may", json!({ "retries": 0 })).await?;
        eventually("a second pod", async || Ok((world.runs().len() >= 2).then_some(()))).await?;
        rule.change(Act::obey());
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn an_image_that_cannot_be_pulled_is_said() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::waiting("ImagePullBackOff", "Back-off pulling image \"worker:test\""));
        world.backfill("may", json!({})).await?;
        let seen = world.reason("may", Reconciling, "ImagePull").await?;
        assert!(seen.message(Reconciling).contains("Back-off pulling image \"worker:test\""), "{}", seen.message(Reconciling));
        assert_eq!(seen.row(), "False True – False False");
        rule.change(Act::obey());
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn an_image_that_cannot_be_pulled_until_the_deadline_ends_the_backfill_and_nothing_was_begun() -> Result<()> {
    test(async |world| {
        // All pods of an operator have the same image, those that would settle, too.
        for step in ["offline", "settle"] {
            world.pods(step, Act::waiting("ImagePullBackOff", "Back-off pulling image \"worker:test\""));
        }
        world.backfill("may", json!({ "deadline": "3s" })).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!((seen.row().as_str(), seen.reason(Failed)), ("False – True False True", "DeadlineExceeded"));
        assert!(seen.message(Failed).contains("its deadline is 3 s; nothing was replaced"), "{}", seen.message(Failed));
        assert!(!seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        world.released("clicks").await?;
        assert!(world.runs().is_empty(), "what never began needs no settling: {:#?}", world.runs());
        Ok(())
    })
}

#[test]
fn a_pod_that_finds_no_node_for_five_minutes_is_said_in_the_schedulers_words() -> Result<()> {
    test(async |world| {
        let message = "0/3 nodes are available: 3 Insufficient memory.";
        let rule = world.pods("offline", Act::unschedulable(message).since(Duration::from_secs(360)));
        world.backfill("may", json!({})).await?;
        let seen = world.reason("may", Reconciling, "Unschedulable").await?;
        assert!(seen.message(Reconciling).contains(message), "{}", seen.message(Reconciling));
        assert_eq!(seen.row(), "False True – False False");
        rule.change(Act::obey());
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn a_quota_that_leaves_no_room_is_said_with_its_name() -> Result<()> {
    test(async |world| {
        let quota = json!({ "metadata": { "name": "tight" }, "spec": { "hard": { "pods": "0" } } });
        world.create::<ResourceQuota>(quota).await?;
        world.backfill("may", json!({})).await?;
        let seen = world.reason("may", Reconciling, "QuotaExceeded").await?;
        assert!(seen.message(Reconciling).contains("tight"), "{}", seen.message(Reconciling));
        world.namespace.kubectl(&["delete", "resourcequota", "tight"]).await?.ok()?;
        world.phase("may", "Complete").await?;
        let of_offline = |job: &&Job| job.labels().get(label::STEP).is_some_and(|step| step == "offline");
        assert_eq!(world.jobs().await?.iter().filter(of_offline).count(), 1, "the Job that waited is the one that ran");
        assert_eq!(world.steps(), ["offline 1", "online 1"]);
        Ok(())
    })
}

#[test]
fn a_backfill_past_its_deadline_says_what_was_replaced_and_what_not() -> Result<()> {
    test(async |world| {
        world.pods("online", Act::run());
        world.backfill("may", json!({ "deadline": "3s" })).await?;
        let began = std::time::Instant::now();
        let seen = world.phase("may", "Failed").await?;
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert_eq!((seen.reason(Failed), seen.is(OfflineReplaced), seen.is(OnlineReplaced)), ("DeadlineExceeded", true, false));
        assert!(world.shared.kubelet.tables().version(world.namespace.name(), TABLE).is_some());
        Ok(())
    })
}
