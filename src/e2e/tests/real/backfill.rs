//! From `kubectl apply` to replaced data in S3 and Redis.

use crate::world::{SYSTEM, test};
use anyhow::{Context, Result, ensure};
use backfill_core::plan::run::label;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use std::io::Write;

#[test]
fn an_interval_is_replaced_in_s3_and_redis_and_nothing_else_is() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        world.stores.put_source(2).await?;
        let watch = world.stores.watch(1, false).await?;
        world.correct("correction").await?;
        world.complete("correction").await?;
        watch.end().await?;
        world.holds(2).await?;
        assert_eq!(world.stores.publishes().await?, 2);
        world.backfill("back", json!({"undo": "correction"})).await?;
        world.complete("back").await?;
        world.holds(1).await
    })
}

#[test]
fn helm_test_replaces_ten_rows_in_a_volume_and_reads_them_back() -> Result<()> {
    test(async |world| {
        // Nobody makes volumes here: the claim of the test finds this one.
        let folder = "/var/lib/helm-test";
        world.cluster.nodes()?.run(0, &["mkdir", "--mode=0777", folder]).await?;
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "helm-test"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": folder},
                "claimRef": {"namespace": SYSTEM, "name": "backfill-operator-test"},
            },
        });
        world.cluster.apply(&volume.to_string()).await?;
        let tested = world.cluster.helm(&["test", "backfill-operator", "--namespace", SYSTEM, "--timeout", "5m"]).await?;
        ensure!(tested.success, "{}{}", tested.stdout, tested.stderr);
        let files = world.cluster.nodes()?.run(0, &["find", folder, "-name", "*.parquet"]).await?;
        assert_eq!(files.lines().filter(|file| file.contains("-test-rows/")).count(), 10, "one file per day: {files}");
        Ok(())
    })
}

#[test]
fn pods_of_a_backfill_hold_no_token() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        let backfill = serde_json::to_value(world.backfills().get("fill").await?)?;
        let pods = world.namespace.api::<Pod>().list(&ListParams::default().labels(label::BACKFILL)).await?;
        assert_eq!(pods.items.len(), 2, "one per step");
        for pod in &pods {
            let volumes = serde_json::to_value(&pod.spec.as_ref().context("a spec")?.volumes)?;
            assert!(!volumes.to_string().contains("serviceAccountToken"), "{volumes}");
        }
        let created = time(&backfill["metadata"]["creationTimestamp"])?;
        let conditions = backfill["status"]["conditions"].as_array().context("conditions")?;
        let complete = conditions.iter().find(|condition| condition["type"] == "Complete").context("complete")?;
        let total = seconds(created, time(&complete["lastTransitionTime"])?);
        // Said, not judged: how long it takes is this machine's affair.
        let mut lines = format!("from apply to Complete: {total:.0} s\n");
        for pod in &pods {
            let spent = Spent::of(pod)?;
            lines.push_str(&format!(
                "  {}: created {:.0} s after apply, scheduled in {:.0} s, started in {:.0} s, worked {:.0} s\n",
                pod.labels()[label::STEP],
                seconds(created, spent.created),
                spent.scheduled,
                spent.started,
                spent.computed,
            ));
        }
        std::io::stderr().write_all(lines.as_bytes())?;
        Ok(())
    })
}

/// Where the time of a pod went. Kubernetes' times are whole seconds.
struct Spent {
    created: DateTime<Utc>,
    scheduled: f64,
    started: f64,
    computed: f64,
}

impl Spent {
    fn of(pod: &Pod) -> Result<Self> {
        let pod = serde_json::to_value(pod)?;
        let created = time(&pod["metadata"]["creationTimestamp"])?;
        let conditions = pod["status"]["conditions"].as_array().context("conditions")?;
        let scheduled = conditions.iter().find(|condition| condition["type"] == "PodScheduled").context("scheduled")?;
        let scheduled = time(&scheduled["lastTransitionTime"])?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let (started, finished) = (time(&ended["startedAt"])?, time(&ended["finishedAt"])?);
        Ok(Self {
            created,
            scheduled: seconds(created, scheduled),
            started: seconds(scheduled, started),
            computed: seconds(started, finished),
        })
    }
}

fn time(value: &serde_json::Value) -> Result<DateTime<Utc>> {
    Ok(value.as_str().with_context(|| format!("a time, not {value}"))?.parse()?)
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).as_seconds_f64()
}
