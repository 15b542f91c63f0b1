//! Every example is applied, and does what it says.

use crate::world::{in_phase, installed};
use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::ROOT;
use backfill_e2e::{Cluster, Namespace};
use std::collections::BTreeSet;

async fn apply(namespace: &Namespace, name: &str) -> Result<()> {
    let file = format!("{ROOT}/deploy/examples/{name}.yaml");
    namespace.kubectl(&["apply", "-f", &file]).await?.ok().map(drop).with_context(|| file)
}

/// The examples' environment in a namespace of its own, with May replaced, so that it can be taken back.
async fn environment(cluster: &Cluster) -> Result<Namespace> {
    let namespace = cluster.namespace("examples").await?;
    namespace.kubectl(&["create", "serviceaccount", "backfill-runner"]).await?.ok()?;
    apply(&namespace, "environment").await?;
    apply(&namespace, "interval").await?;
    in_phase(&namespace, "clicks-may", "Complete").await?;
    Ok(namespace)
}

/// The examples by their files, with the backfill that each makes and the phase in which it rests.
const EXAMPLES: [(&str, &str, &str); 18] = [
    ("interval", "clicks-may", "Complete"),
    ("undo", "undo-clicks-may", "Complete"),
    ("reset", "clicks-rebuilt", "Complete"),
    ("reset-with-bounds", "clicks-this-year-only", "Complete"),
    ("only-start", "clicks-since-may", "Complete"),
    ("only-stop", "clicks-before-may", "Complete"),
    ("other-sources", "clicks-from-the-archive", "Complete"),
    ("other-transformation", "clicks-without-robots", "Complete"),
    ("online-only", "clicks-online", "Complete"),
    ("offline-only", "clicks-history", "Complete"),
    ("plan", "clicks-planned", "Planned"),
    ("template", "clicks-wide", "Complete"),
    ("limits", "clicks-within-limits", "Complete"),
    ("comment", "clicks-with-a-reason", "Complete"),
    ("guards", "clicks-guarded", "Complete"),
    ("run-again", "clicks-nightly", "Complete"),
    ("suspend", "clicks-held", "Suspended"),
    ("network-policy", "", ""),
];

#[test]
fn every_example_ends_as_it_says() -> Result<()> {
    installed(async |shared| {
        let files: BTreeSet<String> = std::fs::read_dir(format!("{ROOT}/deploy/examples"))?
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".yaml")?.to_owned()))
            .filter(|name| name != "environment")
            .collect();
        assert_eq!(
            files,
            EXAMPLES.iter().map(|(file, ..)| (*file).to_owned()).collect(),
            "each file is an example and is tested"
        );
        let namespace = environment(&shared.cluster).await?;
        for (file, backfill, phase) in EXAMPLES {
            apply(&namespace, file).await?;
            if !backfill.is_empty() {
                in_phase(&namespace, backfill, phase).await.with_context(|| file)?;
            }
        }
        Ok(())
    })
}

/// The command in the comment of an example, run in its namespace.
async fn documented(namespace: &Namespace, file: &str) -> Result<()> {
    let text = std::fs::read_to_string(format!("{ROOT}/deploy/examples/{file}.yaml"))?;
    let command = text.lines().find_map(|line| line.strip_prefix("#   kubectl ")).context("a command")?;
    let arguments: Vec<&str> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
    namespace.kubectl(&arguments).await?.ok().map(drop)
}

#[test]
fn a_plan_is_published_and_a_held_backfill_let_go_as_their_comments_say() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        for (file, backfill, before) in [("plan", "clicks-planned", "Planned"), ("suspend", "clicks-held", "Suspended")] {
            apply(&namespace, file).await?;
            in_phase(&namespace, backfill, before).await?;
            documented(&namespace, file).await?;
            in_phase(&namespace, backfill, "Complete").await?;
        }
        Ok(())
    })
}

#[test]
fn manifests_for_gitops_are_taken() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        let file = format!("{ROOT}/deploy/gitops/argocd/backfills.yaml");
        let made = namespace.kubectl(&["create", "--dry-run=server", "-f", &file]).await?;
        // The feature set is there already; the two backfills are taken, the hook under a name that is made.
        ensure!(
            made.stdout.matches("created").count() == 2 && made.stdout.contains("clicks-sync-"),
            "{}{}",
            made.stdout,
            made.stderr
        );
        Ok(())
    })
}
