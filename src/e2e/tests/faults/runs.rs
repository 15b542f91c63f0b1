//! All runs, a few at a time.

use crate::fault::{self, Fault, Workload};
use crate::oracle::End;
use crate::workload::play;
use crate::world::{Shared, World};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many runs are under way at once.
const AT_ONCE: usize = 10;

/// A run without faults.
struct Reference {
    writes: Vec<String>,
    end: End,
}

/// How a run went.
struct Outcome {
    fault: Fault,
    fired: bool,
    took: Duration,
    result: Result<()>,
}

/// Every fault.
pub async fn all() -> Result<()> {
    run_all(&Workload::ALL, |writes| fault::all(writes)).await
}

/// One fault, several times.
pub async fn of(fault: Fault, times: usize) -> Result<()> {
    run_all(&[fault.workload], |_| vec![fault; times]).await
}

async fn run_all(workloads: &[Workload], faults: impl FnOnce(&dyn Fn(Workload) -> usize) -> Vec<Fault>) -> Result<()> {
    let began = Instant::now();
    let shared = Arc::new(Shared::start().await?);
    let mut references = HashMap::new();
    for workload in workloads {
        let made = reference(&shared, *workload).await.with_context(|| format!("{workload:?} without faults"))?;
        references.insert(*workload, made);
    }
    let faults = faults(&|workload| references[&workload].writes.len());
    let references = Arc::new(references);
    let runs = faults.into_iter().map(|fault| {
        let (shared, references) = (Arc::clone(&shared), Arc::clone(&references));
        async move { run(shared, fault, &references[&fault.workload]).await }
    });
    let mut outcomes = stream::iter(runs).buffer_unordered(AT_ONCE);
    let mut all = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        if let Err(error) = &outcome.result {
            let write = references[&outcome.fault.workload].writes.get(outcome.fault.write).map_or("", String::as_str);
            say(&format!(
                "FAILED {} ({write}): {error:#}\nreplay: FAULT='{}' cargo test -p backfill-e2e --test faults\n",
                outcome.fault, outcome.fault
            ));
        }
        all.push(outcome);
    }
    summary(&all, began.elapsed())
}

fn summary(all: &[Outcome], took: Duration) -> Result<()> {
    let mut counts = BTreeMap::<String, usize>::new();
    for outcome in all {
        *counts.entry(outcome.fault.what.word()).or_default() += 1;
    }
    let why = |run: &Outcome| Some(format!("{}: {:#}", run.fault, run.result.as_ref().err()?));
    let failed: Vec<String> = all.iter().filter_map(why).collect();
    let missed: Vec<String> = all.iter().filter(|run| !run.fired).map(|run| run.fault.to_string()).collect();
    let slowest =
        all.iter().max_by_key(|run| run.took).map_or_else(String::new, |run| format!("{} took {:?}", run.fault, run.took));
    let verdict = if failed.is_empty() { "all passed".to_owned() } else { format!("{} failed", failed.len()) };
    say(&format!(
        "{} runs in {took:?}, {verdict}; by fault: {counts:?}; slowest: {slowest}; without their fault: {missed:?}\n",
        all.len()
    ));
    if let Some(first) = failed.first() {
        bail!("{} of {} runs failed, the first of them:\n{first}", failed.len(), all.len());
    }
    // A write that is not always made is a fault that does not always happen.
    ensure!(missed.len() * 10 <= all.len(), "{} of {} faults did not happen: {missed:?}", missed.len(), all.len());
    Ok(())
}

async fn reference(shared: &Arc<Shared>, workload: Workload) -> Result<Reference> {
    let world = World::new(Arc::clone(shared), None, &[]).await?;
    let end = follow(&world, workload).await?;
    end.check(workload)?;
    let writes = world.writes();
    say(&format!("{workload:?} makes {} writes\n", writes.len()));
    for (number, write) in writes.iter().enumerate() {
        say(&format!("  {number:>2} {write}\n"));
    }
    Ok(Reference { writes, end })
}

async fn run(shared: Arc<Shared>, fault: Fault, reference: &Reference) -> Outcome {
    let began = Instant::now();
    let (fired, result) = match World::new(shared, Some(fault), &reference.writes).await {
        Ok(world) => {
            let result = async {
                let end = follow(&world, fault.workload).await?;
                end.check(fault.workload)?;
                end.compare(&reference.end)
            };
            let result = result.await;
            let result = match result {
                Ok(()) => Ok(()),
                Err(error) => {
                    let (children, logs) = (world.children().await, world.logs().await);
                    Err(anyhow::anyhow!("{error:#}\nwrites: {:#?}\n{children}\n{logs}", world.writes()))
                }
            };
            (world.fired(), result)
        }
        Err(error) => (false, Err(error)),
    };
    Outcome { fault, fired, took: began.elapsed(), result }
}

/// Plays the workload while the operators are kept running.
async fn follow(world: &World, workload: Workload) -> Result<End> {
    tokio::select! {
        end = async { play(workload, world).await?; End::of(world, workload).await } => end,
        kept = world.keep() => { kept?; bail!("the operators are kept until the end") }
    }
}

/// Past the capture of the test harness: whoever runs it wants to know how much was tried.
fn say(text: &str) {
    // Nobody listens any more.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
