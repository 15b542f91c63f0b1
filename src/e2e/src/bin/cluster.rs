//! A cluster with nodes that runs real pods, in the background: `up` starts it and returns, `down` ends it without a trace.
//!
//! What runs is one process, `serve`, to which the kernel ties all others. It is known by its id and the time at which it started, so
//! that `down` never ends a stranger that was given the same id.

use anyhow::{Context, Result, bail, ensure};
use backfill_e2e::{Cluster, Options, programs};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a cluster may take to start, with images that have to be made.
const START: Duration = Duration::from_secs(300);

/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(20);

/// How often a fact is looked up that cannot be watched.
const PACE: Duration = Duration::from_millis(100);

/// The running cluster.
#[derive(Serialize, Deserialize)]
struct State {
    process: u32,
    /// When it started, in ticks since the machine did.
    started: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["up"] => up("1"),
        ["up", nodes] => up(nodes),
        ["serve", nodes] => serve(nodes.parse().context("a number of nodes")?),
        ["down"] => down(),
        _ => bail!("usage: cluster up [NODES] | cluster down"),
    }
}

/// What is remembered of the cluster lies in the folder `BACKFILL_STATE`: there is one cluster per folder.
fn file(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("BACKFILL_STATE") {
        Some(folder) => folder.into(),
        None => programs::cache()?,
    };
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// The cluster that runs, if one does.
fn running() -> Result<Option<State>> {
    let Ok(json) = std::fs::read_to_string(file("cluster.json")?) else { return Ok(None) };
    let state: State = serde_json::from_str(&json)?;
    Ok((started(state.process).as_ref() == Some(&state.started)).then_some(state))
}

/// When a process started; `None` when there is none.
fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the 22nd field is the 20th behind it. Z: it has ended.
    let (_, behind) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = behind.split(' ').collect();
    (fields.first() != Some(&"Z")).then(|| fields.get(19).map(|field| (*field).to_owned()))?
}

fn up(nodes: &str) -> Result<()> {
    if let Some(missing) = backfill_e2e::node::missing() {
        bail!("a cluster with nodes cannot run here: {missing}");
    }
    if running()?.is_none() {
        let begun = Instant::now();
        let (log, state) = (file("cluster.log")?, file("cluster.json")?);
        // Left by one that was killed.
        let _ = std::fs::remove_file(&state);
        let output = File::create(&log)?;
        let mut command = Command::new("setsid");
        command.arg(std::env::current_exe()?).args(["serve", nodes]);
        let mut serving = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let ready = wait(START, || Ok(state.exists() || serving.try_wait()?.is_some()))?;
        if !ready || !state.exists() {
            // It may have ended by itself.
            let _ = serving.kill();
            bail!("the cluster did not start:\n{}", std::fs::read_to_string(&log)?);
        }
        eprintln!("ready after {:.0} s; make cluster-down ends it", begun.elapsed().as_secs_f64());
    }
    let state = running()?.context("the cluster ended at once")?;
    println!("export KUBECONFIG={}", state.kubeconfig.display());
    Ok(())
}

fn down() -> Result<()> {
    let (path, Some(state)) = (file("cluster.json")?, running()?) else {
        eprintln!("no cluster is running");
        return Ok(());
    };
    let gone = || Ok(started(state.process).as_ref() != Some(&state.started));
    for end in ["-TERM", "-KILL"] {
        if gone()? {
            break;
        }
        // An error says that it has ended since.
        let _ = Command::new("kill").args([end, &state.process.to_string()]).status();
        wait(END, gone)?;
    }
    ensure!(gone()?, "process {} does not end", state.process);
    // Its sweeper outlives a cluster that was killed.
    let swept = wait(END, || Ok(!state.folder.exists()))?;
    ensure!(swept, "{} is not removed", state.folder.display());
    // It removes the file itself when it ends by itself.
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn wait(limit: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    while !is()? {
        if begun.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(PACE);
    }
    Ok(true)
}

#[tokio::main]
async fn serve(nodes: u8) -> Result<()> {
    let cluster = Cluster::start_with(&Options { nodes, ..Options::default() }).await?;
    for image in programs::images().await? {
        cluster.nodes()?.import(&image).await?;
    }
    let process = std::process::id();
    let state = State {
        process,
        started: started(process).context("this process has started")?,
        kubeconfig: cluster.kubeconfig().to_owned(),
        folder: cluster.folder().to_owned(),
    };
    let path = file("cluster.json")?;
    write(&path, &serde_json::to_string(&state)?)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    drop(cluster);
    std::fs::remove_file(path)?;
    Ok(())
}

/// Whoever sees the file sees all of it.
fn write(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text)?;
    Ok(std::fs::rename(unfinished, path)?)
}
