//! The worker's command line: one step of an order in a pod, everything in one process with `local`, or a look at one entity.

use backfill_core::condition::Reason;
use backfill_core::contract::{
    Answer, DocumentError, Lookup, LookupOutcome, Notice, Order, Outcome, REPORT_BYTES_MAX, Report, Step, exit,
};
use backfill_worker::context::Context;
use backfill_worker::failure::Failure;
use backfill_worker::{local, offline, online, serve, steps, storage};
use chrono::Utc;
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Replaces a feature set's data in the offline and the online store.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stages, validates, publishes and proves the offline part of an order.
    Offline(StepArgs),
    /// Brings the online store in line with the offline table.
    Online(StepArgs),
    /// Ends a run that was broken off: nothing of it can write any more, and what it staged is removed.
    Settle(StepArgs),
    /// Prints what the online store serves of one entity now, as one line of JSON; writes nothing.
    Lookup(LookupArgs),
    /// Runs the backfills of a folder of manifests in this process, without a cluster.
    Local(local::LocalArgs),
}

/// Where a store is found.
#[derive(Args)]
struct Mounts {
    /// Where the store's volume claim is mounted.
    #[arg(long, default_value = backfill_core::api::VOLUME)]
    volume: PathBuf,
    /// One folder per mounted Secret.
    #[arg(long, default_value = "/var/run/secrets/featureset.dev")]
    secrets: PathBuf,
}

#[derive(Args)]
struct StepArgs {
    /// The order, a JSON file.
    #[arg(long)]
    order: PathBuf,
    /// Where the report is written, besides standard output.
    #[arg(long)]
    report: Option<PathBuf>,
    #[command(flatten)]
    mounts: Mounts,
    /// Scratch space.
    #[arg(long, default_value = "/scratch")]
    scratch: PathBuf,
    /// The port at which /progress and /metrics are served. Default: none.
    #[arg(long)]
    progress_port: Option<u16>,
    /// Which of the Job's pods this is.
    #[arg(long, env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
    index: u32,
}

#[derive(Args)]
struct LookupArgs {
    /// What is looked up, a JSON file.
    #[arg(long)]
    lookup: PathBuf,
    #[command(flatten)]
    mounts: Mounts,
}

#[tokio::main]
async fn main() -> ExitCode {
    // What libraries log comes back as their errors; RUST_LOG shows it.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off,backfill_worker=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Two crates bring two providers of cryptography; one must be chosen before the first connection.
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing has chosen before");
    storage::register_clouds();
    let cli = Cli::parse();
    let code = match cli.command {
        Command::Local(args) => local::run(&args).await,
        Command::Offline(args) => step(&args, Step::Offline).await,
        Command::Online(args) => step(&args, Step::Online).await,
        Command::Settle(args) => step(&args, Step::Settle).await,
        Command::Lookup(args) => look_up(&args).await,
    };
    ExitCode::from(code)
}

async fn step(args: &StepArgs, step: Step) -> u8 {
    let order = match read(&args.order, Order::read) {
        Ok(order) => order,
        Err(message) => {
            eprintln!("error: {message}");
            return exit::USAGE;
        }
    };
    let cx = Context::new(args.mounts.volume.clone(), args.mounts.secrets.clone(), args.scratch.clone(), args.index);
    if let Some(port) = args.progress_port {
        tokio::spawn(serve::serve(port, step, cx.watch()));
    }
    if step == Step::Offline && args.index > 0 {
        return assist(&cx, &order).await;
    }
    let report = match step {
        Step::Offline => steps::offline(&cx, &order).await,
        Step::Online => steps::online(&cx, &order).await,
        Step::Settle => steps::settle(&cx, &order).await,
    };
    let code = exit_code(&report);
    let json = serde_json::to_string(&report.fit(REPORT_BYTES_MAX)).expect("reports have string keys");
    println!("{json}");
    if let Some(path) = &args.report
        && let Err(error) = std::fs::write(path, &json)
    {
        // What was done is in the run record too; the next attempt finds it there.
        eprintln!("error: cannot write the report to {}: {error}", path.display());
        return exit::RETRY;
    }
    code
}

/// The first pod of the Job alone reports and decides; this one ends when it is told to, and is replaced while it is needed.
async fn assist(cx: &Context, order: &Order) -> u8 {
    let told = async {
        let mut terminated = signal(SignalKind::terminate()).expect("signals can be listened to");
        terminated.recv().await;
    };
    if let Err(failure) = offline::spark::assist(cx, order, told).await {
        eprintln!("error: {failure}");
    }
    exit::RETRY
}

/// Answers in any case: who asked reads the answer, not the exit code.
async fn look_up(args: &LookupArgs) -> u8 {
    let (outcome, code) = match read(&args.lookup, Lookup::read) {
        Err(message) => (LookupOutcome::Failed(Notice { reason: Reason::InvalidRequest, message }), exit::USAGE),
        Ok(lookup) => {
            let cx = Context::new(args.mounts.volume.clone(), args.mounts.secrets.clone(), PathBuf::new(), 0);
            match online::look_up(&cx, &lookup, Utc::now()).await {
                Ok(served) => (LookupOutcome::Served(served), exit::DONE),
                Err(failure) => {
                    let code = failure.exit_code();
                    (LookupOutcome::Failed(Notice { reason: failure.reason, message: failure.message }), code)
                }
            }
        }
    };
    if let LookupOutcome::Failed(Notice { message, .. }) = &outcome {
        eprintln!("error: {message}");
    }
    println!("{}", serde_json::to_string(&Answer::new(outcome)).expect("answers have string keys"));
    code
}

fn read<T>(path: &Path, parse: fn(&str) -> Result<T, DocumentError>) -> Result<T, String> {
    let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&json).map_err(|error| format!("cannot use {}: {error}", path.display()))
}

fn exit_code(report: &Report) -> u8 {
    match &report.outcome {
        Outcome::Done | Outcome::AlreadyApplied { .. } | Outcome::Planned | Outcome::Settled { .. } => exit::DONE,
        Outcome::Failed { reason, message, retry } => {
            Failure { reason: *reason, message: message.clone(), retry: *retry }.exit_code()
        }
    }
}
