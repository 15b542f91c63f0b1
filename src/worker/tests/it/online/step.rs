//! What a backfill does to the online store, seen through Feast's eyes.

use super::feast::Feast;
use super::stores::{key, number};
use super::world::{DAY, World, at, micros};
use backfill_core::api::{EvictionPolicy, Feature, OnlineUnknown, ValueType};
use backfill_core::condition::Reason;
use backfill_core::contract::{OnlineReport, Stores};
use backfill_worker::delta;
use backfill_worker::online::{self, Finished};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a test on every kind of store.
macro_rules! on_every_store {
    ($(async fn $name:ident($world:ident) $body:block)+) => {
        mod on_redis {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(World::on_redis()).await;
            })+
        }
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(World::on_sqlite()).await;
            })+
        }
        $(async fn $name(#[allow(unused_mut)] mut $world: World) $body)+
    };
}

fn counts(report: &OnlineReport) -> (u64, u64, u64, u64, u64) {
    let OnlineReport { entities_updated, entities_removed, entities_kept_newer, entities_kept_live, entities_unchanged, .. } =
        *report;
    (entities_updated, entities_removed, entities_kept_newer, entities_kept_live, entities_unchanged)
}

on_every_store! {
    async fn a_first_load_serves_the_newest_row_of_every_entity(world) {
        let published = world.replace(None, None, &[(1, 10, 1), (1, 20, 2), (2, 15, 3)]).await;
        let report = world.go_online(&super::world::Published { before: None, ..published }).await;
        assert_eq!(counts(&report), (2, 0, 0, 0, 0));
        assert_eq!(report.entities_verified, 2);
        assert_eq!((world.online(1), world.online(2), world.online(3)), (Some((20, 2)), Some((15, 3)), None));
    }

    async fn a_correction_at_the_same_event_time_lands(world) {
        world.append(&[(1, 10, 1), (2, 10, 2)]).await;
        world.ingest((1, 10, 1));
        world.ingest((2, 10, 2));
        let report = world.backfill(Some(0), Some(20), &[(1, 10, 100), (2, 10, 2)]).await;
        assert_eq!(world.online(1), Some((10, 100)));
        assert_eq!(counts(&report), (1, 0, 0, 0, 1), "the row that did not change is not written");
    }

    async fn a_vanished_entity_leaves_or_falls_back(world) {
        world.append(&[(1, 10, 1), (2, 10, 2), (2, 50, 3), (3, 5, 4)]).await;
        for row in [(1, 10, 1), (2, 50, 3), (3, 5, 4)] {
            world.ingest(row);
        }
        let report = world.backfill(Some(8), Some(60), &[(9, 30, 9)]).await;
        assert_eq!(world.online(1), None, "nothing of it is left");
        assert_eq!(world.online(2), None);
        assert_eq!(world.online(3), Some((5, 4)), "outside");
        assert_eq!(world.online(9), Some((30, 9)));
        assert_eq!(counts(&report), (1, 2, 0, 0, 0));
        world.next_run();
        world.append(&[(9, 2, 8)]).await;
        let report = world.backfill(Some(8), Some(60), &[]).await;
        assert_eq!(world.online(9), Some((2, 8)), "the row before the interval is served again");
        assert_eq!(counts(&report), (1, 0, 0, 0, 0));
    }

    async fn a_newer_online_row_is_kept(world) {
        world.append(&[(1, 10, 1), (1, 90, 2), (2, 10, 3)]).await;
        world.ingest((1, 90, 2));
        world.ingest((2, 95, 4));
        let report = world.backfill(Some(0), Some(20), &[(1, 10, 100), (2, 10, 101)]).await;
        assert_eq!(world.online(1), Some((90, 2)));
        assert_eq!(world.online(2), Some((95, 4)), "it has not even reached the table");
        assert_eq!(counts(&report), (0, 0, 2, 0, 0));
        assert_eq!(report.rows_looked_up, 0, "the store's answer settles it");
    }

    async fn bounds_are_half_open(world) {
        world.append(&[(1, 20, 1), (2, 40, 2), (3, 20, 3), (3, 39, 4)]).await;
        for row in [(1, 20, 1), (2, 40, 2), (3, 39, 4)] {
            world.ingest(row);
        }
        world.backfill(Some(20), Some(40), &[(1, 30, 5)]).await;
        assert_eq!(world.online(1), Some((30, 5)), "a row exactly at the start is replaced");
        assert_eq!(world.online(2), Some((40, 2)), "one exactly at the stop is not");
        assert_eq!(world.online(3), None);
    }

    async fn a_live_row_that_has_not_reached_the_table_is_kept(world) {
        world.append(&[(1, 10, 1)]).await;
        world.ingest((1, 15, 7));
        world.ingest((2, 12, 8));
        let report = world.backfill(Some(0), Some(20), &[(1, 10, 100), (2, 5, 101)]).await;
        assert_eq!((world.online(1), world.online(2)), (Some((15, 7)), Some((12, 8))));
        assert_eq!(counts(&report), (0, 0, 0, 2, 0));
        world.next_run();
        if let Some(online) = &mut world.order.online {
            online.unknown = OnlineUnknown::Replace;
        }
        let report = world.backfill(Some(0), Some(20), &[(1, 10, 200), (2, 5, 201)]).await;
        assert_eq!((world.online(1), world.online(2)), (Some((10, 200)), Some((5, 201))), "unless it is known to be rubbish");
        assert_eq!(counts(&report), (2, 0, 0, 0, 0));
    }

    async fn a_reset_removes_what_only_the_store_holds(world) {
        world.append(&[(1, 10, 1)]).await;
        world.backfill(None, None, &[(1, 10, 1), (2, 20, 2)]).await;
        world.next_run();
        // The table loses driver 2 without anybody telling the store.
        world.replace(Some(15), Some(30), &[]).await;
        world.next_run();
        let report = world.backfill(None, None, &[(1, 10, 5)]).await;
        assert_eq!((world.online(1), world.online(2)), (Some((10, 5)), None));
        assert_eq!(counts(&report), (1, 1, 0, 0, 0));
    }

    async fn the_second_attempt_finds_the_mark_and_another_run_changes_nothing(world) {
        world.append(&[(1, 10, 1), (2, 10, 2)]).await;
        let published = world.replace(Some(0), Some(20), &[(1, 10, 100)]).await;
        let report = world.go_online(&published).await;
        let (again, _) = world.step(&published, 0).await.expect("again");
        assert_eq!(again, Finished::Before(Some(report)));
        world.next_run();
        let published = world.replace(Some(0), Some(20), &[(1, 10, 100)]).await;
        assert_eq!(counts(&world.go_online(&published).await), (0, 0, 0, 0, 1));
    }

    async fn rows_before_the_start_are_read_nearest_first(world) {
        world = world.by_day();
        for day in 0..40 {
            world.append(&[(1, day * DAY, day), (2, day * DAY + 1, day), (100 + day, day * DAY, 7)]).await;
        }
        world.ingest((1, 39 * DAY, 39));
        world.ingest((2, 39 * DAY + 1, 39));
        let report = world.backfill(Some(39 * DAY), Some(40 * DAY), &[(1, 39 * DAY, 1000)]).await;
        assert_eq!(world.online(1), Some((39 * DAY, 1000)));
        assert_eq!(world.online(2), Some((38 * DAY + 1, 38)), "yesterday's row");
        assert_eq!(world.online(139), None, "its only row was replaced by nothing");
        assert_eq!(counts(&report), (2, 0, 0, 0, 0));
        world.next_run();
        let rows = [(1, 38 * DAY, 38), (2, 38 * DAY, 5), (138, 38 * DAY, 7)];
        let report = world.backfill(Some(38 * DAY), Some(39 * DAY), &rows).await;
        assert_eq!(counts(&report), (2, 0, 1, 0, 0));
        assert_eq!(report.rows_looked_up, 1, "the day after, and nothing before");
    }

    async fn looking_back_stops_when_every_entity_is_found(world) {
        world = world.by_day();
        for day in 0..30 {
            world.append(&[(1, day * DAY, day), (2, day * DAY, day)]).await;
        }
        world.ingest((1, 29 * DAY, 29));
        let report = world.backfill(Some(29 * DAY), Some(30 * DAY), &[]).await;
        assert_eq!(world.online(1), Some((28 * DAY, 28)));
        assert_eq!(world.online(2), Some((28 * DAY, 28)), "an absent entity of the interval is written too");
        assert_eq!(report.rows_looked_up, 2, "one day, not thirty");
    }

    async fn of_equal_times_the_row_committed_last_is_served(world) {
        world.append(&[(1, 10, 1), (2, 10, 1), (2, 10, 2)]).await;
        world.append(&[(1, 10, 3)]).await;
        let published = world.replace(Some(50), Some(60), &[(1, 55, 9), (2, 55, 9)]).await;
        world.go_online(&published).await;
        world.next_run();
        let report = world.backfill(Some(50), Some(60), &[]).await;
        assert_eq!(world.online(1), Some((10, 3)), "the higher version");
        assert_eq!(world.online(2), Some((10, 2)), "the later row of one file");
        assert_eq!(report.duplicates_at_rest, 2);
    }

    async fn a_row_that_landed_after_the_pin_wins_over_the_backfills(world) {
        world.append(&[(1, 10, 1)]).await;
        let pinned = world.table.clone();
        world.append(&[(1, 10, 2)]).await;
        let files_of_the_pin = world.replace(Some(5), Some(8), &[]).await;
        assert!(files_of_the_pin.before.is_some());
        world.next_run();
        // Published after the append, but ordered at the pin before it.
        let published = world.publish_pinned_at(pinned.expect("a table"), &[(1, 10, 100)]).await;
        let report = world.go_online(&published).await;
        assert_eq!(world.online(1), Some((10, 2)));
        assert_eq!(report.duplicates_at_rest, 1);
    }

    async fn what_others_commit_meanwhile_is_caught_up_with(world) {
        world.append(&[(1, 10, 1), (2, 10, 2)]).await;
        world.ingest((1, 10, 1));
        let published = world.replace(Some(0), Some(20), &[(2, 10, 3)]).await;
        // A late row, older than what the store held when it arrived there: Feast skipped it.
        world.append(&[(1, 4, 50), (3, 12, 51)]).await;
        let report = world.go_online(&published).await;
        assert_eq!(world.online(1), Some((4, 50)));
        assert_eq!(world.online(3), Some((12, 51)));
        assert_eq!(world.online(2), Some((10, 3)));
        assert_eq!(report.version, Some(delta::version(&published.table) + 1));
    }

    async fn expired_rows_count_as_nothing(world) {
        world.order.now = at(100);
        if let Some(online) = &mut world.order.online {
            online.ttl_seconds = Some(50);
        }
        world.append(&[(1, 50, 1), (2, 51, 2), (3, 70, 3), (3, 40, 4)]).await;
        world.ingest((3, 70, 3));
        world.backfill(Some(45), Some(100), &[(1, 50, 10), (2, 51, 20)]).await;
        assert_eq!(world.online(1), None, "exactly as old as the limit");
        assert_eq!(world.online(2), Some((51, 20)));
        assert_eq!(world.online(3), None, "no falling back to an expired row");
    }

    async fn an_overtaken_attempt_writes_nothing(world) {
        world.append(&[(1, 10, 1)]).await;
        world.ingest((1, 10, 1));
        let published = world.replace(Some(0), Some(20), &[(1, 10, 100)]).await;
        let store = online::open(&world.context(0), &world.order, None).expect("a store");
        store.raise_fence(delta::version(&published.table) + 5).await.expect("a successor");
        let failure = world.step(&published, 0).await.expect_err("superseded");
        assert_eq!(failure.reason, Reason::Superseded);
        assert_eq!(world.online(1), Some((10, 1)));
        let table = delta::at(&published.table, delta::version(&published.table)).await.expect("a table");
        assert!(!online::is_marked(store.as_ref(), &world.order, &table).await.expect("read"));
    }

    async fn the_online_store_alone_is_rebuilt_from_the_table(world) {
        world.append(&[(1, 10, 1), (2, 30, 2)]).await;
        world.order.stores = Stores::Online;
        world.backfill_nothing_offline(Some(0), Some(20)).await;
        assert_eq!((world.online(1), world.online(2)), (Some((10, 1)), None), "only the interval");
        world.ingest((7, 12, 70));
        world.next_run();
        if let Some(online) = &mut world.order.online {
            online.unknown = OnlineUnknown::Replace;
        }
        let report = world.backfill_nothing_offline(None, None).await;
        assert_eq!((world.online(1), world.online(2), world.online(7)), (Some((10, 1)), Some((30, 2)), None));
        assert_eq!(counts(&report), (1, 1, 0, 0, 1));
    }

    async fn pods_share_the_buckets_and_the_last_one_marks(world) {
        let rows: Vec<_> = (0..500).map(|driver| (driver, 10, driver)).collect();
        world.append(&[(9999, 1, 1)]).await;
        let published = world.replace(Some(0), Some(20), &rows).await;
        world.cut(&published, 5).await;
        if let Some(online) = &mut world.order.online {
            online.parallelism = 2;
        }
        let (first, _) = world.step(&published, 1).await.expect("its share");
        let Finished::Share(share) = first else { panic!("{first:?}") };
        assert!((100..300).contains(&share.entities_updated), "{share:?}");
        let (second, _) = world.step(&published, 0).await.expect("the rest");
        let Finished::All(report) = second else { panic!("{second:?}") };
        assert_eq!(report.entities_updated, 500);
        for driver in 0..500 {
            assert_eq!(world.online(driver), Some((10, driver)));
        }
    }

    async fn a_feature_that_the_feature_set_lost_leaves(world) {
        world.append(&[(1, 10, 1), (2, 90, 1)]).await;
        world.feast.ingest("trips", &key(1), micros(10), &[("f", number(1)), ("g", number(-1))]);
        world.feast.ingest("rides", &key(1), micros(10), &[("g", number(5))]);
        let others = world.feast.others("trips", &key(1));
        world.order.definition.features = vec![Feature {
            name: "f".to_owned(),
            value_type: ValueType::try_from("int64".to_owned()).expect("a type"),
        }];
        world.backfill(Some(0), Some(20), &[(1, 10, 1)]).await;
        let (_, values) = world.feast.read("trips", &key(1), &["f", "g"]).expect("there");
        assert_eq!(values, [Some(number(1)), None]);
        assert_eq!(world.feast.others("trips", &key(1)), others, "another view of the entity is untouched");
    }

    async fn live_writers_in_between_are_never_overwritten(world) {
        let old: Vec<_> = (0..2000).map(|driver| (driver, 10, driver)).collect();
        let new: Vec<_> = (0..2000).filter(|driver| driver % 5 != 0).map(|driver| (driver, 10, driver + 10_000)).collect();
        world.append(&old).await;
        world.backfill(None, None, &old).await;
        world.next_run();
        let published = world.replace(Some(0), Some(20), &new).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut world = world;
        let mut feast = std::mem::replace(&mut world.feast, Box::new(NoFeast));
        let stopped = Arc::clone(&done);
        let ingestion = std::thread::spawn(move || {
            let mut written = 0;
            for driver in (0..2000).rev().step_by(3) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                feast.ingest("trips", &key(driver), micros(15), &[("f", number(7)), ("g", number(-7))]);
                written += 1;
            }
            (feast, written)
        });
        let report = world.go_online(&published).await;
        done.store(true, Ordering::Relaxed);
        let (feast, written) = ingestion.join().expect("ingestion ends");
        world.feast = feast;
        for (turn, driver) in (0..2000).rev().step_by(3).enumerate() {
            if turn < written {
                assert_eq!(world.online(driver), Some((15, 7)), "driver {driver} was written live");
            }
        }
        for driver in (0..2000).filter(|driver| (1999 - driver) % 3 != 0) {
            let expected = (driver % 5 != 0).then_some((10, driver + 10_000));
            assert_eq!(world.online(driver), expected, "driver {driver}");
        }
        assert!(report.entities_updated + report.entities_removed + report.entities_kept_live == 2000, "{report:?}");
    }
}

/// Stands in while the real one is elsewhere.
struct NoFeast;

impl Feast for NoFeast {
    fn ingest(&mut self, _: &str, _: &[u8], _: i64, _: &[(&str, Vec<u8>)]) {
        unreachable!("ingestion runs elsewhere")
    }

    fn read(&mut self, _: &str, _: &[u8], _: &[&str]) -> Option<(i64, Vec<Option<Vec<u8>>>)> {
        unreachable!("ingestion runs elsewhere")
    }

    fn others(&mut self, _: &str, _: &[u8]) -> Vec<Vec<u8>> {
        unreachable!("ingestion runs elsewhere")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_done_again_when_a_primary_has_changed() {
    let mut world = World::on_redis();
    let rows: Vec<_> = (0..200).map(|driver| (driver, 10, driver)).collect();
    world.append(&[(9999, 1, 1)]).await;
    let published = world.replace(Some(0), Some(20), &rows).await;
    world.cut(&published, 4).await;
    if let Some(online) = &mut world.order.online {
        online.parallelism = 2;
    }
    assert!(matches!(world.step(&published, 1).await.expect("its share").0, Finished::Share(_)));
    // A failover to a replica that had not received anything yet.
    let mut connection = world.server.as_ref().expect("redis").connection();
    redis::cmd("FLUSHALL").exec(&mut connection).expect("FLUSHALL");
    redis::cmd("DEBUG").arg("CHANGE-REPL-ID").exec(&mut connection).expect("DEBUG");
    let (finished, _) = world.step(&published, 0).await.expect("the rest, and what was lost");
    assert!(matches!(finished, Finished::All(_)));
    for driver in 0..200 {
        assert_eq!(world.online(driver), Some((10, driver)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_evicts_is_refused_when_the_guard_says_so() {
    let mut world = World::on_redis();
    let mut connection = world.server.as_ref().expect("redis").connection();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut connection).expect("CONFIG");
    let notices = online::preflight(&world.context(0), &world.order, 0).await.expect("a warning");
    assert_eq!(notices[0].reason, Reason::EvictionPolicy);
    world.order.guards.eviction_policy = EvictionPolicy::Fail;
    let failure = online::preflight(&world.context(0), &world.order, 0).await.expect_err("refused");
    assert_eq!((failure.reason, failure.retry), (Reason::EvictionPolicy, false));
}
