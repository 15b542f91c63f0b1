//! The children of a run: the claim, the order and the Job. Built from what is resolved, so nothing here can fail.

use super::Settings;
use super::run::{Run, api_version};
use crate::api::{Engine, JobSettings, VOLUME};
use crate::contract::{OnlineTarget, Order, Size, Step, exit};
use crate::key::sha256;
use crate::request::Request;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, KeyToPath,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The order's entry in its ConfigMap.
pub const ORDER: &str = "order.json";

/// The resolved request beside it, from which the operator makes the orders of later attempts.
pub const REQUEST: &str = "request.json";

/// The name of the container whose termination message is the report.
pub const CONTAINER: &str = "worker";

/// The port at which a pod tells its progress.
pub const PROGRESS_PORT: i32 = 9090;

const SECRETS: &str = "/var/run/secrets/featureset.dev";
const ORDERS: &str = "/etc/featureset.dev";
const SCRATCH: &str = "/scratch";
/// The annotation of a Job with the hash of its order.
pub const ORDER_HASH: &str = "featureset.dev/order";

const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";

/// The user and group of run pods.
const USER: i64 = 65532;

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
                template: PodTemplateSpec { metadata: Some(self.pod_metadata()), spec: Some(self.pod(settings)) },
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

    /// The store's own labels and annotations never replace ours.
    fn pod_metadata(&self) -> ObjectMeta {
        let JobSettings { pod_labels, pod_annotations, .. } = &self.request.pods.settings;
        let labels = pod_labels.clone().into_iter().chain(self.labels()).collect();
        let annotations = (!pod_annotations.is_empty()).then(|| pod_annotations.clone());
        ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() }
    }

    fn pod(&self, settings: &Settings) -> PodSpec {
        let jobs = &self.request.pods.settings;
        let scheduling = &self.request.template.scheduling;
        let pull = jobs.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
        PodSpec {
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: jobs.service_account_name.clone(),
            image_pull_secrets: unless_empty(pull.collect()),
            node_selector: (!scheduling.node_selector.is_empty()).then(|| scheduling.node_selector.clone()),
            tolerations: unless_empty(scheduling.tolerations.iter().map(toleration).collect()),
            priority_class_name: scheduling.priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                // Else every file of a large volume is touched before the pod starts.
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
                ..PodSecurityContext::default()
            }),
            volumes: Some(self.volumes()),
            containers: vec![self.container(settings)],
            ..PodSpec::default()
        }
    }

    fn container(&self, settings: &Settings) -> Container {
        let order = format!("{ORDERS}/{ORDER}");
        let port = PROGRESS_PORT.to_string();
        let args = [self.step.word(), "--order", &order, "--report", "/dev/termination-log", "--progress-port", &port];
        let progress =
            ContainerPort { name: Some("progress".to_owned()), container_port: PROGRESS_PORT, ..ContainerPort::default() };
        Container {
            name: CONTAINER.to_owned(),
            image: Some(settings.worker_image.clone()),
            image_pull_policy: settings.image_pull_policy.clone(),
            args: Some(args.map(str::to_owned).to_vec()),
            ports: Some(vec![progress]),
            resources: Some(resources(&self.order().size)),
            volume_mounts: Some(self.mounts()),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
                ..SecurityContext::default()
            }),
            ..Container::default()
        }
    }

    fn mounts(&self) -> Vec<VolumeMount> {
        let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        };
        let mut mounts = vec![mount("order", ORDERS, true), mount("scratch", SCRATCH, false)];
        mounts.extend(self.request.pods.volume_claim.iter().map(|_| mount("store", VOLUME, false)));
        let secrets = self.secrets().into_iter().enumerate();
        mounts.extend(secrets.map(|(n, secret)| mount(&secret_volume(n), &format!("{SECRETS}/{secret}"), true)));
        mounts
    }

    fn volumes(&self) -> Vec<Volume> {
        let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
        let order = ConfigMapVolumeSource {
            name: self.name(),
            items: Some(vec![KeyToPath { key: ORDER.to_owned(), path: ORDER.to_owned(), mode: None }]),
            ..ConfigMapVolumeSource::default()
        };
        let scratch = EmptyDirVolumeSource {
            size_limit: Some(Quantity(self.order().size.scratch_bytes.to_string())),
            ..EmptyDirVolumeSource::default()
        };
        let mut volumes =
            vec![Volume { config_map: Some(order), ..volume("order") }, Volume { empty_dir: Some(scratch), ..volume("scratch") }];
        volumes.extend(self.request.pods.volume_claim.iter().map(|claim| Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: None }),
            ..volume("store")
        }));
        volumes.extend(self.secrets().into_iter().enumerate().map(|(n, secret)| Volume {
            secret: Some(SecretVolumeSource { secret_name: Some(secret.to_owned()), ..SecretVolumeSource::default() }),
            ..volume(&secret_volume(n))
        }));
        volumes
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

fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn secret_volume(number: usize) -> String {
    format!("secret-{number}")
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
    let quantities: BTreeMap<String, Quantity> = [
        ("cpu", size.cores.to_string()),
        ("memory", size.memory_bytes.to_string()),
        ("ephemeral-storage", size.scratch_bytes.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .collect();
    ResourceRequirements { requests: Some(quantities.clone()), limits: Some(quantities), ..ResourceRequirements::default() }
}
