//! Looking at what there is.

use crate::world::{set, test};
use anyhow::{Context, Result};
use backfill_core::api::FeatureSetBackfill;
use backfill_e2e::Act;
use kube::api::{ListParams, PostParams};
use serde_json::json;

#[test]
fn a_list_has_the_newest_first_and_can_be_narrowed() -> Result<()> {
    test(async |world| {
        let none = world.features(&["backfill", "list"]).await?.with(0)?;
        assert_eq!((none.stdout.as_str(), none.stderr), ("", format!("No backfills in \"{}\".\n", world.name())));
        world.apply("FeatureSet", "views", set("views", "raw")).await?;
        world.may("may", &["--wait"]).await?.with(0)?;
        // Times of creation are whole seconds.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        let other =
            ["backfill", "--name", "views", "--start-time", "2024-05-01", "--backfill-name", "other", "--suspend", "--yes"];
        world.features(&other).await?.with(0)?;
        world.phase("other", "Suspended").await?;
        let list = world.features(&["backfill", "list"]).await?.with(0)?.stdout;
        let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0].join(" "), "NAME FEATURE SET MODE START STOP PHASE OFFLINE ONLINE AGE");
        assert_eq!(rows[1][..2], ["other", "views"]);
        assert_eq!(
            rows[2][..8],
            ["may", "user-clicks", "Interval", "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z", "Complete", "True", "True"]
        );
        for (more, name) in [
            (["--feature-set", "UserClicks"], "may"),
            (["--phase", "suspended"], "other"),
            (["--field-selector", "spec.featureSet=views"], "other"),
        ] {
            let found = world.features(&[&["backfill", "list", "-o", "name"][..], &more[..]].concat()).await?.with(0)?;
            assert_eq!(found.stdout, format!("featuresetbackfill.featureset.dev/{name}\n"), "{more:?}");
        }
        let wide = world.features(&["backfill", "list", "-o", "wide", "--phase", "complete"]).await?.with(0)?.stdout;
        assert!(wide.contains("Succeeded  small") && wide.contains("120"), "{wide}");
        let all = world.features(&["backfill", "get", "@latest", "-o", "yaml"]).await?.with(0)?.stdout;
        assert!(
            all.starts_with("apiVersion: featureset.dev/v1alpha1\nkind: FeatureSetBackfill\n") && all.contains("name: other"),
            "{all}"
        );
        Ok(())
    })
}

#[test]
fn everywhere_is_asked_for_with_a() -> Result<()> {
    test(async |world| {
        world.may("may", &["--suspend"]).await?.with(0)?;
        let both = world.features(&["backfill", "list", "-A"]).await?.with(2)?;
        assert!(both.stderr.contains("-A looks everywhere"), "{}", both.stderr);
        let all = world.command(crate::world::PROGRAM).args(["backfill", "list", "-A", "-o", "json"]).output().await?;
        let all: serde_json::Value = serde_json::from_slice(&all.stdout)?;
        let found = all["items"].as_array().context("a list")?.iter();
        let here = found.filter(|item| item["metadata"]["namespace"] == world.name()).count();
        assert_eq!((here, &all["kind"]), (1, &json!("List")));
        Ok(())
    })
}

#[test]
fn a_thousand_backfills_are_listed_in_pages() -> Result<()> {
    test(async |world| {
        let api = world.backfills();
        for number in 0..1001 {
            let mut backfill = FeatureSetBackfill::new(
                &format!("b{number:04}"),
                serde_json::from_value(json!({
                    "featureSet": "user-clicks", "startTime": "2024-05-01", "suspend": true,
                }))?,
            );
            backfill.metadata.labels = Some([("many".to_owned(), "yes".to_owned())].into());
            api.create(&PostParams::default(), &backfill).await?;
        }
        let list = world.features(&["backfill", "list", "-l", "many=yes"]).await?.with(0)?;
        assert_eq!(list.stdout.lines().count(), 1002);
        api.delete_collection(&Default::default(), &ListParams::default()).await?;
        Ok(())
    })
}

#[test]
fn status_says_everything_and_what_to_do_next() -> Result<()> {
    test(async |world| {
        world.may("may", &["--wait", "--comment", "wrong prices"]).await?.with(0)?;
        let text = world.features(&["backfill", "status", "may"]).await?.with(0)?.stdout;
        for part in [
            "may: Complete: 100 rows replaced by 120",
            "asked        [2024-05-01, 2024-06-01)",
            "comment      wrong prices",
            "boundaries   2024-05-01T00:00:00Z <= t < 2024-06-01T00:00:00Z",
            "template     small",
            "online       10 entities updated, 1 removed",
            "attempts     offline 1: ",
            "online 1: ",
            "OfflineReplaced  True",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains(&format!("next         kubectl features backfill undo may -n {}", world.name())), "{text}");
        let missing = world.features(&["backfill", "status", "maj"]).await?.with(1)?;
        assert!(missing.stderr.contains("did you mean \"may\"?"), "{}", missing.stderr);
        Ok(())
    })
}

#[test]
fn events_tell_the_story() -> Result<()> {
    test(async |world| {
        world.may("may", &["--wait"]).await?.with(0)?;
        let story = || async {
            let events = world.features(&["backfill", "events", "may"]).await?.with(0)?.stdout;
            Ok((events.contains("Succeeded") && events.contains("job/may-offline")).then_some(events))
        };
        let events = backfill_e2e::eventually("the events", story).await?;
        assert!(events.contains("featuresetbackfill/may"), "{events}");
        Ok(())
    })
}

#[test]
fn sets_show_what_was_replaced() -> Result<()> {
    test(async |world| {
        let nothing = world.features(&["sets", "coverage", "USER_CLICKS"]).await?.with(0)?;
        assert_eq!(nothing.stdout, "Nothing of \"user-clicks\" was replaced yet.\n");
        world.may("may", &["--wait", "--comment", "wrong prices"]).await?.with(0)?;
        let released = async || {
            let status = world.sets().get("user-clicks").await?.status.unwrap_or_default();
            Ok((status.active.is_none() && !status.ledger.is_empty()).then_some(()))
        };
        backfill_e2e::eventually("the ledger", released).await?;
        let list = world.features(&["sets", "list", "-o", "wide"]).await?.with(0)?.stdout;
        assert!(list.contains("2024-05-01 … 2024-06-01  may") && list.contains("UserClicks"), "{list}");
        let get = world.features(&["sets", "get", "UserClicks"]).await?.with(0)?.stdout;
        assert!(get.contains("REPLACED AT") && get.contains("wrong prices"), "{get}");
        let drawn = world.features(&["sets", "coverage", "user-clicks"]).await?.with(0)?.stdout;
        assert!(drawn.contains(&format!("offline     {}\n", "█".repeat(72))), "{drawn}");
        assert!(drawn.contains("may: offline and online, version 0, wrong prices"), "{drawn}");
        let document = world.features(&["sets", "coverage", "user-clicks", "-o", "json"]).await?.with(0)?.json()?;
        assert_eq!(document["status"]["coverage"][0]["start"], "2024-05-01T00:00:00Z");
        Ok(())
    })
}

#[test]
fn templates_have_numbers() -> Result<()> {
    test(async |world| {
        let list = world.features(&["templates", "list"]).await?.with(0)?.stdout;
        let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(names, ["nano", "small", "medium", "large", "xlarge", "xxlarge", "xxxlarge"], "the smallest first");
        assert_eq!(rows[1], ["small", "DataFusion", "1", "2", "4Gi", "20Gi", "1", "24h"]);
        Ok(())
    })
}

#[test]
fn a_feast_definition_names_the_same_table_and_columns() -> Result<()> {
    test(async |world| {
        let python = world.features(&["export", "feast", "user-clicks"]).await?.with(0)?.stdout;
        for line in [
            "user_id = Entity(name=\"user_id\", value_type=ValueType.INT64)",
            "    path=\"s3://bucket/tables/user-clicks\",",
            "    timestamp_field=\"t\",",
            "    name=\"UserClicks\",",
            "        Field(name=\"tags\", dtype=Array(String)),",
            "    ttl=timedelta(seconds=2592000),",
        ] {
            assert!(python.contains(line), "{line}\n{python}");
        }
        assert!(python.contains(&format!("project: {}", world.name())), "{python}");
        Ok(())
    })
}

#[test]
fn check_finds_what_is_there_and_what_is_missing() -> Result<()> {
    test(async |world| {
        let leads = async || Ok((world.features(&["check"]).await?.code == 0).then_some(()));
        backfill_e2e::eventually("the operator to lead", leads).await?;
        let good = world.features(&["check"]).await?.with(0)?.stdout;
        assert!(good.contains("✓ operator: at work") && good.contains("✓ cluster templates: 7"), "{good}");
        assert!(good.contains(&format!("✓ you may create featuresetbackfills in \"{}\"", world.name())), "{good}");
        world.features(&["check", "--pre"]).await?.with(0)?;
        let other = world.command(crate::world::PROGRAM).args(["check", "-n", "kube-public"]).output().await?;
        let other = (other.status.code(), String::from_utf8(other.stdout)?);
        assert!(
            other.0 == Some(1) && other.1.contains("✗ environment \"kube-public\": there is no feature store\n  hint: "),
            "{other:?}"
        );
        Ok(())
    })
}

#[test]
fn a_backfill_that_waits_says_for_what() -> Result<()> {
    test(async |world| {
        world.pods("first", "offline", Act::run());
        world.may("first", &[]).await?.with(0)?;
        world.phase("first", "Running").await?;
        world.may("second", &[]).await?.with(0)?;
        world.phase("second", "Queued").await?;
        let status = world.features(&["backfill", "status", "second"]).await?.with(0)?.stdout;
        assert!(status.starts_with("second: Queued: ") && status.contains("first"), "{status}");
        Ok(())
    })
}
