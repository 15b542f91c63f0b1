//! `export feast`: a feature set as the definition of a Feast repository, over the same table and the same online rows.

use crate::args::Connection;
use crate::failure::Exit;
use crate::failure::{Failure, Result};
use crate::preview::Known;
use crate::{environment, find};
use backfill_core::api::{FeatureSet, FeatureStore, ScalarType, ValueType};
use backfill_core::request::table_uri;
use backfill_core::time::parse_duration;
use kube::ResourceExt;
use std::fmt::Write;

/// `export feast`.
pub async fn export(connection: &Connection, name: &str) -> Result<Exit> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let known = Known::of(&cluster, &namespace).await?;
    let set = find::feature_set(&known.feature_sets, name, &namespace)?;
    let store = known.store(set.store()).ok_or_else(|| {
        Failure::new(format!("no feature store \"{}\" in \"{namespace}\"", set.store())).hint("see: kubectl get fstore")
    })?;
    print!("{}", definition(set, store, &namespace));
    Ok(Exit::Ok)
}

/// A Python module. Names and texts are written as Python literals.
pub fn definition(set: &FeatureSet, store: &FeatureStore, namespace: &str) -> String {
    let view = set.spec.view.clone().unwrap_or_else(|| set.name_any());
    let project = store.spec.project.as_deref().unwrap_or(namespace);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# Feature set {} of {namespace}, for the Feast project {project}: feature_store.yaml needs",
        set.name_any()
    );
    let _ = writeln!(text, "#   project: {project}\n#   entity_key_serialization_version: 3");
    text += "from datetime import timedelta\n\nfrom feast import Entity, FeatureView, Field, FileSource\n\
             from feast.data_format import DeltaFormat\nfrom feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, \
             UnixTimestamp\nfrom feast.value_type import ValueType\n\n";
    let entities: Vec<String> = set.spec.entities.iter().map(|entity| entity.name.clone()).collect();
    for entity in &set.spec.entities {
        let kind = scalar(entity.value_type.into()).1;
        let _ = writeln!(text, "{} = Entity(name={}, value_type=ValueType.{kind})", entity.name, literal(&entity.name));
    }
    let _ = writeln!(text, "\nsource = FileSource(\n    name={},", literal(&format!("{view}_source")));
    let _ = writeln!(text, "    path={},\n    file_format=DeltaFormat(),", literal(&table_uri(set, store)));
    let _ = writeln!(text, "    timestamp_field={},\n)\n", literal(&set.spec.timestamp_column));
    let _ = writeln!(text, "{} = FeatureView(\n    name={},", identifier(&view), literal(&view));
    let _ = writeln!(text, "    entities=[{}],\n    schema=[", entities.join(", "));
    let keys = set.spec.entities.iter().map(|entity| (&entity.name, ValueType { scalar: entity.value_type.into(), list: false }));
    for (name, kind) in keys.chain(set.spec.features.iter().map(|feature| (&feature.name, feature.value_type))) {
        let word = scalar(kind.scalar).0;
        let word = if kind.list { format!("Array({word})") } else { word.to_owned() };
        let _ = writeln!(text, "        Field(name={}, dtype={word}),", literal(name));
    }
    let online = set.spec.online.clone().unwrap_or_default();
    let ttl = online.ttl.as_deref().and_then(|ttl| parse_duration("online.ttl", ttl).ok());
    let ttl = ttl.map_or_else(|| "None".to_owned(), |seconds| format!("timedelta(seconds={seconds})"));
    let enabled = online.enabled != Some(false) && store.spec.online.is_some();
    let _ =
        writeln!(text, "    ],\n    source=source,\n    ttl={ttl},\n    online={},\n)", if enabled { "True" } else { "False" });
    text
}

/// Feast's type of a field, and of an entity.
const fn scalar(kind: ScalarType) -> (&'static str, &'static str) {
    match kind {
        ScalarType::String => ("String", "STRING"),
        ScalarType::Bytes => ("Bytes", "BYTES"),
        ScalarType::Int32 => ("Int32", "INT32"),
        ScalarType::Int64 => ("Int64", "INT64"),
        ScalarType::Float32 => ("Float32", "FLOAT"),
        ScalarType::Float64 => ("Float64", "DOUBLE"),
        ScalarType::Bool => ("Bool", "BOOL"),
        ScalarType::Timestamp => ("UnixTimestamp", "UNIX_TIMESTAMP"),
    }
}

/// A name that Python takes.
fn identifier(name: &str) -> String {
    format!("{}_view", name.replace('-', "_"))
}

/// A JSON string is a Python string.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
