//! `sets`: feature sets, and what was replaced in them.

use crate::args::{Connection, Everywhere, Format, Output};
use crate::coverage;
use crate::failure::{Exit, Result};
use crate::list::Place;
use crate::print::{self, age, table};
use crate::{environment, find};
use backfill_core::api::{FeatureSet, LedgerEntry};
use backfill_core::condition::{ConditionType, is_true};
use backfill_core::plan::instant;
use chrono::Utc;
use comfy_table::Table;
use kube::ResourceExt;
use kube::api::ListParams;

/// `sets list`.
pub async fn list(connection: &Connection, selection: &Everywhere, output: Output) -> Result<Exit> {
    let place = Place::of(connection, selection).await?;
    let found = place.cluster.list("feature sets", &place.api::<FeatureSet>(), &place.params()).await?;
    if found.is_empty() && output.output.is_none() {
        eprintln!("No feature sets {}.", place.words());
        return Ok(Exit::Ok);
    }
    print::objects(&found, output, |wide| sets(&found, place.namespace.is_none(), wide))?;
    Ok(Exit::Ok)
}

fn sets(found: &[FeatureSet], namespaces: bool, wide: bool) -> Table {
    let mut columns = vec!["NAME", "STORE", "ACTIVE", "VERSION", "COVERED", "LAST BACKFILL", "READY", "AGE"];
    if wide {
        columns.extend(["VIEW", "KEYS", "FEATURES", "WINDOWS"]);
    }
    if namespaces {
        columns.insert(0, "NAMESPACE");
    }
    let mut table = table(&columns);
    for set in found {
        let mut row = row(set, wide);
        if namespaces {
            row.insert(0, set.namespace().unwrap_or_default());
        }
        table.add_row(row);
    }
    table
}

fn row(set: &FeatureSet, wide: bool) -> Vec<String> {
    let status = set.status.clone().unwrap_or_default();
    let covered = match (status.coverage.first(), status.coverage.last()) {
        (Some(first), Some(last)) => format!("{} … {}", day(&first.start), day(&last.stop)),
        _ => String::new(),
    };
    let created = set.metadata.creation_timestamp.as_ref().map(instant);
    let mut row = vec![
        set.name_any(),
        set.store().to_owned(),
        status.active.map_or_else(String::new, |active| active.name),
        status.offline_version.map_or_else(String::new, |version| version.to_string()),
        covered,
        status.ledger.first().map_or_else(String::new, |entry| entry.backfill.clone()),
        if is_true(&status.conditions, ConditionType::Ready) { "True" } else { "False" }.to_owned(),
        created.map_or_else(String::new, |then| age(then, Utc::now())),
    ];
    if wide {
        let windows = set.spec.windows.as_ref().and_then(|windows| windows.every.clone().or_else(|| windows.cron.clone()));
        let keys: Vec<&str> = set.spec.entities.iter().map(|entity| entity.name.as_str()).collect();
        row.extend([
            set.spec.view.clone().unwrap_or_default(),
            keys.join(","),
            set.spec.features.len().to_string(),
            windows.unwrap_or_default(),
        ]);
    }
    row
}

/// The date of an instant.
pub fn day(instant: &str) -> &str {
    instant.get(..10).unwrap_or(instant)
}

async fn found(connection: &Connection, name: &str) -> Result<FeatureSet> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let sets = cluster.list("feature sets", &cluster.api::<FeatureSet>(&namespace), &ListParams::default()).await?;
    find::feature_set(&sets, name, &namespace).cloned()
}

/// `sets get`.
pub async fn get(connection: &Connection, name: &str, output: Output) -> Result<Exit> {
    let set = found(connection, name).await?;
    print::object(&set, output, |wide| sets(std::slice::from_ref(&set), false, wide))?;
    let ledger = set.status.as_ref().map_or(&[][..], |status| &status.ledger);
    if matches!(output.output, None | Some(Format::Wide)) && !ledger.is_empty() {
        println!("\n{}", entries(ledger));
    }
    Ok(Exit::Ok)
}

fn entries(ledger: &[LedgerEntry]) -> Table {
    let mut table = table(&["REPLACED AT", "BACKFILL", "START", "STOP", "VERSION", "ONLINE", "COMMENT"]);
    for entry in ledger {
        table.add_row([
            entry.at.clone(),
            entry.backfill.clone(),
            entry.start.clone().unwrap_or_else(|| "everything".to_owned()),
            entry.stop.clone().unwrap_or_default(),
            entry.version.to_string(),
            if entry.online { "True" } else { "False" }.to_owned(),
            entry.comment.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// `sets coverage`.
pub async fn coverage(connection: &Connection, name: &str, output: Output) -> Result<Exit> {
    let set = found(connection, name).await?;
    match output.output {
        None | Some(Format::Wide) => print!("{}", coverage::draw(&set, coverage::width())),
        Some(_) => print::object(&set, output, |wide| sets(std::slice::from_ref(&set), false, wide))?,
    }
    Ok(Exit::Ok)
}
