//! Installing, side by side, and uninstalling.

use crate::world::{
    RELEASE, complete, empty, environment, established, feature_set, in_phase, install, installed, may, operator, store,
};
use anyhow::{Context, Result, ensure};
use backfill_core::api::{ClusterTemplate, FeatureSetBackfill};
use backfill_e2e::helm::{CHART, ROOT};
use backfill_e2e::kubelet::PLAYED;
use backfill_e2e::{Act, Cluster, Namespace, eventually, until};
use k8s_openapi::api::core::v1;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Waits for the templates of the chart; examples may have brought others.
async fn shipped_templates(cluster: &Cluster) -> Result<()> {
    let file = std::fs::read_to_string(format!("{CHART}/files/cluster-templates.yaml"))?;
    let shipped: Vec<ClusterTemplate> = serde_saphyr::from_multiple(&file)?;
    ensure!(shipped.len() == 7, "{} templates are shipped", shipped.len());
    let templates: Api<ClusterTemplate> = Api::all(cluster.client());
    eventually("the shipped templates", async || {
        let there: Vec<String> = templates.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
        Ok(shipped.iter().all(|template| there.contains(&template.name_any())).then_some(()))
    })
    .await
}

#[test]
fn after_helm_install_a_first_backfill_in_a_new_namespace_completes() -> Result<()> {
    installed(async |shared| {
        shipped_templates(&shared.cluster).await?;
        let namespace = environment(&shared.cluster).await?;
        complete(&namespace, &[may("first")]).await?;
        let notes = shared.cluster.helm(&["get", "notes", RELEASE, "--namespace", RELEASE]).await?.ok()?;
        let pasted = notes.split("<<'END'\n").nth(1).and_then(|rest| rest.split("\n  END").next()).context("a manifest")?;
        let pasted = pasted.replace("namespace: default", &format!("namespace: {}", namespace.name()));
        shared.cluster.apply(&pasted).await?;
        in_phase(&namespace, "clicks-may", "Complete").await.map(drop)
    })
}

#[test]
fn a_backfill_may_come_before_what_it_names() -> Result<()> {
    installed(async |shared| {
        let namespace = shared.cluster.namespace("early").await?;
        namespace.apply(&may("may").to_string()).await?;
        namespace.kubectl(&["patch", "fsb", "may", "--type=merge", "--patch", r#"{"spec":{"comment":"early"}}"#]).await?.ok()?;
        namespace.apply(&store().to_string()).await?;
        namespace.apply(&feature_set("clicks").to_string()).await?;
        in_phase(&namespace, "may", "Complete").await.map(drop)
    })
}

#[test]
fn one_apply_of_one_file_installs_everything() -> Result<()> {
    crate::world::alone(async || {
        let (cluster, _kubelet) = empty().await?;
        let file = format!("{ROOT}/deploy/install.yaml");
        cluster.kubectl(&["apply", "--server-side", "-f", &file]).await?.ok()?;
        let _operator = operator(&cluster, RELEASE, &[]).await?;
        established(&cluster).await?;
        shipped_templates(&cluster).await?;
        complete(&environment(&cluster).await?, &[may("first")]).await?;
        let again = cluster.kubectl(&["apply", "--server-side", "-f", &file]).await?.ok()?;
        ensure!(again.lines().all(|line| line.ends_with("serverside-applied")), "{again}");
        let kustomized =
            cluster.kubectl(&["apply", "--server-side", "--dry-run=server", "-k", &format!("{ROOT}/deploy")]).await?.ok()?;
        ensure!(kustomized.lines().count() == again.lines().count(), "{kustomized}");
        Ok(())
    })
}

/// An environment whose name was chosen.
async fn named(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&["create", "namespace", name]).await?.ok()?;
    furnish(cluster, name).await
}

/// Makes a namespace an environment.
async fn furnish(cluster: &Cluster, name: &str) -> Result<()> {
    for object in [store(), feature_set("clicks")] {
        cluster.kubectl_with(&["apply", "--namespace", name, "-f", "-"], &object.to_string()).await?.ok()?;
    }
    Ok(())
}

async fn completes_in(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.kubectl_with(&["apply", "--namespace", namespace, "-f", "-"], &may("may").to_string()).await?.ok()?;
    let api: Api<FeatureSetBackfill> = Api::namespaced(cluster.client(), namespace);
    until(&api, "may", backfill_e2e::in_phase("Complete")).await.map(drop)
}

#[test]
fn two_releases_look_after_namespaces_of_their_own() -> Result<()> {
    crate::world::alone(async || {
        let (cluster, _kubelet) = empty().await?;
        for name in ["red", "blue"] {
            cluster.kubectl(&["create", "namespace", name]).await?.ok()?;
        }
        install(&cluster, RELEASE, &["--set", "watchNamespaces={red}"]).await?;
        install(&cluster, "second", &["--set", "watchNamespaces={blue}", "--set", "crds.install=false"]).await?;
        for name in ["red", "blue"] {
            furnish(&cluster, name).await?;
        }
        let first = operator(&cluster, RELEASE, &["red"]).await?;
        completes_in(&cluster, "red").await?;
        let second = operator(&cluster, "second", &["blue"]).await?;
        completes_in(&cluster, "blue").await?;
        let may_in = async |account: &str, namespace: &str, verb: &str, what: &str| {
            let account = format!("--as=system:serviceaccount:{account}");
            let arguments = ["auth", "can-i", verb, what, "--namespace", namespace, &account];
            Ok::<_, anyhow::Error>(cluster.kubectl(&arguments).await?.success)
        };
        for (account, own, other) in
            [("backfill-operator:backfill-operator", "red", "blue"), ("second:second-backfill-operator", "blue", "red")]
        {
            assert!(
                may_in(account, own, "create", "jobs").await? && !may_in(account, other, "create", "jobs").await?,
                "{account}"
            );
            assert!(!may_in(account, other, "list", "fsb").await?, "{account}");
        }
        for namespace in ["red", "blue"] {
            cluster.kubectl(&["get", "serviceaccount", "backfill-runner", "--namespace", namespace]).await?.ok()?;
        }
        for operator in [&first, &second] {
            assert!(!operator.log().contains("not allowed to"), "{}", operator.log());
        }
        Ok(())
    })
}

async fn delete(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?.ok().map(drop)
}

async fn is_gone(cluster: &Cluster, name: &str) -> Result<()> {
    let api: Api<v1::Namespace> = Api::all(cluster.client());
    until(&api, name, |namespace: Option<&v1::Namespace>| namespace.is_none()).await.map(drop)
}

/// Waits until nothing but finalizers keeps a namespace.
async fn hangs(cluster: &Cluster, name: &str) -> Result<()> {
    let api: Api<v1::Namespace> = Api::all(cluster.client());
    let stuck = |namespace: Option<&v1::Namespace>| {
        let conditions = namespace.and_then(|namespace| namespace.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|found| found.type_ == "NamespaceFinalizersRemaining" && found.status == "True")
    };
    until(&api, name, stuck).await.map(drop)
}

/// The command of `docs/install.md` that frees a namespace, run by a shell as people do.
async fn free(cluster: &Cluster, namespace: &str) -> Result<()> {
    let text = std::fs::read_to_string(format!("{ROOT}/docs/install.md"))?;
    let documented = text.lines().find(|line| line.contains("finalizers") && line.contains("xargs")).context("the command")?;
    let kubectl = format!("{} --kubeconfig {}", backfill_e2e::tool("kubectl")?.display(), cluster.kubeconfig().display());
    let command = documented.replace("NAMESPACE", namespace).replace("kubectl", &kubectl);
    let output = tokio::process::Command::new("sh").args(["-c", &command]).output().await?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn uninstalling_keeps_definitions_and_data_and_namespaces_can_go() -> Result<()> {
    crate::world::alone(async || {
        let (cluster, kubelet) = empty().await?;
        install(&cluster, RELEASE, &[]).await?;
        let mut operator = operator(&cluster, RELEASE, &[]).await?;
        for name in ["finished", "running", "kept"] {
            named(&cluster, name).await?;
        }
        completes_in(&cluster, "finished").await?;
        completes_in(&cluster, "kept").await?;
        kubelet.script().set(|pod| pod.metadata.namespace.as_deref() == Some("running"), Act::run());
        cluster.kubectl_with(&["apply", "--namespace", "running", "-f", "-"], &may("may").to_string()).await?.ok()?;
        let running: Api<v1::Pod> = Api::namespaced(cluster.client(), "running");
        let lives = |pod: &v1::Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let played = ListParams::default().labels(PLAYED);
        eventually("a pod to run", async || Ok(running.list(&played).await?.iter().any(lives).then_some(()))).await?;
        operator.kill();
        let held = cluster.kubectl(&["get", "fset", "clicks", "--namespace", "running", "-o", "json"]).await?.ok()?;
        let held: Value = serde_json::from_str(&held)?;
        assert_eq!(held["metadata"]["finalizers"], json!(["featureset.dev/held"]));

        cluster.helm(&["uninstall", RELEASE, "--namespace", RELEASE]).await?.ok()?;
        let left = cluster.kubectl(&["get", "crd,fsb,fset,fstore,ctpl", "-A", "-o", "name"]).await?.ok()?;
        for kept in [
            "crd/featuresets",
            "customresourcedefinition.apiextensions.k8s.io/featuresetbackfills.featureset.dev",
            "featuresetbackfill.featureset.dev/may",
            "featureset.featureset.dev/clicks",
            "featurestore.featureset.dev/default",
            "clustertemplate.featureset.dev/small",
        ] {
            assert!(kept.starts_with("crd/") || left.contains(kept), "{kept} is gone: {left}");
        }
        let ours = [
            "get",
            "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding",
            "-l",
            "app.kubernetes.io/name=backfill-operator",
            "-o",
            "name",
        ];
        assert_eq!(cluster.kubectl(&ours).await?.ok()?, "", "nothing else is left");

        delete(&cluster, "finished").await?;
        is_gone(&cluster, "finished").await?;
        delete(&cluster, "running").await?;
        hangs(&cluster, "running").await?;
        free(&cluster, "running").await?;
        is_gone(&cluster, "running").await?;

        install(&cluster, RELEASE, &[]).await.context("the same release takes its definitions up again")?;
        let _operator = crate::world::operator(&cluster, RELEASE, &[]).await?;
        let kept = Api::<FeatureSetBackfill>::namespaced(cluster.client(), "kept").get("may").await?;
        assert_eq!(kept.status.and_then(|status| status.phase).as_deref(), Some("Complete"));
        Ok(())
    })
}

#[test]
fn a_namespace_that_goes_takes_its_backfills_along_while_the_operator_works() -> Result<()> {
    installed(async |shared| {
        let (done, busy): (Namespace, Namespace) = (environment(&shared.cluster).await?, environment(&shared.cluster).await?);
        complete(&done, &[may("may")]).await?;
        let name = busy.name().to_owned();
        shared.kubelet.script().set(move |pod| pod.metadata.namespace.as_ref() == Some(&name), Act::run());
        busy.apply(&may("may").to_string()).await?;
        in_phase(&busy, "may", "Running").await?;
        for namespace in [&done, &busy] {
            delete(&shared.cluster, namespace.name()).await?;
        }
        is_gone(&shared.cluster, done.name()).await?;
        // A minute is what the operator gives the settling of what a namespace takes along.
        let gone = format!("namespace/{}", busy.name());
        shared.cluster.kubectl(&["wait", "--for=delete", &gone, "--timeout=150s"]).await?.ok().map(drop)
    })
}
