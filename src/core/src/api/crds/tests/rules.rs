//! Specs that are accepted, and specs that are refused with their message.

use super::*;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use std::sync::LazyLock;

/// Schemas and their rules, compiled once.
static SCHEMAS: LazyLock<[(&str, Value, CompiledSchema); 4]> = LazyLock::new(|| {
    KINDS.map(|kind| {
        let schema = schema(kind);
        let compiled = compile_schema(&schema);
        (kind, schema, compiled)
    })
});

/// What the API server would say to an object: limits, patterns and enums first, then rules. Empty: accepted.
fn refusals(kind: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let (_, schema, compiled) = SCHEMAS.iter().find(|(known, ..)| *known == kind).expect(kind);
    let mut refusals = Vec::new();
    for part in ["spec", "status"] {
        if let Some(value) = object.get(part) {
            limits(part, &schema["properties"][part], value, &mut refusals);
        }
    }
    if let Err(errors) = Validator::new().validate_compiled(compiled, object, old) {
        refusals.extend(errors.iter().map(|error| format!("{}: {}", error.field_path, error.message)));
    }
    refusals
}

fn limits(path: &str, schema: &Value, value: &Value, refusals: &mut Vec<String>) {
    let bound = |key: &str| schema[key].as_f64();
    let too_many = |count: usize, max: &str| bound(max).is_some_and(|max| count as f64 > max);
    let too_few = |count: usize, min: &str| bound(min).is_some_and(|min| (count as f64) < min);
    let mut refuse = |what: &str| refusals.push(format!("{path}: {what}"));
    match value {
        Value::String(text) => {
            let count = text.chars().count();
            if schema["type"] != "string" || too_many(count, "maxLength") || too_few(count, "minLength") {
                refuse("type or length");
            }
            if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
                refuse("enum");
            }
            let matches = |pattern: &str| regex::Regex::new(pattern).expect(pattern).is_match(text);
            if schema["pattern"].as_str().is_some_and(|pattern| !matches(pattern)) {
                refuse("pattern");
            }
        }
        Value::Array(items) => {
            let twice = |key: Option<&str>| {
                let keys: Vec<_> = items.iter().map(|item| key.map_or(item, |key| &item[key])).collect();
                keys.iter().enumerate().any(|(index, key)| keys[..index].contains(key))
            };
            let duplicate = match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => twice(schema["x-kubernetes-list-map-keys"][0].as_str()),
                Some("set") => twice(None),
                _ => false,
            };
            if schema["type"] != "array" || too_many(items.len(), "maxItems") || too_few(items.len(), "minItems") || duplicate {
                refuse("items");
            }
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| limits(&format!("{path}[{index}]"), &schema["items"], item, refusals));
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.filter(|name| !members.contains_key(*name)).for_each(|name| refuse(&format!("{name} is required")));
            if too_many(members.len(), "maxProperties") {
                refuse("properties");
            }
            for (name, member) in members {
                match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
                    Some(inner) => limits(&format!("{path}.{name}"), inner, member, refusals),
                    None => refusals.push(format!("{path}.{name}: unknown field")),
                }
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let outside = bound("minimum").is_some_and(|min| number < min) || bound("maximum").is_some_and(|max| number > max);
            if schema["type"] != "integer" || outside {
                refuse("range");
            }
        }
        Value::Bool(_) if schema["type"] == "boolean" => {}
        Value::Bool(_) | Value::Null => refuse("type"),
    }
}

fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                match value {
                    Value::Null => drop(base.remove(key)),
                    value => merge(base.entry(key).or_insert(json!({})), value),
                }
            }
        }
        (base, change) => *base = change.clone(),
    }
}

/// A valid object with its spec changed; `null` removes a field.
fn object(kind: &str, change: &Value) -> Value {
    let mut spec = match kind {
        "FeatureStore" => json!({
            "offline": {"uri": "s3://bucket/tables"}, "online": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}},
            "jobs": {"imagePullSecrets": ["registry"], "podLabels": {"team": "ml"}}
        }),
        "ClusterTemplate" => json!({"engine": "DataFusion", "cores": 2, "memory": "4Gi"}),
        "FeatureSet" => json!({
            "entities": [{"name": "user_id", "type": "int64"}], "timestampColumn": "t",
            "features": [{"name": "n", "type": "int64"}, {"name": "tags", "type": "list<string>"}],
            "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw/"}}], "transformation": {"sql": "SELECT * FROM raw"}
        }),
        _ => json!({"featureSet": "clicks", "startTime": "2024-05-01", "stopTime": "2024-06-01"}),
    };
    merge(&mut spec, change);
    json!({"apiVersion": "featureset.dev/v1alpha1", "kind": kind, "metadata": {"name": "fix"}, "spec": spec})
}

#[track_caller]
fn accepted(kind: &str, changes: &[Value]) {
    for change in changes {
        assert_eq!(refusals(kind, &object(kind, change), None), Vec::<String>::new(), "{kind} {change}");
    }
}

/// Exactly this one refusal.
#[track_caller]
fn refused(kind: &str, cases: &[(Value, &str)]) {
    for (change, refusal) in cases {
        assert_eq!(refusals(kind, &object(kind, change), None), [*refusal], "{kind} {change}");
    }
}

#[test]
fn valid_backfills_are_accepted() {
    accepted(
        "FeatureSetBackfill",
        &[
            json!({}),
            json!({"stopTime": null}),
            json!({"startTime": null}),
            json!({"reset": true}),
            json!({"reset": true, "startTime": null, "stopTime": null}),
            json!({"reset": false}),
            json!({"undo": "old", "startTime": null, "stopTime": null}),
            json!({"undo": "old", "startTime": null, "stopTime": null, "stores": ["Offline"]}),
            json!({"stores": ["Online"]}),
            json!({"stores": ["Offline", "Online"], "sources": [{"name": "raw", "featureSet": {"name": "x"}}], "transformation": {"sql": "SELECT 1"}}),
            json!({"clusterTemplate": "XXXLARGE", "comment": "🙂 why", "mode": "Plan", "onlineUnknown": "Replace", "retries": 0, "deadline": "6h"}),
            json!({"suspend": true, "cancel": true, "runId": "2024-05-01T00:00:00Z", "ttlSecondsAfterFinished": 0}),
            json!({"guards": {"duplicates": {"policy": "KeepLast", "by": "seq"}, "maxShrinkPercent": 100, "checks": [{"name": "a", "predicate": "n > 0"}]}}),
        ],
    );
}

#[test]
fn a_backfill_asks_for_exactly_one_thing() {
    let neither = "spec: give reset: true (all data), startTime and/or stopTime (an interval), or undo (an earlier backfill)";
    refused(
        "FeatureSetBackfill",
        &[
            (json!({"startTime": null, "stopTime": null}), neither),
            (json!({"startTime": null, "stopTime": null, "reset": false}), neither),
            (json!({"startTime": null, "stopTime": null, "reset": true, "undo": "old"}), "spec: give reset or undo, not both"),
            (
                json!({"startTime": null, "undo": "old"}),
                "spec: undo takes no startTime and stopTime: they are those of the backfill that is undone",
            ),
            (
                json!({"startTime": null, "stopTime": null, "undo": "old", "transformation": {"sql": "SELECT 1"}}),
                "spec: undo takes no sources and transformation: the table's own history is used",
            ),
            (
                json!({"startTime": null, "stopTime": null, "undo": "old", "stores": ["Online"]}),
                "spec: undo works in the offline table; leave stores out, or give [Offline]; to rebuild the online store alone give the interval \
                 and stores [Online]",
            ),
            (
                json!({"startTime": null, "stopTime": null, "undo": "fix"}),
                ": spec.undo: a backfill cannot undo itself; give the undo a name of its own",
            ),
            (
                json!({"stores": ["Online"], "sources": []}),
                "spec: stores [Online] rebuilds the online store from the offline table and takes no sources and transformation",
            ),
            (json!({"stores": []}), "spec.stores: items"),
            (json!({"stores": ["Online", "Online"]}), "spec.stores: items"),
            (json!({"stores": ["Memory"]}), "spec.stores[0]: enum"),
            (json!({"featureSet": null}), "spec: featureSet is required"),
        ][..11],
    );
}

#[test]
fn nothing_of_another_namespace_and_no_unknown_field_can_be_said() {
    refused(
        "FeatureSetBackfill",
        &[
            (json!({"namespace": "other"}), "spec.namespace: unknown field"),
            (json!({"featureSet": "other/clicks"}), "spec.featureSet: pattern"),
            (json!({"image": "evil"}), "spec.image: unknown field"),
            (
                json!({"sources": [{"name": "a", "featureSet": {"name": "x", "namespace": "other"}}]}),
                "spec.sources[0].featureSet.namespace: unknown field",
            ),
        ],
    );
}

#[test]
fn the_start_lies_before_the_stop_in_whatever_format() {
    let times = |start: &str, stop: &str| json!({"startTime": start, "stopTime": stop});
    for (start, stop) in [
        ("2024-05-01", "2024-05-01T00:00:00.001"),
        ("2024-05-01 00:00:00", "2024-05-01T00:00:00.001Z"),
        ("2024-05-01T00:00:00Z", "2024-05-01 00:00:01"),
        ("2024-05-01T00:00:00.5", "2024-05-01T00:00:00.501"),
        ("1999-12-31", "2000-01-01"),
    ] {
        accepted("FeatureSetBackfill", &[times(start, stop)]);
    }
    for (start, stop) in [
        ("2024-05-01", "2024-05-01"),
        ("2024-05-02", "2024-05-01"),
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("2024-05-01T00:00:00.5", "2024-05-01 00:00:00.500Z"),
        ("2024-05-01T00:00:00.001", "2024-05-01"),
        ("2024-05-01T12:00:00Z", "2024-05-01 00:00:00"),
    ] {
        refused("FeatureSetBackfill", &[(times(start, stop), "spec: startTime must be before stopTime")]);
    }
    let mut reset = times("2024-05-02", "2024-05-01");
    merge(&mut reset, &json!({"reset": true}));
    refused("FeatureSetBackfill", &[(reset, "spec: startTime must be before stopTime")]);
    let unreadable = times("yesterday", "2024-05-01");
    assert_eq!(refusals("FeatureSetBackfill", &object("FeatureSetBackfill", &unreadable), None).len(), 1, "only its own message");
}

#[test]
fn texts_and_numbers_of_a_backfill_are_limited() {
    refused(
        "FeatureSetBackfill",
        &[
            (json!({"comment": "a\nb"}), "spec.comment: holds a control character; write it in one line"),
            (json!({"comment": "a\u{85}b"}), "spec.comment: holds a control character; write it in one line"),
            (json!({"comment": "x".repeat(1025)}), "spec.comment: type or length"),
            (json!({"runId": "a b"}), "spec.runId: pattern"),
            (json!({"retries": 101}), "spec.retries: range"),
            (json!({"retries": -1}), "spec.retries: range"),
            (json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished: range"),
            (
                json!({"deadline": "soon"}),
                "spec.deadline: is not a duration; write for instance 90s, 15m, 1h30m or 2d, more than zero and at most 36500d",
            ),
            (
                json!({"deadline": "0d0s"}),
                "spec.deadline: is not a duration; write for instance 90s, 15m, 1h30m or 2d, more than zero and at most 36500d",
            ),
            (json!({"mode": "Dry"}), "spec.mode: enum"),
            (json!({"guards": {"maxShrinkPercent": 101}}), "spec.guards.maxShrinkPercent: range"),
            (
                json!({"guards": {"duplicates": {"policy": "KeepLast"}}}),
                "spec.guards.duplicates: KeepLast needs by: the column whose largest value is kept",
            ),
            (json!({"guards": {"duplicates": {"policy": "Fail", "by": "x"}}}), "spec.guards.duplicates: by is for KeepLast only"),
            (
                json!({"guards": {"checks": [{"name": "a", "predicate": "true"}, {"name": "a", "predicate": "true"}]}}),
                "spec.guards.checks: items",
            ),
        ],
    );
}

#[test]
fn names_of_all_resources_are_dns_labels_that_begin_with_a_letter() {
    for kind in KINDS {
        for name in ["Fix", "a.b", "1fix", "-fix", "fix-", "fïx", &"x".repeat(64)] {
            let mut object = object(kind, &json!({}));
            object["metadata"]["name"] = json!(name);
            let message = ": metadata.name is not a DNS label: write at most 63 of a-z, 0-9 and -, beginning with a letter and not ending with -";
            assert_eq!(refusals(kind, &object, None), [message], "{kind} {name}");
        }
        for name in ["a", "fix-2024-05", &"x".repeat(63)] {
            let mut object = object(kind, &json!({}));
            object["metadata"]["name"] = json!(name);
            assert_eq!(refusals(kind, &object, None), Vec::<String>::new(), "{kind} {name}");
        }
    }
}

// ---- updates of a backfill

/// What an update of a backfill is told; `status` is that of the stored object.
fn update(old: &Value, new: &Value, status: &Value) -> Vec<String> {
    let (mut old, mut new) = (object("FeatureSetBackfill", old), object("FeatureSetBackfill", new));
    (old["status"], new["status"]) = (status.clone(), status.clone());
    refusals("FeatureSetBackfill", &new, Some(&old))
}

fn running() -> Value {
    ended("Complete", "False")
}

fn ended(kind: &str, status: &str) -> Value {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "X", "message": "", "lastTransitionTime": "2024-05-01T00:00:00Z"});
    json!({"observedGeneration": 1, "conditions": [condition("Accepted", "True"), condition(kind, status)]})
}

const NONE: [String; 0] = [];

#[test]
fn what_is_replaced_and_how_never_changes() {
    let immutable = "spec: spec is immutable, except suspend, cancel, comment, ttlSecondsAfterFinished, mode (Plan to Apply) and runId (when the run \
                     has ended); create another backfill for another replacement";
    for change in [
        json!({"featureSet": "views"}),
        json!({"reset": true}),
        json!({"startTime": "2024-05-02"}),
        json!({"stopTime": null}),
        json!({"clusterTemplate": "large"}),
        json!({"sources": [{"name": "raw", "csv": {"uri": "s3://b/x"}}]}),
        json!({"transformation": {"sql": "SELECT 1"}}),
        json!({"stores": ["Offline"]}),
        json!({"guards": {"allowEmpty": true}}),
        json!({"onlineUnknown": "Replace"}),
        json!({"retries": 1}),
        json!({"deadline": "1h"}),
    ] {
        assert_eq!(update(&json!({}), &change, &running()), [immutable], "{change} added or changed");
        if change["startTime"].is_null() && change["stopTime"].is_null() && change["featureSet"].is_null() {
            assert_eq!(update(&change, &json!({}), &running()), [immutable], "{change} removed");
        }
        assert_eq!(update(&json!({}), &change, &ended("Complete", "True")), [immutable], "{change} not after the end either");
    }
    let undo = json!({"startTime": null, "stopTime": null, "undo": "old"});
    let mut other = undo.clone();
    other["undo"] = json!("other");
    assert_eq!(update(&undo, &other, &running()), [immutable]);
}

#[test]
fn every_field_of_the_spec_is_either_immutable_or_named_as_an_exception() {
    let schema = schema("FeatureSetBackfill");
    let rules = schema["properties"]["spec"]["x-kubernetes-validations"].as_array().expect("rules");
    let rule = rules
        .iter()
        .find(|rule| rule["message"].as_str().is_some_and(|text| text.starts_with("spec is immutable")))
        .expect("the rule");
    for field in schema["properties"]["spec"]["properties"].as_object().expect("fields").keys() {
        let immutable = rule["rule"].as_str().expect("text").contains(&format!("self.{field} == oldSelf.{field}"));
        let exception = ["suspend", "cancel", "comment", "ttlSecondsAfterFinished", "mode", "runId"].contains(&field.as_str());
        assert!(immutable != exception, "{field}");
    }
}

#[test]
fn suspend_comment_and_ttl_may_change_at_any_time() {
    let old = json!({"suspend": true, "comment": "a", "ttlSecondsAfterFinished": 1});
    for new in [json!({}), json!({"suspend": false, "comment": "b", "ttlSecondsAfterFinished": 2})] {
        assert_eq!(update(&old, &new, &running()), NONE);
        assert_eq!(update(&new, &old, &running()), NONE);
    }
}

#[test]
fn cancel_is_set_once() {
    let message = ["spec: cancel cannot be taken back; change runId to run the backfill again"];
    assert_eq!(update(&json!({}), &json!({"cancel": true}), &running()), NONE);
    assert_eq!(update(&json!({"cancel": false}), &json!({"cancel": true}), &running()), NONE);
    assert_eq!(update(&json!({"cancel": true}), &json!({"cancel": true, "suspend": true}), &running()), NONE);
    assert_eq!(update(&json!({"cancel": true}), &json!({"cancel": false}), &ended("Failed", "True")), message);
    assert_eq!(update(&json!({"cancel": true}), &json!({}), &ended("Failed", "True")), message);
    assert_eq!(
        update(&json!({"cancel": true}), &json!({"runId": "2"}), &ended("Failed", "True")),
        NONE,
        "with another run it may"
    );
}

#[test]
fn mode_goes_from_plan_to_apply_only() {
    let message = ["spec: mode changes from Plan to Apply only; change runId to plan again"];
    let (plan, apply) = (json!({"mode": "Plan"}), json!({"mode": "Apply"}));
    assert_eq!(update(&plan, &apply, &running()), NONE);
    assert_eq!(update(&plan, &json!({}), &running()), NONE, "Apply is the default");
    assert_eq!(update(&json!({}), &apply, &running()), NONE);
    assert_eq!(update(&apply, &plan, &running()), message);
    assert_eq!(update(&json!({}), &plan, &running()), message);
    assert_eq!(
        update(&apply, &json!({"mode": "Plan", "runId": "2"}), &ended("Complete", "True")),
        NONE,
        "with another run it may"
    );
}

#[test]
fn run_id_changes_only_when_the_run_has_ended_or_rests_as_a_plan() {
    let message = [
        ": spec.runId changes only when the run has ended (Complete or Failed) or its plan is ready (Planned); cancel it, or wait for it",
    ];
    for (old, new) in
        [(json!({}), json!({"runId": "1"})), (json!({"runId": "1"}), json!({"runId": "2"})), (json!({"runId": "1"}), json!({}))]
    {
        assert_eq!(update(&old, &new, &ended("Complete", "True")), NONE);
        assert_eq!(update(&old, &new, &ended("Failed", "True")), NONE);
        assert_eq!(update(&old, &new, &ended("Ready", "True")), NONE, "a plan rests");
        for status in [
            running(),
            ended("Ready", "Unknown"),
            ended("Failed", "False"),
            ended("Failed", "Unknown"),
            ended("Stalled", "True"),
            json!({"observedGeneration": -1}),
        ] {
            assert_eq!(update(&old, &new, &status), message, "{status}");
        }
        assert_eq!(update(&new, &new, &running()), NONE);
    }
}

// ---- the other resources

#[test]
fn valid_feature_sets_are_accepted() {
    accepted(
        "FeatureSet",
        &[
            json!({}),
            json!({"store": "main", "view": "Clicks_v2-x", "windows": {"every": "1d", "stamp": "Stop"}, "online": {"enabled": false, "ttl": "30d"}}),
            json!({"windows": {"cron": "30 6 * * MON-FRI"}, "offline": {"table": "team/clicks_v2", "partitionBy": "Month", "dateColumn": "month"}}),
            json!({"backfill": {"startTime": "2020-01-01", "clusterTemplate": "LARGE", "guards": {"allowEmpty": true}}}),
            json!({"features": [{"name": "event_date", "type": "string"}], "offline": {"partitionBy": "None"}}),
            json!({"sources": [
                {"name": "a", "csv": {"uri": "gs://b_u/x.csv"}}, {"name": "b", "json": {"uri": "abfss://c@acc.dfs.core.windows.net/x"}},
                {"name": "c", "delta": {"uri": "file:///store/x"}}, {"name": "d", "featureSet": {"name": "views"}}
            ]}),
        ],
    );
}

#[test]
fn a_feature_set_that_contradicts_itself_is_refused() {
    let clash = "spec: the table's date column (offline.dateColumn, event_date by default) is the name of another column; give it another name, or \
                 partition by None";
    let one_format = "spec.sources[0]: give exactly one of parquet, csv, json, delta and featureSet";
    refused(
        "FeatureSet",
        &[
            (json!({"entities": []}), "spec.entities: items"),
            (json!({"features": []}), "spec.features: items"),
            (json!({"features": [{"name": "n", "type": "int64"}, {"name": "n", "type": "bool"}]}), "spec.features: items"),
            (json!({"features": [{"name": "n", "type": "decimal"}]}), "spec.features[0].type: enum"),
            (json!({"entities": [{"name": "k", "type": "float64"}]}), "spec.entities[0].type: enum"),
            (json!({"features": [{"name": "user_id", "type": "int64"}]}), "spec: a column is an entity or a feature, not both"),
            (json!({"timestampColumn": "n"}), "spec: timestampColumn is the name of an entity or a feature"),
            (json!({"timestampColumn": "user_id"}), "spec: timestampColumn is the name of an entity or a feature"),
            (json!({"timestampColumn": "event_date"}), clash),
            (json!({"features": [{"name": "event_date", "type": "string"}]}), clash),
            (json!({"offline": {"dateColumn": "n"}}), clash),
            (json!({"timestampColumn": "x'); DROP"}), "spec.timestampColumn: pattern"),
            (json!({"sources": [{"name": "1a", "csv": {"uri": "s3://b/x"}}]}), "spec.sources[0].name: pattern"),
            (json!({"sources": [{"name": "a"}]}), one_format),
            (json!({"sources": [{"name": "a", "csv": {"uri": "s3://b/x"}, "json": {"uri": "s3://b/x"}}]}), one_format),
            (json!({"windows": {}}), "spec.windows: give exactly one of every and cron"),
            (json!({"windows": {"every": "1d", "cron": "0 0 * * *"}}), "spec.windows: give exactly one of every and cron"),
            (
                json!({"windows": {"cron": "@daily"}}),
                "spec.windows.cron: is not a cron expression of five fields (minute hour day-of-month month day-of-week), in UTC",
            ),
            (json!({"view": "1view"}), "spec.view: pattern"),
            (json!({"offline": {"table": "a/../b"}}), "spec.offline.table: holds . or ..; name a folder below the store's"),
            (json!({"offline": {"table": "/a"}}), "spec.offline.table: pattern"),
            (json!({"transformation": {"sql": ""}}), "spec.transformation.sql: type or length"),
        ],
    );
}

#[test]
fn the_view_of_a_feature_set_is_immutable() {
    let message = ["spec: view is immutable: it is part of every online field; create another feature set"];
    let update = |old: Value, new: Value| refusals("FeatureSet", &object("FeatureSet", &new), Some(&object("FeatureSet", &old)));
    assert_eq!(update(json!({"view": "a"}), json!({"view": "b"})), message);
    assert_eq!(update(json!({}), json!({"view": "b"})), message);
    assert_eq!(update(json!({"view": "a"}), json!({})), message);
    assert_eq!(update(json!({"view": "a"}), json!({"view": "a", "timestampColumn": "u"})), NONE);
}

#[test]
fn stores_are_held_to_their_rules() {
    let volume = "spec: offline.volumeClaim is missing: file:// URIs and SQLite files lie on it";
    let sqlite = |path: &str| json!({"online": {"redis": null, "sqlite": {"path": path}}, "offline": {"volumeClaim": "data"}});
    accepted(
        "FeatureStore",
        &[
            json!({}),
            json!({"online": null, "project": "shop", "defaultClusterTemplate": "Small", "maxConcurrentBackfills": 8}),
            json!({"offline": {"uri": "file:///store/tables", "volumeClaim": "data", "credentialsSecret": "keys"}}),
            json!({"online": {"redis": {"keyTtl": "30d"}}}),
            sqlite("/store/online.db"),
        ],
    );
    refused(
        "FeatureStore",
        &[
            (json!({"offline": {"uri": "file:///store/tables"}}), volume),
            (json!({"online": {"redis": null, "sqlite": {"path": "/store/x.db"}}}), volume),
            (json!({"online": {"redis": null}}), "spec.online: give exactly one of redis and sqlite"),
            (
                json!({"online": {"sqlite": {"path": "/store/x.db"}}, "offline": {"volumeClaim": "data"}}),
                "spec.online: give exactly one of redis and sqlite",
            ),
            (sqlite("/etc/passwd"), "spec.online.sqlite.path: pattern"),
            (sqlite("/store/../x"), "spec.online.sqlite.path: holds . or ..; name a file below /store/"),
            (json!({"maxConcurrentBackfills": 0}), "spec.maxConcurrentBackfills: range"),
            (json!({"online": {"redis": {"urlSecret": {"name": "../x"}}}}), "spec.online.redis.urlSecret.name: pattern"),
            (json!({"online": {"redis": {"urlSecret": {"key": ".."}}}}), "spec.online.redis.urlSecret.key: pattern"),
        ],
    );
}

#[test]
fn templates_are_held_to_their_rules() {
    accepted(
        "ClusterTemplate",
        &[
            json!({}),
            json!({"nodes": 1, "scratch": "1.5Ti", "online": {"parallelism": 8, "cores": 1, "memory": "512Mi"}, "deadline": "2d"}),
            json!({"engine": "Spark", "nodes": 8, "sparkConf": {"spark.sql.shuffle.partitions": "64"}, "tolerations": [{"operator": "Exists", "effect": ""}]}),
        ],
    );
    refused(
        "ClusterTemplate",
        &[
            (json!({"nodes": 2}), "spec: nodes: DataFusion has exactly one node"),
            (json!({"sparkConf": {"a": "b"}}), "spec: sparkConf is for engine Spark only"),
            (json!({"memory": "lots"}), "spec.memory: is not a size; write for instance 512Mi, 4Gi or 1.5Gi"),
            (json!({"memory": "0Gi"}), "spec.memory: is not a size; write for instance 512Mi, 4Gi or 1.5Gi"),
            (json!({"cores": 0}), "spec.cores: range"),
            (json!({"engine": "Flink"}), "spec.engine: enum"),
        ],
    );
}
