//! The schemas as the API server takes them, and their rules, evaluated here.
//!
//! Left to the tests on an API server: that the cost of all rules stays within its budget, and that it takes every pattern and
//! function; here both are evaluated by other engines than the server's.

use super::*;
use serde_json::{Value, json};

mod rules;
mod times;

/// The schema of a kind.
fn schema(kind: &str) -> Value {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect(kind);
    let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.clone()).expect(kind);
    serde_json::to_value(schema).expect("JSON")
}

/// Calls `visit` with the path of every schema below and including this one.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            walk(&format!("{path}[]"), inner, visit);
        }
    }
}

const KINDS: [&str; 4] = ["FeatureStore", "ClusterTemplate", "FeatureSet", "FeatureSetBackfill"];

fn each_schema(mut visit: impl FnMut(&str, &Value)) {
    for kind in KINDS {
        for part in ["spec", "status"] {
            if let Some(schema) = schema(kind)["properties"].get(part) {
                walk(&format!("{kind}.{part}"), schema, &mut visit);
            }
        }
    }
}

#[test]
fn committed_definitions_are_those_of_the_code() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    let generated = manifests().expect("YAML");
    for (name, yaml) in &generated {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(*yaml == committed, "crds/{name} is stale: run `make generate`");
    }
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("crds/").map(|file| file.expect("a file").file_name()).collect();
    files.sort();
    assert_eq!(files, generated.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), "no other files");
}

#[test]
fn written_definitions_are_read_back_unchanged() {
    for ((name, yaml), crd) in manifests().expect("YAML").iter().zip(crds()) {
        let read: Value = serde_saphyr::from_str(yaml).expect(name);
        assert_eq!(read, serde_json::to_value(crd).expect("JSON"), "{name}");
    }
}

#[test]
fn every_string_list_and_map_is_bounded() {
    each_schema(|path, schema| match schema["type"].as_str() {
        Some("string") => assert!(schema.get("maxLength").is_some() || schema.get("enum").is_some(), "{path} has no maxLength"),
        Some("array") => assert!(schema.get("maxItems").is_some(), "{path} has no maxItems"),
        Some("object") if schema.get("properties").is_none() => {
            assert!(schema.get("maxProperties").is_some(), "{path} has no maxProperties")
        }
        Some("object" | "boolean") => {}
        Some("integer") => {
            let format = schema["format"].as_str();
            assert!(matches!(format, Some("int32" | "int64")), "{path} has the format {format:?}");
            let signed =
                path.ends_with("observedGeneration") || path.ends_with("tolerationSeconds") || path.ends_with("Generation");
            assert!(signed || schema.get("minimum").is_some(), "{path} has no minimum");
        }
        other => panic!("{path} has the type {other:?}"),
    });
}

#[test]
fn schemas_are_structural_explained_and_without_defaults() {
    each_schema(|path, schema| {
        for key in ["$ref", "oneOf", "anyOf", "allOf", "not", "nullable", "default"] {
            let is_status = key == "default" && path == "FeatureSetBackfill.status";
            assert!(schema.get(key).is_none() || is_status, "{path} has {key}");
        }
        if !path.ends_with("[]") {
            assert!(schema["description"].as_str().is_some_and(|text| text.len() > 3), "{path} is not explained");
        }
    });
}

#[test]
fn every_choice_in_a_spec_names_its_default() {
    each_schema(|path, schema| {
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let text = field["description"].as_str().unwrap_or_default();
            let ours = path.contains(".spec") && !path.contains("tolerations");
            if ours && field.get("enum").is_some() && !required.contains(&name.as_str()) {
                assert!(text.contains("Default"), "{path}.{name}: {text}");
            }
        }
    });
}

#[test]
fn a_new_backfill_is_seen_as_not_yet_observed() {
    assert_eq!(schema("FeatureSetBackfill")["properties"]["status"]["default"], json!({"observedGeneration": -1}));
    assert_eq!(schema("FeatureSetBackfill")["properties"]["status"].get("required"), None, "else the default would be refused");
    assert_eq!(schema("FeatureSet")["properties"]["status"].get("default"), None);
}

#[test]
fn resources_have_their_names_columns_and_selectable_fields() {
    for (kind, short, namespaced, selectable) in [
        ("FeatureStore", "fstore", true, &[][..]),
        ("ClusterTemplate", "ctpl", false, &[]),
        ("FeatureSet", "fset", true, &[".spec.store"]),
        ("FeatureSetBackfill", "fsb", true, &[".spec.featureSet", ".spec.undo"]),
    ] {
        let spec = crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect(kind).spec;
        assert_eq!((spec.group.as_str(), spec.scope == "Namespaced"), (crate::api::GROUP, namespaced));
        assert_eq!(spec.names.short_names.as_deref(), Some(&[short.to_owned()][..]));
        assert_eq!(spec.names.categories.as_deref(), Some(&["featureset".to_owned()][..]));
        let version = &spec.versions[0];
        let columns = version.additional_printer_columns.clone().unwrap_or_default();
        assert!(columns.iter().any(|column| column.priority == Some(1)), "{kind} has wide columns");
        assert!(columns.iter().any(|column| column.name == "Age"), "{kind} tells its age");
        let fields: Vec<_> = version.selectable_fields.iter().flatten().map(|field| field.json_path.as_str()).collect();
        assert_eq!(fields, selectable, "{kind}");
    }
}

#[test]
fn what_older_definitions_lack_is_named_wherever_it_is() {
    let of_kind = |kind: &str| {
        let mut schema = schema(kind);
        schema["x-kubernetes-group-version-kind"] = json!([{"group": crate::api::GROUP, "kind": kind, "version": "v1alpha1"}]);
        (format!("dev.featureset.v1alpha1.{kind}"), schema)
    };
    let served = |schemas: Map<String, Value>| json!({"components": {"schemas": schemas}});
    let mut schemas: Map<String, Value> = KINDS.map(of_kind).into_iter().collect();
    assert_eq!(lacking(&served(schemas.clone())), [""; 0]);
    for (kind, path, name) in [
        ("FeatureSetBackfill", "/properties/spec/properties/guards/properties", "allowEmpty"),
        ("FeatureSet", "/properties/status/properties/ledger/items/properties", "version"),
        ("FeatureStore", "/properties/status/properties", "running"),
    ] {
        let schema = &mut schemas[&format!("dev.featureset.v1alpha1.{kind}")];
        let fields = schema.pointer_mut(path).and_then(Value::as_object_mut).expect(path);
        assert!(fields.remove(name).is_some(), "{path}/{name}");
    }
    let found = ["FeatureSetBackfill.spec.guards.allowEmpty", "FeatureSet.status.ledger.version", "FeatureStore.status.running"];
    assert_eq!(lacking(&served(schemas.clone())), found);
    schemas.remove("dev.featureset.v1alpha1.ClusterTemplate");
    assert_eq!(lacking(&served(schemas))[0], "ClusterTemplate.spec");
}

#[test]
fn every_rule_has_a_message_of_one_line() {
    let mut rules = 0;
    for kind in KINDS {
        walk(kind, &schema(kind), &mut |path, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                rules += 1;
                let message = rule["message"].as_str().expect(path);
                assert!(!message.is_empty() && !message.contains('\n') && !message.ends_with('.'), "{path}: {message}");
                assert!(!rule["rule"].as_str().expect(path).contains('\n'), "{path}");
            }
        });
    }
    assert!(rules > 60, "{rules}");
}
