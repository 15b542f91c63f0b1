//! Boundaries: what lies inside is replaced, what lies outside is the same bit for bit, however the table's files lie.

use crate::support::{
    Ended, Ride, World, add, at, create_table, parquet_bytes, plain_schema, python, ride, rides_batch, rides_with,
};
use backfill_worker::delta::DataFile;
use deltalake::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use deltalake::arrow::datatypes::DataType;
use deltalake::kernel::Action;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const START: &str = "2024-05-01";
const STOP: &str = "2024-05-02";

/// Replaces the first of May by `new`.
#[track_caller]
fn replace_the_day(world: &World, new: &[Ride]) -> Ended {
    world.source(new);
    let ended = world.backfill("day", json!({ "startTime": START, "stopTime": STOP }));
    ended.succeeded();
    assert_eq!(ended.proof()["verdict"], "Passed", "{:#}", ended.json);
    ended
}

/// What a table of `old` rows holds once the first of May is replaced by `new`.
fn replaced(old: &[Ride], new: &[Ride]) -> Vec<Ride> {
    let inside = |ride: &Ride| ride.1.is_some_and(|t| at(START) <= t && t < at(STOP));
    let outside = old.iter().filter(|ride| !inside(ride)).copied();
    let mut all: Vec<Ride> = outside.chain(new.iter().filter(|ride| inside(ride)).copied()).collect();
    all.sort_by_key(|ride| (ride.1, ride.0, ride.2));
    all
}

/// Rows at, beside and far from both bounds.
fn around(trips: i64) -> Vec<Ride> {
    let times = [
        "2024-04-30 12:00:00",
        "2024-04-30 23:59:59.999999",
        "2024-05-01",
        "2024-05-01 00:00:00.000001",
        "2024-05-01 12:00:00",
        "2024-05-01 23:59:59.999999",
        "2024-05-02",
        "2024-05-02 00:00:00.000001",
        "2024-05-02 12:00:00",
    ];
    times.iter().zip(trips..).map(|(time, trips)| ride(1, time, trips)).collect()
}

/// Files of a version and the rows of each.
async fn files(world: &World) -> BTreeSet<String> {
    world.files().await.into_iter().map(|file| file.add.path).collect()
}

#[tokio::test]
async fn a_row_at_start_is_replaced_and_one_at_stop_is_not() {
    let world = World::new();
    world.fill(&around(1), "2024-04-01", "2024-06-01");
    let before = world.version().await;
    let ended = replace_the_day(&world, &around(101));
    let trips: Vec<i64> = world.rides().await.into_iter().filter_map(|ride| ride.2).collect();
    assert_eq!(trips, [1, 2, 103, 104, 105, 106, 7, 8, 9]);
    assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten"), ended.offline("rowsRescued")), (4, 4, 5));
    assert_eq!(ended.offline("rowsOutside"), 5, "the source holds rows outside: dropped and counted");
    assert_eq!(world.rides_at(before).await, around(1), "time travel still reads the old version");
    assert_eq!(world.online(1), Some((at("2024-05-02 12:00:00") / 1_000_000, 9)), "the newest row lies outside");
}

#[tokio::test]
async fn files_that_straddle_a_bound_keep_their_rows_outside_by_the_eyes_of_another_reader() {
    let world = World::new();
    let late = ride(2, "2024-05-20", 50);
    world.fill(&[late], "2024-04-01", "2024-06-01");
    let across_start: Vec<Ride> = around(1).into_iter().take(4).chain([(Some(3), None, Some(60))]).collect();
    let across_stop: Vec<Ride> = around(1).into_iter().skip(4).collect();
    let early = [ride(2, "2024-04-02", 70), ride(2, "2024-04-03", 71)];
    for file in [&across_start[..], &across_stop[..], &early[..]] {
        world.append(file).await;
    }
    let old = [&[late][..], &across_start[..], &across_stop[..], &early[..]].concat();
    let (files_before, before) = (files(&world).await, world.version().await);
    let new = [ride(1, "2024-05-01 03:00:00", 100), ride(4, "2024-05-01 04:00:00", 101)];
    let ended = replace_the_day(&world, &new);
    assert_eq!(world.rides().await, replaced(&old, &new));
    let files_after = files(&world).await;
    let untouched: BTreeSet<_> = files_before.intersection(&files_after).collect();
    assert_eq!(untouched.len(), 2, "the files of the early and the late rows are the same files");
    assert_eq!((ended.offline("filesRemoved"), ended.offline("rowsRemoved")), (2, 4));
    let outside = |version: u64| -> Vec<Value> {
        let request = json!({ "table": world.table_path(), "version": version, "what": "rows" });
        let inside = |t: &Value| t.as_i64().is_some_and(|t| at(START) <= t && t < at(STOP));
        let mut rows: Vec<Value> = python("delta_read.py", &request).into_iter().filter(|row| !inside(&row["at"])).collect();
        rows.sort_by_key(Value::to_string);
        rows
    };
    let after = ended.offline("versionAfter");
    assert_eq!(outside(before), outside(after), "every row outside, the one without a time too");
    assert_eq!(outside(after).len(), 9);
}

#[tokio::test]
async fn a_day_of_a_table_partitioned_by_day_or_month_is_replaced() {
    for (partition, folder) in [("Day", "event_date=2024-05-01"), ("Month", "event_date=2024-05-01")] {
        let world = World::new().partitioned_by(partition);
        world.fill(&around(1), "2024-04-01", "2024-06-01");
        let before = files(&world).await;
        let april = before.iter().filter(|path| path.starts_with("event_date=2024-04")).count();
        assert_eq!(april, 1, "{before:?}");
        replace_the_day(&world, &around(101));
        assert_eq!(world.rides().await, replaced(&around(1), &around(101)), "{partition}");
        let after = files(&world).await;
        assert!(after.iter().all(|path| path.starts_with("event_date=2024-0")), "{after:?}");
        let new: Vec<&String> = after.difference(&before).collect();
        assert!(!new.is_empty() && new.iter().all(|path| path.starts_with(folder)), "{partition}: only that partition: {new:?}");
    }
}

#[tokio::test]
async fn bounds_within_a_day_leave_the_rest_of_the_day() {
    let world = World::new().partitioned_by("Day");
    let hours: Vec<Ride> = (0..24).map(|hour| ride(hour, &format!("2024-05-01 {hour:02}:00:00"), hour)).collect();
    world.fill(&hours, "2024-04-01", "2024-06-01");
    world.source(&hours.iter().map(|(driver, at, _)| (*driver, *at, Some(100))).collect::<Vec<_>>());
    let ended = world.backfill("hours", json!({ "startTime": "2024-05-01T06:00:00", "stopTime": "2024-05-01T09:00:00.001Z" }));
    ended.succeeded();
    let changed: Vec<i64> =
        world.rides().await.into_iter().filter(|ride| ride.2 == Some(100)).filter_map(|ride| ride.0).collect();
    assert_eq!(changed, [6, 7, 8, 9]);
    assert_eq!((ended.offline("rowsRescued"), world.rides().await.len()), (20, 24));
}

#[tokio::test]
async fn statistics_that_are_cut_to_milliseconds_mislead_nobody() {
    let world = World::new();
    world.fill(&[ride(9, "2024-04-02", 1)], "2024-04-01", "2024-06-01");
    // One file each; by their statistics alone some seem to touch a bound, or not to.
    let times = [
        "2024-04-30 23:59:59.999",
        "2024-04-30 23:59:59.999999",
        "2024-05-01 00:00:00.000999",
        "2024-05-01 23:59:59.998999",
        "2024-05-01 23:59:59.999000",
        "2024-05-01 23:59:59.999999",
        "2024-05-02 00:00:00.000001",
        "2024-05-02 00:00:00.000999",
    ];
    let mut old = vec![ride(9, "2024-04-02", 1)];
    for (time, driver) in times.into_iter().zip(10..) {
        world.append(&[ride(driver, time, driver)]).await;
        old.push(ride(driver, time, driver));
    }
    let new = [ride(50, "2024-05-01 12:00:00", 100), ride(51, "2024-05-01 12:00:00", 101)];
    let ended = replace_the_day(&world, &new);
    assert_eq!(world.rides().await, replaced(&old, &new));
    assert_eq!(ended.offline("rowsRemoved"), 4);
}

#[tokio::test]
async fn event_times_before_1970_keep_their_order() {
    let world = World::new();
    let times = [
        "1968-12-31 23:59:59.999999",
        "1969-01-01",
        "1969-01-01 00:00:00.000001",
        "1969-12-31 23:59:59.999",
        "1969-12-31 23:59:59.999999",
        "1970-01-01",
        "1970-01-01 00:00:00.000001",
    ];
    world.fill(&[ride(1, "1965-01-01", 1)], "1965-01-01", "1972-01-01");
    for (time, driver) in times.iter().zip(10..) {
        world.append(&[ride(driver, time, driver)]).await;
    }
    world.source(&[ride(99, "1969-07-20 20:17:40.000001", 100), ride(98, "1969-12-31 23:59:59.999999", 100)]);
    let ended = world.backfill("moon", json!({ "startTime": "1969-01-01", "stopTime": "1970-01-01" }));
    ended.succeeded();
    let drivers: Vec<i64> = world.rides().await.into_iter().filter_map(|ride| ride.0).collect();
    assert_eq!(drivers, [1, 10, 99, 98, 15, 16]);
    assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsRescued")), (4, 0));
    assert_eq!(world.online(98), Some((-1, 100)), "online times before 1970 are cut down, not towards zero");
}

#[tokio::test]
async fn rows_without_an_event_time_stay_in_an_interval_and_go_in_a_reset() {
    let world = World::new();
    world.fill(&around(1), "2024-04-01", "2024-06-01");
    let nowhen: Ride = (Some(7), None, Some(70));
    world.append(&[nowhen, ride(7, "2024-05-01 01:00:00", 71)]).await;
    world.append(&[(Some(8), None, Some(80))]).await;
    let old = [around(1), vec![nowhen, ride(7, "2024-05-01 01:00:00", 71), (Some(8), None, Some(80))]].concat();
    replace_the_day(&world, &around(101));
    assert_eq!(world.rides().await, replaced(&old, &around(101)));
    world.source(&around(201));
    let reset = json!({ "reset": true, "startTime": "2024-04-01" });
    world.backfill("all", reset).succeeded();
    assert_eq!(world.rides().await, around(201), "a reset with the stop left out deletes what has no time");
}

#[tokio::test]
async fn a_file_without_statistics_is_read_and_only_its_rows_inside_go() {
    let world = World::new();
    world.fill(&[ride(2, "2024-05-20", 50)], "2024-04-01", "2024-06-01");
    let bytes = parquet_bytes(&rides_batch(&around(1)));
    world.file("offline/rides/from elsewhere.parquet", &bytes);
    world.commit(&[Action::Add(add("from elsewhere.parquet", bytes.len()))]).await;
    let old = [&around(1)[..], &[ride(2, "2024-05-20", 50)]].concat();
    assert_eq!(world.rides().await.len(), 10);
    let ended = replace_the_day(&world, &around(101));
    assert_eq!(world.rides().await, replaced(&old, &around(101)));
    assert_eq!(ended.offline("filesRemoved"), 1);
    let left: Vec<DataFile> = world.files().await;
    assert!(left.iter().all(|file| !file.add.path.contains("elsewhere")), "{left:?}");
}

#[tokio::test]
async fn a_reset_with_a_given_stop_deletes_every_row_and_one_without_spares_what_lies_in_the_future() {
    let world = World::new();
    let future = ride(3, "2999-01-01", 30);
    world.fill(&around(1), "2024-04-01", "2024-06-01");
    world.append(&[future, ride(1, "2024-05-03", 31)]).await;
    world.source(&around(101));
    let ended = world.backfill("until-now", json!({ "reset": true, "startTime": "2024-05-01" }));
    ended.succeeded();
    let kept: Vec<Ride> = around(101).into_iter().skip(2).chain([future]).collect();
    assert_eq!(world.rides().await, kept, "all rows before now go, also those before the start");
    assert_eq!(ended.json["scope"]["deleteBefore"], ended.json["scope"]["interval"]["stop"]);
    let ended = world.backfill("until-may", json!({ "reset": true, "startTime": "2024-05-01", "stopTime": "2024-05-02" }));
    ended.succeeded();
    assert_eq!(world.rides().await, around(101)[2..6]);
    assert_eq!((world.online(1), world.online(3)), (Some((at(STOP) / 1_000_000 - 1, 106)), None));
}

#[tokio::test]
async fn an_interval_may_be_the_first_load() {
    let world = World::new().partitioned_by("Day");
    world.source(&around(1));
    let ended = world.backfill("first", json!({ "startTime": START, "stopTime": STOP }));
    ended.succeeded();
    assert_eq!(world.rides().await, around(1)[2..6]);
    assert_eq!((ended.proof()["verdict"].as_str(), ended.offline("versionAfter")), (Some("NotApplicable"), 0));
    let shrink =
        ended.json["offline"]["offline"]["guards"].as_array().expect("guards").iter().find(|guard| guard["name"] == "shrink");
    assert_eq!(shrink.expect("the guard")["verdict"], "NotApplicable");
    assert_eq!(world.online(1), Some((at(STOP) / 1_000_000 - 1, 6)));
}

#[tokio::test]
async fn a_new_feature_is_added_with_the_rows_and_old_rows_have_none() {
    let mut world = World::new();
    world.fill(&around(1), "2024-04-01", "2024-06-01");
    let rating = json!([{ "name": "trips", "type": "int64" }, { "name": "rating", "type": "float64" }]);
    world.set("features", rating);
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, CAST(trips AS double) / 2 AS rating FROM rides" }));
    let versions = world.version().await;
    let spec = json!({ "startTime": "2024-05-01", "stopTime": "2024-06-01" });
    let ended = world.backfill("with-rating", spec);
    ended.succeeded();
    assert_eq!(ended.proof()["verdict"], "Passed");
    let request = json!({ "table": world.table_path(), "what": "rows" });
    let mut rows = python("delta_read.py", &request);
    rows.sort_by_key(|row| row["at"].as_i64());
    let bits = |rating: f64| Value::from(format!("{:016x}", rating.to_bits()));
    let ratings: Vec<Value> = rows.iter().map(|row| row["rating"].clone()).collect();
    let expected: Vec<Value> = (3..10).map(|trips: i32| bits(f64::from(trips) / 2.0)).collect();
    assert_eq!((&ratings[..2], &ratings[2..]), (&[Value::Null, Value::Null][..], &expected[..]));
    let metadata = python("delta_read.py", &json!({ "table": world.table_path(), "version": versions, "what": "rows" }));
    assert!(metadata.iter().all(|row| row.get("rating").is_none()), "the version before lacks the column");
    assert_eq!(world.online(1), Some((at("2024-05-02 12:00:00") / 1_000_000, 9)));
    assert!(world.online_bytes().iter().any(|row| row.contains("rating")), "online gets the new feature");
}

#[tokio::test]
async fn further_columns_of_an_existing_table_stay_and_are_null_in_new_rows() {
    let mut world = World::new();
    world.set("offline", json!({ "partitionBy": "Day" }));
    create_table(&world, &plain_schema(&[("note", DataType::Float64)]), &[], &[]).await;
    let note = Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), None])) as ArrayRef;
    let rides = [ride(1, "2024-04-30", 1), ride(1, "2024-05-01", 2), ride(1, "2024-05-02", 3)];
    world.append_batch(&rides_with(&rides, [("note", note)])).await;
    let ended = replace_the_day(&world, &around(101)[..4]);
    assert!(ended.warning("LayoutKept").contains("keeps its partitioning"), "{:#}", ended.json);
    let request = json!({ "table": world.table_path(), "what": "rows" });
    let mut rows: Vec<(Value, Value)> =
        python("delta_read.py", &request).into_iter().map(|row| (row["trips"].clone(), row["note"].clone())).collect();
    rows.sort_by_key(|row| row.0.as_i64());
    let minus_zero = Value::from("8000000000000000");
    assert_eq!(rows, [(json!(1), minus_zero), (json!(3), Value::Null), (json!(103), Value::Null), (json!(104), Value::Null)]);
}

/// Rows of three cities, in a table that others have partitioned by city, a key or a feature.
fn cities(trips: i64) -> RecordBatch {
    let names = ["New York", "Zürich/Kreis 5", "100%"];
    let rows: Vec<(&str, Ride)> = names.iter().flat_map(|city| around(trips).into_iter().map(|ride| (*city, ride))).collect();
    let city = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef;
    rides_with(&rows.iter().map(|row| row.1).collect::<Vec<_>>(), [("city", city)])
}

#[tokio::test]
async fn a_table_that_others_partitioned_by_a_key_or_a_feature_keeps_its_layout() {
    for city_is_a_key in [true, false] {
        let mut world = World::new();
        let (driver, city) = (json!({ "name": "driver", "type": "int64" }), json!({ "name": "city", "type": "string" }));
        let trips = json!({ "name": "trips", "type": "int64" });
        if city_is_a_key {
            world.set("entities", json!([city, driver]));
        } else {
            world.set("features", json!([trips, city]));
            world.set("backfill", json!({ "guards": { "duplicates": { "policy": "KeepLast", "by": "city" } } }));
        }
        world.set("transformation", json!({ "sql": "SELECT city, driver, at, trips FROM rides" }));
        create_table(&world, &plain_schema(&[("city", DataType::Utf8)]), &["city"], &[]).await;
        world.append_batch(&cities(1)).await;
        assert_eq!(world.rides().await.len(), 27);
        world.parquet("data/rides.parquet", &cities(101));
        let guards = json!({ "maxShrinkPercent": 80 });
        let ended = world.backfill("day", json!({ "startTime": START, "stopTime": STOP, "guards": guards }));
        ended.succeeded();
        assert_eq!(ended.proof()["verdict"], "Passed");
        let request = json!({ "table": world.table_path(), "what": "rows" });
        let rows = python("delta_read.py", &request);
        let count = |city: &str, inside: bool| {
            let matches = |row: &&Value| row["city"] == city && (row["trips"].as_i64() > Some(100)) == inside;
            rows.iter().filter(matches).count()
        };
        let (new_york, zurich, hundred) = (count("New York", true), count("Zürich/Kreis 5", true), count("100%", true));
        assert_eq!([new_york, zurich, hundred], if city_is_a_key { [4, 4, 4] } else { [0, 4, 0] });
        assert_eq!([count("New York", false), count("Zürich/Kreis 5", false), count("100%", false)], [5, 5, 5]);
        assert_eq!(rows.len(), if city_is_a_key { 27 } else { 19 }, "no old row is left, none is there twice");
        assert!(ended.warnings().contains(&"LayoutKept"), "{:#}", ended.json);
    }
}
