//! The engine Spark, beside the engine DataFusion. Starting Spark takes seconds: one process runs many backfills with it.

mod cases;
mod cluster;
mod conformance;
mod faults;
mod hostile;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that runs Spark.
const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/spark/stage.py");

/// A template whose backfills are computed by Spark in one pod.
pub fn alone() -> Value {
    json!({ "engine": "Spark", "cores": 2, "memory": "2Gi", "scratch": "1Gi" })
}

/// Lets a command find the program that runs Spark; where Python and the jars are, `make` says.
pub fn find(command: &mut Command) {
    command.env("BACKFILL_SPARK_APP", APP);
}

/// What `make` says of Spark.
fn installed(name: &str) -> PathBuf {
    let found = std::env::var_os(name).map(PathBuf::from).filter(|path| Path::exists(path));
    found.unwrap_or_else(|| panic!("{name} is not set; run the tests by: make test"))
}
