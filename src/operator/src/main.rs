//! The operator's command line.

use anyhow::Context;
use axum::http::{Request, Response, header};
use backfill_core::plan::Settings;
use backfill_operator::clock::Clock;
use backfill_operator::metrics::Metrics;
use backfill_operator::run::{Options, run};
use backfill_operator::server::Probes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tower::util::{MapRequestLayer, MapResponseLayer};
use tracing_subscriber::EnvFilter;

/// Replaces feature sets' data as FeatureSetBackfill resources ask for it.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconciles until it is told to stop.
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The image of the worker.
    #[arg(long, env = "WORKER_IMAGE")]
    worker_image: String,
    /// The image of the worker with Apache Spark. Without it, cluster templates with `engine: Spark` are refused.
    #[arg(long, env = "SPARK_IMAGE")]
    spark_image: Option<String>,
    /// When run pods pull their image: Always, IfNotPresent or Never. Default: as Kubernetes decides.
    #[arg(long, env = "IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,
    /// The namespaces to watch, separated by commas. Default: all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// How many backfills are looked at at the same time.
    #[arg(long, default_value_t = 16)]
    concurrency: u16,
    /// The namespace of the lease by which replicas agree on a leader. Default: that of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Works without a lease. Only where there is one replica for sure.
    #[arg(long)]
    no_leader_election: bool,
    /// The name under which this process leads and reports events.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// A file of cluster templates that are created when they are missing.
    #[arg(long, env = "CLUSTER_TEMPLATES")]
    cluster_templates: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// How logs are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Run(args) = Cli::parse().command;
    // One provider of cryptography, whatever else is built beside this program.
    rustls::crypto::ring::default_provider().install_default().expect("nothing has chosen before");
    logs(args.log_format);
    let config = Config::infer().await.context("no cluster: neither a kubeconfig nor a service account")?;
    let probes = Probes::new(Arc::new(Metrics::new()));
    let clock = Arc::new(Clock::default());
    let client = client(config, Arc::clone(&probes.metrics), Arc::clone(&clock))?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, "serves probes and metrics");
    let shutdown = shutdown()?;
    let mut closing = shutdown.clone();
    let server = axum::serve(listener, probes.clone().routes())
        .with_graceful_shutdown(async move { drop(closing.wait_for(|shutdown| *shutdown).await) });
    let serving = tokio::spawn(async move { server.await });
    let ended = run(client, options(args, clock), probes, shutdown).await;
    serving.abort();
    ended
}

/// A client whose requests are counted, and whose answers tell the time.
fn client(config: Config, metrics: Arc<Metrics>, clock: Arc<Clock>) -> anyhow::Result<Client> {
    let count = MapRequestLayer::new(move |request: Request<Body>| {
        metrics.requested(request.method().as_str());
        request
    });
    let listen = MapResponseLayer::new(move |response: Response<_>| {
        if let Some(Ok(date)) = response.headers().get(header::DATE).map(|date| date.to_str()) {
            clock.heard(date);
        }
        response
    });
    let builder = ClientBuilder::try_from(config).context("cannot use the cluster's configuration")?;
    Ok(builder.with_layer(&listen).with_layer(&count).build())
}

fn options(args: RunArgs, clock: Arc<Clock>) -> Options {
    Options {
        namespaces: args.watch_namespaces,
        concurrency: args.concurrency,
        lease_namespace: (!args.no_leader_election).then_some(args.lease_namespace),
        identity: args.identity.unwrap_or_else(|| format!("backfill-operator-{}", std::process::id())),
        templates: args.cluster_templates,
        settings: Settings {
            worker_image: args.worker_image,
            spark_image: args.spark_image,
            image_pull_policy: args.image_pull_policy,
        },
        clock,
    }
}

fn logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
}

/// Becomes true when the process is told to stop.
fn shutdown() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        sender.send_replace(true);
    });
    Ok(receiver)
}
