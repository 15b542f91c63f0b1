//! What Prometheus is told. No label names an object of which there may be many: feature sets yes, backfills no.

use crate::shell::lock;
use backfill_core::api::{Engine, FeatureSetBackfill, FeatureSetBackfillStatus};
use backfill_core::condition::{Condition, ConditionStatus, ConditionType, Reason, is_true};
use backfill_core::plan::Announcement;
use backfill_core::plan::run::{Run, mode_word};
use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    runs: Family<RunLabels, Counter>,
    durations: Family<ModeLabels, Histogram>,
    rows: Family<RowLabels, Counter>,
    last_success: Family<FeatureSetLabels, Gauge<f64, AtomicU64>>,
    online_behind: Family<FeatureSetLabels, Gauge>,
    /// When the run ended of which the two before tell.
    told: Mutex<HashMap<FeatureSetLabels, DateTime<Utc>>>,
    /// Backfills that hold their feature set.
    pub active: Gauge,
    /// Backfills that wait for their turn.
    pub queued: Gauge,
    reconciles: Family<ResultLabels, Counter>,
    reconcile_durations: Histogram,
    reconcile_errors: Family<ReasonLabels, Counter>,
    leader: Gauge,
    requests: Family<RequestLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RunLabels {
    namespace: String,
    feature_set: String,
    mode: String,
    engine: String,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModeLabels {
    mode: String,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RowLabels {
    namespace: String,
    feature_set: String,
    store: String,
    op: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FeatureSetLabels {
    namespace: String,
    feature_set: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

/// From a second to 24 hours and more.
fn run_buckets() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 18))
}

impl Metrics {
    /// With everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            runs: Family::default(),
            durations: Family::new_with_constructor(run_buckets as fn() -> Histogram),
            rows: Family::default(),
            last_success: Family::default(),
            online_behind: Family::default(),
            told: Mutex::default(),
            active: Gauge::default(),
            queued: Gauge::default(),
            reconciles: Family::default(),
            reconcile_durations: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            reconcile_errors: Family::default(),
            leader: Gauge::default(),
            requests: Family::default(),
            registry: Registry::default(),
        };
        let backfills = registry.sub_registry_with_prefix("featureset_backfill");
        backfills.register("runs", "Ended runs", metrics.runs.clone());
        backfills.register_with_unit(
            "duration",
            "From taking the feature set to the end",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        backfills.register("rows", "Rows and entities written, removed or kept", metrics.rows.clone());
        backfills.register_with_unit(
            "last_success_timestamp",
            "When a run last ended well",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        let behind = "1 while the last run of both stores replaced the offline table alone";
        backfills.register("online_behind", behind, metrics.online_behind.clone());
        backfills.register("active", "Backfills that hold their feature set", metrics.active.clone());
        backfills.register("queued", "Backfills that wait for their turn", metrics.queued.clone());
        registry.register("controller_reconcile", "Reconciles", metrics.reconciles.clone());
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "controller_reconcile_duration",
            "Duration of a reconcile",
            seconds,
            metrics.reconcile_durations.clone(),
        );
        registry.register("controller_reconcile_errors", "Reconciles that failed", metrics.reconcile_errors.clone());
        registry.register("featureset_api_requests", "Requests to the API server, watches included", metrics.requests.clone());
        registry.register("leader_election_master_status", "1 while this process leads", metrics.leader.clone());
        registry.register("build", "The build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Self { registry, ..metrics }
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(plain(&text))
    }

    /// One request to the API server.
    pub fn requested(&self, method: &str) {
        self.requests.get_or_create(&RequestLabels { method: method.to_owned() }).inc();
    }

    /// Whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// One reconcile; `error` is its reason in one word.
    pub fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.reconcile_durations.observe(took.as_secs_f64());
        let result = if error.is_some() { "error" } else { "success" };
        self.reconciles.get_or_create(&ResultLabels { result: result.to_owned() }).inc();
        if let Some(reason) = error {
            self.reconcile_errors.get_or_create(&ReasonLabels { reason: reason.to_owned() }).inc();
        }
    }

    /// What the backfills say that ended before this process began: what a gauge tells must not end with a process.
    pub fn remember(&self, backfills: &[Arc<FeatureSetBackfill>]) {
        let mut ended: Vec<_> = backfills.iter().filter_map(|backfill| Some((ended_at(backfill)?, backfill))).collect();
        ended.sort_by_key(|(at, _)| *at);
        for (at, backfill) in ended {
            let run = Run::of(backfill);
            let set = FeatureSetLabels { namespace: run.namespace.to_owned(), feature_set: run.feature_set.to_owned() };
            backfill.status.iter().for_each(|status| self.stands(set.clone(), status, at));
        }
    }

    /// How a feature set stands after a run; older news do not count.
    fn stands(&self, set: FeatureSetLabels, status: &FeatureSetBackfillStatus, at: DateTime<Utc>) {
        let mut told = lock(&self.told);
        let newest = told.entry(set.clone()).or_insert(at);
        if *newest > at {
            return;
        }
        *newest = at;
        let is = |kind| is_true(&status.conditions, kind);
        match (is(ConditionType::OfflineReplaced), is(ConditionType::OnlineReplaced)) {
            (_, true) => drop(self.online_behind.get_or_create(&set).set(0)),
            (true, false) if !is(ConditionType::Complete) => drop(self.online_behind.get_or_create(&set).set(1)),
            (true | false, false) => {}
        }
        if is(ConditionType::Complete) {
            #[allow(clippy::cast_precision_loss)] // Seconds of this age fit.
            self.last_success.get_or_create(&set).set(at.timestamp() as f64);
        }
    }

    /// Counts what a status change announces.
    pub fn count(
        &self,
        run: &Run<'_>,
        engine: Option<Engine>,
        status: &FeatureSetBackfillStatus,
        said: &[Announcement],
        now: DateTime<Utc>,
    ) {
        for announcement in said {
            let result = match announcement.kind {
                ConditionType::Complete => "complete",
                ConditionType::Failed if announcement.reason == Reason::Cancelled => "cancelled",
                ConditionType::Failed => "failed",
                ConditionType::Ready => "planned",
                _ => continue,
            };
            self.ended(run, engine, status, result, now);
        }
    }

    fn ended(&self, run: &Run<'_>, engine: Option<Engine>, status: &FeatureSetBackfillStatus, result: &str, now: DateTime<Utc>) {
        let (namespace, feature_set) = (run.namespace.to_owned(), run.feature_set.to_owned());
        let mode = mode_word(run.mode).to_owned();
        let engine = engine.map_or_else(|| "none".to_owned(), |engine| format!("{engine:?}"));
        let labels = RunLabels {
            namespace: namespace.clone(),
            feature_set: feature_set.clone(),
            mode: mode.clone(),
            engine,
            result: result.to_owned(),
        };
        self.runs.get_or_create(&labels).inc();
        if let Some(began) = status.resolved.as_ref().and_then(|resolved| DateTime::parse_from_rfc3339(&resolved.now).ok()) {
            let took = (now - began.to_utc()).as_seconds_f64().max(0.0);
            self.durations.get_or_create(&ModeLabels { mode, result: result.to_owned() }).observe(took);
        }
        self.stands(FeatureSetLabels { namespace: namespace.clone(), feature_set: feature_set.clone() }, status, now);
        if result != "complete" {
            return;
        }
        let offline = status
            .offline
            .iter()
            .flat_map(|report| [("offline", "removed", report.rows_removed), ("offline", "written", report.rows_written)]);
        let online = status.online.iter().flat_map(|report| {
            let kept = report.entities_kept_newer + report.entities_kept_live;
            [
                ("online", "written", report.entities_updated),
                ("online", "removed", report.entities_removed),
                ("online", "skipped_newer", kept),
            ]
        });
        for (store, op, rows) in offline.chain(online) {
            let (namespace, feature_set) = (namespace.clone(), feature_set.clone());
            let labels = RowLabels { namespace, feature_set, store: store.to_owned(), op: op.to_owned() };
            self.rows.get_or_create(&labels).inc_by(rows);
        }
    }
}

/// OpenMetrics as every scraper and `promtool` read it: counters are named as their samples are, and nothing is an `info`.
fn plain(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let suffixes: HashMap<&str, &str> = types
        .filter_map(|(name, kind)| match kind {
            "counter" => Some((name, "_total")),
            "info" => Some((name, "_info")),
            _ => None,
        })
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let about = ["# HELP ", "# TYPE "].into_iter().find_map(|head| Some((head, line.strip_prefix(head)?.split_once(' ')?)));
        match about {
            Some((head, (name, rest))) => {
                let rest = if head == "# TYPE " && rest == "info" { "gauge" } else { rest };
                text.extend([head, name, suffixes.get(name).unwrap_or(&""), " ", rest]);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// When a run ended.
fn ended_at(backfill: &FeatureSetBackfill) -> Option<DateTime<Utc>> {
    let ends = |condition: &&Condition| matches!(condition.kind, ConditionType::Complete | ConditionType::Failed);
    let conditions = &backfill.status.as_ref()?.conditions;
    let end = conditions.iter().filter(ends).find(|condition| condition.status == ConditionStatus::True)?;
    DateTime::parse_from_rfc3339(&end.last_transition_time).ok().map(|at| at.to_utc())
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
