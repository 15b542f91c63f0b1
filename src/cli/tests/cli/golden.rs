//! What is printed, to the letter: on a terminal, on a narrow one, into a pipe, and as JSON.
//!
//! What differs from run to run is replaced by a word of its kind. `INSTA_UPDATE=always cargo test -p backfill-cli --test cli golden`
//! writes the files anew.

use crate::terminal::terminal;
use crate::world::{World, test};
use anyhow::Result;
use backfill_core::condition::Reason;
use backfill_e2e::Act;

/// A complete backfill of May, a failed one of June, and a plan of July.
async fn furnish(world: &World) -> Result<()> {
    world.may("may", &["--comment", "late clicks", "--wait"]).await?.with(0)?;
    let _rule = world.pods("june", "offline", Act::fail(Reason::NullKey, "3 rows have no user_id", false));
    let span =
        |start, stop| ["backfill", "--feature-set", "user-clicks", "--start-time", start, "--stop-time", stop, "--yes", "--wait"];
    let june = span("2024-06-01", "2024-07-01");
    world.features(&[&june[..], &["--backfill-name", "june"]].concat()).await?.with(3)?;
    let july = span("2024-07-01", "2024-08-01");
    world.features(&[&july[..], &["--backfill-name", "july", "--mode", "plan"]].concat()).await?;
    Ok(())
}

/// Compares with the golden file after replacing what differs from run to run.
fn golden(world: &World, name: &str, printed: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, word) in [
        (world.name(), "ENVIRONMENT"),
        (r"20(2[5-9]|[3-9]\d)-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
        (r"20(2[5-9]|[3-9]\d)-\d\d-\d\d", "YYYY-MM-DD"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
        (r#""(resourceVersion|generation|observedGeneration)":\s*"?\d+"?"#, r#""$1": NUMBER"#),
        (r"-(offline|online|settle)-[0-9a-f]{10}", "-$1-HASH"),
        (r"[0-9a-f]{16,64}", "HASH"),
        (r" \d+[smhd](\d+[sm])?\b *", " AGE "),
        (r" +\n", "\n"),
    ] {
        settings.add_filter(pattern, word);
    }
    settings.bind(|| insta::assert_snapshot!(name, printed));
}

#[test]
fn printed_as_it_was() -> Result<()> {
    test(async |world| {
        furnish(&world).await?;
        let commands: [(&str, &[&str]); 5] = [
            ("list", &["backfill", "list"]),
            ("status", &["backfill", "status", "may"]),
            ("failed", &["backfill", "status", "june"]),
            ("planned", &["backfill", "status", "july"]),
            ("coverage", &["sets", "coverage", "user-clicks"]),
        ];
        for (name, arguments) in commands {
            golden(&world, &format!("{name}-terminal"), &terminal(&world, 120, arguments, "").await?.1);
            golden(&world, &format!("{name}-pipe"), &world.features(arguments).await?.stdout);
        }
        // Where the width of an age could move a line, nothing narrow is compared.
        for name in ["status", "coverage"] {
            let arguments = commands.iter().find(|command| command.0 == name).map(|command| command.1).unwrap_or_default();
            golden(&world, &format!("{name}-narrow"), &terminal(&world, 80, arguments, "").await?.1);
        }
        let document = world.features(&["backfill", "get", "june", "-o", "json"]).await?.json()?;
        golden(&world, "failed-json", &serde_json::to_string_pretty(&document)?);
        Ok(())
    })
}
