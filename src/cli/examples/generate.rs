//! Writes what is generated from the command line's definition: `docs/cli.md`, and man pages into a folder.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::args().nth(1) {
        None => std::fs::write(root.join("docs/cli.md"), backfill_cli::markdown()),
        Some(folder) => {
            std::fs::create_dir_all(&folder)?;
            clap_mangen::generate_to(backfill_cli::command(), folder)
        }
    }
}
