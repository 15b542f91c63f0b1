//! What a backfill would do, before it is created: the same judgement that the operator makes.

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use crate::lane::stores;
use crate::print::sizes;
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use backfill_core::contract::Scope;
use backfill_core::request::{Input, Rejection, Request, Resolution, resolve};
use backfill_core::time::{Interval, show};
use backfill_core::window;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Up to so many windows are all shown.
const WINDOWS_SHOWN: usize = 10;

/// What a judgement is made from.
pub struct Known {
    /// The namespace.
    pub namespace: String,
    /// Its feature sets.
    pub feature_sets: Vec<FeatureSet>,
    stores: Vec<FeatureStore>,
    templates: Vec<ClusterTemplate>,
    labels: Option<BTreeMap<String, String>>,
}

impl Known {
    /// Reads what there is, side by side.
    pub async fn of(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let all = ListParams::default();
        let (sets, stores) = (cluster.api::<FeatureSet>(namespace), cluster.api::<FeatureStore>(namespace));
        let templates: Api<ClusterTemplate> = Api::all(cluster.client.clone());
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let (feature_sets, stores, templates, labels) = tokio::join!(
            cluster.list("feature sets", &sets, &all),
            cluster.list("feature stores", &stores, &all),
            cluster.list("cluster templates", &templates, &all),
            cluster.try_call(namespaces.get_metadata(namespace)),
        );
        // Who may not read the namespace does not hear of a template's selector here; the operator says it.
        let labels = labels.ok().map(|namespace| namespace.labels().clone());
        Ok(Self { namespace: namespace.to_owned(), feature_sets: feature_sets?, stores: stores?, templates: templates?, labels })
    }

    /// Refuses a namespace in which nothing is.
    pub fn refuse_no_environment(&self) -> Result<()> {
        if !self.feature_sets.is_empty() || !self.stores.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("\"{}\" is no environment: there is no feature store in that namespace", self.namespace))
            .hint("see which there are: kubectl get fstore -A"))
    }

    /// The store of that name.
    pub fn store(&self, name: &str) -> Option<&FeatureStore> {
        self.stores.iter().find(|store| store.name_any() == name)
    }

    /// What a backfill means at this moment.
    pub fn resolve(&self, backfill: &FeatureSetBackfill, now: DateTime<Utc>) -> Result<Resolution, Rejection> {
        resolve(&Input {
            namespace: &self.namespace,
            name: &backfill.name_any(),
            uid: None,
            spec: &backfill.spec,
            now,
            feature_sets: self.feature_sets.iter().collect(),
            stores: self.stores.iter().collect(),
            templates: self.templates.iter().collect(),
            namespace_labels: self.labels.as_ref(),
        })
    }
}

/// What would happen, for the person who is asked.
pub fn text(resolution: &Resolution, context: Option<&str>) -> String {
    let Resolution { request, warnings } = resolution;
    let mut text = String::new();
    let context = context.map_or_else(String::new, |context| format!(" (context {context})"));
    let _ = writeln!(text, "Feature set \"{}\" in \"{}\"{context}", request.definition.feature_set, request.backfill.namespace);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    line("replaces", &scope(&request.scope));
    line("stores", stores(request.stores));
    if let Some(windows) = windows(request) {
        line("windows", &windows);
    }
    line("template", &format!("{}: {}", request.template.name, sizes(&request.template)));
    line("name", &request.backfill.name);
    for warning in warnings {
        line("warning", &warning.message);
    }
    text
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Interval { interval } => span(*interval),
        Scope::Reset { interval, delete_before: None } => format!("ALL DATA; filled again: {}", span(*interval)),
        Scope::Reset { interval, delete_before: Some(now) } => {
            format!("ALL DATA before {}; filled again: {}", show(*now), span(*interval))
        }
        Scope::Undo { backfill, .. } => format!("what \"{backfill}\" replaced, by what was there before"),
    }
}

fn span(interval: Interval) -> String {
    format!("{} <= t < {}", show(interval.start()), show(interval.stop()))
}

/// The windows: all when they are few, else the first two and the last two.
fn windows(request: &Request) -> Option<String> {
    let schedule = request.definition.windows.as_ref()?;
    let interval = match &request.scope {
        Scope::Interval { interval } | Scope::Reset { interval, .. } if request.stores.offline() => *interval,
        _ => return None,
    };
    let windows = window::windows(Some(schedule), interval).ok()?;
    let shown: Vec<String> =
        windows.iter().map(|window| format!("[{}, {})", show(window.start()), show(window.stop()))).collect();
    let list = match shown.as_slice() {
        all if all.len() <= WINDOWS_SHOWN => all.join("\n             "),
        [first, second, .., before, last] => [first, second, "…", before, last].join("\n             "),
        _ => String::new(),
    };
    Some(format!("{}\n             {list}", windows.len()))
}
