//! The commands of documents, as they stand there: what a page tells its reader to type is run by a test.

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The commands that call the plugin in the fenced blocks of a document, which is named from the root of the repository.
pub fn commands(document: &str) -> Result<Vec<String>> {
    let mut found = lines(document)?;
    found.retain(|line| line.starts_with("kubectl features "));
    ensure!(found.len() >= 5, "{document} calls the plugin: {found:?}");
    Ok(found)
}

/// The lines of the fenced blocks of a document, without comments; what is continued is one line.
pub fn lines(document: &str) -> Result<Vec<String>> {
    let path = Path::new(crate::helm::ROOT).join(document);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let joined = text.replace("\\\n", " ");
    let mut inside = false;
    let mut found = Vec::new();
    for line in joined.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside {
            found.push(line.split(" # ").next().unwrap_or_default().trim_end().to_owned());
        }
    }
    Ok(found)
}

/// A `PATH` on which kubectl finds the plugin, as after the document's installation.
pub fn path(plugin: &Path) -> Result<OsString> {
    let folder = |program: &Path| program.parent().map(PathBuf::from).with_context(|| format!("{program:?} lies in a folder"));
    let folders = [folder(plugin)?, folder(&crate::tools::path("kubectl")?)?];
    let before = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&before)))?)
}
