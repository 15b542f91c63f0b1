//! A plan publishes nothing; applying it publishes exactly what was planned, or makes the plan again.

use crate::faults::{corrected, filled, filled_in, january, outside, publishes, replaced, sorted, ten_days};
use crate::support::{Ended, Ride, World, ride};
use serde_json::{Value, json};

fn mode(mode: &str) -> Value {
    let mut spec = ten_days();
    spec["mode"] = json!(mode);
    spec
}

#[track_caller]
fn planned(ended: &Ended) {
    rests(ended, "Planned");
}

#[track_caller]
fn rests(ended: &Ended, because: &str) {
    let (status, reason, message) = ended.condition("Ready");
    assert_eq!((status, reason, ended.code), ("True", because, 10), "{message}\n{:#}", ended.json);
    assert_eq!((ended.condition("Complete").0, ended.condition("Failed").0), ("False", "False"));
}

#[track_caller]
fn applied_anew(ended: &Ended, word: &str) {
    rests(ended, "PlanMoved");
    let why = ended.warning("PlanMoved");
    assert!(why.contains("made again") && why.contains(word), "{why}");
}

/// The world in which the ten days are planned, and the files that were staged for that.
fn with_plan() -> (World, Vec<String>) {
    let world = filled();
    let before = world.staged_files();
    planned(&world.backfill("ten-days", mode("Plan")));
    let staged = world.staged_files().into_iter().filter(|file| !before.contains(file)).collect();
    (world, staged)
}

fn without(rides: Vec<Ride>, driver: i64) -> Vec<Ride> {
    rides.into_iter().filter(|ride| ride.0 != Some(driver)).collect()
}

/// Applies the plan; it must not run the transformation again.
#[track_caller]
fn applies_without_staging(world: &World) -> Ended {
    let mut applied = world.command("ten-days", mode("Apply"));
    let ended = world.run(applied.env("FAILPOINT", "unit-staged:kill")).remove(0);
    ended.succeeded();
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_what_would_change_and_publishes_nothing() {
    for world in [filled(), filled_in(World::new().partitioned_by("Day"))] {
        let (data, version) = (world.data().await, world.version().await);
        let ended = world.backfill("ten-days", mode("Plan"));
        planned(&ended);
        let after = world.data().await;
        assert_eq!((after.files, after.rows, after.metadata, after.online), (data.files, data.rows, data.metadata, data.online));
        assert_eq!(world.version().await, version + 1, "only the fence");
        assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten"), ended.offline("rowsUnchanged")), (41, 41, 0));
        let entities = &ended.json["offline"]["online"];
        assert_eq!((&entities["entitiesUpdated"], &entities["entitiesRemoved"]), (&json!(1), &json!(1)), "{entities}");
        assert_eq!(entities["entitiesKeptNewer"], 4);
        assert!(!ended.json["offline"]["offline"]["guards"].as_array().expect("guards").is_empty());
        assert_eq!(publishes(&world, None).len(), 1, "the fill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_counts_the_rows_that_stay_the_same() {
    let world = filled();
    let same = january().into_iter().map(|ride| if ride.0 == Some(1) { (ride.0, ride.1, Some(0)) } else { ride });
    world.source(&sorted(same));
    let ended = world.backfill("ten-days", mode("Plan"));
    planned(&ended);
    assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsUnchanged")), (41, 31));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmoved_plan_is_published_as_it_was_staged() {
    let (world, staged) = with_plan();
    applies_without_staging(&world);
    assert_eq!(world.rides().await, replaced());
    let files: Vec<String> = world.files().await.into_iter().map(|file| file.add.path).collect();
    assert!(staged.len() >= 2, "the new rows and the rescued ones");
    assert!(staged.iter().all(|file| files.contains(file)), "{staged:?} {files:?}");
    assert_eq!(world.online(9), None);
    world.backfill("ten-days", mode("Apply")).already_applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_a_compaction_leave_a_plan_as_it_is() {
    let (world, _) = with_plan();
    let landed = [ride(5, "2024-01-15", 5), ride(5, "2024-01-25", 6)];
    world.append(&landed).await;
    world.compact().await;
    applies_without_staging(&world);
    assert_eq!(world.rides().await, sorted(replaced().into_iter().chain(landed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_since_makes_the_plan_again() {
    let (world, _) = with_plan();
    world.delete("driver = 2").await;
    let (rides, served) = (world.rides().await, world.served());
    let ended = world.backfill("ten-days", mode("Apply"));
    applied_anew(&ended, "removed rows of the interval");
    assert_eq!(ended.offline("rowsRemoved"), 31, "the new plan is of the table as it is");
    assert_eq!((world.rides().await, world.served()), (rides, served));
    applies_without_staging(&world);
    assert_eq!(world.rides().await, sorted(without(outside(&january(), 10, 20), 2).into_iter().chain(corrected())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_during_the_publish_of_a_plan_makes_it_again() {
    let (world, _) = with_plan();
    let running = world.stopped_at("before-publish", "ten-days", mode("Apply"));
    world.delete("driver = 2").await;
    applied_anew(&running.ends(), "removed rows of the interval");
    assert_eq!(publishes(&world, None).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_killed_while_it_is_made_again_is_not_published_unseen() {
    for point in ["moved", "pin-renewing", "pinned"] {
        let (world, _) = with_plan();
        world.delete("driver = 2").await;
        world.killed_at(point, "ten-days", mode("Apply"));
        applied_anew(&world.backfill("ten-days", mode("Apply")), "moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_source_makes_the_plan_again() {
    let (world, _) = with_plan();
    let other = without(corrected(), 3);
    world.source(&other);
    let ended = world.backfill("ten-days", mode("Apply"));
    applied_anew(&ended, "changed since");
    assert_eq!(ended.offline("rowsWritten"), 31);
    assert_eq!(world.rides().await, sorted(january()));
    applies_without_staging(&world);
    assert_eq!(world.rides().await, sorted(outside(&january(), 10, 20).into_iter().chain(other)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_makes_the_plan_again() {
    let (mut world, _) = with_plan();
    world.set("features", json!([{ "name": "trips", "type": "int64" }, { "name": "stars", "type": "int64" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips + 1 AS trips, 5 AS stars FROM rides" }));
    applied_anew(&world.backfill("ten-days", mode("Apply")), "definition");
    assert_eq!(world.rides().await, sorted(january()));
    applies_without_staging(&world);
    let one_more = corrected().into_iter().map(|ride| (ride.0, ride.1, ride.2.map(|trips| trips + 1)));
    assert_eq!(world.rides().await, sorted(outside(&january(), 10, 20).into_iter().chain(one_more)));
    let filled = world.data().await.rows.into_iter().filter(|row| !row.contains("null")).count();
    assert_eq!(filled, 41, "the new feature has values in the ten days");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_files_are_gone_is_made_again() {
    let (world, staged) = with_plan();
    std::fs::remove_file(world.table_path().join(&staged[0])).expect("a staged file");
    applied_anew(&world.backfill("ten-days", mode("Apply")), "is gone");
    applies_without_staging(&world);
    assert_eq!(world.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_in_a_plan_fails_it_and_changes_nothing() {
    let world = filled();
    world.source(&[ride(1, "2024-01-10", 1)]);
    let rides = world.rides().await;
    world.backfill("ten-days", mode("Plan")).failed("ShrinkGuard", &[]);
    assert_eq!(world.rides().await, rides);
    world.source(&corrected());
    planned(&world.backfill("ten-days", mode("Plan")));
    world.source(&[ride(1, "2024-01-10", 1)]);
    world.backfill("ten-days", mode("Apply")).failed("ShrinkGuard", &[]);
    assert_eq!(world.rides().await, rides);
    assert_eq!(publishes(&world, None).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_asked_for_again_is_of_what_there_is_now() {
    let (world, _) = with_plan();
    world.delete("driver = 2").await;
    let ended = world.backfill("ten-days", mode("Plan"));
    planned(&ended);
    assert!(ended.warning("PlanMoved").contains("removed rows of the interval"));
    assert_eq!(ended.offline("rowsRemoved"), 31);
    world.source(&without(corrected(), 3));
    let ended = world.backfill("ten-days", mode("Plan"));
    assert_eq!(ended.offline("rowsWritten"), 31);
    applies_without_staging(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_a_plan() {
    let world = filled();
    let version = world.version().await;
    planned(&world.run(world.command("ten-days", ten_days()).arg("--dry-run")).remove(0));
    assert_eq!((world.rides().await, world.version().await), (sorted(january()), version + 1));
    applies_without_staging(&world);
    assert_eq!(world.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_first_load_creates_no_table() {
    let world = World::new();
    world.source(&january());
    let spec = |mode: &str| json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01", "mode": mode });
    planned(&world.backfill("first", spec("Plan")));
    assert!(world.find_table().await.is_none());
    world.backfill("first", spec("Apply")).succeeded();
    assert_eq!(world.rides().await, sorted(january()));
}
