//! On a terminal: questions, bars, colours, and what fits into few columns.

use crate::world::{PROGRAM, World, test};
use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::io::AsyncWriteExt;

/// Runs the program on a terminal of so many columns (`script` of util-linux makes it) and types `input`.
pub async fn terminal(world: &World, columns: u16, arguments: &[&str], input: &str) -> Result<(Option<i32>, String)> {
    let words: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("stty cols {columns} rows 40; '{PROGRAM}' {} --environment '{}'", words.join(" "), world.name());
    let mut child =
        world.command("script").args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm").spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    stdin.write_all(input.as_bytes()).await?;
    stdin.flush().await?;
    let output = tokio::time::timeout(backfill_e2e::LIMIT, child.wait_with_output()).await.context("it does not end")??;
    drop(stdin);
    Ok((output.status.code(), String::from_utf8(output.stdout)?.replace('\r', "")))
}

const MAY: [&str; 7] = ["backfill", "--feature-set", "user-clicks", "--start-time", "2024-05-01", "--stop-time", "2024-06-01"];

#[test]
fn a_question_is_asked_and_its_answer_counts() -> Result<()> {
    test(async |world| {
        for answer in ["n\n", "\n", "maybe\n"] {
            let (code, shown) = terminal(&world, 100, &MAY, answer).await?;
            assert_eq!(code, Some(1), "{shown}");
            assert!(shown.contains("replaces   2024-05-01T00:00:00Z <= t < 2024-06-01T00:00:00Z"), "{shown}");
            assert!(shown.contains("Replace these data? [y/N]") && shown.contains("nothing was changed"), "{shown}");
        }
        assert!(world.backfills().list(&ListParams::default()).await?.items.is_empty());
        let (code, shown) = terminal(&world, 100, &MAY, "y\n").await?;
        assert_eq!(code, Some(0), "{shown}");
        let found = world.backfills().list(&ListParams::default()).await?.items;
        assert!(found.len() == 1 && shown.contains(&format!("{} created", found[0].name_any())), "{shown}");
        Ok(())
    })
}

#[test]
fn bars_show_both_stores_and_stay_at_the_end() -> Result<()> {
    test(async |world| {
        let (code, shown) = terminal(&world, 120, &[&MAY[..], &["--watch", "--backfill-name", "may"]].concat(), "y\n").await?;
        assert_eq!(code, Some(0), "{shown}");
        let last = shown.rsplit("offline").next().context("a bar")?;
        assert!(shown.contains("█") && last.contains("done") && last.contains("online"), "{shown}");
        assert!(shown.contains("may: Complete: 100 rows replaced by 120"), "{shown}");
        Ok(())
    })
}

#[test]
fn phases_have_colours_unless_nobody_wants_them() -> Result<()> {
    test(async |mut world| {
        world.may("may", &["--wait"]).await?.with(0)?;
        let list = ["backfill", "list"];
        assert!(terminal(&world, 160, &list, "").await?.1.contains("\u{1b}["));
        world.variables = vec![("NO_COLOR".to_owned(), "1".to_owned())];
        let (_, plain) = terminal(&world, 160, &list, "").await?;
        assert!(!plain.contains('\u{1b}') && plain.contains("Complete"), "{plain}");
        Ok(())
    })
}

#[test]
fn a_narrow_terminal_wraps_within_columns() -> Result<()> {
    test(async |mut world| {
        world.variables = vec![("NO_COLOR".to_owned(), "1".to_owned())];
        world.may("may", &["--wait"]).await?.with(0)?;
        let (_, shown) = terminal(&world, 70, &["backfill", "list"], "").await?;
        assert!(shown.lines().all(|line| line.trim_end().chars().count() <= 70), "{shown}");
        let (_, drawn) = terminal(&world, 50, &["sets", "coverage", "user-clicks"], "").await?;
        let lane = drawn.lines().find(|line| line.starts_with("offline")).context("a lane")?;
        assert_eq!(lane.chars().count(), 50, "{drawn}");
        Ok(())
    })
}
