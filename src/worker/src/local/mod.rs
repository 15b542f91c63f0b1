//! `local`: the backfills of a folder of manifests, resolved as the operator resolves them and run step by step in this process.

mod manifests;
mod show;

use crate::context::Context;
use crate::offline::spark::Shelf;
use crate::steps;
use backfill_core::api::Mode;
use backfill_core::condition::{Condition, Ending, Reason, conditions, set_all};
use backfill_core::contract::{Notice, Order, Outcome, Report, Scope, Step, Stores};
use backfill_core::request::{self, Input, Request, Resolution};
use chrono::Utc;
use clap::{Args, ValueEnum};
use manifests::{Backfill, Manifests};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Exit codes, as those of the `kubectl` plugin.
mod exit {
    pub const OK: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const FAILED: u8 = 3;
    pub const WOULD_CHANGE: u8 = 10;
}

/// The command line of `local`.
#[derive(Args, Debug)]
pub struct LocalArgs {
    /// A folder of manifests, taken in the order of their names, or one file.
    #[arg(short, long)]
    filename: PathBuf,
    /// What `/store` of the manifests means here.
    #[arg(long, default_value = "state")]
    state: PathBuf,
    /// One folder per Secret that the manifests name, one file per entry. Default: `secrets` in the state folder.
    #[arg(long)]
    secrets: Option<PathBuf>,
    /// Computes and checks everything and publishes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document a backfill and line.
    Json,
}

/// What became of one backfill.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    namespace: String,
    name: String,
    feature_set: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline: Option<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<Report>,
    warnings: Vec<Notice>,
    conditions: Vec<Condition>,
    #[serde(skip)]
    code: u8,
}

/// Runs `local` and returns the exit code: the worst of all backfills.
pub async fn run(args: &LocalArgs) -> u8 {
    let manifests = match Manifests::read(&args.filename) {
        Ok(manifests) => manifests,
        Err(message) => {
            eprintln!("error: {message}");
            return backfill_core::contract::exit::USAGE;
        }
    };
    let spark = Arc::new(Shelf::new(args.state.clone()));
    let worst = all(args, &manifests, &spark).await;
    spark.clear().await;
    worst
}

async fn all(args: &LocalArgs, manifests: &Manifests, spark: &Arc<Shelf>) -> u8 {
    let mut worst = exit::OK;
    for backfill in &manifests.backfills {
        let ended = match one(args, manifests, backfill, spark).await {
            Ok(ended) => ended,
            Err(error) => {
                eprintln!("error: {error}");
                return exit::ERROR;
            }
        };
        worst = worst.max(ended.code);
        match args.output {
            Format::Text => show::text(&ended),
            Format::Json => println!("{}", serde_json::to_string(&ended).expect("results have string keys")),
        }
    }
    if args.output == Format::Text {
        show::end(&args.state, manifests.backfills.len(), worst);
    }
    worst
}

/// Resolves a backfill and runs its steps. An error is one of this machine, not of the backfill.
async fn one(args: &LocalArgs, manifests: &Manifests, backfill: &Backfill, spark: &Arc<Shelf>) -> std::io::Result<Ended> {
    let input = manifests.input(backfill, Utc::now());
    let mut ended = Ended {
        namespace: backfill.namespace.clone(),
        name: backfill.name.clone(),
        feature_set: backfill.object.spec.feature_set.clone(),
        comment: backfill.object.spec.comment.clone(),
        key: None,
        scope: None,
        windows: None,
        offline: None,
        online: None,
        warnings: vec![],
        conditions: vec![],
        code: exit::OK,
    };
    match request::resolve(&input) {
        Err(rejection) => {
            let ending =
                Ending::Rejected { recovers: rejection.recovers(), reason: rejection.reason, message: rejection.message };
            ended.end(&ending, Stores::Both, &[], &input);
        }
        Ok(Resolution { request, warnings }) => {
            ended.key = Some(request.key.clone());
            ended.scope = Some(request.scope.clone());
            ended.windows = Some(request.windows);
            let ending = perform(args, &request, spark, &mut ended).await?;
            ended.end(&ending, request.stores, &warnings, &input);
            ended.warnings.extend(warnings);
        }
    }
    Ok(ended)
}

/// Runs the steps of a request, and settles it when it was broken off before anything was published.
async fn perform(args: &LocalArgs, request: &Request, spark: &Arc<Shelf>, ended: &mut Ended) -> std::io::Result<Ending> {
    std::fs::create_dir_all(&args.state)?;
    let scratch = tempfile::tempdir_in(&args.state)?;
    let secrets = args.secrets.clone().unwrap_or_else(|| args.state.join("secrets"));
    let mut cx = Context::new(args.state.clone(), secrets, scratch.path().to_path_buf(), 0);
    cx.spark = Some(Arc::clone(spark));
    let watcher = show::watch(&ended.name, cx.watch(), args.output == Format::Text);
    let mode = if args.dry_run { Mode::Plan } else { request.mode };
    let ending = steps(&cx, request, mode, ended).await;
    watcher.abort();
    Ok(ending)
}

async fn steps(cx: &Context, request: &Request, mode: Mode, ended: &mut Ended) -> Ending {
    let order = |step| request.order(step, mode, 1);
    let mut applied = true;
    if request.stores.offline() {
        let report = offline_step(cx, &order(Step::Offline)).await;
        let outcome = report.outcome.clone();
        ended.take(&report);
        ended.offline = Some(report);
        match outcome {
            Outcome::Failed { reason, message, .. } => return Ending::OfflineFailed { reason, message },
            Outcome::Planned => return Ending::Planned { moved: mode == Mode::Apply, message: show::plan_message(ended) },
            Outcome::AlreadyApplied { .. } => {}
            Outcome::Done | Outcome::Settled { .. } => applied = false,
        }
    }
    if request.stores.online() {
        let order = order(Step::Online);
        let report = steps::online(cx, &order).await;
        let outcome = report.outcome.clone();
        ended.take(&report);
        ended.online = Some(report);
        match outcome {
            Outcome::Failed { reason, message, .. } => return Ending::OnlineFailed { reason, message },
            Outcome::Planned => return Ending::Planned { moved: mode == Mode::Apply, message: show::plan_message(ended) },
            Outcome::AlreadyApplied { .. } => {}
            Outcome::Done | Outcome::Settled { .. } => applied = false,
        }
    }
    match applied {
        true => Ending::AlreadyApplied { message: show::applied_message(ended) },
        false => Ending::Succeeded { message: show::success_message(ended) },
    }
}

async fn offline_step(cx: &Context, order: &Order) -> Report {
    let report = steps::offline(cx, order).await;
    // A run that failed for good leaves nothing behind, so that the same manifest may be tried again once the cause is gone. One
    // that was overtaken has nothing to tidy up: what the run has staged is the newer attempt's.
    if let Outcome::Failed { reason: failed, retry: false, .. } = report.outcome
        && failed != Reason::Superseded
        && let Outcome::Failed { reason, message, .. } = steps::settle(cx, order).await.outcome
    {
        tracing::warn!(%reason, message, "cannot settle");
    }
    report
}

impl Ended {
    fn take(&mut self, report: &Report) {
        // Both steps look at the online store and may warn of the same.
        let new = report.warnings.iter().filter(|warning| !self.warnings.contains(warning)).cloned();
        self.warnings.extend(new.collect::<Vec<_>>());
        if let Some(scope) = &report.scope {
            self.scope = Some(scope.clone());
        }
    }

    fn end(&mut self, ending: &Ending, stores: Stores, warnings: &[Notice], input: &Input<'_>) {
        set_all(&mut self.conditions, conditions(ending, stores, warnings), input.now, None);
        self.code = match ending {
            Ending::Rejected { .. } | Ending::OfflineFailed { .. } | Ending::OnlineFailed { .. } => exit::FAILED,
            Ending::Planned { .. } => exit::WOULD_CHANGE,
            Ending::Succeeded { .. } | Ending::AlreadyApplied { .. } => exit::OK,
        };
    }
}
