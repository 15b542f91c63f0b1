//! Both engines stage the same rows, and refuse the same things for the same reasons.

use super::alone;
use super::cases::{self, Case};
use super::cluster::Cluster;
use crate::support::{Ended, World, python};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What became of a case.
#[derive(Debug, PartialEq)]
struct Answer {
    /// `Succeeded`, or the reason of the failure.
    outcome: String,
    message: String,
    /// What the report counts.
    counts: Vec<Value>,
    /// All rows of the table, in order; none without a table.
    rows: Vec<String>,
}

/// A world with the files and the feature sets of all cases.
fn world(cases: &[Case]) -> World {
    let mut world = World::new();
    cases::write_sources(&world);
    world.others = cases.iter().map(Case::object).collect();
    world
}

fn answers(world: &World, cases: &[Case], ended: &[Ended]) -> BTreeMap<String, Answer> {
    let tables: Vec<_> = cases.iter().map(|case| world.path("offline").join(&case.name)).collect();
    let tables = python("delta_read.py", &json!({ "what": "all", "tables": tables }));
    assert_eq!(tables.len(), cases.len());
    let answer = |((case, ended), table): ((&Case, &Ended), &Value)| {
        let (outcome, message) = outcome(ended);
        let offline = &ended.json["offline"]["offline"];
        let counts = ["windows", "rowsWritten", "rowsRemoved", "rowsOutside", "rowsNullKey", "rowsDuplicate"];
        let mut rows: Vec<String> = table["rows"].as_array().into_iter().flatten().map(canonical).collect();
        rows.sort();
        let counts = counts.iter().map(|name| offline[*name].clone()).collect();
        (case.name.clone(), Answer { outcome, message, counts, rows })
    };
    cases.iter().zip(ended).zip(&tables).map(answer).collect()
}

/// A row as text. Spark has one NaN, DataFusion keeps the bits of the source's: docs/engines.md.
fn canonical(row: &Value) -> String {
    row.to_string().replace("7fc00abc", "7fc00000").replace("7ff8000000000abc", "7ff8000000000000")
}

fn outcome(ended: &Ended) -> (String, String) {
    for (kind, status) in [("Complete", "True"), ("Failed", "True"), ("Accepted", "False")] {
        let found = ended.json["conditions"].as_array().expect("conditions").iter().find(|one| one["type"] == kind);
        if let Some(found) = found.filter(|found| found["status"] == status) {
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            return (text("reason"), text("message"));
        }
    }
    panic!("neither complete nor failed: {:#}", ended.json)
}

fn compute(cases: &[Case], template: Option<Value>, cluster: Option<&Cluster>) -> BTreeMap<String, Answer> {
    let mut world = world(cases);
    let backfills: Vec<(&str, Value)> = cases.iter().map(|case| (case.name.as_str(), case.backfill.clone())).collect();
    if let Some(template) = template {
        world.template = template;
    }
    let ended = match cluster {
        None => world.backfills(&backfills),
        Some(cluster) => cluster.run(&world, &backfills),
    };
    answers(&world, cases, &ended)
}

/// What differs, case by case.
fn differences(cases: &[Case], ours: &BTreeMap<String, Answer>, theirs: &BTreeMap<String, Answer>) -> Vec<String> {
    let mut found = Vec::new();
    for case in cases {
        let (ours, theirs) = (&ours[&case.name], &theirs[&case.name]);
        let expected = case.differs.as_ref().map(|differs| (differs.data_fusion, differs.spark));
        let same = ours.outcome == theirs.outcome && ours.counts == theirs.counts && ours.rows == theirs.rows;
        let as_expected = match expected {
            None => same,
            Some(expected) => !same && (ours.outcome.as_str(), theirs.outcome.as_str()) == expected,
        };
        if !as_expected {
            let rows = |answer: &Answer| {
                let other = if std::ptr::eq(answer, ours) { theirs } else { ours };
                let own: Vec<&String> = answer.rows.iter().filter(|row| !other.rows.contains(row)).take(2).collect();
                format!("{} {:?} {} rows, alone: {own:?} ({})", answer.outcome, answer.counts, answer.rows.len(), answer.message)
            };
            found.push(format!("{}:\n  DataFusion {}\n  Spark      {}", case.name, rows(ours), rows(theirs)));
        }
    }
    found
}

/// What the engine DataFusion answers.
fn ours() -> &'static BTreeMap<String, Answer> {
    static OURS: LazyLock<BTreeMap<String, Answer>> = LazyLock::new(|| compute(&cases::all(), None, None));
    &OURS
}

#[test]
fn cases_enough_have_rows_to_compare() {
    let worked = ours().values().filter(|answer| answer.outcome == "Succeeded" && !answer.rows.is_empty()).count();
    assert!(worked >= 60, "{worked} of {} cases", ours().len());
}

#[test]
fn spark_in_one_process_stages_what_data_fusion_does() {
    let cases = cases::all();
    let found = differences(&cases, ours(), &compute(&cases, Some(alone()), None));
    assert!(found.is_empty(), "{} cases differ\n{}", found.len(), found.join("\n"));
}

#[test]
fn spark_with_two_executors_stages_what_data_fusion_does() {
    // All of them take minutes: `make test-long`.
    let most = if std::env::var_os("BACKFILL_LONG").is_some() { usize::MAX } else { 2 };
    let cases: Vec<Case> = cases::groups().into_iter().flat_map(|group| group.into_iter().take(most)).collect();
    let cluster = Cluster::start(2);
    let found = differences(&cases, ours(), &compute(&cases, Some(cluster.template()), Some(&cluster)));
    assert!(found.is_empty(), "{} cases differ\n{}", found.len(), found.join("\n"));
}
