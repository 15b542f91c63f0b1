//! `dashboard`: a read-only page of all backfills, served on loopback with the user's own rights, or written to a file.

use crate::args::{Connection, Everywhere};
use crate::failure::{Exit, Failure, Result};
use crate::list::Place;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use backfill_core::api::{FeatureSet, FeatureSetBackfill};
use chrono::Utc;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// The page. It asks for nothing but `data.json`.
const PAGE: &str = include_str!("dashboard/page.html");

/// What stands before a snapshot in the page.
const SNAPSHOT: &str = r#"id="snapshot" nonce="NONCE">"#;

/// What stands for a random value in the page.
const NONCE: &str = "NONCE";

/// What the page shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot<'a> {
    generated_at: String,
    context: Option<&'a str>,
    namespace: Option<&'a str>,
    feature_sets: Vec<FeatureSet>,
    backfills: Vec<FeatureSetBackfill>,
}

/// What is looked at, and the address under which the page may be asked for.
struct Served {
    place: Place,
    hosts: [String; 2],
}

/// `dashboard`.
pub async fn dashboard(connection: &Connection, port: u16, output: Option<PathBuf>, selection: &Everywhere) -> Result<Exit> {
    let place = Place::of(connection, selection).await?;
    // Who may not look at all hears it here, not in the browser.
    let snapshot = snapshot(&place).await?;
    match output {
        Some(path) => write(&path, &snapshot),
        None => serve(place, port).await,
    }
}

async fn snapshot(place: &Place) -> Result<String> {
    let (api, params) = (place.api::<FeatureSet>(), kube::api::ListParams::default());
    let (sets, backfills) = tokio::join!(place.cluster.list("feature sets", &api, &params), place.backfills());
    let (mut feature_sets, mut backfills) = (sets?, backfills?);
    feature_sets.iter_mut().for_each(|set| set.metadata.managed_fields = None);
    backfills.iter_mut().for_each(|backfill| backfill.metadata.managed_fields = None);
    let snapshot = Snapshot {
        generated_at: Utc::now().to_rfc3339(),
        context: place.cluster.context.as_deref(),
        namespace: place.namespace.as_deref(),
        feature_sets,
        backfills,
    };
    serde_json::to_string(&snapshot).map_err(|error| Failure::new(format!("cannot write the snapshot: {error}")))
}

fn write(path: &Path, snapshot: &str) -> Result<Exit> {
    // Within a script element, only `<` could end it.
    let data = snapshot.replace('<', "\\u003c");
    let nonce = nonce();
    let (before, after) = PAGE.split_once(SNAPSHOT).unwrap_or((PAGE, ""));
    let page = [&fill(before, &nonce), &fill(SNAPSHOT, &nonce), data.as_str(), &fill(after, &nonce)].concat();
    std::fs::write(path, page).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    eprintln!("Wrote {}.", path.display());
    Ok(Exit::Ok)
}

fn fill(part: &str, nonce: &str) -> String {
    part.replace(NONCE, nonce)
}

fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

async fn serve(place: Place, port: u16) -> Result<Exit> {
    let taken = |error| {
        Failure::new(format!("cannot listen on 127.0.0.1:{port}: {error}"))
            .hint("take another one: --port 0 chooses any that is free")
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(taken)?;
    let port = listener.local_addr().map_err(taken)?.port();
    let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    println!("http://{}/", hosts[0]);
    eprintln!("Serving until interrupted.");
    let served = Arc::new(Served { place, hosts });
    let routes = Router::new()
        .route("/", get(index))
        .route("/data.json", get(data))
        .layer(from_fn_with_state(Arc::clone(&served), only_here))
        .with_state(served);
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    let ended = axum::serve(listener, routes).with_graceful_shutdown(interrupted).await;
    ended.map(|()| Exit::Ok).map_err(|error| Failure::new(format!("the dashboard ended: {error}")))
}

/// Answers only those who ask for this address: a page elsewhere cannot read the cluster by a name that points here.
async fn only_here(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match served.hosts.iter().any(|known| known == host) {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "ask for 127.0.0.1 or localhost\n").into_response(),
    }
}

async fn index() -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, fill(PAGE, &nonce)).into_response()
}

async fn data(State(served): State<Arc<Served>>) -> Response {
    match snapshot(&served.place).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json).into_response(),
        Err(failure) => (StatusCode::BAD_GATEWAY, Body::from(failure.to_string())).into_response(),
    }
}
