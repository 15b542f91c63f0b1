//! `ClusterTemplate`: a named size for the Jobs of backfills.

use super::schema;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A named size for the Jobs of backfills: engine, nodes, and the resources of each node.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "featureset.dev", version = "v1alpha1", kind = "ClusterTemplate", derive = "PartialEq",
    shortname = "ctpl", category = "featureset",
    doc = "A named size for the Jobs of backfills: engine, nodes, and the resources of each node.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    printcolumn(name = "Engine", type_ = "string", json_path = ".spec.engine"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.nodes"),
    printcolumn(name = "Cores", type_ = "integer", json_path = ".spec.cores"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Scratch", type_ = "string", json_path = ".spec.scratch", priority = 1),
    printcolumn(name = "Online pods", type_ = "integer", json_path = ".spec.online.parallelism", priority = 1),
    printcolumn(name = "Deadline", type_ = "string", json_path = ".spec.deadline", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.engine != 'DataFusion' || !has(self.nodes) || self.nodes == 1", "nodes: DataFusion has exactly one node"))]
#[x_kube(validation = ("self.engine == 'Spark' || !has(self.sparkConf)", "sparkConf is for engine Spark only"))]
pub struct ClusterTemplateSpec {
    /// What computes the rows: `DataFusion` in one pod, or `Spark` over several.
    pub engine: Engine,
    /// How many pods compute the rows. `DataFusion` has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub nodes: Option<u32>,
    /// Processor cores of each pod.
    #[schemars(range(min = 1, max = 1024))]
    pub cores: u32,
    /// Memory of each pod, as a Kubernetes quantity such as `4Gi`.
    #[schemars(schema_with = "schema::quantity")]
    pub memory: String,
    /// Scratch space of each pod, as a Kubernetes quantity. Default: twice the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub scratch: Option<String>,
    /// The size of the online step. Default: one pod of one core and 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineSize>,
    /// How long a backfill may hold its feature set, as `6h` or `2d`. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub deadline: Option<String>,
    /// Nodes on which the pods may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings::<63>")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub priority_class_name: Option<String>,
    /// The Kueue queue in which the Jobs wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub queue_name: Option<String>,
    /// Further Spark settings. Only with `engine: Spark`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings::<1024>")]
    pub spark_conf: BTreeMap<String, String>,
    /// Labels of the namespaces that may use this template. Default: all may.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings::<63>")]
    pub namespace_selector: BTreeMap<String, String>,
}

/// What computes the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    /// Apache DataFusion, in one pod.
    DataFusion,
    /// Apache Spark, over several pods.
    Spark,
}

/// The size of the online step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnlineSize {
    /// How many pods write to the online store. SQLite has one.
    #[schemars(range(min = 1, max = 256))]
    pub parallelism: u32,
    /// Processor cores of each pod.
    #[schemars(range(min = 1, max = 1024))]
    pub cores: u32,
    /// Memory of each pod, as a Kubernetes quantity.
    #[schemars(schema_with = "schema::quantity")]
    pub memory: String,
}

/// A taint that pods tolerate; the fields are those of a pod's toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; empty matches every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<317>")]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "operator")]
    pub operator: Option<String>,
    /// The taint's value, with `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<63>")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; empty matches every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "effect")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is tolerated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

fn operator(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Exists", "Equal"]})
}

fn effect(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]})
}
