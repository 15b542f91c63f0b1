//! What users do in a run.

use crate::fault::{What, Workload};
use crate::world::World;
use anyhow::Result;
use backfill_core::api::FeatureSetBackfill;
use backfill_e2e::{eventually, until};
use kube::api::DeleteParams;
use serde_json::{Value, json};

/// Until everything has come to its end.
pub async fn play(workload: Workload, world: &World) -> Result<()> {
    match workload {
        Workload::Interval => interval(world).await?,
        Workload::Reset => reset(world).await?,
        Workload::Delete => delete(world).await?,
    }
    world.released().await?;
    world.quiet().await
}

/// The second comes while the first runs, so that whose turn it is does not depend on the clock.
async fn interval(world: &World) -> Result<()> {
    let rule = world.hold("first");
    world.backfill("first", of("2024-05-01", "2024-06-01")).await?;
    world.phase("first", "Running").await?;
    world.backfill("second", of("2024-07-01", "2024-08-01")).await?;
    world.phase("second", "Queued").await?;
    world.running().await?;
    rule.remove();
    world.phase("first", "Complete").await?;
    world.phase("second", "Complete").await
}

/// Its pods are done before anybody sees them run.
async fn reset(world: &World) -> Result<()> {
    let rule = world.is(What::Replicas).then(|| world.hold("all"));
    world.backfill("all", json!({ "featureSet": "clicks", "reset": true, "startTime": "2024-01-01" })).await?;
    if let Some(rule) = rule {
        world.phase("all", "Running").await?;
        world.running().await?;
        rule.remove();
    }
    world.phase("all", "Complete").await
}

async fn delete(world: &World) -> Result<()> {
    let rule = world.hold("doomed");
    world.backfill("doomed", of("2024-05-01", "2024-06-01")).await?;
    // Whether the operator has seen that, is its affair.
    eventually("its pod to run", async || Ok(world.runs().iter().any(|run| run.ended.is_none()).then_some(()))).await?;
    world.running().await?;
    world.backfills().delete("doomed", &DeleteParams::default()).await?;
    until(&world.backfills(), "doomed", |backfill: Option<&FeatureSetBackfill>| backfill.is_none()).await?;
    rule.remove();
    Ok(())
}

fn of(start: &str, stop: &str) -> Value {
    json!({ "featureSet": "clicks", "startTime": start, "stopTime": stop })
}
