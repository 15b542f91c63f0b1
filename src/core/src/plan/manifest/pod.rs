//! A pod of the worker: what all of them have in common, whatever they are asked for and whoever makes them.

use crate::api::{JobSettings, VOLUME};
use crate::request::Pods;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The name of the container whose termination message is the report.
pub const CONTAINER: &str = "worker";

/// Where the worker finds what it is to do.
pub const ORDERS: &str = "/etc/featureset.dev";

const SECRETS: &str = "/var/run/secrets/featureset.dev";

/// The user and group of the worker's pods.
const USER: i64 = 65532;

/// A volume and where the worker finds it.
pub struct Place {
    /// The volume, named.
    pub volume: Volume,
    /// The folder.
    pub path: String,
    /// Whether the worker may only read it.
    pub read_only: bool,
}

impl Place {
    /// A volume of that name; its source is still to be said.
    pub fn new(name: &str, path: &str, read_only: bool) -> Self {
        Self { volume: Volume { name: name.to_owned(), ..Volume::default() }, path: path.to_owned(), read_only }
    }

    /// The store's volume claim, if it has one.
    pub fn claim(pods: &Pods, read_only: bool) -> Option<Self> {
        let claim_name = pods.volume_claim.clone()?;
        let mut place = Self::new("store", VOLUME, read_only);
        place.volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None });
        Some(place)
    }

    /// Secrets, each in a folder of its name.
    pub fn secrets<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = Self> {
        names.into_iter().enumerate().map(|(number, name)| {
            let mut place = Self::new(&format!("secret-{number}"), &format!("{SECRETS}/{name}"), true);
            place.volume.secret =
                Some(SecretVolumeSource { secret_name: Some(name.to_owned()), ..SecretVolumeSource::default() });
            place
        })
    }
}

/// The metadata of a pod. The store's own labels and annotations never replace ours.
pub fn metadata(settings: &JobSettings, labels: BTreeMap<String, String>) -> ObjectMeta {
    let JobSettings { pod_labels, pod_annotations, .. } = settings;
    let labels = pod_labels.clone().into_iter().chain(labels).collect();
    let annotations = (!pod_annotations.is_empty()).then(|| pod_annotations.clone());
    ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() }
}

/// A pod of one container, which is said but for its name, its volumes and what it may do: Pod Security *restricted*, a read-only
/// root, no token of the API server.
pub fn spec(pods: &Pods, container: Container, places: Vec<Place>) -> PodSpec {
    let jobs = &pods.settings;
    let pull = jobs.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let mount = |place: &Place| VolumeMount {
        name: place.volume.name.clone(),
        mount_path: place.path.clone(),
        read_only: place.read_only.then_some(true),
        ..VolumeMount::default()
    };
    let container = Container {
        name: CONTAINER.to_owned(),
        volume_mounts: Some(places.iter().map(mount).collect()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        ..container
    };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: jobs.service_account_name.clone(),
        image_pull_secrets: unless_empty(pull.collect()),
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
        volumes: Some(places.into_iter().map(|place| place.volume).collect()),
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// Amounts of resources, by name.
pub fn quantities<const N: usize>(amounts: [(&str, String); N]) -> BTreeMap<String, Quantity> {
    amounts.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount))).collect()
}

/// Absent when there is nothing in it.
pub fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
