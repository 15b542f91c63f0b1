//! What a release gives to krew: archives of the plugin, and the manifest that names them.

use crate::world::PROGRAM;
use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::ROOT;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that vanishes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("backfill-krew-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("man"))?;
        std::fs::write(path.join("man/kubectl-features.1"), ".TH features 1\n")?;
        Ok(Self(path))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Packs a program as `make cli` does.
    fn archive(&self, target: &str, program: &Path) -> Result<PathBuf> {
        let packed = run(Command::new("deploy/krew/archive").arg(target).arg(program).arg(self.at("man")).arg(&self.0))?;
        Ok(packed.trim_end().into())
    }

    /// The manifest of the folder's archives, as `make krew` writes it.
    fn manifest(&self) -> Result<Value> {
        let mut command = Command::new("deploy/krew/manifest");
        let text = run(command.args([env!("CARGO_PKG_VERSION"), "https://plugins.example/v1"]).arg(&self.0))?;
        Ok(serde_saphyr::from_str(&text)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A test that failed keeps nothing either.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.current_dir(ROOT).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The targets of `make krew`.
fn targets() -> Result<Vec<String>> {
    let makefile = std::fs::read_to_string(Path::new(ROOT).join("Makefile"))?;
    let line = makefile.lines().find_map(|line| line.strip_prefix("CLI_TARGETS := ")).context("make krew has targets")?;
    Ok(line.split(' ').map(str::to_owned).collect())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {value:#}"))
}

/// The manifest's rules are krew's: `metadata.name`, `spec.version`, one-line `shortDescription`, and for each platform `selector`, `uri`,
/// `sha256` and `bin`, with `files` that each have `from` and `to`.
#[test]
fn the_manifest_names_each_platform_with_its_archive_and_its_sum() -> Result<()> {
    let folder = Folder::new("manifest")?;
    let targets = targets()?;
    for target in &targets {
        folder.archive(target, Path::new("/bin/true"))?;
    }
    let manifest = folder.manifest()?;
    assert_eq!(text(&manifest, "/apiVersion")?, "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((text(&manifest, "/kind")?, text(&manifest, "/metadata/name")?), ("Plugin", "features"));
    assert_eq!(text(&manifest, "/spec/version")?, concat!("v", env!("CARGO_PKG_VERSION")));
    assert!(
        (1..=60).contains(&text(&manifest, "/spec/shortDescription")?.len()) && !text(&manifest, "/spec/description")?.is_empty()
    );
    assert!(!text(&manifest, "/spec/shortDescription")?.contains('\n'));
    let platforms = manifest["spec"]["platforms"].as_array().context("platforms")?;
    let mut found = BTreeSet::new();
    for platform in platforms {
        let (os, arch) = (text(platform, "/selector/matchLabels/os")?, text(platform, "/selector/matchLabels/arch")?);
        assert_eq!(platform["selector"], json!({ "matchLabels": { "os": os, "arch": arch } }));
        let name = format!("features_{os}_{arch}.tar.gz");
        assert_eq!(text(platform, "/uri")?, format!("https://plugins.example/v1/{name}"));
        let sum = run(Command::new("sha256sum").arg(folder.at(&name)))?;
        assert_eq!(text(platform, "/sha256")?, sum.split(' ').next().unwrap_or_default());
        assert_eq!(platform["files"], json!([{ "from": "*", "to": "." }]));
        let contents = run(Command::new("tar").args(["--list", "--gzip", "--file"]).arg(folder.at(&name)))?;
        let (bin, contents) = (text(platform, "/bin")?, contents.lines().collect::<BTreeSet<_>>());
        assert!(contents.contains(bin) && contents.contains("LICENSE"), "{name} holds {contents:?}");
        assert_eq!(bin.ends_with(".exe"), os == "windows");
        assert_eq!(contents.contains("kubectl_complete-features"), os != "windows", "a script for shells that run scripts");
        found.insert(format!("{os}/{arch}"));
    }
    assert_eq!(found, ["darwin/amd64", "darwin/arm64", "linux/amd64", "linux/arm64", "windows/amd64"].map(str::to_owned).into());
    assert_eq!(platforms.len(), targets.len(), "each target has a platform of its own");
    Ok(())
}

#[test]
fn what_krew_unpacks_is_a_plugin_that_runs() -> Result<()> {
    let folder = Folder::new("unpacked")?;
    let archive = folder.archive("x86_64-unknown-linux-musl", Path::new(PROGRAM))?;
    std::fs::create_dir(folder.at("store"))?;
    run(Command::new("tar").args(["--extract", "--gzip", "--file"]).arg(archive).arg("--directory").arg(folder.at("store")))?;
    let said = run(Command::new(folder.at("store/kubectl-features")).args(["version", "--client"]))?;
    assert_eq!(said, format!("client:   {}\n", env!("CARGO_PKG_VERSION")));
    // Asks the plugin by its name, as kubectl does.
    let complete = run(Command::new(folder.at("store/kubectl_complete-features")).arg("vers").env("PATH", folder.at("store")))?;
    assert_eq!(complete, "version\n:4\n");
    assert!(folder.at("store/man/kubectl-features.1").exists());
    assert!(folder.at("linux_amd64/kubectl-features").exists(), "what docs/first-steps.md installs");
    Ok(())
}

#[test]
fn a_platform_without_a_name_in_krew_and_a_folder_without_archives_are_refused() -> Result<()> {
    let folder = Folder::new("refused")?;
    let refused =
        folder.archive("riscv64gc-unknown-linux-gnu", Path::new(PROGRAM)).expect_err("krew does not know it").to_string();
    assert!(refused.contains("krew knows no platform for riscv64gc-unknown-linux-gnu"), "{refused}");
    let none = folder.manifest().expect_err("nothing was built").to_string();
    assert!(none.contains("run: make cli"), "{none}");
    Ok(())
}
