//! A part of this machine with mounts and processes of its own, which end as one.

use super::network::Network;
use crate::process::Process;
use crate::{tools, wait};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Makes `/run` and `/var` private, and shows the kubelet the kernel settings that it would otherwise change for the whole machine.
const SETUP: &str = r#"
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p "$1/private"
mount -t tmpfs tmpfs "$1/private"
mkdir "$1/private/var" "$1/private/work"
mount -t overlay overlay -o "lowerdir=/var,upperdir=$1/private/var,workdir=$1/private/work" /var
show() {
    echo "$2" > "$3/private/$(basename "$1")"
    mount --bind "$3/private/$(basename "$1")" "/proc/sys/$1"
}
show vm/overcommit_memory 1 "$1"
show vm/panic_on_oom 0 "$1"
show kernel/panic 10 "$1"
show kernel/panic_on_oops 1 "$1"
show kernel/keys/root_maxkeys 1000000 "$1"
show kernel/keys/root_maxbytes 25000000 "$1"
: > "$1/private/ready"
: > "$1/ready"
exec "$2"
"#;

/// Namespaces of mounts and processes, within a network. When it is dropped, or this process ends in any other way, the kernel ends
/// all processes in it at once, and the mounts vanish with the last.
pub struct Sandbox {
    init: Process,
    network: PathBuf,
    folder: PathBuf,
    name: String,
}

impl Sandbox {
    /// Makes one with a folder of its own below `parent`.
    pub async fn start(parent: &Path, name: &str, network: &Network) -> Result<Self> {
        let folder = parent.join(name);
        std::fs::create_dir(&folder)?;
        let network = network.namespace();
        let net = format!("--net={}", network.display());
        let init = ["nsenter", &net, "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
        let setup =
            ["sh", "-e", "-c", SETUP, "sandbox", &folder.display().to_string(), &tools::path("pause")?.display().to_string()]
                .map(str::to_owned);
        let command = [&init.map(str::to_owned)[..], &setup].concat();
        let mut init = Process::start_as(&format!("{name}-init"), &command, &[], parent)?;
        wait::eventually("a node's namespaces", async || {
            init.check()?;
            Ok(folder.join("ready").exists().then_some(()))
        })
        .await?;
        Ok(Self { init, network, folder, name: name.to_owned() })
    }

    /// Where its files are kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program in it.
    pub fn start_program(&self, program: &Path, arguments: &[String]) -> Result<Process> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        // The one that enters is only a parent of the program: what kills it must kill the program too.
        let die = ["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned);
        let command = [&self.enter()[..], &die, &[program.display().to_string()], arguments].concat();
        let parent = self.folder.parent().context("a sandbox lies in a folder")?;
        Process::start_as(&format!("{}-{name}", self.name), &command, &[], parent)
    }

    /// Runs a command in it, and returns what it prints.
    pub async fn run(&self, command: &[&str]) -> Result<String> {
        let entered = self.enter();
        run(&entered.iter().map(String::as_str).chain(command.iter().copied()).collect::<Vec<_>>()).await
    }

    /// The beginning of a command that runs in it.
    pub fn enter(&self) -> Vec<String> {
        // The init's parent has the mounts and the network, and is the one who knows where its child's processes live.
        let of = |kind: &str| format!("/proc/{}/ns/{kind}", self.init.id());
        vec![
            "nsenter".to_owned(),
            format!("--net={}", self.network.display()),
            format!("--mount={}", of("mnt")),
            format!("--pid={}", of("pid_for_children")),
            "--".to_owned(),
        ]
    }
}

/// Runs a command and returns what it prints; fails with what it says about an error.
pub async fn run(command: &[&str]) -> Result<String> {
    let mut started = Command::new(command[0]);
    let output = started.args(&command[1..]).kill_on_drop(true).output().await.with_context(|| command[0].to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", command.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
