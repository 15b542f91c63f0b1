//! What other tools got wrong, each with both online stores and both engines.

use crate::support::{Ride, World, at, on_both_stores, on_both_stores_and_by_spark, ride};
use serde_json::json;

fn seconds(time: &str) -> i64 {
    at(time) / 1_000_000
}

fn may() -> serde_json::Value {
    json!({ "startTime": "2024-05-01", "stopTime": "2024-06-01" })
}

/// Two drivers with a row in April, three with one in May, one with one in June.
fn three_months() -> Vec<Ride> {
    vec![
        ride(1, "2024-04-10", 1),
        ride(2, "2024-04-11", 2),
        ride(1, "2024-05-10", 11),
        ride(2, "2024-05-11", 12),
        ride(3, "2024-05-12", 13),
        ride(4, "2024-05-13", 14),
        ride(4, "2024-06-13", 24),
    ]
}

fn filled(world: &World) -> Vec<Ride> {
    world.fill(&three_months(), "2024-04-01", "2024-07-01");
    three_months()
}

on_both_stores_and_by_spark! {
    async fn a_corrected_value_at_the_same_event_time_changes_the_online_row(world) {
        let mut rides = filled(&world);
        world.ingest_into("parcels", 3, at("2024-05-12"), 77);
        let others: Vec<String> = world.online_bytes().into_iter().filter(|row| row.contains("77")).collect();
        rides[4].2 = Some(113);
        world.source(&rides);
        let ended = world.backfill("correct", may());
        ended.succeeded();
        assert_eq!(world.online(3), Some((seconds("2024-05-12"), 113)));
        assert_eq!((world.online(1), world.online(2)), (Some((seconds("2024-05-10"), 11)), Some((seconds("2024-05-11"), 12))));
        assert_eq!((ended.online("entitiesUpdated"), ended.online("entitiesUnchanged")), (1, 2), "nobody else's row is written");
        assert_eq!(world.rides().await, rides);
        let now = world.online_bytes();
        assert!(others.iter().all(|row| now.contains(row)), "another view of the entity is the same bytes");
    }

    async fn an_entity_that_is_gone_from_the_new_data_falls_back_or_leaves(world) {
        let rides = filled(&world);
        let stays = |ride: &&Ride| !matches!(ride.0, Some(1 | 3)) || ride.1 < Some(at("2024-05-01"));
        let kept: Vec<Ride> = rides.iter().filter(stays).copied().collect();
        world.source(&kept);
        let ended = world.backfill("fewer", may());
        ended.succeeded();
        assert_eq!(world.online(1), Some((seconds("2024-04-10"), 1)), "falls back to the newest row outside");
        assert_eq!(world.online(3), None, "has no row any more");
        assert_eq!(world.online(2), Some((seconds("2024-05-11"), 12)));
        assert_eq!((ended.online("entitiesRemoved"), ended.online("entitiesUpdated")), (1, 1));
        assert_eq!(world.rides().await, kept);
    }

    async fn an_old_interval_leaves_newer_online_rows_alone(world) {
        let mut rides = filled(&world);
        // Ingestion is ahead of the table: one entity has a row that the table has not got yet.
        world.ingest(2, at("2024-07-02"), 92);
        let before = (world.online(4), world.online(2));
        for ride in &mut rides[2..6] {
            ride.2 = ride.2.map(|trips| trips + 100);
        }
        world.source(&rides);
        let ended = world.backfill("old", may());
        ended.succeeded();
        assert_eq!(before, (Some((seconds("2024-06-13"), 24)), Some((seconds("2024-07-02"), 92))));
        assert_eq!((world.online(4), world.online(2)), before);
        assert_eq!(world.online(1), Some((seconds("2024-05-10"), 111)));
        assert_eq!((ended.online("entitiesKeptNewer"), ended.online("entitiesUpdated")), (2, 2));
        assert_eq!(world.rides().await, rides, "offline all of it is replaced");
    }

    async fn the_same_interval_twice_gives_the_same_rows(world) {
        let rides = filled(&world);
        world.backfill("may", may()).succeeded();
        let once = world.data().await;
        let mut spec = may();
        spec["runId"] = json!("again");
        let ended = world.backfill("may", spec);
        ended.succeeded();
        let twice = world.data().await;
        assert_eq!(world.rides().await, rides, "no row is there twice");
        assert_eq!(twice.rows, once.rows);
        assert_ne!(twice.files, once.files, "it did run again");
        assert_eq!((ended.online("entitiesUpdated"), ended.online("entitiesRemoved")), (0, 0));
        let version = world.version().await;
        world.backfill("may", may()).already_applied();
        assert_eq!((world.version().await, world.data().await), (version, twice));
    }

    async fn an_empty_result_fails_or_deletes_but_never_leaves_the_old_rows_and_succeeds(world) {
        let rides = filled(&world);
        let outside = [rides[0], rides[1], rides[6]];
        let before = world.data().await;
        world.source(&outside);
        world.backfill("empty", may()).failed("EmptyResult", &["no rows where the table has 4", "allowEmpty"]);
        assert_eq!(world.data().await, before);
        let mut spec = may();
        spec["guards"] = json!({ "allowEmpty": true });
        let ended = world.backfill("empty", spec);
        ended.succeeded();
        assert_eq!(world.rides().await, outside);
        assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten")), (4, 0));
        assert_eq!((world.online(1), world.online(3)), (Some((seconds("2024-04-10"), 1)), None));
        assert_eq!(world.online(4), Some((seconds("2024-06-13"), 24)));
    }

    async fn rows_outside_the_interval_are_dropped_and_counted_or_refused(world) {
        let rides = filled(&world);
        let changed: Vec<Ride> = rides.iter().map(|(driver, at, _)| (*driver, *at, Some(1000))).collect();
        world.source(&changed);
        let before = world.data().await;
        let mut spec = may();
        spec["guards"] = json!({ "rowsOutside": "Fail" });
        world.backfill("strict", spec).failed("RowsOutsideInterval", &["3 rows lie outside", "$start and $stop"]);
        assert_eq!(world.data().await, before);
        let ended = world.backfill("lenient", may());
        ended.succeeded();
        assert_eq!((ended.offline("rowsOutside"), ended.offline("rowsWritten")), (3, 4));
        let now = world.rides().await;
        assert_eq!([now[0], now[1], now[6]], [rides[0], rides[1], rides[6]]);
        assert!(now[2..6].iter().all(|ride| ride.2 == Some(1000)));
        assert_eq!(world.online(4), Some((seconds("2024-06-13"), 24)));
    }

    async fn a_source_with_fewer_columns_changes_no_column_of_the_table(world) {
        let rides = filled(&world);
        world.append(&[(Some(5), None, Some(5)), (None, Some(at("2024-04-02")), None)]).await;
        let before = world.data().await;
        world.set("transformation", json!({ "sql": "SELECT driver, at FROM rides" }));
        world.backfill("narrow", may()).failed("SchemaMismatch", &["\"trips\"", "missing in the transformation's result"]);
        assert_eq!(world.data().await, before);
        world.set("transformation", json!({ "sql": "SELECT driver, at, CAST(NULL AS BIGINT) AS trips FROM rides" }));
        world.backfill("nulls", may()).succeeded();
        let after = world.data().await;
        assert_eq!(after.metadata, before.metadata, "the table has its columns");
        let now = world.rides().await;
        assert!(now.contains(&(Some(5), None, Some(5))) && now.contains(&(None, Some(at("2024-04-02")), None)));
        assert!(rides[2..6].iter().all(|ride| now.contains(&(ride.0, ride.1, None))));
        assert_eq!(now.len(), rides.len() + 2);
    }
}

/// Others overwrite the rows that match a predicate, with delta-rs.
async fn overwrite_where(world: &World, predicate: &str, rides: &[Ride]) {
    let rows = crate::support::rides_batch(rides);
    let write = world.table().await.write([rows]).with_save_mode(deltalake::protocol::SaveMode::Overwrite);
    write.with_replace_where(predicate).await.expect("overwritten");
}

#[tokio::test]
async fn an_overwrite_by_others_of_another_interval_and_a_backfill_both_land() {
    let world = World::new().partitioned_by("None");
    filled(&world);
    // The overwritten interval lies in a file of its own.
    world.append(&[ride(8, "2024-06-20", 28)]).await;
    world.source(&[ride(1, "2024-05-10", 111), ride(2, "2024-05-11", 112)]);
    let backfill = world.stopped_at("before-publish", "may", may());
    overwrite_where(&world, "driver = 8", &[ride(8, "2024-06-21", 29)]).await;
    let ended = backfill.ends();
    ended.succeeded();
    let now = world.rides().await;
    let expected = [
        ride(1, "2024-04-10", 1),
        ride(2, "2024-04-11", 2),
        ride(1, "2024-05-10", 111),
        ride(2, "2024-05-11", 112),
        ride(4, "2024-06-13", 24),
        ride(8, "2024-06-21", 29),
    ];
    assert_eq!(now, expected);
    assert_eq!(ended.proof()["verdict"], "Passed");
}

#[tokio::test]
async fn an_overwrite_by_others_of_the_same_interval_makes_the_backfill_begin_again() {
    let world = World::new();
    filled(&world);
    world.source(&[ride(1, "2024-05-10", 111), ride(2, "2024-05-11", 112)]);
    let backfill = world.stopped_at("before-publish", "may", may());
    overwrite_where(&world, "driver = 4", &[ride(4, "2024-05-20", 94), ride(4, "2024-06-13", 95)]).await;
    let version = world.version().await;
    let ended = backfill.ends();
    ended.succeeded();
    assert!(ended.offline("versionAfter") > version);
    let expected = [
        ride(1, "2024-04-10", 1),
        ride(2, "2024-04-11", 2),
        ride(1, "2024-05-10", 111),
        ride(2, "2024-05-11", 112),
        ride(4, "2024-06-13", 95),
    ];
    assert_eq!(world.rides().await, expected, "what the others wrote inside is replaced, what they wrote outside stays");
}
