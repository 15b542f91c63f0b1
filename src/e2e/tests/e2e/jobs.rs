//! The real Job controller and the played kubelet: pods end as the script says, and Jobs with them.

use anyhow::{Context, Result};
use backfill_core::condition::Reason;
use backfill_core::contract::{Order, Outcome, Report, Step};
use backfill_e2e::kubelet::overlapping;
use backfill_e2e::{Act, Namespace, eventually, test, until};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStateTerminated, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::conditions::{is_deleted, is_job_completed};
use serde_json::{Value, json};
use std::time::Duration;

/// A Job of one pod that is played. `change` is merged into its spec.
async fn job(namespace: &Namespace, name: &str, change: Value) -> Result<Job> {
    let container = json!({"name": "worker", "image": "worker"});
    let mut spec = json!({
        "backoffLimit": 0, "podReplacementPolicy": "Failed",
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/managed-by": "backfill-operator"}},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        },
    });
    merge(&mut spec, change);
    let job = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    Ok(namespace.api().create(&PostParams::default(), &job).await?)
}

fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            change.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, change) => *base = change,
    }
}

/// A Job that carries out a step of an order.
async fn step(namespace: &Namespace, name: &str, step: &str, order: &Order) -> Result<Job> {
    let data = json!({"order.json": serde_json::to_string(order)?});
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}, "data": data}))?;
    namespace.api().create(&PostParams::default(), &map).await?;
    let pods = if step == "online" { order.online.as_ref().map_or(1, |online| online.parallelism) } else { 1 };
    let spec = json!({"volumes": [{"name": "order", "configMap": {"name": name}}]});
    let template = json!({"metadata": {"labels": {"featureset.dev/step": step}}, "spec": spec});
    job(namespace, name, json!({"completionMode": "Indexed", "completions": pods, "parallelism": pods, "template": template}))
        .await
}

/// An order of a backfill in this namespace.
fn order(namespace: &Namespace, key: &str) -> Result<Order> {
    let mut order = Order::read(include_str!("../../../core/src/contract/golden/order.json"))?;
    order.backfill.namespace = namespace.name().to_owned();
    order.key = key.to_owned();
    Ok(order)
}

async fn pods_of(namespace: &Namespace, job: &str) -> Result<Vec<Pod>> {
    let mut pods = namespace.api::<Pod>().list(&ListParams::default().labels(&format!("job-name={job}"))).await?.items;
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

/// The Job's first pod that meets a condition.
async fn pod_that(namespace: &Namespace, job: &str, is: impl Fn(&Pod) -> bool) -> Result<Pod> {
    eventually(&format!("a pod of {job}"), async || Ok(pods_of(namespace, job).await?.into_iter().find(&is))).await
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.as_ref()
}

fn holds(job: &Job, condition: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|found| found.status == "True").any(|found| found.type_ == condition)
}

async fn ended(namespace: &Namespace, name: &str) -> Result<Job> {
    let over = |job: Option<&Job>| job.is_some_and(|job| holds(job, "Complete") || holds(job, "Failed"));
    until(&namespace.api(), name, over).await?.context("the Job is there")
}

fn in_namespace(namespace: &Namespace) -> impl Fn(&Pod) -> bool + Send + Sync + use<> {
    let name = namespace.name().to_owned();
    move |pod| pod.namespace().as_ref() == Some(&name)
}

/// What each pod of an ended Job has reported.
async fn reports(namespace: &Namespace, name: &str) -> Result<Vec<Report>> {
    ended(namespace, name).await?;
    let message = |pod: &Pod| terminated(pod)?.message.clone();
    let pods = pods_of(namespace, name).await?;
    pods.iter().map(|pod| Ok(serde_json::from_str(&message(pod).context("a termination message")?)?)).collect()
}

#[test]
fn a_job_whose_pod_succeeds_completes() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        let act = Act::exit(0, "all is well").after(Duration::from_millis(300));
        shared.kubelet.script().set(in_namespace(&namespace), act);
        job(&namespace, "good", json!({})).await?;
        let pod = pod_that(&namespace, "good", |pod| phase(pod) == "Running").await?;
        assert_eq!(pod.spec.and_then(|spec| spec.node_name).as_deref(), Some("played"));
        until(&namespace.api(), "good", is_job_completed()).await?;
        let pod = pod_that(&namespace, "good", |pod| phase(pod) == "Succeeded").await?;
        let end = terminated(&pod).context("an ended container")?;
        assert_eq!((end.exit_code, end.message.as_deref(), end.reason.as_deref()), (0, Some("all is well"), Some("Completed")));
        Ok(())
    })
}

#[test]
fn a_job_whose_pod_fails_fails() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        shared.kubelet.script().set(in_namespace(&namespace), Act::out_of_memory());
        job(&namespace, "bad", json!({})).await?;
        assert!(holds(&ended(&namespace, "bad").await?, "Failed"));
        let pod = pod_that(&namespace, "bad", |pod| phase(pod) == "Failed").await?;
        let end = terminated(&pod).context("an ended container")?;
        assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("OOMKilled")));
        Ok(())
    })
}

#[test]
fn an_eviction_is_not_the_pods_fault() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        let rule = shared.kubelet.script().set(in_namespace(&namespace), Act::evicted());
        let ignored = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        job(&namespace, "moved", json!({"podFailurePolicy": {"rules": ignored}})).await?;
        pod_that(&namespace, "moved", |pod| phase(pod) == "Failed").await?;
        rule.change(Act::exit(0, ""));
        until(&namespace.api(), "moved", is_job_completed()).await?;
        Ok(())
    })
}

#[test]
fn a_pod_that_cannot_start_says_why_and_goes_on_when_it_can() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        let rule = shared.kubelet.script().set(in_namespace(&namespace), Act::unschedulable("0/3 nodes are available"));
        job(&namespace, "stuck", json!({})).await?;
        let told = |pod: &Pod, text: &str| serde_json::to_string(&pod.status).is_ok_and(|status| status.contains(text));
        let pod = pod_that(&namespace, "stuck", |pod| told(pod, "0/3 nodes are available")).await?;
        assert_eq!(pod.spec.and_then(|spec| spec.node_name), None);
        rule.change(Act::waiting("ImagePullBackOff", "Back-off pulling image \"worker\""));
        let pod = pod_that(&namespace, "stuck", |pod| told(pod, "ImagePullBackOff")).await?;
        assert_eq!(phase(&pod), "Pending");
        rule.remove();
        until(&namespace.api(), "stuck", is_job_completed()).await?;
        Ok(())
    })
}

#[test]
fn deleting_a_job_ends_its_pods() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        shared.kubelet.script().set(in_namespace(&namespace), Act::run());
        let uid = job(&namespace, "gone", json!({})).await?.uid().context("a uid")?;
        pod_that(&namespace, "gone", |pod| phase(pod) == "Running").await?;
        namespace.api::<Job>().delete("gone", &DeleteParams::foreground()).await?;
        until(&namespace.api::<Job>(), "gone", is_deleted(&uid)).await?;
        assert_eq!(pods_of(&namespace, "gone").await?.len(), 0, "foreground: the pods go first");
        Ok(())
    })
}

#[test]
fn a_pod_may_hang_in_terminating_until_it_is_let_go() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("jobs").await?;
        let rule = shared.kubelet.script().set(in_namespace(&namespace), Act::run().hanging());
        job(&namespace, "hung", json!({})).await?;
        let pod = pod_that(&namespace, "hung", |pod| phase(pod) == "Running").await?;
        namespace.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await?;
        let pod = pod_that(&namespace, "hung", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
        assert_eq!(phase(&pod), "Running");
        assert_eq!(pods_of(&namespace, "hung").await?.len(), 1, "no other pod while this one lives");
        rule.change(Act::run());
        assert!(holds(&ended(&namespace, "hung").await?, "Failed"), "its container ended with 143");
        Ok(())
    })
}

#[test]
fn a_key_is_published_once_and_settle_tells_the_truth() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("orders").await?;
        let (order, other) = (order(&namespace, "a")?, order(&namespace, "b")?);
        let outcomes = async |name: &str| -> Result<Vec<Outcome>> {
            Ok(reports(&namespace, name).await?.into_iter().map(|report| report.outcome).collect())
        };
        step(&namespace, "settle-before", "settle", &order).await?;
        assert_eq!(outcomes("settle-before").await?, [Outcome::Settled { published: false }]);
        step(&namespace, "offline", "offline", &order).await?;
        assert_eq!(outcomes("offline").await?, [Outcome::Done]);
        step(&namespace, "again", "offline", &order).await?;
        assert_eq!(outcomes("again").await?, [Outcome::AlreadyApplied { definition_changed: false }]);
        step(&namespace, "online", "online", &order).await?;
        assert_eq!(outcomes("online").await?, [const { Outcome::Done }; 4], "one report for each share");
        step(&namespace, "settle-after", "settle", &order).await?;
        assert_eq!(outcomes("settle-after").await?, [Outcome::Settled { published: true }]);
        step(&namespace, "other", "offline", &other).await?;
        let offline = reports(&namespace, "other").await?.remove(0).offline.context("numbers")?;
        assert_eq!((offline.version_before, offline.version_after), (Some(0), Some(1)));

        let tables = shared.kubelet.tables();
        let (place, uri) = (namespace.name(), order.table.uri.as_str());
        assert!(tables.is_published(place, uri, "a") && tables.is_online(place, uri, "a") && !tables.is_online(place, uri, "b"));
        assert_eq!(tables.version(place, uri), Some(1));
        let runs = tables.runs(place);
        let published: Vec<_> = runs.iter().filter(|run| run.published).map(|run| (run.key.as_str(), run.step)).collect();
        assert_eq!(published, [("a", Step::Offline), ("b", Step::Offline)]);
        assert_eq!((runs.len(), overlapping(&runs).len()), (9, 0));
        Ok(())
    })
}

#[test]
fn an_attempt_that_was_overtaken_publishes_nothing() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("orders").await?;
        let order = order(&namespace, "a")?;
        let inside = in_namespace(&namespace);
        let rule = shared.kubelet.script().set(move |pod| inside(pod) && pod.name_any().starts_with("slow"), Act::run());
        step(&namespace, "slow", "offline", &order).await?;
        pod_that(&namespace, "slow", |pod| phase(pod) == "Running").await?;
        step(&namespace, "settle", "settle", &order).await?;
        reports(&namespace, "settle").await?;
        rule.remove();
        let outcome = reports(&namespace, "slow").await?.remove(0).outcome;
        assert!(matches!(outcome, Outcome::Failed { reason: Reason::Superseded, .. }), "{outcome:?}");
        let runs = shared.kubelet.tables().runs(namespace.name());
        assert!(runs.iter().all(|run| !run.published && run.ended.is_some()));
        assert_eq!(overlapping(&runs).len(), 1, "the slow pod lived beside settle");
        Ok(())
    })
}

#[test]
fn a_pod_may_publish_and_die_before_it_tells() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("orders").await?;
        let order = order(&namespace, "a")?;
        let rule = shared.kubelet.script().set(in_namespace(&namespace), Act::obey_and_die());
        step(&namespace, "first", "offline", &order).await?;
        assert!(holds(&ended(&namespace, "first").await?, "Failed"));
        rule.change(Act::fail(Reason::ShrinkGuard, "5 rows would replace 100", false));
        step(&namespace, "second", "offline", &order).await?;
        let report = reports(&namespace, "second").await?.remove(0);
        assert!(matches!(report.outcome, Outcome::Failed { reason: Reason::ShrinkGuard, .. }));
        assert_eq!(terminated(&pods_of(&namespace, "second").await?[0]).map(|end| end.exit_code), Some(64));
        rule.remove();
        step(&namespace, "third", "offline", &order).await?;
        let report = reports(&namespace, "third").await?.remove(0);
        assert_eq!(report.outcome, Outcome::AlreadyApplied { definition_changed: false });
        Ok(())
    })
}

#[test]
fn many_pods_are_played_at_once() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("many").await?;
        for name in ["a", "b", "c"] {
            job(&namespace, name, json!({"completions": 100, "parallelism": 100})).await?;
        }
        for name in ["a", "b", "c"] {
            until(&namespace.api(), name, is_job_completed()).await?;
        }
        Ok(())
    })
}
