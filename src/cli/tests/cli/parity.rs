//! The vendor's documented options, one by one: what they do here, and each refusal of the vendor's client, reproduced or improved.

use crate::world::{World, test};
use anyhow::Result;
use kube::api::ListParams;
use serde_json::{Value, json};

/// The farthest west, Greenwich, and the farthest east, in a form that needs no database of time zones.
const ZONES: [&str; 3] = ["<-11>11", "UTC0", "<+14>-14"];

/// The options after `backfill`, and what is asked for by them.
fn accepted() -> Vec<(&'static str, Vec<&'static str>, Value)> {
    let set = "user-clicks";
    let interval = |start: &str, stop: &str| json!({ "featureSet": set, "startTime": start, "stopTime": stop });
    vec![
        ("dates", vec!["--start-time", "2024-05-01", "--stop-time", "2024-06-01"], interval("2024-05-01", "2024-06-01")),
        (
            "times with T",
            vec!["--start-time", "2024-05-01T01:02:03", "--stop-time", "2024-06-01T04:05:06"],
            interval("2024-05-01T01:02:03", "2024-06-01T04:05:06"),
        ),
        (
            "times with a space",
            vec!["--start-time", "2024-05-01 01:02:03", "--stop-time", "2024-06-01 04:05:06"],
            interval("2024-05-01 01:02:03", "2024-06-01 04:05:06"),
        ),
        // Beyond the vendor: RFC 3339 in UTC.
        (
            "times with Z",
            vec!["--start-time", "2024-05-01T01:02:03Z", "--stop-time", "2024-06-01T04:05:06Z"],
            interval("2024-05-01T01:02:03Z", "2024-06-01T04:05:06Z"),
        ),
        // The vendor's page allows it, its client refuses it: the times bound what is filled.
        (
            "a reset with times",
            vec!["--reset-backfill", "--start-time", "2024-05-01", "--stop-time", "2024-06-01"],
            json!({ "featureSet": set, "reset": true, "startTime": "2024-05-01", "stopTime": "2024-06-01" }),
        ),
        (
            "the short reset",
            vec!["--reset", "--start-time", "2024-05-01"],
            json!({ "featureSet": set, "reset": true, "startTime": "2024-05-01" }),
        ),
        ("only a start", vec!["--start-time", "2024-05-01"], json!({ "featureSet": set, "startTime": "2024-05-01" })),
        // Rounded down to now by the operator, once, by the API server's clock; what was asked stays in the resource.
        (
            "a stop in the future",
            vec!["--start-time", "2024-05-01", "--stop-time", "2999-01-01"],
            interval("2024-05-01", "2999-01-01"),
        ),
        (
            "a template in any case",
            vec!["--start-time", "2024-05-01", "--cluster-template", "SMALL"],
            json!({ "featureSet": set, "startTime": "2024-05-01", "clusterTemplate": "SMALL" }),
        ),
        (
            "a comment",
            vec!["--start-time", "2024-05-01", "--comment", "late \"events\""],
            json!({ "featureSet": set, "startTime": "2024-05-01", "comment": "late \"events\"" }),
        ),
    ]
}

/// The options after `backfill`, the exit code, and words of the message.
fn refused() -> Vec<(&'static str, Vec<&'static str>, i32, Vec<&'static str>)> {
    let bounded = ["--start-time", "2024-05-01"];
    let with = |more: &[&'static str]| [&bounded[..], more].concat();
    vec![
        // The vendor exits with 0.
        ("neither reset nor times", vec![], 2, vec!["--start-time and/or --stop-time", "--reset-backfill"]),
        // The vendor fills in 1970-01-01.
        ("no start is known", vec!["--stop-time", "2024-06-01"], 2, vec!["StartTimeUnknown", "--start-time"]),
        ("a reset without any start", vec!["--reset-backfill"], 2, vec!["StartTimeUnknown"]),
        ("a format of another country", vec!["--start-time", "01/05/2024"], 2, vec!["--start-time", "01/05/2024", "2024"]),
        ("an offset", vec!["--start-time", "2024-05-01T00:00:00+02:00"], 2, vec!["UTC"]),
        ("no such day", vec!["--start-time", "2024-02-30"], 2, vec!["2024-02-30"]),
        ("the start is not before the stop", with(&["--stop-time", "2024-05-01"]), 2, vec!["EmptyInterval"]),
        ("a start in the future", vec!["--start-time", "2999-01-01"], 2, vec!["StartInFuture"]),
        // The vendor checks it after its question, and publishes no numbers.
        (
            "an unknown template",
            with(&["--cluster-template", "SMAL"]),
            2,
            vec!["did you mean \"small\"?", "large, medium, nano, small, xlarge, xxlarge, xxxlarge"],
        ),
        ("no feature set", vec!["--reset-backfill"], 2, vec!["--feature-set"]),
        ("an unknown option", with(&["--reset-backfil"]), 2, vec!["--reset-backfil"]),
        // The vendor goes on when nobody can answer.
        ("nobody is asked", with(&[]), 2, vec!["not a terminal", "--yes"]),
    ]
}

#[test]
fn every_documented_option_means_what_it_says() -> Result<()> {
    test(async |mut world| {
        for zone in ZONES {
            world.variables = vec![("TZ".to_owned(), zone.to_owned())];
            for (what, options, expected) in accepted() {
                for name in ["--feature-set", "--name"] {
                    let arguments =
                        [&["backfill"], &options[..], &[name, "user-clicks", "--yes", "--dry-run=server", "-o", "json"]].concat();
                    let ended = world.features(&arguments).await?.with(0)?;
                    assert_eq!(ended.json()?["spec"], expected, "{what} in {zone}");
                    assert!(ended.stderr.contains("2024-05-01T0"), "the boundaries are shown in UTC: {}", ended.stderr);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn every_refusal_has_an_exit_code_and_a_way_out() -> Result<()> {
    test(async |mut world| {
        for zone in ZONES {
            world.variables = vec![("TZ".to_owned(), zone.to_owned())];
            for (what, options, code, words) in refused() {
                let named = if what == "no feature set" { vec![] } else { vec!["--feature-set", "user-clicks"] };
                let yes = if what == "nobody is asked" { vec![] } else { vec!["--yes"] };
                let ended = world.features(&[&["backfill"], &options[..], &named, &yes].concat()).await?;
                assert_eq!(ended.code, code, "{what}: {ended:?}");
                assert!(ended.stdout.is_empty(), "{what}: {}", ended.stdout);
                for word in words {
                    assert!(ended.stderr.contains(word), "{what}: {word} is not in {}", ended.stderr);
                }
            }
        }
        nothing_was_created(&world).await
    })
}

async fn nothing_was_created(world: &World) -> Result<()> {
    let found = world.backfills().list(&ListParams::default()).await?.items;
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}
