mod lookup;

use super::*;
use crate::contract::{OnlineTarget, SourceFormat};
use crate::time::{Interval, parse_time};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What a namespace holds: one feature set, its store, three templates. Tests change one thing each.
struct World {
    backfill: Value,
    feature_sets: Vec<Value>,
    stores: Vec<Value>,
    templates: Vec<Value>,
    labels: Option<BTreeMap<String, String>>,
    now: &'static str,
}

fn world(spec: Value) -> World {
    let mut backfill = json!({"featureSet": "clicks"});
    merge(&mut backfill, spec);
    let template = |name: &str, memory: &str| json!({"metadata": {"name": name}, "spec": {"engine": "DataFusion", "cores": 2, "memory": memory}});
    World {
        backfill,
        feature_sets: vec![json!({
            "metadata": {"name": "clicks", "generation": 7},
            "spec": {
                "entities": [{"name": "user_id", "type": "int64"}],
                "timestampColumn": "t",
                "features": [{"name": "n", "type": "int64"}, {"name": "tags", "type": "list<string>"}],
                "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw/"}}],
                "transformation": {"sql": "SELECT * FROM raw"}
            }
        })],
        stores: vec![json!({
            "metadata": {"name": "default"},
            "spec": {"offline": {"uri": "s3://bucket/tables/"}, "online": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}}}
        })],
        templates: vec![template("nano", "512Mi"), template("small", "2Gi"), template("large", "16Gi")],
        labels: None,
        now: "2024-06-01 12:00:00.750",
    }
}

/// Lays one JSON value over another, object by object.
fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}

fn object<T: DeserializeOwned>(kind: &str, value: &Value) -> T {
    let mut value = value.clone();
    merge(&mut value, json!({"apiVersion": "featureset.dev/v1alpha1", "kind": kind}));
    serde_json::from_value(value).expect(kind)
}

impl World {
    fn feature_set(mut self, spec: Value) -> Self {
        merge(&mut self.feature_sets[0]["spec"], spec);
        self
    }

    fn store(mut self, spec: Value) -> Self {
        merge(&mut self.stores[0]["spec"], spec);
        self
    }

    fn template(mut self, spec: Value) -> Self {
        merge(&mut self.templates[1]["spec"], spec);
        self
    }

    fn resolve_as(&self, name: &str) -> Result<Resolution, Rejection> {
        let spec: FeatureSetBackfillSpec = serde_json::from_value(self.backfill.clone()).expect("a spec");
        let feature_sets: Vec<FeatureSet> = self.feature_sets.iter().map(|value| object("FeatureSet", value)).collect();
        let stores: Vec<FeatureStore> = self.stores.iter().map(|value| object("FeatureStore", value)).collect();
        let templates: Vec<ClusterTemplate> = self.templates.iter().map(|value| object("ClusterTemplate", value)).collect();
        resolve(&Input {
            namespace: "prod",
            name,
            uid: Some("uid-1"),
            spec: &spec,
            now: at(self.now),
            feature_sets: feature_sets.iter().collect(),
            stores: stores.iter().collect(),
            templates: templates.iter().collect(),
            namespace_labels: self.labels.as_ref(),
        })
    }

    fn resolve(&self) -> Result<Resolution, Rejection> {
        self.resolve_as("fix")
    }

    fn request(&self) -> Request {
        self.resolve().expect("valid").request
    }

    fn warnings(&self) -> Vec<(Reason, String)> {
        self.resolve().expect("valid").warnings.into_iter().map(|notice| (notice.reason, notice.message)).collect()
    }

    #[track_caller]
    fn refused(&self, reason: Reason, message: &str) {
        let rejection = self.resolve().expect_err(message);
        assert_eq!((rejection.reason, rejection.message.as_str()), (reason, message));
    }
}

fn at(text: &str) -> DateTime<Utc> {
    parse_time("t", text).expect(text)
}

fn interval(start: &str, stop: &str) -> Interval {
    Interval::new(at(start), at(stop)).expect("not empty")
}

fn may() -> Value {
    json!({"startTime": "2024-05-01", "stopTime": "2024-06-01"})
}

// ---- boundaries

#[test]
fn both_bounds_as_given() {
    let request = world(may()).request();
    assert_eq!(request.scope, Scope::Interval { interval: interval("2024-05-01", "2024-06-01") });
    assert_eq!(request.now, at("2024-06-01 12:00:00"), "now is cut to a whole second");
}

#[test]
fn a_missing_stop_is_now() {
    let request = world(json!({"startTime": "2024-05-01"})).request();
    assert_eq!(request.scope, Scope::Interval { interval: interval("2024-05-01", "2024-06-01 12:00:00") });
    assert!(world(json!({"startTime": "2024-05-01"})).warnings().is_empty());
}

#[test]
fn a_missing_start_is_that_of_the_feature_set() {
    let world = world(json!({"stopTime": "2024-06-01"})).feature_set(json!({"backfill": {"startTime": "2020-01-01"}}));
    assert_eq!(world.request().scope, Scope::Interval { interval: interval("2020-01-01", "2024-06-01") });
}

#[test]
fn a_start_that_nobody_gives_is_refused_and_never_1970() {
    for spec in [json!({"stopTime": "2024-06-01"}), json!({"reset": true})] {
        world(spec).refused(
            Reason::StartTimeUnknown,
            "spec.startTime is not given and the feature set \"clicks\" has no backfill.startTime; give one of them",
        );
    }
}

#[test]
fn future_stop_time_is_rounded_down_to_now() {
    let world = world(json!({"startTime": "2024-05-01", "stopTime": "2030-01-01"}));
    assert_eq!(world.request().scope, Scope::Interval { interval: interval("2024-05-01", "2024-06-01 12:00:00") });
    assert_eq!(
        world.warnings(),
        [(
            Reason::StopClamped,
            "the stop 2030-01-01T00:00:00Z lies in the future and was rounded down to 2024-06-01T12:00:00Z".to_owned()
        )]
    );
}

#[test]
fn a_stop_at_now_is_not_in_the_future() {
    assert!(world(json!({"startTime": "2024-05-01", "stopTime": "2024-06-01 12:00:00"})).warnings().is_empty());
}

#[test]
fn a_start_in_the_future_is_refused() {
    world(json!({"startTime": "2024-06-02", "stopTime": "2030-01-01"}))
        .refused(Reason::StartInFuture, "the start 2024-06-02T00:00:00Z lies in the future; it is 2024-06-01T12:00:00Z now");
}

#[test]
fn a_start_that_is_not_before_the_stop_is_refused_with_both_instants() {
    for (start, stop, shown) in [
        ("2024-05-01", "2024-05-01T00:00:00Z", "the start 2024-05-01T00:00:00Z is not before the stop 2024-05-01T00:00:00Z"),
        ("2024-05-02", "2024-05-01", "the start 2024-05-02T00:00:00Z is not before the stop 2024-05-01T00:00:00Z"),
        ("2040-05-02", "2040-05-01", "the start 2040-05-02T00:00:00Z is not before the stop 2040-05-01T00:00:00Z"),
        (
            "2024-05-01 00:00:00.001",
            "2024-05-01",
            "the start 2024-05-01T00:00:00.001Z is not before the stop 2024-05-01T00:00:00Z",
        ),
    ] {
        for reset in [false, true] {
            let world = world(json!({"startTime": start, "stopTime": stop, "reset": reset}));
            world.refused(Reason::EmptyInterval, &format!("startTime must be before stopTime: {shown}"));
        }
    }
    world(json!({"startTime": "2024-06-01 12:00:00"})).refused(
        Reason::EmptyInterval,
        "startTime must be before stopTime: the start 2024-06-01T12:00:00Z is not before the stop 2024-06-01T12:00:00Z",
    );
}

#[test]
fn a_stop_before_the_feature_sets_default_start_is_refused_with_both_instants() {
    world(json!({"stopTime": "2019-01-01"})).feature_set(json!({"backfill": {"startTime": "2020-01-01"}})).refused(
        Reason::EmptyInterval,
        "startTime must be before stopTime: the start 2020-01-01T00:00:00Z is not before the stop 2019-01-01T00:00:00Z",
    );
}

#[test]
fn a_time_that_cannot_be_read_is_refused_with_its_field() {
    for (text, part) in [
        ("yesterday", "is not a time; write 2024-05-01,"),
        ("2024-02-30", "is no such day"),
        ("2024-06-30T23:59:60", "use 00:00:00 of the next day"),
        ("2024-05-01T00:00:00+02:00", "times are UTC"),
        ("2024-05-01T00:00:00.0001", "finer than 1 ms"),
        ("1850-01-01", "years are 1900 to 9999"),
    ] {
        for field in ["startTime", "stopTime"] {
            let rejection = world(json!({field: text})).resolve().expect_err(text);
            assert_eq!(rejection.reason, Reason::InvalidTime);
            assert!(rejection.message.starts_with(&format!("spec.{field}: \"{text}\" ")), "{rejection}");
            assert!(rejection.message.contains(part), "{rejection}");
        }
    }
    let rejection = world(json!({"stopTime": "2024-06-01"}))
        .feature_set(json!({"backfill": {"startTime": "soon"}}))
        .resolve()
        .expect_err("soon");
    assert_eq!(rejection.reason, Reason::InvalidTime);
    assert!(rejection.message.starts_with("feature set \"clicks\": spec.backfill.startTime: \"soon\""), "{rejection}");
}

// ---- reset, undo, stores

#[test]
fn a_reset_with_a_defaulted_stop_deletes_what_lies_before_now() {
    let world = world(json!({"reset": true})).feature_set(json!({"backfill": {"startTime": "2020-01-01"}}));
    let expected =
        Scope::Reset { interval: interval("2020-01-01", "2024-06-01 12:00:00"), delete_before: Some(at("2024-06-01 12:00:00")) };
    assert_eq!(world.request().scope, expected);
}

#[test]
fn a_reset_with_a_given_stop_deletes_every_row_and_fills_up_to_the_stop() {
    let mut spec = may();
    merge(&mut spec, json!({"reset": true}));
    assert_eq!(world(spec).request().scope, Scope::Reset { interval: interval("2024-05-01", "2024-06-01"), delete_before: None });
}

#[test]
fn exactly_one_of_reset_bounds_and_undo_is_asked_for() {
    let neither = "spec: give reset: true (all data), startTime and/or stopTime (an interval), or undo (an earlier backfill)";
    for (spec, message) in [
        (json!({}), neither),
        (json!({"reset": false}), neither),
        (json!({"reset": true, "undo": "old"}), "spec: give reset or undo, not both"),
        (
            json!({"undo": "old", "stopTime": "2024-06-01"}),
            "spec.undo takes no startTime and stopTime: they are those of the backfill that is undone",
        ),
        (json!({"undo": "old", "sources": []}), "spec.undo takes no sources and transformation: the table's own history is used"),
        (
            json!({"undo": "old", "transformation": {"sql": "SELECT 1"}}),
            "spec.undo takes no sources and transformation: the table's own history is used",
        ),
        (json!({"undo": "fix"}), "spec.undo: a backfill cannot undo itself; give the undo a name of its own"),
    ] {
        world(spec).refused(Reason::InvalidRequest, message);
    }
    assert!(world(json!({"reset": false, "startTime": "2024-05-01"})).resolve().is_ok());
}

#[test]
fn an_undo_takes_the_key_of_the_newest_published_run_from_the_ledger() {
    let entry = |backfill: &str, key: &str| json!({"backfill": backfill, "key": key, "version": 1, "definition": "d", "at": "2024-05-01T00:00:00Z"});
    let mut world = world(json!({"undo": "old"}));
    assert_eq!(
        world.request().scope,
        Scope::Undo { backfill: "old".to_owned(), key: None },
        "without a ledger the worker looks it up"
    );
    world.feature_sets[0]["status"] = json!({"ledger": [entry("other", "k3"), entry("old", "k2"), entry("old", "k1")]});
    let request = world.request();
    assert_eq!(request.scope, Scope::Undo { backfill: "old".to_owned(), key: Some("k2".to_owned()) });
    assert_eq!(request.windows, 0);
}

#[test]
fn an_undo_needs_no_working_transformation_sources_or_schedule() {
    let broken = json!({
        "transformation": {"sql": "DROP TABLE x"}, "windows": {"cron": "never"},
        "sources": [{"name": "raw", "featureSet": {"name": "gone"}}]
    });
    assert!(world(json!({"undo": "old"})).feature_set(broken.clone()).resolve().is_ok());
    let mut spec = may();
    merge(&mut spec, json!({"stores": ["Online"]}));
    assert!(world(spec).feature_set(broken.clone()).resolve().is_ok(), "nor does a rebuild of the online store");
    assert!(world(may()).feature_set(broken).resolve().is_err());
}

#[test]
fn stores_default_to_what_the_feature_set_has() {
    let with = |stores: Value| {
        let mut spec = may();
        merge(&mut spec, json!({"stores": stores}));
        world(spec)
    };
    assert_eq!(world(may()).request().stores, Stores::Both);
    assert_eq!(with(json!(["Offline"])).request().stores, Stores::Offline);
    assert_eq!(with(json!(["Online"])).request().stores, Stores::Online);
    assert_eq!(with(json!(["Online", "Offline"])).request().stores, Stores::Both);
    let offline_only = world(may()).feature_set(json!({"online": {"enabled": false}}));
    assert_eq!(offline_only.request().stores, Stores::Offline);
    assert_eq!(offline_only.request().online, None);
    with(json!(["Online"]))
        .feature_set(json!({"online": {"enabled": false}}))
        .refused(Reason::InvalidRequest, "spec.stores: the feature set \"clicks\" has online.enabled: false; give [Offline]");
    with(json!(["Offline", "Online"]))
        .store(json!({"online": null}))
        .refused(Reason::InvalidRequest, "spec.stores: the feature store \"default\" has no online store; give [Offline]");
}

#[test]
fn stores_are_given_once_each_and_online_alone_takes_nothing_to_compute() {
    for stores in [json!([]), json!(["Online", "Online"]), json!(["Offline", "Online", "Offline"])] {
        world(json!({"startTime": "2024-05-01", "stores": stores}))
            .refused(Reason::InvalidRequest, "spec.stores: give Offline, Online or both, each once");
    }
    for extra in [json!({"sources": []}), json!({"transformation": {"sql": "SELECT 1"}})] {
        let mut spec = json!({"startTime": "2024-05-01", "stores": ["Online"]});
        merge(&mut spec, extra);
        world(spec).refused(
            Reason::InvalidRequest,
            "spec.stores: [Online] rebuilds the online store from the offline table and takes no sources and transformation",
        );
    }
    let rejection = world(json!({"undo": "old", "stores": ["Online"]})).resolve().expect_err("undo online");
    assert_eq!(rejection.reason, Reason::InvalidRequest);
    assert_eq!(world(json!({"undo": "old", "stores": ["Offline"]})).request().stores, Stores::Offline);
}

// ---- references

#[test]
fn a_missing_reference_says_what_was_probably_meant_and_may_recover() {
    let mut unknown = world(may());
    unknown.backfill["featureSet"] = json!("click");
    unknown
        .refused(Reason::FeatureSetNotFound, "no feature set \"click\" in \"prod\"; did you mean \"clicks\"? there are: clicks");
    assert!(unknown.resolve().expect_err("unknown").recovers());

    let store = world(may()).feature_set(json!({"store": "other"}));
    store.refused(Reason::StoreNotFound, "no feature store \"other\" in \"prod\"; there are: default");
    assert!(store.resolve().expect_err("unknown").recovers());

    let mut spec = may();
    merge(&mut spec, json!({"clusterTemplate": "LRAGE"}));
    let template = world(spec);
    template.refused(
        Reason::ClusterTemplateNotFound,
        "no cluster template \"LRAGE\"; did you mean \"large\"? there are: large, nano, small",
    );
    assert!(template.resolve().expect_err("unknown").recovers());

    let source = world(may()).feature_set(json!({"sources": [{"name": "raw", "featureSet": {"name": "views"}}]}));
    source.refused(
        Reason::SourceFeatureSetNotFound,
        "feature set: spec.sources: source \"raw\": no feature set \"views\" in \"prod\"; there are: clicks",
    );
    assert!(source.resolve().expect_err("unknown").recovers());
    assert!(!world(json!({})).resolve().expect_err("neither").recovers(), "a wrong request does not");
}

#[test]
fn a_template_is_found_in_any_case_from_the_backfill_the_feature_set_the_store_or_the_default() {
    let store = json!({"defaultClusterTemplate": "nano"});
    let feature_set = json!({"backfill": {"clusterTemplate": "Large"}});
    let mut spec = may();
    assert_eq!(world(spec.clone()).request().template.name, "small");
    assert_eq!(world(spec.clone()).store(store.clone()).request().template.name, "nano");
    assert_eq!(world(spec.clone()).store(store.clone()).feature_set(feature_set.clone()).request().template.name, "large");
    merge(&mut spec, json!({"clusterTemplate": "SMALL"}));
    assert_eq!(world(spec).store(store).feature_set(feature_set).request().template.name, "small");
}

#[test]
fn a_template_for_other_namespaces_may_not_be_used() {
    let mut world = world(may()).template(json!({"namespaceSelector": {"tier": "gold"}}));
    assert!(world.resolve().is_ok(), "without a cluster there are no labels");
    world.labels = Some(BTreeMap::from([("tier".to_owned(), "gold".to_owned())]));
    assert!(world.resolve().is_ok());
    world.labels = Some(BTreeMap::new());
    world.refused(
        Reason::ClusterTemplateNotFound,
        "the cluster template \"small\" may not be used in \"prod\": it asks for the namespace label tier=gold",
    );
}

#[test]
fn sizes_are_read_from_the_template_with_defaults() {
    let request = world(may()).request();
    let gib = 1_u64 << 30;
    assert_eq!(
        (request.template.size.memory_bytes, request.template.size.scratch_bytes, request.template.size.cores),
        (2 * gib, 4 * gib, 2)
    );
    assert_eq!(
        (request.template.online.memory_bytes, request.template.online.cores, request.template.online_parallelism),
        (gib, 1, 1)
    );
    assert_eq!((request.template.nodes, request.deadline_seconds, request.retries), (1, 86_400, 3));

    let spark = json!({
        "engine": "Spark", "nodes": 4, "scratch": "10Gi", "deadline": "6h", "sparkConf": {"spark.sql.shuffle.partitions": "400"},
        "online": {"parallelism": 8, "cores": 2, "memory": "3Gi"}
    });
    let mut spec = may();
    merge(&mut spec, json!({"deadline": "2h", "retries": 0}));
    let request = world(spec).template(spark).request();
    assert_eq!(request.template.engine, crate::api::Engine::Spark);
    assert_eq!((request.template.nodes, request.template.size.scratch_bytes), (4, 10 * gib));
    assert_eq!((request.template.deadline_seconds, request.deadline_seconds, request.retries), (21_600, 7_200, 0));
    assert_eq!(request.online.expect("redis").parallelism, 8);
}

#[test]
fn a_template_that_contradicts_itself_is_refused() {
    for (spec, part) in [
        (json!({"nodes": 2}), "DataFusion has exactly one node"),
        (json!({"nodes": 0}), "Spark at least one"),
        (json!({"sparkConf": {"a": "b"}}), "for engine Spark only"),
        (
            json!({"engine": "Spark", "sparkConf": {"spark.sql.ansi.enabled": "false"}}),
            "\"spark.sql.ansi.enabled\" cannot be set",
        ),
        (json!({"engine": "Spark", "memory": "1Gi"}), "less than 2Gi, which Spark needs"),
        (json!({"memory": "lots"}), "spec.memory: \"lots\" is not a size"),
        (json!({"memory": "1Mi"}), "less than 128Mi"),
        (json!({"scratch": "-"}), "spec.scratch"),
        (json!({"cores": 0}), "spec.cores is 0"),
        (json!({"deadline": "soon"}), "spec.deadline: \"soon\" is not a duration"),
        (json!({"online": {"parallelism": 0, "cores": 1, "memory": "1Gi"}}), "spec.online.parallelism is 0"),
        (json!({"online": {"parallelism": 1, "cores": 1, "memory": ""}}), "spec.online.memory"),
    ] {
        let rejection = world(may()).template(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, Reason::InvalidStore);
        assert!(rejection.message.starts_with("cluster template \"small\": ") && rejection.message.contains(part), "{rejection}");
    }
}

// ---- definition

#[test]
fn sources_of_the_backfill_replace_those_of_the_same_name_and_add_others() {
    let mut spec = may();
    merge(
        &mut spec,
        json!({
            "sources": [{"name": "extra", "csv": {"uri": "gs://b/x.csv"}}, {"name": "raw", "delta": {"uri": "abfss://c@a.dfs.core.windows.net/t"}}],
            "transformation": {"sql": "SELECT * FROM raw, extra"}
        }),
    );
    let definition = world(spec).request().definition;
    let sources: Vec<_> =
        definition.sources.iter().map(|source| (source.name.as_str(), source.format, source.uri.as_str())).collect();
    assert_eq!(
        sources,
        [("raw", SourceFormat::Delta, "abfss://c@a.dfs.core.windows.net/t"), ("extra", SourceFormat::Csv, "gs://b/x.csv")]
    );
    assert_eq!(definition.sql, "SELECT * FROM raw, extra");
    assert_ne!(definition.hash, world(may()).request().definition.hash);
}

#[test]
fn a_feature_set_as_a_source_is_its_table() {
    let other = |store: &str| {
        json!({
            "metadata": {"name": "views"},
            "spec": {
                "store": store, "entities": [{"name": "k", "type": "string"}], "timestampColumn": "t", "features": [{"name": "f", "type": "bool"}],
                "sources": [], "transformation": {"sql": ""}, "offline": {"table": "team/views_v2"}
            }
        })
    };
    let mut world = world(may()).feature_set(json!({"sources": [{"name": "raw", "featureSet": {"name": "views"}}]}));
    world.feature_sets.push(other("default"));
    let source = world.request().definition.sources[0].clone();
    assert_eq!((source.format, source.uri.as_str()), (SourceFormat::Delta, "s3://bucket/tables/team/views_v2"));

    world.feature_sets[1] = other("secret");
    world
        .stores
        .push(json!({"metadata": {"name": "secret"}, "spec": {"offline": {"uri": "s3://other/", "credentialsSecret": "keys"}}}));
    let rejection = world.resolve().expect_err("other credentials");
    assert_eq!(rejection.reason, Reason::InvalidFeatureSet);
    assert!(rejection.message.ends_with("which has other credentials or another volume"), "{rejection}");
}

#[test]
fn a_source_that_contradicts_itself_is_refused() {
    for (source, reason, part) in [
        (json!({"name": "raw"}), Reason::InvalidRequest, "give exactly one of parquet, csv, json, delta and featureSet"),
        (
            json!({"name": "raw", "csv": {"uri": "s3://b/x"}, "json": {"uri": "s3://b/x"}}),
            Reason::InvalidRequest,
            "exactly one of",
        ),
        (
            json!({"name": "raw", "csv": {"uri": "s3://b/x"}, "featureSet": {"name": "x"}}),
            Reason::InvalidRequest,
            "exactly one of",
        ),
        (json!({"name": "x'); DROP", "csv": {"uri": "s3://b/x"}}), Reason::InvalidRequest, "is not a name"),
        (json!({"name": "RAW", "csv": {"uri": "s3://b/x"}}), Reason::InvalidRequest, "the name of two sources"),
        (json!({"name": "raw", "csv": {"uri": "https://b/x"}}), Reason::SourceNotFound, "has an unknown scheme; write s3://"),
    ] {
        let mut spec = may();
        merge(&mut spec, json!({"sources": [source]}));
        let rejection = world(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, reason, "{rejection}");
        assert!(rejection.message.contains(part), "{rejection}");
    }
}

#[test]
fn uris_name_an_object_store_or_the_volume_and_nothing_else() {
    for uri in [
        "s3://bucket",
        "s3://bucket/a/b=1/c.parquet",
        "gs://b_u/x/",
        "abfss://c@acc.dfs.core.windows.net/x",
        "file:///store",
        "file:///store/x/y",
    ] {
        assert_eq!(place::check_uri(uri), Ok(()), "{uri}");
    }
    for uri in [
        "",
        "bucket/x",
        "/store/x",
        "S3://b/x",
        "s3:///x",
        "s3://",
        "s3://key:secret@bucket/x",
        "s3://b/x?y=1",
        "s3://b/x#y",
        "s3://b/*.csv",
        "s3://b/a b",
        "s3://b/../x",
        "s3://b/x/..",
        "s3://b/./x",
        "s3://b//x",
        "s3://b/%2e%2e/x",
        "s3://b/x\u{0}",
        "abfss://acc/x",
        "abfss://c@/x",
        "file://host/store/x",
        "file:///etc/passwd",
        "file:///storex",
        "file:///store/../etc",
        "file:/store/x",
        "http://b/x",
        "ftp://b/x",
        "memory:///x",
        "s3://b/x'; DROP",
    ] {
        assert!(place::check_uri(uri).is_err(), "accepted: {uri}");
    }
    assert!(place::check_uri(&format!("s3://b/{}", "x".repeat(1024))).is_err());
}

#[test]
fn a_transformation_is_refused_with_its_owner_and_position() {
    let mut spec = may();
    merge(&mut spec, json!({"transformation": {"sql": "SELECT 1;\nDROP TABLE x"}}));
    world(spec).refused(
        Reason::TransformRejected,
        "spec.transformation.sql: line 1, column 9: only one statement is allowed; write exactly one SELECT, without a semicolon",
    );
    world(may()).feature_set(json!({"transformation": {"sql": "SELECT * FROM other"}})).refused(
        Reason::TransformRejected,
        "feature set \"clicks\": spec.transformation.sql: line 1, column 15: other is not a source; the sources are raw",
    );
}

#[test]
fn windows_are_counted_and_partial_ones_listed() {
    let windows = json!({"windows": {"every": "1d"}, "transformation": {"sql": "SELECT * FROM raw WHERE t >= $window_start"}});
    assert_eq!(world(may()).feature_set(windows.clone()).request().windows, 31);
    assert!(world(may()).feature_set(windows.clone()).warnings().is_empty());
    let cut = world(json!({"startTime": "2024-05-01 06:00:00", "stopTime": "2024-05-03 12:00:00"})).feature_set(windows);
    assert_eq!(cut.request().windows, 3);
    assert_eq!(
        cut.warnings(),
        [(
            Reason::PartialWindows,
            "the boundaries lie between ticks of the feature set's windows; partial: [2024-05-01T06:00:00Z, 2024-05-02T00:00:00Z), \
             [2024-05-03T00:00:00Z, 2024-05-03T12:00:00Z)"
                .to_owned()
        )]
    );
    assert_eq!(world(may()).request().windows, 1, "without a schedule the transformation runs once");
}

#[test]
fn a_schedule_that_contradicts_itself_is_refused() {
    for (windows, reason, part) in [
        (json!({}), Reason::InvalidSchedule, "give exactly one of every and cron"),
        (json!({"every": "1d", "cron": "0 0 * * *"}), Reason::InvalidSchedule, "give exactly one of every and cron"),
        (json!({"every": "daily"}), Reason::InvalidSchedule, "spec.windows.every: \"daily\" is not a duration"),
        (json!({"cron": "61 * * * *"}), Reason::InvalidSchedule, "\"61 * * * *\" is not a cron expression"),
        (json!({"every": "1s"}), Reason::TooManyWindows, "replace it in several backfills"),
        (json!({"cron": "0 0 1 1 *", "stamp": "Stop"}), Reason::EmptyInterval, "no window of the feature set stops in"),
    ] {
        let rejection = world(may()).feature_set(json!({"windows": windows})).resolve().expect_err(part);
        assert_eq!(rejection.reason, reason, "{rejection}");
        assert!(rejection.message.contains(part), "{rejection}");
    }
}

#[test]
fn a_feature_set_that_contradicts_itself_is_refused() {
    for (spec, part) in [
        (json!({"entities": []}), "no entities or no features"),
        (json!({"features": []}), "no entities or no features"),
        (json!({"timestampColumn": "n"}), "spec.timestampColumn: \"n\" is also a column of spec.features"),
        (json!({"timestampColumn": "N"}), "\"N\" is also a column of spec.features; columns differ by more than case"),
        (json!({"entities": [{"name": "tags", "type": "string"}]}), "spec.features: \"tags\" is also a column of spec.entities"),
        (
            json!({"features": [{"name": "a", "type": "bool"}, {"name": "a", "type": "bool"}]}),
            "is also a column of spec.features",
        ),
        (
            json!({"features": [{"name": "event_date", "type": "string"}]}),
            "spec.offline.dateColumn: \"event_date\" is also a column",
        ),
        (json!({"offline": {"dateColumn": "n"}}), "spec.offline.dateColumn: \"n\" is also a column"),
        (json!({"features": [{"name": "a b", "type": "bool"}]}), "spec.features: \"a b\" is not a name"),
        (json!({"timestampColumn": "1t"}), "\"1t\" is not a name"),
        (json!({"view": "1view"}), "spec.view: \"1view\" is not a name"),
        (json!({"view": ""}), "spec.view"),
        (json!({"offline": {"table": "../x"}}), "spec.offline.table: \"../x\" is not a folder"),
        (json!({"offline": {"table": "/x"}}), "spec.offline.table"),
        (json!({"online": {"ttl": "long"}}), "spec.online.ttl: \"long\" is not a duration"),
    ] {
        let rejection = world(may()).feature_set(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, Reason::InvalidFeatureSet, "{rejection}");
        assert!(rejection.message.starts_with("feature set \"clicks\": ") && rejection.message.contains(part), "{rejection}");
    }
    let unpartitioned = json!({"features": [{"name": "event_date", "type": "string"}], "offline": {"partitionBy": "None"}});
    assert!(world(may()).feature_set(unpartitioned).resolve().is_ok(), "an unpartitioned table has no date column");
}

#[test]
fn two_features_that_share_a_field_of_the_online_store_are_refused() {
    let (mut seen, mut pair) = (BTreeMap::new(), None);
    for index in 0..400_000_u32 {
        let name = format!("f{index}");
        if let Some(earlier) = seen.insert(crate::feast::field_hash("clicks", &name), name.clone()) {
            pair = Some((earlier, name));
            break;
        }
    }
    let (left, right) = pair.expect("32 bits collide soon");
    let features = json!({"features": [{"name": left, "type": "bool"}, {"name": right, "type": "bool"}]});
    world(may()).feature_set(features).refused(
        Reason::InvalidFeatureSet,
        &format!("feature set \"clicks\": spec.features: \"{left}\" and \"{right}\" share one field of the online store; rename one of them"),
    );
}

// ---- stores

#[test]
fn the_table_lies_in_the_stores_folder() {
    let request = world(may()).request();
    assert_eq!(request.table.uri, "s3://bucket/tables/clicks");
    assert_eq!((request.table.date_column.as_str(), request.table.credentials_secret), ("event_date", None));
    let offline =
        json!({"offline": {"table": "team/clicks_v2", "partitionBy": "Month", "dateColumn": "month"}, "view": "clicks_view"});
    let request =
        world(may()).feature_set(offline).store(json!({"project": "shop", "offline": {"credentialsSecret": "keys"}})).request();
    assert_eq!(request.table.uri, "s3://bucket/tables/team/clicks_v2");
    assert_eq!(request.table.partition_by, crate::api::PartitionBy::Month);
    assert_eq!(request.table.credentials_secret.as_deref(), Some("keys"));
    assert_eq!((request.definition.project.as_str(), request.definition.view.as_str()), ("shop", "clicks_view"));
    assert_eq!(world(may()).request().definition.project, "prod", "the project is the namespace by default");
}

#[test]
fn the_online_store_is_redis_or_a_sqlite_file_with_one_writer() {
    let redis = world(may())
        .store(json!({"online": {"redis": {"keyTtl": "30d"}}}))
        .feature_set(json!({"online": {"ttl": "7d"}}))
        .request();
    let online = redis.online.expect("redis");
    assert_eq!(
        online.store,
        OnlineTarget::Redis { secret: "redis".to_owned(), key: "url".to_owned(), key_ttl_seconds: Some(2_592_000) }
    );
    assert_eq!((online.ttl_seconds, online.unknown), (Some(604_800), crate::api::OnlineUnknown::Keep));

    let sqlite = json!({"online": {"redis": null, "sqlite": {"path": "/store/online.db"}}, "offline": {"uri": "file:///store/t", "volumeClaim": "data"}});
    let many = json!({"online": {"parallelism": 8, "cores": 1, "memory": "1Gi"}});
    let online = world(may()).store(sqlite).template(many).request().online.expect("sqlite");
    assert_eq!((online.store, online.parallelism), (OnlineTarget::Sqlite { path: "/store/online.db".to_owned() }, 1));
}

#[test]
fn a_store_that_contradicts_itself_is_refused() {
    for (spec, part) in [
        (json!({"offline": {"uri": "https://x/y"}}), "spec.offline.uri: \"https://x/y\" has an unknown scheme"),
        (json!({"offline": {"uri": "file:///store/x"}}), "spec.offline.volumeClaim is missing"),
        (
            json!({"online": {"sqlite": {"path": "/store/x.db"}}, "offline": {"volumeClaim": "v"}}),
            "exactly one of redis and sqlite",
        ),
        (json!({"online": {"redis": null}}), "exactly one of redis and sqlite"),
        (
            json!({"online": {"redis": null, "sqlite": {"path": "/etc/x"}}, "offline": {"volumeClaim": "v"}}),
            "is not a file below /store/",
        ),
        (
            json!({"online": {"redis": null, "sqlite": {"path": "/store/../x"}}, "offline": {"volumeClaim": "v"}}),
            "is not a file below /store/",
        ),
        (json!({"online": {"redis": {"keyTtl": "1"}}}), "spec.online.redis.keyTtl: \"1\" is not a duration"),
        (json!({"online": {"redis": {"urlSecret": {"name": "../x"}}}}), "the Secret's name \"../x\""),
        (json!({"online": {"redis": {"urlSecret": {"key": "a/b"}}}}), "urlSecret.key \"a/b\""),
        (json!({"offline": {"credentialsSecret": ".."}}), "the Secret's name \"..\""),
        (json!({"maxConcurrentBackfills": 0}), "spec.maxConcurrentBackfills is 0"),
    ] {
        let rejection = world(may()).store(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, Reason::InvalidStore, "{rejection}");
        assert!(rejection.message.starts_with("feature store \"default\": ") && rejection.message.contains(part), "{rejection}");
    }
}

// ---- guards and texts

#[test]
fn guards_of_the_backfill_override_those_of_the_feature_set_and_checks_are_added() {
    let check = |name: &str| json!({"name": name, "predicate": "n >= 0"});
    let defaults = json!({"backfill": {"guards": {
        "allowEmpty": true, "maxShrinkPercent": 10, "nullKeys": "Drop", "duplicates": {"policy": "KeepLast", "by": "seq"}, "checks": [check("a")]
    }}});
    let plain = world(may()).request().guards;
    assert_eq!((plain.allow_empty, plain.max_shrink_percent, plain.keep_last_by), (false, 50, None));
    let inherited = world(may()).feature_set(defaults.clone()).request().guards;
    assert_eq!((inherited.allow_empty, inherited.max_shrink_percent, inherited.keep_last_by.as_deref()), (true, 10, Some("seq")));
    let mut spec = may();
    merge(
        &mut spec,
        json!({"guards": {"allowEmpty": false, "duplicates": {"policy": "Fail"}, "rowsOutside": "Fail", "checks": [check("b")]}}),
    );
    let merged = world(spec).feature_set(defaults).request().guards;
    assert_eq!((merged.allow_empty, merged.max_shrink_percent, merged.keep_last_by), (false, 10, None));
    assert_eq!((merged.null_keys, merged.rows_outside), (crate::api::NullKeys::Drop, crate::api::RowsOutside::Fail));
    assert_eq!(merged.checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_guard_that_contradicts_itself_is_refused() {
    for (guards, part) in [
        (json!({"duplicates": {"policy": "KeepLast"}}), "duplicates: KeepLast needs by"),
        (json!({"duplicates": {"policy": "Fail", "by": "x"}}), "by is for KeepLast only"),
        (json!({"duplicates": {"policy": "KeepLast", "by": "x y"}}), "duplicates.by: \"x y\" is not a name"),
        (json!({"maxShrinkPercent": 101}), "maxShrinkPercent is more than 100"),
        (json!({"checks": [{"name": "a", "predicate": "n >= 0; DROP TABLE x"}]}), "checks: \"a\": line 1, column 7"),
        (
            json!({"checks": [{"name": "a", "predicate": "true"}, {"name": "a", "predicate": "true"}]}),
            "is the name of two checks",
        ),
    ] {
        let mut spec = may();
        merge(&mut spec, json!({"guards": guards}));
        let rejection = world(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, Reason::InvalidRequest);
        assert!(rejection.message.contains(part), "{rejection}");
    }
}

#[test]
fn names_and_texts_are_held_to_the_schemas_limits() {
    for name in ["", "Fix", "a.b", "1fix", "fix-", "ﬁx", &"x".repeat(64)] {
        let rejection = world(may()).resolve_as(name).expect_err(name);
        assert_eq!(rejection.reason, Reason::InvalidRequest);
        assert!(rejection.message.starts_with(&format!("metadata.name: \"{name}\" is not a DNS label")), "{rejection}");
    }
    for (change, part) in [
        (json!({"featureSet": "other/clicks"}), "spec.featureSet: \"other/clicks\" is not a DNS label"),
        (json!({"comment": "x".repeat(1025)}), "longer than 1024 characters"),
        (json!({"comment": "a\nb"}), "control character"),
        (json!({"comment": "a\u{7f}b"}), "control character"),
        (json!({"runId": ""}), "spec.runId"),
        (json!({"runId": "a b"}), "spec.runId"),
        (json!({"deadline": "soon"}), "spec.deadline: \"soon\" is not a duration"),
    ] {
        let mut spec = may();
        merge(&mut spec, change);
        let rejection = world(spec).resolve().expect_err(part);
        assert_eq!(rejection.reason, Reason::InvalidRequest);
        assert!(rejection.message.contains(part), "{rejection}");
    }
    let mut spec = may();
    merge(&mut spec, json!({"comment": "🙂".repeat(1024)}));
    assert!(world(spec).resolve().is_ok(), "any unicode, counted in characters");
}

// ---- the order

#[test]
fn an_order_carries_the_request_and_the_size_of_its_step() {
    let mut spec = may();
    merge(&mut spec, json!({"comment": "why", "runId": "2", "mode": "Plan"}));
    let request = world(spec).request();
    let order = request.order(Step::Offline, request.mode, 3);
    assert_eq!((order.version, order.attempt, order.mode), (contract::VERSION, 3, Mode::Plan));
    assert_eq!(
        order.backfill,
        BackfillRef {
            namespace: "prod".to_owned(),
            name: "fix".to_owned(),
            uid: Some("uid-1".to_owned()),
            run_id: Some("2".to_owned())
        }
    );
    assert_eq!((order.key.len(), order.comment.as_deref()), (64, Some("why")));
    assert_eq!(order.size, request.template.size);
    assert_eq!(request.order(Step::Online, Mode::Apply, 1).size, request.template.online);
    assert_eq!(request.order(Step::Settle, Mode::Apply, 1).size, request.template.online);
    assert_eq!(request.feature_set_generation, Some(7));
}

#[test]
fn resolving_again_later_changes_nothing_but_now_and_what_follows_from_it() {
    let first = world(may()).request();
    let later = World { now: "2024-07-01", ..world(may()) }.request();
    assert_eq!(Request { now: first.now, ..later }, first);
}
