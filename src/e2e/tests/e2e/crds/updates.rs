//! Updates of a stored backfill and of a stored feature set.

use super::{assert_refused, backfill, merge, object, update_refusals};
use anyhow::{Context, Result};
use backfill_core::api::FeatureSetBackfill;
use backfill_e2e::{Namespace, Shared, test};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

/// A stored backfill with a status.
struct Stored<'a> {
    shared: &'a Shared,
    namespace: &'a Namespace,
    object: Value,
}

impl<'a> Stored<'a> {
    async fn create(shared: &'a Shared, namespace: &'a Namespace, change: &Value, status: &Value) -> Result<Self> {
        let mut wanted = backfill(change);
        wanted["metadata"] = json!({"generateName": "fix-"});
        let api: Api<FeatureSetBackfill> = namespace.api();
        let stored = api.create(&PostParams::default(), &serde_json::from_value(wanted)?).await?;
        let mut object = serde_json::to_value(&stored)?;
        object["status"] = status.clone();
        let name = stored.metadata.name.context("a name")?;
        let stored = api.replace_status(&name, &PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(Self { shared, namespace, object: serde_json::to_value(stored)? })
    }

    /// What is said to this spec instead of the stored one.
    async fn refusals(&self, change: &Value) -> Result<Vec<String>> {
        let mut object = self.object.clone();
        object["spec"] = backfill(change)["spec"].clone();
        update_refusals(self.shared, self.namespace, &object).await
    }

    #[track_caller]
    fn accepts(&self, change: &Value) -> impl Future<Output = Result<()>> {
        let place = std::panic::Location::caller();
        async move {
            assert_eq!(self.refusals(change).await?, Vec::<String>::new(), "{change} at {place}");
            Ok(())
        }
    }

    async fn refuses(&self, change: &Value, field: &str, words: &str) -> Result<()> {
        assert_refused(&self.refusals(change).await?, field, words, &json!({"old": self.object["spec"], "change": change}));
        Ok(())
    }
}

fn status(kind: &str, status: &str) -> Value {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Running", "message": "", "lastTransitionTime": "2024-05-01T00:00:00Z"});
    json!({"observedGeneration": 1, "conditions": [condition("Accepted", "True"), condition(kind, status)]})
}

fn running() -> Value {
    status("Complete", "False")
}

#[test]
fn what_is_replaced_and_how_never_changes() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let immutable = "spec is immutable, except suspend, cancel, comment, ttlSecondsAfterFinished, mode (Plan to Apply) and runId (when \
                         the run has ended); create another backfill for another replacement";
        // Row 40.
        let changes = [
            json!({"featureSet": "views"}),
            json!({"reset": true}),
            json!({"startTime": "2024-05-02"}),
            json!({"stopTime": null}),
            json!({"clusterTemplate": "large"}),
            json!({"sources": [{"name": "raw", "csv": {"uri": "s3://b/x"}}]}),
            json!({"transformation": {"sql": "SELECT 1"}}),
            json!({"stores": ["Offline"]}),
            json!({"guards": {"allowEmpty": true}}),
            json!({"onlineUnknown": "Replace"}),
            json!({"retries": 1}),
            json!({"deadline": "1h"}),
        ];
        let mut all = json!({});
        changes.iter().filter(|change| change.get("stopTime").is_none()).for_each(|change| merge(&mut all, change));
        for status in [running(), status("Complete", "True")] {
            let plain = Stored::create(shared, &namespace, &json!({}), &status).await?;
            let full = Stored::create(shared, &namespace, &all, &status).await?;
            for change in &changes {
                plain.refuses(change, "spec", immutable).await?;
                let mut less = all.clone();
                for field in change.as_object().into_iter().flatten().map(|(field, _)| field) {
                    less[field] = if field == "featureSet" { json!("other") } else { Value::Null };
                }
                full.refuses(&less, "spec", immutable).await?;
            }
        }
        let undo = |name: &str| json!({"startTime": null, "stopTime": null, "undo": name});
        Stored::create(shared, &namespace, &undo("old"), &running()).await?.refuses(&undo("other"), "spec", immutable).await
    })
}

#[test]
fn suspend_comment_and_ttl_may_change_at_any_time() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let given = json!({"suspend": true, "comment": "a", "ttlSecondsAfterFinished": 1});
        let other = json!({"suspend": false, "comment": "b", "ttlSecondsAfterFinished": 2});
        for (old, new) in [(json!({}), &given), (given.clone(), &json!({})), (given.clone(), &other)] {
            Stored::create(shared, &namespace, &old, &running()).await?.accepts(new).await?;
        }
        Ok(())
    })
}

#[test]
fn cancel_is_set_once() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let message = "cancel cannot be taken back; change runId to run the backfill again";
        for old in [json!({}), json!({"cancel": false})] {
            Stored::create(shared, &namespace, &old, &running()).await?.accepts(&json!({"cancel": true})).await?;
        }
        let cancelled = Stored::create(shared, &namespace, &json!({"cancel": true}), &status("Failed", "True")).await?;
        cancelled.accepts(&json!({"cancel": true, "suspend": true})).await?;
        cancelled.refuses(&json!({"cancel": false}), "spec", message).await?;
        cancelled.refuses(&json!({}), "spec", message).await?;
        cancelled.accepts(&json!({"runId": "2"})).await
    })
}

#[test]
fn mode_goes_from_plan_to_apply_only() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let message = "mode changes from Plan to Apply only; change runId to plan again";
        let (plan, apply) = (json!({"mode": "Plan"}), json!({"mode": "Apply"}));
        let planned = Stored::create(shared, &namespace, &plan, &running()).await?;
        planned.accepts(&apply).await?;
        planned.accepts(&json!({})).await?;
        for old in [&apply, &json!({})] {
            let applied = Stored::create(shared, &namespace, old, &status("Complete", "True")).await?;
            applied.refuses(&plan, "spec", message).await?;
            applied.accepts(&apply).await?;
            applied.accepts(&json!({"mode": "Plan", "runId": "2"})).await?;
        }
        Ok(())
    })
}

#[test]
fn run_id_changes_only_when_the_run_has_ended_or_its_plan_rests() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let message = "spec.runId changes only when the run has ended (Complete or Failed) or its plan is ready (Planned); cancel it, or wait for it";
        for (old, new) in [
            (json!({}), json!({"runId": "1"})),
            (json!({"runId": "1"}), json!({"runId": "2"})),
            (json!({"runId": "1"}), json!({})),
        ] {
            for status in [status("Complete", "True"), status("Failed", "True"), status("Ready", "True")] {
                Stored::create(shared, &namespace, &old, &status).await?.accepts(&new).await?;
            }
            let unseen = json!({"observedGeneration": -1});
            for status in [running(), status("Failed", "Unknown"), status("Ready", "False"), status("Stalled", "True"), unseen] {
                let stored = Stored::create(shared, &namespace, &old, &status).await?;
                stored.refuses(&new, "<nil>", message).await?;
                stored.accepts(&old).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn the_view_of_a_feature_set_is_immutable() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        let message = "view is immutable: it is part of every online field; create another feature set";
        let apply =
            async |change: Value| namespace.kubectl_with(&["apply", "-f", "-"], &object("FeatureSet", &change).to_string()).await;
        apply(json!({"view": "a"})).await?.ok()?;
        for change in [json!({"view": "b"}), json!({})] {
            let output = apply(change).await?;
            assert!(!output.success && output.stderr.contains(message), "{}", output.stderr);
        }
        apply(json!({"view": "a", "timestampColumn": "u"})).await?.ok().map(drop)
    })
}

#[test]
fn applying_a_manifest_twice_changes_nothing() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("updates").await?;
        // Row 39.
        let manifest = backfill(&json!({"comment": "why", "stores": ["Offline", "Online"]})).to_string();
        let apply = async || namespace.kubectl_with(&["apply", "-f", "-"], &manifest).await?.ok();
        assert_eq!(apply().await?, "featuresetbackfill.featureset.dev/fix created\n");
        let api: Api<FeatureSetBackfill> = namespace.api();
        let version = api.get("fix").await?.metadata.resource_version;
        assert_eq!(apply().await?, "featuresetbackfill.featureset.dev/fix unchanged\n");
        assert_eq!(api.get("fix").await?.metadata.resource_version, version);
        Ok(())
    })
}
