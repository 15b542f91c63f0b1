//! How far a pod says it is. Best effort, and never used for a decision.

use backfill_core::contract::Progress;
use backfill_core::plan::manifest::PROGRESS_PORT;
use backfill_core::plan::phase;
use backfill_core::plan::run::label;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A pod that does not answer at once is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// No answer is longer.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Asks the pod that leads the others, if it runs.
pub async fn of(pods: &[Pod]) -> Option<Progress> {
    let address = address(pods)?;
    tokio::time::timeout(PATIENCE, ask(&address)).await.ok()?.ok()
}

fn address(pods: &[Pod]) -> Option<String> {
    let leads = |pod: &&Pod| pod.labels().get(label::INDEX).is_none_or(|index| index == "0");
    pods.iter().filter(|pod| phase(pod) == "Running").find(leads)?.status.as_ref()?.pod_ip.clone()
}

async fn ask(address: &str) -> std::io::Result<Progress> {
    let port = u16::try_from(PROGRESS_PORT).expect("a port");
    let mut connection = TcpStream::connect((address, port)).await?;
    let request = format!("GET /progress HTTP/1.0\r\nHost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(&[][..], |end| &answer[end + 4..]);
    Ok(serde_json::from_slice(body)?)
}
