//! Specs that are accepted, and specs that are refused with their message.

use super::{KINDS, assert_refused, object, refusals};
use anyhow::Result;
use backfill_e2e::test;
use serde_json::{Value, json};

fn accepted(kind: &'static str, changes: Vec<Value>) -> Result<()> {
    test(async move |shared| {
        let namespace = shared.cluster.namespace("specs").await?;
        for change in changes {
            let refusals = refusals(shared, &namespace, &object(kind, &change)).await?;
            assert_eq!(refusals, Vec::<String>::new(), "{kind} {change}");
        }
        Ok(())
    })
}

/// Each is refused for exactly one reason: the field and the words.
fn refused(kind: &'static str, cases: Vec<(Value, &'static str, &'static str)>) -> Result<()> {
    test(async move |shared| {
        let namespace = shared.cluster.namespace("specs").await?;
        for (change, field, words) in cases {
            assert_refused(&refusals(shared, &namespace, &object(kind, &change)).await?, field, words, &change);
        }
        Ok(())
    })
}

#[test]
fn valid_backfills_are_accepted() -> Result<()> {
    accepted(
        "FeatureSetBackfill",
        vec![
            json!({}),
            json!({"stopTime": null}),
            json!({"startTime": null}),
            // Row 12: a reset deletes everything; the bounds are those of what is filled.
            json!({"reset": true}),
            json!({"reset": true, "startTime": null, "stopTime": null}),
            json!({"reset": false}),
            json!({"undo": "old", "startTime": null, "stopTime": null}),
            json!({"undo": "old", "startTime": null, "stopTime": null, "stores": ["Offline"]}),
            json!({"stores": ["Online"]}),
            json!({"stores": ["Offline", "Online"], "sources": [{"name": "raw", "featureSet": {"name": "x"}}], "transformation": {"sql": "SELECT 1"}}),
            json!({"clusterTemplate": "XXXLARGE", "mode": "Plan", "onlineUnknown": "Replace", "retries": 0, "deadline": "6h"}),
            json!({"suspend": true, "cancel": true, "runId": "2024-05-01T00:00:00Z", "ttlSecondsAfterFinished": 0}),
            json!({"guards": {"duplicates": {"policy": "KeepLast", "by": "seq"}, "maxShrinkPercent": 100, "checks": [{"name": "a", "predicate": "n > 0"}]}}),
            // Row 66.
            json!({"comment": "🙂 why, 为什么"}),
            json!({"comment": "ü".repeat(1024)}),
        ],
    )
}

#[test]
fn a_backfill_asks_for_exactly_one_thing() -> Result<()> {
    let neither = "give reset: true (all data), startTime and/or stopTime (an interval), or undo (an earlier backfill)";
    refused(
        "FeatureSetBackfill",
        vec![
            // Row 13.
            (json!({"startTime": null, "stopTime": null}), "spec", neither),
            (json!({"startTime": null, "stopTime": null, "reset": false}), "spec", neither),
            (json!({"startTime": null, "stopTime": null, "reset": true, "undo": "old"}), "spec", "give reset or undo, not both"),
            (json!({"startTime": null, "undo": "old"}), "spec", "undo takes no startTime and stopTime"),
            (
                json!({"startTime": null, "stopTime": null, "undo": "old", "transformation": {"sql": "SELECT 1"}}),
                "spec",
                "undo takes no sources and transformation",
            ),
            (
                json!({"startTime": null, "stopTime": null, "undo": "old", "stores": ["Online"]}),
                "spec",
                "undo works in the offline table; leave stores out, or give [Offline]",
            ),
            (json!({"startTime": null, "stopTime": null, "undo": "fix"}), "<nil>", "spec.undo: a backfill cannot undo itself"),
            (json!({"stores": ["Online"], "sources": []}), "spec", "stores [Online] rebuilds the online store"),
            (json!({"stores": []}), "spec.stores", "should have at least 1 items"),
            (json!({"stores": ["Online", "Online"]}), "spec.stores[1]", "Duplicate value"),
            (json!({"stores": ["Memory"]}), "spec.stores[0]", "supported values: \"Offline\", \"Online\""),
            (json!({"featureSet": null}), "spec.featureSet", "Required value"),
        ],
    )
}

#[test]
fn nothing_of_another_namespace_and_no_unknown_field_can_be_said() -> Result<()> {
    // Row 16.
    let unknown = |field: &str| format!("strict decoding error: unknown field \"{field}\"").leak() as &str;
    refused(
        "FeatureSetBackfill",
        vec![
            (json!({"namespace": "other"}), "", unknown("spec.namespace")),
            (json!({"featureSet": "other/clicks"}), "spec.featureSet", "should match"),
            (json!({"image": "evil"}), "", unknown("spec.image")),
            (
                json!({"sources": [{"name": "a", "featureSet": {"name": "x", "namespace": "other"}}]}),
                "",
                unknown("spec.sources[0].featureSet.namespace"),
            ),
        ],
    )
}

#[test]
fn texts_and_numbers_of_a_backfill_are_limited() -> Result<()> {
    let control = "holds a control character; write it in one line";
    let duration = "is not a duration; write for instance 90s, 15m, 1h30m or 2d, more than zero and at most 36500d";
    refused(
        "FeatureSetBackfill",
        vec![
            // Row 66.
            (json!({"comment": "a\nb"}), "spec.comment", control),
            (json!({"comment": "a\u{85}b"}), "spec.comment", control),
            (json!({"comment": "a\u{0}b"}), "spec.comment", control),
            (json!({"comment": "x".repeat(1025)}), "spec.comment", "may not be more than 1024"),
            (json!({"comment": "x".repeat(1 << 20)}), "spec.comment", "may not be more than 1024"),
            (json!({"runId": "a b"}), "spec.runId", "should match"),
            (json!({"retries": 101}), "spec.retries", "should be less than or equal to 100"),
            (json!({"retries": -1}), "spec.retries", "should be greater than or equal to 0"),
            (json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished", "should be greater than or equal to 0"),
            (json!({"deadline": "soon"}), "spec.deadline", duration),
            (json!({"deadline": "0d0s"}), "spec.deadline", duration),
            (json!({"mode": "Dry"}), "spec.mode", "supported values: \"Apply\", \"Plan\""),
            (json!({"guards": {"maxShrinkPercent": 101}}), "spec.guards.maxShrinkPercent", "should be less than or equal to 100"),
            (
                json!({"guards": {"duplicates": {"policy": "KeepLast"}}}),
                "spec.guards.duplicates",
                "KeepLast needs by: the column whose largest value is kept",
            ),
            (
                json!({"guards": {"duplicates": {"policy": "Fail", "by": "x"}}}),
                "spec.guards.duplicates",
                "by is for KeepLast only",
            ),
            (
                json!({"guards": {"checks": [{"name": "a", "predicate": "true"}, {"name": "a", "predicate": "true"}]}}),
                "spec.guards.checks[1]",
                "Duplicate value",
            ),
        ],
    )
}

#[test]
fn names_are_dns_labels_that_begin_with_a_letter() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("specs").await?;
        // Row 65.
        let ours =
            "metadata.name is not a DNS label: write at most 63 of a-z, 0-9 and -, beginning with a letter and not ending with -";
        for (kind, _) in KINDS {
            for name in ["a.b", "1fix", &"x".repeat(64)] {
                let mut object = object(kind, &json!({}));
                object["metadata"]["name"] = json!(name);
                assert_refused(&refusals(shared, &namespace, &object).await?, "<nil>", ours, &object);
            }
            for name in ["Fix", "-fix", "fix-", "fïx"] {
                let mut object = object(kind, &json!({}));
                object["metadata"]["name"] = json!(name);
                let refusals = refusals(shared, &namespace, &object).await?;
                assert!(refusals.iter().any(|refusal| refusal.starts_with("metadata.name: ")), "{name}: {refusals:?}");
            }
            for name in ["a", "fix-2024-05", &"x".repeat(63)] {
                let mut object = object(kind, &json!({}));
                object["metadata"]["name"] = json!(name);
                assert_eq!(refusals(shared, &namespace, &object).await?, Vec::<String>::new(), "{kind} {name}");
            }
        }
        Ok(())
    })
}

#[test]
fn valid_feature_sets_are_accepted() -> Result<()> {
    accepted(
        "FeatureSet",
        vec![
            json!({}),
            json!({"store": "main", "view": "Clicks_v2-x", "windows": {"every": "1d", "stamp": "Stop"}, "online": {"enabled": false, "ttl": "30d"}}),
            json!({"windows": {"cron": "30 6 * * MON-FRI"}, "offline": {"table": "team/clicks_v2", "partitionBy": "Month", "dateColumn": "month"}}),
            json!({"backfill": {"startTime": "2020-01-01", "clusterTemplate": "LARGE", "guards": {"allowEmpty": true}}}),
            json!({"features": [{"name": "event_date", "type": "string"}], "offline": {"partitionBy": "None"}}),
            json!({"sources": [
                {"name": "a", "csv": {"uri": "gs://b_u/x.csv"}}, {"name": "b", "json": {"uri": "abfss://c@acc.dfs.core.windows.net/x"}},
                {"name": "c", "delta": {"uri": "file:///store/x"}}, {"name": "d", "featureSet": {"name": "views"}}
            ]}),
            // The largest that fits the limits.
            json!({"features": (0..500).map(|number| json!({"name": format!("f{number}"), "type": "int64"})).collect::<Vec<_>>()}),
        ],
    )
}

#[test]
fn a_feature_set_that_contradicts_itself_is_refused() -> Result<()> {
    let clash = "the table's date column (offline.dateColumn, event_date by default) is the name of another column";
    let one_format = "give exactly one of parquet, csv, json, delta and featureSet";
    let one_schedule = "give exactly one of every and cron";
    refused(
        "FeatureSet",
        vec![
            (json!({"entities": []}), "spec.entities", "should have at least 1 items"),
            (json!({"features": []}), "spec.features", "should have at least 1 items"),
            (
                json!({"features": [{"name": "n", "type": "int64"}, {"name": "n", "type": "bool"}]}),
                "spec.features[1]",
                "Duplicate value",
            ),
            (json!({"features": [{"name": "n", "type": "decimal"}]}), "spec.features[0].type", "Unsupported value"),
            (json!({"entities": [{"name": "k", "type": "float64"}]}), "spec.entities[0].type", "Unsupported value"),
            (json!({"features": [{"name": "user_id", "type": "int64"}]}), "spec", "a column is an entity or a feature, not both"),
            (json!({"timestampColumn": "n"}), "spec", "timestampColumn is the name of an entity or a feature"),
            (json!({"timestampColumn": "user_id"}), "spec", "timestampColumn is the name of an entity or a feature"),
            (json!({"timestampColumn": "event_date"}), "spec", clash),
            (json!({"features": [{"name": "event_date", "type": "string"}]}), "spec", clash),
            (json!({"offline": {"dateColumn": "n"}}), "spec", clash),
            // Row 27.
            (json!({"timestampColumn": "x'); DROP"}), "spec.timestampColumn", "should match '^[A-Za-z_][A-Za-z0-9_]*$'"),
            (json!({"entities": [{"name": "k\"", "type": "int64"}]}), "spec.entities[0].name", "should match"),
            (json!({"features": [{"name": "a b", "type": "int64"}]}), "spec.features[0].name", "should match"),
            (json!({"sources": [{"name": "1a", "csv": {"uri": "s3://b/x"}}]}), "spec.sources[0].name", "should match"),
            (json!({"sources": [{"name": "a"}]}), "spec.sources[0]", one_format),
            (
                json!({"sources": [{"name": "a", "csv": {"uri": "s3://b/x"}, "json": {"uri": "s3://b/x"}}]}),
                "spec.sources[0]",
                one_format,
            ),
            (json!({"windows": {}}), "spec.windows", one_schedule),
            (json!({"windows": {"every": "1d", "cron": "0 0 * * *"}}), "spec.windows", one_schedule),
            (json!({"windows": {"cron": "@daily"}}), "spec.windows.cron", "is not a cron expression of five fields"),
            (json!({"view": "1view"}), "spec.view", "should match"),
            (json!({"offline": {"table": "a/../b"}}), "spec.offline.table", "holds . or ..; name a folder below the store's"),
            (json!({"offline": {"table": "/a"}}), "spec.offline.table", "should match"),
            (json!({"transformation": {"sql": ""}}), "spec.transformation.sql", "should be at least 1 chars long"),
            (json!({"online": {"ttl": "1w"}}), "spec.online.ttl", "is not a duration"),
            (json!({"store": "Main"}), "spec.store", "should match"),
            (json!({"backfill": {"startTime": "2024-02-30"}}), "spec.backfill.startTime", "is no such day"),
        ],
    )
}

#[test]
fn places_of_data_are_held_to_their_rules() -> Result<()> {
    let source = |uri: &str| json!({"sources": [{"name": "a", "csv": {"uri": uri}}]});
    let scheme = "has an unknown scheme; write s3://, gs://, abfss:// or file:///store/";
    let place = "names no bucket or container, or a file outside of file:///store/";
    let white = "holds white space or one of ? # * % \\ [ ] { } \" '; name a file or a folder";
    let dots = "holds an empty part, . or ..; name a file or a folder";
    let uris = [
        ("http://b/x", scheme),
        ("/store/x", scheme),
        ("S3://b/x", scheme),
        ("s3://", place),
        ("s3://key:secret@bucket/x", place),
        ("file:///etc/passwd", place),
        ("abfss://acc/x", place),
        ("s3://b/a b", white),
        ("s3://b/a\u{a0}b", white),
        ("s3://b/x?y=1", white),
        ("s3://b/*.csv", white),
        ("s3://b/x'", white),
        ("s3://b/\"x", white),
        ("s3://b/\\x", white),
        ("s3://b/{a", white),
        ("s3://b/[a", white),
        ("s3://b/a]", white),
        ("s3://b/x\n", white),
        ("s3://b/../x", dots),
        ("s3://b//x", dots),
    ];
    refused("FeatureSet", uris.map(|(uri, words)| (source(uri), "spec.sources[0].csv.uri", words)).into())?;
    accepted(
        "FeatureSet",
        ["s3://bucket", "s3://b/a/b=1/c.parquet", "file:///store/x", "s3://b/x..y", "s3://b/é"].map(source).into(),
    )
}

#[test]
fn stores_are_held_to_their_rules() -> Result<()> {
    let volume = "offline.volumeClaim is missing: file:// URIs and SQLite files lie on it";
    let one_store = "give exactly one of redis and sqlite";
    let sqlite = |path: &str| json!({"online": {"redis": null, "sqlite": {"path": path}}, "offline": {"volumeClaim": "data"}});
    accepted(
        "FeatureStore",
        vec![
            json!({}),
            json!({"online": null, "project": "shop", "defaultClusterTemplate": "Small", "maxConcurrentBackfills": 8}),
            json!({"offline": {"uri": "file:///store/tables", "volumeClaim": "data", "credentialsSecret": "keys"}}),
            json!({"online": {"redis": {"keyTtl": "30d"}}}),
            sqlite("/store/online.db"),
        ],
    )?;
    refused(
        "FeatureStore",
        vec![
            (json!({"offline": {"uri": "file:///store/tables"}}), "spec", volume),
            (json!({"online": {"redis": null, "sqlite": {"path": "/store/x.db"}}}), "spec", volume),
            (json!({"online": {"redis": null}}), "spec.online", one_store),
            (
                json!({"online": {"sqlite": {"path": "/store/x.db"}}, "offline": {"volumeClaim": "data"}}),
                "spec.online",
                one_store,
            ),
            (sqlite("/etc/passwd"), "spec.online.sqlite.path", "should match"),
            (sqlite("/store/../x"), "spec.online.sqlite.path", "holds . or ..; name a file below /store/"),
            (json!({"maxConcurrentBackfills": 0}), "spec.maxConcurrentBackfills", "should be greater than or equal to 1"),
            (json!({"online": {"redis": {"urlSecret": {"name": "../x"}}}}), "spec.online.redis.urlSecret.name", "should match"),
            (json!({"online": {"redis": {"urlSecret": {"key": ".."}}}}), "spec.online.redis.urlSecret.key", "should match"),
            (json!({"online": {"redis": {"keyTtl": "1y"}}}), "spec.online.redis.keyTtl", "is not a duration"),
            (json!({"offline": {"uri": "ftp://x"}}), "spec.offline.uri", "has an unknown scheme"),
            (json!({"project": "a/b"}), "spec.project", "should match"),
        ],
    )
}

#[test]
fn templates_are_held_to_their_rules() -> Result<()> {
    accepted(
        "ClusterTemplate",
        vec![
            json!({}),
            json!({"nodes": 1, "scratch": "1.5Ti", "online": {"parallelism": 8, "cores": 1, "memory": "512Mi"}, "deadline": "2d"}),
            json!({"engine": "Spark", "nodes": 8, "sparkConf": {"spark.sql.shuffle.partitions": "64"}, "tolerations": [{"operator": "Exists", "effect": ""}]}),
        ],
    )?;
    let size = "is not a size; write for instance 512Mi, 4Gi or 1.5Gi";
    refused(
        "ClusterTemplate",
        vec![
            (json!({"nodes": 2}), "spec", "nodes: DataFusion has exactly one node"),
            (json!({"sparkConf": {"a": "b"}}), "spec", "sparkConf is for engine Spark only"),
            (json!({"memory": "lots"}), "spec.memory", size),
            (json!({"memory": "0Gi"}), "spec.memory", size),
            (json!({"scratch": "4GiB"}), "spec.scratch", size),
            (json!({"cores": 0}), "spec.cores", "should be greater than or equal to 1"),
            (json!({"engine": "Flink"}), "spec.engine", "supported values: \"DataFusion\", \"Spark\""),
            (json!({"tolerations": [{"effect": "Never"}]}), "spec.tolerations[0].effect", "Unsupported value"),
            (json!({"nodeSelector": {"a": "x".repeat(64)}}), "spec.nodeSelector.a", "may not be more than 63"),
        ],
    )
}
