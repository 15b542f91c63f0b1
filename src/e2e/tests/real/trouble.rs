//! What a person has to mend: the backfill says what it is, changes nothing, and goes on when it is mended.

use crate::world::{World, long_test, test};
use anyhow::{Result, ensure};
use backfill_core::condition::ConditionType;
use serde_json::json;
use std::time::Duration;

/// A node may be on its way for five minutes before a backfill says that it waits for one.
const AUTOSCALED: Duration = Duration::from_secs(400);

#[test]
fn a_quota_that_is_too_small_is_named_and_waited_for() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        world.stores.put_source(2).await?;
        let quota = |memory: &str| {
            json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
                "spec": {"hard": {"requests.memory": memory}},
            })
        };
        world.namespace.apply(&quota("64Mi").to_string()).await?;
        world.correct("correction").await?;
        let message = world.says("correction", ConditionType::Reconciling, "QuotaExceeded").await?;
        ensure!(message.contains("small"), "it does not name the quota: {message}");
        world.holds(1).await?;
        world.namespace.apply(&quota("4Gi").to_string()).await?;
        world.complete("correction").await?;
        world.holds(2).await
    })
}

#[test]
fn a_template_for_which_no_node_is_large_enough_is_named_until_the_backfill_is_cancelled() -> Result<()> {
    long_test(async |world| {
        world.filled().await?;
        let template = json!({
            "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": {"name": "vast"},
            "spec": {"engine": "DataFusion", "cores": 1000, "memory": "1Gi", "scratch": "1Gi"},
        });
        world.cluster.apply(&template.to_string()).await?;
        let spec = json!({
            "clusterTemplate": "vast", "startTime": crate::data::INTERVAL.0, "stopTime": crate::data::INTERVAL.1,
        });
        world.backfill("vain", spec).await?;
        let message = world.says_within("vain", ConditionType::Reconciling, "Unschedulable", AUTOSCALED).await?;
        ensure!(message.contains("Insufficient cpu"), "it does not say of what there is too little: {message}");
        let cancel = ["patch", "featuresetbackfill", "vain", "--type=merge", "--patch", r#"{"spec": {"cancel": true}}"#];
        world.namespace.kubectl(&cancel).await?.ok()?;
        world.ended("vain", "Failed").await?;
        unchanged(&world).await
    })
}

#[test]
fn a_missing_secret_is_named_and_waited_for() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        world.stores.put_source(2).await?;
        let mut spec = crate::world::store_spec(&world.namespace);
        spec["offline"]["credentialsSecret"] = json!("forgotten");
        world.apply("FeatureStore", "default", spec).await?;
        world.correct("correction").await?;
        let message = world.says("correction", ConditionType::Reconciling, "SecretNotFound").await?;
        ensure!(message.contains("forgotten"), "it does not name the secret: {message}");
        world.holds(1).await?;
        let s3 = world.namespace.kubectl(&["get", "secret", "s3", "--output", "json"]).await?.ok()?;
        let mut secret: serde_json::Value = serde_json::from_str(&s3)?;
        secret["metadata"] = json!({"name": "forgotten"});
        world.namespace.apply(&secret.to_string()).await?;
        world.complete("correction").await?;
        world.holds(2).await
    })
}

#[test]
fn a_step_that_needs_more_memory_than_its_template_has_fails_and_changes_nothing() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        let template = json!({
            "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": {"name": "cramped"},
            "spec": {"engine": "DataFusion", "cores": 1, "memory": "128Mi", "scratch": "1Gi"},
        });
        world.cluster.apply(&template.to_string()).await?;
        // One value that no engine can spill.
        let sql =
            "SELECT user_id, t, CAST(length(repeat('x', 400000000 + CAST(version AS INT))) AS BIGINT) AS version, twin FROM raw";
        let spec = json!({
            "clusterTemplate": "cramped", "startTime": crate::data::INTERVAL.0, "stopTime": crate::data::INTERVAL.1,
            "transformation": {"sql": sql},
        });
        world.backfill("greedy", spec).await?;
        let failed = world.ended("greedy", "Failed").await?;
        let status = serde_json::to_value(failed)?["status"].clone();
        let conditions = status["conditions"].to_string();
        ensure!(conditions.contains("OOMKilled") && conditions.contains("choose a larger clusterTemplate"), "{conditions}");
        unchanged(&world).await
    })
}

async fn unchanged(world: &World) -> Result<()> {
    world.holds(1).await?;
    ensure!(world.stores.publishes().await? == 1, "something was published");
    Ok(())
}
