//! The network of one cluster: a namespace with a bridge, to which all nodes and pods belong, and a wire to this machine.
//!
//! Addresses are from 198.18.0.0/15, which is set aside for tests of networks and therefore nobody's.

use super::sandbox::run;
use crate::process::Process;
use crate::{tools, wait};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The bridge to which pods are plugged.
pub const BRIDGE: &str = "pods";

/// How many clusters may live on a machine at the same time.
const CLUSTERS_MAX: u8 = 250;

/// A network namespace. It vanishes with its bridge, rules and wire when the last process in it has ended.
pub struct Network {
    holder: Process,
    number: u8,
}

impl Network {
    /// Makes the first network whose number is free on this machine.
    pub async fn start(folder: &Path) -> Result<Self> {
        let command = ["unshare", "--net", "--"].map(str::to_owned);
        let pause = tools::path("pause")?.display().to_string();
        let mut holder = Process::start_as("network", &[&command[..], &[pause]].concat(), &[], folder)?;
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", holder.id());
        wait::eventually("the network's namespace", async || {
            holder.check()?;
            // While the program is being started its links cannot be read.
            Ok(std::fs::read_link(&theirs).ok().filter(|link| *link != own))
        })
        .await?;
        let number = wire(holder.id()).await?;
        let network = Self { holder, number };
        network.connect().await.context("cannot set the cluster's network up")?;
        Ok(network)
    }

    /// The namespace, as a file.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// This machine's address on the wire, where the API server listens.
    pub fn machine(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.number, 129)
    }

    /// The other end of the wire.
    fn gate(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.number, 130)
    }

    /// The address of a node, counted from 0. That of the first is the pods' gateway.
    pub fn node(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1 + number)
    }

    /// Where names of Services are resolved.
    pub fn names(&self) -> Ipv4Addr {
        self.node(0)
    }

    /// The addresses of all nodes and pods.
    pub fn pods(&self) -> String {
        format!("198.18.{}.0/24", self.number)
    }

    /// The first and the last address of a node's pods; there is room for three nodes.
    pub fn pods_of(&self, number: u8) -> (Ipv4Addr, Ipv4Addr) {
        let address = |last| Ipv4Addr::new(198, 18, self.number, last);
        (address(16 + 78 * number), address(16 + 78 * number + 77))
    }

    /// The addresses of Services.
    pub fn services(&self) -> String {
        format!("198.19.{}.0/25", self.number)
    }

    /// The address of the Service `kubernetes`.
    pub fn kubernetes(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.number, 1)
    }

    async fn connect(&self) -> Result<()> {
        let (wire, machine, gate) = (wire_name(self.number), self.machine(), self.gate());
        run(&["ip", "address", "add", &format!("{machine}/30"), "dev", &wire]).await?;
        run(&["ip", "link", "set", &wire, "up"]).await?;
        let inside = format!(
            "ip link set lo up; ip address add {gate}/30 dev wire; ip link set wire up; ip link add {BRIDGE} type bridge; \
             for node in {} {} {}; do ip address add $node/24 dev {BRIDGE}; done; ip link set {BRIDGE} up; \
             echo 1 > /proc/sys/net/ipv4/ip_forward; \
             if [ -e /proc/sys/net/bridge ]; then echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; fi",
            self.node(0),
            self.node(1),
            self.node(2),
        );
        let namespace = format!("--net={}", self.namespace().display());
        run(&["nsenter", &namespace, "--", "sh", "-e", "-c", &inside]).await?;
        for there in [self.pods(), self.services()] {
            run(&["ip", "route", "add", &there, "via", &gate.to_string(), "dev", &wire]).await?;
        }
        Ok(())
    }
}

fn wire_name(number: u8) -> String {
    format!("backfill-e2e{number}")
}

/// Lays the wire into the namespace of a process. Its name is the reservation of the number.
async fn wire(holder: u32) -> Result<u8> {
    for number in 0..CLUSTERS_MAX {
        let (name, holder) = (wire_name(number), holder.to_string());
        let laid = run(&["ip", "link", "add", &name, "type", "veth", "peer", "name", "wire", "netns", &holder]).await;
        match laid {
            Ok(_) => return Ok(number),
            Err(error) if error.to_string().contains("File exists") => {}
            Err(error) => return Err(error),
        }
    }
    bail!("{CLUSTERS_MAX} test clusters run on this machine; end some: make cluster-down")
}
