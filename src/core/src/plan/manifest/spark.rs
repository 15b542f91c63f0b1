//! What the pods that share a step of Spark need to find each other, and to be found by nobody else.
//!
//! Index 0 of the Job is the master and the driver; the others join it under the name that the headless Service gives it. They trust
//! who knows a secret of this attempt alone. The operator makes it up, hands it to the API server once, and cannot read it again.

use super::pod::Place;
use super::{Attempt, PROGRESS_PORT, metadata};
use crate::api::Engine;
use crate::contract::Step;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, Secret, SecretVolumeSource, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The port of the master.
pub const MASTER_PORT: i32 = 7077;

/// The entry of the Secret, and its file in the pods.
pub const SECRET_KEY: &str = "secret";

/// The annotation of an order with the name of the attempt's Secret.
const SECRET: &str = "featureset.dev/spark-secret";

const SECRET_FOLDER: &str = "/var/run/secrets/featureset.dev-spark";

const VOLUME: &str = "spark";

/// The objects beside the Job. None of them outlives the backfill.
#[derive(Clone, Debug, PartialEq)]
pub struct Company {
    /// Gives index 0 its name.
    pub service: Service,
    /// Keeps everybody else out; progress and metrics can be read from anywhere.
    pub policy: NetworkPolicy,
    /// The Secret, still without what is secret, and with a name that the API server completes.
    pub secret: Secret,
}

impl Attempt<'_> {
    /// What the attempt needs beside its Job, when several pods compute together.
    pub fn company(&self) -> Option<Company> {
        let together = self.step == Step::Offline && self.request.template.engine == Engine::Spark && self.pods() > 1;
        together.then(|| Company { service: self.service(), policy: self.policy(), secret: self.secret() })
    }

    fn service(&self) -> Service {
        let port = ServicePort { name: Some("master".to_owned()), port: MASTER_PORT, ..ServicePort::default() };
        Service {
            metadata: self.beside(),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                // Pods have no probes, and the others look for the first before it is ready for anything.
                publish_not_ready_addresses: Some(true),
                selector: Some(self.labels()),
                ports: Some(vec![port]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    fn policy(&self) -> NetworkPolicy {
        let pods = || LabelSelector { match_labels: Some(self.labels()), ..LabelSelector::default() };
        let each_other = NetworkPolicyPeer { pod_selector: Some(pods()), ..NetworkPolicyPeer::default() };
        let progress = NetworkPolicyPort { port: Some(IntOrString::Int(PROGRESS_PORT)), ..NetworkPolicyPort::default() };
        let rules = vec![
            NetworkPolicyIngressRule { from: Some(vec![each_other]), ports: None },
            NetworkPolicyIngressRule { from: None, ports: Some(vec![progress]) },
        ];
        NetworkPolicy {
            metadata: self.beside(),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(pods()),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(rules),
                ..NetworkPolicySpec::default()
            }),
        }
    }

    fn secret(&self) -> Secret {
        let metadata = ObjectMeta { name: None, generate_name: Some(format!("{}-", self.name())), ..self.beside() };
        Secret { metadata, immutable: Some(true), type_: Some("Opaque".to_owned()), ..Secret::default() }
    }

    fn beside(&self) -> ObjectMeta {
        metadata(&self.run, self.name(), self.labels())
    }

    /// The pod, in company.
    pub(super) fn in_company(&self, pod: PodSpec) -> PodSpec {
        let mut pod = pod;
        pod.subdomain = Some(self.name());
        let variable = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
        let address = ObjectFieldSelector { field_path: "status.podIP".to_owned(), ..ObjectFieldSelector::default() };
        let from = EnvVarSource { field_ref: Some(address), ..EnvVarSource::default() };
        for container in &mut pod.containers {
            container.env = Some(vec![
                variable("SPARK_MASTER_HOST", format!("{0}-0.{0}", self.name())),
                variable("SPARK_SECRET_FILE", format!("{SECRET_FOLDER}/{SECRET_KEY}")),
                EnvVar { name: "POD_IP".to_owned(), value: None, value_from: Some(from.clone()) },
            ]);
        }
        pod
    }

    /// Where the pods find what is secret. Which Secret that is, is known when it was made: see [`entrust`].
    pub(super) fn secret_place(&self) -> Place {
        let mut place = Place::new(VOLUME, SECRET_FOLDER, true);
        place.volume.secret = Some(SecretVolumeSource::default());
        place
    }
}

/// Writes the name of the attempt's Secret into an order that is about to be made: who makes the Job reads it from there.
pub fn keep_secret(order: &mut ConfigMap, secret: &str) {
    order.metadata.annotations.get_or_insert_default().insert(SECRET.to_owned(), secret.to_owned());
}

/// The Secret that an order names.
pub fn secret_of(order: &ConfigMap) -> Option<&str> {
    order.metadata.annotations.as_ref()?.get(SECRET).map(String::as_str)
}

/// Gives the pods of a Job the Secret. Does nothing to a Job without company.
pub fn entrust(job: &mut Job, secret: &str) {
    let pod = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    for volume in pod.and_then(|pod| pod.volumes.as_mut()).into_iter().flatten().filter(|volume| volume.name == VOLUME) {
        volume.secret = Some(SecretVolumeSource { secret_name: Some(secret.to_owned()), ..SecretVolumeSource::default() });
    }
}
