//! What a machine must have for nodes, and what to say where it is missing.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const CGROUPS: &str = "/sys/fs/cgroup";

/// The programs, and Debian's packages of them.
const PROGRAMS: [(&str, &str); 10] = [
    ("buildah", "buildah"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("strip", "binutils"),
    ("unshare", "util-linux"),
];

/// Why this machine cannot have nodes; `None` when it can.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(look).as_deref()
}

fn look() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("nodes need Linux".to_owned());
    }
    if !is_root() {
        return Some("nodes need root: network, mounts and cgroups are made for them".to_owned());
    }
    let absent = PROGRAMS.iter().find(|(program, _)| !in_path(program));
    if let Some((program, package)) = absent {
        return Some(format!("{program} is missing: apt-get install {package}"));
    }
    if network_plugins().is_none() {
        return Some("the CNI plugins are missing: apt-get install containernetworking-plugins".to_owned());
    }
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "iptables", "--table", "nat", "--list-rules"];
    if !succeeds(Command::new("unshare").args(namespaces)) {
        return Some(
            "namespaces or iptables are not allowed here: unshare --net --mount --pid --fork iptables -t nat -S".to_owned(),
        );
    }
    let probe = format!("/backfill-e2e-probe-{}", std::process::id());
    let made = make_cgroup(&probe);
    let removed = cgroups_of(&probe).into_iter().filter(|group| group.exists()).try_for_each(std::fs::remove_dir);
    made.and(removed.map_err(Into::into)).err().map(|error| format!("cgroups cannot be made here: {error:#}"))
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Where the CNI plugins are: Debian's folder, or everybody else's.
pub fn network_plugins() -> Option<&'static Path> {
    ["/usr/lib/cni", "/opt/cni/bin"].map(Path::new).into_iter().find(|folder| folder.join("bridge").exists())
}

/// Whether layers of images can be stacked in a folder: not where it is itself on stacked layers.
pub fn layers_stack(folder: &Path) -> bool {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder).output();
    output.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("overlay"))
}

/// Makes a cgroup in every hierarchy, with all controllers; version 1 or 2.
pub fn make_cgroup(group: &str) -> Result<()> {
    for folder in cgroups_of(group) {
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut parents: Vec<&Path> = folder.ancestors().take_while(|parent| *parent != Path::new(CGROUPS)).collect();
        parents.reverse();
        for parent in parents {
            hand_down(parent).with_context(|| parent.display().to_string())?;
        }
    }
    Ok(())
}

/// The folders of a cgroup.
fn cgroups_of(group: &str) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    let relative = group.trim_start_matches('/');
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(relative)];
    }
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    // The second version beside the first has no controllers: nobody looks there.
    let used = hierarchies.filter(|entry| entry.file_name() != "unified" && entry.path().join("cgroup.procs").exists());
    used.map(|entry| entry.path().join(relative)).collect()
}

/// Gives a cgroup what its parent has: a new one begins without processors in version 1, without controllers in version 2.
fn hand_down(group: &Path) -> Result<()> {
    let parent = group.parent().context("a cgroup has a parent")?;
    for setting in ["cpuset.cpus", "cpuset.mems"] {
        if group.join("tasks").exists() && group.join(setting).exists() && parent.join(setting).exists() {
            std::fs::write(group.join(setting), std::fs::read(parent.join(setting))?)?;
        }
    }
    let controllers = parent.join("cgroup.subtree_control");
    if controllers.exists() && parent.join("cgroup.controllers").exists() {
        for controller in ["cpuset", "cpu", "memory", "pids"] {
            // The kubelet names those that it misses.
            let _ = std::fs::write(&controllers, format!("+{controller}"));
        }
    }
    Ok(())
}
