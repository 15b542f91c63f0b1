//! Settling ends a run that was broken off: it can write no more, and what it staged is gone.

use crate::faults::{Running, corrected, filled, january, log, order, replaced, run_step, sorted, ten_days};
use crate::support::{Ended, World, at, ride};
use backfill_core::contract::Step;
use serde_json::{Value, json};
use std::process::Command;

fn settle(world: &World, name: &str, spec: Value) -> Ended {
    run_step(world, Step::Settle, &order(world, name, spec, Step::Settle, 1), None).ends()
}

#[track_caller]
fn settled(ended: &Ended, published: bool) {
    assert_eq!(ended.json["outcome"], json!({ "kind": "settled", "published": published }), "{:#}", ended.json);
    assert_eq!(ended.code, 0);
}

/// The documents of all run records.
fn documents(world: &World) -> Vec<String> {
    let found = Command::new("find").current_dir(world.table_path().join("_fsb")).args(["-type", "f"]).output().expect("find");
    let mut found: Vec<String> = String::from_utf8(found.stdout).expect("UTF-8").lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_removes_what_an_unpublished_run_has_left() {
    for point in ["pinned", "file-rescued", "staged", "before-publish"] {
        let world = filled();
        let (data, records) = (world.data().await, documents(&world));
        world.killed_at(point, "ten-days", ten_days());
        assert_ne!(documents(&world), records, "killed at {point}");
        settled(&settle(&world, "ten-days", ten_days()), false);
        assert_eq!(world.data().await, data, "killed at {point}");
        assert_eq!(documents(&world), records, "killed at {point}");
        settled(&settle(&world, "ten-days", ten_days()), false);
        assert_eq!(world.data().await, data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_leaves_what_a_run_has_published() {
    let world = filled();
    world.killed_at("after-publish", "ten-days", ten_days());
    let (data, records) = (world.data().await, documents(&world));
    for _ in 0..2 {
        let ended = settle(&world, "ten-days", ten_days());
        settled(&ended, true);
        assert_eq!(ended.json["offline"]["versionAfter"], 3, "{:#}", ended.json);
        assert_eq!(ended.json["scope"]["interval"]["start"], "2024-01-10T00:00:00Z");
        assert_eq!((world.data().await, documents(&world)), (data.clone(), records.clone()));
    }
    world.backfill("ten-days", ten_days()).succeeded();
    assert_eq!(world.rides().await, replaced());
    assert_eq!(world.online(9), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_that_is_killed_is_settled_by_the_next_one() {
    for point in ["settle-fence-raised", "settle-files-removed"] {
        let world = filled();
        let data = world.data().await;
        world.killed_at("before-publish", "ten-days", ten_days());
        let order = order(&world, "ten-days", ten_days(), Step::Settle, 1);
        let mut broken: Running = run_step(&world, Step::Settle, &order, Some(point));
        assert!(broken.stops());
        drop(broken);
        settled(&settle(&world, "ten-days", ten_days()), false);
        assert_eq!(world.data().await, data, "killed at {point}");
        world.backfill("ten-days", ten_days()).succeeded();
        assert_eq!(world.rides().await, replaced());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_one_run_leaves_what_another_has_staged() {
    let world = filled();
    let other = json!({ "startTime": "2024-01-12", "stopTime": "2024-01-13", "mode": "Plan" });
    assert_eq!(world.backfill("other", other.clone()).code, 10);
    let staged = world.staged_files();
    world.killed_at("staged", "ten-days", ten_days());
    assert!(world.staged_files().len() > staged.len());
    settled(&settle(&world, "ten-days", ten_days()), false);
    assert_eq!(world.staged_files(), staged);
    settled(&settle(&world, "other", other), false);
    assert!(world.staged_files().len() < staged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_what_never_began_makes_nothing() {
    let world = World::new();
    world.source(&january());
    settled(&settle(&world, "first", json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" })), false);
    assert!(world.find_table().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_backfill_leaves_nothing_and_works_once_the_cause_is_gone() {
    let world = filled();
    let data = world.data().await;
    world.source(&[ride(1, "2024-01-10", 1)]);
    world.backfill("ten-days", ten_days()).failed("ShrinkGuard", &[]);
    assert_eq!(world.data().await, data);
    world.source(&corrected());
    world.backfill("ten-days", ten_days()).succeeded();
    assert_eq!(world.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_first_load_binds_neither_columns_nor_layout() {
    let mut world = World::new();
    world.source(&[(None, Some(at("2024-01-05")), Some(1))]);
    let spec = json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" });
    world.backfill("first", spec.clone()).failed("NullKey", &[]);
    assert!(log(&world)[0].iter().any(|action| action.to_string().contains("featureset.unused")), "the table only holds a fence");
    world.source(&january());
    world.set("features", json!([{ "name": "trips", "type": "int64" }, { "name": "share", "type": "float64" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, 0.5 AS share FROM rides" }));
    world.set("offline", json!({ "partitionBy": "Day" }));
    let ended = world.backfill("first", spec);
    ended.succeeded();
    assert!(!ended.warnings().contains(&"LayoutKept"), "{:?}", ended.warnings());
    assert_eq!(world.rides().await, sorted(january()));
    let files = world.files().await;
    assert!(files.len() >= 30 && files.iter().all(|file| file.add.path.starts_with("event_date=")), "{files:?}");
    let unused = log(&world).into_iter().flatten().rfind(|action| action["metaData"].is_object());
    assert!(!unused.expect("metadata").to_string().contains("unused"), "the table is in use now");
    world.backfill("back", json!({ "undo": "first" })).succeeded();
    assert_eq!(world.rides().await, vec![]);
}
