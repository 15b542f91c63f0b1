//! Logs of pods.

use crate::world::{PROGRAM, test};
use anyhow::Result;
use backfill_e2e::{Act, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

#[test]
fn logs_are_those_of_the_pods_in_order() -> Result<()> {
    test(async |world| {
        let before = world.may("held", &["--suspend"]).await?.with(0)?;
        assert!(before.stdout.contains("held created"));
        let none = world.features(&["backfill", "logs", "held"]).await?.with(1)?;
        assert!(
            none.stderr.contains("no pod of \"held\" has run") && none.stderr.contains("backfill status held"),
            "{}",
            none.stderr
        );
        world.features(&["backfill", "delete", "held", "--yes", "--wait"]).await?.with(0)?;

        world.may("may", &["--wait"]).await?.with(0)?;
        let logs = world.features(&["backfill", "logs", "may"]).await?.with(0)?;
        let lines: Vec<&str> = logs.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "{}", logs.stdout);
        assert!(lines[0].starts_with("may-offline") && lines[2].starts_with("may-online"), "{lines:?}");
        let online = world.features(&["backfill", "logs", "may", "--step", "online"]).await?.with(0)?;
        assert_eq!(online.stdout.lines().collect::<Vec<_>>(), lines[2..]);
        Ok(())
    })
}

#[test]
fn logs_are_followed_until_the_end() -> Result<()> {
    test(async |world| {
        let rule = world.pods("may", "offline", Act::run());
        let options = [
            "backfill",
            "--name",
            "user-clicks",
            "--start-time",
            "2024-05-01",
            "--backfill-name",
            "may",
            "--yes",
            "--follow-logs",
        ];
        let child = world.command(PROGRAM).args(options).args(["-n", world.name()]).spawn()?;
        world.phase("may", "Running").await?;
        let runs =
            async || Ok((!world.namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty()).then_some(()));
        eventually("a pod", runs).await?;
        rule.remove();
        let output = tokio::time::timeout(backfill_e2e::LIMIT, child.wait_with_output()).await??;
        let (shown, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for mark in ["[offline-0] may-offline", "[online-0] may-online"] {
            assert!(shown.contains(mark), "{mark}\n{shown}\n{said}");
        }
        Ok(())
    })
}
