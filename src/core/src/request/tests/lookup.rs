//! What a person may ask to look up.

use super::*;
use crate::api::ValueType;
use crate::contract::KeyValue;

/// Resolves `key=value` words against the world's feature set.
fn looked_up(world: &World, words: &[&str]) -> Result<LookupRequest, Rejection> {
    let feature_set: FeatureSet = object("FeatureSet", &world.feature_sets[0]);
    let stores: Vec<FeatureStore> = world.stores.iter().map(|value| object("FeatureStore", value)).collect();
    let entity: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    resolve_lookup(&LookupInput {
        namespace: "prod",
        feature_set: &feature_set,
        stores: stores.iter().collect(),
        entity: &entity,
    })
}

fn keyed(kinds: &[(&str, &str)]) -> World {
    let entities: Vec<Value> = kinds.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
    world(json!({})).feature_set(json!({"entities": entities}))
}

/// The value that a word stands for.
fn value(kind: &str, text: &str) -> Result<KeyValue, String> {
    let request = looked_up(&keyed(&[("key", kind)]), &[&format!("key={text}")]);
    request.map(|mut request| request.lookup.entity.remove(0).value).map_err(|rejection| rejection.message)
}

#[test]
fn values_are_read_in_the_type_of_their_key() {
    let cases = [
        ("string", "", KeyValue::String(String::new())),
        ("string", " a=b ünï$(HOME)", KeyValue::String(" a=b ünï$(HOME)".into())),
        ("bytes", "", KeyValue::Bytes(vec![])),
        ("bytes", "00fF7A", KeyValue::Bytes(vec![0, 255, 122])),
        ("int32", "-2147483648", KeyValue::Int32(i32::MIN)),
        ("int64", "9223372036854775807", KeyValue::Int64(i64::MAX)),
        ("timestamp", "2024-05-01", KeyValue::Timestamp(at("2024-05-01"))),
        ("timestamp", "2024-05-01T12:30:00Z", KeyValue::Timestamp(at("2024-05-01 12:30:00"))),
        ("timestamp", "2024-05-01 12:30:00.999", KeyValue::Timestamp(at("2024-05-01 12:30:00"))),
        ("timestamp", "1969-12-31 23:59:59.5", KeyValue::Timestamp(at("1969-12-31 23:59:59"))),
    ];
    for (kind, text, expected) in cases {
        assert_eq!(value(kind, text).as_ref(), Ok(&expected), "{kind} {text}");
        assert_eq!(ValueType { scalar: expected.key_type().into(), list: false }.to_string(), kind);
    }
}

#[test]
fn a_value_of_another_type_is_refused_with_key_value_type_and_all_keys() {
    let cases = [
        ("bytes", "abc", "is not in hexadecimal digits; write two for each byte, such as 0a1b"),
        ("int32", "2147483648", "is too large"),
        ("int32", "-2147483649", "is too small"),
        ("int64", "1.0", "is not a whole number"),
        ("int64", "", "is not a whole number"),
        ("timestamp", "2024-02-30", "is no such day"),
        ("timestamp", "2024-05-01T00:00:00+02:00", "has an offset or a zone; times are UTC: convert it, or end it with Z"),
    ];
    for (kind, text, fault) in cases {
        let expected = format!("key ({kind}): \"{text}\" {fault}; the keys of \"clicks\" are: key ({kind})");
        assert_eq!(value(kind, text), Err(expected));
    }
}

#[test]
fn every_key_is_given_once_and_comes_in_the_declared_order() {
    let world = keyed(&[("user", "string"), ("day", "timestamp")]);
    let request = looked_up(&world, &["day=2024-05-01", "user=7"]).expect("valid");
    let names: Vec<&str> = request.lookup.entity.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["user", "day"]);
    let cases: [(&[&str], &str); 5] = [
        (&[], "\"user\" is missing"),
        (&["user=7"], "\"day\" is missing"),
        (&["user=7", "user=8", "day=2024-05-01"], "\"user\" is given twice"),
        (&["User=7", "day=2024-05-01"], "\"User\" is no key"),
        (&["7"], "\"7\" is not of the form key=value"),
    ];
    for (words, fault) in cases {
        let rejection = looked_up(&world, words).expect_err(fault);
        let expected = format!("{fault}; the keys of \"clicks\" are: user (string), day (timestamp)");
        assert_eq!((rejection.reason, rejection.message), (Reason::InvalidRequest, expected));
    }
}

#[test]
fn the_store_the_view_and_the_project_are_those_of_a_backfill() {
    let mut world = world(json!({"startTime": "2024-05-01"}))
        .feature_set(json!({"view": "Clicks", "online": {"ttl": "7d"}}))
        .store(json!({"project": "shop", "online": {"redis": {"keyTtl": "90d"}}, "jobs": {"serviceAccountName": "runs"}}));
    world.stores[0]["status"] = json!({"workerImage": "worker:7"});
    let request = looked_up(&world, &["user_id=7"]).expect("valid");
    let backfill = world.request();
    let online = backfill.online.expect("a store");
    assert_eq!((&request.lookup.project, &request.lookup.view), (&backfill.definition.project, &backfill.definition.view));
    assert_eq!((&request.lookup.store, request.lookup.ttl_seconds), (&online.store, online.ttl_seconds));
    assert_eq!((request.lookup.features, request.pods), (backfill.definition.features, backfill.pods));
    assert_eq!((request.feature_set.as_str(), request.namespace.as_str()), ("clicks", "prod"));
    assert_eq!(request.worker_image.as_deref(), Some("worker:7"));
}

#[test]
fn what_is_not_served_online_is_not_looked_up() {
    let refused = |world: &World| looked_up(world, &["user_id=7"]).map_err(|rejection| (rejection.reason, rejection.message));
    let disabled = refused(&world(json!({})).feature_set(json!({"online": {"enabled": false}})));
    let message = "nothing is served online: the feature set \"clicks\" has online.enabled: false";
    assert_eq!(disabled, Err((Reason::InvalidRequest, message.to_owned())));
    let mut offline = world(json!({}));
    offline.stores[0]["spec"].as_object_mut().expect("a spec").remove("online");
    let message = "nothing is served online: the feature store \"default\" has no online store";
    assert_eq!(refused(&offline), Err((Reason::InvalidRequest, message.to_owned())));
    let elsewhere = refused(&world(json!({})).feature_set(json!({"store": "other"})));
    let message = "no feature store \"other\" in \"prod\"; there are: default";
    assert_eq!(elsewhere, Err((Reason::StoreNotFound, message.to_owned())));
}
