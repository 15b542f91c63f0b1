//! Backfills whose offline step Spark computes, in one pod and in several.

use crate::data;
use crate::world::{PATIENCE, PATIENCE_OF_SPARK, World, long_test, test};
use anyhow::{Context, Result, ensure};
use backfill_core::condition::ConditionType;
use backfill_core::plan::manifest::PROGRESS_PORT;
use backfill_core::plan::run::label;
use backfill_e2e::{eventually_within, programs};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A template of Spark in this many pods.
pub async fn template(world: &World, nodes: u32) -> Result<String> {
    let name = format!("spark-{nodes}");
    let template = json!({
        "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": {"name": name},
        "spec": {
            "engine": "Spark", "nodes": nodes, "cores": 1, "memory": "2Gi", "scratch": "1Gi",
            "online": {"parallelism": 1, "cores": 1, "memory": "512Mi"},
        },
    });
    world.cluster.apply(&template.to_string()).await?;
    Ok(name)
}

/// Corrects the interval in this many pods while something happens, and readers look at both stores.
async fn corrected(world: &World, nodes: u32, happens: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    world.filled().await?;
    begin(world, nodes).await?;
    let watch = world.stores.watch(1, false).await?;
    happens(world).await?;
    world.ended_within("correction", "Complete", PATIENCE_OF_SPARK).await?;
    watch.end().await?;
    world.holds(2).await?;
    ensure!(world.stores.publishes().await? == 2, "there are not two publishes: that of the fill, and one more");
    Ok(())
}

/// Gives the nodes the image.
pub async fn import(world: &World) -> Result<()> {
    world.cluster.nodes()?.import(&programs::spark_image().await?).await
}

/// Applies the backfill that corrects the interval in this many pods.
async fn begin(world: &World, nodes: u32) -> Result<()> {
    let template = template(world, nodes).await?;
    world.stores.put_source(2).await?;
    let spec = json!({"startTime": data::INTERVAL.0, "stopTime": data::INTERVAL.1, "clusterTemplate": template});
    world.backfill("correction", spec).await
}

/// How many objects of a kind belong to the backfill.
async fn count<K>(world: &World) -> Result<usize>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let ours = ListParams::default().labels(&format!("{}=correction", label::BACKFILL));
    Ok(world.namespace.api::<K>().list(&ours).await?.items.len())
}

/// Waits until a running first pod that was not killed says that it is at this stage, and returns it.
async fn reaches(world: &World, stage: &str, killed: &[Option<String>]) -> Result<Pod> {
    eventually_within(&format!("the stage {stage}"), PATIENCE_OF_SPARK, async || {
        let pods = world.pods_of("correction", "offline").await?;
        let Some(first) = pods.into_iter().find(|pod| runs(pod) && has_index(pod, "0") && !killed.contains(&pod.uid())) else {
            return Ok(None);
        };
        // It may not listen yet, or no longer.
        let said = asked(&first).await.unwrap_or_default();
        Ok(said.contains(&format!("\"stage\":\"{stage}\"")).then_some(first))
    })
    .await
}

/// What a pod answers who asks how far it is.
async fn asked(pod: &Pod) -> Result<String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("an address")?;
    let mut connection = TcpStream::connect((address.as_str(), u16::try_from(PROGRESS_PORT)?)).await?;
    connection.write_all(b"GET /progress HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn has_index(pod: &Pod, index: &str) -> bool {
    pod.labels().get(label::INDEX).is_some_and(|found| found == index)
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

#[test]
fn spark_in_one_pod_waits_for_its_image_and_replaces_an_interval_and_nothing_else() -> Result<()> {
    test(async |world| {
        world.cluster.nodes()?.forget(&programs::spark_image().await?).await?;
        corrected(&world, 1, async |world| {
            let message = world.says("correction", ConditionType::Reconciling, "ImagePull").await?;
            ensure!(message.contains("backfill-worker-spark:test"), "it does not name the image: {message}");
            world.holds(1).await?;
            import(world).await
        })
        .await
    })
}

#[test]
fn two_executors_of_spark_replace_an_interval_and_nothing_else_and_it_is_taken_back() -> Result<()> {
    long_test(async |world| {
        import(&world).await?;
        corrected(&world, 3, async |world| {
            let pod = world.pod_of("correction", "offline", |pod| has_index(pod, "2")).await?;
            let spec = serde_json::to_value(pod.spec.context("a spec")?)?;
            let token = spec["automountServiceAccountToken"] != false || spec.to_string().contains("serviceAccountToken");
            ensure!(!token, "a pod holds a token: {spec:#}");
            ensure!(count::<Service>(world).await? == 1, "its pods find each other");
            ensure!(count::<NetworkPolicy>(world).await? == 1, "nobody else finds them");
            ensure!(count::<Secret>(world).await? == 1, "they share what nobody else knows");
            Ok(())
        })
        .await?;
        world.backfill("back", json!({"undo": "correction"})).await?;
        world.complete("back").await?;
        world.holds(1).await
    })
}

#[test]
fn pods_of_spark_that_are_killed_are_made_up_for() -> Result<()> {
    long_test(async |world| {
        import(&world).await?;
        corrected(&world, 3, async |world| {
            let mut killed = Vec::new();
            for (stage, index) in [("starting Spark", "0"), ("starting Spark", "2"), ("staging", "1"), ("staging", "0")] {
                reaches(world, stage, &killed).await?;
                let another = |pod: &Pod| runs(pod) && has_index(pod, index) && !killed.contains(&pod.uid());
                let pod = world.pod_of("correction", "offline", another).await?;
                world.kill(&pod).await?;
                killed.push(pod.uid());
            }
            Ok(())
        })
        .await
    })
}

/// What remains when the backfill was stopped while Spark computed.
async fn nothing_is_left(world: &World) -> Result<()> {
    eventually_within("the pods to be gone", PATIENCE, async || {
        let pods = world.pods_of("correction", "offline").await?;
        Ok((!pods.iter().any(runs)).then_some(()))
    })
    .await?;
    world.holds(1).await?;
    ensure!(world.stores.publishes().await? == 1, "something was published");
    Ok(())
}

#[test]
fn a_backfill_that_is_cancelled_while_spark_computes_changes_nothing() -> Result<()> {
    long_test(async |world| {
        import(&world).await?;
        world.filled().await?;
        begin(&world, 3).await?;
        reaches(&world, "staging", &[]).await?;
        let cancel = ["patch", "featuresetbackfill", "correction", "--type=merge", "--patch", r#"{"spec": {"cancel": true}}"#];
        world.namespace.kubectl(&cancel).await?.ok()?;
        let failed = world.ended("correction", "Failed").await?;
        ensure!(serde_json::to_string(&failed.status)?.contains("Cancelled"), "{:#?}", failed.status);
        nothing_is_left(&world).await
    })
}

#[test]
fn a_backfill_that_is_deleted_while_spark_computes_leaves_nothing() -> Result<()> {
    long_test(async |world| {
        import(&world).await?;
        world.filled().await?;
        begin(&world, 3).await?;
        reaches(&world, "staging", &[]).await?;
        world.namespace.kubectl(&["delete", "featuresetbackfill", "correction", "--timeout=120s"]).await?.ok()?;
        nothing_is_left(&world).await?;
        eventually_within("its children to be collected", PATIENCE, async || {
            let left = count::<Job>(&world).await?
                + count::<Service>(&world).await?
                + count::<NetworkPolicy>(&world).await?
                + count::<Secret>(&world).await?;
            Ok((left == 0).then_some(()))
        })
        .await
    })
}
