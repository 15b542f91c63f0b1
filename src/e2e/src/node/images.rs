//! Images of programs on this machine, packed as users' images are; no registry is asked.

use crate::{programs, tools};
use anyhow::{Context, Result, ensure};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::process::Command;
use tokio::sync::Mutex;

/// The image that holds the namespaces of pods.
pub const PAUSE: &str = "pause:test";

/// An image in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What pods call it.
    pub name: String,
    /// The file.
    pub archive: PathBuf,
}

/// The image of programs, called `<name>:test`, from a Containerfile; its path begins at the root of the repository.
///
/// It is kept until one of its parts changes.
pub async fn image(name: &str, containerfile: &str, programs: &[PathBuf]) -> Result<Image> {
    image_with(name, containerfile, programs, &[]).await
}

/// The same, of which files of the repository are parts that the Containerfile's own script gathers.
pub async fn image_with(name: &str, containerfile: &str, programs: &[PathBuf], gathered: &[&str]) -> Result<Image> {
    // One at a time: each takes all of a processor.
    static BUILDING: Mutex<()> = Mutex::const_new(());
    let _turn = BUILDING.lock().await;
    let repository = Path::new(crate::helm::ROOT);
    let (script, containerfile) = (repository.join("deploy/images/build"), repository.join(containerfile));
    let gathered: Vec<PathBuf> = gathered.iter().map(|path| repository.join(path)).collect();
    let parts = [&[script.clone(), containerfile.clone()][..], programs, &gathered].concat();
    let folder = programs::cache()?.join("images");
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{name}-{:016x}.tar", fingerprint(&parts)?));
    let image = Image { name: format!("{name}:test"), archive };
    if image.archive.exists() {
        return Ok(image);
    }
    // Nobody needs those of earlier parts.
    for entry in std::fs::read_dir(&folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let unfinished = folder.join(format!(".{name}-{}", std::process::id()));
    let mut command = Command::new(&script);
    command.arg(&containerfile).arg(&image.name).arg(format!("docker-archive:{}", unfinished.display())).args(programs);
    let output = command.kill_on_drop(true).output().await.with_context(|| script.display().to_string())?;
    ensure!(output.status.success(), "cannot make the image {name}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &image.archive)?;
    Ok(image)
}

/// The image that holds the namespaces of pods.
pub async fn pause() -> Result<Image> {
    image("pause", "src/e2e/images/pause/Containerfile", &[tools::path("pause")?]).await
}

/// Changes when a file does.
fn fingerprint(files: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let metadata = std::fs::metadata(file).with_context(|| file.display().to_string())?;
        let changed = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH)?;
        (file, metadata.len(), changed).hash(&mut hasher);
    }
    Ok(hasher.finish())
}
