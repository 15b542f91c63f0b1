//! Guards: what they refuse, in which words, and that a refused backfill changes nothing.

use crate::support::{Ended, Ride, World, at, create_table, plain_schema, ride, rides_with};
use deltalake::arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use deltalake::arrow::datatypes::{Float64Type, Schema};
use serde_json::{Value, json};
use std::sync::Arc;

fn april() -> Vec<Ride> {
    (1..=9).map(|day| ride(day, &format!("2024-04-0{day}"), day)).collect()
}

fn filled() -> World {
    let world = World::new();
    world.fill(&april(), "2024-04-01", "2024-05-01");
    world
}

fn with(guards: Value) -> Value {
    json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01", "guards": guards })
}

/// A backfill that fails and changes nothing: no row, no file, on disk or in a version, and no byte online.
async fn refused(world: &World, spec: Value, reason: &str, words: &[&str]) -> Ended {
    let before = world.data().await;
    let ended = world.backfill("refused", spec);
    ended.failed(reason, words);
    assert_eq!(world.data().await, before, "a failed guard changes nothing");
    for (kind, reason) in [("OfflineReplaced", reason), ("OnlineReplaced", reason)] {
        assert_eq!((ended.condition(kind).0, ended.condition(kind).1), ("False", reason));
    }
    ended
}

/// The same SQL in both forms in which it is run: row by row, and once as a whole.
const FORMS: [&str; 2] = ["SELECT driver, at, trips FROM rides", "SELECT driver, at, trips FROM rides ORDER BY trips LIMIT 1000"];

#[tokio::test]
async fn rows_without_key_or_time_fail_with_their_number_or_are_dropped() {
    for sql in FORMS {
        let mut world = filled();
        world.set("transformation", json!({ "sql": sql }));
        let bad = [(None, Some(at("2024-04-02")), Some(1)), (Some(1), None, Some(1)), (None, None, None)];
        world.source(&[&april()[..], &bad].concat());
        refused(&world, with(json!({})), "NullKey", &["3 rows lack a key or the event time", "guards.nullKeys to Drop"]).await;
        let ended = world.backfill("dropped", with(json!({ "nullKeys": "Drop" })));
        ended.succeeded();
        assert_eq!(
            (ended.offline("rowsNullKey"), ended.offline("rowsOutside"), ended.offline("rowsWritten")),
            (3, 0, 9),
            "{sql}"
        );
        assert!(ended.warning("NullKey").contains("3 rows"));
        assert_eq!(world.rides().await, april());
    }
}

#[tokio::test]
async fn rows_of_equal_key_and_time_but_other_features_fail_with_an_example() {
    for sql in FORMS {
        let mut world = filled();
        world.set("transformation", json!({ "sql": sql }));
        world.source(&[&april()[..], &[ride(4, "2024-04-04", 40), ride(5, "2024-04-05", 5)]].concat());
        let words = ["1 rows have the keys and event time of another", "driver 4, at 2024-04-04T00:00:00Z", "KeepLast"];
        refused(&world, with(json!({})), "AmbiguousDuplicates", &words).await;
        world.source(&[&april()[..], &april()[..]].concat());
        let ended = world.backfill("equal", with(json!({})));
        ended.succeeded();
        assert_eq!((ended.offline("rowsDuplicate"), ended.offline("rowsWritten")), (9, 9), "equal rows count once");
        assert!(ended.warning("DuplicatesCollapsed").contains("9 rows"));
        assert_eq!(world.rides().await, april());
    }
}

#[tokio::test]
async fn keep_last_keeps_the_row_with_the_largest_value_of_the_named_column() {
    let mut world = filled();
    let rides = [ride(1, "2024-04-01", 10), ride(1, "2024-04-01", 12), ride(1, "2024-04-01", 11), ride(2, "2024-04-01", 20)];
    let revision = Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(3), None])) as ArrayRef;
    world.parquet("data/rides.parquet", &rides_with(&rides, [("revision", revision)]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, revision FROM rides" }));
    let keep = |by: &str| with(json!({ "maxShrinkPercent": 90, "duplicates": { "policy": "KeepLast", "by": by } }));
    refused(&world, keep("nothing"), "SchemaMismatch", &["\"nothing\" of guards.duplicates.by", "missing"]).await;
    let ended = world.backfill("last", keep("revision"));
    ended.succeeded();
    assert_eq!(world.rides().await, [ride(1, "2024-04-01", 11), ride(2, "2024-04-01", 20)]);
    assert_eq!(ended.offline("rowsDuplicate"), 2);
    assert_eq!(world.online(1), Some((at("2024-04-01") / 1_000_000, 11)));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, 7 AS revision FROM rides" }));
    refused(&world, keep("revision"), "AmbiguousDuplicates", &["driver 1"]).await;
}

#[tokio::test]
async fn a_result_that_shrinks_by_more_than_allowed_fails_with_both_counts() {
    let world = filled();
    world.source(&april()[..4]);
    refused(&world, with(json!({})), "ShrinkGuard", &["4 rows replace 9", "up to 50 %", "maxShrinkPercent"]).await;
    world.source(&april()[..8]);
    refused(&world, with(json!({ "maxShrinkPercent": 0 })), "ShrinkGuard", &["8 rows replace 9", "up to 0 %"]).await;
    world.backfill("within", with(json!({ "maxShrinkPercent": 12 }))).succeeded();
    assert_eq!(world.rides().await, april()[..8]);
    world.source(&april()[..4]);
    world.backfill("half", with(json!({}))).succeeded();
    assert_eq!(world.rides().await, april()[..4], "exactly half is within 50 %");
}

#[tokio::test]
async fn an_interval_without_rows_may_stay_without_rows() {
    let world = filled();
    let ended = world.backfill("may", json!({ "startTime": "2024-05-01", "stopTime": "2024-06-01" }));
    ended.succeeded();
    assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten"), ended.offline("rowsOutside")), (0, 0, 9));
    assert_eq!(world.rides().await, april());
}

#[tokio::test]
async fn a_violated_check_fails_or_warns_and_null_is_not_true() {
    let world = filled();
    world.source(&[&april()[..8], &[(Some(9), Some(at("2024-04-09")), None)]].concat());
    let check = |predicate: &str, severity: &str| {
        with(json!({ "checks": [{ "name": "few_trips", "predicate": predicate, "severity": severity }] }))
    };
    refused(&world, check("trips < 8", "Fail"), "CheckFailed", &["2 of 9 rows violate the check \"few_trips\": trips < 8"]).await;
    refused(&world, check("tripz < 8", "Fail"), "CheckFailed", &["\"few_trips\" cannot be evaluated", "tripz"]).await;
    let ended = world.backfill("warned", check("trips < 8", "Warn"));
    ended.succeeded();
    assert!(ended.warning("CheckFailed").contains("2 of 9 rows"));
    world.source(&april());
    world.backfill("held", check("trips BETWEEN 1 AND 9", "Fail")).succeeded();
    let spec = check("trips IN (SELECT trips FROM rides)", "Fail");
    world.backfill("subquery", spec).rejected("InvalidRequest", &["few_trips", "no subqueries"]);
}

/// Rides with a text of so many bytes each.
fn noted(world: &mut World, bytes: &[usize]) -> RecordBatch {
    world.set("features", json!([{ "name": "trips", "type": "int64" }, { "name": "note", "type": "string" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips, note FROM rides" }));
    let rides: Vec<Ride> = (0..bytes.len() as i64).map(|driver| ride(driver, "2024-04-01", driver)).collect();
    let note = StringArray::from_iter_values(bytes.iter().map(|bytes| "x".repeat(*bytes)));
    rides_with(&rides, [("note", Arc::new(note) as ArrayRef)])
}

#[tokio::test]
async fn a_row_of_more_than_8_mib_is_refused_by_the_hash_of_its_key() {
    let mut world = filled();
    let batch = noted(&mut world, &[3, 8 << 20]);
    world.parquet("data/rides.parquet", &batch);
    let ended = refused(&world, with(json!({})), "RowTooLarge", &["larger than 8388608", "hash of its keys"]).await;
    assert!(!ended.json.to_string().contains("xxxx"), "the message does not repeat the row");
    let batch = noted(&mut world, &[3, 5 << 20, 5 << 20]);
    world.parquet("data/rides.parquet", &batch);
    world.backfill("large", with(json!({ "maxShrinkPercent": 90 }))).succeeded();
    assert_eq!(world.rides().await.len(), 3, "many rows may be large together");
}

#[tokio::test]
async fn lists_of_many_rows_do_not_count_as_one_large_row() {
    let mut world = World::new();
    world.set("features", json!([{ "name": "embedding", "type": "list<float64>" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, embedding FROM rides" }));
    let rows = 3000;
    let embedding = ListArray::from_iter_primitive::<Float64Type, _, _>((0..rows).map(|_| Some(vec![Some(0.5); 400])));
    let rides: Vec<Ride> = (0..rows).map(|driver| ride(driver, "2024-04-01", 1)).collect();
    world.parquet("data/rides.parquet", &rides_with(&rides, [("embedding", Arc::new(embedding) as ArrayRef)]));
    let ended = world.backfill("embeddings", with(json!({})));
    ended.succeeded();
    assert_eq!(ended.offline("rowsWritten"), 3000);
}

#[tokio::test]
async fn windows_whose_rows_are_stamped_with_their_stop_fail_with_that_hint() {
    let mut world = filled();
    world.set("windows", json!({ "every": "1d" }));
    let sql = "SELECT driver, $window_stop AS at, sum(trips) AS trips FROM rides \
               WHERE at >= $window_start AND at < $window_stop GROUP BY driver";
    world.set("transformation", json!({ "sql": sql }));
    let words = ["1 of 1 rows of the window [2024-04-01T00:00:00Z, 2024-04-02T00:00:00Z)", "windows.stamp to Stop"];
    refused(&world, with(json!({})), "RowsOutsideInterval", &words).await;
    world.set("windows", json!({ "every": "1d", "stamp": "Stop" }));
    let ended = world.backfill("stops", with(json!({})));
    ended.succeeded();
    let stamped: Vec<Ride> = (1..=8).map(|day| ride(day, &format!("2024-04-0{}", day + 1), day)).collect();
    let stamped = [stamped, vec![ride(9, "2024-04-10", 9)]].concat();
    assert_eq!(world.rides().await, stamped);
    assert_eq!(ended.offline("windows"), 30);
}

#[tokio::test]
async fn many_rows_at_the_stop_of_an_interval_without_windows_are_dropped_like_others_outside() {
    let mut world = filled();
    world.set("transformation", json!({ "sql": "SELECT driver, at, max(trips) AS trips FROM rides GROUP BY driver, at" }));
    let at_stop: Vec<Ride> = (1..=20).map(|driver| ride(driver, "2024-05-01", 1)).collect();
    world.source(&[&april()[..], &at_stop].concat());
    let ended = world.backfill("april", with(json!({})));
    ended.succeeded();
    assert_eq!((ended.offline("rowsOutside"), world.rides().await), (20, april()));
}

#[tokio::test]
async fn windows_of_sql_without_bounds_drop_what_belongs_to_other_windows() {
    let mut world = filled();
    world.set("windows", json!({ "every": "1d" }));
    world.source(&[&april()[4..], &[ride(1, "2024-04-01 12:00:00", 1), ride(2, "2024-04-01 13:00:00", 2)]].concat());
    let ended = world.backfill("days", with(json!({})));
    ended.succeeded();
    assert_eq!((ended.offline("rowsWritten"), ended.offline("windows")), (7, 30));
    assert_eq!(ended.offline("rowsOutside"), 29 * 7, "every window sees every row and keeps its own");
}

#[tokio::test]
async fn columns_are_retyped_or_dropped_by_a_reset_that_says_so_and_by_nothing_else() {
    let mut world = filled();
    world.set("features", json!([{ "name": "trips", "type": "string" }]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, CAST(trips AS VARCHAR) AS trips FROM rides" }));
    let words = ["\"trips\" is Int64 in the table and Utf8 in the feature set", "guards.schema Replace"];
    refused(&world, with(json!({})), "SchemaMismatch", &words).await;
    refused(&world, with(json!({ "schema": "Replace" })), "SchemaMismatch", &words).await;
    let reset = json!({ "reset": true, "startTime": "2024-04-01", "stopTime": "2024-05-01", "guards": { "schema": "Replace" } });
    let version = world.version().await;
    let ended = world.backfill("retyped", reset);
    ended.succeeded();
    let data = world.data().await;
    assert!(data.metadata.contains("String") && data.rows.len() == 9, "{data:?}");
    assert_eq!(world.rides_at(version).await, april(), "the old version is read with the old types");
}

#[tokio::test]
async fn a_column_that_must_not_be_null_gets_no_null() {
    let world = World::new();
    let all = plain_schema(&[]);
    let fields = all.fields().iter().map(|field| field.as_ref().clone().with_nullable(field.name() == "at"));
    create_table(&world, &Schema::new(fields.collect::<Vec<_>>()), &[], &[]).await;
    world.source(&[ride(1, "2024-04-01", 1), (Some(2), Some(at("2024-04-02")), None)]);
    let words = ["1 of 2 rows", "trips is never null in the table", "\"trips\" IS NOT NULL"];
    refused(&world, with(json!({})), "CheckFailed", &words).await;
    world.source(&april());
    world.backfill("complete", with(json!({}))).succeeded();
    assert_eq!(world.rides().await, april());
}

#[tokio::test]
async fn a_first_load_that_fails_binds_the_next_one_to_nothing() {
    let mut world = World::new();
    world.source(&[&april()[..], &[(None, Some(at("2024-04-02")), Some(1))]].concat());
    world.backfill("broken", with(json!({}))).failed("NullKey", &["1 rows"]);
    assert!(world.data().await.rows.is_empty() && world.data().await.on_disk.is_empty());
    world.set("features", json!([{ "name": "trips", "type": "string" }]));
    world.set("offline", json!({ "partitionBy": "Month" }));
    world.set(
        "transformation",
        json!({ "sql": "SELECT driver, at, CAST(trips AS VARCHAR) AS trips FROM rides WHERE driver IS NOT NULL" }),
    );
    let ended = world.backfill("broken", with(json!({})));
    ended.succeeded();
    let data = world.data().await;
    assert_eq!(data.rows.len(), 9);
    assert!(data.files.iter().all(|path| path.starts_with("event_date=2024-04-01/")), "{data:?}");
    assert!(!ended.warnings().contains(&"LayoutKept"), "{:#}", ended.json);
}

#[tokio::test]
async fn checks_see_the_columns_by_which_the_table_is_partitioned() {
    let world = World::new();
    create_table(&world, &plain_schema(&[]), &["trips"], &[]).await;
    world.source(&[&april()[..], &[(Some(10), Some(at("2024-04-10")), None)]].concat());
    let check = |predicate: &str| with(json!({ "checks": [{ "name": "trips_are_few", "predicate": predicate }] }));
    refused(&world, check("trips < 9"), "CheckFailed", &["2 of 10 rows violate the check"]).await;
    world.backfill("held", check("trips IS NULL OR trips BETWEEN 1 AND 9")).succeeded();
    assert_eq!(world.rides().await.len(), 10);
    let plan = world.backfill("planned", json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01", "mode": "Plan" }));
    assert_eq!((plan.code, plan.offline("rowsUnchanged")), (10, 10), "{:#}", plan.json);
}
