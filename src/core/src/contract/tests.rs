use super::*;
use crate::api::{Entity, KeyType, ScalarType, ValueType};
use crate::condition::Reason;
use crate::time::parse_time;
use std::fmt::Debug;

fn at(text: &str) -> DateTime<Utc> {
    parse_time("t", text).expect(text)
}

fn interval() -> Interval {
    Interval::new(at("2024-05-01"), at("2024-06-01")).expect("not empty")
}

fn order() -> Order {
    let scalar = |scalar, list| ValueType { scalar, list };
    Order {
        version: VERSION,
        mode: Mode::Apply,
        attempt: 2,
        backfill: BackfillRef {
            namespace: "prod".into(),
            name: "fix".into(),
            uid: Some("uid-1".into()),
            run_id: Some("2".into()),
        },
        key: "0".repeat(64),
        comment: Some("the source was late".into()),
        scope: Scope::Reset { interval: interval(), delete_before: Some(at("2024-06-01 12:00:00")) },
        stores: Stores::Both,
        now: at("2024-06-01 12:00:00"),
        definition: Definition {
            feature_set: "clicks".into(),
            project: "shop".into(),
            view: "clicks_view".into(),
            entities: vec![Entity { name: "user_id".into(), value_type: KeyType::Int64 }],
            timestamp_column: "t".into(),
            features: vec![
                Feature { name: "n".into(), value_type: scalar(ScalarType::Float64, false) },
                Feature { name: "tags".into(), value_type: scalar(ScalarType::String, true) },
            ],
            sources: vec![OrderSource { name: "raw".into(), format: SourceFormat::Parquet, uri: "s3://bucket/raw/".into() }],
            sql: "SELECT * FROM raw".into(),
            windows: Some(Schedule { ticks: Ticks::EverySeconds(3600), stamp: Stamp::Stop }),
            hash: "1".repeat(64),
        },
        table: Table {
            uri: "s3://bucket/tables/clicks".into(),
            partition_by: PartitionBy::Day,
            date_column: "event_date".into(),
            credentials_secret: Some("keys".into()),
        },
        online: Some(Online {
            store: OnlineTarget::Redis { secret: "redis".into(), key: "url".into(), key_ttl_seconds: Some(86_400) },
            ttl_seconds: Some(604_800),
            unknown: OnlineUnknown::Keep,
            parallelism: 4,
        }),
        guards: Guards {
            schema: SchemaGuard::Strict,
            null_keys: NullKeys::Fail,
            keep_last_by: Some("seq".into()),
            rows_outside: RowsOutside::Drop,
            allow_empty: false,
            max_shrink_percent: 50,
            timestamps: Timestamps::Exact,
            eviction_policy: EvictionPolicy::Warn,
            checks: vec![Check { name: "positive".into(), predicate: "n >= 0".into(), severity: Severity::Warn }],
        },
        size: Size { cores: 4, memory_bytes: 8 << 30, scratch_bytes: 16 << 30 },
        engine: Engine::DataFusion,
    }
}

fn report() -> Report {
    Report {
        version: VERSION,
        key: "0".repeat(64),
        outcome: Outcome::Done,
        comment: Some("the source was late".into()),
        scope: Some(Scope::Interval { interval: interval() }),
        offline: Some(OfflineReport {
            rows_removed: 10,
            rows_written: 12,
            rows_rescued: 3,
            rows_outside: 1,
            rows_null_key: 2,
            rows_duplicate: 4,
            rows_unchanged: Some(8),
            rows_read: 13,
            windows: 31,
            files_added: 5,
            files_removed: 6,
            bytes_written: 7_000,
            version_before: Some(17),
            version_after: Some(18),
            started_at: Some("2024-06-01T12:00:01Z".into()),
            finished_at: Some("2024-06-01T12:00:09Z".into()),
            proof: Some(Proof {
                verdict: Verdict::Passed,
                files_untouched: 360,
                rows_outside_before: 3,
                rows_outside_after: 3,
                hash_before: "a".repeat(32),
                hash_after: "a".repeat(32),
            }),
            guards: vec![GuardResult { name: "shrink".into(), verdict: Verdict::Passed, message: "12 rows replace 10".into() }],
        }),
        online: Some(OnlineReport {
            entities_updated: 5,
            entities_removed: 1,
            entities_kept_newer: 2,
            entities_kept_live: 3,
            entities_unchanged: 4,
            duplicates_at_rest: 6,
            rows_looked_up: 7,
            entities_verified: 8,
            version: Some(19),
            started_at: Some("2024-06-01T12:00:10Z".into()),
            finished_at: Some("2024-06-01T12:00:11Z".into()),
        }),
        warnings: vec![Notice { reason: Reason::LayoutKept, message: "the table stays partitioned by day".into() }],
    }
}

/// The committed file is what this version writes, and what it reads. `UPDATE_GOLDEN=1` writes it.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/contract/golden").join(name);
    let written = serde_json::to_string_pretty(value).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &written).expect("a writable checkout");
    }
    let committed = std::fs::read_to_string(&path).expect(name);
    assert_eq!(written, committed, "the contract has changed: add fields with a default, or raise VERSION");
    assert_eq!(&serde_json::from_str::<T>(&committed).expect("readable"), value);
}

#[test]
fn an_order_is_written_and_read_as_committed() {
    golden(&order(), "order.json");
}

#[test]
fn an_order_for_spark_is_written_and_read_as_committed() {
    let conf = [("spark.sql.shuffle.partitions".to_owned(), "400".to_owned())].into();
    golden(&Order { engine: Engine::Spark { nodes: 3, conf }, ..order() }, "order-spark.json");
}

#[test]
fn a_report_is_written_and_read_as_committed() {
    golden(&report(), "report.json");
}

#[test]
fn progress_is_written_and_read_as_committed() {
    golden(&Progress { stage: "staging".into(), done: 3, total: 31, rows: 1_000 }, "progress.json");
}

#[test]
fn every_outcome_and_scope_is_written_as_committed() {
    let outcomes = vec![
        Outcome::Done,
        Outcome::AlreadyApplied { definition_changed: true },
        Outcome::Planned,
        Outcome::Settled { published: false },
        Outcome::Failed { reason: Reason::ShrinkGuard, message: "5 rows would replace 100".into(), retry: false },
    ];
    golden(&outcomes, "outcomes.json");
    let scopes = vec![
        Scope::Interval { interval: interval() },
        Scope::Reset { interval: interval(), delete_before: None },
        Scope::Undo { backfill: "fix".into(), key: Some("0".repeat(64)) },
    ];
    golden(&scopes, "scopes.json");
}

fn lookup() -> Lookup {
    let key = |name: &str, value| JoinKey { name: name.into(), value };
    let feature = |name: &str, value_type: &str| Feature {
        name: name.into(),
        value_type: ValueType::try_from(value_type.to_owned()).expect("a type"),
    };
    Lookup {
        version: VERSION,
        project: "shop".into(),
        view: "clicks_view".into(),
        store: OnlineTarget::Redis { secret: "redis".into(), key: "url".into(), key_ttl_seconds: None },
        ttl_seconds: Some(604_800),
        entity: vec![
            key("user", KeyValue::String("=\"é\"".into())),
            key("device", KeyValue::Bytes(vec![0, 255])),
            key("shard", KeyValue::Int32(i32::MIN)),
            key("user_id", KeyValue::Int64(i64::MAX)),
            key("day", KeyValue::Timestamp(at("2024-05-01"))),
        ],
        features: vec![feature("n", "float64"), feature("tags", "list<string>")],
    }
}

#[test]
fn a_lookup_and_its_answers_are_written_and_read_as_committed() {
    golden(&lookup(), "lookup.json");
    assert_eq!(Lookup::read(&serde_json::to_string(&lookup()).expect("JSON")).expect("readable"), lookup());
    let feature = |at: usize, value, note: Option<&str>| {
        let Feature { name, value_type } = lookup().features[at].clone();
        ServedFeature { name, value_type, value, note: note.map(str::to_owned) }
    };
    let row = ServedRow {
        event_time: Some(at("2024-05-31T10:00:00.250")),
        created_time: Some(at("2024-06-01")),
        expired: true,
        key_ttl_seconds: Some(60),
        written_by: Some(Writer { generation: 18, backfill: Some("fix".into()) }),
        features: vec![feature(0, serde_json::json!("NaN"), None), feature(1, serde_json::Value::Null, Some("not in the row"))],
    };
    let failed = Notice { reason: Reason::OnlineUnavailable, message: "the online store does not answer".into() };
    let outcomes = [
        LookupOutcome::Served(lookup().served(Some(row))),
        LookupOutcome::Served(lookup().served(None)),
        LookupOutcome::Failed(failed),
    ];
    golden(&outcomes.map(Answer::new).to_vec(), "answers.json");
}

#[test]
fn an_answer_is_found_among_the_lines_of_a_log() {
    let answer = Answer::new(LookupOutcome::Served(lookup().served(None)));
    let line = serde_json::to_string(&answer).expect("JSON");
    let log = format!("WARN \"waiting\"\n{{\"level\":\"WARN\"}}\n{line}\n7\nerror: late\n");
    assert_eq!(Answer::in_log(&log).expect("there").expect("readable"), answer);
    for log in ["", "error: no\n", "{\"level\":\"WARN\"}\n"] {
        assert!(Answer::in_log(log).is_none(), "{log}");
    }
    let newer = Answer::in_log(&line.replace("\"version\":1", "\"version\":2")).expect("there").expect_err("of another version");
    assert!(newer.to_string().starts_with("the answer has version 2, this program reads version 1; "), "{newer}");
}

#[test]
fn an_order_of_another_version_is_refused_by_its_version() {
    let json = serde_json::to_string(&order()).expect("JSON");
    assert_eq!(Order::read(&json).expect("this version"), order());
    for (found, shown) in [("2", "2"), ("0", "0"), ("\"1\"", "\"1\""), ("null", "null")] {
        let other = json.replacen("\"version\":1", &format!("\"version\":{found},\"unheardOf\":true"), 1);
        let message = Order::read(&other).expect_err(found).to_string();
        assert_eq!(
            message,
            format!(
                "the order has version {shown}, this program reads version 1; use plugin, operator and worker of one version"
            )
        );
    }
    assert!(Order::read("{}").expect_err("no version").to_string().starts_with("the order has version null"));
}

#[test]
fn an_order_with_an_unknown_field_is_refused() {
    let json = serde_json::to_string(&order()).expect("JSON").replacen("\"attempt\":2", "\"attempt\":2,\"unheardOf\":true", 1);
    assert!(Order::read(&json).expect_err("unknown").to_string().contains("unknown field `unheardOf`"));
    assert!(Order::read("{").is_err());
}

#[test]
fn a_report_that_fits_is_not_changed() {
    assert_eq!(report().fit(REPORT_BYTES_MAX), report());
}

#[test]
fn the_worst_report_fits_and_keeps_how_it_ended_and_the_numbers() {
    let long = |text: &str| format!("{text} {}", "\"é\n".repeat(2_000));
    let mut worst = report();
    worst.comment = Some(long("comment"));
    worst.outcome = Outcome::Failed { reason: Reason::CheckFailed, message: long("failed"), retry: false };
    worst.warnings =
        (0..100).map(|index| Notice { reason: Reason::DuplicatesAtRest, message: long(&index.to_string()) }).collect();
    let guard =
        |index: usize, verdict| GuardResult { name: format!("{index}{}", "n".repeat(60)), verdict, message: long("guard") };
    let guards = (0..100).map(|index| guard(index, if index == 50 { Verdict::Failed } else { Verdict::Passed }));
    if let Some(offline) = &mut worst.offline {
        *offline = OfflineReport { rows_written: u64::MAX, guards: guards.collect(), ..offline.clone() };
    }
    for bytes_max in [2_048, REPORT_BYTES_MAX, 8_192] {
        let fitted = worst.clone().fit(bytes_max);
        let json = serde_json::to_string(&fitted).expect("JSON");
        assert!(json.len() <= bytes_max, "{} of {bytes_max}", json.len());
        assert!(
            matches!(&fitted.outcome, Outcome::Failed { reason: Reason::CheckFailed, message, .. } if message.starts_with("failed"))
        );
        assert_eq!(fitted.offline.as_ref().map(|offline| offline.rows_written), Some(u64::MAX));
        assert_eq!(
            fitted.offline.as_ref().and_then(|offline| offline.proof.clone()),
            worst.offline.as_ref().and_then(|offline| offline.proof.clone())
        );
    }
    let fitted = worst.fit(8_192);
    let verdicts: Vec<_> = fitted.offline.iter().flat_map(|offline| &offline.guards).map(|guard| guard.verdict).collect();
    assert_eq!(verdicts, [Verdict::Failed], "guards that held go first");
}
