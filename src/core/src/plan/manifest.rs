//! The children of a run: the claim, the order and the Job. Built from what is resolved, so nothing here can fail.

mod lookup;
mod pod;
pub mod spark;

use super::Settings;
use super::run::{Run, api_version};
use crate::api::Engine;
use crate::contract::{OnlineTarget, Order, Size, Step, exit};
use crate::key::sha256;
use crate::request::Request;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, KeyToPath, PodSpec, PodTemplateSpec,
    ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
pub use lookup::{LOOKUP_MANAGER, LOOKUP_SECONDS_MAX};
pub use pod::CONTAINER;
use pod::{ORDERS, Place, quantities, unless_empty};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The order's entry in its ConfigMap.
pub const ORDER: &str = "order.json";

/// The resolved request beside it, from which the operator makes the orders of later attempts.
pub const REQUEST: &str = "request.json";

/// The port at which a pod tells its progress.
pub const PROGRESS_PORT: i32 = 9090;

const SCRATCH: &str = "/scratch";
/// The annotation of a Job with the hash of its order.
pub const ORDER_HASH: &str = "featureset.dev/order";

const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";

/// What is published must be followed by the online store: the online step is tried until the backfill's deadline.
const ONLINE_RETRIES: i32 = 1_000_000;

const SETTLE_RETRIES: i32 = 6;

/// The object whose creation time is the run's *now*.
pub fn claim(run: &Run<'_>) -> ConfigMap {
    let metadata = metadata(run, run.claim_name(), run.labels());
    ConfigMap { metadata, immutable: Some(true), ..ConfigMap::default() }
}

/// One attempt of a step, from which its children are made.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// The run.
    pub run: Run<'a>,
    /// What is done.
    pub request: Request,
    /// The step.
    pub step: Step,
    /// Counts from 1.
    pub number: u32,
}

impl Attempt<'_> {
    /// The name of the order and of the Job.
    pub fn name(&self) -> String {
        self.run.attempt_name(self.step, self.number)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.run.attempt_labels(self.step, self.number)
    }

    fn order(&self) -> Order {
        self.request.order(self.step, self.run.mode, self.number)
    }

    /// The order, with the request that it was made from.
    pub fn config_map(&self) -> ConfigMap {
        let data = [(ORDER, json(&self.order())), (REQUEST, json(&self.request))];
        ConfigMap {
            metadata: metadata(&self.run, self.name(), self.labels()),
            immutable: Some(true),
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..ConfigMap::default()
        }
    }

    /// The Job.
    pub fn job(&self, settings: &Settings) -> Job {
        let mut metadata = metadata(&self.run, self.name(), self.labels());
        metadata.annotations = Some([(ORDER_HASH.to_owned(), sha256(&json(&self.order())))].into());
        let queue = self.request.template.scheduling.queue_name.clone();
        metadata.labels.get_or_insert_default().extend(queue.map(|queue| (QUEUE_LABEL.to_owned(), queue)));
        let only_first = || SuccessPolicy {
            rules: vec![SuccessPolicyRule { succeeded_indexes: Some("0".to_owned()), ..SuccessPolicyRule::default() }],
        };
        Job {
            metadata,
            spec: Some(JobSpec {
                completion_mode: Some("Indexed".to_owned()),
                completions: Some(self.pods()),
                parallelism: Some(self.pods()),
                success_policy: (self.step == Step::Offline).then(only_first),
                backoff_limit: Some(self.retries()),
                pod_replacement_policy: Some("Failed".to_owned()),
                pod_failure_policy: Some(failure_policy()),
                template: PodTemplateSpec {
                    metadata: Some(pod::metadata(&self.request.pods.settings, self.labels())),
                    spec: Some(self.pod(settings)),
                },
                ..JobSpec::default()
            }),
            ..Job::default()
        }
    }

    fn pods(&self) -> i32 {
        let pods = match self.step {
            Step::Offline => self.request.template.nodes,
            Step::Online => self.request.online.as_ref().map_or(1, |online| online.parallelism),
            Step::Settle => 1,
        };
        i32::try_from(pods).unwrap_or(i32::MAX)
    }

    fn retries(&self) -> i32 {
        let asked = i32::try_from(self.request.retries).unwrap_or(i32::MAX);
        match (self.step, self.request.template.engine) {
            // Lost Spark workers are replaced without counting as an attempt of the backfill.
            (Step::Offline, Engine::Spark) => asked.saturating_add(self.pods().saturating_mul(3)),
            (Step::Offline, Engine::DataFusion) => asked,
            (Step::Online, _) => ONLINE_RETRIES,
            (Step::Settle, _) => SETTLE_RETRIES,
        }
    }

    fn pod(&self, settings: &Settings) -> PodSpec {
        let scheduling = &self.request.template.scheduling;
        let pod = PodSpec {
            node_selector: (!scheduling.node_selector.is_empty()).then(|| scheduling.node_selector.clone()),
            tolerations: unless_empty(scheduling.tolerations.iter().map(toleration).collect()),
            priority_class_name: scheduling.priority_class_name.clone(),
            ..pod::spec(&self.request.pods, self.container(settings), self.places())
        };
        if self.company().is_some() { self.in_company(pod) } else { pod }
    }

    fn container(&self, settings: &Settings) -> Container {
        let order = format!("{ORDERS}/{ORDER}");
        let port = PROGRESS_PORT.to_string();
        let args = [self.step.word(), "--order", &order, "--report", "/dev/termination-log", "--progress-port", &port];
        let progress =
            ContainerPort { name: Some("progress".to_owned()), container_port: PROGRESS_PORT, ..ContainerPort::default() };
        Container {
            image: Some(self.image(settings).to_owned()),
            image_pull_policy: settings.image_pull_policy.clone(),
            args: Some(args.map(str::to_owned).to_vec()),
            ports: Some(vec![progress]),
            resources: Some(resources(&self.order().size)),
            ..Container::default()
        }
    }

    /// Only where Spark computes, its image is needed.
    fn image<'a>(&self, settings: &'a Settings) -> &'a str {
        let spark = settings.spark_image.as_deref();
        let spark = spark.filter(|_| self.step == Step::Offline && self.request.template.engine == Engine::Spark);
        spark.unwrap_or(&settings.worker_image)
    }

    fn places(&self) -> Vec<Place> {
        let mut order = Place::new("order", ORDERS, true);
        order.volume.config_map = Some(ConfigMapVolumeSource {
            name: self.name(),
            items: Some(vec![KeyToPath { key: ORDER.to_owned(), path: ORDER.to_owned(), mode: None }]),
            ..ConfigMapVolumeSource::default()
        });
        let mut scratch = Place::new("scratch", SCRATCH, false);
        scratch.volume.empty_dir = Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(self.order().size.scratch_bytes.to_string())),
            ..EmptyDirVolumeSource::default()
        });
        let claim = Place::claim(&self.request.pods, false);
        let company = self.company().map(|_| self.secret_place());
        [order, scratch].into_iter().chain(claim).chain(Place::secrets(self.secrets())).chain(company).collect()
    }

    /// The Secrets that the pods read, each once.
    fn secrets(&self) -> BTreeSet<&str> {
        let online = self.request.online.as_ref().and_then(|online| match &online.store {
            OnlineTarget::Redis { secret, .. } => Some(secret.as_str()),
            OnlineTarget::Sqlite { .. } => None,
        });
        self.request.table.credentials_secret.as_deref().into_iter().chain(online).collect()
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("requests and orders have string keys")
}

fn toleration(given: &crate::api::Toleration) -> Toleration {
    Toleration {
        key: given.key.clone(),
        operator: given.operator.clone(),
        value: given.value.clone(),
        effect: given.effect.clone(),
        toleration_seconds: given.toleration_seconds,
    }
}

fn metadata(run: &Run<'_>, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: api_version(),
        kind: "FeatureSetBackfill".to_owned(),
        name: run.name.to_owned(),
        uid: run.uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(name),
        namespace: Some(run.namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Disruptions are nobody's failure; permanent failures end the Job at once.
fn failure_policy() -> PodFailurePolicy {
    let codes = [exit::USAGE, exit::PERMANENT, exit::SUPERSEDED].map(i32::from).to_vec();
    let disrupted =
        PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: Some("True".to_owned()) };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_pod_conditions: Some(vec![disrupted]),
                ..PodFailurePolicyRule::default()
            },
            PodFailurePolicyRule {
                action: "FailJob".to_owned(),
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: Some(CONTAINER.to_owned()),
                    operator: "In".to_owned(),
                    values: codes,
                }),
                ..PodFailurePolicyRule::default()
            },
        ],
    }
}

/// Requests and limits are the same: a backfill gets what its template says, and takes no more.
fn resources(size: &Size) -> ResourceRequirements {
    let amounts = quantities([
        ("cpu", size.cores.to_string()),
        ("memory", size.memory_bytes.to_string()),
        ("ephemeral-storage", size.scratch_bytes.to_string()),
    ]);
    ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), ..ResourceRequirements::default() }
}
