//! `backfill events`: what Kubernetes says of a backfill, its Jobs and its pods.

use crate::args::Connection;
use crate::failure::{Exit, Result};
use crate::find;
use crate::print::{age, table};
use backfill_core::plan::instant;
use backfill_core::plan::run::label;
use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use std::collections::BTreeSet;

/// `backfill events`, the oldest first.
pub async fn events(connection: &Connection, name: &str) -> Result<Exit> {
    let (cluster, backfill) = find::named(connection, name).await?;
    let namespace = backfill.namespace().unwrap_or_default();
    let uid = backfill.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{}={uid}", label::UID));
    let (jobs, pods, all) = (cluster.api::<Job>(&namespace), cluster.api::<Pod>(&namespace), cluster.api::<Event>(&namespace));
    let everything = ListParams::default();
    let (jobs, pods, mut found) = tokio::try_join!(
        cluster.list("Jobs", &jobs, &ours),
        cluster.list("pods", &pods, &ours),
        cluster.list("events", &all, &everything),
    )?;
    let uids: BTreeSet<String> =
        jobs.iter().filter_map(ResourceExt::uid).chain(pods.iter().filter_map(ResourceExt::uid)).chain([uid]).collect();
    found.retain(|event| event.involved_object.uid.as_ref().is_some_and(|uid| uids.contains(uid)));
    found.sort_by_key(at);
    if found.is_empty() {
        eprintln!("No events of \"{}\"; Kubernetes keeps them for an hour.", backfill.name_any());
        return Ok(Exit::Ok);
    }
    let mut table = table(&["AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    for event in &found {
        let object = &event.involved_object;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let count = event.count.filter(|count| *count > 1).map_or_else(String::new, |count| format!(" (× {count})"));
        table.add_row([
            at(event).map_or_else(String::new, |then| age(then, Utc::now())),
            text(&event.type_),
            text(&event.reason),
            format!("{}/{}", text(&object.kind).to_lowercase(), text(&object.name)),
            text(&event.message) + &count,
        ]);
    }
    println!("{table}");
    Ok(Exit::Ok)
}

fn at(event: &Event) -> Option<DateTime<Utc>> {
    let micro = event.event_time.as_ref().map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last.or(micro).or(created).map(|time| instant(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time)))
}
