//! The operator on a machine whose clock is wrong.

use crate::process::cluster;
use crate::world::of_may;
use anyhow::{Context, Result};
use backfill_core::api::FeatureSetBackfill;
use backfill_e2e::{Act, Operator, OperatorOptions, eventually, in_phase, manifest, until};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long nothing must happen, so that it is clear that nothing does.
const NOTHING: Duration = Duration::from_secs(3);

/// An operator for which it is so much later.
fn operator(kubeconfig: &std::path::Path, offset: &str) -> Result<Operator> {
    let library = ["x86_64", "aarch64"].map(|cpu| format!("/usr/lib/{cpu}-linux-gnu/faketime/libfaketime.so.1"));
    let library = library.into_iter().find(|path| std::path::Path::new(path).exists());
    let library = library.context("Debian's faketime is missing: sudo apt-get install faketime")?;
    // Only the clock that tells the time is wrong; the one that measures how long something takes is right.
    let environment = [("LD_PRELOAD", library.as_str()), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Operator::start(kubeconfig, &OperatorOptions { environment, ..OperatorOptions::default() })
}

fn near(time: &str) -> Result<bool> {
    Ok((Utc::now() - DateTime::parse_from_rfc3339(time)?.to_utc()).num_seconds().abs() < 120)
}

#[test]
fn a_clock_that_is_wrong_by_an_hour_changes_nothing() -> Result<()> {
    crate::world::test(async |_| {
        for offset in ["+1h", "-1h"] {
            let (cluster, kubelet) = cluster().await?;
            let operator = operator(cluster.kubeconfig(), offset)?;
            let (backfills, pods): (Api<FeatureSetBackfill>, Api<Pod>) =
                (Api::namespaced(cluster.client(), "default"), Api::namespaced(cluster.client(), "default"));
            let rule = kubelet.script().set(|_| true, Act::run().hanging());
            cluster.apply(&manifest("FeatureSetBackfill", "first", of_may(json!({}))).to_string()).await?;
            let first =
                until(&backfills, "first", in_phase("Running")).await?.and_then(|first| first.status).context("a status")?;
            assert!(near(&first.resolved.context("pinned")?.now)?, "{offset}");
            assert!(near(&first.held.and_then(|held| held.since).context("held")?)?, "{offset}");
            cluster.apply(&manifest("FeatureSetBackfill", "second", of_may(json!({}))).to_string()).await?;
            until(&backfills, "second", in_phase("Queued")).await?;
            backfills.patch("first", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "suspend": true } }))).await?;
            let leaves = async || {
                let pods = pods.list(&ListParams::default()).await?;
                Ok(pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(()))
            };
            eventually("the pod to be told to end", leaves).await?;
            // It hangs. With a clock that is ahead, it would have hung for an hour and be taken for lost.
            let since = Instant::now();
            while since.elapsed() < NOTHING {
                let second = backfills.get("second").await?;
                assert!(in_phase("Queued")(Some(&second)), "{offset}: {:?}", second.status);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            rule.change(Act::run());
            until(&backfills, "first", in_phase("Suspended")).await?;
            rule.remove();
            until(&backfills, "second", in_phase("Complete")).await?;
            let told = operator.log().contains("this machine's clock is ahead of the API server's");
            assert!(told, "{offset}: {}", operator.log());
        }
        Ok(())
    })
}
