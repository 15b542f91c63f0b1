//! Suspended, cancelled, deleted: what is published stays consistent, what is not leaves nothing.

use crate::world::{TABLE, World, test};
use anyhow::{Context, Result};
use backfill_core::condition::ConditionType::{Complete, Failed, OfflineReplaced, OnlineReplaced, Suspended};
use backfill_e2e::{Act, eventually};
use kube::api::DeleteParams;
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
