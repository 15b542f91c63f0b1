//! Reads manifests strictly: an unknown kind or field is an error that names it.

use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore, GROUP};
use backfill_core::request::Input;
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The objects of some manifests, in the order of the files.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The backfills.
    pub backfills: Vec<Backfill>,
    feature_sets: Vec<FeatureSet>,
    stores: Vec<FeatureStore>,
    templates: Vec<ClusterTemplate>,
}

/// A backfill and where it lives.
#[derive(Debug)]
pub struct Backfill {
    /// Its namespace; `default` when it names none, as with `kubectl`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As given.
    pub object: FeatureSetBackfill,
}

impl Manifests {
    /// Reads a file, or the `.yaml`, `.yml` and `.json` files of a folder in the order of their names.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut manifests = Self::default();
        for file in files(path)? {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            for document in documents.into_iter().filter(|document| !document.is_null()) {
                manifests.add(document).map_err(|why| format!("{}: {why}", file.display()))?;
            }
        }
        if manifests.backfills.is_empty() {
            return Err(format!("there is no FeatureSetBackfill in {}", path.display()));
        }
        Ok(manifests)
    }

    fn add(&mut self, document: Value) -> Result<(), String> {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        if version != format!("{GROUP}/v1alpha1") {
            return Err(format!("{kind} has apiVersion \"{version}\"; expected {GROUP}/v1alpha1"));
        }
        match kind.as_str() {
            "FeatureSetBackfill" => {
                let object: FeatureSetBackfill = strict(document)?;
                let namespace = object.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
                self.backfills.push(Backfill { namespace, name: object.name_any(), object });
            }
            "FeatureSet" => self.feature_sets.push(strict(document)?),
            "FeatureStore" => self.stores.push(strict(document)?),
            "ClusterTemplate" => self.templates.push(strict(document)?),
            _ => {
                return Err(format!(
                    "unknown kind \"{kind}\"; expected FeatureStore, ClusterTemplate, FeatureSet or FeatureSetBackfill"
                ));
            }
        }
        Ok(())
    }

    /// What decides about a backfill: the objects of its namespace and the templates.
    pub fn input<'a>(&'a self, backfill: &'a Backfill, now: DateTime<Utc>) -> Input<'a> {
        let here = |namespace: Option<String>| namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE) == backfill.namespace;
        Input {
            namespace: &backfill.namespace,
            name: &backfill.name,
            uid: None,
            spec: &backfill.object.spec,
            now,
            feature_sets: self.feature_sets.iter().filter(|object| here(object.namespace())).collect(),
            stores: self.stores.iter().filter(|object| here(object.namespace())).collect(),
            templates: self.templates.iter().collect(),
            namespace_labels: None,
        }
    }
}

const DEFAULT_NAMESPACE: &str = "default";

fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let known = file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if file.is_file() && known {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Deserializes an object whose every field is known, as a strict API server does.
fn strict<T: DeserializeOwned>(document: Value) -> Result<T, String> {
    let name = document["metadata"]["name"].as_str().unwrap_or("?").to_owned();
    let kind = document["kind"].as_str().unwrap_or("?").to_owned();
    let mut unknown = Vec::new();
    let mut known = |path: serde_ignored::Path<'_>| {
        // Optional fields are steps of their own in the path.
        let path = path.to_string().replace(".?", "");
        // The type says these two itself.
        if path != "apiVersion" && path != "kind" {
            unknown.push(path);
        }
    };
    let object = serde_ignored::deserialize(document, &mut known).map_err(|error| format!("{kind} \"{name}\": {error}"))?;
    match unknown.as_slice() {
        [] => Ok(object),
        fields => Err(format!("{kind} \"{name}\": unknown field {}", fields.join(", "))),
    }
}
