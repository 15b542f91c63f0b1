//! The quickstart's real data: what we compute is what an independent engine computes, and nothing else changes.

use crate::support::{Ended, at, python, quickstart, quickstart_by, quickstart_part};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const VIEW: &str = "carrier_delays";
const FEATURES: [(&str, &str); 4] = [
    ("flights", "int64"),
    ("mean_departure_delay", "float64"),
    ("p90_departure_delay", "float64"),
    ("cancelled_share", "float64"),
];

/// A state folder with the quickstart's data.
fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().expect("a folder");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/quickstart/data");
    std::fs::create_dir(state.path().join("data")).expect("a folder");
    for name in ["flights.parquet", "flights-corrected.parquet", "weather.parquet"] {
        std::fs::copy(data.join(name), state.path().join("data").join(name)).expect("copied");
    }
    state
}

fn table(state: &Path) -> PathBuf {
    state.join("offline/carrier-delays")
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    for row in &mut rows {
        row.as_object_mut().expect("a row").remove("event_date");
    }
    rows.sort_by_key(|row| (row["day"].as_i64(), row["carrier"].as_str().map(str::to_owned)));
    rows
}

/// The rows of a version by the eyes of another reader.
fn rows(state: &Path, version: u64) -> Vec<Value> {
    sorted(python("delta_read.py", &json!({ "table": table(state), "version": version, "what": "rows" })))
}

/// The rows that DuckDB computes with the SQL of a manifest.
fn duckdb(state: &Path, manifest: &str, source: &str, start: &str, stop: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/quickstart").join(manifest);
    let manifest: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).expect("a manifest")).expect("YAML");
    let request = json!({
        "sql": manifest["spec"]["transformation"]["sql"],
        "tables": { "flights": { "parquet": state.join("data").join(source) } },
        "parameters": { "window_start": at(start), "window_stop": at(stop) },
    });
    sorted(python("duckdb_query.py", &request))
}

fn split(rows: Vec<Value>, start: &str, stop: &str) -> (Vec<Value>, Vec<Value>) {
    rows.into_iter().partition(|row| row["day"].as_i64().is_some_and(|day| at(start) <= day && day < at(stop)))
}

fn by_name(ended: &[Ended]) -> BTreeMap<&str, &Ended> {
    ended.iter().map(|ended| (ended.json["name"].as_str().expect("a name"), ended)).collect()
}

/// The online rows of both views, without our side tables.
fn online(state: &Path) -> Vec<String> {
    let database = rusqlite::Connection::open(state.join("online.db")).expect("a file");
    let mut all = Vec::new();
    for table in ["nyc_carrier_delays", "nyc_weather_hourly"] {
        let sql = format!("SELECT hex(entity_key) || feature_name || hex(value) || event_ts FROM \"{table}\" ORDER BY 1");
        let mut read = database.prepare(&sql).expect("a table of Feast's name");
        let rows: Result<Vec<String>, _> = read.query_map([], |row| row.get(0)).expect("rows").collect();
        all.extend(rows.expect("rows"));
    }
    all
}

/// Everything in one test: filling 2013 takes the longest by far.
#[test]
fn the_year_its_february_and_its_undone_december_are_what_other_engines_see() {
    let state = state();
    let state = state.path();
    let ended = quickstart_part(
        state,
        &["00-store", "01-carrier-delays", "02-weather-hourly", "10-reset-2013", "20-february-other-transformation"],
    );
    let runs = by_name(&ended);
    let (year, february) = (runs["carrier-delays-2013"].succeeded(), runs["carrier-delays-february"].succeeded());
    assert_eq!((year.offline("windows"), february.offline("windows")), (365, 28));
    let all = duckdb(state, "01-carrier-delays.yaml", "flights.parquet", "2013-01-01", "2014-01-01");
    let after_year = rows(state, year.offline("versionAfter"));
    assert_eq!(after_year.len(), 5434);
    assert_eq!(after_year, all, "the year is what DuckDB computes, row for row and bit for bit");
    let (inside, outside) = split(rows(state, february.offline("versionAfter")), "2013-02-01", "2013-03-01");
    let expected = duckdb(state, "20-february-other-transformation.yaml", "flights.parquet", "2013-02-01", "2013-03-01");
    assert_eq!((inside.len(), &inside), (expected.len(), &expected), "February is what DuckDB computes");
    let (old, outside_before) = split(after_year, "2013-02-01", "2013-03-01");
    assert_ne!(old, inside);
    assert_eq!(outside, outside_before, "every row outside is the same");
    assert_eq!((february.proof()["filesUntouched"].as_u64(), february.offline("rowsRescued")), (Some(12), 0));
    assert_eq!(february.online("entitiesUpdated"), 0, "newer rows are online");

    let online_before = online(state);
    let ended = quickstart(state);
    let runs = by_name(&ended);
    runs["carrier-delays-february"].already_applied();
    let (december, undo) = (runs["carrier-delays-december"].succeeded(), runs["undo-carrier-delays-december"].succeeded());
    let (inside, outside) = split(rows(state, december.offline("versionAfter")), "2013-12-20", "2014-01-01");
    let corrected = duckdb(state, "01-carrier-delays.yaml", "flights-corrected.parquet", "2013-12-20", "2014-01-01");
    assert_eq!(inside, corrected);
    let before = rows(state, february.offline("versionAfter"));
    let (old, outside_before) = split(before.clone(), "2013-12-20", "2014-01-01");
    assert_eq!(outside, outside_before);
    let changed: Vec<&Value> = inside.iter().filter(|row| !old.contains(row)).collect();
    assert!(changed.len() == 12 && changed.iter().all(|row| row["carrier"] == "EV"), "{changed:?}");
    assert_eq!((december.online("entitiesUpdated"), undo.online("entitiesUpdated")), (1, 1));
    assert_eq!(rows(state, undo.offline("versionAfter")), before, "the undo restores the twelve days");
    assert_eq!(online(state), online_before, "and EV's online row");

    comments_are_in_the_history(state, &ended);
    a_second_run_of_everything_finds_it_applied(state);
    a_real_feast_client_reads_what_we_wrote(state, &before);
}

fn comments_are_in_the_history(state: &Path, ended: &[Ended]) {
    let history = python("delta_read.py", &json!({ "table": table(state), "what": "history" }));
    for run in ended.iter().filter(|run| run.json["featureSet"] == "carrier-delays") {
        let version = run.offline("versionAfter");
        let commit = history.iter().find(|commit| commit["version"] == version).expect("the commit");
        assert!(run.json["comment"].is_string());
        assert_eq!(commit["userMetadata"], run.json["comment"]);
        assert_eq!(run.json["offline"]["comment"], run.json["comment"], "the report has it too");
        assert_eq!(commit["featureset"]["backfill"]["name"], run.json["name"]);
    }
    let publishes = history.iter().filter(|commit| commit["operation"] == "BACKFILL").count();
    assert_eq!(publishes, 4, "one publish a backfill");
}

fn a_second_run_of_everything_finds_it_applied(state: &Path) {
    let log = || std::fs::read_dir(table(state).join("_delta_log")).expect("a log").count();
    let (before, online_before) = (log(), online(state));
    let ended = quickstart(state);
    assert_eq!(ended.len(), 5);
    for run in &ended {
        run.already_applied();
        assert!(run.condition("Complete").2.contains("set spec.runId to run again"));
    }
    assert_eq!((log(), online(state)), (before, online_before), "no new version, no online write");
}

fn a_real_feast_client_reads_what_we_wrote(state: &Path, rows: &[Value]) {
    let carriers: Vec<&str> =
        rows.iter().filter_map(|row| row["carrier"].as_str()).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(carriers.len(), 16);
    let features: Vec<Value> = FEATURES.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
    let feast = json!({
        "what": "online", "project": "nyc", "view": VIEW, "entities": [{ "name": "carrier", "type": "string" }],
        "features": features, "online": { "sqlite": state.join("online.db") }, "timestampColumn": "day", "table": table(state),
        "rows": carriers.iter().map(|carrier| json!({ "carrier": carrier })).collect::<Vec<_>>(),
    });
    let answers = python("feast_read.py", &feast);
    assert_eq!(answers.len(), 16);
    for answer in &answers {
        let carrier = &answer["entity"]["carrier"];
        let newest = rows.iter().rfind(|row| row["carrier"] == *carrier).expect("a row");
        for (name, _) in FEATURES {
            assert_eq!(answer["values"][name], newest[name], "{carrier} {name}");
            assert_eq!(answer["timestamps"][name], newest["day"]);
        }
    }
    let mut feast = feast;
    feast["what"] = json!("historical");
    feast["online"].take();
    let half_a_day = 43_200_000_000;
    let noon =
        |row: &Value| json!({ "carrier": row["carrier"], "event_timestamp": row["day"].as_i64().map(|day| day + half_a_day) });
    let asked: Vec<&Value> = rows.iter().filter(|row| row["day"] == at("2013-02-09") || row["day"] == at("2013-12-25")).collect();
    feast["rows"] = asked.iter().map(|row| noon(row)).collect();
    let joined = python("feast_read.py", &feast);
    assert_eq!(joined.len(), asked.len());
    for row in asked {
        let same =
            |joined: &&Value| joined["carrier"] == row["carrier"] && joined["event_timestamp"] == noon(row)["event_timestamp"];
        let found = joined.iter().find(same).expect("the row that was asked for");
        for (name, _) in FEATURES {
            assert_eq!(found[name], row[name], "{row}");
        }
    }
}

#[test]
fn a_month_of_flights_by_spark_is_what_duckdb_computes() {
    let state = state();
    let state = state.path();
    let ended = quickstart_by("Spark", state, &["00-store", "01-carrier-delays", "20-february-other-transformation"]);
    let february = ended[0].succeeded();
    assert_eq!((february.offline("windows"), february.offline("rowsWritten")), (28, 416));
    let expected = duckdb(state, "20-february-other-transformation.yaml", "flights.parquet", "2013-02-01", "2013-03-01");
    assert_eq!(rows(state, february.offline("versionAfter")), expected, "row for row and bit for bit");
}
