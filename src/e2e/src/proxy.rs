//! A reverse proxy between a program and the API server: a test sees every request, and decides what becomes of it.
//!
//! Knows HTTP and how the API server's paths are made; which faults there are is the test's affair.

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The connection is closed, and no reply is sent.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is closed without a reply")
    }
}

impl std::error::Error for Cut {}

impl From<anyhow::Error> for Cut {
    fn from(_: anyhow::Error) -> Self {
        Self
    }
}

/// What the program gets. It may go on for as long as a watch does.
pub type Reply = Response<UnsyncBoxBody<Bytes, Cut>>;

/// A request of the program.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path, and what follows a question mark.
    pub target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    async fn read(request: Request<Incoming>) -> Result<Self, Cut> {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let kept = [ACCEPT, CONTENT_TYPE].into_iter().filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone())));
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        Ok(Self { method: parts.method, target, headers: kept.collect(), body })
    }

    /// What the path says after group, version and namespace: `jobs`, `jobs/a`, `jobs/a/status`.
    pub fn object(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        let rest = path.strip_prefix("/api/").or_else(|| path.strip_prefix("/apis/").and_then(after_segment)).unwrap_or(path);
        let rest = after_segment(rest).unwrap_or_default();
        match rest.strip_prefix("namespaces/").and_then(after_segment) {
            Some(in_namespace) => in_namespace,
            None => rest,
        }
    }

    /// The kind of objects, in the plural.
    pub fn kind(&self) -> &str {
        self.object().split('/').next().unwrap_or_default()
    }

    /// Whether it wants to be told of changes for as long as the connection lasts.
    pub fn watches(&self) -> bool {
        self.method == Method::GET && self.target.contains("watch=")
    }

    /// Whether it reads all objects of a kind.
    pub fn lists(&self) -> bool {
        self.method == Method::GET && !self.watches() && !self.object().contains('/')
    }
}

fn after_segment(path: &str) -> Option<&str> {
    path.split_once('/').map(|(_, rest)| rest)
}

/// The API server behind the proxy.
#[derive(Clone)]
pub struct Server {
    client: Client,
}

impl Server {
    /// Sends a request on. The reply streams.
    pub async fn forward(&self, asked: &Asked) -> Result<Reply> {
        let mut request =
            Request::builder().method(asked.method.clone()).uri(&asked.target).body(Body::from(asked.body.clone()))?;
        *request.headers_mut() = asked.headers.clone();
        let (parts, body) = self.client.send(request).await?.into_parts();
        let mut reply = Response::builder().status(parts.status);
        for name in [CONTENT_TYPE, RETRY_AFTER] {
            if let Some(value) = parts.headers.get(&name) {
                reply = reply.header(name, value);
            }
        }
        Ok(reply.body(body.map_err(|_| Cut).boxed_unsync())?)
    }

    /// Sends a request on and waits for the end of the reply: what was asked for has been done.
    pub async fn forward_wholly(&self, asked: &Asked) -> Result<Response<Bytes>> {
        let (parts, body) = self.forward(asked).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}

/// A reply that was read before.
pub fn whole(reply: Response<Bytes>) -> Reply {
    reply.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// The API server's refusal of a request.
pub fn refusal(code: u16, reason: &str, retry_after: Option<u32>) -> Reply {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": "refused by the test", "details": { "retryAfterSeconds": retry_after.unwrap_or(0) },
    });
    let reply = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    let reply = match retry_after {
        Some(seconds) => reply.header(RETRY_AFTER, seconds),
        None => reply,
    };
    whole(reply.body(Bytes::from(status.to_string())).expect("a code of HTTP"))
}

/// The events of a watch, one after the other.
pub fn events(reply: Reply) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
    let chunks = reply.into_body().into_data_stream();
    let lines = chunks.scan(Vec::new(), |rest: &mut Vec<u8>, chunk| {
        let ready = chunk.map(|chunk| {
            rest.extend_from_slice(&chunk);
            let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            Bytes::from(rest.drain(..end).collect::<Vec<u8>>())
        });
        std::future::ready(Some(ready))
    });
    lines.filter(|lines| std::future::ready(!matches!(lines, Ok(lines) if lines.is_empty())))
}

/// A reply to a watch.
pub fn watched(events: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Reply {
    let body = StreamBody::new(events.map(|event| event.map(Frame::data))).boxed_unsync();
    Response::builder().header(CONTENT_TYPE, "application/json").body(body).expect("a reply")
}

/// The event with which the API server ends a watch that it cannot go on with.
pub fn gone() -> Bytes {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version",
    });
    Bytes::from(format!("{}\n", json!({ "type": "ERROR", "object": status })))
}

/// A running proxy, plain HTTP on the loopback address. Its connections are closed on drop.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one. `meddle` is asked about every request; without ideas of its own it forwards.
    pub async fn start<F, R>(client: Client, meddle: F) -> Result<Self>
    where
        F: Fn(Asked, Server) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply, Cut>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for a proxy")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (meddle, server) = (Arc::new(meddle), Server { client });
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection, Arc::clone(&meddle), server.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, task })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F, R>(connection: TcpStream, meddle: Arc<F>, server: Server)
where
    F: Fn(Asked, Server) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Cut>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let (meddle, server) = (Arc::clone(&meddle), server.clone());
        async move { meddle(Asked::read(request).await?, server).await }
    });
    // An error is a connection that was cut, by us or by a program that was killed.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
