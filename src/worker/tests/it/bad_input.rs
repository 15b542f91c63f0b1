//! Requests that cannot be meant, as `local` refuses them: before any step, in the words of the status.

use crate::support::{Ended, World, at, filled, python, ride, three};
use serde_json::{Value, json};

/// Runs backfills that are refused for these reasons in these words, and sees that nothing changed.
#[track_caller]
fn refused(world: &World, cases: Vec<(Value, &str, &[&str])>) -> Vec<Ended> {
    let specs: Vec<(&str, Value)> = cases.iter().map(|(spec, _, _)| ("refused", spec.clone())).collect();
    let log = std::fs::read_dir(world.table_path().join("_delta_log")).map(Iterator::count).ok();
    let online = world.online_bytes();
    let ended = world.backfills(&specs);
    for (ended, (_, reason, words)) in ended.iter().zip(&cases) {
        ended.rejected(reason, words);
    }
    let log_after = std::fs::read_dir(world.table_path().join("_delta_log")).map(Iterator::count).ok();
    assert_eq!((log_after, world.online_bytes()), (log, online), "nothing was begun");
    ended
}

#[tokio::test]
async fn times_that_cannot_be_read_are_refused_with_the_way_to_write_them() {
    let formats: &[&str] = &["2024-05-01, 2024-05-01T12:30:00 or 2024-05-01 12:30:00"];
    let cases: [(&str, &[&str]); 14] = [
        ("2024-13-01", formats),
        ("24-1-1", formats),
        ("yesterday", formats),
        ("2024-05-01T24:00:00", formats),
        ("2024-02-30", &["no such day"]),
        ("2023-02-29", &["no such day"]),
        ("2024-06-30T23:59:60", &["leap seconds are not supported; use 00:00:00 of the next day"]),
        ("2024-05-01T00:00:00+02:00", &["times are UTC"]),
        ("2024-05-01 00:00:00 Europe/Paris", &["times are UTC"]),
        ("2024-05-01T00:00:00.0001", &["finer than 1 ms"]),
        ("1899-12-31", &["years are 1900 to 9999"]),
        ("10000-01-01", &["years are 1900 to 9999"]),
        ("", formats),
        ("2024-05-01'; DROP TABLE rides", &["spec.startTime"]),
    ];
    let of = |(time, words): (&str, &'static [&'static str])| {
        (json!({ "startTime": time, "stopTime": "2024-06-01" }), "InvalidTime", words)
    };
    let starts = cases.map(of).to_vec();
    let ended = refused(&filled(), starts);
    for (ended, (time, _)) in ended.iter().zip(cases) {
        assert!(ended.condition("Accepted").2.contains(&format!("spec.startTime: \"{time}\"")), "field and value are named");
    }
    refused(
        &filled(),
        vec![(json!({ "startTime": "2024-05-01", "stopTime": "2024-02-30" }), "InvalidTime", &["spec.stopTime", "no such day"])],
    );
}

#[tokio::test]
async fn a_leap_day_a_gap_of_summer_time_and_every_format_are_accepted_as_utc() {
    let world = filled();
    let times = [
        ("2024-02-29", "2024-02-29T00:00:00Z"),
        ("2024-03-31T02:30:00", "2024-03-31T02:30:00Z"),
        ("2024-03-31 02:30:00.5", "2024-03-31T02:30:00.500Z"),
        ("2024-03-31T02:30:00.125Z", "2024-03-31T02:30:00.125Z"),
        ("1900-01-01", "1900-01-01T00:00:00Z"),
    ];
    let specs = times.map(|(time, _)| ("accepted", json!({ "startTime": time, "stopTime": "2024-04-01", "mode": "Plan" })));
    for (ended, (_, instant)) in world.backfills(&specs).iter().zip(times) {
        assert_eq!((ended.code, ended.condition("Accepted").0), (10, "True"), "{:#}", ended.json);
        assert_eq!(ended.json["scope"]["interval"]["start"], instant, "the resolved instant is shown");
    }
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn boundaries_that_enclose_nothing_are_refused_with_both_instants() {
    let mut world = filled();
    refused(
        &world,
        vec![
            (
                json!({ "startTime": "2024-05-01", "stopTime": "2024-05-01" }),
                "EmptyInterval",
                &["startTime must be before stopTime"],
            ),
            (
                json!({ "startTime": "2024-05-02", "stopTime": "2024-05-01T23:59:59.999" }),
                "EmptyInterval",
                &["2024-05-02T00:00:00Z", "2024-05-01T23:59:59.999Z"],
            ),
            (
                json!({ "reset": true, "startTime": "2024-05-02", "stopTime": "2024-05-01" }),
                "EmptyInterval",
                &["startTime must be before"],
            ),
            (json!({ "startTime": "2999-01-01" }), "StartInFuture", &["2999-01-01T00:00:00Z lies in the future", "it is 20"]),
            (json!({ "startTime": "2999-01-01", "stopTime": "2999-02-01" }), "StartInFuture", &["lies in the future"]),
            (json!({}), "InvalidRequest", &["give reset: true", "startTime and/or stopTime", "undo"]),
            (json!({ "reset": false }), "InvalidRequest", &["give reset: true"]),
            (json!({ "stopTime": "2024-05-01" }), "StartTimeUnknown", &["no backfill.startTime; give one of them"]),
            (json!({ "reset": true }), "StartTimeUnknown", &["spec.startTime is not given"]),
            (json!({ "reset": true, "undo": "fill" }), "InvalidRequest", &["give reset or undo, not both"]),
            (json!({ "undo": "refused" }), "InvalidRequest", &["cannot undo itself"]),
            (json!({ "undo": "fill", "startTime": "2024-05-01" }), "InvalidRequest", &["undo takes no startTime"]),
        ],
    );
    world.set("backfill", json!({ "startTime": "2024-03-01" }));
    let words: &[&str] = &["2024-03-01T00:00:00Z", "2024-02-01T00:00:00Z"];
    refused(&world, vec![(json!({ "stopTime": "2024-02-01" }), "EmptyInterval", words)]);
    let ended = world.backfill("april", json!({ "stopTime": "2024-05-01" }));
    ended.succeeded();
    assert_eq!(ended.json["scope"]["interval"]["start"], "2024-03-01T00:00:00Z", "the feature set's default");
}

#[tokio::test]
async fn a_stop_in_the_future_is_rounded_down_to_now() {
    let world = filled();
    let before = chrono::Utc::now().timestamp();
    let ended = world.backfill("clamped", json!({ "startTime": "2024-04-01", "stopTime": "2999-01-01" }));
    ended.succeeded();
    let (status, reason, message) = ended.condition("Accepted");
    assert_eq!((status, reason), ("True", "StopClamped"));
    let stop = ended.json["scope"]["interval"]["stop"].as_str().expect("a stop");
    assert!(message.contains("2999-01-01T00:00:00Z lies in the future and was rounded down") && message.contains(stop));
    let stop = chrono::DateTime::parse_from_rfc3339(stop).expect("an instant");
    assert!((before..=chrono::Utc::now().timestamp()).contains(&stop.timestamp()) && stop.timestamp_subsec_nanos() == 0);
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn boundaries_between_ticks_make_partial_windows_and_say_so() {
    let mut world = filled();
    world.set("windows", json!({ "every": "1d" }));
    let ended = world.backfill("partial", json!({ "startTime": "2024-04-01T12:00:00", "stopTime": "2024-04-03T06:00:00" }));
    ended.succeeded();
    let words = "[2024-04-01T12:00:00Z, 2024-04-02T00:00:00Z), [2024-04-03T00:00:00Z, 2024-04-03T06:00:00Z)";
    assert!(ended.warning("PartialWindows").contains(words), "{:#}", ended.json);
    assert_eq!((ended.offline("windows"), ended.offline("rowsRemoved"), ended.offline("rowsWritten")), (3, 2, 2));
    assert_eq!(world.rides().await, three());
    world.set("windows", json!({ "cron": "0 0 * * 1" }));
    let ended = world.backfill("weeks", json!({ "startTime": "2024-04-01", "stopTime": "2024-04-15" }));
    ended.succeeded();
    assert_eq!((ended.offline("windows"), ended.warnings()), (2, vec![]), "2024-04-01 was a Monday");
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_is_refused_with_the_expression() {
    let april = || json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01" });
    let schedules: [(Value, &[&str]); 5] = [
        (json!({ "cron": "0 25 * * *" }), &["\"0 25 * * *\""]),
        (json!({ "cron": "every day" }), &["\"every day\""]),
        (json!({ "cron": "0 0 30 2 *" }), &["\"0 0 30 2 *\""]),
        (json!({ "every": "1 day" }), &["spec.windows.every", "\"1 day\" is not a duration"]),
        (json!({ "every": "1d", "cron": "0 0 * * *" }), &["exactly one of every and cron"]),
    ];
    for (windows, words) in schedules {
        let mut world = filled();
        world.set("windows", windows);
        refused(&world, vec![(april(), "InvalidSchedule", words)]);
    }
    let mut world = filled();
    world.set("windows", json!({ "every": "1s" }));
    refused(&world, vec![(april(), "TooManyWindows", &["several backfills"])]);
}

#[tokio::test]
async fn what_is_missing_is_named_and_waited_for() {
    let april = |field: &str, value: &str| json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01", field: value });
    let ended = refused(
        &filled(),
        vec![
            (april("featureSet", "rydes"), "FeatureSetNotFound", &["no feature set \"rydes\" in \"demo\"", "rides"]),
            (april("clusterTemplate", "smal"), "ClusterTemplateNotFound", &["no cluster template \"smal\"", "small"]),
        ],
    );
    for ended in ended {
        assert_eq!(
            (ended.condition("Failed").0, ended.condition("Stalled").0),
            ("False", "True"),
            "it goes on when the object appears"
        );
    }
    let mut world = filled();
    world.set("store", json!("elsewhere"));
    refused(&world, vec![(april("comment", "x"), "StoreNotFound", &["\"elsewhere\""])]);
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let april = || json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01" });
    let world = filled();
    let long = "a".repeat(64);
    let names = ["a.b", "1st", "Über", "a_b", "-a", "a-", "", "x'); DROP TABLE y;--", &long];
    let specs = names.map(|name| (name, april()));
    for ended in world.backfills(&specs) {
        ended.rejected("InvalidRequest", &["metadata.name", "at most 63 of a-z, 0-9 and -"]);
    }
    let longest = "a".repeat(63);
    world.backfill(&longest, april()).succeeded();
    for (field, value, words) in [
        ("entities", json!([{ "name": "x'); DROP", "type": "int64" }]), "spec.entities"),
        ("features", json!([{ "name": "a b", "type": "int64" }]), "spec.features"),
        ("features", json!([{ "name": "driver", "type": "int64" }]), "also a column of spec.entities"),
        (
            "features",
            json!([{ "name": "Trips", "type": "int64" }, { "name": "trips", "type": "int64" }]),
            "columns differ by more than case",
        ),
        ("timestampColumn", json!("at\"; --"), "spec.timestampColumn"),
        ("features", json!([]), "no entities or no features"),
        ("view", json!("x:y"), "spec.view"),
        ("offline", json!({ "table": "../other" }), "spec.offline.table"),
    ] {
        let mut world = filled();
        world.set(field, value);
        refused(&world, vec![(april(), "InvalidFeatureSet", &[words])]);
    }
    let mut spec = april();
    spec["sources"] = json!([{ "name": "x; y", "parquet": { "uri": "file:///store/data/rides.parquet" } }]);
    refused(&world, vec![(spec, "InvalidRequest", &["spec.sources", "\"x; y\""])]);
}

#[tokio::test]
async fn a_comment_is_any_one_line_of_1024_characters_and_is_kept_as_data() {
    let with = |comment: &str| json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01", "comment": comment });
    let world = filled();
    refused(
        &world,
        vec![
            (with(&"x".repeat(1025)), "InvalidRequest", &["longer than 1024 characters"]),
            (with(&"🚲".repeat(1 << 18)), "InvalidRequest", &["longer than 1024 characters"]),
            (with("two\nlines"), "InvalidRequest", &["control character"]),
            (with("a bell \u{7}"), "InvalidRequest", &["control character"]),
        ],
    );
    let comment = format!("{{}} %s $HOME \"'` 🚲 {}", "ü".repeat(1000));
    let ended = world.backfill("commented", with(&comment));
    ended.succeeded();
    assert_eq!((&ended.json["comment"], &ended.json["offline"]["comment"]), (&json!(comment), &json!(comment)));
    let history = python("delta_read.py", &json!({ "table": world.table_path(), "what": "history" }));
    let commit = history.iter().find(|commit| commit["version"] == ended.offline("versionAfter")).expect("the commit");
    assert_eq!(commit["userMetadata"], comment);
    let mut world = world;
    world.source(&three());
    world.set("backfill", json!({}));
    let again = world.backfill("commented", with("another comment is the same run"));
    again.already_applied();
}

#[tokio::test]
async fn manifests_with_unknown_fields_or_types_are_refused_by_name() {
    let world = filled();
    for (spec, words) in [
        (json!({ "startTime": "2024-04-01", "namespace": "other" }), "unknown field spec.namespace"),
        (json!({ "startTime": "2024-04-01", "guards": { "allowEmtpy": true } }), "unknown field spec.guards.allowEmtpy"),
        (json!({ "startTime": "2024-04-01", "retries": "three" }), "\"three\", expected u32"),
        (json!({ "startTime": "2024-04-01", "mode": "Maybe" }), "Maybe"),
    ] {
        let output = world.command("refused", spec).output().expect("the program runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(words) && error.contains("FeatureSetBackfill \"refused\""), "{words}: {error}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
    }
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn a_dry_run_publishes_nothing_and_says_what_would_happen() {
    let world = filled();
    let before = world.data().await;
    world.source(&[ride(1, "2024-04-01", 1), ride(2, "2024-04-02", 20)]);
    let mut command = world.command("dry", json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01" }));
    let ended = world.run(command.arg("--dry-run")).remove(0);
    assert_eq!((ended.code, ended.condition("Ready").1), (10, "Planned"), "{:#}", ended.json);
    assert_eq!((ended.offline("rowsRemoved"), ended.offline("rowsWritten"), ended.offline("rowsUnchanged")), (3, 2, 1));
    let online = &ended.json["offline"]["online"];
    assert_eq!((online["entitiesUpdated"].as_u64(), online["entitiesRemoved"].as_u64()), (Some(2), Some(1)));
    let after = world.data().await;
    assert_eq!((after.rows, after.files, after.online), (before.rows, before.files, before.online));
    assert_eq!(at("1970-01-01"), 0);
}
