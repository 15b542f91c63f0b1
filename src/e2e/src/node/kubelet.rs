//! How the kubelet of a node is set up.

use super::containerd::SOCKET;
use super::network::Network;
use super::sandbox::Sandbox;
use super::{Plane, needs};
use crate::access;
use anyhow::{Context, Result};
use serde_json::json;

/// Writes the kubelet's configuration, makes the cgroup below which it keeps its pods, and returns its arguments.
pub fn configure(plane: &Plane<'_>, network: &Network, sandbox: &Sandbox, number: u8, token: &str) -> Result<Vec<String>> {
    let name = super::name(number);
    let group = plane.folder.file_name().context("a folder has a name")?.to_string_lossy();
    let group = format!("/{group}/{name}");
    needs::make_cgroup(&group)?;
    let full =
        json!({"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"});
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": network.node(number), "healthzPort": 0, "readOnlyPort": 0,
        "authentication": {
            "x509": {"clientCAFile": plane.certificates.authority}, "anonymous": {"enabled": false}, "webhook": {"enabled": false},
        },
        // Only who has a certificate of the cluster's authority gets this far: the API server.
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": group, "failCgroupV1": false, "failSwapOn": false,
        "clusterDNS": [network.names()], "clusterDomain": "cluster.local", "resolvConf": "",
        // Images come from files: one that was removed would never come back.
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99, "evictionHard": full,
        "volumePluginDir": sandbox.folder().join("plugins"), "oomScoreAdj": 0, "maxPods": 70, "kubeAPIQPS": 100, "kubeAPIBurst": 200,
    });
    let (path, kubeconfig) = (sandbox.folder().join("kubelet.json"), sandbox.folder().join("kubeconfig"));
    std::fs::write(&path, config.to_string())?;
    std::fs::write(&kubeconfig, access::kubeconfig(plane.url, &plane.certificates.authority, token, None).to_string())?;
    let root = sandbox.folder().join("kubelet");
    Ok(vec![
        format!("--config={}", path.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-dir={}", root.display()),
        format!("--cert-dir={}", root.join("pki").display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", network.node(number)),
    ])
}
