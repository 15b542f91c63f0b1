//! An attempt that hangs, is overtaken and then goes on writes nothing, in neither store.

use crate::faults::{
    Running, corrected, filled, filled_in, january, order, outside, publishes, replaced, run_step, sorted, ten_days,
};
use crate::support::{Data, Ended, Kind, World, plain_schema, ride};
use backfill_core::contract::Step;
use serde_json::{Value, json};

/// What a zombie must not change.
async fn visible(world: &World) -> (Data, u64) {
    (Data { on_disk: Default::default(), ..world.data().await }, world.version().await)
}

/// Continues a zombie: it ends as superseded and has changed nothing.
async fn goes_on_in_vain(world: &World, zombie: Running) {
    let before = visible(world).await;
    let ended = zombie.ends();
    superseded(&ended);
    assert_eq!(visible(world).await, before);
}

#[track_caller]
fn superseded(ended: &Ended) {
    let outcome = &ended.json["outcome"];
    assert_eq!((ended.code, outcome["reason"].as_str()), (65, Some("Superseded")), "{:#}", ended.json);
}

#[track_caller]
fn done(ended: &Ended) {
    assert_eq!((ended.code, ended.json["outcome"]["kind"].as_str()), (0, Some("done")), "{:#}", ended.json);
}

#[track_caller]
fn stopped(world: &World, step: Step, name: &str, spec: Value, attempt: u32, point: &str) -> Running {
    let mut running = run_step(world, step, &order(world, name, spec, step, attempt), Some(point));
    assert!(running.stops(), "{point} is reached: {:?}", running.ended());
    running
}

fn runs(world: &World, step: Step, name: &str, spec: Value, attempt: u32) -> Ended {
    run_step(world, step, &order(world, name, spec, step, attempt), None).ends()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_overtaken_before_it_publishes_writes_nothing() {
    for point in ["pinned", "unit-staged", "staged", "before-publish"] {
        let world = filled();
        let zombie = stopped(&world, Step::Offline, "ten-days", ten_days(), 1, point);
        let mut next = stopped(&world, Step::Offline, "ten-days", ten_days(), 2, "staged");
        goes_on_in_vain(&world, zombie).await;
        next.goes_on();
        assert!(!next.stops());
        done(&next.ended());
        assert_eq!(world.rides().await, replaced(), "stopped at {point}");
        assert_eq!(publishes(&world, None).len(), 2, "the fill and one publish");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_run_another_attempt_has_published_publishes_nothing_more() {
    let world = filled();
    let zombie = stopped(&world, Step::Offline, "ten-days", ten_days(), 1, "before-publish");
    done(&runs(&world, Step::Offline, "ten-days", ten_days(), 2));
    let before = visible(&world).await;
    done(&zombie.ends());
    assert_eq!(visible(&world).await, before);
    assert_eq!(world.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_another_backfill_overtakes_writes_nothing() {
    for (start, stop) in [("2024-01-15", "2024-01-18"), ("2024-01-20", "2024-02-01")] {
        let world = filled();
        let zombie = stopped(&world, Step::Offline, "ten-days", ten_days(), 1, "before-publish");
        let guards = json!({ "maxShrinkPercent": 100, "allowEmpty": true });
        let other = json!({ "guards": guards, "startTime": start, "stopTime": stop });
        world.backfill("other", other).succeeded();
        goes_on_in_vain(&world, zombie).await;
        assert_eq!(publishes(&world, None).len(), 2, "the fill and the other one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_settled_writes_nothing() {
    for point in ["pinned", "staged", "before-publish"] {
        let world = filled();
        let (rides, served) = (world.rides().await, world.served());
        let zombie = stopped(&world, Step::Offline, "ten-days", ten_days(), 1, point);
        let settled = runs(&world, Step::Settle, "ten-days", ten_days(), 1);
        assert_eq!(settled.json["outcome"], json!({ "kind": "settled", "published": false }));
        goes_on_in_vain(&world, zombie).await;
        assert_eq!((world.rides().await, world.served()), (rides, served), "stopped at {point}");
        world.backfill("ten-days", ten_days()).succeeded();
        assert_eq!(world.rides().await, replaced(), "and it can be run again");
    }
}

fn first() -> Value {
    json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_that_is_settled_creates_nothing_and_can_be_run_again() {
    let world = World::new();
    world.source(&january());
    let zombie = stopped(&world, Step::Offline, "first", first(), 1, "before-publish");
    assert!(world.find_table().await.is_none());
    runs(&world, Step::Settle, "first", first(), 1);
    goes_on_in_vain(&world, zombie).await;
    assert_eq!(world.rides().await, vec![]);
    world.backfill("first", first()).succeeded();
    assert_eq!(world.rides().await, sorted(january()));
    assert_eq!(publishes(&world, None).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_whose_table_another_backfill_has_created_writes_nothing() {
    let world = World::new();
    world.source(&january());
    let zombie = stopped(&world, Step::Offline, "first", first(), 1, "before-publish");
    world.backfill("faster", json!({ "startTime": "2024-01-01", "stopTime": "2024-01-10" })).succeeded();
    goes_on_in_vain(&world, zombie).await;
    assert_eq!(publishes(&world, None), vec![0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_whose_table_others_have_created_replaces_its_interval_there() {
    let world = World::new();
    world.source(&january());
    let zombie = stopped(&world, Step::Offline, "first", first(), 1, "before-publish");
    crate::support::create_table(&world, &plain_schema(&[]), &[], &[]).await;
    world.append(&[ride(1, "2024-03-01", 5), ride(1, "2024-01-05", 5)]).await;
    done(&zombie.ends());
    assert_eq!(world.rides().await, sorted(january().into_iter().chain([ride(1, "2024-03-01", 5)])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_step_that_another_backfill_overtakes_writes_nothing() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        for point in ["online-fence-raised", "online-bucket-asked"] {
            let world = filled_in(World::on(kind));
            done(&runs(&world, Step::Offline, "ten-days", ten_days(), 1));
            let zombie = stopped(&world, Step::Online, "ten-days", ten_days(), 1, point);
            world.source(&sorted(corrected().into_iter().map(|ride| (ride.0, ride.1, ride.2.map(|trips| trips + 1)))));
            world.backfill("later", ten_days()).succeeded();
            assert_eq!(world.online(7).expect("driver 7").1, 8);
            assert_eq!(world.online(9), None, "the later backfill finds what the zombie has not removed");
            goes_on_in_vain(&world, zombie).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_of_one_online_step_write_the_same() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = filled_in(World::on(kind));
        done(&runs(&world, Step::Offline, "ten-days", ten_days(), 1));
        let zombie = stopped(&world, Step::Online, "ten-days", ten_days(), 1, "online-bucket-asked");
        done(&runs(&world, Step::Online, "ten-days", ten_days(), 2));
        let before = visible(&world).await;
        done(&zombie.ends());
        assert_eq!(visible(&world).await, before);
        assert_eq!(world.online(9), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_run_that_is_overtaken_leaves_the_newer_one_alone() {
    let world = filled();
    let zombie = world.stopped_at("before-publish", "ten-days", ten_days());
    let next = world.stopped_at("staged", "ten-days", ten_days());
    let staged = world.staged_files();
    zombie.ends().failed("Superseded", &["holds the table now"]);
    assert_eq!(world.staged_files(), staged, "what is staged is the newer run's");
    next.ends().succeeded();
    assert_eq!(world.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_pins_anew_does_not_mislead_the_online_step() {
    for point in ["moved", "pin-renewing"] {
        let world = filled();
        let order = order(&world, "ten-days", ten_days(), Step::Offline, 1);
        let mut zombie = run_step(&world, Step::Offline, &order, Some(&format!("before-publish:stop,{point}")));
        assert!(zombie.stops());
        world.delete("driver = 2").await;
        zombie.goes_on();
        assert!(zombie.stops(), "others have moved the table, so it pins anew");
        done(&runs(&world, Step::Offline, "ten-days", ten_days(), 2));
        let before = visible(&world).await;
        let ended = zombie.ends();
        assert!(point == "pin-renewing" || ended.code == 65, "{:#}", ended.json);
        assert_eq!(visible(&world).await, before);
        world.backfill("ten-days", ten_days()).succeeded();
        assert_eq!(world.online(9), None, "its only row was replaced by nothing");
        assert_eq!(world.online(7).expect("driver 7").1, 7);
        let kept = outside(&january(), 10, 20).into_iter().filter(|ride| ride.0 != Some(2));
        assert_eq!(world.rides().await, sorted(kept.chain(corrected())));
    }
}
