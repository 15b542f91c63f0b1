//! Bills of materials: what `make images` says of what is linked into programs.

use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::ROOT;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// The bill of an image's programs.
fn bill(image: &str, packages: &[&str]) -> Result<String> {
    let mut command = Command::new(format!("{ROOT}/deploy/images/sbom"));
    command.current_dir(ROOT).env_remove("ROOT").args([image, "x86_64-unknown-linux-gnu", "/dev/stdout"]).args(packages);
    let output = command.output()?;
    ensure!(output.status.success(), "no bill of {image}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What CycloneDX's own validator has to say against a bill.
fn refusal(bill: &str) -> Result<Option<String>> {
    let python =
        std::env::var_os("BACKFILL_SBOM_PYTHON").context("BACKFILL_SBOM_PYTHON is not set; run the tests by: make test")?;
    let mut command = Command::new(python);
    command.arg(format!("{ROOT}/deploy/images/check")).arg("/dev/stdin").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("it is piped")?.write_all(bill.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn bills_of_materials_follow_their_schema_and_name_what_is_linked() -> Result<()> {
    for (image, packages, linked) in [
        ("backfill-operator", &["backfill-operator", "backfill-cli"][..], &["kube", "rustls", "clap"][..]),
        ("backfill-worker", &["backfill-worker"], &["datafusion", "deltalake", "redis", "rusqlite"]),
    ] {
        let text = bill(image, packages)?;
        ensure!(text == bill(image, packages)?, "another bill of the same {image}");
        let refused = refusal(&text)?;
        ensure!(refused.is_none(), "{image}: {refused:?}");
        let mut bill: Value = serde_json::from_str(&text)?;
        let names = |name: &str| bill["components"].as_array().into_iter().flatten().any(|component| component["name"] == name);
        for name in packages.iter().chain(linked) {
            ensure!(names(name), "{image} does not name {name}");
        }
        ensure!(!names("insta") && !names("backfill-e2e"), "{image} names what only tests use");
        bill["components"][0]["colour"] = json!("green");
        ensure!(refusal(&bill.to_string())?.is_some(), "an unknown field is accepted");
    }
    Ok(())
}
