//! A namespace with a store and a feature set, as manifests.

use super::Ended;
use super::rides::{Ride, rides_batch, three};
use super::table::parquet_bytes;
use crate::online::redis_server::RedisServer;
use deltalake::arrow::array::RecordBatch;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kinds of online stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Redis,
}

/// A namespace `demo` with a feature set `rides` of one source `rides`: a row a driver and time, with the number of trips. Change
/// the objects before the first backfill.
pub struct World {
    folder: tempfile::TempDir,
    runs: Cell<u32>,
    pub server: Option<RedisServer>,
    pub store: Value,
    /// The spec of the cluster template `small`.
    pub template: Value,
    pub feature_set: Value,
    /// Further objects.
    pub others: Vec<Value>,
}

/// A world of [`three`] rides, all in April.
pub fn filled() -> World {
    let world = World::new();
    world.fill(&three(), "2024-04-01", "2024-05-01");
    world
}

impl World {
    /// With an online store in a SQLite file.
    pub fn new() -> Self {
        Self::with(json!({ "sqlite": { "path": "/store/online.db" } }), None)
    }

    pub fn on(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::new(),
            Kind::Redis => Self::on_redis(&[]),
        }
    }

    /// With a Redis server of these further arguments.
    pub fn on_redis(arguments: &[&str]) -> Self {
        let server = RedisServer::start(arguments);
        let url = server.url();
        let world = Self::with(json!({ "redis": { "urlSecret": { "name": "redis", "key": "url" } } }), Some(server));
        world.file("secrets/redis/url", url.as_bytes());
        world
    }

    fn with(online: Value, server: Option<RedisServer>) -> Self {
        // A folder with a name that has to be escaped in URLs: users have such.
        let folder = tempfile::Builder::new().prefix("state of a tést ").tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("state/data")).expect("a folder");
        let offline = json!({ "uri": "file:///store/offline", "volumeClaim": "store" });
        let store = object("FeatureStore", "default", json!({ "offline": offline, "online": online }));
        let source = json!({ "name": "rides", "parquet": { "uri": "file:///store/data/rides.parquet" } });
        let feature_set = json!({
            "entities": [{ "name": "driver", "type": "int64" }],
            "timestampColumn": "at",
            "features": [{ "name": "trips", "type": "int64" }],
            "sources": [source],
            "transformation": { "sql": "SELECT driver, at, trips FROM rides" },
            "offline": { "partitionBy": "None" },
        });
        let feature_set = object("FeatureSet", "rides", feature_set);
        Self { folder, runs: Cell::new(0), server, store, template: small(), feature_set, others: vec![] }
    }

    /// The same namespace with a copy of everything in its folders. Not for Redis, whose data lies elsewhere.
    pub fn copy(&self) -> Self {
        let copy = Self::with(self.store["spec"]["online"].clone(), None);
        copy_folder(&self.path(""), &copy.path(""));
        let (store, template) = (self.store.clone(), self.template.clone());
        Self { store, template, feature_set: self.feature_set.clone(), others: self.others.clone(), ..copy }
    }

    /// Changes a field of the feature set's spec.
    pub fn set(&mut self, field: &str, value: Value) {
        self.feature_set["spec"][field] = value;
    }

    /// A new table is partitioned so.
    pub fn partitioned_by(mut self, partition: &str) -> Self {
        self.set("offline", json!({ "partitionBy": partition }));
        self
    }

    /// A path below the state folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("state").join(below)
    }

    /// What the source holds now.
    pub fn source(&self, rides: &[Ride]) {
        self.parquet("data/rides.parquet", &rides_batch(rides));
    }

    /// Writes a Parquet file below the state folder.
    pub fn parquet(&self, path: &str, batch: &RecordBatch) {
        self.file(path, &parquet_bytes(batch));
    }

    /// Writes a file below the state folder.
    pub fn file(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// Runs a backfill of the feature set, in a process of its own.
    #[track_caller]
    pub fn backfill(&self, name: &str, spec: Value) -> Ended {
        let mut runs = self.run(&mut self.command(name, spec));
        assert_eq!(runs.len(), 1, "one line a backfill");
        runs.remove(0)
    }

    /// Fills the table and the online store by a reset, whichever template is set.
    #[track_caller]
    pub fn fill(&self, rides: &[Ride], start: &str, stop: &str) {
        self.source(rides);
        let reset = json!({ "reset": true, "startTime": start, "stopTime": stop });
        self.run(&mut self.commands_with(&small(), &[("fill", reset)]))[0].succeeded();
    }

    /// What runs a backfill of the feature set.
    pub fn command(&self, name: &str, spec: Value) -> Command {
        self.commands(&[(name, spec)])
    }

    /// Runs several backfills in one process; the feature set is this one unless they say otherwise.
    #[track_caller]
    pub fn backfills(&self, backfills: &[(&str, Value)]) -> Vec<Ended> {
        let ended = self.run(&mut self.commands(backfills));
        assert_eq!(ended.len(), backfills.len(), "one line a backfill");
        ended
    }

    /// What runs several backfills of one feature set or of several in one process.
    pub fn commands(&self, backfills: &[(&str, Value)]) -> Command {
        self.commands_with(&self.template, backfills)
    }

    fn commands_with(&self, template: &Value, backfills: &[(&str, Value)]) -> Command {
        let mut template = object("ClusterTemplate", "small", template.clone());
        template["metadata"].as_object_mut().expect("metadata").remove("namespace");
        let mut objects = vec![self.store.clone(), template, self.feature_set.clone()];
        objects.extend(self.others.iter().cloned());
        for (name, spec) in backfills {
            let mut spec = spec.clone();
            if spec.get("featureSet").is_none() {
                spec["featureSet"] = self.feature_set["metadata"]["name"].clone();
            }
            objects.push(object("FeatureSetBackfill", name, spec));
        }
        self.runs.set(self.runs.get() + 1);
        let manifests = self.folder.path().join(format!("manifests-{}.yaml", self.runs.get()));
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&manifests, documents.join("\n---\n")).expect("manifests");
        local(&manifests, &self.path(""))
    }

    /// Runs a command of [`Self::command`]; the lines that it prints.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Vec<Ended> {
        run(command)
    }
}

/// The template that backfills use unless a test says otherwise.
fn small() -> Value {
    json!({ "engine": "DataFusion", "cores": 2, "memory": "512Mi", "scratch": "1Gi" })
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry").path();
        let to = to.join(entry.file_name().expect("a name"));
        match entry.is_dir() {
            true => copy_folder(&entry, &to),
            false => _ = std::fs::copy(&entry, &to).expect("a copy"),
        }
    }
}

/// An object of the namespace `demo`.
pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "featureset.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name, "namespace": "demo" },
        "spec": spec,
    })
}

fn local(manifests: &Path, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backfill-worker"));
    command.arg("local").arg("-f").arg(manifests).arg("--state").arg(state).args(["-o", "json"]);
    crate::spark::find(&mut command);
    command
}

#[track_caller]
fn run(command: &mut Command) -> Vec<Ended> {
    let output = command.output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let error = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or_else(|| panic!("killed: {error}"));
    assert!(!text.is_empty(), "nothing was printed, exit code {code}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    let line = |line: &str| Ended { json: serde_json::from_str(line).expect("a line is JSON"), code };
    text.lines().map(line).collect()
}

/// Runs all backfills of the quickstart with this state folder.
#[track_caller]
pub fn quickstart(state: &Path) -> Vec<Ended> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/quickstart");
    run(&mut local(&manifests, state))
}

/// Runs the backfills of some manifests of the quickstart.
#[track_caller]
pub fn quickstart_part(state: &Path, names: &[&str]) -> Vec<Ended> {
    quickstart_by("DataFusion", state, names)
}

/// The same by another engine.
#[track_caller]
pub fn quickstart_by(engine: &str, state: &Path, names: &[&str]) -> Vec<Ended> {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../deploy/examples/quickstart/{name}.yaml"));
        let manifest = std::fs::read_to_string(manifest).expect("a manifest");
        let manifest = manifest.replace("engine: DataFusion", &format!("engine: {engine}"));
        std::fs::write(folder.path().join(format!("{name}.yaml")), manifest).expect("written");
    }
    run(&mut local(folder.path(), state))
}
