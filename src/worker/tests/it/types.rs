//! Types: every value arrives offline and online as it was, or is refused with what to write.

use crate::support::{Kind, Ride, World, at, python, ride, rides_with};
use deltalake::arrow::array::*;
use deltalake::arrow::datatypes::*;
use serde_json::{Value, json};
use std::sync::Arc;

pub fn may() -> Value {
    json!({ "startTime": "2024-05-01", "stopTime": "2024-06-01" })
}

/// One ride a driver, so that a column of values gets a row each.
fn drivers(rows: usize) -> Vec<Ride> {
    (0..rows as i64).map(|driver| ride(driver, "2024-05-10", driver)).collect()
}

/// A world whose features are these columns, each with the type of the feature and the values of the source.
pub fn with_features(kind: Kind, columns: &[(&'static str, &str, ArrayRef)]) -> World {
    let mut world = World::on(kind);
    let features: Vec<Value> = columns.iter().map(|(name, kind, _)| json!({ "name": name, "type": kind })).collect();
    world.set("features", features.into());
    world.set("transformation", json!({ "sql": "SELECT * FROM rides" }));
    let rides = drivers(columns[0].2.len());
    let more = columns.iter().map(|(name, _, values)| (*name, values.clone()));
    world.parquet("data/rides.parquet", &rides_with(&rides, more));
    world
}

/// The rows of the table by the eyes of another reader, by driver.
fn rows(world: &World) -> Vec<Value> {
    let mut rows = python("delta_read.py", &json!({ "table": world.table_path(), "what": "rows" }));
    rows.sort_by_key(|row| row["driver"].as_i64());
    rows
}

fn seconds(values: &[Option<i64>]) -> TimestampMicrosecondArray {
    values.iter().map(|t| t.map(|t| t * 1_000_000)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")
}

fn list<T: ArrowPrimitiveType>(rows: Vec<Option<Vec<T::Native>>>) -> ArrayRef {
    let rows = rows.into_iter().map(|row| row.map(|row| row.into_iter().map(Some).collect::<Vec<_>>()));
    Arc::new(ListArray::from_iter_primitive::<T, _, _>(rows))
}

const TEXTS: [&str; 3] = ["ünïcode 🚲 \"quoted\"", "nul\0inside", ""];

/// Three rows of extremes and one of nulls, for every type of feature.
pub fn every_type() -> Vec<(&'static str, &'static str, ArrayRef)> {
    let nan = f64::from_bits(0x7ff8_0000_0000_0abc);
    let doubles = [-0.0, nan, f64::NEG_INFINITY];
    let floats = [-0.0_f32, f32::from_bits(0x7fc0_0abc), f32::INFINITY];
    let times = [-62_135_596_800, -1, 253_402_300_799];
    let some = |values: [i64; 3]| values.map(Some).into_iter().chain([None]).collect::<Vec<_>>();
    let texts = || TEXTS.map(Some).into_iter().chain([None]);
    let mut text_lists = ListBuilder::new(StringBuilder::new());
    let mut byte_lists = ListBuilder::new(BinaryBuilder::new());
    let mut flag_lists = ListBuilder::new(BooleanBuilder::new());
    let mut time_lists = ListBuilder::new(TimestampMicrosecondBuilder::new().with_timezone("UTC"));
    for row in 0..3 {
        text_lists.append_value(TEXTS.map(Some));
        byte_lists.append_value([Some(vec![0_u8, 255, row]), Some(vec![])]);
        flag_lists.append_value([Some(true), Some(false)]);
        time_lists.append_value(times.map(|t| Some(t * 1_000_000)));
    }
    text_lists.append_null();
    byte_lists.append_null();
    flag_lists.append_null();
    time_lists.append_null();
    vec![
        ("a_string", "string", Arc::new(texts().collect::<StringArray>())),
        ("some_bytes", "bytes", Arc::new(texts().map(|text| text.map(str::as_bytes)).collect::<BinaryArray>())),
        ("an_int32", "int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(0), Some(i32::MAX), None]))),
        ("an_int64", "int64", Arc::new(Int64Array::from(some([i64::MIN, 0, i64::MAX])))),
        ("a_float32", "float32", Arc::new(floats.into_iter().map(Some).chain([None]).collect::<Float32Array>())),
        ("a_float64", "float64", Arc::new(doubles.into_iter().map(Some).chain([None]).collect::<Float64Array>())),
        ("a_bool", "bool", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), None]))),
        ("a_time", "timestamp", Arc::new(seconds(&some(times)))),
        ("strings", "list<string>", Arc::new(text_lists.finish())),
        ("byteses", "list<bytes>", Arc::new(byte_lists.finish())),
        ("int32s", "list<int32>", list::<Int32Type>(vec![Some(vec![i32::MIN, 1]), Some(vec![2]), Some(vec![3; 9]), None])),
        ("int64s", "list<int64>", list::<Int64Type>(vec![Some(vec![i64::MIN, 1]), Some(vec![2]), Some(vec![3; 9]), None])),
        ("float32s", "list<float32>", list::<Float32Type>(vec![Some(floats.to_vec()), Some(vec![0.5]), Some(vec![-1.5]), None])),
        ("float64s", "list<float64>", list::<Float64Type>(vec![Some(doubles.to_vec()), Some(vec![0.5]), Some(vec![-1.5]), None])),
        ("bools", "list<bool>", Arc::new(flag_lists.finish())),
        ("times", "list<timestamp>", Arc::new(time_lists.finish())),
    ]
}

pub fn as_features(columns: &[(&'static str, &str, ArrayRef)]) -> Vec<Value> {
    columns.iter().map(|(name, kind, _)| json!({ "name": name, "type": kind })).collect()
}

/// The online store, as the scripts of `tests/python` are told.
pub fn online_of(world: &World) -> Value {
    match &world.server {
        Some(server) => json!({ "redis": format!("127.0.0.1:{}", server.port) }),
        None => json!({ "sqlite": world.path("online.db") }),
    }
}

/// What Feast's client reads online must be the rows that another reader finds offline.
fn agrees_with_feast(world: &World, entities: &Value, features: &[Value], rows: &[Value]) {
    let online = online_of(world);
    let names: Vec<&str> = entities.as_array().expect("a list").iter().filter_map(|entity| entity["name"].as_str()).collect();
    let asked: Vec<Value> = rows
        .iter()
        .map(|row| names.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect::<serde_json::Map<_, _>>().into())
        .collect();
    let request = json!({
        "what": "online", "project": "demo", "view": "rides", "entities": entities, "features": features, "online": online,
        "rows": asked, "timestampColumn": "at",
    });
    let answers = python("feast_read.py", &request);
    assert_eq!(answers.len(), rows.len());
    for (answer, row) in answers.iter().zip(rows) {
        for feature in features {
            let name = feature["name"].as_str().expect("a name");
            assert_eq!(answer["values"][name], row[name], "{name} of {}", answer["entity"]);
            assert_eq!(answer["timestamps"][name], row["at"], "{name} of {}", answer["entity"]);
        }
    }
}

#[tokio::test]
async fn every_type_is_kept_bit_for_bit_and_read_by_feast() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let columns = every_type();
        let world = with_features(kind, &columns);
        let ended = world.backfill("types", may());
        ended.succeeded();
        let source = json!({ "rides": { "parquet": world.path("data/rides.parquet") } });
        let mut expected = python("duckdb_query.py", &json!({ "sql": "SELECT * EXCLUDE trips FROM rides", "tables": source }));
        expected.sort_by_key(|row| row["driver"].as_i64());
        let found = rows(&world);
        assert_eq!(found, expected);
        assert_eq!(found[0]["a_float64"], "8000000000000000", "-0.0");
        assert_eq!(
            (&found[1]["a_float64"], &found[1]["a_float32"]),
            (&json!("7ff8000000000abc"), &json!("7fc00abc")),
            "a NaN's bits"
        );
        assert_eq!(
            (&found[1]["a_string"], &found[2]["a_string"], &found[3]["a_string"]),
            (&json!(TEXTS[1]), &json!(""), &Value::Null)
        );
        agrees_with_feast(&world, &world.feature_set["spec"]["entities"], &as_features(&columns), &found);
        // All rows lie in one file that straddles the next interval: they are rewritten.
        world.append(&[ride(9, "2024-05-20", 9)]).await;
        let one_file = json!({ "startTime": "2024-05-10T00:00:00.001", "stopTime": "2024-05-10T12:00:00" });
        let ended = world.backfill("beside", one_file);
        ended.succeeded();
        assert_eq!((ended.offline("rowsRescued"), ended.offline("rowsRemoved")), (0, 0), "bounded away by statistics");
        assert_eq!(rows(&world)[..4], expected);
    }
}

#[tokio::test]
async fn rows_that_are_rewritten_keep_every_bit() {
    let columns = every_type();
    let world = with_features(Kind::Sqlite, &columns);
    let more = columns.iter().map(|(name, _, values)| (*name, values.clone()));
    let days: Vec<Ride> = (0..4).map(|driver| ride(driver, &format!("2024-05-1{driver}"), 0)).collect();
    world.parquet("data/rides.parquet", &rides_with(&days, more));
    world.backfill("types", may()).succeeded();
    let before = rows(&world);
    let ended = world.backfill("again", json!({ "startTime": "2024-05-11", "stopTime": "2024-05-12" }));
    ended.succeeded();
    assert_eq!((ended.offline("rowsRescued"), ended.offline("rowsWritten")), (3, 1));
    assert_eq!(ended.proof()["verdict"], "Passed");
    assert_eq!(rows(&world), before);
    let unchanged = ended.online("entitiesUnchanged");
    assert_eq!((unchanged, ended.online("entitiesUpdated")), (1, 0), "equal bytes are not written, NaN or not");
}

#[tokio::test]
async fn keys_may_be_any_text() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let names = ["", "\0", "a\0b", "a", "é", "e\u{301}", "🚲", " a", "nothing:\n\"'`\\"];
        let mut world = with_features(kind, &[("name", "string", Arc::new(StringArray::from_iter_values(names)))]);
        let entities = json!([{ "name": "name", "type": "string" }, { "name": "driver", "type": "int64" }]);
        world.set("entities", entities.clone());
        let features = json!([{ "name": "trips", "type": "int64" }]);
        world.set("features", features.clone());
        let ended = world.backfill("names", may());
        ended.succeeded();
        assert_eq!((ended.offline("rowsWritten"), ended.online("entitiesUpdated")), (9, 9));
        let found = rows(&world);
        let read: Vec<&str> = found.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(read, names);
        agrees_with_feast(&world, &entities, features.as_array().expect("a list"), &found);
    }
}

/// Columns of sources in other types than the features', with what they become.
fn exact_casts() -> Vec<(&'static str, &'static str, ArrayRef, Value)> {
    let bits = |value: f64| json!(format!("{:016x}", value.to_bits()));
    let micros = |t: &str| json!(at(t));
    let ns = at("2024-05-10 00:00:00.000001") * 1000;
    let dictionary: DictionaryArray<Int32Type> = ["x"].into_iter().collect();
    vec![
        ("i8_i32", "int32", Arc::new(Int8Array::from(vec![-128])), json!(-128)),
        ("i16_i64", "int64", Arc::new(Int16Array::from(vec![-32768])), json!(-32768)),
        ("u8_i32", "int32", Arc::new(UInt8Array::from(vec![255])), json!(255)),
        ("u16_i32", "int32", Arc::new(UInt16Array::from(vec![65535])), json!(65535)),
        ("u32_i64", "int64", Arc::new(UInt32Array::from(vec![u32::MAX])), json!(u32::MAX)),
        ("u64_i64", "int64", Arc::new(UInt64Array::from(vec![i64::MAX as u64])), json!(i64::MAX)),
        ("i64_i32", "int32", Arc::new(Int64Array::from(vec![i64::from(i32::MIN)])), json!(i32::MIN)),
        ("i32_f64", "float64", Arc::new(Int32Array::from(vec![i32::MAX])), bits(f64::from(i32::MAX))),
        ("f32_f64", "float64", Arc::new(Float32Array::from(vec![-0.0])), bits(-0.0)),
        ("i16_f32", "float32", Arc::new(Int16Array::from(vec![-1])), json!(format!("{:08x}", (-1.0_f32).to_bits()))),
        ("large_string", "string", Arc::new(LargeStringArray::from(vec!["ü\0"])), json!("ü\0")),
        (
            "view_string",
            "string",
            Arc::new(StringViewArray::from(vec!["a longer text than twelve bytes"])),
            json!("a longer text than twelve bytes"),
        ),
        ("dictionary", "string", Arc::new(dictionary), json!("x")),
        ("large_bytes", "bytes", Arc::new(LargeBinaryArray::from_vec(vec![&[0, 255]])), json!("00ff")),
        (
            "fixed_bytes",
            "bytes",
            Arc::new(FixedSizeBinaryArray::try_from_iter([[1_u8, 2]].iter()).expect("bytes")),
            json!("0102"),
        ),
        ("seconds", "timestamp", Arc::new(TimestampSecondArray::from(vec![-1]).with_timezone("UTC")), json!(-1_000_000)),
        ("millis", "timestamp", Arc::new(TimestampMillisecondArray::from(vec![-1]).with_timezone("+02:00")), json!(-1000)),
        ("nanos", "timestamp", Arc::new(TimestampNanosecondArray::from(vec![ns])), micros("2024-05-10 00:00:00.000001")),
        ("list_i32", "list<int64>", list::<Int32Type>(vec![Some(vec![1, 2])]), json!([1, 2])),
        ("list_f32", "list<float64>", list::<Float32Type>(vec![Some(vec![0.5])]), json!([bits(0.5)])),
        ("empty_list", "list<int64>", list::<Int64Type>(vec![Some(vec![])]), json!([])),
    ]
}

#[tokio::test]
async fn exact_casts_are_made_silently() {
    let casts = exact_casts();
    let columns: Vec<_> = casts.iter().map(|(name, kind, values, _)| (*name, *kind, values.clone())).collect();
    let mut world = with_features(Kind::Sqlite, &columns);
    let mut features = as_features(&columns);
    features.extend([json!({ "name": "nothing", "type": "list<string>" }), json!({ "name": "money", "type": "float64" })]);
    world.set("features", features.into());
    world.set(
        "transformation",
        json!({ "sql": "SELECT *, NULL AS nothing, CAST(CAST(0.1 AS DECIMAL(38, 18)) AS DOUBLE) AS money FROM rides" }),
    );
    world.backfill("casts", may()).succeeded();
    let found = rows(&world).remove(0);
    for (name, _, _, expected) in casts {
        assert_eq!(found[name], expected, "{name}");
    }
    assert_eq!((&found["nothing"], &found["money"]), (&Value::Null, &json!(format!("{:016x}", 0.1_f64.to_bits()))));
}

#[tokio::test]
async fn casts_that_may_lose_something_are_refused_with_the_cast_to_write() {
    let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let decimal = Decimal128Array::from(vec![1]).with_precision_and_scale(38, 18).expect("a decimal");
    let structure = StructArray::from(vec![(Arc::new(Field::new("x", DataType::Int64, true)), one())]);
    let columns: Vec<(&'static str, &str, ArrayRef)> = vec![
        ("decimal", "float64", Arc::new(decimal)),
        ("date", "timestamp", Arc::new(Date32Array::from(vec![1]))),
        ("i64_f64", "float64", one()),
        ("i64_f32", "float32", one()),
        ("f64_f32", "float32", Arc::new(Float64Array::from(vec![1.0]))),
        ("f64_i64", "int64", Arc::new(Float64Array::from(vec![1.0]))),
        ("text_i64", "int64", Arc::new(StringArray::from(vec!["1"]))),
        ("i64_text", "string", one()),
        ("structure", "string", Arc::new(structure)),
        ("flag_i32", "int32", Arc::new(BooleanArray::from(vec![true]))),
    ];
    let world = with_features(Kind::Sqlite, &columns);
    let ended = world.backfill("casts", may());
    let message = ended.failed("SchemaMismatch", &[]);
    for (name, way_out) in [
        ("\"decimal\": expected Float64, found Decimal128(38, 18)", "write CAST(… AS DOUBLE)"),
        ("\"date\": expected Timestamp", "write CAST(… AS TIMESTAMP)"),
        ("\"i64_f64\"", "AS DOUBLE)"),
        ("\"i64_f32\"", "AS REAL)"),
        ("\"f64_f32\"", "AS REAL)"),
        ("\"f64_i64\"", "AS BIGINT)"),
        ("\"text_i64\"", "AS BIGINT)"),
        ("\"i64_text\"", "AS VARCHAR)"),
        ("\"structure\"", "AS VARCHAR)"),
        ("\"flag_i32\"", "AS INT)"),
    ] {
        let said = message
            .split("column ")
            .any(|part| part.starts_with(name.split(':').next().expect("a name")) && part.contains(way_out));
        assert!(said && message.contains(name), "{name} {way_out}: {message}");
    }
    assert!(world.data().await.rows.is_empty() && world.data().await.online.is_empty());
}

#[tokio::test]
async fn values_that_do_not_fit_fail_and_are_never_null() {
    let fine = at("2024-05-10") * 1000 + 1;
    let nanos = || TimestampNanosecondArray::from(vec![fine]).with_timezone("UTC");
    let mut nano_list = ListBuilder::new(TimestampNanosecondBuilder::new().with_timezone("UTC"));
    nano_list.append_value([Some(fine)]);
    let cases: Vec<(&str, ArrayRef, &str)> = vec![
        ("int32", Arc::new(Int64Array::from(vec![1 << 40])), "1099511627776"),
        ("int32", Arc::new(UInt32Array::from(vec![u32::MAX])), "4294967295"),
        ("int64", Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615"),
        ("timestamp", Arc::new(TimestampSecondArray::from(vec![i64::MAX / 1000]).with_timezone("UTC")), ""),
        ("timestamp", Arc::new(nanos()), "finer than a microsecond"),
        ("list<int32>", list::<Int64Type>(vec![Some(vec![1, 1 << 40])]), "1099511627776"),
        ("list<timestamp>", Arc::new(nano_list.finish()), "finer than a microsecond"),
    ];
    for (kind, values, words) in cases {
        let world = with_features(Kind::Sqlite, &[("value", kind, values.clone())]);
        world.backfill("overflow", may()).failed("CastOverflow", &["\"value\"", words]);
        assert!(world.data().await.rows.is_empty());
        if words.starts_with("finer") {
            let mut spec = may();
            spec["guards"] = json!({ "timestamps": "Truncate" });
            world.backfill("overflow", spec).succeeded();
            let cut = json!(at("2024-05-10"));
            assert_eq!(rows(&world)[0]["value"], if kind.starts_with("list") { json!([cut]) } else { cut });
        }
    }
}

#[tokio::test]
async fn event_times_of_every_unit_and_zone_keep_the_half_open_bounds() {
    let seconds =
        [at("2024-04-30 23:59:59"), at("2024-05-01"), at("2024-05-31 23:59:59"), at("2024-06-01")].map(|t| t / 1_000_000);
    let ms = seconds.map(|t| t * 1000);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("s UTC", Arc::new(TimestampSecondArray::from(seconds.to_vec()).with_timezone("UTC")), false),
        ("ms Paris", Arc::new(TimestampMillisecondArray::from(ms.to_vec()).with_timezone("Europe/Paris")), false),
        ("ms naive", Arc::new(TimestampMillisecondArray::from(ms.to_vec())), true),
        ("us naive", Arc::new(TimestampMicrosecondArray::from(ms.map(|t| t * 1000).to_vec())), true),
        ("ns UTC", Arc::new(TimestampNanosecondArray::from(ms.map(|t| t * 1_000_000).to_vec()).with_timezone("UTC")), false),
        ("ns naive", Arc::new(TimestampNanosecondArray::from(ms.map(|t| t * 1_000_000).to_vec())), true),
    ];
    for (name, times, naive) in columns {
        for sql in [
            "SELECT driver, t AS at, trips FROM rides",
            "SELECT driver, t AS at, max(trips) AS trips FROM rides GROUP BY driver, t",
        ] {
            let mut world = World::new();
            world.parquet("data/rides.parquet", &rides_with(&drivers(4), [("t", times.clone())]));
            world.set("transformation", json!({ "sql": sql }));
            let ended = world.backfill("may", may());
            ended.succeeded();
            assert_eq!(world.rides().await, [ride(1, "2024-05-01", 1), ride(2, "2024-05-31 23:59:59", 2)], "{name} {sql}");
            assert_eq!(ended.offline("rowsOutside"), 2, "{name}");
            assert_eq!(ended.warnings().contains(&"NaiveTimestamps"), naive, "{name}");
        }
    }
}

#[tokio::test]
async fn nanoseconds_before_1970_are_cut_down_when_the_guard_says_so() {
    let mut world = World::new();
    let times = Arc::new(TimestampNanosecondArray::from(vec![-1, 1_999]).with_timezone("UTC")) as ArrayRef;
    world.parquet("data/rides.parquet", &rides_with(&drivers(2), [("t", times)]));
    world.set("transformation", json!({ "sql": "SELECT driver, t AS at, trips FROM rides" }));
    let epoch = |guards: Value| json!({ "startTime": "1969-12-31", "stopTime": "1970-01-02", "guards": guards });
    world.backfill("exact", epoch(json!({}))).failed("CastOverflow", &["\"at\" has times finer than a microsecond", "Truncate"]);
    world.backfill("cut", epoch(json!({ "timestamps": "Truncate" }))).succeeded();
    assert_eq!(world.rides().await, [(Some(0), Some(-1), Some(0)), (Some(1), Some(1), Some(1))]);
}

#[tokio::test]
async fn a_list_with_a_null_inside_is_refused_before_anything_is_replaced_when_it_is_to_go_online() {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
    let world = with_features(Kind::Sqlite, &[("numbers", "list<int64>", Arc::new(list))]);
    world.backfill("both", may()).failed("SchemaMismatch", &["\"numbers\"", "null"]);
    assert!(world.data().await.rows.is_empty());
    let mut spec = may();
    spec["stores"] = json!(["Offline"]);
    world.backfill("offline", spec).succeeded();
    assert_eq!(rows(&world)[0]["numbers"], json!([1, null]));
}
