//! The status of a pod in the words of a kubelet.

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
    /// Whether the node, not the container, is to blame.
    pub evicted: bool,
}

impl End {
    /// An exit by itself.
    pub fn exit(code: i32, message: String) -> Self {
        Self { code, reason: if code == 0 { "Completed" } else { "Error" }, message, evicted: false }
    }

    /// Killed for its memory.
    pub fn out_of_memory() -> Self {
        Self { reason: "OOMKilled", ..Self::exit(137, String::new()) }
    }

    /// Deleted before it started: the kubelet makes no difference to one that it has lost.
    pub fn never_started() -> Self {
        let message = "The container could not be located when the pod was terminated";
        Self { reason: "ContainerStatusUnknown", ..Self::exit(137, message.to_owned()) }
    }

    /// Removed by the node.
    pub fn evicted() -> Self {
        Self { evicted: true, ..Self::exit(137, String::new()) }
    }
}

/// Not bound: the scheduler has found no node.
pub fn unschedulable(message: &str, since: DateTime<Utc>) -> Value {
    let mut unplaced = condition("PodScheduled", false, Some(("Unschedulable", message)));
    unplaced["lastTransitionTime"] = json!(show(since));
    json!({"phase": "Pending", "conditions": [unplaced]})
}

/// Bound; the containers do not start.
pub fn waiting(pod: &Pod, reason: &str, message: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    let unready = Some(("ContainersNotReady", "containers with unready status"));
    json!({
        "phase": "Pending", "startTime": show(Utc::now()),
        "conditions": [condition("PodScheduled", true, None), condition("Initialized", true, None), condition("Ready", false, unready)],
        "containerStatuses": containers(pod, &state, false),
    })
}

/// The containers run.
pub fn running(pod: &Pod, since: DateTime<Utc>) -> Value {
    let state = json!({"running": {"startedAt": show(since)}});
    json!({
        "phase": "Running", "startTime": show(since), "hostIP": "192.0.2.1", "podIP": "192.0.2.2", "podIPs": [{"ip": "192.0.2.2"}],
        "conditions": [condition("PodScheduled", true, None), condition("Initialized", true, None), condition("Ready", true, None)],
        "containerStatuses": made(containers(pod, &state, true)),
    })
}

/// The containers have ended, and with them the pod. `since` is when they started, if they did.
pub fn ended(pod: &Pod, since: Option<DateTime<Utc>>, end: &End) -> Value {
    let mut ended = json!({"exitCode": end.code, "reason": end.reason, "message": end.message});
    if let Some(since) = since {
        (ended["startedAt"], ended["finishedAt"]) = (json!(show(since)), json!(show(Utc::now())));
    }
    let state = json!({"terminated": ended});
    let containers = containers(pod, &state, false);
    let containers = if since.is_some() { made(containers) } else { containers };
    let unready = if end.code == 0 { ("PodCompleted", "") } else { ("PodFailed", "") };
    let mut conditions = vec![condition("PodScheduled", true, None), condition("Ready", false, Some(unready))];
    let mut status = json!({
        "phase": if end.code == 0 { "Succeeded" } else { "Failed" }, "startTime": show(since.unwrap_or_else(Utc::now)),
        "containerStatuses": containers,
    });
    if end.evicted {
        let message = "The node was low on resource: memory.";
        (status["reason"], status["message"]) = (json!("Evicted"), json!(message));
        conditions.push(condition("DisruptionTarget", true, Some(("TerminationByKubelet", message))));
    }
    status["conditions"] = json!(conditions);
    status
}

fn condition(kind: &str, holds: bool, why: Option<(&str, &str)>) -> Value {
    let (reason, message) = why.unwrap_or_default();
    let status = if holds { "True" } else { "False" };
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": show(Utc::now())})
}

fn containers(pod: &Pod, state: &Value, ready: bool) -> Vec<Value> {
    let status = |name: &str, image: Option<&str>| {
        json!({
            "name": name, "image": image.unwrap_or_default(), "imageID": "", "state": state, "ready": ready, "started": ready,
            "restartCount": 0,
        })
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.map(|container| status(&container.name, container.image.as_deref())).collect()
}

/// Containers that the runtime has made have an id, which is never taken back.
fn made(mut containers: Vec<Value>) -> Vec<Value> {
    for (number, container) in containers.iter_mut().enumerate() {
        container["containerID"] = json!(format!("played://{number}"));
    }
    containers
}

fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
