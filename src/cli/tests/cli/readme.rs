//! The README's commands, as they stand there.

use crate::online::{answer, row};
use crate::world::{PROGRAM, set, test};
use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::path::Path;

/// The lines of the README that call the plugin.
fn commands() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"))?;
    let joined = text.replace("\\\n", " ");
    let mut inside = false;
    let mut found = Vec::new();
    for line in joined.lines() {
        inside ^= line.starts_with("```");
        if inside && line.starts_with("kubectl features ") {
            found.push(line.split(" # ").next().unwrap_or_default().trim_end().to_owned());
        }
    }
    ensure!(found.len() >= 5, "the README calls the plugin: {found:?}");
    Ok(found)
}

#[test]
fn the_commands_of_the_readme_do_what_they_say() -> Result<()> {
    test(async |mut world| {
        // The README's environment and feature set.
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.shared.cluster.client());
        let patch = json!({ "metadata": { "labels": { "featureset.dev/environment": "prod" } } });
        namespaces.patch(world.name(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        let mut delays = set("carrier_delays", "flights");
        delays["entities"] = json!([{ "name": "carrier", "type": "string" }]);
        delays["transformation"]["sql"] = json!("SELECT carrier, t, amount, tags FROM flights");
        world.apply("FeatureSet", "carrier-delays", delays).await?;
        world.pods_print(&answer(Some(row()))?);
        let tools = backfill_e2e::tool("kubectl")?;
        let folders = [Path::new(PROGRAM).parent(), tools.parent()].map(|folder| folder.unwrap_or(Path::new("/")).to_owned());
        let path = std::env::join_paths(
            folders.into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        world.variables = vec![("PATH".to_owned(), path.to_string_lossy().into_owned())];
        for command in commands()? {
            let output = world
                .command("sh")
                .current_dir(world.shared.cluster.folder())
                .args(["-c", &command])
                .output()
                .await
                .context(command.clone())?;
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "{command}\n{said}");
        }
        Ok(())
    })
}
