//! Environments: names that people use for namespaces that hold a feature store.
//!
//! `--environment NAME` is looked up in the configuration file, then among the namespaces' labels, and else is the namespace itself.

use crate::args::Connection;
use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Error, ResourceExt};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The label by which a namespace says which environment it is.
pub const LABEL: &str = "featureset.dev/environment";

/// The file that names environments: `$FEATURES_CONFIG`, else `features/config.yaml` in the folder for configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// By name: the namespace.
    #[serde(default)]
    environments: BTreeMap<String, String>,
}

/// The cluster and the namespace that a command is about.
pub async fn enter(connection: &Connection) -> Result<(Cluster, String)> {
    let cluster = Cluster::connect(connection).await?;
    let namespace = namespace(&cluster, connection).await?;
    Ok((cluster, namespace))
}

/// The namespace that a command is about.
pub async fn namespace(cluster: &Cluster, connection: &Connection) -> Result<String> {
    let Some(environment) = &connection.environment else {
        return Ok(connection.namespace.clone().unwrap_or_else(|| cluster.namespace.clone()));
    };
    let found = match settings()?.environments.get(environment) {
        Some(namespace) => namespace.clone(),
        None => labelled(cluster, environment).await?.unwrap_or_else(|| environment.clone()),
    };
    match &connection.namespace {
        Some(namespace) if *namespace != found => {
            Err(Failure::usage(format!("--environment {environment} is the namespace \"{found}\", -n says \"{namespace}\""))
                .hint("give one of them"))
        }
        _ => Ok(found),
    }
}

async fn labelled(cluster: &Cluster, environment: &str) -> Result<Option<String>> {
    // What cannot be a label's value is no label's value.
    if environment.len() > 63 || !environment.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        let message = format!("--environment: \"{environment}\" holds other characters than A-Z, a-z, 0-9, ., _ and -");
        return Err(Failure::usage(message).hint("an environment is a namespace with a FeatureStore: kubectl get fstore -A"));
    }
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let params = ListParams::default().labels(&format!("{LABEL}={environment}"));
    let found = match cluster.try_call(api.list_metadata(&params)).await {
        Ok(found) => found.items,
        // Who may not look around names the namespace.
        Err(Error::Api(status)) if status.code == 403 => return Ok(None),
        Err(error) => return Err(cluster.explain("look for the environment", &error)),
    };
    let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
    match names.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some(name.clone())),
        _ => Err(Failure::usage(format!("several namespaces are labelled {LABEL}={environment}: {}", names.join(", ")))
            .hint("give the one that you mean with -n")),
    }
}

fn settings() -> Result<Settings> {
    let asked = std::env::var_os("FEATURES_CONFIG").map(PathBuf::from);
    let Some(path) = asked.clone().or_else(folder) else { return Ok(Settings::default()) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && asked.is_none() => return Ok(Settings::default()),
        Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    };
    serde_saphyr::from_str(&text).map_err(|error| {
        Failure::new(format!("cannot use {}: {error}", path.display())).hint("it holds a map: {environments: {NAME: NAMESPACE}}")
    })
}

fn folder() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"))?).join(".config"));
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
    Some(folder.join("features").join("config.yaml"))
}
