//! The guards of a backfill: those of the feature set, overridden by those of the backfill, every default filled in.

use super::Rejection;
use super::names::check_column;
use crate::api::{
    self, DuplicatePolicy, EvictionPolicy, FeatureSet, FeatureSetBackfillSpec, NullKeys, RowsOutside, SchemaGuard, Timestamps,
};
use crate::condition::Reason;
use crate::contract::{Check, Guards};
use crate::sql;

/// The largest shrink in percent when nobody says.
const SHRINK_PERCENT_MAX: u8 = 50;

/// Merges field by field; checks are added.
pub fn merge(feature_set: &FeatureSet, spec: &FeatureSetBackfillSpec) -> Result<Guards, Rejection> {
    let none = api::Guards::default();
    let defaults = feature_set.spec.backfill.as_ref().and_then(|backfill| backfill.guards.as_ref()).unwrap_or(&none);
    let given = spec.guards.as_ref().unwrap_or(&none);
    validate("feature set: spec.backfill.guards", defaults, Reason::InvalidFeatureSet)?;
    validate("spec.guards", given, Reason::InvalidRequest)?;
    let duplicates = given.duplicates.as_ref().or(defaults.duplicates.as_ref());
    let checks: Vec<Check> = defaults.checks.iter().chain(&given.checks).map(check).collect();
    let twice =
        checks.iter().enumerate().find(|(index, check)| checks.iter().take(*index).any(|earlier| earlier.name == check.name));
    if let Some((_, check)) = twice {
        let message = format!(
            "spec.guards.checks: \"{}\" is the name of two checks; those of a backfill are added to the feature set's",
            check.name
        );
        return Err(Rejection::new(Reason::InvalidRequest, message));
    }
    Ok(Guards {
        schema: given.schema.or(defaults.schema).unwrap_or(SchemaGuard::Strict),
        null_keys: given.null_keys.or(defaults.null_keys).unwrap_or(NullKeys::Fail),
        keep_last_by: duplicates.and_then(|duplicates| duplicates.by.clone()),
        rows_outside: given.rows_outside.or(defaults.rows_outside).unwrap_or(RowsOutside::Drop),
        allow_empty: given.allow_empty.or(defaults.allow_empty).unwrap_or(false),
        max_shrink_percent: given.max_shrink_percent.or(defaults.max_shrink_percent).unwrap_or(SHRINK_PERCENT_MAX),
        timestamps: given.timestamps.or(defaults.timestamps).unwrap_or(Timestamps::Exact),
        eviction_policy: given.eviction_policy.or(defaults.eviction_policy).unwrap_or(EvictionPolicy::Warn),
        checks,
    })
}

fn validate(field: &str, guards: &api::Guards, reason: Reason) -> Result<(), Rejection> {
    let refuse = |message: String| Err(Rejection::new(reason, format!("{field}.{message}")));
    match guards.duplicates.as_ref().map(|duplicates| (duplicates.policy, duplicates.by.as_deref())) {
        Some((DuplicatePolicy::KeepLast, None)) => {
            return refuse("duplicates: KeepLast needs by: the column whose largest value is kept".to_owned());
        }
        Some((DuplicatePolicy::Fail, Some(_))) => return refuse("duplicates: by is for KeepLast only".to_owned()),
        Some((DuplicatePolicy::KeepLast, Some(by))) => check_column(&format!("{field}.duplicates.by"), by, reason)?,
        Some((DuplicatePolicy::Fail, None)) | None => {}
    }
    if guards.max_shrink_percent.is_some_and(|percent| percent > 100) {
        return refuse("maxShrinkPercent is more than 100".to_owned());
    }
    for check in &guards.checks {
        check_column(&format!("{field}.checks"), &check.name, reason)?;
        if let Err(rejected) = sql::check_predicate(&check.predicate) {
            return refuse(format!("checks: \"{}\": {rejected}", check.name));
        }
    }
    Ok(())
}

fn check(check: &api::Check) -> Check {
    Check { name: check.name.clone(), predicate: check.predicate.clone(), severity: check.severity }
}
