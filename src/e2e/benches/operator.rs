//! Thousands of backfills on a real control plane whose pods are played: how fast Jobs are made, and what the operator costs.
//!
//! `cargo bench -p backfill-operator -p backfill-e2e --bench operator -- [backfills] [feature sets] [slots] [to finish] [as-shipped]`

use anyhow::{Context, Result};
use backfill_core::api::{FeatureSet, FeatureSetBackfill};
use backfill_e2e::{Cluster, Kubelet, Operator, OperatorOptions, Options, in_phase, manifest};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many backfills are applied one after the other to an idle operator.
const IDLE_RUNS: usize = 40;

/// How long the idle operator is watched.
const IDLE: Duration = Duration::from_secs(60);

const POSTS_MAX: usize = 24;

struct Size {
    backfills: usize,
    sets: usize,
    slots: usize,
    /// How many are waited for; the others go on waiting in the queue, and cost what waiting costs.
    finish: usize,
    as_shipped: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, default| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let backfills = number(0, 10_000);
    let size = Size {
        backfills,
        sets: number(1, 1_000),
        slots: number(2, 200),
        finish: number(3, backfills).min(backfills),
        as_shipped: arguments.iter().any(|argument| argument == "as-shipped"),
    };
    let options = if size.as_shipped { Options::as_shipped() } else { Options::default() };
    let cluster = Cluster::start_with(&options).await?;
    let _kubelet = Kubelet::start(cluster.client()).await?;
    let operator = Operator::start(cluster.kubeconfig(), &OperatorOptions::default())?;
    let made = watch_jobs(&cluster);
    prepare(&cluster, &size).await?;
    let idle = latencies(&cluster, &made).await?;
    println!(
        "{} backfills of {} feature sets, {} slots, controllers {}",
        size.backfills,
        size.sets,
        size.slots,
        if size.as_shipped { "as shipped" } else { "raised" }
    );
    println!("idle, from apply to Job: p50 {:.0} ms, p99 {:.0} ms of {IDLE_RUNS}", quantile(&idle, 0.5), quantile(&idle, 0.99));
    let before = Figures::of(&operator).await?;
    let jobs_before = made.lock().expect("not poisoned").len();
    let began = Instant::now();
    post_all(&cluster, &size).await?;
    println!("applied in {:.0} s", began.elapsed().as_secs_f64());
    let applied = Figures::of(&operator).await?;
    println!("peak memory when all are applied: {:.0} MiB", applied.peak);
    finish(&cluster, &size, began).await?;
    let took = began.elapsed().as_secs_f64();
    let after = Figures::of(&operator).await?;
    let jobs = made.lock().expect("not poisoned").len() - jobs_before;
    println!(
        "{} complete after {took:.0} s: {:.1} Jobs/s, {:.1} backfills/s",
        size.finish,
        jobs as f64 / took,
        size.finish as f64 / took
    );
    println!(
        "operator: {:.1} CPU s ({:.0} % of a core), peak memory {:.0} MiB",
        after.cpu - before.cpu,
        100.0 * (after.cpu - before.cpu) / took,
        after.peak
    );
    println!("status: {:.0} bytes on average", status_bytes(&cluster).await?);
    // Those that wait write, too.
    if size.finish == size.backfills {
        let per = |verb: &str| (after.requests(verb) - before.requests(verb)) / size.finish as f64;
        let verbs = ["POST", "PUT", "PATCH", "DELETE"];
        println!(
            "API writes per backfill: {:.1} ({}), reads {:.1}",
            verbs.iter().map(|verb| per(verb)).sum::<f64>(),
            verbs.map(|verb| format!("{verb} {:.1}", per(verb))).join(", "),
            per("GET")
        );
        at_rest(&operator).await?;
    }
    Ok(())
}

/// What an operator costs that has nothing to do.
async fn at_rest(operator: &Operator) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rest = Figures::of(operator).await?;
    tokio::time::sleep(IDLE).await;
    let end = Figures::of(operator).await?;
    let calm =
        ["POST", "PUT", "PATCH", "DELETE", "GET"].map(|verb| format!("{verb} {}", end.requests(verb) - rest.requests(verb)));
    println!(
        "idle for {} s with all of them: {}; {:.2} CPU s, {:.0} MiB now",
        IDLE.as_secs(),
        calm.join(", "),
        end.cpu - rest.cpu,
        end.resident
    );
    Ok(())
}

/// When each Job was seen first, by its backfill's name.
type Made = Arc<Mutex<HashMap<String, Instant>>>;

fn watch_jobs(cluster: &Cluster) -> Made {
    let made = Made::default();
    let (seen, jobs) = (Arc::clone(&made), Api::<Job>::all(cluster.client()));
    tokio::spawn(async move {
        let mut jobs = std::pin::pin!(watcher(jobs, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(job) = jobs.next().await {
            let Ok(job) = job else { continue };
            seen.lock().expect("not poisoned").entry(job.name_any()).or_insert_with(Instant::now);
        }
    });
    made
}

async fn prepare(cluster: &Cluster, size: &Size) -> Result<()> {
    let online = json!({ "redis": { "urlSecret": { "name": "redis", "key": "url" } } });
    let offline = json!({ "uri": "s3://bucket/tables", "credentialsSecret": "s3" });
    let store = json!({ "offline": offline, "online": online, "maxConcurrentBackfills": size.slots });
    cluster.apply(&manifest("FeatureStore", "default", store).to_string()).await?;
    let template = json!({ "engine": "DataFusion", "cores": 1, "memory": "1Gi" });
    cluster.apply(&manifest("ClusterTemplate", "small", template).to_string()).await?;
    let api: Api<FeatureSet> = Api::default_namespaced(cluster.client());
    let spec = json!({
        "entities": [{ "name": "user_id", "type": "int64" }], "timestampColumn": "t", "features": [{ "name": "amount", "type": "int64" }],
        "sources": [{ "name": "raw", "parquet": { "uri": "s3://bucket/raw/" } }],
        "transformation": { "sql": "SELECT user_id, t, amount FROM raw" },
    });
    stream::iter(0..size.sets)
        .map(|n| {
            let (api, set) = (api.clone(), manifest("FeatureSet", &format!("set-{n}"), spec.clone()));
            async move { api.create(&PostParams::default(), &serde_json::from_value(set)?).await.map_err(anyhow::Error::from) }
        })
        .buffer_unordered(POSTS_MAX)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    // The operator has judged them all.
    loop {
        let sets = api.list(&ListParams::default()).await?;
        if sets.iter().all(|set| set.status.as_ref().is_some_and(|status| status.observed_generation.is_some())) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn post(api: &Api<FeatureSetBackfill>, name: &str, set: usize) -> Result<()> {
    let spec = json!({ "featureSet": format!("set-{set}"), "startTime": "2024-05-01", "stopTime": "2024-06-01" });
    let backfill = serde_json::from_value(manifest("FeatureSetBackfill", name, spec))?;
    api.create(&PostParams::default(), &backfill).await.map(drop).with_context(|| format!("create {name}"))
}

/// From the request that creates a backfill to the moment at which its first Job is seen, in milliseconds, in order.
async fn latencies(cluster: &Cluster, made: &Made) -> Result<Vec<f64>> {
    let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
    let mut found = Vec::new();
    for run in 0..IDLE_RUNS {
        let name = format!("idle-{run}");
        let began = Instant::now();
        post(&api, &name, run).await?;
        let job = loop {
            let seen = made
                .lock()
                .expect("not poisoned")
                .iter()
                .find(|(job, _)| job.starts_with(&format!("{name}-offline")))
                .map(|(_, at)| *at);
            match seen {
                Some(at) => break at,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        found.push((job - began).as_secs_f64() * 1e3);
        kube::runtime::wait::await_condition(api.clone(), &name, is_complete).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    found.sort_by(f64::total_cmp);
    Ok(found)
}

fn is_complete(backfill: Option<&FeatureSetBackfill>) -> bool {
    in_phase("Complete")(backfill)
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // Few values.
    let at = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[at]
}

async fn post_all(cluster: &Cluster, size: &Size) -> Result<()> {
    let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
    stream::iter(0..size.backfills)
        .map(|n| {
            let (api, sets) = (api.clone(), size.sets);
            async move { post(&api, &format!("b-{n}"), n % sets).await }
        })
        .buffer_unordered(POSTS_MAX)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}

/// Waits for all backfills, telling how far they are.
async fn finish(cluster: &Cluster, size: &Size, began: Instant) -> Result<()> {
    let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
    let mut complete = std::collections::HashSet::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    let mut told = Instant::now();
    while complete.len() < size.finish {
        let Some(backfill) = events.next().await else { anyhow::bail!("the watch has ended") };
        let Ok(backfill) = backfill else { continue };
        if is_complete(Some(&backfill)) && backfill.name_any().starts_with("b-") {
            complete.insert(backfill.name_any());
        }
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            eprintln!("{} of {} after {:.0} s", complete.len(), size.finish, began.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

async fn status_bytes(cluster: &Cluster) -> Result<f64> {
    let api: Api<FeatureSetBackfill> = Api::default_namespaced(cluster.client());
    let some = api.list(&ListParams::default().limit(200)).await?;
    let bytes: usize = some.iter().map(|backfill| serde_json::to_string(&backfill.status).map_or(0, |json| json.len())).sum();
    Ok(bytes as f64 / some.items.len() as f64)
}

/// What the operator has used so far.
struct Figures {
    cpu: f64,
    peak: f64,
    resident: f64,
    metrics: String,
}

impl Figures {
    async fn of(operator: &Operator) -> Result<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", operator.id()));
        let stat = read("stat")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = read("status")?;
        let mib = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name)).context("a field of /proc")?;
            Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
        };
        // A tick is 10 ms on every Linux that Rust runs on.
        Ok(Self { cpu: ticks / 100.0, peak: mib("VmHWM")?, resident: mib("VmRSS")?, metrics: operator.get("/metrics").await? })
    }

    fn requests(&self, verb: &str) -> f64 {
        let of_verb =
            self.metrics.lines().filter(|line| line.starts_with(&format!("featureset_api_requests_total{{method=\"{verb}\"")));
        of_verb.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
