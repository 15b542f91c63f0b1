//! `check`: whether everything is there that backfills need, with one way out per failure.

use crate::args::Connection;
use crate::cluster::Cluster;
use crate::environment;
use crate::failure::{Exit, Result};
use crate::version::{self, CLIENT};
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore, GROUP};
use chrono::{TimeDelta, Utc};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};

/// The first version of Kubernetes with `successPolicy` of Jobs.
const KUBERNETES_MIN: (u32, u32) = (1, 33);

/// The name of the operator's lease, and how old it may be.
const LEASE: &str = "metadata.name=backfill-operator";
const LEASE_OLD: TimeDelta = TimeDelta::minutes(2);

/// What a check found.
enum Found {
    Good(String),
    /// It may be good, but the user may not see it.
    Unknown(String),
    Bad {
        what: String,
        hint: String,
    },
}

fn bad(what: impl Into<String>, hint: impl Into<String>) -> Found {
    Found::Bad { what: what.into(), hint: hint.into() }
}

/// `check`. With `pre` only what a cluster brings before an installation.
pub async fn check(connection: &Connection, pre: bool) -> Result<Exit> {
    let cluster = Cluster::connect(connection).await?;
    let mut checks = vec![server(&cluster).await?];
    if pre {
        for (group, resource) in [
            ("apiextensions.k8s.io", "customresourcedefinitions"),
            ("rbac.authorization.k8s.io", "clusterroles"),
            ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ] {
            checks.push(may(&cluster, None, "create", group, resource, "an installation needs an administrator").await?);
        }
    } else {
        let namespace = environment::namespace(&cluster, connection).await?;
        let resources = resources(&cluster).await;
        let installed = !matches!(resources, Found::Bad { .. });
        checks.push(resources);
        if installed {
            checks.extend([operator(&cluster).await, templates(&cluster).await, environment(&cluster, &namespace).await]);
            checks.extend(rights(&cluster, &namespace).await?);
        }
    }
    let mut exit = Exit::Ok;
    for check in &checks {
        match check {
            Found::Good(what) => println!("✓ {what}"),
            Found::Unknown(what) => println!("? {what}"),
            Found::Bad { what, hint } => {
                println!("✗ {what}\n  hint: {hint}");
                exit = Exit::Error;
            }
        }
    }
    Ok(exit)
}

async fn server(cluster: &Cluster) -> Result<Found> {
    let version = cluster.call("reach the API server", cluster.client.apiserver_version()).await?;
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or_default();
    let found = (number(&version.major), number(&version.minor));
    let what = format!("Kubernetes {}", version.git_version);
    Ok(match found >= KUBERNETES_MIN {
        true => Found::Good(what),
        false => bad(what, "Jobs need Kubernetes 1.33 or newer (successPolicy)"),
    })
}

async fn resources(cluster: &Cluster) -> Found {
    let group = format!("{GROUP}/v1alpha1");
    let kinds = ["featuresets", "featuresetbackfills", "featurestores", "clustertemplates"];
    let install = "install the chart, or: kubectl apply -f crds/";
    match cluster.try_call(cluster.client.list_api_group_resources(&group)).await {
        Ok(list) => {
            let missing: Vec<&str> =
                kinds.into_iter().filter(|kind| !list.resources.iter().any(|resource| resource.name == *kind)).collect();
            match missing.is_empty() {
                true => Found::Good(format!("resources of {group}")),
                false => bad(format!("resources of {group}: {} missing", missing.join(", ")), install),
            }
        }
        Err(_) => bad(format!("no resources of {group}"), install),
    }
}

/// Whether an operator leads, by its lease; and whether its version fits.
async fn operator(cluster: &Cluster) -> Found {
    let api: Api<Lease> = Api::all(cluster.client.clone());
    let leases = match cluster.try_call(api.list(&ListParams::default().fields(LEASE))).await {
        Ok(leases) => leases.items,
        Err(_) => return Found::Unknown("operator: you may not read leases, so it cannot be seen".to_owned()),
    };
    let now = Utc::now().timestamp();
    let since = |lease: &Lease| Some(now - lease.spec.as_ref()?.renew_time.as_ref()?.0.as_second());
    let fresh: Vec<String> = leases
        .iter()
        .filter(|lease| since(lease).is_some_and(|ago| ago <= LEASE_OLD.num_seconds()))
        .filter_map(ResourceExt::namespace)
        .collect();
    if fresh.len() > 1 {
        let what = format!("operator: several installations are at work, in {}", fresh.join(", "));
        return bad(what, "keep one, or give each its own namespaces (--watch-namespaces)");
    }
    let renewed = leases.iter().filter_map(since).min();
    let hint = "see its log: kubectl logs -A -l app.kubernetes.io/name=backfill-operator";
    let Some(ago) = renewed else { return bad("operator: no lease of one is there", "install the chart backfill-operator") };
    if ago > LEASE_OLD.num_seconds() {
        return bad(format!("operator: its lease was renewed {ago} s ago"), hint);
    }
    match version::operator(cluster).await {
        None => Found::Good("operator: at work".to_owned()),
        Some(operator) => match version::skew(CLIENT, &operator) {
            Some(skew) => bad(format!("operator: {skew}"), "see both: kubectl features version"),
            None => Found::Good(format!("operator: at work, version {operator}")),
        },
    }
}

async fn templates(cluster: &Cluster) -> Found {
    let api: Api<ClusterTemplate> = Api::all(cluster.client.clone());
    match cluster.try_call(api.list_metadata(&ListParams::default())).await {
        Ok(list) if list.items.is_empty() => bad(
            "cluster templates: there is none",
            "the operator creates the shipped ones with --cluster-templates; or: kubectl apply -f deploy/cluster-templates.yaml",
        ),
        Ok(list) => Found::Good(format!("cluster templates: {}", list.items.len())),
        Err(_) => Found::Unknown("cluster templates: you may not list them".to_owned()),
    }
}

async fn environment(cluster: &Cluster, namespace: &str) -> Found {
    let (stores, sets) = (cluster.api::<FeatureStore>(namespace), cluster.api::<FeatureSet>(namespace));
    let all = ListParams::default();
    match tokio::join!(cluster.try_call(stores.list_metadata(&all)), cluster.try_call(sets.list_metadata(&all))) {
        (Ok(stores), _) if stores.items.is_empty() => bad(
            format!("environment \"{namespace}\": there is no feature store"),
            "see where there are some: kubectl get fstore -A; or create one: kubectl explain fstore.spec",
        ),
        (Ok(_), Ok(sets)) => Found::Good(format!("environment \"{namespace}\": {} feature sets", sets.items.len())),
        _ => Found::Unknown(format!("environment \"{namespace}\": you may not look into it")),
    }
}

async fn rights(cluster: &Cluster, namespace: &str) -> Result<Vec<Found>> {
    let hint = "ask for the role of an editor of backfills in this namespace";
    let mut found = Vec::new();
    let backfills = FeatureSetBackfill::plural(&()).to_string();
    for verb in ["get", "list", "watch", "create", "patch", "delete"] {
        found.push(may(cluster, Some(namespace), verb, GROUP, &backfills, hint).await?);
    }
    for (group, resource, why) in [
        (GROUP, "featuresets", hint),
        (GROUP, "featurestores", hint),
        ("", "pods", "without it `backfill logs` finds nothing"),
        ("", "pods/log", "without it `backfill logs` says nothing"),
        ("", "events", "without it `backfill events` says nothing"),
    ] {
        let verb = if resource == "pods/log" { "get" } else { "list" };
        found.push(may(cluster, Some(namespace), verb, group, resource, why).await?);
    }
    Ok(found)
}

async fn may(cluster: &Cluster, namespace: Option<&str>, verb: &str, group: &str, resource: &str, hint: &str) -> Result<Found> {
    let place = namespace.map_or_else(String::new, |namespace| format!(" in \"{namespace}\""));
    Ok(match allowed(cluster, namespace, verb, group, resource).await? {
        true => Found::Good(format!("you may {verb} {resource}{place}")),
        false => bad(format!("you may not {verb} {resource}{place}"), hint),
    })
}

/// Whether the user may do something, as the API server says.
pub async fn allowed(cluster: &Cluster, namespace: Option<&str>, verb: &str, group: &str, resource: &str) -> Result<bool> {
    let (name, subresource) = resource.split_once('/').map_or((resource, None), |(name, part)| (name, Some(part.to_owned())));
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        namespace: namespace.map(str::to_owned),
        resource: Some(name.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = cluster.call("ask what you may do", api.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
