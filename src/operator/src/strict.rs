//! What of our objects is stored and cannot be read: the installed definitions may be newer than the operator.

use crate::caches::{each, present};
use crate::shell::{lock, publish};
use backfill_core::condition::{ConditionType, Reason};
use backfill_core::plan::{Announcement, Unknown};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::Recorder;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// An object, and the fields of its spec that were not read.
#[derive(Clone, Debug)]
pub struct Strict<K> {
    object: K,
    unread: Vec<String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Strict<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unread = Vec::new();
        let object = serde_ignored::deserialize(deserializer, |path: serde_ignored::Path<'_>| {
            // Optional fields are steps of their own in the path.
            let path = path.to_string().replace(".?", "");
            if path.starts_with("spec.") {
                unread.push(path);
            }
        })?;
        Ok(Self { object, unread })
    }
}

impl<K: Resource> Resource for Strict<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
}

/// Our objects that are not understood, or not as a whole. There are hardly any.
pub struct Unread {
    recorder: Recorder,
    objects: Mutex<BTreeMap<Place, Unknown>>,
}

/// Kind, namespace and name.
type Place = (String, Option<String>, String);

impl Unread {
    /// None yet. `recorder` tells of those that cannot be read at all.
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, objects: Mutex::default() }
    }

    /// Keeps what cannot be read of the object of an event, and passes on what can.
    pub fn note<K: Resource<DynamicType = ()>>(&self, event: Event<DeserializeGuard<Strict<K>>>) -> Option<Event<K>> {
        let is_gone = matches!(event, Event::Delete(_));
        present(each(event, |guard| match guard.0 {
            Ok(Strict { object, unread }) => {
                let what = (!unread.is_empty()).then(|| format!("unknown field {}", unread.join(", ")));
                self.keep::<K>(object.meta(), what.filter(|_| !is_gone));
                Some(object)
            }
            Err(InvalidObject { error, metadata }) => {
                if let Some(unknown) = self.keep::<K>(&metadata, Some(error).filter(|_| !is_gone)) {
                    self.tell::<K>(&metadata, &unknown);
                }
                None
            }
        }))
    }

    fn keep<K: Resource<DynamicType = ()>>(&self, meta: &ObjectMeta, what: Option<String>) -> Option<Unknown> {
        let (kind, name) = (K::kind(&()).into_owned(), meta.name.clone().unwrap_or_default());
        let place = (kind.clone(), meta.namespace.clone(), name.clone());
        let unknown = what.map(|what| Unknown { kind, name, what });
        let mut objects = lock(&self.objects);
        match &unknown {
            None => drop(objects.remove(&place)),
            Some(unknown) => {
                tracing::warn!(namespace = place.1, "{unknown}");
                objects.insert(place, unknown.clone());
            }
        }
        unknown
    }

    /// What cannot be read gets no status either: an event says so.
    fn tell<K: Resource<DynamicType = ()>>(&self, meta: &ObjectMeta, unknown: &Unknown) {
        let reference = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(unknown.kind.clone()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        let (reason, message) = (Reason::UnknownField, unknown.to_string());
        publish(&self.recorder, Announcement { kind: ConditionType::Accepted, warning: true, reason, message }, reference);
    }

    /// What is not understood of the objects that backfills of a namespace may need.
    pub fn of(&self, namespace: &str) -> Vec<Unknown> {
        let here = |place: &Place| place.1.as_deref().is_none_or(|its| its == namespace);
        lock(&self.objects).iter().filter(|(place, _)| here(place)).map(|(_, unknown)| unknown.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Shell;
    use axum::http::{Request, Response};
    use backfill_core::api::FeatureSetBackfill;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    type Guard = DeserializeGuard<Strict<FeatureSetBackfill>>;

    fn backfill(spec: Value) -> Guard {
        let object = json!({
            "apiVersion": "featureset.dev/v1alpha1", "kind": "FeatureSetBackfill", "spec": spec,
            "metadata": {"name": "fix", "namespace": "prod", "somethingNewer": 1}, "status": {"somethingNewer": 1},
        });
        serde_json::from_value(object).expect("its metadata can be read")
    }

    /// None, with a recorder that reaches nobody.
    fn unread() -> Unread {
        let nobody = service_fn(async |_: Request<Body>| Err::<Response<Body>, _>("nobody answers"));
        Unread::new(Shell::recorder(&Client::new(nobody, "prod"), "test"))
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_kept_until_it_or_its_object_is_gone() {
        let unread = unread();
        let known = json!({"featureSet": "clicks", "reset": true});
        let newer = json!({
            "featureSet": "clicks", "sampling": 1, "guards": {"checks": [{"name": "n", "predicate": "n > 0", "sample": 2}]},
            "sources": [{"name": "raw", "csv": {"uri": "s3://b/raw", "quote": "'"}}],
        });
        let unreadable = json!({"featureSet": "clicks", "mode": "Rehearse"});
        assert!(unread.note(Event::InitApply(backfill(known.clone()))).is_some());
        assert_eq!(unread.of("prod"), []);
        for (spec, passed, what) in [
            (newer, true, "unknown field spec.guards.checks.0.sample, spec.sampling, spec.sources.0.csv.quote"),
            (unreadable, false, "Unknown variant Rehearse. Expected one of Apply, Plan"),
        ] {
            assert_eq!(unread.note(Event::Apply(backfill(spec.clone()))).is_some(), passed);
            let found = unread.of("prod");
            assert_eq!((found.len(), found[0].kind.as_str(), found[0].name.as_str()), (1, "FeatureSetBackfill", "fix"));
            assert_eq!(found[0].what, what);
            assert_eq!(unread.of("test"), [], "other namespaces have nothing to do with it");
            unread.note(Event::Apply(backfill(known.clone())));
            assert_eq!(unread.of("prod"), [], "it was mended");
            unread.note(Event::Apply(backfill(spec.clone())));
            unread.note(Event::Delete(backfill(spec)));
            assert_eq!(unread.of("prod"), [], "it is gone");
        }
    }
}
