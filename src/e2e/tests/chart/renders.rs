//! What the chart makes of four files of values: kept, valid by schema, and taken by an API server.

use crate::files::{generated, values};
use crate::world::{alone, empty, installed};
use anyhow::{Context, Result, ensure};
use backfill_core::api::crds;
use backfill_e2e::helm::{CHART, program};
use backfill_e2e::{Cluster, Output};
use serde_json::{Map, Value, json};
use std::path::Path;

async fn render(values: &Path, more: &[&str]) -> Result<String> {
    let values = values.to_str().context("a path")?;
    let arguments = ["template", "backfill-operator", CHART, "--namespace", "backfill-operator", "--values", values];
    program("helm", &[&arguments, more].concat(), "").await?.ok()
}

#[test]
fn renders_are_as_kept() -> Result<()> {
    alone(async || {
        for file in values()? {
            let name = file.file_stem().and_then(|name| name.to_str()).context("a name")?.to_owned();
            // The definitions are kept elsewhere.
            let rendered = render(&file, &["--set", "crds.install=false"]).await?;
            generated(&format!("src/e2e/tests/chart/golden/renders/{}.yaml", name.trim_end_matches("-values")), &rendered)?;
        }
        Ok(())
    })
}

/// Writes a JSON schema per kind: Kubernetes' own as the API server tells them, and ours. Unknown fields are refused.
async fn schemas(cluster: &Cluster, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let told: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/openapi/v2"]).await?.ok()?)?;
    let mut definitions = told["definitions"].as_object().context("definitions")?.clone();
    definitions.values_mut().for_each(close);
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string());
    for (name, definition) in &definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |key: &str| kind[key].as_str().unwrap_or_default().to_ascii_lowercase();
            // kubeconform's word for the group without a name.
            let group = Some(word("group")).filter(|group| !group.is_empty()).unwrap_or_else(|| word("version"));
            let file = format!("{}-{group}-{}.json", word("kind"), word("version"));
            write(&file, &json!({ "$ref": format!("definitions.json#/definitions/{name}") }))?;
        }
    }
    write("definitions.json", &json!({ "definitions": definitions }))?;
    for crd in crds() {
        let version = &crd.spec.versions[0];
        let mut schema = serde_json::to_value(version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()))?;
        let metadata = "definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        for (field, value) in [("metadata", json!({ "$ref": metadata })), ("apiVersion", json!({})), ("kind", json!({}))] {
            schema["properties"][field] = value;
        }
        close(&mut schema);
        write(&format!("{}-{}-{}.json", crd.spec.names.kind.to_ascii_lowercase(), crd.spec.group, version.name), &schema)?;
    }
    Ok(())
}

/// Allows no other fields than those that a schema names.
fn close(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.get("x-kubernetes-preserve-unknown-fields").is_some() {
        return;
    }
    if map.get("x-kubernetes-int-or-string").is_some() || map.get("format").is_some_and(|format| format == "int-or-string") {
        *map = Map::from_iter([("type".to_owned(), json!(["string", "integer"]))]);
        return;
    }
    if map.contains_key("properties") && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".to_owned(), json!(false));
    }
    for inner in ["items", "additionalProperties"] {
        map.get_mut(inner).into_iter().for_each(close);
    }
    map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut).for_each(close);
}

async fn conform(folder: &Path, manifests: &str) -> Result<Output> {
    let location = format!("{}/{{{{.ResourceKind}}}}-{{{{.Group}}}}-{{{{.ResourceAPIVersion}}}}.json", folder.display());
    let skip = "PodMonitor,ServiceMonitor,PrometheusRule,CustomResourceDefinition";
    program("kubeconform", &["-summary", "-skip", skip, "-schema-location", &location, "-"], manifests).await
}

#[test]
fn renders_and_examples_conform_to_the_schemas() -> Result<()> {
    installed(async |shared| {
        let folder = shared.cluster.folder().join("schemas");
        schemas(&shared.cluster, &folder).await?;
        let mut all = String::new();
        for file in values()? {
            all.push_str(&format!("---\n{}", render(&file, &[]).await?));
        }
        for folder in ["deploy/examples", "deploy/gitops/argocd"] {
            for entry in std::fs::read_dir(Path::new(backfill_e2e::helm::ROOT).join(folder))?.flatten() {
                let is_ours =
                    entry.path().extension().is_some_and(|end| end == "yaml") && entry.file_name() != "application.yaml";
                if is_ours {
                    all.push_str(&format!("---\n{}", std::fs::read_to_string(entry.path())?));
                }
            }
        }
        let said = conform(&folder, &all).await?;
        ensure!(said.success && said.stdout.contains("Invalid: 0, Errors: 0"), "{}{}", said.stdout, said.stderr);
        let wrong =
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {}, replica: 1, template: {}}\n";
        let said = conform(&folder, wrong).await?;
        ensure!(!said.success && said.stdout.contains("replica"), "an unknown field is found: {}", said.stdout);
        Ok(())
    })
}

#[test]
fn renders_and_the_test_hooks_are_taken_by_an_api_server_under_the_restricted_standard() -> Result<()> {
    alone(async || {
        let (cluster, _kubelet) = empty().await?;
        // Objects of these namespaces, and kinds that other operators define, are not what is judged.
        for name in ["backfill-operator", "team-a", "team-b"] {
            cluster.kubectl(&["create", "namespace", name]).await?.ok()?;
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            let warns = "pod-security.kubernetes.io/warn=restricted";
            cluster.kubectl(&["label", "namespace", name, restricted, warns]).await?.ok()?;
            // Pods are refused without it.
            cluster.kubectl(&["create", "serviceaccount", "backfill-operator-test", "--namespace", name]).await?.ok()?;
        }
        let definitions =
            program("helm", &["template", "x", CHART, "--show-only", "templates/definitions.yaml"], "").await?.ok()?;
        cluster.apply(&definitions).await?;
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await?.ok()?;
        for file in values()? {
            let off = [
                "--set",
                "metrics.serviceMonitor.enabled=false,metrics.podMonitor.enabled=false,metrics.runs.podMonitor.enabled=false,prometheusRule.enabled=false",
            ];
            let rendered = render(&file, &off).await?;
            let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
            let said = cluster.kubectl_with(&arguments, &rendered).await?;
            ensure!(said.success && said.stderr.is_empty(), "{}: {}", file.display(), said.stderr);
        }
        Ok(())
    })
}
