//! What tools see of the resources.

use super::{KINDS, backfill, object};
use anyhow::{Context, Result, ensure};
use backfill_core::api::{FeatureSet, FeatureSetBackfill, crds};
use backfill_e2e::{Namespace, test};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

#[test]
fn definitions_are_established_and_taken_without_warnings() -> Result<()> {
    test(async |shared| {
        let api: Api<CustomResourceDefinition> = Api::all(shared.cluster.client());
        for crd in crds() {
            let conditions = api.get(&crd.name_any()).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            for kind in ["NamesAccepted", "Established"] {
                assert!(conditions.iter().any(|found| found.type_ == kind && found.status == "True"), "{kind}: {conditions:?}");
            }
            assert!(conditions.iter().all(|found| found.type_ != "NonStructuralSchema"), "{conditions:?}");
        }
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds"))? {
            // The same in a group of its own, because creating is what is judged in full.
            let copy = std::fs::read_to_string(file?.path())?.replace("featureset.dev", "copy.example");
            let output = shared.cluster.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &copy).await?;
            assert!(output.success && output.stderr.is_empty(), "{}", output.stderr);
        }
        Ok(())
    })
}

#[test]
fn kubectl_explain_prints_our_documentation() -> Result<()> {
    test(async |shared| {
        for (field, words) in [
            ("featuresetbackfill", "Replaces all data of a feature set (`reset`)"),
            ("fsb.spec.startTime", "The first event time to replace, UTC"),
            ("fsb.status.conditions.message", "Why, for a person, with the way out."),
            ("fset.spec.windows.stamp", "Whether a row's event time is the start of its window or later"),
            ("fstore.spec.online.redis.keyTtl", "How long an entity's key lives after its last write"),
            ("ctpl.spec.memory", "Memory of each pod, as a Kubernetes quantity"),
        ] {
            let text = shared.cluster.kubectl(&["explain", field]).await?.ok()?;
            let words_of = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words_of(&text).contains(words), "{field}: {text}");
        }
        Ok(())
    })
}

/// A table of kubectl as its rows of cells. Cells are separated by more than one space.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

/// The named columns and the first row of what `kubectl get` shows.
async fn shown(namespace: &Namespace, arguments: &[&str]) -> Result<(String, Vec<String>)> {
    let text = namespace.kubectl(&[&["get"], arguments].concat()).await?.ok()?;
    let rows = table(&text);
    ensure!(rows.len() == 2, "{text}");
    Ok((rows[0].join(" | "), rows[1].iter().map(ToString::to_string).collect()))
}

async fn create_one_of_each(namespace: &Namespace) -> Result<()> {
    let template = format!("shown-{}", namespace.name());
    for (kind, _) in KINDS {
        let mut object = match kind {
            "FeatureStore" => object(kind, &json!({"project": "shop", "maxConcurrentBackfills": 8})),
            "FeatureSet" => object(kind, &json!({"store": "main", "view": "v", "windows": {"every": "1d"}})),
            "ClusterTemplate" => object(kind, &json!({"nodes": 1, "scratch": "8Gi", "deadline": "2d"})),
            _ => backfill(&json!({"comment": "late source", "mode": "Apply"})),
        };
        if kind == "ClusterTemplate" {
            object["metadata"]["name"] = json!(template);
        }
        namespace.apply(&object.to_string()).await?;
    }
    Ok(())
}

/// The status of a backfill that is complete.
fn complete() -> Value {
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2024-06-01T00:00:00Z"});
    json!({
        "observedGeneration": 1, "phase": "Complete",
        "conditions": [
            condition("Ready", "True", "Succeeded"), condition("Complete", "True", "Succeeded"),
            condition("OfflineReplaced", "True", "Replaced"), condition("OnlineReplaced", "False", "Skipped"),
        ],
        "resolved": {
            "key": "k", "mode": "Apply", "stores": "Offline", "now": "2024-06-01T12:00:00Z", "definition": "d", "deadlineSeconds": 60,
            "interval": {"start": "2024-05-01T00:00:00Z", "stop": "2024-06-01T00:00:00Z"}, "clusterTemplate": "small",
        },
    })
}

async fn put_status(namespace: &Namespace, name: &str, status: Value) -> Result<()> {
    let api: Api<FeatureSetBackfill> = namespace.api();
    let mut object = serde_json::to_value(api.get(name).await?)?;
    object["status"] = status;
    api.replace_status(name, &PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

#[test]
fn kubectl_get_shows_what_a_person_wants_to_know() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("columns").await?;
        create_one_of_each(&namespace).await?;
        put_status(&namespace, "fix", complete()).await?;

        let (header, row) = shown(&namespace, &["fsb"]).await?;
        assert_eq!(header, "NAME | FEATURE SET | MODE | START | STOP | PHASE | OFFLINE | ONLINE | AGE");
        let start = ["fix", "clicks", "Apply", "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z", "Complete", "True", "False"];
        assert_eq!(row[..8], start);
        let (header, row) = shown(&namespace, &["fsb", "-o", "wide"]).await?;
        assert!(header.ends_with("AGE | REASON | TEMPLATE | ROWS | ENTITIES | COMMENT"), "{header}");
        assert_eq!(
            (row[9].as_str(), row[10].as_str(), row.last().map(String::as_str)),
            ("Succeeded", "small", Some("late source"))
        );

        let (header, row) = shown(&namespace, &["fset", "-o", "wide"]).await?;
        assert_eq!(header, "NAME | STORE | ACTIVE | VERSION | READY | AGE | VIEW | TIMESTAMP | EVERY | CRON");
        assert_eq!((row[0].as_str(), row[1].as_str()), ("fix", "main"));
        let (header, row) = shown(&namespace, &["fstore", "-o", "wide"]).await?;
        assert_eq!(header, "NAME | OFFLINE | PROJECT | AGE | TEMPLATE | SLOTS");
        assert_eq!((row[1].as_str(), row[2].as_str(), row.last().map(String::as_str)), ("s3://bucket/tables", "shop", Some("8")));
        let template = format!("shown-{}", namespace.name());
        let (header, row) = shown(&namespace, &["ctpl", &template, "-o", "wide"]).await?;
        assert_eq!(header, "NAME | ENGINE | NODES | CORES | MEMORY | AGE | SCRATCH | ONLINE PODS | DEADLINE");
        assert_eq!(row[1..5], ["DataFusion", "1", "2", "4Gi"]);

        let all = namespace.kubectl(&["get", "featureset", "-o", "name"]).await?.ok()?;
        assert!(all.contains("featuresetbackfill.featureset.dev/fix"), "the category lists all kinds: {all}");
        Ok(())
    })
}

#[test]
fn kubectl_wait_sees_that_a_backfill_is_complete() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("wait").await?;
        namespace.apply(&backfill(&json!({})).to_string()).await?;
        let wait = namespace.kubectl(&["wait", "--for=condition=Complete", "--timeout=30s", "fsb/fix"]);
        let (waited, put) = tokio::join!(wait, put_status(&namespace, "fix", complete()));
        put?;
        assert_eq!(waited?.ok()?, "featuresetbackfill.featureset.dev/fix condition met\n");
        Ok(())
    })
}

#[test]
fn a_new_backfill_is_in_progress_until_its_status_says_otherwise() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("status").await?;
        namespace.apply(&backfill(&json!({})).to_string()).await?;
        let api: Api<FeatureSetBackfill> = namespace.api();
        let status = |object: &FeatureSetBackfill| serde_json::to_value(&object.status);
        let new = api.get("fix").await?;
        assert_eq!(status(&new)?, json!({"observedGeneration": -1}));
        put_status(&namespace, "fix", complete()).await?;
        let done = api.get("fix").await?;
        let verdicts = shared.cluster.kstatus(&[serde_json::to_value(&new)?, serde_json::to_value(&done)?]).await?;
        let verdicts: Vec<_> = verdicts.iter().map(|line| line.split('\t').next().unwrap_or_default()).collect();
        assert_eq!(verdicts, ["InProgress", "Current"]);

        let sets: Api<FeatureSet> = namespace.api();
        namespace.apply(&object("FeatureSet", &json!({})).to_string()).await?;
        assert_eq!(sets.get("fix").await?.status, None);
        Ok(())
    })
}

#[test]
fn objects_are_found_by_the_fields_of_their_references() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("fields").await?;
        let named = |mut object: Value, name: &str| {
            object["metadata"]["name"] = json!(name);
            object.to_string()
        };
        namespace.apply(&named(backfill(&json!({})), "one")).await?;
        namespace.apply(&named(backfill(&json!({"featureSet": "views"})), "two")).await?;
        namespace.apply(&named(backfill(&json!({"undo": "one", "startTime": null, "stopTime": null})), "three")).await?;
        namespace.apply(&named(object("FeatureSet", &json!({"store": "main"})), "four")).await?;
        namespace.apply(&named(object("FeatureSet", &json!({})), "five")).await?;
        for (kind, selector, expected) in [
            ("fsb", "spec.featureSet=clicks", "one three"),
            ("fsb", "spec.featureSet!=clicks", "two"),
            ("fsb", "spec.undo=one", "three"),
            ("fset", "spec.store=main", "four"),
        ] {
            let columns = ["get", kind, "--field-selector", selector, "-o", "jsonpath={.items[*].metadata.name}"];
            assert_eq!(namespace.kubectl(&columns).await?.ok()?, expected, "{selector}");
        }
        let api: Api<FeatureSetBackfill> = namespace.api();
        let found = api.list(&ListParams::default().fields("spec.featureSet=views")).await?;
        assert_eq!(found.items.first().context("one")?.name_any(), "two");
        Ok(())
    })
}
