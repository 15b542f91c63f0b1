//! The size of the Jobs: which cluster template, and what it means in bytes and seconds.

use super::names::hint;
use super::{Input, Rejection, parse_quantity, spark};
use crate::api::{ClusterTemplate, Engine, FeatureSet, FeatureStore, OnlineSize, Toleration};
use crate::condition::Reason;
use crate::contract::{self, Size};
use crate::time::parse_duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The template of backfills for which nobody names one; it is among those that are shipped.
const TEMPLATE: &str = "small";

/// How long a backfill may hold its feature set when nobody says.
const DEADLINE: &str = "24h";

/// Below this the engines cannot work.
const MEMORY_BYTES_MIN: u64 = 128 << 20;

/// A cluster template with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Template {
    /// Its name as in Kubernetes.
    pub name: String,
    /// What computes the rows.
    pub engine: Engine,
    /// How many pods compute the rows.
    pub nodes: u32,
    /// What each of them may use.
    pub size: Size,
    /// How many pods write to the online store, unless it allows one only.
    pub online_parallelism: u32,
    /// What each of them may use.
    pub online: Size,
    /// How long a backfill may hold its feature set, in seconds.
    pub deadline_seconds: u64,
    /// Where pods may run.
    pub scheduling: Scheduling,
    /// Further settings of Spark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spark_conf: BTreeMap<String, String>,
}

/// Where pods may run, and in which queue their Jobs wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels of the nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// The Kueue queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_name: Option<String>,
}

impl Template {
    /// What an order says of the engine.
    pub fn order_engine(&self) -> contract::Engine {
        match self.engine {
            Engine::DataFusion => contract::Engine::DataFusion,
            Engine::Spark => contract::Engine::Spark { nodes: self.nodes, conf: self.spark_conf.clone() },
        }
    }
}

/// The template that the backfill, else the feature set, else the store names.
pub fn choose(input: &Input<'_>, feature_set: &FeatureSet, store: &FeatureStore) -> Result<Template, Rejection> {
    let of_feature_set = || feature_set.spec.backfill.as_ref().and_then(|backfill| backfill.cluster_template.as_deref());
    let of_backfill = input.spec.cluster_template.as_deref();
    let name = of_backfill.or_else(of_feature_set).or(store.spec.default_cluster_template.as_deref()).unwrap_or(TEMPLATE);
    let template = find_template(name, &input.templates)?;
    if let Some(labels) = input.namespace_labels {
        check_selector(template, input.namespace, labels)?;
    }
    sizes(template)
}

/// Finds a template by its name in any case.
pub fn find_template<'a>(name: &str, templates: &[&'a ClusterTemplate]) -> Result<&'a ClusterTemplate, Rejection> {
    let named = |template: &&&'a ClusterTemplate| name_of(template).eq_ignore_ascii_case(name);
    templates.iter().find(named).copied().ok_or_else(|| {
        let names: Vec<_> = templates.iter().map(|template| name_of(template)).collect();
        Rejection::new(Reason::ClusterTemplateNotFound, format!("no cluster template \"{name}\"{}", hint(name, &names)))
    })
}

fn check_selector(template: &ClusterTemplate, namespace: &str, labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    let missing = template.spec.namespace_selector.iter().find(|(key, value)| labels.get(*key) != Some(value));
    missing.map_or(Ok(()), |(key, value)| {
        let message = format!(
            "the cluster template \"{}\" may not be used in \"{namespace}\": it asks for the namespace label {key}={value}",
            name_of(template)
        );
        Err(Rejection::new(Reason::ClusterTemplateNotFound, message))
    })
}

fn sizes(template: &ClusterTemplate) -> Result<Template, Rejection> {
    let name = name_of(template);
    let spec = &template.spec;
    let refuse = |message: String| Rejection::new(Reason::InvalidStore, format!("cluster template \"{name}\": {message}"));
    let nodes = spec.nodes.unwrap_or(1);
    if nodes == 0 || (spec.engine == Engine::DataFusion && nodes > 1) {
        return Err(refuse("spec.nodes: DataFusion has exactly one node, Spark at least one".to_owned()));
    }
    if spec.engine == Engine::DataFusion && !spec.spark_conf.is_empty() {
        return Err(refuse("spec.sparkConf is for engine Spark only".to_owned()));
    }
    spark::check(&spec.spark_conf).map_err(refuse)?;
    if spec.engine == Engine::Spark
        && parse_quantity("spec.memory", &spec.memory).is_ok_and(|bytes| bytes < spark::MEMORY_BYTES_MIN)
    {
        return Err(refuse(format!("spec.memory: \"{}\" is less than 2Gi, which Spark needs", spec.memory)));
    }
    let size = size("spec", spec.cores, &spec.memory, spec.scratch.as_deref()).map_err(refuse)?;
    let fallback = OnlineSize { parallelism: 1, cores: 1, memory: "1Gi".to_owned() };
    let online = spec.online.as_ref().unwrap_or(&fallback);
    if online.parallelism == 0 {
        return Err(refuse("spec.online.parallelism is 0".to_owned()));
    }
    let deadline = spec.deadline.as_deref().unwrap_or(DEADLINE);
    Ok(Template {
        name: name.to_owned(),
        engine: spec.engine,
        nodes,
        size,
        online_parallelism: online.parallelism,
        online: self::size("spec.online", online.cores, &online.memory, None).map_err(refuse)?,
        deadline_seconds: parse_duration("spec.deadline", deadline).map_err(|error| refuse(error.to_string()))?,
        scheduling: Scheduling {
            node_selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
            priority_class_name: spec.priority_class_name.clone(),
            queue_name: spec.queue_name.clone(),
        },
        spark_conf: spec.spark_conf.clone(),
    })
}

fn size(field: &str, cores: u32, memory: &str, scratch: Option<&str>) -> Result<Size, String> {
    let read = |name: &str, text| parse_quantity(&format!("{field}.{name}"), text).map_err(|error| error.to_string());
    let memory_bytes = read("memory", memory)?;
    if cores == 0 {
        return Err(format!("{field}.cores is 0"));
    }
    if memory_bytes < MEMORY_BYTES_MIN {
        return Err(format!("{field}.memory: \"{memory}\" is less than 128Mi"));
    }
    let scratch_bytes = scratch.map(|text| read("scratch", text)).transpose()?.unwrap_or_else(|| memory_bytes.saturating_mul(2));
    Ok(Size { cores, memory_bytes, scratch_bytes })
}

fn name_of(template: &ClusterTemplate) -> &str {
    template.metadata.name.as_deref().unwrap_or_default()
}
