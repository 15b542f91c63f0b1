//! The objects that are made.

use super::*;
use crate::api::Engine;
use crate::contract;
use crate::request::{LookupInput, LookupRequest, resolve_lookup};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const LONG: &str = "a-backfill-with-a-name-of-as-many-characters-as-are-allowed-63c";

fn job_of(cluster: &Cluster, name: &str) -> Job {
    let mut job = cluster.jobs[&cluster.job(name)].clone();
    (job.metadata.uid, job.metadata.creation_timestamp) = (None, None);
    job
}

#[test]
fn the_job_of_the_offline_step() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    insta::assert_yaml_snapshot!(job_of(&cluster, "fix"));
}

#[test]
fn the_job_of_the_online_step() {
    let mut cluster = cluster();
    let online = crate::api::OnlineSize { parallelism: 4, cores: 1, memory: "1Gi".to_owned() };
    cluster.templates[0].spec.online = Some(online);
    cluster.apply("fix", may(json!({})));
    cluster.rest("fix");
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    insta::assert_yaml_snapshot!(job_of(&cluster, "fix"));
}

#[test]
fn the_job_of_the_settle_step() {
    let mut cluster = running(json!({}));
    cluster.fails("fix", Reason::ShrinkGuard);
    cluster.rest("fix");
    insta::assert_yaml_snapshot!(job_of(&cluster, "fix"));
}

#[test]
fn a_store_and_a_template_shape_the_pods() {
    let mut cluster = cluster();
    let settings = json!({
        "serviceAccountName": "runs", "imagePullSecrets": ["pull"],
        "podLabels": {"team": "a", "featureset.dev/step": "mine"}, "podAnnotations": {"mesh": "no"}
    });
    let store = cluster.stores.get_mut("default").expect("the store");
    store.spec.jobs = Some(serde_json::from_value(settings).expect("settings"));
    store.spec.offline.volume_claim = Some("claim".to_owned());
    let template = &mut cluster.templates[0].spec;
    template.queue_name = Some("queue".to_owned());
    template.priority_class_name = Some("low".to_owned());
    template.node_selector = [("pool".to_owned(), "batch".to_owned())].into();
    cluster.apply("fix", may(json!({})));
    cluster.rest("fix");
    let job = job_of(&cluster, "fix");
    assert_eq!(cluster::labelled(&job, "kueue.x-k8s.io/queue-name"), "queue");
    let template = job.spec.expect("a spec").template;
    let metadata = template.metadata.expect("metadata");
    let labels = metadata.labels.expect("labels");
    assert_eq!((labels["team"].as_str(), labels["featureset.dev/step"].as_str()), ("a", "offline"), "ours are not replaced");
    assert_eq!(metadata.annotations, Some([("mesh".to_owned(), "no".to_owned())].into()));
    let pod = template.spec.expect("a pod");
    assert_eq!((pod.service_account_name.as_deref(), pod.priority_class_name.as_deref()), (Some("runs"), Some("low")));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.node_selector.expect("a selector")["pool"], "batch");
    let mounts = pod.containers[0].volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str());
    let expected = [
        "/etc/featureset.dev",
        "/scratch",
        "/store",
        "/var/run/secrets/featureset.dev/redis",
        "/var/run/secrets/featureset.dev/s3",
    ];
    assert_eq!(mounts.collect::<Vec<_>>(), expected);
}

#[test]
fn a_job_tries_as_often_as_the_backfill_says() {
    let limit = |cluster: &Cluster| job_of(cluster, "fix").spec.and_then(|spec| spec.backoff_limit);
    let mut cluster = world(json!({"retries": 7}));
    cluster.rest("fix");
    assert_eq!(limit(&cluster), Some(7));
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    assert!(limit(&cluster) > Some(1_000), "what is published is followed by the online store");
}

/// The first attempt of the offline step of `fix`, on so many nodes of Spark.
fn of_spark(cluster: &Cluster, nodes: u32) -> manifest::Attempt<'_> {
    let data = cluster.config_maps[&cluster.job("fix")].data.clone().expect("data");
    let mut request: Request = serde_json::from_str(&data[manifest::REQUEST]).expect("a request");
    (request.template.engine, request.template.nodes) = (Engine::Spark, nodes);
    manifest::Attempt { run: Run::of(&cluster.backfills["fix"]), request, step: Step::Offline, number: 1 }
}

#[test]
fn a_job_of_spark_has_room_for_lost_workers() {
    let mut cluster = world(json!({"retries": 7}));
    cluster.rest("fix");
    let spec = of_spark(&cluster, 4).job(&cluster.settings).spec.expect("a spec");
    assert_eq!((spec.backoff_limit, spec.completions), (Some(19), Some(4)));
}

#[test]
fn pods_of_spark_find_each_other_and_are_found_by_nobody_else() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    cluster.settings.spark_image = Some("spark:1".to_owned());
    let attempt = of_spark(&cluster, 3);
    let (name, company) = (attempt.name(), attempt.company().expect("three pods"));
    let mut job = attempt.job(&cluster.settings);
    manifest::spark::entrust(&mut job, "made-up");
    let template = job.spec.expect("a spec").template;
    let (labels, pod) = (template.metadata.and_then(|metadata| metadata.labels), template.spec.expect("a pod"));
    let service = company.service.spec.expect("a spec");
    assert_eq!((company.service.metadata.name.as_deref(), service.cluster_ip.as_deref()), (Some(name.as_str()), Some("None")));
    assert_eq!((&service.selector, service.publish_not_ready_addresses), (&labels, Some(true)));
    let policy = serde_json::to_value(company.policy.spec).expect("JSON");
    let pods = json!({"matchLabels": labels});
    let rules = json!([{"from": [{"podSelector": pods}]}, {"ports": [{"port": 9090}]}]);
    assert_eq!(policy, json!({"podSelector": pods, "policyTypes": ["Ingress"], "ingress": rules}));
    assert_eq!((pod.subdomain.as_deref(), pod.automount_service_account_token), (Some(name.as_str()), Some(false)));
    let container = serde_json::to_value(&pod.containers[0]).expect("JSON");
    assert_eq!(container["image"], "spark:1");
    let file = container["env"][1]["value"].as_str().expect("a file");
    assert_eq!(container["env"][0]["value"], format!("{name}-0.{name}"));
    assert_eq!(container["env"][2]["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP");
    let mount = pod.containers[0].volume_mounts.iter().flatten().find(|mount| file.starts_with(&mount.mount_path)).expect("it");
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).expect("a volume");
    assert_eq!(volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()), Some("made-up"));
    let secret = company.secret;
    let made = &secret.metadata;
    assert_eq!((&made.name, &made.generate_name, secret.immutable), (&None, &Some(format!("{name}-")), Some(true)));
    assert_eq!((secret.data, secret.string_data), (None, None), "what is secret is no part of a plan");
    for metadata in [company.service.metadata, company.policy.metadata, secret.metadata] {
        assert_eq!(metadata.owner_references.expect("an owner")[0].name, "fix");
    }
}

#[test]
fn a_single_pod_and_other_steps_need_no_company() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    cluster.settings.spark_image = Some("spark:1".to_owned());
    let image = |attempt: &manifest::Attempt<'_>| {
        let pod = attempt.job(&cluster.settings).spec.and_then(|spec| spec.template.spec).expect("a pod");
        assert_eq!((pod.subdomain, pod.containers[0].env.clone()), (None, None));
        pod.containers[0].image.clone().expect("an image")
    };
    let alone = of_spark(&cluster, 1);
    assert_eq!((alone.company(), image(&alone)), (None, "spark:1".to_owned()));
    let online = manifest::Attempt { step: Step::Online, ..of_spark(&cluster, 3) };
    assert_eq!((online.company(), image(&online)), (None, "worker:1".to_owned()));
}

#[test]
fn names_are_short_and_differ_by_uid_run_mode_step_and_attempt() {
    let run = Run { namespace: "prod", name: LONG, uid: "uid-1", run_id: None, feature_set: "clicks", mode: Mode::Apply };
    let mut names = vec![run.claim_name(), run.attempt_name(Step::Offline, 1), run.attempt_name(Step::Offline, 2)];
    names.extend([Step::Online, Step::Settle].map(|step| run.attempt_name(step, 1)));
    names.push(Run { uid: "uid-2", ..run }.attempt_name(Step::Offline, 1));
    names.push(Run { run_id: Some("2"), ..run }.attempt_name(Step::Offline, 1));
    names.push(Run { mode: Mode::Plan, ..run }.attempt_name(Step::Offline, 1));
    for name in &names {
        // Pods of an Indexed Job append their index and five characters.
        assert!(name.len() <= 63 - "-255-abcde".len(), "{name}");
        assert!(name.starts_with("a-backfill-with-a-name") && !name.contains("--"), "{name}");
    }
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
    assert_eq!(run.attempt_name(Step::Offline, 1), run.attempt_name(Step::Offline, 1));
}

#[test]
fn labels_of_everything_that_is_made_are_valid() {
    let mut cluster = cluster();
    cluster.apply(LONG, may(json!({"runId": "R:1.".repeat(16)})));
    cluster.rest(LONG);
    let job = cluster.jobs.values().next().expect("a Job");
    let pod = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()).expect("metadata");
    let all: Vec<&ObjectMeta> = cluster.config_maps.values().map(|map| &map.metadata).chain([&job.metadata, pod]).collect();
    assert_eq!(all.len(), 4, "claim, order, Job, pods");
    for metadata in all {
        for (key, value) in metadata.labels.iter().flatten() {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(value.len() <= 63 && value.chars().all(fits), "{key}={value}");
            assert!(value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{key}={value}");
        }
    }
}

#[test]
fn an_order_names_its_owner_and_carries_the_request() {
    let mut cluster = world(json!({}));
    cluster.rest("fix");
    let order = &cluster.config_maps[&cluster.job("fix")];
    let owner = &order.metadata.owner_references.as_ref().expect("an owner")[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("FeatureSetBackfill", "fix", Some(true)));
    assert_eq!(order.immutable, Some(true));
    let data = order.data.as_ref().expect("data");
    let request: Request = serde_json::from_str(&data[manifest::REQUEST]).expect("a request");
    assert_eq!(serde_json::to_string(&request.order(Step::Offline, Mode::Apply, 1)).expect("JSON"), data[manifest::ORDER]);
}

/// What is asked of the store of a cluster, for user 7.
fn lookup_of(cluster: &Cluster) -> LookupRequest {
    let stores = cluster.stores.values().collect();
    let entity = ["user_id=7".to_owned()];
    resolve_lookup(&LookupInput { namespace: "prod", feature_set: &cluster.feature_sets["clicks"], stores, entity: &entity })
        .expect("valid")
}

#[test]
fn the_pod_of_a_lookup() {
    insta::assert_yaml_snapshot!(lookup_of(&cluster()).pod("clicks-lookup-abcde", "worker:1", 120));
}

#[test]
fn the_pod_of_a_lookup_is_made_as_run_pods_are_and_is_none() {
    let mut cluster = cluster();
    let settings = json!({
        "serviceAccountName": "runs", "imagePullSecrets": ["pull"], "podAnnotations": {"mesh": "no", "featureset.dev/lookup": "mine"},
        "podLabels": {"team": "a", "featureset.dev/uid": "uid-1", "app.kubernetes.io/managed-by": "backfill-operator"}
    });
    let store = cluster.stores.get_mut("default").expect("the store");
    store.spec.jobs = Some(serde_json::from_value(settings).expect("settings"));
    store.spec.offline.volume_claim = Some("claim".to_owned());
    store.spec.online = Some(serde_json::from_value(json!({"sqlite": {"path": "/store/online.db"}})).expect("a store"));
    cluster.apply("fix", may(json!({})));
    cluster.rest("fix");
    let run = job_of(&cluster, "fix").spec.and_then(|spec| spec.template.spec).expect("a run pod");
    let request = lookup_of(&cluster);
    let Pod { metadata, spec, .. } = request.pod("lookup", "worker:1", 10_000);
    let labels: Vec<(String, String)> = metadata.labels.expect("labels").into_iter().collect();
    assert_eq!(labels, [("app.kubernetes.io/managed-by", "kubectl-features"), ("team", "a")].map(|(k, v)| (k.into(), v.into())));
    let annotations = metadata.annotations.expect("annotations");
    assert_eq!((annotations["mesh"].as_str(), metadata.owner_references), ("no", None));
    assert_eq!(contract::Lookup::read(&annotations["featureset.dev/lookup"]).expect("readable"), request.lookup);
    let pod = spec.expect("a spec");
    assert_eq!(pod.active_deadline_seconds, Some(600), "bounded");
    let shared = |pod: &PodSpec| {
        let container = &pod.containers[0];
        (
            (pod.security_context.clone(), container.security_context.clone(), pod.automount_service_account_token),
            (pod.service_account_name.clone(), pod.image_pull_secrets.clone(), pod.restart_policy.clone()),
        )
    };
    assert_eq!(shared(&pod), shared(&run));
    let mounted = |pod: &PodSpec| {
        let mounts = pod.containers[0].volume_mounts.clone().unwrap_or_default().into_iter();
        mounts.map(|mount| (mount.mount_path, mount.read_only == Some(true))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        mounted(&pod),
        [("/etc/featureset.dev", true), ("/store", true)].map(|(path, only)| (path.to_owned(), only)).into()
    );
    assert!(!mounted(&run)["/store"], "run pods write to it");
    let claims = |pod: &PodSpec| {
        pod.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.clone()).collect::<Vec<_>>()
    };
    assert_eq!((claims(&pod).len(), claims(&pod)), (1, claims(&run)));
}
