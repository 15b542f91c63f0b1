//! Writes the CustomResourceDefinitions into `crds/`, or into the folder that is given.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder =
        std::env::args_os().nth(1).map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    for (name, yaml) in backfill_core::api::manifests()? {
        std::fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
