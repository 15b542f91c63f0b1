//! Helm, as it waits for a release that contains a backfill.

use crate::world::{environment, in_phase, installed};
use anyhow::{Result, ensure};
use backfill_core::condition::Reason;
use backfill_e2e::Act;
use k8s_openapi::api::core::v1::Pod;
use std::time::{Duration, Instant};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/fixtures/release");

#[test]
fn helm_waits_until_the_backfill_is_complete_and_not_longer_when_it_failed() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        let name = namespace.name().to_owned();
        let script = shared.kubelet.script();
        let rule = script.set(move |pod| pod.metadata.namespace.as_ref() == Some(&name), Act::run());
        let upgrade = async |run: &str| {
            let run_id = format!("runId={run}");
            let arguments = [
                "upgrade",
                "--install",
                "pipeline",
                CHART,
                "--namespace",
                namespace.name(),
                "--wait",
                "--timeout",
                "120s",
                "--set-string",
                &run_id,
            ];
            shared.cluster.helm(&arguments).await
        };

        let mut waiting = std::pin::pin!(upgrade("1"));
        tokio::select! {
            ended = &mut waiting => anyhow::bail!("it did not wait: {ended:?}"),
            running = in_phase(&namespace, "pipeline", "Running") => drop(running?),
        }
        // Helm looks every two seconds: it has looked at a backfill that runs.
        ensure!(tokio::time::timeout(Duration::from_secs(5), &mut waiting).await.is_err(), "it did not wait");
        rule.remove();
        let output = waiting.await?;
        ensure!(output.success, "{}", output.stderr);
        in_phase(&namespace, "pipeline", "Complete").await?;

        let began = Instant::now();
        let name = namespace.name().to_owned();
        let offline = move |pod: &Pod| {
            let step = pod.metadata.labels.as_ref().and_then(|labels| labels.get("featureset.dev/step"));
            pod.metadata.namespace.as_ref() == Some(&name) && step.is_some_and(|step| step == "offline")
        };
        script.set(offline, Act::fail(Reason::ShrinkGuard, "5 rows would replace 100", false));
        let output = upgrade("2").await?;
        ensure!(!output.success && began.elapsed() < Duration::from_secs(60), "{:?}: {output:?}", began.elapsed());
        ensure!(output.stderr.contains("pipeline"), "{}", output.stderr);
        in_phase(&namespace, "pipeline", "Failed").await.map(drop)
    })
}
