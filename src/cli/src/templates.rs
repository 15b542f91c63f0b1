//! `templates list`: the numbers behind the names.

use crate::args::{Connection, Output};
use crate::cluster::Cluster;
use crate::failure::{Exit, Result};
use crate::print::{self, table};
use backfill_core::api::ClusterTemplate;
use backfill_core::request::parse_quantity;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

/// `templates list`, the smallest first.
pub async fn list(connection: &Connection, output: Output) -> Result<Exit> {
    let cluster = Cluster::connect(connection).await?;
    let api: Api<ClusterTemplate> = Api::all(cluster.client.clone());
    let mut found = cluster.list("cluster templates", &api, &ListParams::default()).await?;
    found.sort_by_cached_key(|template| (memory(template), template.name_any()));
    if found.is_empty() && output.output.is_none() {
        eprintln!("No cluster templates; the operator creates the shipped ones when it starts.");
        return Ok(Exit::Ok);
    }
    print::objects(&found, output, |wide| {
        let mut columns = vec!["NAME", "ENGINE", "NODES", "CORES", "MEMORY", "SCRATCH", "ONLINE PODS", "DEADLINE"];
        if wide {
            columns.extend(["ONLINE CORES", "ONLINE MEMORY", "QUEUE", "ONLY IN"]);
        }
        let mut table = table(&columns);
        for template in &found {
            table.add_row(row(template, wide));
        }
        table
    })?;
    Ok(Exit::Ok)
}

/// All memory that a template's nodes have.
fn memory(template: &ClusterTemplate) -> u128 {
    let bytes = parse_quantity("spec.memory", &template.spec.memory).unwrap_or_default();
    u128::from(bytes) * u128::from(template.spec.nodes.unwrap_or(1))
}

fn row(template: &ClusterTemplate, wide: bool) -> Vec<String> {
    let spec = &template.spec;
    let online = spec.online.as_ref();
    let mut row = vec![
        template.name_any(),
        format!("{:?}", spec.engine),
        spec.nodes.unwrap_or(1).to_string(),
        spec.cores.to_string(),
        spec.memory.clone(),
        spec.scratch.clone().unwrap_or_else(|| "2 × memory".to_owned()),
        online.map_or(1, |online| online.parallelism).to_string(),
        spec.deadline.clone().unwrap_or_else(|| "24h".to_owned()),
    ];
    if wide {
        let labels: Vec<String> = spec.namespace_selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        row.extend([
            online.map_or(1, |online| online.cores).to_string(),
            online.map_or_else(|| "1Gi".to_owned(), |online| online.memory.clone()),
            spec.queue_name.clone().unwrap_or_default(),
            labels.join(","),
        ]);
    }
    row
}
