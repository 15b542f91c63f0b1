//! An undo gives the span back what it held before, and what others landed there since.

use crate::faults::{corrected, filled, filled_in, january, outside, publishes, replaced, sorted, ten_days};
use crate::support::{Ended, Kind, Ride, World, ride};
use serde_json::{Value, json};

fn back() -> Value {
    json!({ "undo": "ten-days" })
}

fn with(rides: Vec<Ride>, more: &[Ride]) -> Vec<Ride> {
    sorted(rides.into_iter().chain(more.iter().copied()))
}

/// January with the ten days replaced.
fn done_in(world: World) -> World {
    let world = filled_in(world);
    world.backfill("ten-days", ten_days()).succeeded();
    world
}

/// The undo is refused and changes nothing.
#[track_caller]
fn refused(world: &World, spec: Value, reason: &str, words: &[&str]) {
    let before = (world.served(), publishes(world, None));
    world.backfill("back", spec).failed(reason, words);
    assert_eq!((world.served(), publishes(world, None)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_brings_back_what_was_there_offline_and_online() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = filled_in(World::on(kind));
        let served = world.served();
        world.backfill("ten-days", ten_days()).succeeded();
        assert_ne!(world.served(), served);
        let ended = world.backfill("back", back());
        ended.succeeded();
        assert_eq!(world.rides().await, sorted(january()));
        assert_eq!(world.served(), served, "driver 9 came back and driver 7 left");
        assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten")), (41, 41));
        assert_eq!(ended.json["scope"]["interval"]["start"], "2024-01-10T00:00:00Z", "the scope is that of what is undone");
        assert_eq!(ended.proof()["verdict"], "Passed");
        let data = world.data().await;
        world.backfill("back", back()).already_applied();
        assert_eq!(world.data().await, data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_landed_since_stay() {
    let landed = [
        ride(1, "2024-01-05 12:00:00", 1),
        ride(2, "2024-01-15 12:00:00", 2),
        ride(5, "2024-01-10", 3),
        ride(5, "2024-01-20", 4),
    ];
    for world in [World::new(), World::new().partitioned_by("Day")] {
        let world = done_in(world);
        world.append(&landed).await;
        let more = [ride(6, "2024-01-16", 6)];
        world.append(&more).await;
        world.compact().await;
        world.backfill("back", back()).succeeded();
        assert_eq!(world.rides().await, with(with(january(), &landed), &more));
        assert_eq!(world.online(6).expect("driver 6").1, 6);
        assert_eq!((world.online(7), world.online(9).expect("driver 9").1), (None, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_landed_between_pin_and_publish_of_the_undone_backfill_stay() {
    let world = filled();
    let landed = [ride(5, "2024-01-15", 5)];
    let mut first = true;
    let landing = |world: &World| {
        if std::mem::take(&mut first) {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(world.append(&landed)));
        }
    };
    world.replaced_while(landing).succeeded();
    world.backfill("back", back()).succeeded();
    assert_eq!(world.rides().await, with(january(), &landed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_backfill_of_the_span_must_be_undone_first() {
    let world = done_in(World::new());
    world.backfill("later", json!({ "startTime": "2024-01-19", "stopTime": "2024-01-20" })).succeeded();
    refused(&world, back(), "UndoSuperseded", &["is a later backfill", "undo that first"]);
    world.backfill("back-later", json!({ "undo": "later" })).succeeded();
    assert_eq!(world.rides().await, replaced());
    refused(&world, back(), "UndoSuperseded", &["is a later backfill"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_backfill_beside_the_span_stays() {
    let world = done_in(World::new());
    let beside = [ride(3, "2024-01-20", 3), ride(3, "2024-01-21", 33)];
    world.source(&beside);
    let spec = json!({ "startTime": "2024-01-20", "stopTime": "2024-01-22", "guards": { "maxShrinkPercent": 100 } });
    world.backfill("beside", spec).succeeded();
    world.backfill("back", back()).succeeded();
    assert_eq!(world.rides().await, with(outside(&january(), 20, 22), &beside));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_of_others_in_the_span_is_not_undone() {
    let world = done_in(World::new());
    world.delete("driver = 2").await;
    let rides = world.rides().await;
    refused(&world, back(), "UndoSuperseded", &["removed rows"]);
    assert_eq!(world.rides().await, rides);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_of_others_beside_the_span_stays() {
    let world = done_in(World::new());
    world.append(&[ride(5, "2024-01-28", 5), ride(6, "2024-01-28", 6)]).await;
    world.delete("driver = 5").await;
    world.backfill("back", back()).succeeded();
    assert_eq!(world.rides().await, with(january(), &[ride(6, "2024-01-28", 6)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_of_others_in_the_span_during_the_undo_stops_it() {
    let world = done_in(World::new());
    let undo = world.stopped_at("before-publish", "back", back());
    world.delete("driver = 2").await;
    let rides = world.rides().await;
    undo.ends().failed("UndoSuperseded", &["removed rows"]);
    assert_eq!(world.rides().await, rides);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_land_during_the_undo_stay() {
    let world = done_in(World::new());
    let landed = [ride(5, "2024-01-15", 5), ride(5, "2024-01-25", 6)];
    let undo = world.stopped_at("before-publish", "back", back());
    world.append(&landed).await;
    world.compact().await;
    undo.ends().succeeded();
    assert_eq!(world.rides().await, with(january(), &landed));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_vacuum_there_is_nothing_to_bring_back() {
    let world = done_in(World::new());
    world.vacuum().await;
    let data = world.data().await;
    refused(&world, back(), "SnapshotExpired", &["is gone", "VACUUM"]);
    assert_eq!(world.data().await.rows, data.rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_first_load_leaves_an_empty_table_and_store() {
    let world = World::new();
    world.source(&january());
    world.backfill("first", json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" })).succeeded();
    world.append(&[ride(5, "2024-01-15", 5), ride(5, "2024-03-01", 6)]).await;
    world.backfill("back", json!({ "undo": "first" })).succeeded();
    assert_eq!(world.rides().await, vec![ride(5, "2024-01-15", 5), ride(5, "2024-03-01", 6)]);
    assert!((1..10).filter(|driver| *driver != 5).all(|driver| world.online(driver).is_none()), "{:?}", world.served());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_reset_brings_everything_back() {
    for spec in [
        json!({ "reset": true, "startTime": "2024-01-10", "stopTime": "2024-01-20" }),
        json!({ "reset": true, "startTime": "2024-01-10" }),
    ] {
        let world = filled();
        world.append(&[(Some(1), None, Some(1)), ride(4, "1969-12-31 23:59:59.999999", 4)]).await;
        let (rides, served) = (world.rides().await, world.served());
        let mut spec = spec;
        spec["guards"] = json!({ "maxShrinkPercent": 100 });
        world.backfill("all", spec).succeeded();
        assert_eq!(world.rides().await, sorted(corrected()));
        world.append(&[ride(5, "2024-03-01", 5)]).await;
        world.backfill("back", json!({ "undo": "all" })).succeeded();
        assert_eq!(world.rides().await, with(rides, &[ride(5, "2024-03-01", 5)]));
        let back: Vec<String> = served.into_iter().filter(|line| !world.served().contains(line)).collect();
        assert!(back.is_empty(), "{back:?}");
        assert_eq!(world.online(7), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_an_undo_applies_the_backfill_again() {
    let world = done_in(World::new());
    let (rides, served) = (world.rides().await, world.served());
    world.backfill("back", back()).succeeded();
    let ended: Ended = world.backfill("forth", json!({ "undo": "back" }));
    ended.succeeded();
    assert_eq!((world.rides().await, world.served()), (rides, served));
    assert_eq!(ended.json["scope"]["interval"]["start"], "2024-01-10T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_backfill_that_added_a_feature_leaves_the_column_empty() {
    let mut world = filled();
    world.set("features", json!([{ "name": "trips", "type": "int64" }, { "name": "stars", "type": "int64" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, trips + 1 AS stars FROM rides" }));
    world.backfill("ten-days", ten_days()).succeeded();
    assert!(world.data().await.rows.iter().any(|row| row.contains("1011")));
    world.backfill("back", back()).succeeded();
    assert_eq!(world.rides().await, sorted(january()));
    let data = world.data().await;
    assert!(data.metadata.contains("stars"), "the column stays");
    assert!(data.rows.iter().all(|row| row.contains("null")), "and is empty: {:?}", data.rows.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_dropped_since_cannot_be_brought_back() {
    let world = filled();
    let before = world.table().await;
    world.add_column("note").await;
    world.backfill("ten-days", ten_days()).succeeded();
    let metadata = backfill_worker::delta::snapshot(&before).metadata().clone();
    world.commit(&[deltalake::kernel::Action::Metadata(metadata)]).await;
    let rides = world.rides().await;
    refused(&world, back(), "SchemaChanged", &["\"note\"", "cannot be brought back"]);
    assert_eq!(world.rides().await, rides);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_published_cannot_be_undone() {
    let world = filled();
    refused(&world, json!({ "undo": "nobody" }), "UndoNotFound", &["\"nobody\"", "published nothing"]);
    world.killed_at("before-publish", "ten-days", ten_days());
    refused(&world, back(), "UndoNotFound", &["\"ten-days\""]);
    assert_eq!(world.rides().await, sorted(january()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_runs_of_a_name_the_last_one_is_undone() {
    let world = done_in(World::new());
    let first = world.rides().await;
    world.source(&sorted(corrected().into_iter().map(|ride| (ride.0, ride.1, ride.2.map(|trips| -trips)))));
    let mut again = ten_days();
    again["runId"] = json!("second");
    world.backfill("ten-days", again).succeeded();
    assert_ne!(world.rides().await, first);
    world.backfill("back", back()).succeeded();
    assert_eq!(world.rides().await, first);
}
