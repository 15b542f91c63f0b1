//! Sources of every kind, and the SQL over them.

use crate::support::{Ride, World, at, create_table, object, parquet_bytes, plain_schema, ride, rides_batch, rides_with};
use deltalake::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value, json};
use std::sync::Arc;

fn april() -> Value {
    json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01" })
}

fn three() -> Vec<Ride> {
    vec![ride(1, "2024-04-01", 1), ride(2, "2024-04-02 12:30:00", 2), ride(3, "2024-04-03", 3)]
}

/// A world whose source is of this kind, with data in it that the source does not have.
fn reading(source: Value) -> World {
    let mut world = World::new();
    world.fill(&[ride(1, "2024-04-01", 100), ride(9, "2024-04-09", 900)], "2024-04-01", "2024-05-01");
    let mut source = source;
    source["name"] = json!("rides");
    world.set("sources", json!([source]));
    world
}

#[tokio::test]
async fn csv_with_a_header_is_read() {
    let world = reading(json!({ "csv": { "uri": "file:///store/data/rides.csv" } }));
    world.file("data/rides.csv", b"trips,driver,at\n1,1,2024-04-01T00:00:00\n2,2,2024-04-02T12:30:00\n3,3,2024-04-03T00:00:00\n");
    let ended = world.backfill("csv", april());
    ended.succeeded();
    assert_eq!(world.rides().await, three());
    assert!(ended.warning("NaiveTimestamps").contains("\"at\" have no zone and were taken for UTC"));
}

#[tokio::test]
async fn json_lines_are_read() {
    let mut world = reading(json!({ "json": { "uri": "file:///store/data/rides.jsonl" } }));
    world.set("transformation", json!({ "sql": "SELECT driver, CAST(at AS TIMESTAMP) AS at, trips FROM rides" }));
    let lines = three().into_iter().map(|ride| {
        let time = chrono::DateTime::from_timestamp_micros(ride.1.expect("a time")).expect("a time").to_rfc3339();
        json!({ "driver": ride.0, "at": time, "trips": ride.2 }).to_string()
    });
    world.file("data/rides.jsonl", lines.collect::<Vec<_>>().join("\n").as_bytes());
    world.backfill("json", april()).succeeded();
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn a_delta_table_is_read_at_its_newest_version() {
    let mut world = reading(json!({ "delta": { "uri": "file:///store/offline/raw" } }));
    let offline = world.feature_set["spec"]["offline"].clone();
    world.set("offline", json!({ "table": "raw" }));
    create_table(&world, &plain_schema(&[]), &[], &[]).await;
    world.append(&[ride(7, "2024-04-07", 7)]).await;
    let seven = world.files().await.remove(0);
    world.append(&three()).await;
    world.remove(&seven, true).await;
    world.set("offline", offline);
    world.backfill("delta", april()).succeeded();
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn the_table_of_another_feature_set_is_read() {
    let mut world = reading(json!({ "featureSet": { "name": "trips" } }));
    let mut other = world.feature_set.clone();
    other["metadata"]["name"] = json!("trips");
    other["spec"]["sources"][0] = json!({ "name": "rides", "parquet": { "uri": "file:///store/data/rides.parquet" } });
    let own = std::mem::replace(&mut world.feature_set, other);
    world.source(&three());
    world.backfill("fill", april()).succeeded();
    let other = std::mem::replace(&mut world.feature_set, own);
    let spec = world.backfill("from-trips", april());
    spec.rejected("SourceFeatureSetNotFound", &["no feature set \"trips\""]);
    assert_eq!(spec.condition("Failed").0, "False", "only an object is missing");
    world.others.push(other);
    world.backfill("from-trips", april()).succeeded();
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn all_files_of_a_folder_are_read_but_those_of_other_programs() {
    let mut world = reading(json!({ "parquet": { "uri": "file:///store/data/folder/" } }));
    let [first, second, third] = [0, 1, 2].map(|index| parquet_bytes(&rides_batch(&three()[index..=index])));
    let hidden = parquet_bytes(&rides_batch(&[ride(8, "2024-04-08", 8)]));
    world.file("data/folder/a.parquet", &first);
    world.file("data/folder/deeper/50% of b#1 ü?.parquet", &second);
    world.file("data/folder/no-extension", &third);
    for name in ["_SUCCESS.parquet", ".c.parquet", "_delta_log/d.parquet", ".tmp/e.parquet", "deeper/_f.parquet"] {
        world.file(&format!("data/folder/{name}"), &hidden);
    }
    world.file("data/folder/empty.parquet", b"");
    world.file("data/folder-of-others/g.parquet", &hidden);
    world.backfill("folder", april()).succeeded();
    assert_eq!(world.rides().await, three());
    world.set("sources", json!([{ "name": "rides", "parquet": { "uri": "file:///store/data/folder" } }]));
    world.backfill("no-slash", april()).succeeded();
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn files_of_a_folder_may_have_different_columns() {
    let mut world = reading(json!({ "parquet": { "uri": "file:///store/data/folder" } }));
    world.parquet("data/folder/a.parquet", &rides_batch(&three()[..2]));
    let bonus = Arc::new(Int64Array::from(vec![40])) as ArrayRef;
    world.parquet("data/folder/b.parquet", &rides_with(&three()[2..], [("bonus", bonus)]));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips + coalesce(bonus, 0) AS trips FROM rides" }));
    world.backfill("folder", april()).succeeded();
    assert_eq!(world.rides().await, [three()[0], three()[1], ride(3, "2024-04-03", 43)]);
}

/// A file may require a column that another lacks: it is null there, and no expression may take it for required.
#[tokio::test]
async fn a_column_that_one_file_requires_may_be_missing_in_another() {
    let mut world = reading(json!({ "parquet": { "uri": "file:///store/data/folder" } }));
    world.parquet("data/folder/a.parquet", &rides_batch(&three()[..2]));
    let bonus = Arc::new(Int64Array::from(vec![40])) as ArrayRef;
    let columns = rides_with(&three()[2..], [("bonus", bonus)]);
    let names = ["driver", "at", "trips", "bonus"].into_iter().zip(columns.columns().to_vec());
    let required = RecordBatch::try_from_iter_with_nullable(names.map(|(name, values)| (name, values, false)));
    world.parquet("data/folder/b.parquet", &required.expect("columns"));
    world.set("transformation", json!({ "sql": "SELECT driver, at, trips + coalesce(bonus, 0) AS trips FROM rides" }));
    world.backfill("folder", april()).succeeded();
    assert_eq!(world.rides().await, [three()[0], three()[1], ride(3, "2024-04-03", 43)]);
}

#[tokio::test]
async fn a_source_that_does_not_exist_is_named() {
    for (kind, uri) in [("parquet", "nothing.parquet"), ("csv", "nothing"), ("delta", "nothing"), ("parquet", "empty-folder/")] {
        let uri = format!("file:///store/data/{uri}");
        let world = reading(json!({ kind: { "uri": uri.clone() } }));
        std::fs::create_dir_all(world.path("data/empty-folder")).expect("a folder");
        let before = world.data().await;
        world.backfill("none", april()).failed("SourceNotFound", &["\"rides\"", &uri]);
        assert_eq!(world.data().await, before);
    }
}

#[tokio::test]
async fn a_uri_that_cannot_be_meant_is_refused_before_any_step() {
    let uris = [
        ("http://example.org/rides", "unknown scheme"),
        ("rides.parquet", "no scheme"),
        ("file:///etc/passwd", "outside of file:///store/"),
        ("file:///store/../etc/passwd", ".."),
        ("s3://bucket/a?versionId=1", "?"),
        ("s3://key:secret@bucket/a", "no bucket"),
    ];
    for (uri, words) in uris {
        let world = reading(json!({ "parquet": { "uri": uri } }));
        world.backfill("uri", april()).rejected("SourceNotFound", &["\"rides\"", uri, words]);
    }
}

#[tokio::test]
async fn a_source_that_is_no_such_file_fails_with_its_name_and_changes_nothing() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    world.file("data/rides.parquet", b"this is no Parquet file, whatever its name says");
    let before = world.data().await;
    world.backfill("garbage", april()).failed("SourceNotFound", &["cannot read source \"rides\"", "rides.parquet"]);
    assert_eq!(world.data().await, before);
}

#[tokio::test]
async fn columns_that_are_no_features_are_ignored_with_a_warning() {
    let mut world = World::new();
    let note = Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef;
    world.parquet("data/rides.parquet", &rides_with(&three(), [("note", note)]));
    world.set("transformation", json!({ "sql": "SELECT * FROM rides" }));
    let ended = world.backfill("all", april());
    ended.succeeded();
    assert!(ended.warning("ExtraColumns").contains("note"));
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn a_backfill_has_sources_and_a_transformation_of_its_own_for_once() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    world.parquet("data/other.parquet", &rides_batch(&[ride(5, "2024-04-05", 5), ride(6, "2024-04-06", 6)]));
    let mut spec = april();
    spec["sources"] = json!([{ "name": "more", "parquet": { "uri": "file:///store/data/other.parquet" } }]);
    spec["transformation"] = json!({ "sql": "SELECT driver, at, trips * 10 AS trips FROM more UNION ALL SELECT * FROM rides" });
    world.backfill("once", spec).succeeded();
    let expected = [&three()[..], &[ride(5, "2024-04-05", 50), ride(6, "2024-04-06", 60)]].concat();
    assert_eq!(world.rides().await, expected);
    let mut again = april();
    again["guards"] = json!({ "maxShrinkPercent": 50 });
    world.backfill("after", again).succeeded();
    assert_eq!(world.rides().await, three(), "the feature set keeps its own");
}

#[tokio::test]
async fn sql_that_is_not_one_select_over_the_sources_is_refused_with_its_position() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let before = world.data().await;
    let refused = [
        ("SELECT driver, at, trips FROM rides; DROP TABLE rides", "line 1, column 36: only one statement"),
        ("SELECT driver, at, trips FROM rides;", "leave out the semicolon"),
        ("DROP TABLE rides", "DROP is not allowed"),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/etc'", ""),
        ("COPY (SELECT 1) TO '/tmp/out.csv'", "COPY is not allowed"),
        ("INSERT INTO rides SELECT * FROM rides", "INSERT is not allowed"),
        ("SET datafusion.execution.time_zone = '+02:00'", "SET is not allowed"),
        ("SELECT * FROM '/etc/passwd'", "is not a source"),
        ("SELECT * FROM information_schema.tables", "has a schema"),
        ("SELECT driver, at, trips FROM ridez", "ridez is not a source; the sources are rides"),
        ("SELECT driver, at, trips\nFROM rides /* ; DROP */ ;\nSELECT 1", "line 2"),
        ("SELECT driver, at, trips FROM rides WHERE at >= $window_start", "the feature set has no windows"),
        ("SELECT driver, at, trips FROM rides WHERE at >= $begin", "$begin is not known"),
        ("SELECT driver, at trips FROM read_csv('/etc/passwd')", "read_csv(…) is not allowed in FROM"),
        ("", "no statement"),
    ];
    for (sql, words) in refused {
        let mut spec = april();
        spec["transformation"] = json!({ "sql": sql });
        world.backfill("sql", spec).rejected("TransformRejected", &["spec.transformation.sql", words]);
    }
    assert_eq!(world.data().await, before);
    assert_eq!(at("2024-04-01"), 1_711_929_600_000_000);
}

#[tokio::test]
async fn sql_that_the_engine_cannot_run_fails_with_its_words_and_changes_nothing() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let before = world.data().await;
    for (sql, words) in [
        ("SELECT driver, at, tripz AS trips FROM rides", "tripz"),
        ("SELECT driver, at, no_such_function(trips) AS trips FROM rides", "no_such_function"),
        ("SELECT driver, at, trips / (trips - trips) AS trips FROM rides", "ivide by zero"),
        ("SELECT driver, at, CAST('x' || trips AS BIGINT) AS trips FROM rides", "x1"),
    ] {
        let mut spec = april();
        spec["transformation"] = json!({ "sql": sql });
        world.backfill("sql", spec).failed("TransformFailed", &[words]);
        assert_eq!(world.data().await, before, "{sql}");
    }
}

#[tokio::test]
async fn another_feature_sets_table_is_not_taken() {
    let mut world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let mut other = object("FeatureSet", "trips", world.feature_set["spec"].clone());
    other["spec"]["offline"] = json!({ "table": "rides" });
    let before = world.data().await;
    let own = std::mem::replace(&mut world.feature_set, other);
    world.backfill("theft", april()).failed("TableOwned", &["belongs to demo/rides, not to demo/trips", "offline.table"]);
    world.feature_set = own;
    assert_eq!(world.data().await, before);
}
