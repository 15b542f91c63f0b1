//! What a backfill runs on breaks while it runs, with readers on both stores: it completes all the same, by one publish.

use crate::world::{PATIENCE, SYSTEM, World, is, test};
use anyhow::{Context, Result, ensure};
use backfill_e2e::eventually_within;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

/// How far into a step its pods are killed, one after the other. On an idle machine a step takes a second or two.
const MOMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(900)];

/// How long S3 is away.
const AWAY: Duration = Duration::from_secs(60);

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Corrects the interval while something happens. Readers of a store that is taken away forgive that it does not answer.
async fn corrected(world: &World, forgiving: bool, happens: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    corrected_from(world, forgiving, async |world| {
        world.correct("correction").await?;
        happens(world).await
    })
    .await
}

/// The same for what begins before the backfill is applied, and applies it.
async fn corrected_from(world: &World, forgiving: bool, happens: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    world.filled().await?;
    world.stores.put_source(2).await?;
    let watch = world.stores.watch(1, forgiving).await?;
    happens(world).await?;
    world.complete("correction").await?;
    watch.end().await?;
    world.holds(2).await?;
    ensure!(world.stores.publishes().await? == 2, "there are not two publishes: that of the fill, and one more");
    Ok(())
}

/// Says which pods stand behind the Service of S3. Without any, connections are refused.
async fn s3_is(world: &World, app: &str) -> Result<()> {
    let patch = json!({"spec": {"selector": {"app": app}}}).to_string();
    world.namespace.kubectl(&["patch", "service", "s3", "--patch", &patch]).await?.ok().map(drop)
}

/// Kills pods of a step until it is complete or one was killed at every moment.
async fn kill_pods_of(world: &World, step: &str) -> Result<usize> {
    let mut killed = Vec::new();
    for moment in MOMENTS {
        let found = eventually_within("a pod to kill", PATIENCE, async || {
            let ended = is(&world.backfills().get("correction").await?, "Complete");
            let pods = world.pods_of("correction", step).await?;
            let next = pods.into_iter().find(|pod| runs(pod) && !killed.contains(&pod.uid()));
            Ok(if ended { Some(None) } else { next.map(Some) })
        });
        let Some(pod) = found.await? else { break };
        tokio::time::sleep(moment).await;
        world.kill(&pod).await?;
        killed.push(pod.uid());
    }
    Ok(killed.len())
}

fn killed_pods_are_made_up_for(step: &str) -> Result<()> {
    test(async |world| {
        corrected(&world, false, async |world| {
            ensure!(kill_pods_of(world, step).await? > 0, "no pod was killed");
            Ok(())
        })
        .await
    })
}

#[test]
fn pods_that_are_killed_while_they_replace_rows_offline_are_made_up_for() -> Result<()> {
    killed_pods_are_made_up_for("offline")
}

#[test]
fn pods_that_are_killed_while_they_write_online_are_made_up_for() -> Result<()> {
    killed_pods_are_made_up_for("online")
}

#[test]
fn a_killed_operator_goes_on_where_it_was() -> Result<()> {
    test(async |world| {
        corrected(&world, false, async |world| {
            for step in ["offline", "online"] {
                world.pod_of("correction", step, |_| true).await?;
                let pods: Api<Pod> = Api::namespaced(world.cluster.client(), SYSTEM);
                let operator = pods.list(&ListParams::default().labels("app.kubernetes.io/name=backfill-operator")).await?;
                world.kill(operator.items.first().context("a pod of the operator")?).await?;
            }
            Ok(())
        })
        .await
    })
}

#[test]
fn a_killed_kubelet_finds_its_pods_again() -> Result<()> {
    test(async |world| {
        corrected(&world, false, async |world| {
            world.pod_of("correction", "offline", runs).await?;
            world.cluster.nodes()?.restart_kubelet(0).await
        })
        .await
    })
}

/// Evicts the pods of the correction from the node, and lets the node take pods again.
async fn drain(world: &World) -> Result<()> {
    let node = world.cluster.nodes()?.name(0);
    let uid = world.uid("correction").await?;
    let ours = format!("--pod-selector=featureset.dev/backfill=correction,featureset.dev/uid={uid}");
    let drain = ["drain", &node, "--delete-emptydir-data", "--force", "--grace-period=1", &ours];
    world.cluster.kubectl(&drain).await?.ok()?;
    let nodes: Api<Node> = Api::all(world.cluster.client());
    let closed = nodes.get(&node).await?.spec.and_then(|spec| spec.unschedulable);
    ensure!(closed == Some(true), "the node takes pods");
    world.cluster.kubectl(&["uncordon", &node]).await?.ok().map(drop)
}

#[test]
fn a_drained_node_costs_no_attempt() -> Result<()> {
    test(async |world| {
        // Without S3 the step cannot end before its pod is evicted.
        corrected_from(&world, true, async |world| {
            s3_is(world, "nobody").await?;
            world.correct("correction").await?;
            world.pod_of("correction", "offline", runs).await?;
            drain(world).await?;
            s3_is(world, "s3").await
        })
        .await?;
        let attempts = serde_json::to_value(world.backfills().get("correction").await?)?["status"]["attempts"].clone();
        let offline = attempts.as_array().into_iter().flatten().filter(|attempt| attempt["step"] == "offline").count();
        ensure!(offline <= 1, "the eviction was counted: {attempts}");
        Ok(())
    })
}

#[test]
fn redis_that_is_killed_comes_back_with_all_rows() -> Result<()> {
    test(async |world| {
        corrected(&world, true, async |world| {
            world.pod_of("correction", "online", |_| true).await?;
            world.kill(&world.stores.pod("redis").await?).await
        })
        .await
    })
}

#[test]
fn s3_that_is_away_for_a_minute_is_waited_for() -> Result<()> {
    test(async |world| {
        corrected(&world, true, async |world| {
            world.pod_of("correction", "offline", |_| true).await?;
            s3_is(world, "nobody").await?;
            tokio::time::sleep(AWAY).await;
            let ended = ["Complete", "Failed"].map(|word| (word, is_now(world, word)));
            for (word, now) in ended {
                ensure!(!now.await?, "the backfill is {word} without S3");
            }
            s3_is(world, "s3").await
        })
        .await
    })
}

async fn is_now(world: &World, word: &str) -> Result<bool> {
    Ok(is(&world.backfills().get("correction").await?, word))
}
