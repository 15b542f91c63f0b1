//! The container runtime of a node, with files of its own.

use super::images::Image;
use super::network::{BRIDGE, Network};
use super::sandbox::Sandbox;
use super::{images, needs};
use crate::process::Process;
use crate::wait;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// Where it listens, within its node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// The namespace of images that the kubelet sees.
const NAMESPACE: &str = "k8s.io";

/// A running containerd. What it started outlives it, and ends with its sandbox.
pub struct Containerd {
    process: Process,
    enter: Vec<String>,
}

impl Containerd {
    /// Starts it; it answers when this returns.
    pub async fn start(sandbox: &Sandbox, network: &Network, node: u8) -> Result<Self> {
        let plugins = needs::network_plugins().context("the CNI plugins are missing")?;
        let cni = sandbox.folder().join("cni");
        std::fs::create_dir(&cni)?;
        std::fs::write(cni.join("10-pods.conflist"), network_list(sandbox.folder(), network, node).to_string())?;
        let config = sandbox.folder().join("containerd.toml");
        std::fs::write(&config, settings(sandbox.folder(), &cni, plugins))?;
        let arguments = ["--config".to_owned(), config.display().to_string()];
        let process = sandbox.start_program(Path::new("containerd"), &arguments)?;
        let mut containerd = Self { process, enter: sandbox.enter() };
        wait::eventually("containerd to answer", async || {
            containerd.check()?;
            Ok(containerd.client(&["version"]).await.ok())
        })
        .await?;
        Ok(containerd)
    }

    /// Fails when it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Makes an image known.
    pub async fn import(&self, image: &Image) -> Result<()> {
        let archive = image.archive.display().to_string();
        self.client(&["--namespace", NAMESPACE, "image", "import", &archive]).await.map(drop)
    }

    /// Makes an image unknown, if it is known.
    pub async fn forget(&self, image: &Image) -> Result<()> {
        // What an archive calls `a:b` is known by its whole name.
        let name = format!("docker.io/library/{}", image.name);
        self.client(&["--namespace", NAMESPACE, "image", "rm", "--sync", &name]).await.map(drop)
    }

    async fn client(&self, arguments: &[&str]) -> Result<String> {
        let ctr = ["ctr", "--address", SOCKET];
        let command: Vec<&str> = self.enter.iter().map(String::as_str).chain(ctr).chain(arguments.iter().copied()).collect();
        super::sandbox::run(&command).await
    }
}

fn settings(folder: &Path, cni: &Path, plugins: &Path) -> String {
    let (folder, cni, plugins, pause) = (folder.display(), cni.display(), plugins.display(), images::PAUSE);
    let snapshots = if needs::layers_stack(Path::new(&folder.to_string())) { "overlayfs" } else { "native" };
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
# It would make a folder outside.
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE nothing may become less killable than its parent.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshots}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// How pods are plugged to the bridge, which is there already.
fn network_list(folder: &Path, network: &Network, node: u8) -> serde_json::Value {
    let (first, last) = network.pods_of(node);
    let range = json!({"subnet": network.pods(), "rangeStart": first, "rangeEnd": last, "gateway": network.node(0)});
    let addresses = json!({
        "type": "host-local", "dataDir": folder.join("addresses"), "ranges": [[range]], "routes": [{"dst": "0.0.0.0/0"}],
    });
    // A pod may reach itself by way of a Service.
    let bridge = json!({"type": "bridge", "bridge": BRIDGE, "hairpinMode": true, "ipam": addresses});
    json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})
}
