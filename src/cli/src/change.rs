//! Changes of a backfill that is there: cancel, suspend, resume, run again, publish a plan, take back.

use crate::args::{Again, Connection, Format, Output, Undo};
use crate::ask::confirm;
use crate::cluster::Cluster;
use crate::create::{self, FIELD_MANAGER, Manner, NAME_MAX, manifest, name_with};
use crate::failure::{Exit, Failure, Result};
use crate::follow::{self, Shown};
use crate::lane::{self, place, would_change};
use crate::preview::Known;
use crate::{environment, find, print, status};
use backfill_core::api::{FeatureSet, FeatureSetBackfill, FeatureSetBackfillSpec, Mode};
use backfill_core::condition::{ConditionType, is_true};
use backfill_core::plan::rests;
use chrono::Utc;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// How often a change is tried while the operator writes at the same moment.
const TRIES: usize = 5;

/// A backfill that is there, and where.
struct Found {
    cluster: Cluster,
    backfill: FeatureSetBackfill,
}

impl Found {
    async fn of(connection: &Connection, name: &str) -> Result<Self> {
        let (cluster, backfill) = find::named(connection, name).await?;
        Ok(Self { cluster, backfill })
    }

    /// Writes fields of the spec, if what was read still holds: the operator may have written meanwhile, but nobody has changed the
    /// spec, and the run has neither ended nor begun.
    async fn change(&self, verb: &str, spec: Value) -> Result<FeatureSetBackfill> {
        let name = self.backfill.name_any();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.cluster.api::<FeatureSetBackfill>(&self.backfill.namespace().unwrap_or_default());
        let what = format!("{verb} the backfill \"{name}\"");
        let mut version = self.backfill.resource_version();
        for _ in 0..TRIES {
            let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
            match self.cluster.try_call(api.patch(&name, &params, &Patch::Merge(&patch))).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                answer => return answer.map_err(|error| self.cluster.explain(&what, &error)),
            }
            let now = self.cluster.call(&what, api.get(&name)).await?;
            if now.uid() != self.backfill.uid()
                || now.metadata.generation != self.backfill.metadata.generation
                || rests(&now) != rests(&self.backfill)
            {
                break;
            }
            version = now.resource_version();
        }
        Err(Failure::new(format!("cannot {what}: it was changed at the same moment")).hint("try again"))
    }

    /// The run that the spec asks for has not ended.
    fn refuse_ended(&self, verb: &str) -> Result<()> {
        if !rests(&self.backfill) || is_true(self.conditions(), ConditionType::Ready) && !self.is(ConditionType::Complete) {
            return Ok(());
        }
        Err(Failure::new(format!("cannot {verb} \"{}\": it has ended ({})", self.backfill.name_any(), self.phase()))
            .hint(format!("to run it again: kubectl features backfill rerun {}", place(&self.backfill))))
    }

    fn conditions(&self) -> &[backfill_core::condition::Condition] {
        lane::conditions(&self.backfill)
    }

    fn is(&self, kind: ConditionType) -> bool {
        is_true(self.conditions(), kind)
    }

    fn phase(&self) -> &str {
        print::phase(&self.backfill)
    }
}

/// `backfill cancel`.
pub async fn cancel(connection: &Connection, name: &str) -> Result<Exit> {
    let found = Found::of(connection, name).await?;
    found.refuse_ended("cancel")?;
    let changed = found.change("cancel", json!({ "cancel": true })).await?;
    print::created(&changed, "cancelled", Output::default())?;
    if found.is(ConditionType::OfflineReplaced) {
        eprintln!("What is published stays: kubectl features backfill undo {}", place(&changed));
    }
    Ok(Exit::Ok)
}

/// `backfill suspend` and `backfill resume`.
pub async fn suspend(connection: &Connection, name: &str, hold: bool) -> Result<Exit> {
    let (verb, word) = if hold { ("suspend", "suspended") } else { ("resume", "resumed") };
    let found = Found::of(connection, name).await?;
    found.refuse_ended(verb)?;
    let word = match found.backfill.spec.suspend.unwrap_or_default() == hold {
        true => "unchanged",
        false => word,
    };
    let changed = found.change(verb, json!({ "suspend": if hold { json!(true) } else { Value::Null } })).await?;
    print::created(&changed, word, Output::default())?;
    Ok(Exit::Ok)
}

/// Which backfills may run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that failed or were cancelled.
    Failed,
    /// All that have ended.
    Ended,
}

/// `backfill retry` and `backfill rerun`: another `runId`.
pub async fn again(connection: &Connection, asked: &Again, which: Which) -> Result<Exit> {
    let verb = if which == Which::Failed { "retry" } else { "rerun" };
    let found = Found::of(connection, &asked.one.name).await?;
    let name = found.backfill.name_any();
    if !rests(&found.backfill) {
        return Err(Failure::new(format!("cannot {verb} \"{name}\": it has not ended ({})", found.phase()))
            .hint(format!("follow it: kubectl features backfill watch {}", place(&found.backfill))));
    }
    if which == Which::Failed && !found.is(ConditionType::Failed) {
        return Err(Failure::new(format!("cannot retry \"{name}\": it has not failed ({})", found.phase()))
            .hint(format!("to run it again all the same: kubectl features backfill rerun {}", place(&found.backfill))));
    }
    let run_id = asked.run_id.clone().unwrap_or_else(|| name_with("run", &Utc::now().format("-%Y%m%dt%H%M%S").to_string()));
    eprintln!("{}", status::text(&found.backfill, Utc::now()));
    confirm(&format!("Run \"{name}\" again, with its boundaries judged anew?"), asked.yes)?;
    let changed = found.change(verb, json!({ "runId": run_id, "cancel": null })).await?;
    print::created(&changed, &format!("runs again as {run_id}"), Output::default())?;
    match asked.follow.stays() {
        true => follow::stay(&found.cluster, &changed, &asked.follow).await,
        false => Ok(Exit::Ok),
    }
}

/// How a plan is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Publishes it.
    pub apply: bool,
    /// Asks nothing.
    pub yes: bool,
    /// How long to wait.
    pub timeout: Option<Duration>,
    /// How it is printed.
    pub output: Output,
}

/// `backfill plan`.
pub async fn plan(connection: &Connection, name: &str, asked: Planned) -> Result<Exit> {
    let found = Found::of(connection, name).await?;
    if found.backfill.spec.mode != Some(Mode::Plan) {
        return Err(Failure::new(format!("\"{}\" is no plan: it publishes by itself", found.backfill.name_any()))
            .hint("make a plan: kubectl features backfill --feature-set NAME … --mode plan --wait"));
    }
    let backfill = follow::until_end(&found.cluster, &found.backfill, asked.timeout, Shown::Progress).await?;
    let end = follow::exit(&backfill);
    let found = Found { backfill, ..found };
    match asked.output.output {
        None | Some(Format::Wide) => print!("{}", status::text(&found.backfill, Utc::now())),
        Some(_) => print::backfill(&found.backfill, asked.output)?,
    }
    if !asked.apply || !matches!(end, Exit::WouldChange | Exit::Ok) {
        return Ok(end);
    }
    if !would_change(&found.backfill) {
        eprintln!("The plan changes nothing; it is published all the same, so that the ledger knows.");
    }
    confirm("Publish this plan?", asked.yes)?;
    let changed = found.change("publish", json!({ "mode": "Apply" })).await?;
    follow::until_end(&found.cluster, &changed, asked.timeout, Shown::Progress).await.map(|ended| follow::exit(&ended))
}

/// `backfill undo`: another backfill.
pub async fn undo(connection: &Connection, asked: &Undo) -> Result<Exit> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let known = Known::of(&cluster, &namespace).await?;
    let (name, feature_set) = undone(&cluster, &known, &asked.one.name).await?;
    let spec = FeatureSetBackfillSpec {
        feature_set,
        undo: Some(name.clone()),
        comment: asked.comment.clone(),
        cluster_template: asked.cluster_template.clone(),
        mode: asked.mode.spec(),
        ..FeatureSetBackfillSpec::default()
    };
    let long = format!("undo-{name}");
    let short = || if long.len() <= NAME_MAX { long.clone() } else { name_with(&long, "") };
    let backfill = manifest(&namespace, &asked.backfill_name.clone().unwrap_or_else(short), spec);
    let manner = Manner { dry_run: None, yes: asked.yes, output: asked.output, follow: &asked.follow };
    create::submit(&cluster, &known, backfill, &manner).await
}

/// The backfill that is undone and its feature set. When it is gone, a ledger still knows it.
async fn undone(cluster: &Cluster, known: &Known, name: &str) -> Result<(String, String)> {
    let missing = match find::backfill(cluster, &known.namespace, name).await {
        Ok(backfill) => return Ok((backfill.name_any(), backfill.spec.feature_set)),
        Err(failure) => failure,
    };
    let knows = |set: &&FeatureSet| {
        let ledger = set.status.iter().flat_map(|status| &status.ledger);
        ledger.into_iter().any(|entry| entry.backfill == name)
    };
    known.feature_sets.iter().find(knows).map(|set| (name.to_owned(), set.name_any())).ok_or(missing)
}
