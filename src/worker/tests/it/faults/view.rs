//! What is seen of the stores from outside.

use crate::support::World;
use serde_json::Value;

/// Every commit of the table's log, by version.
pub fn log(world: &World) -> Vec<Vec<Value>> {
    let folder = world.table_path().join("_delta_log");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let line = |line: &str| serde_json::from_str(line).expect("an action");
    files.iter().map(|file| std::fs::read_to_string(file).expect("a commit").lines().map(line).collect()).collect()
}

/// The versions that carry the publish transaction of a run; of any run without a key.
pub fn publishes(world: &World, key: Option<&str>) -> Vec<usize> {
    let app = |action: &Value| action["txn"]["appId"].as_str().map(str::to_owned);
    let wanted = |app: String| match key {
        Some(key) => app == format!("fsb/{key}"),
        None => app.starts_with("fsb/"),
    };
    let commits = log(world).into_iter().enumerate();
    commits.filter(|(_, actions)| actions.iter().filter_map(app).any(wanted)).map(|(version, _)| version).collect()
}

impl World {
    /// What Feast's clients see of the online store, byte for byte: everything but our own bookkeeping.
    pub fn served(&self) -> Vec<String> {
        let marker = "[5f, 66, 73, 62, 3a";
        let bookkeeping = |line: &String| line.starts_with("fsb_") || line.contains(marker);
        self.online_bytes().into_iter().filter(|line| !bookkeeping(line)).collect()
    }

    /// Files on disk that belong to attempts of runs.
    pub fn staged_files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.table_path()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.starts_with("fsb-") {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }
}
