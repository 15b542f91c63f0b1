//! From what a person typed to what is looked up: which store, which view, and one value for every join key.

use super::{Pods, Rejection, definition, names, place};
use crate::api::{Entity, FeatureSet, FeatureStore, KeyType, ScalarType};
use crate::condition::Reason;
use crate::contract::{JoinKey, KeyValue, Lookup, VERSION};
use crate::hex;
use crate::time::parse_time;
use chrono::SubsecRound;
use std::collections::BTreeMap;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

/// Everything that decides what is looked up. Stores are those of the namespace, and no others.
#[derive(Clone, Debug)]
pub struct LookupInput<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The feature set, of that namespace.
    pub feature_set: &'a FeatureSet,
    /// The namespace's stores.
    pub stores: Vec<&'a FeatureStore>,
    /// The entity: `key=value`, once for every join key, in any order. Bytes are hexadecimal digits; a timestamp is a time as everywhere,
    /// see [`parse_time`].
    pub entity: &'a [String],
}

/// A valid request for a lookup. Only [`resolve_lookup`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupRequest {
    /// The namespace.
    pub namespace: String,
    /// The feature set's name.
    pub feature_set: String,
    /// What the worker is asked.
    pub lookup: Lookup,
    /// How the store wants pods to be made.
    pub pods: Pods,
    /// The image of the worker, as far as the operator has said it.
    pub worker_image: Option<String>,
}

/// Judges a lookup. Pure and total.
pub fn resolve_lookup(input: &LookupInput<'_>) -> Result<LookupRequest, Rejection> {
    let LookupInput { namespace, feature_set, ref stores, entity } = *input;
    definition::validate_feature_set(feature_set)?;
    let store = names::find("feature store", feature_set.store(), namespace, stores, Reason::StoreNotFound)?;
    place::validate_store(store)?;
    let target = match place::missing_online(feature_set, store) {
        Some(why) => return Err(Rejection::new(Reason::InvalidRequest, format!("nothing is served online: {why}"))),
        None => place::target(store)?,
    };
    let no_target = || Rejection::new(Reason::InvalidStore, "the feature store names no online store");
    Ok(LookupRequest {
        namespace: namespace.to_owned(),
        feature_set: feature_set.metadata.name.clone().unwrap_or_default(),
        lookup: Lookup {
            version: VERSION,
            project: definition::project(store, namespace),
            view: definition::view(feature_set).to_owned(),
            store: target.ok_or_else(no_target)?,
            ttl_seconds: definition::online_ttl(feature_set)?,
            entity: join_keys(feature_set, entity)?,
            features: feature_set.spec.features.clone(),
        },
        pods: place::pods(store),
        worker_image: store.status.as_ref().and_then(|status| status.worker_image.clone()),
    })
}

/// Every join key with its value, in the order of their declaration.
fn join_keys(feature_set: &FeatureSet, words: &[String]) -> Result<Vec<JoinKey>, Rejection> {
    let declared = &feature_set.spec.entities;
    let refuse = |message: String| {
        let keys: Vec<String> = declared.iter().map(|key| format!("{} ({})", key.name, type_name(key.value_type))).collect();
        let name = feature_set.metadata.name.as_deref().unwrap_or_default();
        Rejection::new(Reason::InvalidRequest, format!("{message}; the keys of \"{name}\" are: {}", keys.join(", ")))
    };
    let mut given = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| refuse(format!("\"{word}\" is not of the form key=value")))?;
        if declared.iter().all(|key| key.name != name) {
            return Err(refuse(format!("\"{name}\" is no key")));
        }
        if given.insert(name, value).is_some() {
            return Err(refuse(format!("\"{name}\" is given twice")));
        }
    }
    let key = |Entity { name, value_type }: &Entity| {
        let text = given.get(name.as_str()).ok_or_else(|| refuse(format!("\"{name}\" is missing")))?;
        let fault = |fault| refuse(format!("{name} ({}): \"{text}\" {fault}", type_name(*value_type)));
        Ok(JoinKey { name: name.clone(), value: parse(*value_type, text).map_err(fault)? })
    };
    declared.iter().map(key).collect()
}

/// A value of this type; else what is wrong with it.
fn parse(kind: KeyType, text: &str) -> Result<KeyValue, String> {
    Ok(match kind {
        KeyType::String => KeyValue::String(text.to_owned()),
        KeyType::Bytes => {
            let bytes = hex::decode(text);
            KeyValue::Bytes(bytes.ok_or("is not in hexadecimal digits; write two for each byte, such as 0a1b")?)
        }
        KeyType::Int32 => KeyValue::Int32(number(text)?),
        KeyType::Int64 => KeyValue::Int64(number(text)?),
        KeyType::Timestamp => {
            let instant = parse_time("", text).map_err(|error| error.fault.to_string())?;
            // As rows are written: online, an instant is the second that it lies in.
            KeyValue::Timestamp(instant.trunc_subsecs(0))
        }
    })
}

fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "is too large".to_owned(),
        IntErrorKind::NegOverflow => "is too small".to_owned(),
        _ => "is not a whole number".to_owned(),
    })
}

fn type_name(kind: KeyType) -> &'static str {
    ScalarType::from(kind).name()
}
