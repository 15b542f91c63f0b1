//! The resources of this project, as tests write and read them.

use backfill_core::api::FeatureSetBackfill;
use serde_json::{Value, json};

/// A manifest.
pub fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "featureset.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Whether a backfill shows this phase.
pub fn in_phase(phase: &str) -> impl Fn(Option<&FeatureSetBackfill>) -> bool {
    move |backfill| backfill.and_then(|backfill| backfill.status.as_ref()?.phase.as_deref()) == Some(phase)
}
