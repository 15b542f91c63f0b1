//! From one state of the chart to the next, while a backfill runs.

use crate::world::{RELEASE, empty, environment, in_phase, install, may, operator};
use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::{CHART, program};
use backfill_e2e::{Act, Cluster};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::ListParams;
use std::path::{Path, PathBuf};

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

fn replace(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    ensure!(text.contains(from), "{} does not hold {from}", file.display());
    Ok(std::fs::write(file, text.replace(from, to))?)
}

/// A chart as it may have been before: another version, a definition with less in it, a role and a policy less.
fn previous(folder: &Path) -> Result<PathBuf> {
    let chart = folder.join("previous");
    copy(Path::new(CHART), &chart)?;
    replace(&chart.join("Chart.yaml"), "\nversion: 0.1.0\nappVersion: 0.1.0", "\nversion: 0.0.9\nappVersion: 0.0.9")?;
    replace(&chart.join("files/crds/featureset.dev_featuresetbackfills.yaml"), "    categories:\n    - featureset\n", "")?;
    replace(&chart.join("templates/admission.yaml"), r#"list "requesters" "undo" "children" "status""#, r#"list "requesters""#)?;
    Ok(chart)
}

async fn category(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={.spec.names.categories}";
    cluster.kubectl(&["get", "crd", "featuresetbackfills.featureset.dev", "-o", path]).await?.ok()
}

#[test]
fn a_backfill_that_runs_goes_on_over_an_upgrade_with_its_one_job() -> Result<()> {
    crate::world::alone(async || {
        let (cluster, kubelet) = empty().await?;
        let previous = previous(cluster.folder())?;
        let previous = previous.to_str().context("a path")?;
        cluster.helm(&["install", RELEASE, previous, "--namespace", RELEASE, "--create-namespace"]).await?.ok()?;
        assert_eq!(category(&cluster).await?, "");
        let mut old = operator(&cluster, RELEASE, &[]).await?;
        let namespace = environment(&cluster).await?;
        let rule = kubelet.script().set(|_| true, Act::run());
        namespace.apply(&may("may").to_string()).await?;
        in_phase(&namespace, "may", "Running").await?;
        let jobs = async || Ok::<_, anyhow::Error>(namespace.api::<Job>().list(&ListParams::default()).await?.items);
        let before = jobs().await?;

        let folder = cluster.folder().to_str().context("a path")?;
        program("helm", &["package", CHART, "--destination", folder], "").await?.ok()?;
        let package = cluster.folder().join("backfill-operator-0.1.0.tgz");
        let package = package.to_str().context("a path")?;
        cluster.helm(&["upgrade", RELEASE, package, "--namespace", RELEASE]).await?.ok()?;
        assert_eq!(category(&cluster).await?, r#"["featureset"]"#, "an upgrade changes the definitions");
        // As a Deployment replaces its pod.
        old.kill();
        let _new = operator(&cluster, RELEASE, &[]).await?;
        let during = jobs().await?;
        assert_eq!((during.len(), during[0].uid()), (1, before[0].uid()));
        rule.remove();
        in_phase(&namespace, "may", "Complete").await?;
        let offline =
            jobs().await?.into_iter().filter(|job| job.labels().get("featureset.dev/step").is_some_and(|step| step == "offline"));
        assert_eq!(offline.map(|job| job.uid()).collect::<Vec<_>>(), [before[0].uid()], "no second Job");
        let runs = kubelet.tables().runs(namespace.name());
        assert_eq!(runs.iter().filter(|run| run.published).count(), 1);
        let history = cluster.helm(&["history", RELEASE, "--namespace", RELEASE]).await?.ok()?;
        ensure!(history.contains("backfill-operator-0.0.9") && history.contains("backfill-operator-0.1.0"), "{history}");
        Ok(())
    })
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_names() -> Result<()> {
    crate::world::alone(async || {
        for (values, words) in [
            ("watchNamespace=a", "watchNamespace"),
            ("image.tagg=1", "tagg"),
            ("jobs.serviceAccount.rights=all", "rights"),
            ("replicaCount=many", "replicaCount"),
            ("image.digest=latest", "digest"),
            ("tests.volumeClaim.class=fast", "class"),
            ("prometheusRule.disabled={Everything}", "disabled"),
            ("replicaCount=2,leaderElection.enabled=false", "more than one replica needs leaderElection.enabled"),
            ("metrics.service.enabled=false,metrics.serviceMonitor.enabled=true", "needs metrics.service.enabled"),
        ] {
            let answer = program("helm", &["template", "x", CHART, "--set", values], "").await?;
            ensure!(!answer.success && answer.stderr.contains(words), "{values}: {}", answer.stderr);
        }
        Ok(())
    })
}

#[test]
fn a_second_release_without_crds_install_false_is_told_so() -> Result<()> {
    crate::world::alone(async || {
        let (cluster, _kubelet) = empty().await?;
        install(&cluster, RELEASE, &[]).await?;
        let refused = install(&cluster, "second", &[]).await.expect_err("the definitions belong to the first").to_string();
        ensure!(refused.contains("CustomResourceDefinition") && refused.contains("meta.helm.sh/release-name"), "{refused}");
        Ok(())
    })
}
