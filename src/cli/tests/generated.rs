//! What is generated or shipped beside the program is up to date.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_reference_is_up_to_date() {
    let kept = std::fs::read_to_string(root().join("docs/cli.md")).expect("docs/cli.md");
    assert!(kept == backfill_cli::markdown(), "docs/cli.md is stale; run: make generate");
}

#[test]
fn the_program_depends_on_no_data_crate() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package", "backfill-cli", "--edges", "normal", "--prefix", "none", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(tree.stdout).expect("text");
    assert!(tree.contains("backfill-core"), "{tree}");
    for name in ["arrow", "datafusion", "deltalake", "parquet", "object_store"] {
        assert!(!tree.lines().any(|line| line.starts_with(name)), "{name} is among the dependencies");
    }
}

#[test]
fn every_shell_gets_a_completion() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = Command::new(env!("CARGO_BIN_EXE_kubectl-features")).args(["completion", shell]).output().expect("it runs");
        let script = String::from_utf8(script.stdout).expect("text");
        assert!(script.contains("execution-status") && script.contains("reset-backfill"), "{shell}: {script}");
    }
}
