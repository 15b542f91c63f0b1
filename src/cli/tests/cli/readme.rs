//! The commands of the README and of the first steps, as they stand there.

use crate::online::{answer, row};
use crate::world::{PROGRAM, World, set, test};
use anyhow::{Context, Result, ensure};
use backfill_e2e::docs;
use backfill_e2e::helm::ROOT;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::path::Path;

/// Makes this the document's environment, with its feature set.
async fn furnish(world: &mut World, environment: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(world.shared.cluster.client());
    let patch = json!({ "metadata": { "labels": { "featureset.dev/environment": environment } } });
    namespaces.patch(world.name(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    let mut delays = set("carrier_delays", "flights");
    delays["entities"] = json!([{ "name": "carrier", "type": "string" }]);
    delays["transformation"]["sql"] = json!("SELECT carrier, t, amount, tags FROM flights");
    world.apply("FeatureSet", "carrier-delays", delays).await?;
    world.pods_print(&answer(Some(row()))?);
    let path = docs::path(Path::new(PROGRAM))?;
    world.variables = vec![("PATH".to_owned(), path.to_string_lossy().into_owned())];
    Ok(())
}

/// Runs a line as its reader does, and returns what it said.
async fn run(world: &World, line: &str) -> Result<String> {
    let mut shell = world.command("sh");
    let output = shell.current_dir(world.shared.cluster.folder()).args(["-c", line]).output().await.context(line.to_owned())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}\n{said}");
    Ok(said)
}

#[test]
fn the_commands_of_the_readme_do_what_they_say() -> Result<()> {
    test(async |mut world| {
        furnish(&mut world, "prod").await?;
        for line in docs::commands("README.md")? {
            run(&world, &line).await?;
        }
        Ok(())
    })
}

/// What `make` is asked for in a line.
fn goals(line: &str) -> impl Iterator<Item = &str> {
    let called = line.split("make ").skip(1).filter(|_| line.starts_with("make ") || line.contains("$(make "));
    called.filter_map(|rest| rest.split([' ', ')']).find(|word| !word.starts_with('-')))
}

#[test]
fn what_documents_make_has_a_target() -> Result<()> {
    let makefile = std::fs::read_to_string(Path::new(ROOT).join("Makefile"))?;
    for (document, least) in [("README.md", 3), ("docs/first-steps.md", 3), ("docs/install.md", 1)] {
        let lines = docs::lines(document)?;
        let goals: Vec<&str> = lines.iter().flat_map(|line| goals(line)).collect();
        ensure!(goals.len() >= least, "{document} says what to make: {goals:?}");
        for goal in goals {
            let is_goal = |line: &str| line.starts_with(&format!("{goal}:")) && line.contains(" ## ");
            ensure!(makefile.lines().any(is_goal), "{document} says make {goal}, of which make help knows nothing");
        }
    }
    Ok(())
}

#[test]
fn the_first_steps_make_a_backfill_and_take_it_back() -> Result<()> {
    test(async |mut world| {
        furnish(&mut world, "flights").await?;
        let mut said = Vec::new();
        for line in docs::commands("docs/first-steps.md")? {
            said.push(run(&world, &line).await?);
        }
        let first = world.phase("first-steps", "Complete").await?;
        ensure!(first.spec.feature_set == "carrier-delays" && first.spec.undo.is_none(), "{:?}", first.spec);
        let backfills = world.backfills().list(&Default::default()).await?.items;
        let [undo] = backfills.iter().filter(|one| one.spec.undo.is_some()).collect::<Vec<_>>()[..] else {
            anyhow::bail!("one takes another back: {backfills:#?}")
        };
        ensure!(backfills.len() == 2 && undo.spec.undo.as_deref() == Some("first-steps"), "{backfills:#?}");
        world.phase(undo.metadata.name.as_deref().unwrap_or_default(), "Complete").await?;
        ensure!(said[1].contains("carrier-delays") && said[3].contains("first-steps"), "the lists show them: {said:#?}");
        Ok(())
    })
}
