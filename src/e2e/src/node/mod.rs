//! Nodes that run real pods: containerd, kubelet, kube-proxy and CoreDNS, as processes of the test process.
//!
//! All of it lives in namespaces of its own (network, mounts, processes), which the kernel ends together with this process, however
//! it ends. So bridges, rules, mounts and pods cannot stay behind, and the machine's own network is never touched but by one pair of
//! virtual interfaces. Knows nothing of backfills.

mod containerd;
mod images;
mod kubelet;
mod needs;
mod network;
mod sandbox;
mod services;

pub use images::{Image, image, image_with};
pub use needs::missing;
pub use network::Network;

use crate::certificates::Certificates;
use crate::process::Process;
use crate::{tools, wait};
use anyhow::{Context, Result};
use containerd::Containerd;
use kube::{Api, Client};
use sandbox::Sandbox;
use std::path::Path;
use tokio::sync::Mutex;

/// What nodes have to know of their control plane.
pub struct Plane<'a> {
    /// Where files are kept; its name is that of the nodes' cgroup, too.
    pub folder: &'a Path,
    /// The authority that signs the API server's client certificate.
    pub certificates: &'a Certificates,
    /// The admin's kubeconfig.
    pub kubeconfig: &'a Path,
    /// The API server.
    pub url: &'a str,
    /// The admin's client.
    pub client: &'a Client,
}

/// The nodes of a cluster, and what they share. They end with all of their pods on drop.
pub struct Nodes {
    // Dropped in this order: a kubelet must not see its containers vanish.
    nodes: Vec<Mutex<Node>>,
    /// Addresses and names of Services, and the scheduler.
    _services: [Process; 3],
    network: Network,
}

impl Nodes {
    /// Starts as many nodes as there are tokens for their kubelets. They are ready for pods when this returns.
    pub async fn start(plane: &Plane<'_>, network: Network, tokens: &[String]) -> Result<Self> {
        let mut nodes = Vec::new();
        for (number, token) in (0..).zip(tokens) {
            nodes.push(Node::start(plane, &network, number, token).await?);
        }
        let first = nodes.first().context("a cluster with nodes has a first one")?;
        let mut services = [
            services::proxy(plane, &network, &first.sandbox)?,
            services::names(plane, &network, &first.sandbox)?,
            services::scheduler(plane)?,
        ];
        let known: Api<k8s_openapi::api::core::v1::Node> = Api::all(plane.client.clone());
        for node in &mut nodes {
            wait::eventually(&format!("{} to be ready", node.name), async || {
                node.containerd.check().and(node.kubelet.check())?;
                services.iter_mut().try_for_each(Process::check)?;
                let found = known.get_opt(&node.name).await?;
                Ok(found.is_some_and(|found| takes_pods(&found)).then_some(()))
            })
            .await?;
        }
        Ok(Self { nodes: nodes.into_iter().map(Mutex::new).collect(), _services: services, network })
    }

    /// The addresses of pods and nodes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The name of a node, counted from 0.
    pub fn name(&self, number: u8) -> String {
        name(number)
    }

    /// The number of the node with this name.
    pub fn number(&self, name: &str) -> Result<u8> {
        (0..).zip(&self.nodes).map(|(number, _)| number).find(|number| self.name(*number) == name).context("no such node")
    }

    /// Makes an image known to all nodes.
    pub async fn import(&self, image: &Image) -> Result<()> {
        for node in &self.nodes {
            node.lock().await.containerd.import(image).await?;
        }
        Ok(())
    }

    /// Makes an image unknown to all nodes.
    pub async fn forget(&self, image: &Image) -> Result<()> {
        for node in &self.nodes {
            node.lock().await.containerd.forget(image).await?;
        }
        Ok(())
    }

    /// Ends a node's kubelet as the kernel ends a program that misbehaves, and starts it again. Pods live on.
    pub async fn restart_kubelet(&self, number: u8) -> Result<()> {
        let node = self.nodes.get(usize::from(number)).context("no such node")?;
        node.lock().await.restart_kubelet()
    }

    /// Runs a command on a node, with its mounts and processes.
    pub async fn run(&self, number: u8, command: &[&str]) -> Result<String> {
        let node = self.nodes.get(usize::from(number)).context("no such node")?;
        node.lock().await.sandbox.run(command).await
    }
}

/// A node by its programs.
struct Node {
    kubelet: Process,
    containerd: Containerd,
    sandbox: Sandbox,
    name: String,
    arguments: Vec<String>,
}

impl Node {
    async fn start(plane: &Plane<'_>, network: &Network, number: u8, token: &str) -> Result<Self> {
        let name = name(number);
        let sandbox = Sandbox::start(plane.folder, &name, network).await?;
        let containerd = Containerd::start(&sandbox, network, number).await?;
        containerd.import(&images::pause().await?).await?;
        let arguments = kubelet::configure(plane, network, &sandbox, number, token)?;
        let kubelet = sandbox.start_program(&tools::path("kubelet")?, &arguments)?;
        Ok(Self { kubelet, containerd, sandbox, name, arguments })
    }

    fn restart_kubelet(&mut self) -> Result<()> {
        self.kubelet.kill();
        self.kubelet = self.sandbox.start_program(&tools::path("kubelet")?, &self.arguments)?;
        Ok(())
    }
}

/// The name of a node, counted from 0.
pub fn name(number: u8) -> String {
    format!("node-{}", number + 1)
}

/// Whether a node is ready and says so to the scheduler.
fn takes_pods(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status == "True");
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    ready && taints.count() == 0
}
