//! `backfill-worker lookup`: what is printed is what Feast's clients are served, and nothing is written.

use crate::online::feast::{FeastSqlite, timestamp};
use crate::support::{Kind, World, at, on_both_stores, python, ride, three};
use crate::types::{as_features, every_type, may, online_of, with_features};
use backfill_core::api::{FeatureSet, FeatureStore};
use backfill_core::contract::{Answer, Lookup, LookupOutcome, Notice, Served, ServedRow, exit};
use backfill_core::feast;
use backfill_core::request::{LookupInput, resolve_lookup};
use backfill_core::time::show;
use chrono::DateTime;
use deltalake::arrow::array::{ArrayRef, BinaryArray, Int32Array, StringArray, TimestampMicrosecondArray};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

/// What is asked by these words, as the plugin asks it.
fn asked(world: &World, words: &[String]) -> Lookup {
    let feature_set: FeatureSet = serde_json::from_value(world.feature_set.clone()).expect("a feature set");
    let store: FeatureStore = serde_json::from_value(world.store.clone()).expect("a store");
    let input = LookupInput { namespace: "demo", feature_set: &feature_set, stores: vec![&store], entity: words };
    resolve_lookup(&input).expect("valid").lookup
}

/// Runs the program on a request; the answer, and the exit code.
#[track_caller]
fn run(world: &World, request: &str) -> (LookupOutcome, i32) {
    world.file("lookup.json", request.as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_backfill-worker"));
    command.arg("lookup").arg("--lookup").arg(world.path("lookup.json"));
    command.arg("--volume").arg(world.path("")).arg("--secrets").arg(world.path("secrets"));
    let output = command.output().expect("the program runs");
    let (text, error) = (String::from_utf8(output.stdout).expect("UTF-8"), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(text.lines().count(), 1, "one document: {text}{error}");
    let answer: Answer = serde_json::from_str(&text).unwrap_or_else(|problem| panic!("{problem}: {text}{error}"));
    let code = output.status.code().expect("not killed");
    if let LookupOutcome::Failed(notice) = &answer.outcome {
        assert!(error.contains(&notice.message), "standard error says it, too: {error}");
    }
    (answer.outcome, code)
}

impl World {
    #[track_caller]
    fn look_up(&self, words: &[&str]) -> Served {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let request = serde_json::to_string(&asked(self, &words)).expect("JSON");
        match run(self, &request) {
            (LookupOutcome::Served(served), 0) => served,
            other => panic!("{other:?}"),
        }
    }

    /// The row of a driver.
    #[track_caller]
    fn row_of(&self, driver: i64) -> ServedRow {
        self.look_up(&[&format!("driver={driver}")]).row.expect("a row")
    }

    #[track_caller]
    fn failed(&self) -> (Notice, i32) {
        let request = serde_json::to_string(&asked(self, &["driver=1".to_owned()])).expect("JSON");
        match run(self, &request) {
            (LookupOutcome::Failed(notice), code) => (notice, code),
            other => panic!("{other:?}"),
        }
    }
}

/// A value of Feast's client (in the form of `exchange.py`) as a lookup prints it.
fn printed(kind: &str, value: &Value) -> Value {
    if let (Some(element), Some(list)) = (kind.strip_prefix("list<"), value.as_array()) {
        return list.iter().map(|value| printed(element.trim_end_matches('>'), value)).collect();
    }
    let bits = |radix: &str| u64::from_str_radix(radix, 16).expect("hexadecimal");
    let number = |number: f64| match number {
        _ if number.is_nan() => json!("NaN"),
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        _ => json!(number),
    };
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("float64", Value::String(text)) => number(f64::from_bits(bits(text))),
        ("float32", Value::String(text)) => {
            let single = f32::from_bits(u32::try_from(bits(text)).expect("32 bits"));
            number(single.to_string().parse().expect("a number"))
        }
        ("timestamp", micros) => {
            json!(show(DateTime::from_timestamp_micros(micros.as_i64().expect("microseconds")).expect("an instant")))
        }
        _ => value.clone(),
    }
}

/// What Feast's client is served: of each entity the values as a lookup prints them, and the event times.
fn served_by_feast(world: &World, entities: &Value, features: &[Value], rows: &[Value]) -> Vec<(Vec<String>, Vec<Value>)> {
    let request = json!({
        "what": "online", "project": "demo", "view": "rides", "entities": entities, "features": features,
        "online": online_of(world), "rows": rows,
    });
    let answers = python("feast_read.py", &request);
    let text = |feature: &Value| feature["name"].as_str().expect("a name").to_owned();
    let read = |answer: &Value| {
        let value = |feature: &Value| {
            let kind = feature["type"].as_str().expect("a type");
            // As text: zero is not minus zero.
            printed(kind, &answer["values"][text(feature)]).to_string()
        };
        let time = |feature: &Value| answer["timestamps"][text(feature)].clone();
        (features.iter().map(value).collect(), features.iter().map(time).collect())
    };
    answers.iter().map(read).collect()
}

fn values(row: &ServedRow) -> Vec<String> {
    row.features.iter().map(|feature| feature.value.to_string()).collect()
}

on_both_stores! {
    async fn a_row_of_ours_is_printed_with_its_writer_and_its_exact_time(world) {
        world.source(&[ride(1, "2024-04-01 10:00:00.000001", 7), ride(2, "2024-04-02", 8)]);
        let ended = world.backfill("fill", json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01" }));
        ended.succeeded();
        let served = world.look_up(&["driver=1"]);
        assert!(served.found);
        assert_eq!((served.project.as_str(), served.view.as_str()), ("demo", "rides"));
        assert_eq!(serde_json::to_value(&served.entity).expect("JSON"), json!([{ "name": "driver", "type": "int64", "value": 1 }]));
        let row = served.row.expect("a row");
        assert_eq!(row.event_time.map(show).as_deref(), Some("2024-04-01T10:00:00.000001Z"));
        assert_eq!(row.written_by.map(|writer| writer.generation), Some(ended.offline("versionAfter")));
        assert_eq!((row.created_time, row.key_ttl_seconds, row.expired), (None, None, false));
        let features = serde_json::to_value(&row.features).expect("JSON");
        assert_eq!(features, json!([{ "name": "trips", "type": "int64", "value": 7 }]));
        assert_eq!(values(&world.row_of(2)), ["8"], "each entity has its own");
    }

    async fn an_entity_without_a_row_is_not_found(world) {
        world.fill(&three(), "2024-04-01", "2024-05-01");
        let served = world.look_up(&["driver=9"]);
        assert_eq!((served.found, served.row), (false, None));
        // A row of another view of the same entity is none of this one.
        world.ingest_into("others", 9, at("2024-04-01"), 1);
        assert!(!world.look_up(&["driver=9"]).found);
        world.set("view", json!("never_written"));
        assert!(!world.look_up(&["driver=1"]).found, "not even the view is there");
    }

    async fn a_row_of_feasts_client_is_printed_without_a_writer(world) {
        world.set("features", json!([{ "name": "trips", "type": "int64" }, { "name": "tags", "type": "list<string>" }]));
        world.set("transformation", json!({ "sql": "SELECT driver, at, trips, ['a'] AS tags FROM rides" }));
        world.fill(&three(), "2024-04-01", "2024-05-01");
        assert!(world.row_of(1).written_by.is_some());
        let entities = world.feature_set["spec"]["entities"].clone();
        let features = world.feature_set["spec"]["features"].as_array().expect("a list").clone();
        let row = json!({
            "driver": 1, "trips": 9, "tags": ["b", "ü"], "event_timestamp": at("2024-05-01 12:00:00.250"), "created": at("2024-05-02"),
        });
        let request = json!({
            "what": "write", "project": "demo", "view": "rides", "entities": entities, "features": features,
            "online": online_of(&world), "rows": [row],
        });
        python("feast_write.py", &request);
        let row = world.row_of(1);
        assert_eq!(values(&row), ["9", r#"["b","ü"]"#]);
        assert_eq!(row.written_by, None, "our marker is of the row before");
        let whole = world.server.is_none();
        let expected = if whole { "2024-05-01T12:00:00Z" } else { "2024-05-01T12:00:00.250Z" };
        assert_eq!(row.event_time.map(show).as_deref(), Some(expected), "as exactly as Feast keeps it");
        assert_eq!(row.created_time.map(show).as_deref(), whole.then_some("2024-05-02T00:00:00Z"), "only SQLite has it");
        assert!(world.row_of(2).written_by.is_some(), "and no other");
    }

    async fn a_row_that_outlived_its_time_is_called_expired(world) {
        world.fill(&three(), "2024-04-01", "2024-05-01");
        assert!(!world.row_of(1).expired, "it lives for ever");
        world.set("online", json!({ "ttl": "30d" }));
        let row = world.row_of(1);
        assert_eq!((row.expired, values(&row)), (true, vec!["1".to_owned()]), "it is still there");
        world.set("online", json!({ "ttl": "36500d" }));
        assert!(!world.row_of(1).expired);
    }

    async fn a_feature_says_when_it_is_not_what_it_should_be(world) {
        world.fill(&three(), "2024-04-01", "2024-05-01");
        world.set("features", json!([{ "name": "trips", "type": "string" }, { "name": "fare", "type": "float64" }]));
        let features = serde_json::to_value(world.row_of(1).features).expect("JSON");
        let expected = json!([
            { "name": "trips", "type": "string", "value": 1, "note": "stored as int64" },
            { "name": "fare", "type": "float64", "value": null, "note": "not in the row" },
        ]);
        assert_eq!(features, expected);
    }

    async fn a_request_that_cannot_be_read_is_answered(world) {
        let lookup = serde_json::to_value(asked(&world, &["driver=1".to_owned()])).expect("JSON");
        let with = |field: &str, value: Value| {
            let mut other = lookup.clone();
            other[field] = value;
            other.to_string()
        };
        for (request, words) in [
            (with("version", json!(2)), "the lookup has version 2, this program reads version 1"),
            (with("unheardOf", json!(true)), "unknown field `unheardOf`"),
            ("{".to_owned(), "the lookup cannot be read"),
        ] {
            let (LookupOutcome::Failed(notice), code) = run(&world, &request) else { panic!("{request}") };
            assert!(notice.message.contains(words), "{}", notice.message);
            assert_eq!(code, i32::from(exit::USAGE));
        }
    }
}

#[tokio::test]
async fn every_type_is_printed_as_feasts_client_is_served_it() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let columns = every_type();
        let world = with_features(kind, &columns);
        world.backfill("types", may()).succeeded();
        let entities = world.feature_set["spec"]["entities"].clone();
        let drivers: Vec<Value> = (0..4).map(|driver| json!({ "driver": driver })).collect();
        let expected = served_by_feast(&world, &entities, &as_features(&columns), &drivers);
        for (driver, (expected, times)) in (0..).zip(expected) {
            let row = world.row_of(driver);
            assert_eq!(values(&row), expected, "driver {driver} on {kind:?}");
            assert!(row.features.iter().all(|feature| feature.note.is_none()), "{row:?}");
            let time = json!(row.event_time.expect("a time").timestamp_micros());
            assert!(times.iter().all(|other| *other == time), "{times:?}");
        }
        assert_eq!(values(&world.row_of(0))[5], "-0.0");
    }
}

/// Keys of every type, declared in another order than that of the layout.
fn keyed_by_every_type(kind: Kind) -> World {
    let days = TimestampMicrosecondArray::from(vec![at("2024-05-10 08:00:00"), at("1969-12-31 23:59:59")]).with_timezone("UTC");
    let columns: [(&str, &str, ArrayRef); 4] = [
        ("name", "string", Arc::new(StringArray::from(vec!["a=b é", ""]))),
        ("id", "bytes", Arc::new(BinaryArray::from_vec(vec![&[0, 255], &[]]))),
        ("shard", "int32", Arc::new(Int32Array::from(vec![i32::MIN, 7]))),
        ("day", "timestamp", Arc::new(days)),
    ];
    let mut world = with_features(kind, &columns);
    let mut entities = as_features(&columns);
    entities.insert(1, json!({ "name": "driver", "type": "int64" }));
    world.set("entities", entities.into());
    world.set("features", json!([{ "name": "trips", "type": "int64" }]));
    world
}

#[tokio::test]
async fn keys_of_every_type_find_their_entity() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = keyed_by_every_type(kind);
        world.backfill("keys", may()).succeeded();
        let spec = &world.feature_set["spec"];
        let rows = [
            json!({ "name": "a=b é", "id": "00ff", "shard": i32::MIN, "day": at("2024-05-10 08:00:00"), "driver": 0 }),
            json!({ "name": "", "id": "", "shard": 7, "day": at("1969-12-31 23:59:59"), "driver": 1 }),
        ];
        let expected = served_by_feast(&world, &spec["entities"], spec["features"].as_array().expect("a list"), &rows);
        let words: [[&str; 5]; 2] = [
            ["day=2024-05-10 08:00:00", "driver=0", "shard=-2147483648", "id=00FF", "name=a=b é"],
            ["name=", "id=", "shard=7", "day=1969-12-31T23:59:59.5Z", "driver=1"],
        ];
        for (words, (expected, _)) in words.iter().zip(expected) {
            let row = world.look_up(words).row.expect("a row");
            assert_eq!(values(&row), expected, "{words:?} on {kind:?}");
        }
        let other = world.look_up(&["name=", "id=", "shard=7", "day=1969-12-31 23:59:58", "driver=1"]);
        assert!(!other.found, "another key is another entity");
    }
}

#[tokio::test]
async fn the_expiry_of_a_key_is_told_and_what_has_expired_is_not_found() {
    let mut world = World::on_redis(&[]);
    world.store["spec"]["online"]["redis"]["keyTtl"] = json!("100s");
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let left = world.row_of(1).key_ttl_seconds.expect("an expiry");
    assert!((50..=100).contains(&left), "{left}");
    let mut server = world.server.as_ref().expect("a server").connection();
    let key = feast::redis_key(&crate::support::key(1), "demo");
    redis::cmd("PEXPIRE").arg(key).arg(0).exec(&mut server).expect("PEXPIRE");
    assert!(!world.look_up(&["driver=1"]).found);
    assert!(world.look_up(&["driver=2"]).found, "and no other");
}

#[tokio::test]
async fn a_lookup_sends_redis_nothing_that_writes() {
    let world = World::on_redis(&[]);
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let mut server = world.server.as_ref().expect("a server").connection();
    let (before, served) = (world.online_bytes(), world.served());
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server).expect("CONFIG RESETSTAT");
    assert!(world.look_up(&["driver=1"]).found && !world.look_up(&["driver=9"]).found);
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server).expect("INFO");
    let sent = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let sent: Vec<&str> = sent.filter(|command| !matches!(*command, "config|resetstat" | "client|setinfo" | "select")).collect();
    let mut sorted = sent.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["hmget", "info", "pttl"]);
    assert_eq!((world.online_bytes(), world.served()), (before, served));
}

/// The files beside a SQLite file, as they are.
fn beside(file: &Path) -> Vec<(String, u64, SystemTime, Vec<u8>)> {
    let folder = file.parent().expect("a folder");
    let of = |entry: std::fs::DirEntry| {
        let about = entry.metadata().expect("a file");
        let content = std::fs::read(entry.path()).expect("a file");
        (entry.file_name().to_string_lossy().into_owned(), about.len(), about.modified().expect("a time"), content)
    };
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut files: Vec<_> = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("online.db")).map(of).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_lookup_leaves_no_trace_in_a_sqlite_file_or_beside_it() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let path = world.path("online.db");
    let unchanged = |moment: &str, files: &[&str], trips: &str| {
        let before = beside(&path);
        assert_eq!(before.iter().map(|file| file.0.as_str()).collect::<Vec<_>>(), files, "{moment}");
        assert_eq!(values(&world.row_of(1)), [trips], "{moment}");
        assert!(!world.look_up(&["driver=9"]).found);
        // What readers share with each other is no data.
        let data = |files: Vec<(String, u64, SystemTime, Vec<u8>)>| {
            files.into_iter().filter(|file| !file.0.ends_with("-shm")).collect::<Vec<_>>()
        };
        let after = beside(&path);
        assert_eq!(after.len(), before.len(), "{moment}: {:?}", after.iter().map(|file| &file.0).collect::<Vec<_>>());
        assert!(data(after) == data(before), "{moment}");
    };
    unchanged("nobody has it open", &["online.db"], "1");
    let mut writer = FeastSqlite::of(&path);
    world.ingest(1, at("2024-04-10"), 2);
    writer.0.query_row("SELECT count(*) FROM demo_rides", [], |_| Ok(())).expect("read");
    world.ingest(1, at("2024-04-11"), 3);
    unchanged(
        "a reader has it open, and what was written last is not yet in it",
        &["online.db", "online.db-shm", "online.db-wal"],
        "3",
    );
    {
        let open = writer.0.transaction().expect("a transaction");
        open.execute("UPDATE demo_rides SET value = x'2009'", []).expect("UPDATE");
        unchanged("somebody is writing", &["online.db", "online.db-shm", "online.db-wal"], "3");
    }
    writer.0.pragma_update(None, "journal_mode", "DELETE").expect("a mode");
    unchanged("it is of Feast's own mode", &["online.db"], "3");
    drop(writer);
    unchanged("so it is with nobody", &["online.db"], "3");
}

#[tokio::test]
async fn a_value_of_another_row_or_of_no_meaning_is_told() {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let file = FeastSqlite::of(&world.path("online.db"));
    let key = crate::support::key(1);
    let mut more = file
        .0
        .prepare("INSERT INTO demo_rides (entity_key, feature_name, value, event_ts) VALUES (?1, ?2, ?3, ?4)")
        .expect("SQL");
    more.execute(rusqlite::params![key, "old", [0x20_u8, 5], at("2024-03-01") / 1_000_000]).expect("INSERT");
    more.execute(rusqlite::params![key, "broken", [0xff_u8, 0xff], at("2024-04-01") / 1_000_000]).expect("INSERT");
    more.execute(rusqlite::params![key, "dropped", [0x20_u8, 5], at("2030-01-01") / 1_000_000]).expect("INSERT");
    let mut world = world;
    let features = ["trips", "old", "broken"].map(|name| json!({ "name": name, "type": "int64" }));
    world.set("features", features.to_vec().into());
    let row = world.row_of(1);
    assert_eq!(row.event_time.map(show).as_deref(), Some("2024-04-01T00:00:00Z"), "of the features that the set has");
    let notes: Vec<Option<&str>> = row.features.iter().map(|feature| feature.note.as_deref()).collect();
    assert_eq!(
        notes,
        [None, Some("left from the row of 2024-03-01T00:00:00Z"), Some("2 bytes that are no value of Feast: ffff")]
    );
    assert_eq!(values(&row), ["1", "5", "null"]);
}

#[tokio::test]
async fn a_row_whose_time_somebody_removed_is_still_served() {
    let world = World::on_redis(&[]);
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let mut server = world.server.as_ref().expect("a server").connection();
    let key = feast::redis_key(&crate::support::key(1), "demo");
    redis::cmd("HDEL").arg(&key).arg("_ts:rides").exec(&mut server).expect("HDEL");
    let row = world.row_of(1);
    assert_eq!((row.event_time, row.written_by.is_none(), values(&row)), (None, true, vec!["1".to_owned()]));
    redis::cmd("DEL").arg(&key).exec(&mut server).expect("DEL");
    redis::cmd("HSET").arg(&key).arg("_ts:other").arg(timestamp(1)).exec(&mut server).expect("HSET");
    assert!(!world.look_up(&["driver=1"]).found, "what is left is another view's");
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_named_soon_and_without_its_secrets() {
    let mut world = World::on_redis(&[]);
    world.fill(&three(), "2024-04-01", "2024-05-01");
    let server = world.server.take().expect("a server");
    let address = format!("127.0.0.1:{}", server.port);
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("secret").exec(&mut server.connection()).expect("CONFIG");
    world.file("secrets/redis/url", server.url().replace("//", "//:wrong@").as_bytes());
    let (notice, code) = world.failed();
    assert_eq!((notice.reason.word(), code), ("OnlineAuth", i32::from(exit::PERMANENT)));
    assert!(notice.message.contains(&address) && !notice.message.contains("wrong"), "{}", notice.message);
    drop(server);
    let began = std::time::Instant::now();
    let (notice, code) = world.failed();
    assert_eq!((notice.reason.word(), code), ("OnlineUnavailable", i32::from(exit::RETRY)));
    assert!(notice.message.contains(&address) && began.elapsed().as_secs() < 20, "{}", notice.message);
    std::fs::remove_file(world.path("secrets/redis/url")).expect("removed");
    let (notice, code) = world.failed();
    assert_eq!((notice.reason.word(), code), ("SecretNotFound", i32::from(exit::PERMANENT)));
    assert!(notice.message.contains("entry \"url\" of secret \"redis\""), "{}", notice.message);
}

#[tokio::test]
async fn a_file_that_is_missing_or_none_is_named() {
    let world = World::new();
    let (notice, _) = world.failed();
    assert_eq!(notice.reason.word(), "OnlineUnavailable");
    assert!(notice.message.contains("there is no file") && notice.message.contains("online.db"), "{}", notice.message);
    assert!(!world.path("online.db").exists(), "it is not made");
    world.file("online.db", &b"no database at all, but long enough to look like one ".repeat(99));
    let (notice, code) = world.failed();
    assert_eq!((notice.reason.word(), code), ("InvalidStore", i32::from(exit::PERMANENT)));
    assert!(notice.message.contains("no intact SQLite file"), "{}", notice.message);
}
