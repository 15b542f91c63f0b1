//! Where data lie: the offline table, the online store, and URIs.

use super::template::Template;
use super::{Rejection, definition};
use crate::api::{FeatureSet, FeatureSetBackfillSpec, FeatureStore, JobSettings, Store, VOLUME};
use crate::condition::Reason;
use crate::contract::{Online, OnlineTarget, Stores, Table};
use crate::time::parse_duration;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// The partition column of tables that name none.
pub const DATE_COLUMN: &str = "event_date";

/// The longest URI.
const URI_MAX: usize = 1024;

/// Refuses a store whose definition contradicts itself.
pub fn validate_store(store: &FeatureStore) -> Result<(), Rejection> {
    let name = store.metadata.name.as_deref().unwrap_or_default();
    let refuse = |message: String| Rejection::new(Reason::InvalidStore, format!("feature store \"{name}\": {message}"));
    let offline = &store.spec.offline;
    check_uri(&offline.uri).map_err(|why| refuse(format!("spec.offline.uri: {why}")))?;
    let on_volume = offline.uri.starts_with("file:");
    let sqlite = store.spec.online.as_ref().and_then(|online| online.sqlite.as_ref());
    if (on_volume || sqlite.is_some()) && offline.volume_claim.is_none() {
        return Err(refuse("spec.offline.volumeClaim is missing: file:// URIs and SQLite files lie on it".to_owned()));
    }
    for secret in offline.credentials_secret.iter().chain(redis(store).map(|redis| &redis.url_secret.name)) {
        check_part(secret).map_err(|why| refuse(format!("the Secret's name {why}")))?;
    }
    if store.spec.max_concurrent_backfills == Some(0) {
        return Err(refuse("spec.maxConcurrentBackfills is 0".to_owned()));
    }
    let Some(online) = &store.spec.online else { return Ok(()) };
    match (&online.redis, &online.sqlite) {
        (Some(redis), None) => {
            check_part(&redis.url_secret.key).map_err(|why| refuse(format!("spec.online.redis.urlSecret.key {why}")))?;
            key_ttl(redis.key_ttl.as_deref()).map(drop).map_err(refuse)
        }
        (None, Some(sqlite)) => check_file(&sqlite.path).map_err(|why| refuse(format!("spec.online.sqlite.path: {why}"))),
        (Some(_), Some(_)) | (None, None) => Err(refuse("spec.online: give exactly one of redis and sqlite".to_owned())),
    }
}

fn redis(store: &FeatureStore) -> Option<&crate::api::RedisStore> {
    store.spec.online.as_ref()?.redis.as_ref()
}

fn key_ttl(text: Option<&str>) -> Result<Option<u64>, String> {
    text.map(|text| parse_duration("spec.online.redis.keyTtl", text)).transpose().map_err(|error| error.to_string())
}

/// The folder of a feature set's table. The store and the feature set are valid.
pub fn table_uri(feature_set: &FeatureSet, store: &FeatureStore) -> String {
    let offline = feature_set.spec.offline.as_ref();
    let name = feature_set.metadata.name.as_deref().unwrap_or_default();
    let folder = offline.and_then(|offline| offline.table.as_deref()).unwrap_or(name);
    format!("{}/{folder}", store.spec.offline.uri.trim_end_matches('/'))
}

/// The offline table of a feature set.
pub fn table(feature_set: &FeatureSet, store: &FeatureStore) -> Table {
    let offline = feature_set.spec.offline.clone().unwrap_or_default();
    Table {
        uri: table_uri(feature_set, store),
        partition_by: offline.partition_by.unwrap_or_default(),
        date_column: offline.date_column.unwrap_or_else(|| DATE_COLUMN.to_owned()),
        credentials_secret: store.spec.offline.credentials_secret.clone(),
    }
}

/// How a store wants the worker's pods to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// The store's name.
    pub store: String,
    /// The store's own settings.
    pub settings: JobSettings,
    /// The PersistentVolumeClaim that is mounted at [`VOLUME`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<String>,
}

/// How a store wants the pods of its backfills to be made.
pub fn pods(store: &FeatureStore) -> Pods {
    Pods {
        store: store.name_any(),
        settings: store.spec.jobs.clone().unwrap_or_default(),
        volume_claim: store.spec.offline.volume_claim.clone(),
    }
}

/// Which stores are replaced: those asked for, or all that the feature set has.
pub fn stores(spec: &FeatureSetBackfillSpec, feature_set: &FeatureSet, store: &FeatureStore) -> Result<Stores, Rejection> {
    let asked = spec.stores.as_deref();
    let wants = |which: Store| asked.is_none_or(|stores| stores.contains(&which));
    match (wants(Store::Offline), wants(Store::Online), missing_online(feature_set, store)) {
        (true, true, None) => Ok(Stores::Both),
        (false, true, None) => Ok(Stores::Online),
        (true, false, _) => Ok(Stores::Offline),
        (true, true, Some(_)) if asked.is_none() => Ok(Stores::Offline),
        (_, true, Some(why)) => Err(Rejection::new(Reason::InvalidRequest, format!("spec.stores: {why}; give [Offline]"))),
        (false, false, _) => Err(Rejection::new(Reason::InvalidRequest, "spec.stores: give Offline, Online or both, each once")),
    }
}

/// Why a feature set has no online view.
pub fn missing_online(feature_set: &FeatureSet, store: &FeatureStore) -> Option<String> {
    if feature_set.spec.online.as_ref().and_then(|online| online.enabled) == Some(false) {
        return Some(format!("the feature set \"{}\" has online.enabled: false", feature_set.name_any()));
    }
    store.spec.online.is_none().then(|| format!("the feature store \"{}\" has no online store", store.name_any()))
}

/// The online store of a feature set, when it has one. The store is valid.
pub fn online(
    spec: &FeatureSetBackfillSpec,
    feature_set: &FeatureSet,
    store: &FeatureStore,
    template: &Template,
) -> Result<Option<Online>, Rejection> {
    if missing_online(feature_set, store).is_some() {
        return Ok(None);
    }
    let Some(target) = target(store)? else { return Ok(None) };
    let parallelism = match &target {
        OnlineTarget::Redis { .. } => template.online_parallelism,
        OnlineTarget::Sqlite { .. } => 1,
    };
    Ok(Some(Online {
        store: target,
        ttl_seconds: definition::online_ttl(feature_set)?,
        unknown: spec.online_unknown.unwrap_or_default(),
        parallelism,
    }))
}

/// Which online store a store names. The store is valid.
pub fn target(store: &FeatureStore) -> Result<Option<OnlineTarget>, Rejection> {
    let Some(online) = &store.spec.online else { return Ok(None) };
    Ok(match (&online.redis, &online.sqlite) {
        (Some(redis), _) => Some(OnlineTarget::Redis {
            secret: redis.url_secret.name.clone(),
            key: redis.url_secret.key.clone(),
            key_ttl_seconds: key_ttl(redis.key_ttl.as_deref()).map_err(|why| Rejection::new(Reason::InvalidStore, why))?,
        }),
        (None, Some(sqlite)) => Some(OnlineTarget::Sqlite { path: sqlite.path.clone() }),
        (None, None) => None,
    })
}

/// Accepts a URI of one of the object stores, or of a file on the store's volume: no credentials, query, pattern or way out of the folder.
pub fn check_uri(uri: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("\"{uri}\" {why}"));
    let Some((scheme, rest)) = uri.split_once("://") else {
        return refuse("has no scheme; write s3://, gs://, abfss:// or file:///store/");
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let letters =
        |text: &str, more: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let known = match scheme {
        "s3" | "gs" => letters(host, ".-_"),
        "abfss" => host.split_once('@').is_some_and(|(container, account)| letters(container, "-") && letters(account, ".-")),
        "file" => host.is_empty() && format!("/{path}/").starts_with(&format!("{VOLUME}/")),
        _ => return refuse("has an unknown scheme; write s3://, gs://, abfss:// or file:///store/"),
    };
    if !known {
        return refuse("names no bucket or container, or a file outside of file:///store/");
    }
    if uri.len() > URI_MAX {
        return Err(format!("the URI is longer than {URI_MAX} bytes"));
    }
    if path.chars().any(|c| c.is_control() || c.is_whitespace() || "?#*%\\[]{}\"'".contains(c)) {
        return refuse("holds white space or one of ? # * % \\ [ ] { } \" '; name a file or a folder");
    }
    let folder = path.strip_suffix('/').unwrap_or(path);
    if folder.split('/').any(|part| matches!(part, "." | "..") || (part.is_empty() && !path.is_empty())) {
        return refuse("holds an empty part, . or ..; name a file or a folder");
    }
    Ok(())
}

/// Accepts a path below the volume.
fn check_file(path: &str) -> Result<(), String> {
    let below = path.strip_prefix(VOLUME).and_then(|rest| rest.strip_prefix('/')).filter(|rest| !rest.ends_with('/'));
    match below {
        Some(below) if check_folder(below).is_ok() => Ok(()),
        _ => Err(format!("\"{path}\" is not a file below {VOLUME}/, such as {VOLUME}/online.db")),
    }
}

/// Accepts a relative folder: parts of letters, digits and `._=-`, none of them `.` or `..`.
pub fn check_folder(folder: &str) -> Result<(), String> {
    if folder.len() <= 512 && folder.split('/').all(|part| check_part(part).is_ok()) {
        return Ok(());
    }
    Err(format!("\"{folder}\" is not a folder: write parts of A-Z, a-z, 0-9, ., _, = and -, with / between them"))
}

fn check_part(part: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._=-".contains(c);
    if !part.is_empty() && part.len() <= 253 && part != "." && part != ".." && part.chars().all(fits) {
        return Ok(());
    }
    Err(format!("\"{part}\" holds other characters than A-Z, a-z, 0-9, ., _, = and -"))
}
