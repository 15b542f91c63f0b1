//! The idempotency key of a run, and the hash of a definition.
//!
//! Both are SHA-256 over JSON whose keys are sorted here, so that no build option of the JSON library can change them.

use crate::api::FeatureSetBackfillSpec;
use crate::contract::Definition;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The fields of a backfill's spec that make one run different from another. What is not listed (mode, template, guards, retries,
/// comment, …) changes how a run is done, not what it replaces.
const IDENTITY: [&str; 9] =
    ["featureSet", "reset", "startTime", "stopTime", "undo", "stores", "sources", "transformation", "runId"];

/// What of a definition decides the rows.
const DEFINITION: [&str; 6] = ["entities", "timestampColumn", "features", "sources", "sql", "windows"];

/// The idempotency key of the run that `spec` describes: 64 hexadecimal digits, a function of what the user wrote.
///
/// A field that is absent stays absent: the default of a later version does not change the key. The object's uid is not part of it,
/// so a backfill that is deleted and applied again has the same key. The order of stores and sources has no meaning.
pub fn idempotency_key(namespace: &str, name: &str, spec: &FeatureSetBackfillSpec) -> String {
    let mut spec = spec.clone();
    spec.stores.iter_mut().for_each(|stores| stores.sort_unstable());
    spec.sources.iter_mut().for_each(|sources| sources.sort_by(|a, b| a.name.cmp(&b.name)));
    let mut identity = pick(serde_json::to_value(spec), &IDENTITY);
    identity.insert("namespace".to_owned(), namespace.into());
    identity.insert("name".to_owned(), name.into());
    sha256(&canonical(&Value::Object(identity)))
}

/// The hash of the sources, transformation, windows and columns of a definition: tells whether it has changed.
pub fn definition_hash(definition: &Definition) -> String {
    sha256(&canonical(&Value::Object(pick(serde_json::to_value(definition), &DEFINITION))))
}

/// The SHA-256 of a text in hexadecimal digits.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON without white space, with the keys of every object in byte order.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            let members: Vec<_> =
                members.into_iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// The named members of an object, as far as they are there. What is no JSON object has none.
fn pick(object: serde_json::Result<Value>, names: &[&str]) -> Map<String, Value> {
    match object {
        Ok(Value::Object(object)) => object.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect(),
        Ok(_) | Err(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Mode, Store};
    use serde_json::json;

    fn spec(value: Value) -> FeatureSetBackfillSpec {
        serde_json::from_value(value).expect("a spec")
    }

    fn key(value: Value) -> String {
        idempotency_key("prod", "fix", &spec(value))
    }

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{ "b": [ {"z": 1, "a": "\u00e9\n\""} ], "a": null, "é": 1.5, "B": true }"#).expect("JSON");
        assert_eq!(canonical(&value), r#"{"B":true,"a":null,"b":[{"a":"é\n\"","z":1}],"é":1.5}"#);
    }

    #[test]
    fn keys_are_the_golden_ones() {
        let interval = json!({"featureSet": "clicks", "startTime": "2024-05-01", "stopTime": "2024-06-01"});
        assert_eq!(
            key(interval),
            sha256(r#"{"featureSet":"clicks","name":"fix","namespace":"prod","startTime":"2024-05-01","stopTime":"2024-06-01"}"#)
        );
        assert_eq!(
            key(json!({"featureSet": "clicks", "reset": true})),
            "0ed61be0a2cb06a54d0531abe7e1732955209c4ef50539fd637958741ad34aa2"
        );
        assert_eq!(
            key(json!({
                "featureSet": "clicks", "startTime": "2024-05-01", "stores": ["Offline"], "runId": "2",
                "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw/"}}], "transformation": {"sql": "SELECT 1"}
            })),
            "36498c8c32025dbfb25860d50a4774d67c52aa45308e3321d1c36864b34ae095"
        );
        assert_eq!(
            key(json!({"featureSet": "clicks", "undo": "other"})),
            "6686733c22a8a4aca5658fafc909e6c00bdbaa548276d0802983b23149e30ecf"
        );
    }

    #[test]
    fn every_field_that_says_what_is_replaced_changes_the_key() {
        let base = json!({"featureSet": "clicks", "startTime": "2024-05-01"});
        for (field, value) in [
            ("featureSet", json!("views")),
            ("reset", json!(false)),
            ("startTime", json!("2024-05-01T00:00:00Z")),
            ("stopTime", json!("2024-06-01")),
            ("undo", json!("x")),
            ("stores", json!(["Offline", "Online"])),
            ("sources", json!([])),
            ("transformation", json!({"sql": "SELECT 1"})),
            ("runId", json!("1")),
        ] {
            let mut changed = base.clone();
            changed[field] = value;
            assert_ne!(key(changed), key(base.clone()), "{field}");
        }
        assert_ne!(idempotency_key("test", "fix", &spec(base.clone())), key(base.clone()), "namespace");
        assert_ne!(idempotency_key("prod", "fix2", &spec(base.clone())), key(base), "name");
    }

    #[test]
    fn fields_that_say_how_it_is_done_do_not() {
        let plain = spec(json!({"featureSet": "clicks", "startTime": "2024-05-01"}));
        let dressed = FeatureSetBackfillSpec {
            cluster_template: Some("large".to_owned()),
            comment: Some("why".to_owned()),
            mode: Some(Mode::Plan),
            guards: Some(crate::api::Guards { allow_empty: Some(true), ..Default::default() }),
            retries: Some(9),
            deadline: Some("1h".to_owned()),
            suspend: Some(true),
            cancel: Some(true),
            ttl_seconds_after_finished: Some(1),
            online_unknown: Some(crate::api::OnlineUnknown::Replace),
            ..plain.clone()
        };
        assert_eq!(idempotency_key("prod", "fix", &dressed), idempotency_key("prod", "fix", &plain));
    }

    #[test]
    fn the_order_of_stores_and_sources_does_not_change_the_key() {
        let source = |name: &str| json!({"name": name, "csv": {"uri": "s3://b/x"}});
        let one = json!({"featureSet": "clicks", "stores": ["Offline", "Online"], "sources": [source("a"), source("b")]});
        let other = json!({"featureSet": "clicks", "stores": ["Online", "Offline"], "sources": [source("b"), source("a")]});
        assert_eq!(key(one), key(other), "the API server takes a change of order for no change");
    }

    #[test]
    fn both_stores_given_and_both_by_default_are_two_runs() {
        let given =
            FeatureSetBackfillSpec { stores: Some(vec![Store::Offline, Store::Online]), ..spec(json!({"featureSet": "clicks"})) };
        assert_ne!(idempotency_key("prod", "fix", &given), key(json!({"featureSet": "clicks"})), "as given: absent stays absent");
    }
}
