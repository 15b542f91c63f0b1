//! `stores: [Online]` rebuilds the online store from the table; `stores: [Offline]` leaves it alone.

use crate::faults::{Running, filled, filled_in, january, order, run_step, sorted, ten_days};
use crate::support::{Kind, World, at};
use backfill_core::contract::Step;
use serde_json::{Value, json};

fn only(store: &str) -> Value {
    let mut spec = ten_days();
    spec["stores"] = json!([store]);
    spec
}

/// The table has the ten days replaced, the online store does not know yet.
fn offline_done(kind: Kind) -> World {
    let world = filled_in(World::on(kind));
    world.backfill("ten-days", only("Offline")).succeeded();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_of_the_offline_store_leaves_the_online_store_alone() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = filled_in(World::on(kind));
        let online = world.online_bytes();
        let ended = world.backfill("ten-days", only("Offline"));
        ended.succeeded();
        assert_eq!(world.online_bytes(), online);
        assert_eq!(ended.condition("OnlineReplaced").1, "Skipped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_online_store_is_rebuilt_from_the_table_and_rows_that_it_lacks_leave() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = offline_done(kind);
        let (rides, files) = (world.rides().await, world.data().await.files);
        assert_eq!((world.online(9).expect("driver 9").1, world.online(7)), (9, None));
        let ended = world.backfill("online", only("Online"));
        ended.succeeded();
        assert_eq!((world.online(9), world.online(7).expect("driver 7").1), (None, 7));
        assert_eq!((ended.online("entitiesRemoved"), ended.online("entitiesUpdated")), (1, 1));
        assert_eq!((world.rides().await, world.data().await.files), (rides, files));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilding_twice_changes_nothing_the_second_time() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = offline_done(kind);
        world.backfill("online", only("Online")).succeeded();
        let (data, version) = (world.data().await, world.version().await);
        world.backfill("online", only("Online")).already_applied();
        assert_eq!((world.data().await, world.version().await), (data, version));
        let served = world.served();
        let mut again = only("Online");
        again["runId"] = json!("again");
        let ended = world.backfill("online", again);
        ended.succeeded();
        assert_eq!(world.served(), served);
        assert_eq!((ended.online("entitiesRemoved"), ended.online("entitiesUpdated")), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_unknown_origin_stay_unless_they_are_to_be_replaced() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = offline_done(kind);
        world.ingest(99, at("2024-01-15"), 1);
        world.ingest(98, at("2024-02-15"), 1);
        world.backfill("online", only("Online")).succeeded();
        assert_eq!(world.online(99).expect("driver 99").1, 1);
        let mut spec = only("Online");
        spec["onlineUnknown"] = json!("Replace");
        world.backfill("rubbish", spec).succeeded();
        assert_eq!(world.online(99), None);
        assert_eq!(world.online(98).expect("outside of the interval").1, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_killed_at_any_point_ends_in_the_same_bytes() {
    let world = offline_done(Kind::Sqlite);
    let calm = world.copy();
    calm.backfill("online", only("Online")).succeeded();
    for point in [
        "online-generation",
        "online-fence-raised",
        "online-surveyed",
        "online-batch-written",
        "online-bucket-done",
        "online-before-mark",
        "online-after-mark",
    ] {
        let world = world.copy();
        world.killed_at(point, "online", only("Online"));
        world.backfill("online", only("Online")).succeeded_or_applied();
        assert_eq!(world.served(), calm.served(), "killed at {point}");
        assert_eq!(world.rides().await, calm.rides().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_overtaken_writes_nothing_and_runs_again_once_it_is_settled() {
    let world = filled();
    let run = |step: Step, point: Option<&str>| -> Running {
        run_step(&world, step, &order(&world, "online", only("Online"), step, 1), point)
    };
    let mut zombie = run(Step::Online, Some("online-bucket-asked"));
    assert!(zombie.stops());
    world.backfill("ten-days", ten_days()).succeeded();
    let served = world.served();
    let ended = zombie.ends();
    assert_eq!((ended.code, &ended.json["outcome"]["reason"]), (65, &json!("Superseded")));
    assert_eq!(world.served(), served);
    assert_eq!(run(Step::Settle, None).ends().code, 0);
    let ended = run(Step::Online, None).ends();
    assert_eq!((ended.code, &ended.json["outcome"]["kind"]), (0, &json!("done")), "{:#}", ended.json);
    assert_eq!(world.served(), served);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_backfill_is_finished_by_a_rebuild() {
    let world = filled();
    world.killed_at("online-bucket-asked", "ten-days", ten_days());
    assert_eq!(world.online(9).expect("not removed yet").1, 9);
    world.backfill("online", only("Online")).succeeded();
    assert_eq!((world.online(9), world.online(7).expect("driver 7").1), (None, 7));
    assert_ne!(world.rides().await, sorted(january()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_backfill_can_be_finished_after_another_one() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        for (start, stop) in [("2024-01-28", "2024-01-30"), ("2024-01-19", "2024-01-30")] {
            let world = filled_in(World::on(kind));
            world.killed_at("online-batch-written", "ten-days", ten_days());
            let guards = json!({ "maxShrinkPercent": 100, "allowEmpty": true });
            world.backfill("other", json!({ "startTime": start, "stopTime": stop, "guards": guards })).succeeded();
            world.delete("driver = 7").await;
            world.backfill("ten-days", ten_days()).succeeded();
            assert_eq!((world.online(9), world.online(7)), (None, None), "7 was written before others deleted it");
            let newest =
                world.rides().await.into_iter().filter(|ride| ride.0 == Some(1)).filter_map(|ride| ride.1.zip(ride.2)).max();
            assert_eq!(world.online(1), newest.map(|(t, trips)| (t / 1_000_000, trips)));
            world.backfill("ten-days", ten_days()).already_applied();
        }
    }
}
