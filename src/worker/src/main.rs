//! The worker's command line: one step of an order in a pod, or everything in one process with `local`.

use backfill_core::contract::{Order, Outcome, REPORT_BYTES_MAX, Report, Step, exit};
use backfill_worker::context::Context;
use backfill_worker::failure::Failure;
use backfill_worker::{local, serve, steps, storage};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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
    /// Runs the backfills of a folder of manifests in this process, without a cluster.
    Local(local::LocalArgs),
}

#[derive(Args)]
struct StepArgs {
    /// The order, a JSON file.
    #[arg(long)]
    order: PathBuf,
    /// Where the report is written, besides standard output.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Where the store's volume claim is mounted.
    #[arg(long, default_value = backfill_core::api::VOLUME)]
    volume: PathBuf,
    /// One folder per mounted Secret.
    #[arg(long, default_value = "/var/run/secrets/featureset.dev")]
    secrets: PathBuf,
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
    };
    ExitCode::from(code)
}

async fn step(args: &StepArgs, step: Step) -> u8 {
    let order = match read(&args.order) {
        Ok(order) => order,
        Err(message) => {
            eprintln!("error: {message}");
            return exit::USAGE;
        }
    };
    let cx = Context::new(args.volume.clone(), args.secrets.clone(), args.scratch.clone(), args.index);
    if let Some(port) = args.progress_port {
        tokio::spawn(serve::serve(port, step, cx.watch()));
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

fn read(path: &Path) -> Result<Order, String> {
    let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read the order {}: {error}", path.display()))?;
    Order::read(&json).map_err(|error| format!("cannot use the order {}: {error}", path.display()))
}

fn exit_code(report: &Report) -> u8 {
    match &report.outcome {
        Outcome::Done | Outcome::AlreadyApplied { .. } | Outcome::Planned | Outcome::Settled { .. } => exit::DONE,
        Outcome::Failed { reason, message, retry } => {
            Failure { reason: *reason, message: message.clone(), retry: *retry }.exit_code()
        }
    }
}
