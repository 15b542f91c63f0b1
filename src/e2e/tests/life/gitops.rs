//! What Argo CD and Flux do: apply again, delete and apply, change the run.

use crate::world::{of_may, test};
use anyhow::{Context, Result};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::ConditionType::{Complete, Ready};
use backfill_e2e::{manifest, until};
use kube::ResourceExt;
use serde_json::json;

#[test]
fn applying_an_unchanged_manifest_again_does_nothing() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({})).await?;
        world.phase("may", "Complete").await?;
        world.released("clicks").await?;
        // The backfill itself is let go of last.
        let free = |backfill: Option<&FeatureSetBackfill>| backfill.is_some_and(|backfill| backfill.finalizers().is_empty());
        until(&world.backfills(), "may", free).await?;
        let before = world.get("may").await?.0.metadata.resource_version;
        for _ in 0..3 {
            world.backfill("may", json!({})).await?;
        }
        assert_eq!((world.get("may").await?.0.metadata.resource_version, world.publishes()), (before, 1));
        Ok(())
    })
}

#[test]
fn a_manifest_that_is_deleted_and_applied_again_was_applied_already() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({})).await?;
        world.phase("may", "Complete").await?;
        world.delete("may").await?;
        world.gone("may").await?;
        let runs = world.runs().len();
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Complete").await?;
        assert_eq!((seen.reason(Ready), seen.row().as_str()), ("AlreadyApplied", "True – – True False"));
        assert!(seen.message(Complete).ends_with("as version 0; set spec.runId to run it again"), "{}", seen.message(Complete));
        assert_eq!((world.runs().len(), world.kstatus(&seen).await?.as_str()), (runs, "Current"), "the ledger saves the Job");
        world.patch("may", json!({ "runId": "2" })).await?;
        let succeeded = world.reason("may", Ready, "Succeeded").await?;
        assert_eq!(succeeded.0.status.context("a status")?.run_id.as_deref(), Some("2"));
        assert_eq!(world.publishes(), 2);
        Ok(())
    })
}

#[test]
fn without_the_ledger_a_job_finds_out_and_publishes_nothing() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({})).await?;
        world.phase("may", "Complete").await?;
        world.delete("may").await?;
        world.gone("may").await?;
        world.released("clicks").await?;
        world.sets().delete("clicks", &kube::api::DeleteParams::default()).await?;
        world.feature_set("clicks").await?;
        world.backfill("may", json!({})).await?;
        let seen = world.phase("may", "Complete").await?;
        assert_eq!((seen.reason(Ready), world.publishes()), ("AlreadyApplied", 1));
        Ok(())
    })
}

#[test]
fn the_run_may_be_changed_only_when_it_has_ended_and_other_fields_never() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        let refused = world.patch("may", json!({ "runId": "2" })).await.expect_err("it runs");
        assert!(format!("{refused:#}").contains("spec.runId changes only when the run has ended"), "{refused:#}");
        let other = manifest("FeatureSetBackfill", "may", of_may(json!({ "stopTime": "2024-07-01", "startTime": "2024-05-01" })));
        let refused = world.namespace.apply(&other.to_string()).await.expect_err("immutable");
        assert!(format!("{refused:#}").contains("create another backfill"), "the ways out: {refused:#}");
        rule.remove();
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn children_are_removed_after_their_time_and_the_backfill_stays() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({ "ttlSecondsAfterFinished": 1 })).await?;
        world.phase("may", "Complete").await?;
        backfill_e2e::eventually("Jobs and orders to be gone", async || {
            let maps = world.namespace.kubectl(&["get", "configmaps", "-l", "featureset.dev/uid", "-o", "name"]).await?.ok()?;
            Ok((world.jobs().await?.is_empty() && maps.trim().is_empty()).then_some(()))
        })
        .await?;
        assert!(world.get("may").await?.is(Complete));
        Ok(())
    })
}
