//! Single steps, as the Jobs of a cluster run them.

use super::Running;
use crate::support::World;
use backfill_core::api::{FeatureSetBackfillSpec, Mode};
use backfill_core::contract::{Order, Step};
use backfill_core::request::{Input, resolve};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::process::Command;

fn object<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("an object")
}

/// The order of one attempt, as the operator makes it.
pub fn order(world: &World, name: &str, mut spec: Value, step: Step, attempt: u32) -> Order {
    spec["featureSet"] = world.feature_set["metadata"]["name"].clone();
    let spec: FeatureSetBackfillSpec = object(&spec);
    let template = object(&json!({
        "apiVersion": "featureset.dev/v1alpha1", "kind": "ClusterTemplate", "metadata": { "name": "small" },
        "spec": { "engine": "DataFusion", "cores": 2, "memory": "512Mi", "scratch": "1Gi" },
    }));
    let (feature_set, store) = (object(&world.feature_set), object(&world.store));
    let now: DateTime<Utc> = "2024-06-01T00:00:00Z".parse().expect("a time");
    let input = Input {
        namespace: "demo",
        name,
        uid: None,
        spec: &spec,
        now,
        feature_sets: vec![&feature_set],
        stores: vec![&store],
        templates: vec![&template],
        namespace_labels: None,
    };
    let request = resolve(&input).expect("a valid request").request;
    let mode = spec.mode.unwrap_or(Mode::Apply);
    request.order(step, mode, attempt)
}

/// Runs one step of an order in a process of its own. With `stop_at` it stops itself there.
pub fn run_step(world: &World, step: Step, order: &Order, stop_at: Option<&str>) -> Running {
    let name = format!("order-{:?}-{}-{}.json", step, &order.key[..8], order.attempt);
    let file = world.path("orders").join(name);
    world.file(&file.strip_prefix(world.path("")).expect("below").to_string_lossy(), &serde_json::to_vec(order).expect("JSON"));
    let scratch = world.path(&format!("scratch-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&scratch).expect("a folder");
    let step = match step {
        Step::Offline => "offline",
        Step::Online => "online",
        Step::Settle => "settle",
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_backfill-worker"));
    command.arg(step).arg("--order").arg(file).arg("--volume").arg(world.path("")).arg("--scratch").arg(scratch);
    command.arg("--secrets").arg(world.path("secrets"));
    if let Some(point) = stop_at {
        command.env("FAILPOINT", format!("{point}:stop"));
    }
    Running::start(&mut command)
}
