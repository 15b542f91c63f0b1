//! Whose turn it is, and what is missing.

use crate::world::{World, of_may, set_spec, test};
use anyhow::{Context, Result, bail};
use backfill_core::api::{FeatureSetBackfill, FeatureStore};
use backfill_core::condition::ConditionType::{Accepted, Reconciling, Stalled};
use backfill_core::time::show;
use backfill_e2e::{Act, eventually, manifest};
use chrono::{TimeDelta, Utc};
use futures::TryStreamExt;
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::{WatchEvent, WatchParams};
use serde_json::json;
use std::collections::BTreeSet;

/// As if the backfill had been refused for longer than is usual.
async fn refused_long_ago(world: &World, name: &str) -> Result<()> {
    let then = show(Utc::now() - TimeDelta::minutes(11));
    world
        .edit_status(name, |status| {
            let accepted = status.conditions.iter_mut().filter(|condition| condition.kind == Accepted);
            accepted.for_each(|condition| condition.last_transition_time.clone_from(&then));
        })
        .await
}

#[test]
fn backfills_of_one_feature_set_run_in_the_order_of_their_creation() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::run());
        world.backfill("first", json!({})).await?;
        world.phase("first", "Running").await?;
        for name in ["second", "third"] {
            world.backfill(name, json!({ "startTime": "2024-07-01", "stopTime": "2024-08-01" })).await?;
            let seen = world.phase(name, "Queued").await?;
            assert_eq!(seen.row(), "False True – False False");
            assert!(seen.is(Accepted));
            assert!(seen.message(Reconciling).contains("held by \"first\""), "{}", seen.message(Reconciling));
            assert_eq!(world.kstatus(&seen).await?, "InProgress");
            // Times of creation are whole seconds.
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        }
        assert_eq!(world.jobs().await?.len(), 1);
        rule.change(Act::obey());
        for name in ["first", "second", "third"] {
            world.phase(name, "Complete").await?;
        }
        let order: Vec<String> = world.runs().into_iter().filter(|run| run.published).map(|run| run.backfill).collect();
        assert_eq!(order, ["first", "second", "third"]);
        Ok(())
    })
}

#[test]
fn a_slot_is_taken_by_one_write_that_names_the_image_of_run_pods_and_given_back_by_another() -> Result<()> {
    test(async |world| {
        let stores = world.namespace.api::<FeatureStore>();
        let before = stores.get("default").await?;
        assert_eq!(before.status, None, "nothing has run yet");
        world.backfill("fix", json!({})).await?;
        world.phase("fix", "Complete").await?;
        let free = async || Ok(stores.get("default").await?.status.filter(|status| status.running.is_empty()));
        eventually("the slot to be free", free).await?;
        let version = before.resource_version().context("a version")?;
        let changes = stores.watch(&WatchParams::default().timeout(1), &version).await?;
        let changes: Vec<WatchEvent<FeatureStore>> = changes.try_collect().await?;
        let mut seen = Vec::new();
        for change in changes {
            let WatchEvent::Modified(store) = change else { bail!("{change:?}") };
            let status = store.status.context("a status")?;
            let holders: Vec<String> = status.running.into_iter().map(|running| running.name).collect();
            seen.push((holders.join(","), status.worker_image.unwrap_or_default()));
        }
        assert_eq!(seen, [("fix", "worker:test"), ("", "worker:test")].map(|(holders, image)| (holders.into(), image.into())));
        Ok(())
    })
}

#[test]
fn no_more_backfills_run_than_the_store_has_slots() -> Result<()> {
    test(async |world| {
        world.store(json!({ "maxConcurrentBackfills": 2 })).await?;
        let rule = world.pods("offline", Act::run());
        for name in ["a", "b", "c", "d"] {
            world.feature_set(name).await?;
            world.backfill(name, json!({ "featureSet": name })).await?;
        }
        let counts = async |phase: &str| -> Result<usize> {
            let mut count = 0;
            for name in ["a", "b", "c", "d"] {
                let status = world.get(name).await?.0.status;
                count += usize::from(status.and_then(|status| status.phase).as_deref() == Some(phase));
            }
            Ok(count)
        };
        eventually("two to run and two to wait", async || {
            Ok((counts("Running").await? == 2 && counts("Queued").await? == 2).then_some(()))
        })
        .await?;
        assert_eq!(world.jobs().await?.len(), 2);
        rule.change(Act::obey());
        eventually("all to complete", async || Ok((counts("Complete").await? == 4).then_some(()))).await?;
        Ok(())
    })
}

#[test]
fn a_manifest_that_arrives_before_what_it_names_goes_on_by_itself() -> Result<()> {
    test(async |world| {
        world.backfill("early", json!({ "featureSet": "late", "clusterTemplate": "tiny" })).await?;
        let seen = world.reason("early", Accepted, "FeatureSetNotFound").await?;
        assert_eq!(seen.row(), "False True – False False");
        assert_eq!(world.kstatus(&seen).await?, "InProgress");
        assert!(seen.message(Accepted).contains("no feature set \"late\""), "{}", seen.message(Accepted));
        let mut spec = set_spec();
        spec["store"] = json!("other");
        world.apply("FeatureSet", "late", spec).await?;
        world.reason("early", Accepted, "StoreNotFound").await?;
        let store = json!({ "offline": { "uri": "s3://bucket/other", "credentialsSecret": "s3" } });
        world.apply("FeatureStore", "other", store).await?;
        let seen = world.reason("early", Accepted, "ClusterTemplateNotFound").await?;
        assert!(seen.message(Accepted).contains("small"), "the names that there are: {}", seen.message(Accepted));
        let template = format!("tiny{}", world.namespace.name());
        let manifest = manifest("ClusterTemplate", &template, json!({ "engine": "DataFusion", "cores": 1, "memory": "1Gi" }));
        world.shared.cluster.apply(&manifest.to_string()).await?;
        world.delete("early").await?;
        world.gone("early").await?;
        world.backfill("early", json!({ "featureSet": "late", "clusterTemplate": template.to_uppercase() })).await?;
        let seen = world.phase("early", "Complete").await?;
        assert_eq!(seen.0.status.context("a status")?.resolved.context("pinned")?.cluster_template, template);
        Ok(())
    })
}

#[test]
fn a_feature_set_that_is_missing_for_ten_minutes_stalls_the_backfill_until_it_appears() -> Result<()> {
    test(async |world| {
        world.backfill("early", json!({ "featureSet": "late" })).await?;
        world.reason("early", Accepted, "FeatureSetNotFound").await?;
        refused_long_ago(&world, "early").await?;
        let seen = world.phase("early", "Stalled").await?;
        assert_eq!(seen.row(), "False – True False False");
        assert_eq!((seen.reason(Stalled), seen.is(Accepted)), ("FeatureSetNotFound", false));
        assert!(seen.message(Stalled).contains("no feature set \"late\""), "{}", seen.message(Stalled));
        assert_eq!(world.kstatus(&seen).await?, "Failed");
        world.feature_set("late").await?;
        world.phase("early", "Complete").await?;
        Ok(())
    })
}

#[test]
fn a_cluster_template_that_is_missing_for_ten_minutes_stalls_the_backfill_until_it_appears() -> Result<()> {
    test(async |world| {
        let template = format!("late-{}", world.namespace.name());
        world.backfill("early", json!({ "clusterTemplate": template })).await?;
        world.reason("early", Accepted, "ClusterTemplateNotFound").await?;
        refused_long_ago(&world, "early").await?;
        let seen = world.phase("early", "Stalled").await?;
        assert_eq!((seen.row().as_str(), seen.reason(Stalled)), ("False – True False False", "ClusterTemplateNotFound"));
        let spec = json!({ "engine": "DataFusion", "cores": 1, "memory": "1Gi" });
        world.shared.cluster.apply(&manifest("ClusterTemplate", &template, spec).to_string()).await?;
        let seen = world.phase("early", "Complete").await?;
        assert_eq!(seen.0.status.context("a status")?.resolved.context("pinned")?.cluster_template, template);
        Ok(())
    })
}

#[test]
fn of_backfills_created_in_the_same_second_the_lower_uid_goes_first() -> Result<()> {
    test(async |world| {
        let (rule, _) = world.running("may").await?;
        let create = async |name: &str| {
            let spec = of_may(json!({ "startTime": "2024-07-01", "stopTime": "2024-08-01" }));
            world.create::<FeatureSetBackfill>(manifest("FeatureSetBackfill", name, spec)).await
        };
        let created = try_join_all(["a", "b", "c", "d", "e"].map(create)).await?;
        let mut turns: Vec<_> = created.iter().map(|one| (one.creation_timestamp(), one.uid(), one.name_any())).collect();
        turns.sort();
        let seconds: BTreeSet<_> = turns.iter().map(|(second, ..)| second).collect();
        assert!(seconds.len() < turns.len(), "five that are created at once share a second: {turns:?}");
        for (.., name) in &turns {
            world.phase(name, "Queued").await?;
        }
        rule.change(Act::obey());
        for (.., name) in &turns {
            world.phase(name, "Complete").await?;
        }
        let order: Vec<String> = world.runs().into_iter().filter(|run| run.published).map(|run| run.backfill).collect();
        assert_eq!(order[1..], turns.into_iter().map(|(.., name)| name).collect::<Vec<_>>());
        Ok(())
    })
}

#[test]
fn a_refused_backfill_does_not_hold_up_those_behind_it() -> Result<()> {
    test(async |world| {
        world.backfill("stuck", json!({ "clusterTemplate": "nowhere" })).await?;
        world.reason("stuck", Accepted, "ClusterTemplateNotFound").await?;
        world.backfill("suspended", json!({ "suspend": true })).await?;
        world.phase("suspended", "Suspended").await?;
        world.backfill("behind", json!({ "startTime": "2024-07-01", "stopTime": "2024-08-01" })).await?;
        world.phase("behind", "Complete").await?;
        Ok(())
    })
}
