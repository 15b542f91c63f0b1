//! The cluster with nodes itself: what its pods reach, and that nothing of it stays behind.

use crate::world::{alone, test};
use anyhow::{Context, Result, ensure};
use backfill_e2e::{eventually, until};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// What of a cluster could stay behind on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: Vec<String>,
    rules: String,
    groups: Vec<PathBuf>,
    processes: Vec<u32>,
}

impl Traces {
    /// Of the cluster in this folder.
    async fn of(folder: &Path) -> Result<Self> {
        let name = folder.file_name().context("a name")?.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let rules = Command::new("iptables-save").output().await?.stdout;
        let groups = Command::new("find").args(["/sys/fs/cgroup", "-name", &name]).output().await?.stdout;
        let ids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |id: &u32| {
            // The shims of containers name their socket only, their cgroup tells whose they are.
            let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let group = std::fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
            line.contains(&name) || group.contains(&name)
        };
        Ok(Self {
            mounts: mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect(),
            rules: String::from_utf8(rules)?.lines().filter(|line| !line.starts_with('#')).collect(),
            groups: String::from_utf8(groups)?.lines().map(PathBuf::from).collect(),
            processes: ids.filter(ours).collect(),
        })
    }
}

/// The end on this machine of the wire to a cluster's nodes, by the third number of the API server's address.
fn wire(folder: &Path) -> Result<PathBuf> {
    let kubeconfig = std::fs::read_to_string(folder.join("admin.kubeconfig"))?;
    let (_, behind) = kubeconfig.split_once("https://198.19.").context("the API server is on the wire")?;
    let number = behind.split('.').next().context("an address")?;
    Ok(format!("/sys/class/net/backfill-e2e{number}").into())
}

/// Starts a cluster in the background as `make cluster` does, and returns its folder.
async fn up(cache: &Path) -> Result<PathBuf> {
    let output = background(cache, "up").await?;
    let kubeconfig = output.strip_prefix("export KUBECONFIG=").with_context(|| format!("the first line, not {output}"))?;
    Ok(Path::new(kubeconfig.trim_end()).parent().context("in a folder")?.to_owned())
}

async fn background(cache: &Path, what: &str) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
    command.arg(what).stdin(Stdio::null()).stderr(Stdio::piped());
    // A cluster of its own beside one that a developer may have.
    command.env("BACKFILL_STATE", cache);
    let output = command.output().await?;
    ensure!(output.status.success(), "cluster {what}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_pod_finds_services_by_name_and_is_refused_unless_restricted() -> Result<()> {
    test(async |world| {
        let host = format!("redis.{}.svc.cluster.local", world.namespace.name());
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "asks", "image": "redis:test", "imagePullPolicy": "Never", "command": ["/redis-cli"],
                    "args": ["-h", host, "ping"],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        world.namespace.apply(&pod.to_string()).await?;
        let succeeded = |pod: Option<&Pod>| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).is_some_and(|phase| phase == "Succeeded")
        };
        until(&world.namespace.api::<Pod>(), "asks", succeeded).await?;
        assert_eq!(world.namespace.kubectl(&["logs", "asks"]).await?.ok()?, "PONG\n", "the API server reaches the kubelet");
        pod["metadata"]["name"] = json!("privileged");
        pod["spec"]["containers"][0]["securityContext"] = json!({"allowPrivilegeEscalation": true});
        let refused = world.namespace.kubectl_with(&["apply", "-f", "-"], &pod.to_string()).await?;
        assert!(!refused.success && refused.stderr.contains("violates PodSecurity"), "{refused:?}");
        Ok(())
    })
}

#[test]
fn a_cluster_in_the_background_ends_without_a_trace_when_told_and_when_killed() -> Result<()> {
    alone(async || {
        let cache = std::env::temp_dir().join(format!("backfill-cluster-test-{}", std::process::id()));
        std::fs::create_dir_all(&cache)?;
        for killed in [false, true] {
            let folder = up(&cache).await?;
            let (during, wire) = (Traces::of(&folder).await?, wire(&folder)?);
            assert!(wire.exists() && during.processes.len() > 8 && !during.groups.is_empty(), "{during:?}");
            assert_eq!(during.mounts, [""; 0], "mounts are seen by nodes alone");
            assert_eq!(up(&cache).await?, folder, "one that runs is not started again");
            if killed {
                let state: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(cache.join("cluster.json"))?)?;
                let process = state["process"].to_string();
                ensure!(Command::new("kill").args(["-9", &process]).status().await?.success());
            }
            background(&cache, "down").await?;
            eventually("all to be gone", async || {
                let after = Traces::of(&folder).await?;
                let gone = Traces { mounts: Vec::new(), groups: Vec::new(), processes: Vec::new(), rules: during.rules.clone() };
                Ok((after == gone && !folder.exists() && !wire.exists()).then_some(()))
            })
            .await?;
        }
        std::fs::remove_dir_all(cache)?;
        Ok(())
    })
}
