//! Tells how far the step is: `GET /progress` as JSON, `GET /metrics` for Prometheus.
//!
//! Two fixed answers to whoever may reach the pod; what is asked besides is not looked at. Nothing depends on it.

use backfill_core::contract::{Progress, Step};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A peer that does not send its request at once is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request's first line is enough.
const REQUEST_BYTES_MAX: usize = 1024;

/// Serves at all addresses of the pod, of whichever kind, until the process ends.
pub async fn serve(port: u16, step: Step, progress: watch::Receiver<Progress>) {
    let addresses = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)];
    match TcpListener::bind(&addresses.map(|address| SocketAddr::new(address, port))[..]).await {
        Ok(listener) => serve_on(listener, step, progress).await,
        Err(error) => tracing::warn!(%error, port, "progress is not served"),
    }
}

/// Serves on a listener, one peer after the other.
pub async fn serve_on(listener: TcpListener, step: Step, progress: watch::Receiver<Progress>) {
    while let Ok((peer, _)) = listener.accept().await {
        let now = progress.borrow().clone();
        // A peer that goes away or dawdles gets no answer.
        let _ = tokio::time::timeout(PATIENCE, answer(peer, step, &now)).await;
    }
}

async fn answer(mut peer: TcpStream, step: Step, progress: &Progress) -> std::io::Result<()> {
    let mut request = [0; REQUEST_BYTES_MAX];
    let read = peer.read(&mut request).await?;
    let (status, kind, body) = match request[..read].split(|byte| *byte == b' ').nth(1) {
        Some(b"/progress") => ("200 OK", "application/json", serde_json::to_string(progress)?),
        Some(b"/metrics") => ("200 OK", "text/plain; version=0.0.4", metrics(step, progress)),
        _ => ("404 Not Found", "text/plain", "try /progress or /metrics\n".to_owned()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    peer.write_all(head.as_bytes()).await?;
    peer.write_all(body.as_bytes()).await?;
    peer.shutdown().await
}

/// In Prometheus' text format.
fn metrics(step: Step, Progress { stage, done, total, rows }: &Progress) -> String {
    let labels = format!("{{step=\"{step}\",stage=\"{stage}\"}}");
    let gauge = |name: &str, help: &str, value: u64| {
        format!(
            "# HELP featureset_step_{name} {help}\n# TYPE featureset_step_{name} gauge\nfeatureset_step_{name}{labels} {value}\n"
        )
    };
    gauge("parts_done", "Windows or buckets done in this stage.", *done)
        + &gauge("parts", "Windows or buckets in this stage.", *total)
        + &gauge("rows", "Rows or entities written in this stage.", *rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let now = Progress { stage: "staging".to_owned(), done: 3, total: 12, rows: 77 };
        let (_sender, progress) = watch::channel(now);
        tokio::spawn(serve_on(listener, Step::Offline, progress));
        let mut peer = TcpStream::connect(address).await.expect("a connection");
        peer.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("written");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn progress_is_told_as_json() {
        let answer = get("/progress").await;
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let read: Progress = serde_json::from_str(body).expect("progress");
        assert_eq!((read.done, read.total, read.rows, read.stage.as_str()), (3, 12, 77, "staging"));
    }

    #[tokio::test]
    async fn metrics_carry_step_and_stage() {
        let answer = get("/metrics").await;
        assert!(answer.contains("featureset_step_parts_done{step=\"offline\",stage=\"staging\"} 3\n"), "{answer}");
        assert!(answer.contains("# TYPE featureset_step_rows gauge\n"), "{answer}");
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        assert!(get("/").await.starts_with("HTTP/1.1 404 "));
    }
}
