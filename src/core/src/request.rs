//! From what was applied to what is done: the one place where a backfill is judged before a Job exists, and a lookup before its pod.
//!
//! [`resolve`] takes the objects and the time and returns a [`Request`], which is valid because it exists, or a [`Rejection`].
//! It repeats the rules of the resources' schemas, so that manifests that no API server has seen are refused with the same words.
//! It does not know whether stores answer or sources exist: that is the worker's to find out.

mod definition;
mod guards;
mod lookup;
mod names;
mod place;
mod quantity;
mod scope;
mod spark;
mod template;

use crate::api::{ClusterTemplate, FeatureSet, FeatureSetBackfillSpec, FeatureStore, Mode};
use crate::condition::Reason;
use crate::contract::{self, BackfillRef, Definition, Guards, Notice, Online, Order, Scope, Step, Stores, Table};
use crate::time::parse_duration;
use crate::{key, window};
use chrono::{DateTime, Utc};
pub use definition::validate_feature_set;
pub use lookup::{LookupInput, LookupRequest, resolve_lookup};
pub use names::hint;
pub use place::{Pods, check_uri, table_uri, validate_store};
pub use quantity::parse_quantity;
use serde::{Deserialize, Serialize};
pub use spark::check as check_spark_conf;
use std::collections::BTreeMap;
pub use template::{Scheduling, Template, find_template};

/// How often a step is tried again when the backfill does not say.
const RETRIES: u32 = 3;

/// Everything that decides what a backfill does. Feature sets and stores are those of the backfill's namespace, and no others.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The backfill's namespace.
    pub namespace: &'a str,
    /// The backfill's name.
    pub name: &'a str,
    /// The backfill's uid; `local` has none.
    pub uid: Option<&'a str>,
    /// What was asked for.
    pub spec: &'a FeatureSetBackfillSpec,
    /// The moment at which the run takes the feature set, by the API server's clock. Cut to a whole second here.
    pub now: DateTime<Utc>,
    /// The namespace's feature sets.
    pub feature_sets: Vec<&'a FeatureSet>,
    /// The namespace's stores.
    pub stores: Vec<&'a FeatureStore>,
    /// The cluster templates.
    pub templates: Vec<&'a ClusterTemplate>,
    /// The namespace's labels, against which templates' selectors are held. `None` without a cluster: then every template may be used.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
}

/// A valid request, and what a person should know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// What is done.
    pub request: Request,
    /// What was not as asked, without being wrong.
    pub warnings: Vec<Notice>,
}

/// A valid request: boundaries, defaults and overrides are settled. Only [`resolve`] makes one; the operator keeps it as JSON beside
/// the run's orders, so that all attempts do the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Request {
    /// Whose request it is.
    pub backfill: BackfillRef,
    /// The run's idempotency key.
    pub key: String,
    /// The backfill's comment.
    pub comment: Option<String>,
    /// Whether the backfill asks for publishing.
    pub mode: Mode,
    /// What is replaced.
    pub scope: Scope,
    /// Which stores are replaced.
    pub stores: Stores,
    /// *Now* of the run, a whole second.
    pub now: DateTime<Utc>,
    /// The feature set's generation.
    pub feature_set_generation: Option<i64>,
    /// The feature set's shape and how its rows are computed.
    pub definition: Definition,
    /// The offline table.
    pub table: Table,
    /// The online store, when the feature set has one.
    pub online: Option<Online>,
    /// What must hold before anything is replaced.
    pub guards: Guards,
    /// The size of the Jobs.
    pub template: Template,
    /// How the store wants pods to be made.
    pub pods: Pods,
    /// How many windows are run; 0 when nothing is computed.
    pub windows: usize,
    /// How often a step is tried again.
    pub retries: u32,
    /// How long the feature set may be held, in seconds.
    pub deadline_seconds: u64,
}

/// Why a backfill is not begun. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// In one word.
    pub reason: Reason,
    /// For a person, with the way out.
    pub message: String,
}

impl Rejection {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether only an object, or a newer operator, is missing: the backfill goes on by itself when that appears.
    pub const fn recovers(&self) -> bool {
        matches!(
            self.reason,
            Reason::FeatureSetNotFound
                | Reason::StoreNotFound
                | Reason::ClusterTemplateNotFound
                | Reason::SourceFeatureSetNotFound
                | Reason::UnknownField
        )
    }
}

/// Judges a backfill. Pure and total: equal inputs give equal results.
pub fn resolve(input: &Input<'_>) -> Result<Resolution, Rejection> {
    let Input { namespace, name, uid, spec, .. } = *input;
    names::check_label("metadata.name", name, Reason::InvalidRequest)?;
    let asked = scope::asked(name, spec)?;
    let now = scope::whole_second(input.now);
    let feature_set = names::find("feature set", &spec.feature_set, namespace, &input.feature_sets, Reason::FeatureSetNotFound)?;
    definition::validate_feature_set(feature_set)?;
    let store_name = feature_set.store();
    let store = names::find("feature store", store_name, namespace, &input.stores, Reason::StoreNotFound)?;
    place::validate_store(store)?;
    let template = template::choose(input, feature_set, store)?;
    let stores = place::stores(spec, feature_set, store)?;
    let resolved = scope::resolve(&asked, feature_set, now)?;
    let computes = stores.offline() && !matches!(resolved.scope, Scope::Undo { .. });
    let definition = definition::resolve(input, feature_set, store, computes)?;
    let mut warnings: Vec<Notice> = resolved.clamped.into_iter().collect();
    let windows = match scope::filled(&resolved.scope).filter(|_| computes) {
        None => Vec::new(),
        Some(interval) => window::windows(definition.windows.as_ref(), interval)
            .map_err(|error| Rejection::new(error.reason(), error.to_string()))?,
    };
    warnings.extend(scope::partial(&windows));
    let deadline_seconds = match &spec.deadline {
        Some(text) => {
            parse_duration("spec.deadline", text).map_err(|error| Rejection::new(Reason::InvalidRequest, error.to_string()))?
        }
        None => template.deadline_seconds,
    };
    let request = Request {
        backfill: BackfillRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
            run_id: spec.run_id.clone(),
        },
        key: key::idempotency_key(namespace, name, spec),
        comment: spec.comment.clone(),
        mode: spec.mode.unwrap_or_default(),
        scope: resolved.scope,
        stores,
        now,
        feature_set_generation: feature_set.metadata.generation,
        table: place::table(feature_set, store),
        online: place::online(spec, feature_set, store, &template)?,
        guards: guards::merge(feature_set, spec)?,
        definition,
        template,
        pods: place::pods(store),
        windows: windows.len(),
        retries: spec.retries.unwrap_or(RETRIES),
        deadline_seconds,
    };
    Ok(Resolution { request, warnings })
}

impl Request {
    /// The order for one attempt of a step. `mode` is given because a plan that is published later is ordered as `Apply`.
    pub fn order(&self, step: Step, mode: Mode, attempt: u32) -> Order {
        Order {
            version: contract::VERSION,
            mode,
            attempt,
            backfill: self.backfill.clone(),
            key: self.key.clone(),
            comment: self.comment.clone(),
            scope: self.scope.clone(),
            stores: self.stores,
            now: self.now,
            definition: self.definition.clone(),
            table: self.table.clone(),
            online: self.online.clone(),
            guards: self.guards.clone(),
            size: match step {
                Step::Offline => self.template.size,
                Step::Online | Step::Settle => self.template.online,
            },
            engine: match step {
                Step::Offline => self.template.order_engine(),
                Step::Online | Step::Settle => contract::Engine::DataFusion,
            },
        }
    }
}

#[cfg(test)]
mod tests;
