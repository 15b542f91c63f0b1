//! A played kubelet: it binds the pods of backfills, and of lookups, to a node that does not exist and reports about them what a script says.
//!
//! Towards the API server it behaves as scheduler and kubelet do: binding, status in the same words, and the confirmation of
//! deletions. What worker and stores would do is played in memory, see [`Tables`].

mod act;
mod pod;
mod report;
mod status;
mod tables;

pub use act::{Act, Rule, Script};
pub use report::{done_report, index_of, order_of, step_of};
pub use tables::{Run, Tables, overlapping};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

/// Selects the pods that are played: those that the operator makes, and those of lookups.
pub const PLAYED: &str = "app.kubernetes.io/managed-by in (backfill-operator, kubectl-features)";

/// The name of the node.
pub const NODE: &str = "played";

/// How many requests to the API server are under way at once.
const REQUESTS_MAX: usize = 48;

/// Plays pods until it is dropped. Another one that is started on the same cluster goes on with the pods of the first.
#[derive(Debug)]
pub struct Kubelet {
    script: Script,
    tables: Tables,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Makes the node and begins to play. Without rules in its [`Script`] every pod does what its order says.
    pub async fn start(client: Client) -> Result<Self> {
        let (script, tables) = (Script::default(), Tables::default());
        make_node(&client).await?;
        let stage =
            Stage { client, script: script.clone(), tables: tables.clone(), requests: Arc::new(Semaphore::new(REQUESTS_MAX)) };
        let (listed, first_list) = oneshot::channel();
        let task = tokio::spawn(play(Arc::new(stage), listed));
        first_list.await.context("pods cannot be watched")?;
        Ok(Self { script, tables, task })
    }

    /// What pods do.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// What pods have done.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the plays of all pods share.
struct Stage {
    client: Client,
    script: Script,
    tables: Tables,
    requests: Arc<Semaphore>,
}

async fn make_node(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}}))?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        Err(error) => return Err(error.into()),
    }
    let resources = json!({"cpu": "1000000", "memory": "1Pi", "ephemeral-storage": "1Ei", "pods": "1000000"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources, "conditions": [ready]}});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

/// The newest state of each pod, for the one task that plays it.
#[derive(Default)]
struct Cast {
    pods: HashMap<String, watch::Sender<Arc<Pod>>>,
    listed: HashSet<String>,
}

/// Follows the pods and gives each a task of its own. Dropping the cast ends the tasks.
async fn play(stage: Arc<Stage>, listed: oneshot::Sender<()>) {
    let pods: Api<Pod> = Api::all(stage.client.clone());
    // The watcher tells of errors and goes on by itself, with a growing distance.
    let events = watcher::watcher(pods, watcher::Config::default().labels(PLAYED));
    let mut events = std::pin::pin!(kube::runtime::WatchStreamExt::default_backoff(events).into_stream());
    let (mut cast, mut listed) = (Cast::default(), Some(listed));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod)) => cast.enter(&stage, pod),
            Ok(Event::Delete(pod)) => cast.leave(&pod),
            Ok(Event::Init) => cast.listed.clear(),
            Ok(Event::InitApply(pod)) => cast.enter(&stage, pod),
            Ok(Event::InitDone) => {
                let Cast { pods, listed: present } = &mut cast;
                pods.retain(|uid, _| present.contains(uid));
                // Nobody waits any more after the first time.
                let _ = listed.take().map(|listed| listed.send(()));
            }
            Err(error) => eprintln!("the played kubelet cannot watch pods: {error}"),
        }
    }
}

impl Cast {
    fn enter(&mut self, stage: &Arc<Stage>, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        self.listed.insert(uid.clone());
        let pod = Arc::new(pod);
        match self.pods.get(&uid) {
            Some(known) => drop(known.send_replace(pod)),
            None => {
                let (sender, receiver) = watch::channel(pod);
                self.pods.insert(uid, sender);
                tokio::spawn(pod::play(stage.clone(), receiver));
            }
        }
    }

    /// The pod's task ends when it sees that its sender is gone.
    fn leave(&mut self, pod: &Pod) {
        self.pods.remove(&pod.uid().unwrap_or_default());
    }
}
