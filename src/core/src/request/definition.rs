//! A feature set's shape, and how its rows are computed after the backfill's overrides.

use super::names::{check_column, check_label, find};
use super::place::{self, check_folder, check_uri};
use super::{Input, Rejection};
use crate::api::{FeatureSet, FeatureStore, PartitionBy, Source};
use crate::condition::Reason;
use crate::contract::{Definition, OrderSource, Schedule, SourceFormat, Ticks};
use crate::time::parse_duration;
use crate::{feast, key, sql};
use std::collections::BTreeMap;

/// Refuses a feature set whose definition contradicts itself: the table of its columns, names, and durations.
pub fn validate_feature_set(feature_set: &FeatureSet) -> Result<(), Rejection> {
    let name = feature_set.metadata.name.as_deref().unwrap_or_default();
    check_label("metadata.name", name, Reason::InvalidFeatureSet)?;
    let refuse = |message: String| Rejection::new(Reason::InvalidFeatureSet, format!("feature set \"{name}\": {message}"));
    let view = view(feature_set);
    let view_fits = view.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && view.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && view.len() <= 128;
    if !view_fits {
        return Err(refuse(format!(
            "spec.view: \"{view}\" is not a name: write A-Z, a-z, 0-9, _ and -, not beginning with a digit or -"
        )));
    }
    check_columns(feature_set).map_err(refuse)?;
    if let Some(folder) = feature_set.spec.offline.as_ref().and_then(|offline| offline.table.as_deref()) {
        check_folder(folder).map_err(|why| refuse(format!("spec.offline.table: {why}")))?;
    }
    online_ttl(feature_set).map(drop)
}

/// The Feast project of a store.
pub fn project(store: &FeatureStore, namespace: &str) -> String {
    store.spec.project.clone().unwrap_or_else(|| namespace.to_owned())
}

/// The name under which Feast knows the feature set.
pub fn view(feature_set: &FeatureSet) -> &str {
    feature_set.spec.view.as_deref().or(feature_set.metadata.name.as_deref()).unwrap_or_default()
}

/// The age at which online rows count as nothing, in seconds.
pub fn online_ttl(feature_set: &FeatureSet) -> Result<Option<u64>, Rejection> {
    let text = feature_set.spec.online.as_ref().and_then(|online| online.ttl.as_deref());
    let name = feature_set.metadata.name.as_deref().unwrap_or_default();
    text.map(|text| parse_duration("spec.online.ttl", text))
        .transpose()
        .map_err(|error| Rejection::new(Reason::InvalidFeatureSet, format!("feature set \"{name}\": {error}")))
}

fn check_columns(feature_set: &FeatureSet) -> Result<(), String> {
    let spec = &feature_set.spec;
    if spec.entities.is_empty() || spec.features.is_empty() {
        return Err("it has no entities or no features".to_owned());
    }
    let offline = spec.offline.clone().unwrap_or_default();
    let date_column = offline.date_column.unwrap_or_else(|| place::DATE_COLUMN.to_owned());
    let partitioned = offline.partition_by.unwrap_or_default() != PartitionBy::None;
    let entities = spec.entities.iter().map(|entity| ("spec.entities", entity.name.as_str()));
    let features = spec.features.iter().map(|feature| ("spec.features", feature.name.as_str()));
    let others = [("spec.timestampColumn", spec.timestamp_column.as_str())];
    let date = partitioned.then_some(("spec.offline.dateColumn", date_column.as_str()));
    let mut seen = BTreeMap::new();
    for (field, column) in entities.chain(features).chain(others).chain(date) {
        check_column(field, column, Reason::InvalidFeatureSet).map_err(|rejection| rejection.message)?;
        if let Some(earlier) = seen.insert(column.to_ascii_lowercase(), field) {
            return Err(format!("{field}: \"{column}\" is also a column of {earlier}; columns differ by more than case"));
        }
    }
    let view = view(feature_set);
    let mut hashes = BTreeMap::new();
    for feature in &spec.features {
        if let Some(earlier) = hashes.insert(feast::field_hash(view, &feature.name), feature.name.as_str()) {
            let name = &feature.name;
            return Err(format!(
                "spec.features: \"{earlier}\" and \"{name}\" share one field of the online store; rename one of them"
            ));
        }
    }
    Ok(())
}

/// Settles sources, transformation and windows. When nothing is computed (an undo, `stores: [Online]`) they are not looked at:
/// a broken transformation does not stand in the way of taking a backfill back.
pub fn resolve(
    input: &Input<'_>,
    feature_set: &FeatureSet,
    store: &FeatureStore,
    computes: bool,
) -> Result<Definition, Rejection> {
    let spec = &feature_set.spec;
    let transformation = input.spec.transformation.as_ref().unwrap_or(&spec.transformation);
    let (sources, windows) =
        if computes { (sources(input, feature_set, store)?, schedule(feature_set)?) } else { (Vec::new(), None) };
    if computes {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let owner = if input.spec.transformation.is_some() {
            "spec".to_owned()
        } else {
            format!("feature set \"{}\": spec", input.spec.feature_set)
        };
        sql::check(&transformation.sql, &names, windows.is_some())
            .map_err(|rejected| Rejection::new(Reason::TransformRejected, format!("{owner}.transformation.sql: {rejected}")))?;
    }
    let mut definition = Definition {
        feature_set: input.spec.feature_set.clone(),
        project: project(store, input.namespace),
        view: view(feature_set).to_owned(),
        entities: spec.entities.clone(),
        timestamp_column: spec.timestamp_column.clone(),
        features: spec.features.clone(),
        sources,
        sql: transformation.sql.clone(),
        windows,
        hash: String::new(),
    };
    definition.hash = key::definition_hash(&definition);
    Ok(definition)
}

/// The feature set's sources, those of the backfill instead of those of the same name, and then the backfill's others.
fn sources(input: &Input<'_>, feature_set: &FeatureSet, store: &FeatureStore) -> Result<Vec<OrderSource>, Rejection> {
    let declared = &feature_set.spec.sources;
    let given = input.spec.sources.as_deref().unwrap_or_default();
    let override_of = |source: &Source| given.iter().find(|other| other.name == source.name);
    let replaced = declared.iter().map(|source| match override_of(source) {
        Some(other) => ("spec.sources", other),
        None => ("feature set: spec.sources", source),
    });
    let is_new = |source: &&Source| declared.iter().all(|other| other.name != source.name);
    let added = given.iter().filter(is_new).map(|source| ("spec.sources", source));
    let mut resolved: Vec<OrderSource> = Vec::new();
    for (field, source) in replaced.chain(added) {
        let reason = if field == "spec.sources" { Reason::InvalidRequest } else { Reason::InvalidFeatureSet };
        check_column(field, &source.name, reason)?;
        if resolved.iter().any(|other| other.name.eq_ignore_ascii_case(&source.name)) {
            let message = format!("{field}: \"{}\" is the name of two sources; names differ by more than case", source.name);
            return Err(Rejection::new(reason, message));
        }
        resolved.push(self::source(input, store, field, source, reason)?);
    }
    match given.iter().enumerate().find(|(index, source)| given.iter().take(*index).any(|earlier| earlier.name == source.name)) {
        Some((_, twice)) => {
            Err(Rejection::new(Reason::InvalidRequest, format!("spec.sources: \"{}\" is the name of two sources", twice.name)))
        }
        None => Ok(resolved),
    }
}

fn source(
    input: &Input<'_>,
    store: &FeatureStore,
    field: &str,
    source: &Source,
    reason: Reason,
) -> Result<OrderSource, Rejection> {
    let name = &source.name;
    let files = [
        (SourceFormat::Parquet, &source.parquet),
        (SourceFormat::Csv, &source.csv),
        (SourceFormat::Json, &source.json),
        (SourceFormat::Delta, &source.delta),
    ];
    let mut files = files.into_iter().filter_map(|(format, file)| file.as_ref().map(|file| (format, file)));
    match (files.next(), files.next(), &source.feature_set) {
        (Some((format, file)), None, None) => {
            check_uri(&file.uri)
                .map_err(|why| Rejection::new(Reason::SourceNotFound, format!("{field}: source \"{name}\": {why}")))?;
            Ok(OrderSource { name: name.clone(), format, uri: file.uri.clone() })
        }
        (None, None, Some(other)) => {
            let uri = table_of(input, store, &other.name).map_err(|rejection| Rejection {
                message: format!("{field}: source \"{name}\": {}", rejection.message),
                ..rejection
            })?;
            Ok(OrderSource { name: name.clone(), format: SourceFormat::Delta, uri })
        }
        _ => {
            let message = format!("{field}: source \"{name}\": give exactly one of parquet, csv, json, delta and featureSet");
            Err(Rejection::new(reason, message))
        }
    }
}

/// The table of a feature set that serves as a source. The pods carry the credentials of one store only.
fn table_of(input: &Input<'_>, store: &FeatureStore, name: &str) -> Result<String, Rejection> {
    let feature_set = find("feature set", name, input.namespace, &input.feature_sets, Reason::SourceFeatureSetNotFound)?;
    validate_feature_set(feature_set)?;
    let store_name = feature_set.store();
    let its_store = find("feature store", store_name, input.namespace, &input.stores, Reason::StoreNotFound)?;
    place::validate_store(its_store)?;
    let (ours, its) = (&store.spec.offline, &its_store.spec.offline);
    if ours.credentials_secret != its.credentials_secret
        || (its.uri.starts_with("file:") && ours.volume_claim != its.volume_claim)
    {
        let message = format!(
            "the feature set \"{name}\" lies in the store \"{store_name}\", which has other credentials or another volume"
        );
        return Err(Rejection::new(Reason::InvalidFeatureSet, message));
    }
    Ok(place::table_uri(feature_set, its_store))
}

fn schedule(feature_set: &FeatureSet) -> Result<Option<Schedule>, Rejection> {
    let Some(windows) = &feature_set.spec.windows else { return Ok(None) };
    let name = feature_set.metadata.name.as_deref().unwrap_or_default();
    let refuse = |message: String| Rejection::new(Reason::InvalidSchedule, format!("feature set \"{name}\": {message}"));
    let ticks = match (&windows.every, &windows.cron) {
        (Some(every), None) => {
            Ticks::EverySeconds(parse_duration("spec.windows.every", every).map_err(|error| refuse(error.to_string()))?)
        }
        (None, Some(cron)) => Ticks::Cron(cron.clone()),
        (Some(_), Some(_)) | (None, None) => return Err(refuse("spec.windows: give exactly one of every and cron".to_owned())),
    };
    Ok(Some(Schedule { ticks, stamp: windows.stamp.unwrap_or_default() }))
}
