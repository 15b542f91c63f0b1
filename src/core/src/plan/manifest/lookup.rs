//! The pod of a lookup. A person makes it, with their own rights; to the operator it is nobody's.

use super::pod::{self, ORDERS, Place, quantities};
use crate::contract::OnlineTarget;
use crate::plan::run::{LABELS, MANAGED_BY};
use crate::request::LookupRequest;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector, Pod, PodSpec, ResourceRequirements,
};

/// The value of `app.kubernetes.io/managed-by` on pods of lookups: not the operator's, which would count them among a run's.
pub const LOOKUP_MANAGER: &str = "kubectl-features";

/// The longest life of a lookup's pod, in seconds.
pub const LOOKUP_SECONDS_MAX: u32 = 600;

/// The annotation with what is asked, from which the worker's file is made: a pod is all that has to be created.
const LOOKUP: &str = "featureset.dev/lookup";

const FILE: &str = "lookup.json";

impl LookupRequest {
    /// The pod that answers. It ends by itself after at most `seconds`.
    ///
    /// It reads what run pods of the store read, and can write nothing: the volume claim is mounted read-only.
    pub fn pod(&self, name: &str, image: &str, seconds: u32) -> Pod {
        let mut settings = self.pods.settings.clone();
        settings.pod_labels.retain(|label, _| !label.starts_with(LABELS));
        let mut metadata = pod::metadata(&settings, [(MANAGED_BY.to_owned(), LOOKUP_MANAGER.to_owned())].into());
        (metadata.name, metadata.namespace) = (Some(name.to_owned()), Some(self.namespace.clone()));
        metadata.annotations.get_or_insert_default().insert(LOOKUP.to_owned(), super::json(&self.lookup));
        let container = Container {
            image: Some(image.to_owned()),
            args: Some(["lookup", "--lookup", &format!("{ORDERS}/{FILE}")].map(str::to_owned).to_vec()),
            resources: Some(ResourceRequirements {
                requests: Some(quantities([("cpu", "100m".to_owned()), ("memory", "64Mi".to_owned())])),
                limits: Some(quantities([("cpu", "1".to_owned()), ("memory", "512Mi".to_owned())])),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        };
        let spec = PodSpec {
            active_deadline_seconds: Some(seconds.clamp(1, LOOKUP_SECONDS_MAX).into()),
            // It has nothing to tidy up.
            termination_grace_period_seconds: Some(1),
            ..pod::spec(&self.pods, container, self.places())
        };
        Pod { metadata, spec: Some(spec), ..Pod::default() }
    }

    fn places(&self) -> Vec<Place> {
        let asked =
            ObjectFieldSelector { field_path: format!("metadata.annotations['{LOOKUP}']"), ..ObjectFieldSelector::default() };
        let mut lookup = Place::new("lookup", ORDERS, true);
        lookup.volume.downward_api = Some(DownwardAPIVolumeSource {
            items: Some(vec![DownwardAPIVolumeFile {
                field_ref: Some(asked),
                path: FILE.to_owned(),
                ..DownwardAPIVolumeFile::default()
            }]),
            ..DownwardAPIVolumeSource::default()
        });
        let secret = match &self.lookup.store {
            OnlineTarget::Redis { secret, .. } => Some(secret.as_str()),
            OnlineTarget::Sqlite { .. } => None,
        };
        let claim = match &self.lookup.store {
            OnlineTarget::Redis { .. } => None,
            OnlineTarget::Sqlite { .. } => Place::claim(&self.pods, true),
        };
        // A person waits: that a Secret is missing is the worker's to say, at once, and not the kubelet's, in minutes.
        let secrets = Place::secrets(secret).map(|mut place| {
            place.volume.secret.iter_mut().for_each(|source| source.optional = Some(true));
            place
        });
        [lookup].into_iter().chain(claim).chain(secrets).collect()
    }
}
