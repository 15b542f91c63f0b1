//! `FeatureStore`: where the feature sets of a namespace keep their data.

use super::schema;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the feature sets of a namespace keep their data, and how run pods are made there. A namespace with a store is an environment.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "featureset.dev", version = "v1alpha1", kind = "FeatureStore", namespaced, status = "FeatureStoreStatus", derive = "PartialEq",
    shortname = "fstore", category = "featureset",
    doc = "Where the feature sets of a namespace keep their data, and how run pods are made there. A namespace with a store is an environment.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    printcolumn(name = "Offline", type_ = "string", json_path = ".spec.offline.uri"),
    printcolumn(name = "Project", type_ = "string", json_path = ".spec.project"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Template", type_ = "string", json_path = ".spec.defaultClusterTemplate", priority = 1),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".spec.maxConcurrentBackfills", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.offline.volumeClaim) || !(self.offline.uri.startsWith('file:') || (has(self.online) && has(self.online.sqlite)))",
    "offline.volumeClaim is missing: file:// URIs and SQLite files lie on it",
))]
pub struct FeatureStoreSpec {
    /// The Feast project name, part of every online key. Default: the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::view")]
    pub project: Option<String>,
    /// The offline store: a folder of Delta tables.
    pub offline: OfflineStore,
    /// The online store. Without it, feature sets are offline only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineStore>,
    /// How run pods are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobSettings>,
    /// How many backfills of this store may run at the same time. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_backfills: Option<u32>,
    /// The cluster template of backfills and feature sets that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::template_name")]
    pub default_cluster_template: Option<String>,
}

impl FeatureStore {
    /// How many of its backfills may run at the same time.
    pub fn slots(&self) -> usize {
        self.spec.max_concurrent_backfills.unwrap_or(4) as usize
    }
}

/// A folder of Delta tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfflineStore {
    /// The folder's URI: `s3://`, `gs://`, `abfss://`, or `file:///store/…` on the volume claim.
    #[schemars(schema_with = "schema::uri")]
    pub uri: String,
    /// A Secret with the object store's settings, one key each (for instance `aws_access_key_id`, `aws_endpoint`), also used for sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub credentials_secret: Option<String>,
    /// A PersistentVolumeClaim that run pods mount at `/store`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub volume_claim: Option<String>,
}

/// The online store: exactly one of `redis` and `sqlite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.redis) != has(self.sqlite)", "give exactly one of redis and sqlite"))]
pub struct OnlineStore {
    /// A Redis server or cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStore>,
    /// A SQLite file on the volume claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<SqliteStore>,
}

/// A Redis server or cluster in Feast's layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisStore {
    /// The Secret entry that holds the URL: `redis://`, `rediss://`, or `redis-cluster://` with comma-separated hosts.
    pub url_secret: SecretKey,
    /// How long an entity's key lives after its last write. It is only ever lengthened. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub key_ttl: Option<String>,
}

/// One entry of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// The entry's key.
    #[schemars(schema_with = "schema::secret_key")]
    pub key: String,
}

/// A SQLite file in Feast's layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqliteStore {
    /// The file's path, below `/store/`.
    #[schemars(schema_with = "schema::file")]
    pub path: String,
}

/// How run pods are made in this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSettings {
    /// The pods' service account. Its token is never mounted. Default: the namespace's `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub service_account_name: Option<String>,
    /// Secrets with which images are pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub image_pull_secrets: Vec<String>,
    /// Labels added to run pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings::<63>")]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations added to run pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings::<4096>")]
    pub pod_annotations: BTreeMap<String, String>,
}

/// What the operator knows of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureStoreStatus {
    /// The generation that the operator has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The backfills that hold a slot of this store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub running: Vec<RunningBackfill>,
    /// The image of the run pods that the operator made last for this store. `kubectl features online get` runs it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text::<1024>")]
    pub worker_image: Option<String>,
}

/// A backfill that holds a slot of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningBackfill {
    /// The backfill's uid.
    #[schemars(schema_with = "schema::text::<64>")]
    pub uid: String,
    /// The backfill's name.
    #[schemars(schema_with = "schema::text::<253>")]
    pub name: String,
}
