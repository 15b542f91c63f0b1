//! Spark loses parts of itself, or the worker that started it.

use super::alone;
use super::cluster::Cluster;
use crate::faults::{filled, publishes, replaced, ten_days};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Waits until no process names this folder in its arguments, as all of Spark's do.
#[track_caller]
fn nothing_runs_in(folder: &Path) {
    let folder = folder.to_string_lossy().into_owned();
    let running = || -> Vec<String> {
        let processes = std::fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
        let arguments = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
        arguments.filter(|arguments| arguments.contains(&folder)).collect()
    };
    let began = Instant::now();
    while !running().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "still there: {:#?}", running());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Staging by Spark begins anew or goes on; publishing is the code that does it for both engines.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_takes_spark_along_and_the_next_ends_in_the_same_rows() {
    let start = filled();
    for point in ["pinned", "spark-staging", "spark-ended", "file-rewritten", "staged", "before-publish", "after-publish"] {
        let mut world = start.copy();
        world.template = alone();
        let mut spec = ten_days();
        if point == "file-rewritten" {
            world.set("transformation", json!({ "sql": "SELECT driver, at, trips, 1 AS revision FROM rides" }));
            spec["guards"] = json!({ "duplicates": { "policy": "KeepLast", "by": "revision" } });
        }
        world.killed_at(point, "ten-days", spec.clone());
        nothing_runs_in(&world.path(""));
        let ended = world.backfill("ten-days", spec);
        ended.succeeded_or_applied();
        assert_eq!(world.rides().await, replaced(), "killed at {point}");
        let key = ended.json["key"].as_str().expect("a key");
        assert_eq!(publishes(&world, Some(key)).len(), 1, "killed at {point}");
        let entries = std::fs::read_dir(world.table_path().join("_fsb").join(key)).expect("the run's folder");
        let left: Vec<_> =
            entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.ends_with("_delta_log")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_lost_costs_nothing_but_time() {
    let mut cluster = Cluster::start(2);
    let mut world = filled();
    world.template = cluster.template();
    // More windows than are written at a time: there is something left to do.
    world.set("windows", json!({ "every": "6h" }));
    let mut command = world.command("ten-days", ten_days());
    let mut running = crate::faults::Running::start(cluster.joins(command.env("FAILPOINT", "spark-staging:stop")));
    assert!(running.stops(), "instead: {:?}", running.ended());
    cluster.kill(0);
    running.goes_on();
    running.ends().succeeded();
    assert_eq!(world.rides().await, replaced());
    assert_eq!(cluster.terminate(1), Some(i32::from(backfill_core::contract::exit::RETRY)), "a pod that is drained is replaced");
    nothing_runs_in(cluster.folder());
    nothing_runs_in(&world.path(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_executor_spark_is_given_up_with_what_to_look_at() {
    let mut world = filled();
    let before: Value = json!(world.data().await.rows);
    let cluster = Cluster::start(0);
    let mut template = cluster.template();
    template["nodes"] = 3.into();
    world.template = template;
    let mut command = world.command("ten-days", ten_days());
    let ended = world.run(cluster.joins(command.env("BACKFILL_SPARK_START_SECONDS", "40")));
    ended[0].failed("SparkUnavailable", &["40 s", "none of its executors has come", "other pods"]);
    assert_eq!(json!(world.data().await.rows), before);
    nothing_runs_in(&world.path(""));
}
