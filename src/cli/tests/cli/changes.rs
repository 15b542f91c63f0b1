//! Changing a backfill that is there.

use crate::world::test;
use anyhow::{Context, Result};
use backfill_core::condition::Reason;
use backfill_e2e::Act;
use kube::ResourceExt;
use kube::api::ListParams;

#[test]
fn a_backfill_is_held_let_go_and_cancelled() -> Result<()> {
    test(async |world| {
        let rule = world.pods("may", "offline", Act::run());
        world.may("may", &[]).await?.with(0)?;
        world.phase("may", "Running").await?;
        let held = world.features(&["backfill", "suspend", "may"]).await?.with(0)?;
        assert_eq!(held.stdout, "featuresetbackfill.featureset.dev/may suspended\n");
        world.phase("may", "Suspended").await?;
        let status = world.features(&["backfill", "status", "may"]).await?.with(0)?;
        assert!(status.stdout.contains("kubectl features backfill resume may"), "{}", status.stdout);
        let again = world.features(&["backfill", "suspend", "@latest"]).await?.with(0)?;
        assert!(again.stdout.ends_with("unchanged\n"), "{}", again.stdout);
        world.features(&["backfill", "resume", "may"]).await?.with(0)?;
        world.phase("may", "Running").await?;
        world.features(&["backfill", "cancel", "may"]).await?.with(0)?;
        world.phase("may", "Cancelled").await?;
        rule.remove();
        for verb in ["cancel", "suspend", "resume"] {
            let ended = world.features(&["backfill", verb, "may"]).await?.with(1)?;
            assert!(
                ended.stderr.contains("it has ended (Cancelled)") && ended.stderr.contains("backfill rerun may"),
                "{}",
                ended.stderr
            );
        }
        Ok(())
    })
}

#[test]
fn what_failed_is_tried_again_and_what_succeeded_is_run_again() -> Result<()> {
    test(async |world| {
        let rule = world.pods("may", "offline", Act::fail(Reason::SourceNotFound, "there is nothing", false));
        world.may("may", &["--wait"]).await?.with(3)?;
        rule.remove();
        let retried = world.features(&["backfill", "retry", "may", "--yes", "--wait"]).await?.with(0)?;
        assert!(retried.stdout.contains("may runs again as run-20"), "{}", retried.stdout);
        let refused = world.features(&["backfill", "retry", "may", "--yes"]).await?.with(1)?;
        assert!(
            refused.stderr.contains("it has not failed (Complete)") && refused.stderr.contains("rerun"),
            "{}",
            refused.stderr
        );
        let asked = world.features(&["backfill", "rerun", "may"]).await?.with(2)?;
        assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
        world.features(&["backfill", "rerun", "may", "--run-id", "third", "--yes", "--wait"]).await?.with(0)?;
        let backfill = world.backfills().get("may").await?;
        assert_eq!(backfill.status.context("a status")?.run_id.as_deref(), Some("third"));
        let uri = "s3://bucket/tables/user-clicks";
        assert_eq!(world.shared.kubelet.tables().version(world.name(), uri), Some(1), "two publishes: 0 and 1");
        Ok(())
    })
}

#[test]
fn a_plan_is_shown_and_published() -> Result<()> {
    test(async |world| {
        world.may("may", &["--mode", "plan"]).await?.with(0)?;
        let shown = world.features(&["backfill", "plan", "may"]).await?.with(10)?;
        assert!(shown.stdout.contains("Planned: ") && shown.stdout.contains("--apply"), "{}", shown.stdout);
        let document = world.features(&["backfill", "plan", "may", "-o", "json"]).await?.with(10)?.json()?;
        assert_eq!(document["status"]["phase"], "Planned");
        let applied = world.features(&["backfill", "plan", "may", "--apply", "--yes"]).await?.with(0)?;
        assert!(applied.stderr.contains("Complete"), "{}", applied.stderr);
        world.may("june", &[]).await?.with(0)?;
        let no_plan = world.features(&["backfill", "plan", "june"]).await?.with(1)?;
        assert!(no_plan.stderr.contains("\"june\" is no plan"), "{}", no_plan.stderr);
        Ok(())
    })
}

#[test]
fn a_backfill_is_taken_back_also_when_it_is_gone() -> Result<()> {
    test(async |world| {
        world.may("may", &["--wait"]).await?.with(0)?;
        world.features(&["backfill", "delete", "may"]).await?.with(0)?;
        let undone =
            world.features(&["backfill", "undo", "may", "--comment", "wrong", "--yes", "--wait", "-o", "name"]).await?.with(0)?;
        assert_eq!(undone.stdout, "featuresetbackfill.featureset.dev/undo-may\n");
        assert!(undone.stderr.contains("replaces   what \"may\" replaced, by what was there before"), "{}", undone.stderr);
        let undo = world.backfills().get("undo-may").await?;
        assert_eq!((undo.spec.undo.as_deref(), undo.spec.comment.as_deref()), (Some("may"), Some("wrong")));
        let missing = world.features(&["backfill", "undo", "nobody", "--yes"]).await?.with(1)?;
        assert!(missing.stderr.contains("no backfill \"nobody\""), "{}", missing.stderr);
        Ok(())
    })
}

#[test]
fn a_running_backfill_is_deleted_only_when_asked() -> Result<()> {
    test(async |world| {
        world.pods("may", "offline", Act::run());
        world.may("may", &[]).await?.with(0)?;
        world.phase("may", "Running").await?;
        let asked = world.features(&["backfill", "delete", "may"]).await?.with(2)?;
        assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
        assert!(world.backfills().get("may").await?.metadata.deletion_timestamp.is_none());
        world.features(&["backfill", "delete", "may", "--yes", "--wait"]).await?.with(0)?;
        assert!(world.backfills().get_opt("may").await?.is_none());
        Ok(())
    })
}

#[test]
fn pruning_keeps_what_is_young_runs_failed_or_is_among_the_newest() -> Result<()> {
    test(async |world| {
        for name in ["first", "second", "third"] {
            world.may(name, &["--wait", "--run-id", name]).await?.with(0)?;
        }
        world.pods("bad", "offline", Act::fail(Reason::SourceNotFound, "there is nothing", false));
        world.may("bad", &["--wait"]).await?.with(3)?;
        world.may("held", &["--suspend"]).await?.with(0)?;
        let left = async || -> Result<Vec<String>> {
            Ok(world.backfills().list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect())
        };
        let young = world.features(&["backfill", "prune", "--keep", "0", "--yes"]).await?.with(0)?;
        assert!(young.stderr.starts_with("Nothing to prune"), "{}", young.stderr);
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        let prune = ["backfill", "prune", "--older-than", "0", "--keep", "3"];
        let dry = world.features(&[&prune[..], &["--dry-run"]].concat()).await?.with(0)?;
        assert!(dry.stderr.contains("2 would be deleted") && left().await?.len() == 5, "{}", dry.stderr);
        world.features(&prune).await?.with(2)?;
        let pruned = world.features(&[&prune[..], &["--yes"]].concat()).await?.with(0)?;
        assert_eq!(pruned.stdout.lines().count(), 2, "{}", pruned.stdout);
        assert_eq!(left().await?, ["bad", "held", "third"]);
        world.features(&["backfill", "prune", "--older-than", "0", "--keep", "0", "--failed", "--yes"]).await?.with(0)?;
        assert_eq!(left().await?, ["held"]);
        Ok(())
    })
}
