//! Suspended, cancelled, deleted: what is published stays consistent, what is not leaves nothing.

use crate::world::{TABLE, World, test};
use anyhow::{Context, Result};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::ConditionType::{Complete, Failed, OfflineReplaced, OnlineReplaced, Reconciling, Suspended};
use backfill_core::plan::run::label;
use backfill_core::time::show;
use backfill_e2e::{Act, eventually};
use chrono::{TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

fn another() -> serde_json::Value {
    json!({ "startTime": "2024-07-01", "stopTime": "2024-08-01" })
}

/// The feature set can be had by the next one.
async fn next_one_runs(world: &World) -> Result<()> {
    world.backfill("next", another()).await?;
    world.phase("next", "Complete").await.map(drop)
}

#[test]
fn a_backfill_suspended_before_it_has_published_lets_others_go_first() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.patch("may", json!({ "suspend": true })).await?;
        world.released("clicks").await?;
        let seen = world.phase("may", "Suspended").await?;
        assert_eq!(seen.row(), "False – – False False");
        assert!(seen.is(Suspended) && world.jobs().await?.is_empty());
        assert_eq!(world.kstatus(&seen).await?, "InProgress");
        rule.remove();
        next_one_runs(&world).await?;
        world.patch("may", json!({ "suspend": false })).await?;
        let seen = world.phase("may", "Complete").await?;
        let attempts = seen.0.status.context("a status")?.attempts;
        assert_eq!(attempts.iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [1, 2, 1], "resuming is the next attempt");
        Ok(())
    })
}

#[test]
fn a_backfill_suspended_after_it_has_published_keeps_its_feature_set() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.published("may").await?;
        world.patch("may", json!({ "suspend": true })).await?;
        let seen = world.phase("may", "Suspended").await?;
        assert!(seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        world.backfill("next", another()).await?;
        let queued = world.phase("next", "Queued").await?;
        let message = queued.message(backfill_core::condition::ConditionType::Reconciling).to_owned();
        assert!(message.contains("held by \"may\", which is suspended"), "{message}");
        rule.remove();
        world.patch("may", json!({ "suspend": false })).await?;
        world.phase("may", "Complete").await?;
        world.phase("next", "Complete").await?;
        Ok(())
    })
}

#[test]
fn cancelling_settles_and_leaves_the_feature_set_to_the_next() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.backfill("waiting", another()).await?;
        world.phase("waiting", "Queued").await?;
        world.patch("waiting", json!({ "cancel": true })).await?;
        let seen = world.phase("waiting", "Cancelled").await?;
        assert_eq!(seen.row(), "False – True False True");
        world.patch("may", json!({ "cancel": true })).await?;
        let seen = world.phase("may", "Cancelled").await?;
        assert_eq!(
            (seen.row().as_str(), seen.reason(Failed), seen.is(OfflineReplaced)),
            ("False – True False True", "Cancelled", false)
        );
        assert_eq!(world.kstatus(&seen).await?, "Failed");
        assert_eq!(world.steps(), ["offline 1", "settle 1"]);
        world.released("clicks").await?;
        rule.remove();
        next_one_runs(&world).await
    })
}

#[test]
fn cancelling_after_publishing_says_what_is_published() -> Result<()> {
    test(async |world| {
        world.published("may").await?;
        world.patch("may", json!({ "cancel": true })).await?;
        let seen = world.phase("may", "Cancelled").await?;
        assert!(seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        let ledger = world.released("clicks").await?.status.context("a status")?.ledger;
        assert_eq!(ledger.iter().map(|entry| (entry.backfill.as_str(), entry.online)).collect::<Vec<_>>(), [("may", false)]);
        Ok(())
    })
}

#[test]
fn the_manifest_of_a_cancelled_backfill_runs_when_it_is_applied_again() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.patch("may", json!({ "cancel": true })).await?;
        world.phase("may", "Cancelled").await?;
        world.delete("may").await?;
        world.gone("may").await?;
        rule.remove();
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Complete").await?;
        assert_eq!((seen.reason(Complete), world.publishes()), ("Succeeded", 1), "nothing was applied before");
        Ok(())
    })
}

#[test]
fn cancelling_and_deleting_leaves_the_backfills_of_other_feature_sets_alone() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.feature_set("views").await?;
        world.backfill("other", json!({ "featureSet": "views" })).await?;
        world.phase("other", "Running").await?;
        // The Job controller counts a moment later that the pod is ready; then nobody has a reason to write.
        let is_counted = |job: &Job| job.status.as_ref().and_then(|status| status.ready) == Some(1);
        let before = eventually("the Job of the other to be at rest", async || {
            let belongings = belongings(&world, "other").await?;
            Ok(belongings.jobs.iter().all(is_counted).then_some(belongings))
        })
        .await?;
        assert_eq!((before.jobs.len(), before.pods.len()), (1, 1));
        world.patch("may", json!({ "cancel": true })).await?;
        world.phase("may", "Cancelled").await?;
        world.delete("may").await?;
        world.gone("may").await?;
        world.backfill("july", another()).await?;
        world.phase("july", "Running").await?;
        world.delete("july").await?;
        world.gone("july").await?;
        assert_eq!(belongings(&world, "other").await?, before, "the same objects in the same versions");
        rule.remove();
        world.phase("other", "Complete").await?;
        assert_eq!(world.runs().into_iter().filter(|run| run.published).map(|run| run.backfill).collect::<Vec<_>>(), ["other"]);
        Ok(())
    })
}

/// A backfill and what was made for it.
#[derive(Debug, PartialEq)]
struct Belongings {
    backfill: FeatureSetBackfill,
    jobs: Vec<Job>,
    pods: Vec<Pod>,
    orders: Vec<ConfigMap>,
}

async fn belongings(world: &World, name: &str) -> Result<Belongings> {
    let of_it = ListParams::default().labels(&format!("{}={name}", label::BACKFILL));
    Ok(Belongings {
        backfill: world.get(name).await?.0,
        jobs: world.namespace.api::<Job>().list(&of_it).await?.items,
        pods: world.namespace.api::<Pod>().list(&of_it).await?.items,
        orders: world.namespace.api::<ConfigMap>().list(&of_it).await?.items,
    })
}

#[test]
fn a_backfill_deleted_while_staging_leaves_the_table_as_it_was() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.delete("may").await?;
        world.gone("may").await?;
        assert_eq!((world.steps(), world.publishes()), (vec!["offline 1".to_owned(), "settle 1".to_owned()], 0));
        world.released("clicks").await?;
        eventually("its Jobs to be gone", async || Ok(world.jobs().await?.is_empty().then_some(()))).await?;
        rule.remove();
        next_one_runs(&world).await
    })
}

#[test]
fn a_deleted_backfill_that_cannot_be_settled_is_given_up_and_its_remains_are_named() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.pods("settle", Act::waiting("ImagePullBackOff", "x"));
        world.delete("may").await?;
        world.phase("may", "Settling").await?;
        let says = "what it left cannot be removed yet";
        eventually("it to say why it stays", async || {
            Ok(world.get("may").await?.message(Reconciling).contains(says).then_some(()))
        })
        .await?;
        let holder = world.sets().get("clicks").await?.status.context("a status")?.active;
        assert_eq!(holder.context("a holder")?.name, "may", "until it is given up nobody else may write");
        let then = show(Utc::now() - TimeDelta::minutes(16));
        world.edit_status("may", |status| status.broken.iter_mut().for_each(|broken| broken.at.clone_from(&then))).await?;
        world.gone("may").await?;
        world.released("clicks").await?;
        let said = world.event("Abandoned").await?;
        assert!(said.contains("VACUUM") && said.contains("fsb-"), "what is left, and what removes it: {said}");
        assert_eq!((world.steps(), world.publishes()), (vec!["offline 1".to_owned()], 0));
        rule.remove();
        next_one_runs(&world).await
    })
}

#[test]
fn a_backfill_deleted_after_it_has_published_finishes_online_first() -> Result<()> {
    test(async |world| {
        let (rule, seen) = world.published("may").await?;
        let key = seen.0.status.context("a status")?.resolved.context("pinned")?.key;
        world.delete("may").await?;
        rule.change(Act::obey());
        world.gone("may").await?;
        assert!(world.shared.kubelet.tables().is_online(world.namespace.name(), TABLE, &key));
        let ledger = world.released("clicks").await?.status.context("a status")?.ledger;
        assert_eq!((ledger.len(), ledger[0].online), (1, true));
        Ok(())
    })
}

#[test]
fn a_backfill_deleted_before_its_turn_is_simply_gone() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.backfill("waiting", another()).await?;
        world.phase("waiting", "Queued").await?;
        world.delete("waiting").await?;
        world.gone("waiting").await?;
        rule.change(Act::obey());
        world.phase("may", "Complete").await?;
        assert_eq!(world.publishes(), 1);
        Ok(())
    })
}

#[test]
fn a_feature_set_deleted_mid_run_stops_the_run_and_never_has_two() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        world.sets().delete("clicks", &DeleteParams::default()).await?;
        let seen = world.phase("may", "Failed").await?;
        assert_eq!((seen.reason(Failed), world.publishes()), ("FeatureSetDeleted", 0));
        eventually("the feature set to be gone", async || Ok(world.sets().get_opt("clicks").await?.is_none().then_some(())))
            .await?;
        rule.remove();
        world.feature_set("clicks").await?;
        next_one_runs(&world).await
    })
}

#[test]
fn an_edit_of_the_feature_set_mid_run_warns_and_changes_nothing() -> Result<()> {
    test(async |world| {
        let (rule, before) = world.running("may").await?;
        let before = before.0.status.context("a status")?.resolved.context("pinned")?;
        let mut spec = crate::world::set_spec();
        spec["transformation"]["sql"] = json!("SELECT user_id, t, amount + 1 AS amount FROM raw");
        world.apply("FeatureSet", "clicks", spec).await?;
        rule.change(Act::obey());
        let seen = world.phase("may", "Complete").await?;
        assert_eq!(seen.reason(backfill_core::condition::ConditionType::Accepted), "FeatureSetChanged");
        assert!(seen.is(Complete));
        assert_eq!(seen.0.status.context("a status")?.resolved.context("pinned")?.definition, before.definition);
        Ok(())
    })
}

#[test]
fn a_namespace_can_be_deleted_while_a_backfill_runs() -> Result<()> {
    test(async |world| {
        world.pods("offline", Act::run());
        world.backfill("may", json!({})).await?;
        world.phase("may", "Running").await?;
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(world.shared.cluster.client());
        namespaces.delete(world.namespace.name(), &DeleteParams::default()).await?;
        let began = std::time::Instant::now();
        // What cannot be settled is given up after a minute.
        while namespaces.get_opt(world.namespace.name()).await?.is_some() {
            anyhow::ensure!(
                began.elapsed().as_secs() < 120,
                "the namespace hangs: {:#?}",
                world.backfills().get_opt("may").await?
            );
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        Ok(())
    })
}
