//! What is generated is up to date, and what is written by hand fits together. `make generate` writes what is stale.

use crate::world::alone;
use anyhow::{Context, Result, ensure};
use backfill_core::api::manifests;
use backfill_e2e::helm::{CHART, ROOT, program};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Compares a file of the repository with what it should be; writes it when `make generate` asks for that.
pub fn generated(file: &str, text: &str) -> Result<()> {
    let path = Path::new(ROOT).join(file);
    if std::env::var_os("BACKFILL_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, text)?;
    }
    ensure!(std::fs::read_to_string(&path).unwrap_or_default() == text, "{file} is stale; run: make generate");
    Ok(())
}

#[test]
fn the_charts_definitions_are_those_of_the_code() -> Result<()> {
    let all = manifests()?;
    for (name, yaml) in &all {
        generated(&format!("charts/backfill-operator/files/crds/{name}"), yaml)?;
    }
    ensure!(std::fs::read_dir(format!("{CHART}/files/crds"))?.count() == all.len(), "no other files");
    Ok(())
}

#[test]
fn the_charts_cluster_templates_are_those_of_the_repository() -> Result<()> {
    let shipped = std::fs::read_to_string(format!("{ROOT}/deploy/cluster-templates.yaml"))?;
    generated("charts/backfill-operator/files/cluster-templates.yaml", &shipped)
}

#[test]
fn the_charts_readme_tells_of_its_values() -> Result<()> {
    alone(async || {
        // It writes beside the chart, so it works on a copy.
        let folder = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder)?;
        for file in ["Chart.yaml", "values.yaml", "README.md.gotmpl"] {
            std::fs::copy(Path::new(CHART).join(file), folder.join(file))?;
        }
        let arguments = [
            "--chart-search-root",
            folder.to_str().context("a path")?,
            "--sort-values-order",
            "file",
            "--document-dependency-values=false",
        ];
        let output = program("helm-docs", &arguments, "").await;
        let readme = std::fs::read_to_string(folder.join("README.md"));
        std::fs::remove_dir_all(&folder)?;
        output?.ok()?;
        generated("charts/backfill-operator/README.md", &readme?)
    })
}

#[test]
fn install_yaml_is_the_chart_as_shipped() -> Result<()> {
    alone(async || {
        let values = "deploy/install-values.yaml";
        let arguments = [
            "template",
            "backfill-operator",
            "charts/backfill-operator",
            "--namespace",
            "backfill-operator",
            "--values",
            values,
            "--no-hooks",
        ];
        let rendered = program("helm", &arguments, "").await?.ok()?;
        let head = "# Generated from charts/backfill-operator by `make generate`. Install: kubectl apply --server-side -f install.yaml\n";
        generated("deploy/install.yaml", &format!("{head}{rendered}"))
    })
}

#[test]
fn the_chart_passes_helms_lint() -> Result<()> {
    alone(async || {
        for values in values()? {
            program("helm", &["lint", CHART, "--strict", "--values", values.to_str().context("a path")?], "").await?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn templates_pass_their_unit_tests() -> Result<()> {
    alone(async || {
        let said = program("helm-unittest", &["charts/backfill-operator", "--strict"], "").await?;
        ensure!(said.success, "{}{}", said.stdout, said.stderr);
        Ok(())
    })
}

/// The files of values for which the chart is tested.
pub fn values() -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(format!("{CHART}/ci"))?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    ensure!(files.len() == 4, "{files:?}");
    Ok(files)
}

/// Calls `visit` with every schema of an object in a schema.
fn objects<'a>(path: &str, schema: &'a Value, visit: &mut impl FnMut(&str, &'a Value)) {
    if schema["type"] == "object" {
        visit(path, schema);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        objects(&format!("{path}.{name}"), property, visit);
    }
    if let Some(items) = schema.get("items") {
        objects(&format!("{path}[]"), items, visit);
    }
}

#[test]
fn the_schema_of_values_knows_every_key_and_no_other() -> Result<()> {
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(format!("{CHART}/values.schema.json"))?)?;
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(format!("{CHART}/values.yaml"))?)?;
    let mut open = Vec::new();
    objects("", &schema, &mut |path, object| match &object["additionalProperties"] {
        Value::Bool(false) => {
            let known = path.split('.').skip(1).try_fold(&values, |value, key| value.get(key));
            let keys: Vec<&String> = object["properties"].as_object().into_iter().flatten().map(|(key, _)| key).collect();
            for key in keys.into_iter().filter(|key| *key != "global") {
                let is_there = path.contains("[]") || known.is_some_and(|known| known.get(key).is_some());
                assert!(is_there, "values.yaml does not explain {path}.{key}");
            }
        }
        Value::Bool(true) => open.push(path.to_owned()),
        strings => assert_eq!(strings["type"], "string", "{path}"),
    });
    // Kubernetes' own structures, which the API server judges.
    let ours = [
        ".global",
        ".networkPolicy.metricsFrom[]",
        ".resources",
        ".tolerations[]",
        ".affinity",
        ".topologySpreadConstraints[]",
        ".podSecurityContext",
        ".securityContext",
        ".extraEnv[]",
        ".extraObjects[]",
        ".tests.store",
    ];
    open.sort();
    let mut expected = ours.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(open, expected);
    Ok(())
}

#[test]
fn the_chart_has_the_version_of_the_programs() -> Result<()> {
    let chart: Value = serde_saphyr::from_str(&std::fs::read_to_string(format!("{CHART}/Chart.yaml"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(version), Some(version)));
    let images = chart["annotations"]["artifacthub.io/images"].as_str().context("the images")?;
    for image in ["backfill-operator", "backfill-worker"] {
        ensure!(images.contains(&format!("{image}:{version}")), "{images}");
    }
    Ok(())
}
