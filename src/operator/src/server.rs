//! `/healthz`, `/readyz` and `/metrics`.

use crate::caches::{Caches, Health};
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A watch that has failed for so long, or has not told of a write of ours for so long, is dead.
const DEAF_AFTER: Duration = Duration::from_secs(60);

/// A watch that fails is tried again; only after this long a new process may do better.
const FAILING_AFTER: Duration = Duration::from_secs(300);

/// What the probes ask about.
#[derive(Clone)]
pub struct Probes {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether watches fail.
    pub health: Arc<Health>,
    /// The caches, once this process leads.
    pub caches: Arc<OnceLock<Vec<Arc<Caches>>>>,
    /// Whether the process can do its work: it leads and has seen everything, or it stands by.
    pub ready: Arc<AtomicBool>,
}

impl Probes {
    /// Before anything has begun.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, health: Arc::default(), caches: Arc::default(), ready: Arc::default() }
    }

    /// Why the process should be started anew.
    pub fn ills(&self) -> Vec<String> {
        let mut ills: Vec<String> =
            self.health.failing(FAILING_AFTER).into_iter().map(|kind| format!("the watch of {kind} fails")).collect();
        for caches in self.caches.get().into_iter().flatten() {
            let written = &caches.written;
            let behind = [
                ("FeatureSetBackfill", written.backfills.behind(&caches.backfills)),
                ("FeatureSet", written.feature_sets.behind(&caches.feature_sets)),
                ("FeatureStore", written.stores.behind(&caches.stores)),
            ];
            let deaf = behind.into_iter().filter(|(_, behind)| behind.is_some_and(|behind| behind >= DEAF_AFTER));
            ills.extend(deaf.map(|(kind, _)| format!("the watch of {kind} does not deliver what was written")));
        }
        ills
    }

    /// The server's routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn healthz(State(probes): State<Probes>) -> (StatusCode, String) {
    match probes.ills() {
        ills if ills.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
        ills => (StatusCode::SERVICE_UNAVAILABLE, ills.join("\n")),
    }
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    match probes.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the caches are being filled\n"),
    }
}

async fn metrics(State(probes): State<Probes>) -> Result<String, StatusCode> {
    probes.metrics.text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
