//! A process that is killed at any point and run again leaves the same bytes as one that was not, and one publish.

use crate::faults::{corrected, filled, filled_in, january, order, publishes, sorted, ten_days};
use crate::support::{Kind, Ride, World, at};
use backfill_core::contract::Step;
use serde_json::{Value, json};

const OFFLINE: [&str; 8] =
    ["fence-raised", "pinned", "unit-staged", "file-rescued", "staged", "before-publish", "after-publish", "published"];

const ONLINE: [&str; 9] = [
    "online-fence-raised",
    "online-surveyed",
    "online-bucket-asked",
    "online-batch-written",
    "online-bucket-written",
    "online-bucket-done",
    "online-caught-up",
    "online-before-mark",
    "online-after-mark",
];

/// A backfill, and the world in which it runs.
struct Scenario {
    world: World,
    name: &'static str,
    spec: Value,
}

/// What is compared at the end.
#[derive(Debug, PartialEq)]
struct Seen {
    rides: Vec<Ride>,
    served: Vec<String>,
    publishes: usize,
}

async fn seen(world: &World, key: &str) -> Seen {
    Seen { rides: world.rides().await, served: world.served(), publishes: publishes(world, Some(key)).len() }
}

impl Scenario {
    /// Kills the backfill at each of the points, in copies of the world, and runs it again.
    async fn survives(&self, points: impl IntoIterator<Item = &str>) {
        let calm = self.world.copy();
        let ended = calm.backfill(self.name, self.spec.clone());
        let key = ended.succeeded().json["key"].as_str().expect("a key").to_owned();
        let expected = seen(&calm, &key).await;
        assert_eq!(expected.publishes, 1);
        for point in points {
            let world = self.world.copy();
            world.killed_at(point, self.name, self.spec.clone());
            world.backfill(self.name, self.spec.clone()).succeeded_or_applied();
            assert_eq!(seen(&world, &key).await, expected, "killed at {point}");
        }
    }
}

fn of_interval() -> Scenario {
    Scenario { world: filled(), name: "ten-days", spec: ten_days() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_killed_at_any_offline_point_ends_in_the_same_bytes() {
    of_interval().survives(OFFLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_killed_at_any_online_point_ends_in_the_same_bytes() {
    of_interval().survives(ONLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_killed_at_any_point_ends_in_the_same_bytes() {
    let world = World::new();
    world.source(&january());
    let scenario = Scenario { world, name: "first", spec: json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" }) };
    scenario
        .survives(
            OFFLINE.into_iter().filter(|point| *point != "file-rescued").chain(["online-batch-written", "online-before-mark"]),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_killed_at_any_point_ends_in_the_same_bytes() {
    let spec =
        json!({ "reset": true, "startTime": "2024-01-10", "stopTime": "2024-01-20", "guards": { "maxShrinkPercent": 100 } });
    let scenario = Scenario { world: filled(), name: "again", spec };
    scenario
        .survives(
            OFFLINE.into_iter().filter(|point| *point != "file-rescued").chain(["online-batch-written", "online-before-mark"]),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_killed_at_any_point_ends_in_the_same_bytes() {
    let world = filled();
    world.backfill("ten-days", ten_days()).succeeded();
    // In one file, so that rows have to be rescued.
    world.compact().await;
    let scenario = Scenario { world, name: "back", spec: json!({ "undo": "ten-days" }) };
    scenario
        .survives(
            OFFLINE.into_iter().filter(|point| *point != "unit-staged").chain(["online-batch-written", "online-before-mark"]),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_killed_again_and_again_ends_in_the_same_bytes() {
    let scenario = of_interval();
    let calm = scenario.world.copy();
    let key = calm.backfill("ten-days", ten_days()).json["key"].as_str().expect("a key").to_owned();
    let expected = seen(&calm, &key).await;
    let twice = [
        ["pinned", "staged"],
        ["file-rescued", "before-publish"],
        ["before-publish", "before-publish"],
        ["after-publish", "published"],
        ["online-batch-written", "online-bucket-asked"],
        ["published", "online-before-mark"],
    ];
    for [first, second] in twice {
        let world = scenario.world.copy();
        world.killed_at(first, "ten-days", ten_days());
        world.killed_at(second, "ten-days", ten_days());
        world.backfill("ten-days", ten_days()).succeeded();
        assert_eq!(seen(&world, &key).await, expected, "killed at {first}, then at {second}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_into_redis_killed_at_any_online_point_ends_in_the_same_bytes() {
    let calm = filled_in(World::on(Kind::Redis));
    let key = calm.backfill("ten-days", ten_days()).json["key"].as_str().expect("a key").to_owned();
    let expected = seen(&calm, &key).await;
    assert!(expected.served.len() > 10, "{:?}", expected.served);
    for point in [
        "after-publish",
        "online-fence-raised",
        "online-bucket-asked",
        "online-batch-written",
        "online-bucket-done",
        "online-before-mark",
    ] {
        let world = filled_in(World::on(Kind::Redis));
        world.killed_at(point, "ten-days", ten_days());
        world.backfill("ten-days", ten_days()).succeeded();
        assert_eq!(seen(&world, &key).await, expected, "killed at {point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_run_twice_changes_nothing_the_second_time() {
    let scenario = of_interval();
    for world in [scenario.world.copy(), filled_in(World::on(Kind::Redis))] {
        let before = world.data().await;
        world.backfill("ten-days", ten_days()).succeeded();
        let (data, version) = (world.data().await, world.version().await);
        assert_ne!(data, before, "the first run changes something");
        world.backfill("ten-days", ten_days()).already_applied();
        assert_eq!(world.data().await, data);
        assert_eq!(world.version().await, version, "not even the log grows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_publish_nothing_is_visible_and_killed_after_it_everything_is() {
    let scenario = of_interval();
    let (old, served) = (scenario.world.rides().await, scenario.world.served());
    for point in ["pinned", "staged", "before-publish"] {
        let world = scenario.world.copy();
        world.killed_at(point, "ten-days", ten_days());
        assert_eq!(world.rides().await, old, "killed at {point}");
        assert_eq!(world.served(), served, "killed at {point}");
    }
    let world = scenario.world.copy();
    world.killed_at("after-publish", "ten-days", ten_days());
    assert_eq!(world.rides().await, crate::faults::replaced());
    assert_eq!(world.served(), served, "online comes later");
    assert_eq!(corrected().len(), 41);
}

/// When the run record says that the interval ends.
fn pinned_stop(world: &World, key: &str) -> Value {
    let pin = std::fs::read_to_string(world.table_path().join("_fsb").join(key).join("pin.json")).expect("a pin");
    let pin: Value = serde_json::from_str(&pin).expect("JSON");
    pin["order"]["scope"]["interval"]["stop"].clone()
}

/// Waits until a request that is resolved now gets another stop.
fn until_after(stop: &Value) {
    let stop: chrono::DateTime<chrono::Utc> = stop.as_str().and_then(|stop| stop.parse().ok()).expect("a time");
    while chrono::Utc::now() - stop < chrono::TimeDelta::seconds(1) {
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boundaries_are_settled_once_also_when_the_table_is_pinned_again() {
    let spec = json!({ "startTime": "2024-01-10", "guards": { "maxShrinkPercent": 100 } });
    let world = filled();
    let key = order(&world, "open", spec.clone(), Step::Offline, 1).key;
    world.killed_at("staged", "open", spec.clone());
    let stop = pinned_stop(&world, &key);
    until_after(&stop);
    let mut running = world.stopped_at("before-publish", "open", spec);
    assert_eq!(pinned_stop(&world, &key), stop, "the second attempt takes the pin of the first");
    world.delete("driver = 2").await;
    running.goes_on();
    assert!(running.stops(), "it pins again and stages again");
    let ended = running.ends();
    ended.succeeded();
    assert_eq!((&ended.json["scope"]["interval"]["stop"], pinned_stop(&world, &key)), (&stop, stop.clone()));
    let kept = january().into_iter().filter(|ride| ride.0 != Some(2) && ride.1 < Some(at("2024-01-10")));
    assert_eq!(world.rides().await, sorted(kept.chain(corrected())));
}
