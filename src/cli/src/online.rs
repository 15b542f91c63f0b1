//! `online get`: what readers of an entity are served now.

use crate::args::{Connection, Format, OnlineGet, Shape};
use crate::failure::{Exit, Failure, Result, rejected};
use crate::print::{document, table};
use crate::{environment, find, lookup};
use backfill_core::api::{FeatureSet, FeatureStore};
use backfill_core::contract::{JoinKey, KeyValue, Served, ServedRow};
use backfill_core::hex;
use backfill_core::request::{LookupInput, LookupRequest, resolve_lookup};
use backfill_core::time::show;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::Value;
use std::fmt::Write;

/// `online get`.
pub async fn get(connection: &Connection, asked: &OnlineGet) -> Result<Exit> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let (sets, stores) = (cluster.api::<FeatureSet>(&namespace), cluster.api::<FeatureStore>(&namespace));
    let all = ListParams::default();
    let (sets, stores) =
        tokio::try_join!(cluster.list("feature sets", &sets, &all), cluster.list("feature stores", &stores, &all))?;
    let set = find::feature_set(&sets, &asked.set, &namespace)?;
    let input = LookupInput { namespace: &namespace, feature_set: set, stores: stores.iter().collect(), entity: &asked.keys };
    let request = resolve_lookup(&input).map_err(rejected)?;
    let image = asked.image.as_ref().or(request.worker_image.as_ref()).ok_or_else(|| no_image(&request))?;
    let mut served = lookup::look_up(&cluster, &request, image, asked.timeout).await?;
    name_writer(&mut served, set);
    match asked.output {
        Shape::Json => print!("{}", document(&served, Some(Format::Json))?),
        Shape::Yaml => print!("{}", document(&served, Some(Format::Yaml))?),
        Shape::Table => print!("{}", served.row.as_ref().map_or_else(String::new, |row| text(&served, row))),
    }
    match served.found {
        true => Ok(Exit::Ok),
        false => {
            let what = format!("{} has no row of \"{}\" in the online store", entity(&served.entity), set.name_any());
            let hint = format!("see what was replaced: kubectl features sets coverage {} -n {namespace}", set.name_any());
            Err(Failure::new(what).hint(hint).exit(Exit::NoRow))
        }
    }
}

fn no_image(request: &LookupRequest) -> Failure {
    let store = &request.pods.store;
    Failure::new(format!("no image of the worker is known: no backfill has run with the feature store \"{store}\" yet"))
        .hint("give it: --image IMAGE, the one that the operator is started with (--worker-image)")
}

/// The store knows the version of the table, the ledger knows who made it.
fn name_writer(served: &mut Served, set: &FeatureSet) {
    let Some(writer) = served.row.as_mut().and_then(|row| row.written_by.as_mut()) else { return };
    let mut ledger = set.status.iter().flat_map(|status| &status.ledger);
    writer.backfill = ledger.find(|entry| entry.version == writer.generation).map(|entry| entry.backfill.clone());
}

/// A few lines about the row, then its features.
fn text(served: &Served, row: &ServedRow) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("entity", &entity(&served.entity));
    line("view", &format!("{} of project {}", served.view, served.project));
    line("event time", &row.event_time.map_or_else(|| "none: it was removed".to_owned(), show));
    if let Some(created) = row.created_time {
        line("created", &show(created));
    }
    line("written by", &writer(row));
    if row.expired {
        line("expired", "it is older than the feature set's online.ttl: readers that heed it are served nothing");
    }
    if let Some(seconds) = row.key_ttl_seconds {
        line("kept for", &format!("{seconds}s, then the store forgets the entity in all views"));
    }
    let noted = row.features.iter().any(|feature| feature.note.is_some());
    let columns = ["FEATURE", "TYPE", "VALUE", "NOTE"];
    let mut features = table(if noted { &columns } else { &columns[..3] });
    for feature in &row.features {
        let cells = [feature.name.clone(), feature.value_type.to_string(), shown(&feature.value)];
        features.add_row(cells.into_iter().chain(feature.note.as_deref().map(printable)));
    }
    let _ = writeln!(text, "\n{}", features.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
    text
}

fn writer(row: &ServedRow) -> String {
    match &row.written_by {
        Some(writer) => {
            let version = format!("version {} of the table", writer.generation);
            writer
                .backfill
                .as_ref()
                .map_or_else(|| format!("a backfill, {version}"), |name| format!("backfill {name}, {version}"))
        }
        None => "ingestion".to_owned(),
    }
}

/// As it was asked for.
fn entity(keys: &[JoinKey]) -> String {
    let value = |value: &KeyValue| match value {
        KeyValue::String(text) => printable(text),
        KeyValue::Bytes(bytes) => hex::encode(bytes),
        KeyValue::Int32(number) => number.to_string(),
        KeyValue::Int64(number) => number.to_string(),
        KeyValue::Timestamp(instant) => show(*instant),
    };
    keys.iter().map(|key| format!("{}={}", key.name, value(&key.value))).collect::<Vec<_>>().join(" ")
}

/// As JSON, so that a text is told from a number and from nothing.
fn shown(value: &Value) -> String {
    printable(&value.to_string())
}

/// What a store holds must not speak to a terminal.
fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c.is_control() {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use backfill_core::contract::{Answer, LookupOutcome};

    fn served(row: Value) -> Served {
        let entity = serde_json::json!([{ "name": "user", "type": "string", "value": "a\u{1b}" }]);
        let served = serde_json::json!({ "project": "shop", "view": "Clicks", "entity": entity, "found": true, "row": row });
        let answer = serde_json::json!({ "version": 1, "served": served });
        match serde_json::from_value::<Answer>(answer).expect("an answer").outcome {
            LookupOutcome::Served(served) => served,
            LookupOutcome::Failed(notice) => panic!("{notice:?}"),
        }
    }

    #[test]
    fn a_row_says_all_that_is_known_of_it_and_nothing_to_the_terminal() {
        let features = serde_json::json!([
            { "name": "n", "type": "float64", "value": "NaN" },
            { "name": "tag", "type": "string", "value": "\u{1b}[31m\u{9b}", "note": "stored as bytes" },
            { "name": "gone", "type": "list<int64>", "value": null, "note": "not in the row" },
        ]);
        let served = served(serde_json::json!({
            "eventTime": "2024-05-01T00:00:00.25Z", "createdTime": "2024-06-01T00:00:00Z", "expired": true, "keyTtlSeconds": 60,
            "writtenBy": { "generation": 7 }, "features": features,
        }));
        let text = text(&served, served.row.as_ref().expect("a row"));
        let expected = "\
entity       user=a\\u001b
view         Clicks of project shop
event time   2024-05-01T00:00:00.250Z
created      2024-06-01T00:00:00Z
written by   a backfill, version 7 of the table
expired      it is older than the feature set's online.ttl: readers that heed it are served nothing
kept for     60s, then the store forgets the entity in all views

FEATURE  TYPE         VALUE               NOTE
n        float64      \"NaN\"
tag      string       \"\\u001b[31m\\u009b\"  stored as bytes
gone     list<int64>  null                not in the row
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_nobody_knows_is_not_said() {
        let served = served(serde_json::json!({ "features": [{ "name": "n", "type": "int64", "value": 7 }] }));
        let text = text(&served, served.row.as_ref().expect("a row"));
        assert!(text.contains("event time   none: it was removed\nwritten by   ingestion\n\nFEATURE  TYPE   VALUE\n"), "{text}");
    }
}
