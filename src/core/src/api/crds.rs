//! The CustomResourceDefinitions, as they are committed in `crds/` and installed.

use super::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Map, Value};

/// The definitions of all resources. Use these, not `FeatureSet::crd()` and the like: they are tidied for the API server.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![ClusterTemplate::crd(), FeatureSetBackfill::crd(), FeatureSet::crd(), FeatureStore::crd()];
    for crd in &mut crds {
        // A new object says "not seen yet", so that tools that wait do not take it for done.
        let unseen = (crd.spec.names.kind == "FeatureSetBackfill").then(|| JSON(serde_json::json!({"observedGeneration": -1})));
        for version in &mut crd.spec.versions {
            let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else { continue };
            tidy(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
                status.default = unseen.clone();
            }
        }
    }
    crds
}

/// The committed files: name and content.
pub fn manifests() -> Result<Vec<(String, String)>, serde_saphyr::SerializeError> {
    let file = |crd: &CustomResourceDefinition| {
        let yaml = serde_saphyr::to_string(crd)?;
        Ok((
            format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural),
            format!("# Generated from src/core/src/api by `make generate`.\n{yaml}"),
        ))
    };
    crds().iter().map(file).collect()
}

/// The fields of our definitions that the served ones lack, such as `FeatureSet.status.ledger`. The API server drops such a field
/// of what is written, without an error. `served` is its OpenAPI v3 document of the group and version.
pub fn lacking(served: &Value) -> Vec<String> {
    let schemas: Vec<&Value> = served["components"]["schemas"].as_object().into_iter().flat_map(Map::values).collect();
    let of_kind = |kind: &str| {
        let is = |schema: &&&Value| schema["x-kubernetes-group-version-kind"][0]["kind"] == kind;
        schemas.iter().find(is).map_or(&Value::Null, |schema| schema)
    };
    let mut lacking = Vec::new();
    for crd in crds() {
        let kind = &crd.spec.names.kind;
        let ours = crd.spec.versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
        // The API server itself knows what metadata are.
        for part in ["spec", "status"] {
            let ours = ours.and_then(|schema| schema.properties.as_ref()?.get(part));
            let served = &of_kind(kind)["properties"][part];
            ours.into_iter().for_each(|ours| compare(&format!("{kind}.{part}"), ours, served, &mut lacking));
        }
    }
    lacking
}

fn compare(path: &str, ours: &JSONSchemaProps, served: &Value, lacking: &mut Vec<String>) {
    if served.is_null() {
        return lacking.push(path.to_owned());
    }
    for (name, field) in ours.properties.iter().flatten() {
        compare(&format!("{path}.{name}"), field, &served["properties"][name], lacking);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &ours.items {
        compare(path, items, &served["items"], lacking);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &ours.additional_properties {
        compare(path, values, &served["additionalProperties"], lacking);
    }
}

/// Brings a schema into the form that the API server takes without warnings and that rules can rely on:
/// no `null` (a field is there or not), no default (the operator's defaults are not written into specs), known integer formats.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    match schema.format.as_deref() {
        Some("uint8" | "uint16") => schema.format = Some("int32".to_owned()),
        Some("uint32" | "uint64") => schema.format = Some("int64".to_owned()),
        _ => {}
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

#[cfg(test)]
mod tests;
