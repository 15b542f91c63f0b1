//! The CustomResourceDefinitions, as they are committed in `crds/` and installed.

use super::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

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
