//! Spark in several processes, as in the pods of a Job: the first drives, the others compute.

use crate::support::{Ended, World, free_port};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The workers of a Spark cluster, which look for a master that comes later.
pub struct Cluster {
    folder: tempfile::TempDir,
    port: u16,
    workers: Vec<Child>,
}

impl Cluster {
    /// Starts this many workers, as the pods 1, 2, … of a Job.
    pub fn start(workers: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret"), "0123456789abcdef0123456789abcdef0123").expect("a secret");
        let port = free_port();
        let mut cluster = Self { folder, port, workers: vec![] };
        let order = cluster.order(workers + 1);
        for index in 1..=workers {
            let scratch = cluster.folder.path().join(format!("scratch-{index}"));
            std::fs::create_dir(&scratch).expect("a folder");
            let mut command = Command::new(env!("CARGO_BIN_EXE_backfill-worker"));
            command.arg("offline").arg("--order").arg(&order).arg("--scratch").arg(&scratch);
            command.arg("--index").arg(index.to_string()).stdout(Stdio::null());
            super::find(&mut command);
            cluster.workers.push(cluster.joins(&mut command).spawn().expect("the program runs"));
        }
        cluster
    }

    /// The template of backfills that it computes.
    pub fn template(&self) -> Value {
        let nodes = self.workers.len() + 1;
        json!({ "engine": "Spark", "nodes": nodes, "cores": 1, "memory": "2Gi", "scratch": "1Gi" })
    }

    /// Runs several backfills in one process, the first pod of the Job.
    #[track_caller]
    pub fn run(&self, world: &World, backfills: &[(&str, Value)]) -> Vec<Ended> {
        let ended = world.run(self.joins(&mut world.commands(backfills)));
        assert_eq!(ended.len(), backfills.len(), "one line a backfill");
        ended
    }

    /// Gives a process what the operator gives to the pods of a Job.
    pub fn joins<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SPARK_MASTER_HOST", "127.0.0.1").env("SPARK_MASTER_PORT", self.port.to_string()).env("POD_IP", "127.0.0.1");
        command.env("SPARK_SECRET_FILE", self.folder.path().join("secret"))
    }

    /// Ends a worker at once.
    pub fn kill(&mut self, worker: usize) {
        self.workers[worker].kill().and_then(|()| self.workers[worker].wait()).expect("it ran");
    }

    /// Tells a worker to end; its exit code.
    pub fn terminate(&mut self, worker: usize) -> Option<i32> {
        let id = self.workers[worker].id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.workers[worker].wait().expect("it ran").code()
    }

    /// Where everything of the workers is written: what they start names it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An order of which workers read how many they are, and how large.
    fn order(&self, nodes: u32) -> PathBuf {
        let golden = include_str!("../../../../core/src/contract/golden/order-spark.json");
        let mut order: Value = serde_json::from_str(golden).expect("JSON");
        order["engine"]["nodes"] = nodes.into();
        order["size"] = json!({ "cores": 1, "memoryBytes": 2_u64 << 30, "scratchBytes": 1_u64 << 30 });
        let path = self.folder.path().join("order.json");
        std::fs::write(&path, order.to_string()).expect("an order");
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // A test that failed has said why.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
