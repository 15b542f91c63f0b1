//! `backfill delete` and `backfill prune`.

use crate::args::{Connection, Prune};
use crate::ask::confirm;
use crate::cluster::Cluster;
use crate::failure::{Exit, Failure, Result};
use crate::list::Place;
use crate::print;
use crate::{environment, find};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::{ConditionType, is_true};
use backfill_core::plan::rests;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher::watch_object;
use std::collections::BTreeMap;

/// `backfill delete`.
pub async fn delete(connection: &Connection, names: &[String], yes: bool, wait: bool) -> Result<Exit> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let mut found = Vec::new();
    for name in names {
        found.push(find::backfill(&cluster, &namespace, name).await?);
    }
    let running: Vec<String> = found.iter().filter(|backfill| !rests(backfill)).map(ResourceExt::name_any).collect();
    if !running.is_empty() {
        confirm(&format!("{} not ended and would be broken off first. Delete?", list(&running)), yes)?;
    }
    for backfill in &found {
        remove(&cluster, backfill, false).await?;
        println!("featuresetbackfill.featureset.dev/{} deleted", backfill.name_any());
    }
    for backfill in found.iter().filter(|_| wait) {
        gone(&cluster, backfill).await?;
    }
    Ok(Exit::Ok)
}

fn list(names: &[String]) -> String {
    match names {
        [name] => format!("\"{name}\" has"),
        names => format!("{} backfills ({}) have", names.len(), names.join(", ")),
    }
}

/// Deletes this one object, and no other of its name; with `unchanged` only as it was read.
async fn remove(cluster: &Cluster, backfill: &FeatureSetBackfill, unchanged: bool) -> Result<()> {
    let api = cluster.api::<FeatureSetBackfill>(&backfill.namespace().unwrap_or_default());
    let resource_version = backfill.resource_version().filter(|_| unchanged);
    let preconditions = Some(Preconditions { uid: backfill.uid(), resource_version });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let name = backfill.name_any();
    cluster.find(&format!("delete the backfill \"{name}\""), api.delete(&name, &params)).await.map(drop)
}

async fn gone(cluster: &Cluster, backfill: &FeatureSetBackfill) -> Result<()> {
    let api = cluster.api::<FeatureSetBackfill>(&backfill.namespace().unwrap_or_default());
    let mut states = std::pin::pin!(watch_object(api, &backfill.name_any()));
    let interrupted = Failure::new("interrupted; the deletion goes on").exit(Exit::Interrupted);
    let gone = async {
        while let Some(state) = states.next().await {
            match state {
                Ok(Some(state)) if state.uid() == backfill.uid() => {}
                Ok(_) => return Ok(()),
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            }
        }
        Ok(())
    };
    tokio::select! {
        gone = gone => gone,
        _ = tokio::signal::ctrl_c() => Err(interrupted),
    }
}

/// `backfill prune`.
pub async fn prune(connection: &Connection, asked: &Prune) -> Result<Exit> {
    let place = Place::of(connection, &asked.selection).await?;
    let found = place.backfills().await?;
    let old = prunable(&found, asked, Utc::now());
    if old.is_empty() {
        eprintln!("Nothing to prune {}.", place.words());
        return Ok(Exit::Ok);
    }
    let old: Vec<FeatureSetBackfill> = old.into_iter().cloned().collect();
    eprintln!("{}", print::backfills(&old, place.namespace.is_none(), false));
    if asked.dry_run {
        eprintln!("{} would be deleted.", old.len());
        return Ok(Exit::Ok);
    }
    confirm(&format!("Delete {} of {} backfills? Ledgers and tables keep what they did.", old.len(), found.len()), asked.yes)?;
    for backfill in &old {
        remove(&place.cluster, backfill, true).await?;
        println!("featuresetbackfill.featureset.dev/{} deleted", backfill.name_any());
    }
    Ok(Exit::Ok)
}

/// Those that ended long ago, without the newest of each feature set. `found` is in order, the newest first.
fn prunable<'a>(found: &'a [FeatureSetBackfill], asked: &Prune, now: DateTime<Utc>) -> Vec<&'a FeatureSetBackfill> {
    let mut kept = BTreeMap::<(Option<String>, &str), usize>::new();
    let mut old = Vec::new();
    for backfill in found {
        let kept = kept.entry((backfill.namespace(), &backfill.spec.feature_set)).or_default();
        *kept += 1;
        let ended =
            ended_at(backfill, asked.failed).is_some_and(|ended| (now - ended).to_std().is_ok_and(|ago| ago > asked.older_than));
        if *kept > asked.keep && ended {
            old.push(backfill);
        }
    }
    old
}

/// When the backfill ended, if it may be pruned.
fn ended_at(backfill: &FeatureSetBackfill, failed: bool) -> Option<DateTime<Utc>> {
    let conditions = &backfill.status.as_ref()?.conditions;
    let kind = match () {
        () if !rests(backfill) => return None,
        () if is_true(conditions, ConditionType::Complete) => ConditionType::Complete,
        () if failed && is_true(conditions, ConditionType::Failed) => ConditionType::Failed,
        () => return None,
    };
    let condition = conditions.iter().find(|condition| condition.kind == kind)?;
    print::instant(&condition.last_transition_time)
}
