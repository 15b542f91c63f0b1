//! The operator as a process: replicas, restarts, probes, what it may not do.

use crate::world::{TABLE, test};
use anyhow::{Context, Result};
use backfill_core::api::{ClusterTemplate, FeatureSetBackfill};
use backfill_e2e::{Act, Cluster, Kubelet, Operator, OperatorOptions, eventually};
use kube::Api;
use serde_json::json;

/// A cluster of its own with a store, a feature set and a template, in the namespace `default`.
async fn cluster() -> Result<(Cluster, Kubelet)> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    let store = json!({ "offline": { "uri": "s3://bucket/tables", "credentialsSecret": "s3" } });
    let template = json!({ "engine": "DataFusion", "cores": 1, "memory": "1Gi" });
    for (kind, name, spec) in [
        ("FeatureStore", "default", store),
        ("FeatureSet", "clicks", crate::world::set_spec()),
        ("ClusterTemplate", "small", template),
    ] {
        cluster.apply(&crate::world::manifest(kind, name, spec).to_string()).await?;
    }
    Ok((cluster, kubelet))
}

async fn completes(cluster: &Cluster, name: &str) -> Result<()> {
    let spec = crate::world::of_may(json!({}));
    cluster.apply(&crate::world::manifest("FeatureSetBackfill", name, spec).to_string()).await?;
    let waited = cluster.kubectl(&["wait", "--for=condition=Complete", "--timeout=60s", &format!("fsb/{name}")]).await?;
    anyhow::ensure!(waited.success, "{}{}", waited.stdout, waited.stderr);
    Ok(())
}

#[test]
fn of_two_replicas_one_works_and_the_other_takes_over() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        let options = OperatorOptions { lease_namespace: Some("default".to_owned()), ..OperatorOptions::default() };
        let mut first = Operator::start(cluster.kubeconfig(), &options)?;
        completes(&cluster, "one").await?;
        let second = Operator::start(cluster.kubeconfig(), &options)?;
        completes(&cluster, "two").await?;
        let leads = async |operator: &Operator| {
            Ok::<_, anyhow::Error>(operator.get("/metrics").await?.contains("\nleader_election_master_status 1"))
        };
        assert!(leads(&first).await? && !leads(&second).await?);
        first.kill();
        completes(&cluster, "three").await?;
        assert!(leads(&second).await?);
        assert_eq!(kubelet.tables().version("default", TABLE), Some(2), "three publishes");
        Ok(())
    })
}

#[test]
fn a_restarted_operator_goes_on_where_the_last_one_was() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        let rule = kubelet.script().set(|_| true, Act::run());
        let mut first = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        cluster.apply(&crate::world::manifest("FeatureSetBackfill", "may", crate::world::of_may(json!({}))).to_string()).await?;
        let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
        eventually("it to run", async || {
            Ok(api.get("may").await?.status.and_then(|status| status.phase).filter(|phase| phase == "Running"))
        })
        .await?;
        first.kill();
        rule.change(Act::obey());
        eventually("the pod to publish alone", async || Ok(kubelet.tables().version("default", TABLE))).await?;
        let second = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        completes(&cluster, "may").await?;
        assert_eq!(kubelet.tables().runs("default").iter().filter(|run| run.published).count(), 1);
        eventually("it to be ready", async || Ok(second.get("/readyz").await?.starts_with("HTTP/1.0 200").then_some(()))).await?;
        assert!(second.get("/healthz").await?.starts_with("HTTP/1.0 200"));
        Ok(())
    })
}

#[test]
fn an_operator_of_some_namespaces_leaves_the_others_alone() -> Result<()> {
    test(async |_| {
        let (cluster, _kubelet) = cluster().await?;
        let other = cluster.namespace("other").await?;
        let _operator = Operator::start(
            cluster.kubeconfig(),
            &OperatorOptions { namespaces: vec!["default".to_owned()], ..OperatorOptions::default() },
        )?;
        other.apply(&crate::world::manifest("FeatureSetBackfill", "may", crate::world::of_may(json!({}))).to_string()).await?;
        completes(&cluster, "may").await?;
        let untouched = other.api::<FeatureSetBackfill>().get("may").await?;
        assert_eq!(untouched.status.context("the default")?.observed_generation, Some(-1));
        Ok(())
    })
}

#[test]
fn shipped_templates_are_created_when_missing_and_never_changed() -> Result<()> {
    test(async |_| {
        let (cluster, _kubelet) = cluster().await?;
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/cluster-templates.yaml");
        let arguments = vec!["--cluster-templates".to_owned(), shipped.to_owned()];
        let _operator = Operator::start(cluster.kubeconfig(), &OperatorOptions { arguments, ..OperatorOptions::default() })?;
        let api: Api<ClusterTemplate> = Api::all(cluster.client());
        eventually("seven templates", async || Ok((api.list(&Default::default()).await?.items.len() == 7).then_some(()))).await?;
        assert_eq!(api.get("small").await?.spec.memory, "1Gi", "ours was there before");
        Ok(())
    })
}

#[test]
fn without_the_resources_it_refuses_to_start_and_says_what_to_install() -> Result<()> {
    test(async |_| {
        let (cluster, _kubelet) = cluster().await?;
        cluster.kubectl(&["delete", "crd", "featurestores.featureset.dev"]).await?.ok()?;
        let mut operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        eventually("it to end", async || Ok(operator.check().err())).await?;
        assert!(operator.log().contains("featurestores.featureset.dev is not served in version v1alpha1"), "{}", operator.log());
        Ok(())
    })
}
