//! Staying with a backfill: what is shown, and what the exit code says of its end.

use crate::world::{PROGRAM, test};
use anyhow::{Context, Result};
use backfill_core::condition::Reason;
use backfill_e2e::{Act, eventually};
use std::time::Duration;
use tokio::io::AsyncReadExt;

#[test]
fn each_end_has_its_exit_code() -> Result<()> {
    test(async |world| {
        world.may("good", &["--wait"]).await?.with(0)?;
        world.features(&["backfill", "wait", "good"]).await?.with(0)?;

        world.pods("bad", "offline", Act::fail(Reason::SourceNotFound, "s3://bucket/raw/ is empty", false));
        let bad = world.may("bad", &["--watch"]).await?.with(3)?;
        assert!(bad.stderr.contains("bad: Failed: s3://bucket/raw/ is empty"), "{}", bad.stderr);
        assert!(bad.stderr.contains("kubectl features backfill status bad -n"), "{}", bad.stderr);

        world.pods("held", "offline", Act::run());
        world.may("held", &[]).await?.with(0)?;
        world.phase("held", "Running").await?;
        let late = world.features(&["backfill", "wait", "held", "--timeout", "1s"]).await?.with(124)?;
        assert!(
            late.stderr.contains("not ended within 1 s") && late.stderr.contains("backfill watch held -n"),
            "{}",
            late.stderr
        );
        world.features(&["backfill", "cancel", "held"]).await?.with(0)?;
        world.features(&["backfill", "wait", "held"]).await?.with(4)?;

        let planned = world.may("planned", &["--mode", "plan", "--wait"]).await?.with(10)?;
        assert!(planned.stderr.contains("backfill plan planned") && planned.stderr.contains("--apply"), "{}", planned.stderr);
        Ok(())
    })
}

#[test]
fn lines_are_shown_where_there_is_no_terminal() -> Result<()> {
    test(async |world| {
        let ended = world.may("may", &["--watch"]).await?.with(0)?;
        let shown: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("Z may: ")).collect();
        assert!(shown.len() >= 2, "{}", ended.stderr);
        assert!(shown.last().is_some_and(|line| line.contains("Complete: 100 rows replaced by 120")), "{shown:?}");
        assert!(!ended.stderr.contains('\u{1b}'), "no colours: {}", ended.stderr);
        assert_eq!(ended.stdout, "featuresetbackfill.featureset.dev/may created\n");
        Ok(())
    })
}

#[test]
fn json_is_one_document_per_line() -> Result<()> {
    test(async |world| {
        world.may("may", &[]).await?.with(0)?;
        let states = world.features(&["backfill", "watch", "may", "-o", "json"]).await?.with(0)?.lines()?;
        let last = states.last().context("a state")?;
        assert_eq!((&last["metadata"]["name"], &last["status"]["phase"]), (&"may".into(), &"Complete".into()));
        assert!(states.iter().all(|state| state["metadata"]["managedFields"].is_null()));
        Ok(())
    })
}

#[test]
fn who_interrupts_leaves_the_backfill_running() -> Result<()> {
    test(async |world| {
        world.pods("may", "offline", Act::run());
        world.may("may", &[]).await?.with(0)?;
        world.phase("may", "Running").await?;
        let mut child = world.command(PROGRAM).args(["backfill", "watch", "may", "-n", world.name()]).spawn()?;
        let id = child.id().context("it runs")?.to_string();
        // Its first word says that it listens by now.
        child.stderr.as_mut().context("piped")?.read_u8().await?;
        let sent = world.command("kill").args(["-INT", &id]).status().await?;
        assert!(sent.success());
        let output = tokio::time::timeout(backfill_e2e::LIMIT, child.wait_with_output()).await??;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains(&format!("kubectl features backfill watch may -n {}", world.name())), "{said}");
        assert_eq!(world.backfills().get("may").await?.spec.cancel, None);
        world.phase("may", "Running").await.map(drop)
    })
}

#[test]
fn a_backfill_that_is_deleted_meanwhile_ends_the_wait() -> Result<()> {
    test(async |world| {
        world.pods("may", "offline", Act::run());
        world.may("may", &[]).await?.with(0)?;
        world.phase("may", "Running").await?;
        let waits = world.features(&["backfill", "wait", "may"]);
        let deletes = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.features(&["backfill", "delete", "may", "--yes", "--wait"]).await?.with(0)
        };
        let (waits, deletes) = tokio::join!(waits, deletes);
        deletes?;
        assert!(waits?.with(4)?.stderr.contains("was deleted"));
        eventually("the backfill to be gone", async || Ok(world.backfills().get_opt("may").await?.is_none().then_some(()))).await
    })
}
