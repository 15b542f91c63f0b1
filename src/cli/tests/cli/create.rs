//! Creating backfills: what is sent, what is shown, and that there is never a second one.

use crate::world::{set, test};
use anyhow::{Context, Result};
use backfill_core::api::{FeatureSetBackfill, Mode};
use backfill_e2e::proxy::{Asked, Cut, Server};
use backfill_e2e::{Proxy, Who};
use hyper::Method;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn the_documented_command_creates_the_resource_and_says_how_to_follow_it() -> Result<()> {
    test(async |world| {
        let ended = world
            .features(&[
                "backfill",
                "--reset-backfill",
                "--start-time",
                "2024-05-01",
                "--stop-time",
                "2024-05-03 12:00:00",
                "--cluster-template",
                "MEDIUM",
                "--comment",
                "wrong prices",
                "--feature-set",
                "USERCLICKS",
                "--yes",
            ])
            .await?
            .with(0)?;
        let found = world.backfills().list(&ListParams::default()).await?.items;
        let [backfill] = found.as_slice() else { panic!("one backfill: {found:?}") };
        let name = backfill.name_any();
        assert!(name.starts_with("user-clicks-20") && name.len() == "user-clicks-20240601t120000-abcde".len(), "{name}");
        let spec = &backfill.spec;
        assert_eq!((spec.feature_set.as_str(), spec.reset, spec.mode), ("user-clicks", Some(true), None));
        assert_eq!(
            (spec.start_time.as_deref(), spec.stop_time.as_deref(), spec.cluster_template.as_deref(), spec.comment.as_deref()),
            (Some("2024-05-01"), Some("2024-05-03 12:00:00"), Some("MEDIUM"), Some("wrong prices"))
        );
        assert_eq!(ended.stdout, format!("featuresetbackfill.featureset.dev/{name} created\n"));
        for line in [
            "replaces   ALL DATA; filled again: 2024-05-01T00:00:00Z <= t < 2024-05-03T12:00:00Z".to_owned(),
            "windows    3".to_owned(),
            "template   medium: DataFusion, 1 × 8 cores, 16Gi; online 2 × 1 cores, 1Gi".to_owned(),
            "partial: [2024-05-03T00:00:00Z, 2024-05-03T12:00:00Z)".to_owned(),
            format!("kubectl features execution-status --execution-id {name} -n {}", world.name()),
        ] {
            assert!(ended.stderr.contains(&line), "{line}\n{}", ended.stderr);
        }
        let status = world.features(&["execution-status", "--execution-id", &name]).await?.with(0)?;
        assert!(status.stdout.starts_with(&format!("{name}: ")), "{}", status.stdout);
        world.phase(&name, "Complete").await.map(drop)
    })
}

#[test]
fn many_windows_are_shown_by_their_ends() -> Result<()> {
    test(async |world| {
        let ended = world.may("may", &["--dry-run=client"]).await?.with(0)?;
        let windows: Vec<&str> =
            ended.stderr.lines().skip_while(|line| !line.contains("windows")).take(6).map(str::trim).collect();
        assert_eq!(
            windows,
            [
                "windows    31",
                "[2024-05-01T00:00:00Z, 2024-05-02T00:00:00Z)",
                "[2024-05-02T00:00:00Z, 2024-05-03T00:00:00Z)",
                "…",
                "[2024-05-30T00:00:00Z, 2024-05-31T00:00:00Z)",
                "[2024-05-31T00:00:00Z, 2024-06-01T00:00:00Z)",
            ]
        );
        assert!(world.backfills().get_opt("may").await?.is_none(), "a dry run creates nothing");
        Ok(())
    })
}

#[test]
fn dry_runs_and_exports_create_nothing() -> Result<()> {
    test(async |world| {
        let server = world.may("may", &["--dry-run=server", "-o", "json"]).await?.with(0)?.json()?;
        assert!(server["metadata"]["uid"].is_string(), "the API server has seen it: {server}");
        let client = world.may("may", &["--dry-run=client", "-o", "json"]).await?.with(0)?.json()?;
        assert!(client["metadata"]["uid"].is_null() && client["kind"] == "FeatureSetBackfill", "{client}");
        assert_eq!(server["spec"], client["spec"]);
        let exported = world.may("may", &["--export"]).await?.with(0)?.stdout;
        assert!(world.backfills().list(&ListParams::default()).await?.items.is_empty());
        assert!(!exported.contains("status") && !exported.contains("uid"), "{exported}");
        // What was exported is what would have been created.
        world.namespace.apply(&exported).await?;
        let applied = world.backfills().get("may").await?;
        assert_eq!(serde_json::to_value(&applied.spec)?, client["spec"]);
        Ok(())
    })
}

#[test]
fn sources_and_a_transformation_are_for_this_backfill_only() -> Result<()> {
    test(async |world| {
        let file = world.shared.cluster.folder().join(format!("{}.sql", world.name()));
        std::fs::write(&file, "SELECT user_id, t, amount + 1 AS amount, tags FROM raw\n")?;
        let file = file.display().to_string();
        let more = [
            "--source",
            "raw=s3://bucket/corrected/",
            "--source",
            "extra=csv:s3://bucket/extra/",
            "--source",
            "other=feature-set:user-clicks",
            "--transform-file",
            &file,
            "--stores",
            "offline",
            "--mode",
            "PLAN",
            "--run-id",
            "two",
            "--suspend",
            "--retries",
            "1",
            "--deadline",
            "2h",
            "-o",
            "json",
        ];
        let spec = world.may("may", &more).await?.with(0)?.json()?["spec"].clone();
        let expected = json!({
            "featureSet": "user-clicks", "startTime": "2024-05-01", "stopTime": "2024-06-01",
            "sources": [
                { "name": "raw", "parquet": { "uri": "s3://bucket/corrected/" } },
                { "name": "extra", "csv": { "uri": "s3://bucket/extra/" } },
                { "name": "other", "featureSet": { "name": "user-clicks" } },
            ],
            "transformation": { "sql": "SELECT user_id, t, amount + 1 AS amount, tags FROM raw" },
            "stores": ["Offline"], "mode": "Plan", "runId": "two", "suspend": true, "retries": 1, "deadline": "2h",
        });
        assert_eq!(spec, expected);
        let from_input = ["--transform-file", "-", "--dry-run=client", "-o", "json"];
        let what = ["backfill", "--feature-set", "user-clicks", "--start-time", "2024-05-01", "--yes"];
        let spec = world.features_with(&[&what[..], &from_input].concat(), " SELECT 1 FROM raw ").await?;
        assert_eq!(spec.with(0)?.json()?["spec"]["transformation"]["sql"], "SELECT 1 FROM raw");
        for (source, why) in [
            ("raw", "has no ="),
            ("new=s3://bucket/file", "does not say which format"),
            ("raw=/tmp/file.parquet", "has no scheme"),
        ] {
            let ended = world.may("refused", &["--source", source]).await?.with(2)?;
            assert!(ended.stderr.contains(why), "{source}: {}", ended.stderr);
        }
        Ok(())
    })
}

#[test]
fn a_name_that_is_taken_is_good_only_for_the_same_backfill() -> Result<()> {
    test(async |world| {
        world.may("may", &["--suspend"]).await?.with(0)?;
        let again = world.may("may", &["--suspend"]).await?.with(0)?;
        assert!(again.stdout.ends_with("unchanged\n"), "{}", again.stdout);
        let other = world.may("may", &["--comment", "another"]).await?.with(1)?;
        assert!(other.stderr.contains("exists already") && other.stderr.contains("hint:"), "{}", other.stderr);
        let named = world.may("june", &["-o", "name", "--mode", "plan"]).await?.with(0)?;
        assert_eq!(named.stdout, "featuresetbackfill.featureset.dev/june\n");
        assert_eq!(world.backfills().get("june").await?.spec.mode, Some(Mode::Plan));
        let what = [
            "backfill",
            "--feature-set",
            "user-clicks",
            "--start-time",
            "2024-05-01",
            "--generate-name",
            "fix-",
            "--yes",
            "-o",
            "name",
        ];
        let generated = world.features(&what).await?.with(0)?.stdout;
        let name = generated.trim().rsplit_once('/').context("a name")?.1;
        assert!(name.starts_with("fix-") && name.len() == 9, "{name}");
        Ok(())
    })
}

#[test]
fn a_reply_that_is_lost_does_not_make_a_second_backfill() -> Result<()> {
    test(async |mut world| {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let proxy = Proxy::start(world.shared.cluster.client(), move |asked: Asked, server: Server| {
            let count = Arc::clone(&count);
            async move {
                let creates =
                    asked.method == Method::POST && asked.kind() == "featuresetbackfills" && !asked.target.contains("dryRun");
                if creates && count.fetch_add(1, Ordering::Relaxed) == 0 {
                    server.forward_wholly(&asked).await?;
                    return Err(Cut);
                }
                Ok(server.forward(&asked).await?)
            }
        })
        .await?;
        world.kubeconfig = world.shared.cluster.kubeconfig_of(&Who::Admin, Some(proxy.url())).await?;
        let what = ["backfill", "--feature-set", "user-clicks", "--start-time", "2024-05-01", "--suspend", "--yes"];
        let ended = world.features(&what).await?.with(0)?;
        let found = world.backfills().list(&ListParams::default()).await?.items;
        assert!(found.len() == 1 && ended.stdout == format!("{} created\n", reference(&found[0])), "{ended:?} {}", found.len());
        assert_eq!(sent.load(Ordering::Relaxed), 2, "it was sent again");
        Ok(())
    })
}

fn reference(backfill: &FeatureSetBackfill) -> String {
    format!("featuresetbackfill.featureset.dev/{}", backfill.name_any())
}

#[test]
fn a_set_that_is_not_there_is_refused_with_what_was_meant() -> Result<()> {
    test(async |world| {
        world.apply("FeatureSet", "views", set("USERCLICKS", "raw")).await?;
        let what = |name| ["backfill", "--name", name, "--start-time", "2024-05-01", "--yes"];
        let missing = world.features(&what("user_click")).await?.with(1)?;
        let expected = format!(
            "error: no feature set \"user_click\" in \"{}\"\nhint: did you mean \"user-clicks\"? there are: user-clicks, views\n",
            world.name()
        );
        assert_eq!(missing.stderr, expected);
        let two = world.features(&what("userclicks")).await?.with(2)?;
        assert!(two.stderr.contains("several feature sets: user-clicks, views"), "{}", two.stderr);
        let none = world
            .command(crate::world::PROGRAM)
            .args(what("user-clicks"))
            .args(["--environment", "kube-public"])
            .output()
            .await?;
        let said = String::from_utf8(none.stderr)?;
        assert!(
            none.status.code() == Some(1) && said.contains("is no environment") && said.contains("kubectl get fstore -A"),
            "{said}"
        );
        Ok(())
    })
}
