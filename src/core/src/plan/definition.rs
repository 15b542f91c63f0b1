//! What the status of a feature set says of its definition.

use crate::api::{FeatureSet, FeatureSetStatus, FeatureStore};
use crate::condition::{ConditionStatus, ConditionType, Finding, Reason, set_all};
use crate::request::{validate_feature_set, validate_store};
use chrono::{DateTime, Utc};
use kube::ResourceExt;

/// Judges a feature set beside the stores of its namespace. All that backfills keep in its status stays.
pub fn judge(set: &FeatureSet, stores: &[&FeatureStore], now: DateTime<Utc>) -> FeatureSetStatus {
    let mut status = set.status.clone().unwrap_or_default();
    let name = set.store();
    let store = stores.iter().find(|store| store.name_any() == name);
    let fault = match (validate_feature_set(set), store) {
        (Err(rejection), _) => Some((rejection.reason, rejection.message)),
        (Ok(()), None) => Some((Reason::StoreNotFound, format!("no feature store \"{name}\" in this namespace"))),
        (Ok(()), Some(store)) => validate_store(store).err().map(|rejection| (rejection.reason, rejection.message)),
    };
    let finding = |kind, status, reason, message: &str| Finding { kind, status, reason, message: message.to_owned() };
    let findings = match &fault {
        None => vec![finding(ConditionType::Ready, ConditionStatus::True, Reason::Accepted, "the definition is valid")],
        Some((reason, message)) => vec![
            finding(ConditionType::Ready, ConditionStatus::False, *reason, message),
            finding(ConditionType::Stalled, ConditionStatus::True, *reason, message),
        ],
    };
    set_all(&mut status.conditions, findings, now, set.metadata.generation);
    status.observed_generation = set.metadata.generation;
    status
}
