//! The operator as a process: replicas, restarts, probes, what it may not do.

use crate::world::{Seen, TABLE, of_may, store_spec, test};
use anyhow::{Context, Result};
use backfill_core::api::{ClusterTemplate, FeatureSetBackfill};
use backfill_core::condition::ConditionType::{Accepted, Complete};
use backfill_core::condition::Reason;
use backfill_core::contract::Step;
use backfill_core::plan::finished;
use backfill_e2e::kubelet::{Run, index_of, overlapping};
use backfill_e2e::proxy::{Asked, Cut, Reply, Server, events, watched};
use backfill_e2e::{
    Act, Cluster, Kubelet, Operator, OperatorOptions, Proxy, Who, eventually, eventually_within, in_phase, manifest, until,
};
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::watch;

/// A cluster of its own with a store, a feature set and a template, in the namespace `default`.
pub async fn cluster() -> Result<(Cluster, Kubelet)> {
    let cluster = Cluster::start().await?;
    let kubelet = Kubelet::start(cluster.client()).await?;
    let store = json!({ "offline": { "uri": "s3://bucket/tables", "credentialsSecret": "s3" } });
    let template = json!({ "engine": "DataFusion", "cores": 1, "memory": "1Gi" });
    for (kind, name, spec) in [
        ("FeatureStore", "default", store),
        ("FeatureSet", "clicks", crate::world::set_spec()),
        ("ClusterTemplate", "small", template),
    ] {
        cluster.apply(&manifest(kind, name, spec).to_string()).await?;
    }
    Ok((cluster, kubelet))
}

async fn completes(cluster: &Cluster, name: &str) -> Result<()> {
    let spec = of_may(json!({}));
    cluster.apply(&manifest("FeatureSetBackfill", name, spec).to_string()).await?;
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
        cluster.apply(&manifest("FeatureSetBackfill", "may", of_may(json!({}))).to_string()).await?;
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

/// How often something was published.
fn publishes(kubelet: &Kubelet) -> usize {
    kubelet.tables().runs("default").iter().filter(|run| run.published).count()
}

#[test]
fn a_job_that_was_deleted_before_its_end_was_read_does_not_spoil_the_success() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        cluster.apply(&manifest("FeatureStore", "default", store_spec()).to_string()).await?;
        let rule = kubelet.script().set(|_| true, Act::run());
        let mut first = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        cluster.apply(&manifest("FeatureSetBackfill", "may", of_may(json!({}))).to_string()).await?;
        let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
        until(&api, "may", in_phase("Running")).await?;
        first.kill();
        rule.change(Act::obey());
        let jobs: Api<Job> = Api::default_namespaced(cluster.client());
        eventually("the Job to finish", async || Ok(jobs.list(&ListParams::default()).await?.iter().all(finished).then_some(())))
            .await?;
        assert_eq!(publishes(&kubelet), 1);
        cluster.kubectl(&["delete", "job", "--cascade=background", "-l", "featureset.dev/step=offline"]).await?.ok()?;
        let _second = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        let seen = Seen(until(&api, "may", in_phase("Complete")).await?.context("it was deleted")?);
        assert_eq!((seen.reason(Complete), publishes(&kubelet)), ("Succeeded", 1));
        let offline = kubelet.tables().runs("default").iter().filter(|run| run.step == Step::Offline).count();
        assert_eq!(offline, 2, "another pod found out what the first had done");
        Ok(())
    })
}

/// An API server that is away whenever `away` says so.
async fn or_cut(asked: Asked, server: Server, mut away: watch::Receiver<bool>) -> Result<Reply, Cut> {
    if *away.borrow() {
        return Err(Cut);
    }
    let reply = server.forward(&asked).await?;
    Ok(match asked.watches() {
        true => watched(events(reply).take_until(Box::pin(async move { drop(away.wait_for(|away| *away).await) }))),
        false => reply,
    })
}

#[test]
fn an_api_server_that_is_away_for_a_while_finds_the_pods_done_and_the_operator_alive() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        let (away, is_away) = watch::channel(false);
        let proxy = Proxy::start(cluster.client(), move |asked, server| or_cut(asked, server, is_away.clone())).await?;
        let kubeconfig = cluster.kubeconfig_of(&Who::Admin, Some(proxy.url())).await?;
        let mut operator = Operator::start(&kubeconfig, &OperatorOptions::default())?;
        let rule = kubelet.script().set(|_| true, Act::run());
        cluster.apply(&manifest("FeatureSetBackfill", "may", of_may(json!({}))).to_string()).await?;
        let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
        until(&api, "may", in_phase("Running")).await?;
        away.send_replace(true);
        rule.change(Act::obey());
        eventually("the pod to publish alone", async || Ok(kubelet.tables().version("default", TABLE))).await?;
        // The length of the outage is what is tested: every watch has failed several times when it ends.
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert!(operator.get("/healthz").await?.starts_with("HTTP/1.0 200"), "starting it anew would not help");
        let meanwhile = api.get("may").await?;
        assert!(in_phase("Running")(Some(&meanwhile)), "nobody could tell: {meanwhile:#?}");
        away.send_replace(false);
        let waited = cluster.kubectl(&["wait", "--for=condition=Complete", "--timeout=90s", "fsb/may"]).await?;
        assert!(waited.success, "{}{}", waited.stdout, waited.stderr);
        operator.check()?;
        assert_eq!(publishes(&kubelet), 1);
        Ok(())
    })
}

/// The most backfills of which pods lived at the same time.
fn most_at_once(runs: &[Run]) -> usize {
    let lives = |run: &&Run, at| run.started <= at && run.ended.is_none_or(|ended| at < ended);
    let at_once = |at| runs.iter().filter(|run| lives(run, at)).map(|run| &run.backfill).collect::<HashSet<_>>().len();
    runs.iter().map(|run| at_once(run.started)).max().unwrap_or(0)
}

#[test]
fn two_operators_that_know_nothing_of_each_other_keep_to_the_slots_of_the_store() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        let mut store = store_spec();
        store["maxConcurrentBackfills"] = json!(2);
        let mut manifests = vec![manifest("FeatureStore", "default", store)];
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            manifests.push(manifest("FeatureSet", name, crate::world::set_spec()));
            manifests.push(manifest("FeatureSetBackfill", name, of_may(json!({ "featureSet": name }))));
        }
        kubelet.script().set(|_| true, Act::obey().after(Duration::from_millis(300)));
        let start = || Operator::start(cluster.kubeconfig(), &OperatorOptions::default());
        let _operators = [start()?, start()?];
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": manifests }).to_string()).await?;
        let waited = cluster.kubectl(&["wait", "--for=condition=Complete", "--timeout=60s", "fsb", "--all"]).await?;
        assert!(waited.success, "{}{}", waited.stdout, waited.stderr);
        let runs = kubelet.tables().runs("default");
        assert_eq!((most_at_once(&runs), publishes(&kubelet)), (2, 8));
        assert!(overlapping(&runs).is_empty(), "{:#?}", overlapping(&runs));
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
        other.apply(&manifest("FeatureSetBackfill", "may", of_may(json!({}))).to_string()).await?;
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

/// Changes the schema of a definition by one operation of a JSON patch.
async fn change(cluster: &Cluster, plural: &str, operation: &str, path: &str, value: serde_json::Value) -> Result<()> {
    let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{path}");
    let patch = json!([{"op": operation, "path": path, "value": value}]).to_string();
    let crd = format!("{plural}.featureset.dev");
    cluster.kubectl(&["patch", "crd", &crd, "--type=json", "--patch", &patch]).await?.ok().map(drop)
}

#[test]
fn with_definitions_older_than_itself_it_refuses_to_start_and_names_what_they_lack() -> Result<()> {
    test(async |_| {
        let (cluster, _kubelet) = cluster().await?;
        change(&cluster, "featuresets", "remove", "status/properties/ledger", json!(null)).await?;
        let mut operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        eventually_within("it to end", Duration::from_secs(60), async || Ok(operator.check().err())).await?;
        let log = operator.log();
        assert!(log.contains("are older than this operator and lack FeatureSet.status.ledger; install"), "{log}");
        Ok(())
    })
}

#[test]
fn a_field_that_only_newer_definitions_know_stops_what_has_it() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        change(&cluster, "featuresetbackfills", "add", "spec/properties/sampling", json!({"type": "integer"})).await?;
        let newer = manifest("FeatureSetBackfill", "newer", of_may(json!({"sampling": 10})));
        eventually("the field to be stored", async || {
            cluster.apply(&newer.to_string()).await?;
            let stored = cluster.kubectl(&["get", "fsb/newer", "-o", "jsonpath={.spec.sampling}"]).await?.ok()?;
            let done = stored == "10";
            if !done {
                cluster.kubectl(&["delete", "fsb/newer"]).await?.ok()?;
            }
            Ok(done.then_some(()))
        })
        .await?;
        let _operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
        let seen = Seen(until(&api, "newer", in_phase("Waiting")).await?.context("it was deleted")?);
        assert_eq!(seen.reason(Accepted), "UnknownField");
        let message = seen.message(Accepted);
        assert!(message.starts_with("FeatureSetBackfill \"newer\" is not understood by this operator"), "{message}");
        assert!(message.contains("unknown field spec.sampling"), "{message}");
        // Others go on, and so does this one without the field.
        completes(&cluster, "other").await?;
        cluster.kubectl(&["delete", "fsb/newer"]).await?.ok()?;
        assert_eq!(publishes(&kubelet), 1);
        completes(&cluster, "newer").await?;
        assert_eq!(publishes(&kubelet), 2);
        Ok(())
    })
}

#[test]
fn what_cannot_be_read_at_all_is_told_by_an_event_and_leaves_the_others_alone() -> Result<()> {
    test(async |_| {
        let (cluster, _kubelet) = cluster().await?;
        change(&cluster, "featuresetbackfills", "add", "spec/properties/mode/enum/-", json!("Rehearse")).await?;
        let newer = manifest("FeatureSetBackfill", "newer", of_may(json!({"mode": "Rehearse"})));
        eventually("the value to be allowed", async || Ok(cluster.apply(&newer.to_string()).await.ok())).await?;
        let _operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        completes(&cluster, "other").await?;
        let told = eventually("an event", async || {
            let about = [
                "get",
                "events",
                "--field-selector=involvedObject.name=newer,type=Warning",
                "-o",
                "jsonpath={.items[*].message}",
            ];
            Ok(Some(cluster.kubectl(&about).await?.ok()?).filter(|told| !told.is_empty()))
        });
        let told = told.await?;
        assert!(told.contains("Unknown variant Rehearse") && told.contains("upgrade the operator"), "{told}");
        Ok(())
    })
}

#[test]
fn an_online_store_that_is_behind_is_told_also_after_a_restart() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        cluster.apply(&manifest("FeatureStore", "default", store_spec()).to_string()).await?;
        let online = |pod: &Pod| pod.labels().get("featureset.dev/step").is_some_and(|step| step == "online");
        let rule = kubelet.script().set(online, Act::fail(Reason::OnlineAuth, "WRONGPASS", false));
        let behind = async |operator: &Operator, is: u8| {
            let line = format!("featureset_backfill_online_behind{{namespace=\"default\",feature_set=\"clicks\"}} {is}\n");
            // It may not listen yet.
            eventually(&format!("the gauge to be {is}"), async || {
                Ok(operator.get("/metrics").await.ok().filter(|text| text.contains(&line)))
            })
            .await
        };
        let mut first = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        cluster.apply(&manifest("FeatureSetBackfill", "may", of_may(json!({}))).to_string()).await?;
        until(&Api::<FeatureSetBackfill>::default_namespaced(cluster.client()), "may", in_phase("Failed")).await?;
        behind(&first, 1).await?;
        first.kill();
        let second = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
        behind(&second, 1).await?;
        rule.change(Act::obey());
        cluster.apply(&manifest("FeatureSetBackfill", "mend", of_may(json!({"stores": ["Online"]}))).to_string()).await?;
        behind(&second, 0).await.map(drop)
    })
}

#[test]
fn pods_of_spark_share_a_name_a_secret_and_a_closed_network_that_go_with_the_backfill() -> Result<()> {
    test(async |_| {
        let (cluster, kubelet) = cluster().await?;
        let template = json!({"engine": "Spark", "nodes": 3, "cores": 1, "memory": "4Gi"});
        cluster.apply(&manifest("ClusterTemplate", "spark", template).to_string()).await?;
        let others = |pod: &Pod| pod.labels()["featureset.dev/step"] == "offline" && index_of(pod) > 0;
        let _rule = kubelet.script().set(others, Act::run());
        let arguments = ["--spark-image", "spark:1"].map(str::to_owned).to_vec();
        let _operator = Operator::start(cluster.kubeconfig(), &OperatorOptions { arguments, ..OperatorOptions::default() })?;
        let spec = of_may(json!({"clusterTemplate": "spark", "ttlSecondsAfterFinished": 5}));
        cluster.apply(&manifest("FeatureSetBackfill", "may", spec).to_string()).await?;
        let pods: Api<Pod> = Api::default_namespaced(cluster.client());
        let three = eventually("three pods", async || {
            let found = pods.list(&ListParams::default().labels("featureset.dev/step=offline")).await?.items;
            Ok(Some(found).filter(|found| found.len() == 3))
        })
        .await?;
        let secrets: Api<Secret> = Api::default_namespaced(cluster.client());
        let made = secrets.list(&ListParams::default().labels("featureset.dev/backfill=may")).await?.items;
        let [secret] = made.as_slice() else { anyhow::bail!("{} secrets", made.len()) };
        assert_eq!(secret.data.as_ref().context("data")?["secret"].0.len(), 64);
        assert_eq!(secret.owner_references()[0].name, "may");
        for pod in &three {
            let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
            let mounted = volumes.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.clone());
            assert!(mounted.collect::<Vec<_>>().contains(&secret.name_any()));
        }
        let left = async || {
            cluster.kubectl(&["get", "services,networkpolicies", "-l", "featureset.dev/backfill=may", "-o", "name"]).await?.ok()
        };
        assert_eq!(left().await?.lines().count(), 2);
        cluster.kubectl(&["wait", "--for=condition=Complete", "--timeout=60s", "fsb/may"]).await?.ok()?;
        eventually("what was beside the Job to go with it", async || Ok(left().await?.is_empty().then_some(()))).await?;
        cluster.kubectl(&["delete", "fsb/may"]).await?.ok()?;
        eventually("the secret to go with the backfill", async || {
            Ok(secrets.get_opt(&secret.name_any()).await?.is_none().then_some(()))
        })
        .await
    })
}
