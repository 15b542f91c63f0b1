//! What a cluster has once: kube-proxy, CoreDNS and the scheduler.

use super::Plane;
use super::network::Network;
use super::sandbox::Sandbox;
use crate::process::Process;
use crate::tools;
use anyhow::Result;
use serde_json::json;

/// Starts kube-proxy, whose rules serve all pods: their nodes share a network namespace.
pub fn proxy(plane: &Plane<'_>, network: &Network, sandbox: &Sandbox) -> Result<Process> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clientConnection": {"kubeconfig": plane.kubeconfig}, "clusterCIDR": network.pods(),
        "hostnameOverride": super::name(0), "nodeIPOverride": [network.node(0)], "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        // These are settings of the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"localhostNodePorts": false, "minSyncPeriod": "100ms"},
    });
    let path = sandbox.folder().join("proxy.json");
    std::fs::write(&path, config.to_string())?;
    sandbox.start_program(&tools::path("kube-proxy")?, &[format!("--config={}", path.display())])
}

/// Starts CoreDNS. It knows the names of this cluster, and no others: pods reach nothing else.
pub fn names(plane: &Plane<'_>, network: &Network, sandbox: &Sandbox) -> Result<Process> {
    let (address, kubeconfig) = (network.names(), plane.kubeconfig.display());
    let corefile = format!(
        ".:53 {{\n  bind {address}\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {kubeconfig}\n    ttl 5\n  }}\n}}\n"
    );
    let path = sandbox.folder().join("Corefile");
    std::fs::write(&path, corefile)?;
    sandbox.start_program(&tools::path("coredns")?, &["-conf".to_owned(), path.display().to_string()])
}

/// Starts the scheduler.
pub fn scheduler(plane: &Plane<'_>) -> Result<Process> {
    let arguments = [
        format!("--kubeconfig={}", plane.kubeconfig.display()),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    Process::start(&tools::path("kube-scheduler")?, &arguments, plane.folder)
}
