//! Finds the programs of the control plane; builds those that are missing.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of this name in the environment holds programs that are used instead of built ones: the ecosystem's convention.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The path of a program of the control plane.
pub fn path(name: &str) -> Result<PathBuf> {
    match std::env::var_os(ASSETS).map(|folder| Path::new(&folder).join(name)) {
        Some(given) if given.exists() => Ok(given),
        _ => Ok(built()?.join(name)),
    }
}

/// The folder of the built programs. The first call of a process builds what is missing, which takes minutes on a fresh machine.
fn built() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = BUILT.get() {
        return Ok(folder);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/build");
    let output = Command::new(script).stderr(std::process::Stdio::inherit()).output().with_context(|| script.to_owned())?;
    ensure!(output.status.success(), "{script} failed");
    let folder = String::from_utf8(output.stdout)?;
    Ok(BUILT.get_or_init(|| PathBuf::from(folder.trim_end())))
}
