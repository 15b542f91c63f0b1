//! The resources on a real API server: what it accepts, what it refuses and with which words, and what tools show of them.

mod installed;
mod specs;
mod times;
mod updates;

use anyhow::{Context, Result};
use backfill_e2e::{Namespace, Shared};
use kube::api::PostParams;
use kube::core::Request;
use serde_json::{Value, json};

/// The kinds and their names in URLs.
const KINDS: [(&str, &str); 4] = [
    ("FeatureStore", "featurestores"),
    ("ClusterTemplate", "clustertemplates"),
    ("FeatureSet", "featuresets"),
    ("FeatureSetBackfill", "featuresetbackfills"),
];

fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                match value {
                    Value::Null => drop(base.remove(key)),
                    value => merge(base.entry(key).or_insert(json!({})), value),
                }
            }
        }
        (base, change) => *base = change.clone(),
    }
}

/// A valid object with its spec changed; `null` removes a field.
fn object(kind: &str, change: &Value) -> Value {
    let mut spec = match kind {
        "FeatureStore" => json!({
            "offline": {"uri": "s3://bucket/tables"}, "online": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}},
            "jobs": {"imagePullSecrets": ["registry"], "podLabels": {"team": "ml"}}
        }),
        "ClusterTemplate" => json!({"engine": "DataFusion", "cores": 2, "memory": "4Gi"}),
        "FeatureSet" => json!({
            "entities": [{"name": "user_id", "type": "int64"}], "timestampColumn": "t",
            "features": [{"name": "n", "type": "int64"}, {"name": "tags", "type": "list<string>"}],
            "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw/"}}], "transformation": {"sql": "SELECT * FROM raw"}
        }),
        _ => json!({"featureSet": "clicks", "startTime": "2024-05-01", "stopTime": "2024-06-01"}),
    };
    merge(&mut spec, change);
    json!({"apiVersion": "featureset.dev/v1alpha1", "kind": kind, "metadata": {"name": "fix"}, "spec": spec})
}

fn backfill(change: &Value) -> Value {
    object("FeatureSetBackfill", change)
}

/// The URL of all objects of a kind.
fn collection(namespace: &Namespace, kind: &str) -> Result<String> {
    let (_, plural) = KINDS.into_iter().find(|(known, _)| *known == kind).context("a kind of ours")?;
    Ok(match kind {
        "ClusterTemplate" => format!("/apis/featureset.dev/v1alpha1/{plural}"),
        _ => format!("/apis/featureset.dev/v1alpha1/namespaces/{}/{plural}", namespace.name()),
    })
}

/// What the API server says to the creation of an object, as kubectl asks it: a line `field: message` for each cause. Empty:
/// accepted. Nothing is stored.
async fn refusals(shared: &Shared, namespace: &Namespace, object: &Value) -> Result<Vec<String>> {
    let kind = object["kind"].as_str().context("a kind")?;
    let mut dry_run = Request::new(collection(namespace, kind)?)
        .create(&PostParams { dry_run: true, ..PostParams::default() }, serde_json::to_vec(object)?)?;
    *dry_run.uri_mut() = format!("{}&fieldValidation=Strict", dry_run.uri()).parse()?;
    causes(shared.cluster.client().request::<Value>(dry_run).await)
}

/// What the API server says to an update of a stored backfill. Nothing is stored.
async fn update_refusals(shared: &Shared, namespace: &Namespace, object: &Value) -> Result<Vec<String>> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let request =
        Request::new(collection(namespace, "FeatureSetBackfill")?).replace(name, &dry_run, serde_json::to_vec(object)?)?;
    causes(shared.cluster.client().request::<Value>(request).await)
}

fn causes(answer: kube::Result<Value>) -> Result<Vec<String>> {
    let status = match answer {
        Ok(_) => return Ok(Vec::new()),
        Err(kube::Error::Api(status)) => status,
        Err(error) => return Err(error.into()),
    };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    if causes.is_empty() {
        return Ok(vec![format!(": {}", status.message)]);
    }
    // Said beside the first refusal of a schema: rules come after it.
    let beside = "some validation rules were not checked because the object was invalid";
    let ours = causes.iter().filter(|cause| !cause.message.contains(beside));
    Ok(ours.map(|cause| format!("{}: {}", cause.field, cause.message)).collect())
}

/// Fails unless there is exactly one refusal, of this field and with these words.
#[track_caller]
fn assert_refused(refusals: &[String], field: &str, words: &str, case: &Value) {
    let [refusal] = refusals else { panic!("{case}: one refusal was expected, not {refusals:#?}") };
    let (found, message) = refusal.split_once(": ").unwrap_or_default();
    assert!(found == field && message.contains(words), "{case}: {refusal}\ninstead of {field}: {words}");
}
