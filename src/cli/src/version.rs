//! `version`: of this program, of the operator and of the API server.

use crate::args::{Connection, Format, Structured};
use crate::cluster::Cluster;
use crate::failure::{Exit, Result};
use crate::print::document;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

/// This program's version.
pub const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// The label by which the operator's Deployment is found, and the one that carries its version.
const OPERATOR: &str = "app.kubernetes.io/name=backfill-operator";
const VERSION: &str = "app.kubernetes.io/version";

/// `version`.
pub async fn version(connection: &Connection, client: bool, output: Option<Structured>) -> Result<Exit> {
    let (operator, server) = match client {
        true => (None, None),
        false => {
            let cluster = Cluster::connect(connection).await?;
            let server = cluster.call("read the API server's version", cluster.client.apiserver_version()).await?;
            (operator(&cluster).await, Some(server.git_version))
        }
    };
    let skew = operator.as_deref().and_then(|operator| skew(CLIENT, operator));
    match output {
        Some(format) => {
            let format = if format == Structured::Yaml { Format::Yaml } else { Format::Json };
            let all = json!({ "client": CLIENT, "operator": operator, "server": server });
            print!("{}", document(&all, Some(format))?);
        }
        None => {
            println!("client:   {CLIENT}");
            if let Some(server) = server {
                println!("operator: {}", operator.as_deref().unwrap_or("not found"));
                println!("server:   {server}");
            }
        }
    }
    if let Some(skew) = skew {
        eprintln!("warning: {skew}");
    }
    Ok(Exit::Ok)
}

/// The version of the operator that is installed, as far as the user may see it.
pub async fn operator(cluster: &Cluster) -> Option<String> {
    let api: Api<Deployment> = Api::all(cluster.client.clone());
    let found = cluster.try_call(api.list_metadata(&ListParams::default().labels(OPERATOR))).await.ok()?;
    found.items.into_iter().find_map(|deployment| deployment.metadata.labels?.remove(VERSION))
}

/// What is said when the versions do not belong together: another major version, or, before 1.0, another minor one.
pub fn skew(client: &str, operator: &str) -> Option<String> {
    let line = |version: &str| {
        let mut parts = version.trim_start_matches('v').split('.').map(str::to_owned);
        let major = parts.next()?;
        let minor = parts.next()?;
        Some(if major == "0" { format!("0.{minor}") } else { major })
    };
    let differ = line(client)? != line(operator)?;
    differ.then(|| format!("this is version {client}, the operator has {operator}; install the plugin of the operator's version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_do_not_belong_together_are_told() {
        for (client, operator, differ) in
            [("0.1.0", "0.1.7", false), ("0.1.0", "v0.2.0", true), ("1.4.0", "1.9.2", false), ("1.4.0", "2.0.0", true)]
        {
            assert_eq!(skew(client, operator).is_some(), differ, "{client} {operator}");
        }
    }
}
