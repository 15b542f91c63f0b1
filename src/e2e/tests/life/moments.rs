//! What a user sees at every moment: the conditions of the status table, and what the library of Flux and Helm makes of them.

use crate::world::{TABLE, test};
use anyhow::{Context, Result};
use backfill_core::condition::ConditionType::{Accepted, Complete, Failed, OfflineReplaced, OnlineReplaced, Ready, Reconciling};
use backfill_core::contract::{Order, Scope};
use backfill_core::plan::run::label;
use backfill_core::time::show;
use backfill_e2e::{Act, eventually};
use chrono::{SubsecRound, Utc};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

#[test]
fn a_backfill_that_succeeds_shows_what_it_did_and_lets_go_of_everything() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({ "comment": "wrong prices" })).await?;
        let waited = world.namespace.kubectl(&["wait", "--for=condition=Complete", "--timeout=30s", "fsb/may"]).await?;
        assert!(waited.success, "{}", waited.stderr);
        let seen = world.get("may").await?;
        assert_eq!(seen.row(), "True – – True False");
        assert_eq!(
            (seen.reason(Ready), seen.reason(OfflineReplaced), seen.reason(OnlineReplaced)),
            ("Succeeded", "Replaced", "Reconciled")
        );
        assert_eq!(seen.message(Complete), "100 rows replaced by 120 in version 0; 10 entities updated and 1 removed online");
        assert_eq!(world.kstatus(&seen).await?, "Current");
        let set = world.released("clicks").await?;
        let status = set.status.context("a status")?;
        assert_eq!((status.ledger.len(), status.offline_version), (1, Some(0)));
        let entry = &status.ledger[0];
        assert_eq!((entry.backfill.as_str(), entry.comment.as_deref(), entry.online), ("may", Some("wrong prices"), true));
        assert_eq!((entry.start.as_deref(), entry.stop.as_deref()), (Some("2024-05-01T00:00:00Z"), Some("2024-06-01T00:00:00Z")));
        assert_eq!(status.coverage.len(), 1);
        assert_eq!(world.publishes(), 1);
        let free = async || Ok(world.get("may").await?.0.finalizers().is_empty().then_some(()));
        eventually("the finalizer to go", free).await?;
        let size = serde_json::to_string(&world.get("may").await?.0.status)?.len();
        assert!(size < 8 * 1024, "{size} bytes of status");
        let events = world
            .namespace
            .kubectl(&["get", "events", "--field-selector", "involvedObject.kind=FeatureSetBackfill", "-o", "name"])
            .await?
            .ok()?;
        assert_eq!(events.lines().count(), 3, "started, replaced, succeeded: {events}");
        Ok(())
    })
}

#[test]
fn a_backfill_that_runs_holds_its_feature_set_and_says_so() -> Result<()> {
    test(async |world| {
        let (rule, seen) = world.running("may").await?;
        assert_eq!(seen.row(), "False True – False False");
        assert_eq!((seen.reason(Reconciling), seen.message(Reconciling)), ("Running", "the offline step runs"));
        assert!(seen.is(Accepted) && !seen.is(OfflineReplaced) && !seen.is(OnlineReplaced));
        assert_eq!(world.kstatus(&seen).await?, "InProgress");
        let set = world.sets().get("clicks").await?;
        assert_eq!(set.finalizers(), ["featureset.dev/held"]);
        assert_eq!(set.status.context("a status")?.active.context("a holder")?.name, "may");
        assert_eq!(seen.0.finalizers(), ["featureset.dev/backfill"]);
        let jobs = world.jobs().await?;
        let [job] = jobs.as_slice() else { panic!("one Job: {jobs:?}") };
        let spec = job.spec.as_ref().context("a spec")?;
        let pod = spec.template.spec.as_ref().context("a pod")?;
        assert_eq!((pod.automount_service_account_token, pod.restart_policy.as_deref()), (Some(false), Some("Never")));
        assert_eq!((spec.pod_replacement_policy.as_deref(), spec.ttl_seconds_after_finished), (Some("Failed"), None));
        rule.change(Act::obey());
        let seen = world.phase("may", "Complete").await?;
        assert!(seen.is(OfflineReplaced) && seen.is(OnlineReplaced));
        Ok(())
    })
}

#[test]
fn offline_done_and_online_running_is_visible_as_exactly_that() -> Result<()> {
    test(async |world| {
        let (rule, seen) = world.published("may").await?;
        assert_eq!(seen.row(), "False True – False False");
        assert!(!seen.is(OnlineReplaced));
        assert_eq!(seen.0.status.context("a status")?.offline.context("numbers")?.rows_written, 120);
        rule.change(Act::obey());
        world.phase("may", "Complete").await?;
        Ok(())
    })
}

#[test]
fn a_request_that_cannot_be_meant_fails_at_once_and_begins_nothing() -> Result<()> {
    test(async |world| {
        world.backfill("future", json!({ "startTime": "2999-01-01" })).await?;
        let seen = world.phase("future", "Failed").await?;
        assert_eq!(seen.row(), "False – True False True");
        assert_eq!((seen.reason(Failed), seen.is(Accepted)), ("StartInFuture", false));
        assert_eq!(world.kstatus(&seen).await?, "Failed");
        world.backfill("none", json!({ "stopTime": "2024-05-01" })).await?;
        assert_eq!(world.phase("none", "Failed").await?.reason(Failed), "StartTimeUnknown");
        world.released("clicks").await?;
        assert!(world.jobs().await?.is_empty() && world.runs().is_empty());
        Ok(())
    })
}

#[test]
fn a_template_of_an_engine_that_is_not_there_is_refused_by_name() -> Result<()> {
    test(async |world| {
        let spark = backfill_e2e::manifest(
            "ClusterTemplate",
            "spark",
            json!({ "engine": "Spark", "nodes": 2, "cores": 1, "memory": "2Gi" }),
        );
        world.shared.cluster.apply(&spark.to_string()).await?;
        world.backfill("may", json!({ "clusterTemplate": "spark" })).await?;
        let seen = world.phase("may", "Failed").await?;
        assert!(seen.message(Failed).contains("\"spark\" asks for engine Spark"), "{}", seen.message(Failed));
        assert!(world.jobs().await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_plan_rests_until_it_is_applied() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({ "mode": "Plan" })).await?;
        let seen = world.phase("may", "Planned").await?;
        assert_eq!(seen.row(), "True – – False False");
        assert_eq!((seen.reason(Ready), world.kstatus(&seen).await?.as_str()), ("Planned", "Current"));
        assert_eq!(seen.message(Ready), "100 rows would be replaced by 120; set spec.mode to Apply to publish");
        world.released("clicks").await?;
        assert_eq!((world.publishes(), world.shared.kubelet.tables().version(world.namespace.name(), TABLE)), (0, None));
        let now = seen.0.status.context("a status")?.resolved.context("pinned")?.now;
        world.patch("may", json!({ "mode": "Apply" })).await?;
        let seen = world.phase("may", "Complete").await?;
        assert_eq!((world.publishes(), seen.0.status.context("a status")?.resolved.context("pinned")?.now), (1, now));
        Ok(())
    })
}

#[test]
fn a_reset_is_filled_up_to_the_moment_at_which_it_began() -> Result<()> {
    test(async |world| {
        world.backfill("all", json!({ "reset": true, "startTime": "2024-01-01" })).await?;
        let seen = world.phase("all", "Complete").await?;
        let resolved = seen.0.status.context("a status")?.resolved.context("pinned")?;
        let interval = resolved.interval.context("an interval")?;
        assert_eq!((interval.start.as_str(), &interval.stop), ("2024-01-01T00:00:00Z", &resolved.now));
        let entry = world.released("clicks").await?.status.context("a status")?.ledger.remove(0);
        assert_eq!((entry.start, entry.stop, entry.filled.context("filled")?), (None, None, interval));
        Ok(())
    })
}

#[test]
fn an_undo_is_ordered_with_the_key_of_what_it_undoes() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({})).await?;
        let key = world.phase("may", "Complete").await?.0.status.context("a status")?.resolved.context("pinned")?.key;
        world.released("clicks").await?;
        world.backfill("back", json!({ "undo": "may" })).await?;
        world.phase("back", "Complete").await?;
        let name = format!("{}-offline-", "back");
        let orders = world.namespace.kubectl(&["get", "configmaps", "-o", "json"]).await?.ok()?;
        let orders: serde_json::Value = serde_json::from_str(&orders)?;
        let order = orders["items"]
            .as_array()
            .context("a list")?
            .iter()
            .find(|map| map["metadata"]["name"].as_str().is_some_and(|found| found.starts_with(&name)));
        let order: serde_json::Value =
            serde_json::from_str(order.context("the order")?["data"]["order.json"].as_str().context("JSON")?)?;
        assert_eq!((&order["scope"]["kind"], &order["scope"]["key"]), (&json!("undo"), &json!(key)));
        Ok(())
    })
}

#[test]
fn a_stop_in_the_future_is_rounded_down_and_said() -> Result<()> {
    test(async |world| {
        world.backfill("may", json!({ "startTime": "2024-05-01", "stopTime": "2999-01-01" })).await?;
        let seen = world.phase("may", "Complete").await?;
        assert_eq!(seen.reason(Accepted), "StopClamped");
        let resolved = seen.0.status.context("a status")?.resolved.context("pinned")?;
        assert_eq!(resolved.interval.context("an interval")?.stop, resolved.now);
        Ok(())
    })
}

#[test]
fn a_backfill_without_a_stop_keeps_the_one_with_which_it_began() -> Result<()> {
    test(async |world| {
        let rule = world.pods("offline", Act::run());
        world.backfill("may", json!({ "startTime": "2024-05-01" })).await?;
        let seen = world.phase("may", "Running").await?;
        let began = seen.0.status.context("a status")?.resolved.context("pinned")?.now;
        world.patch("may", json!({ "suspend": true })).await?;
        world.released("clicks").await?;
        eventually("another second", async || Ok((show(Utc::now().trunc_subsecs(0)) > began).then_some(()))).await?;
        rule.remove();
        world.patch("may", json!({ "suspend": false })).await?;
        world.phase("may", "Complete").await?;
        let is_offline = ListParams::default().labels(&format!("{}=offline", label::STEP));
        let maps = world.namespace.api::<ConfigMap>().list(&is_offline).await?.items;
        let json = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("order.json").cloned()).context("an order");
        let orders = maps.iter().map(|map| Ok(Order::read(&json(map)?)?)).collect::<Result<Vec<_>>>()?;
        let [one, two] = orders.as_slice() else { panic!("two orders: {orders:?}") };
        assert_eq!((one.attempt + two.attempt, &one.scope), (3, &two.scope));
        let Scope::Interval { interval } = one.scope else { panic!("an interval: {:?}", one.scope) };
        assert_eq!(show(interval.stop()), began);
        Ok(())
    })
}
