//! The cluster templates that are shipped: created when they are missing, never changed.

use crate::shell::{Answer, Error, call};
use anyhow::Context;
use backfill_core::api::ClusterTemplate;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use std::path::Path;

/// Reads templates from a file of YAML documents.
pub fn read(path: &Path) -> anyhow::Result<Vec<ClusterTemplate>> {
    let yaml = std::fs::read_to_string(path).with_context(|| format!("cannot read the cluster templates {}", path.display()))?;
    serde_saphyr::from_multiple(&yaml).with_context(|| format!("cannot read the cluster templates {}", path.display()))
}

/// Creates those that do not exist.
pub async fn create_missing(client: &Client, templates: &[ClusterTemplate]) -> Result<(), Error> {
    let api = Api::<ClusterTemplate>::all(client.clone());
    for template in templates {
        let name = template.name_any();
        let what = format!("cluster template {name}");
        if let Answer::NotFound = call("get", &what, api.get(&name)).await?
            && let Answer::Ok(_) = call("create", &what, api.create(&PostParams::default(), template)).await?
        {
            tracing::info!(name, "created a cluster template that was missing");
        }
    }
    Ok(())
}
