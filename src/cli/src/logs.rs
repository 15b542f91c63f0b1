//! `backfill logs`: what the pods of a backfill say.

use crate::args::{Connection, StepName};
use crate::cluster::Cluster;
use crate::failure::{Exit, Failure, Result};
use crate::find;
use crate::follow::states;
use backfill_core::api::FeatureSetBackfill;
use backfill_core::contract::Step;
use backfill_core::plan::run::label;
use backfill_core::plan::{phase, rests};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use std::collections::BTreeSet;

/// `backfill logs`.
pub async fn logs(connection: &Connection, name: &str, stay: bool, step: Option<StepName>, tail: Option<i64>) -> Result<Exit> {
    let (cluster, backfill) = find::named(connection, name).await?;
    let namespace = backfill.namespace().unwrap_or_default();
    let step = step.map(Step::from);
    if stay {
        follow(&cluster, &backfill, step, tail).await?;
        return Ok(Exit::Ok);
    }
    let api = cluster.api::<Pod>(&namespace);
    let mut pods = cluster.list("pods", &api, &ListParams::default().labels(&selector(&backfill, step))).await?;
    pods.retain(has_logs);
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    if pods.is_empty() {
        let hint = format!("see how it stands: kubectl features backfill status {name} -n {namespace}");
        return Err(Failure::new(format!("no pod of \"{name}\" has run, or they are gone")).hint(hint));
    }
    for pod in &pods {
        if pods.len() > 1 {
            eprintln!("==> {} <==", pod.name_any());
        }
        let params = LogParams { tail_lines: tail, ..LogParams::default() };
        print!("{}", cluster.call("read the logs", api.logs(&pod.name_any(), &params)).await?);
    }
    Ok(Exit::Ok)
}

/// Prints the logs of all pods as they come, until the backfill has ended.
pub async fn follow(cluster: &Cluster, backfill: &FeatureSetBackfill, step: Option<Step>, tail: Option<i64>) -> Result<()> {
    let api = cluster.api::<Pod>(&backfill.namespace().unwrap_or_default());
    let watched = watcher::Config::default().labels(&selector(backfill, step));
    let mut pods = std::pin::pin!(watcher(api.clone(), watched));
    let mut states = std::pin::pin!(states(cluster, backfill));
    let mut streams = tokio::task::JoinSet::new();
    let mut known = BTreeSet::new();
    let mut over = false;
    loop {
        tokio::select! {
            state = states.next(), if !over => match state {
                Some(state) => over = rests(&state?),
                None => over = true,
            },
            event = pods.next() => {
                if let Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) = event
                    && has_logs(&pod)
                    && known.insert(pod.name_any())
                {
                    streams.spawn(stream(api.clone(), pod, tail));
                }
            }
            Some(ended) = streams.join_next() => {
                if let Ok(Err((pod, error))) = ended {
                    eprintln!("{}", cluster.explain(&format!("read the logs of {pod}"), &error));
                }
            }
        }
        if over && streams.is_empty() {
            return Ok(());
        }
    }
}

/// Each line is marked with the step and the pod's number.
async fn stream(api: Api<Pod>, pod: Pod, tail: Option<i64>) -> Result<(), (String, kube::Error)> {
    let name = pod.name_any();
    let of = |label: &str| pod.labels().get(label).cloned().unwrap_or_default();
    let mark = format!("{}-{}", of(label::STEP), of(label::INDEX));
    let params = LogParams { follow: true, tail_lines: tail, ..LogParams::default() };
    let failed = |error| (name.clone(), error);
    let mut lines = api.log_stream(&name, &params).await.map_err(failed)?.lines();
    while let Some(line) = lines.try_next().await.map_err(|error| failed(kube::Error::ReadEvents(error)))? {
        println!("[{mark}] {line}");
    }
    Ok(())
}

fn selector(backfill: &FeatureSetBackfill, step: Option<Step>) -> String {
    let uid = format!("{}={}", label::UID, backfill.uid().unwrap_or_default());
    step.map_or_else(|| uid.clone(), |step| format!("{uid},{}={}", label::STEP, step.word()))
}

fn has_logs(pod: &Pod) -> bool {
    phase(pod) != "Pending"
}
