//! Whether the resources are served as this operator knows them.

use anyhow::{Context, bail};
use axum::http::Request;
use backfill_core::api::{GROUP, lacking};
use kube::Client;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// A changed definition is served at once, and described a moment later.
const DESCRIBED_AFTER: Duration = Duration::from_secs(15);

/// How often its description is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How many fields are named.
const NAMED: usize = 5;

/// What to do about it.
const WAY_OUT: &str = "install the CustomResourceDefinitions that belong to this operator (crds/)";

/// What an operator writes into fields that are not served is lost: it does not begin where its version of the resources is not
/// served, or where one of its fields is not.
pub async fn refuse_older(client: &Client) -> anyhow::Result<()> {
    let group = format!("{GROUP}/v1alpha1");
    let served = client.list_api_group_resources(&group).await.with_context(|| format!("{group} is not served; {WAY_OUT}"))?;
    for plural in ["clustertemplates", "featuresetbackfills", "featuresets", "featurestores"] {
        if !served.resources.iter().any(|resource| resource.name == plural) {
            bail!("{plural}.{GROUP} is not served in version v1alpha1; {WAY_OUT}");
        }
    }
    let began = Instant::now();
    loop {
        let lacking = lacking(&description(client).await?);
        if lacking.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= DESCRIBED_AFTER {
            let more = lacking.len().saturating_sub(NAMED);
            let and = if more > 0 { format!(" and {more} more") } else { String::new() };
            let fields = lacking[..lacking.len().min(NAMED)].join(", ");
            bail!("the installed definitions of {GROUP} are older than this operator and lack {fields}{and}; {WAY_OUT}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The resources in OpenAPI v3; nothing when they are not described yet.
async fn description(client: &Client) -> anyhow::Result<Value> {
    let request = Request::get(format!("/openapi/v3/apis/{GROUP}/v1alpha1")).body(Vec::new())?;
    match client.request(request).await {
        // This path answers in plain text, of which no reason can be read.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        described => described.with_context(|| format!("cannot read how {GROUP} is described (/openapi/v3)")),
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIBED_AFTER, refuse_older};
    use anyhow::{Context, Result, ensure};
    use axum::http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use tower::service_fn;

    /// An API server that serves the resources and describes none of them, as it answers just after they were installed.
    fn undescribed() -> Client {
        const SERVED: &str = r#"{"kind": "APIResourceList", "groupVersion": "featureset.dev/v1alpha1", "resources": [
            {"name": "clustertemplates", "singularName": "", "namespaced": false, "kind": "ClusterTemplate", "verbs": []},
            {"name": "featuresetbackfills", "singularName": "", "namespaced": true, "kind": "FeatureSetBackfill", "verbs": []},
            {"name": "featuresets", "singularName": "", "namespaced": true, "kind": "FeatureSet", "verbs": []},
            {"name": "featurestores", "singularName": "", "namespaced": true, "kind": "FeatureStore", "verbs": []}]}"#;
        let server = service_fn(async |request: Request<Body>| {
            let described = request.uri().path().starts_with("/openapi/");
            let (status, body) = if described { (404, "404 page not found\n") } else { (200, SERVED) };
            Response::builder().status(status).body(Body::from(body.as_bytes().to_vec()))
        });
        Client::new(server, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_description_that_is_late_is_waited_for() -> Result<()> {
        let began = tokio::time::Instant::now();
        let refused = refuse_older(&undescribed()).await.err().context("what is never described is refused")?;
        ensure!(format!("{refused:#}").contains("are older than this operator and lack"), "{refused:#}");
        ensure!(began.elapsed() >= DESCRIBED_AFTER, "gave up after {:?}", began.elapsed());
        Ok(())
    }
}
