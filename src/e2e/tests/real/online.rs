//! A lookup by a real pod in a namespace that enforces restricted ones: it sees what Feast's clients are served.

use crate::data;
use crate::world::{PATIENCE, World, store_spec, test};
use anyhow::{Context, Result, ensure};
use backfill_core::plan::manifest::LOOKUP_MANAGER;
use backfill_core::plan::run::MANAGED_BY;
use backfill_e2e::{Output, programs, run};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::process::Command;

impl World {
    /// Runs `online get` for a user of `clicks`. No pod of it is left.
    async fn look_up(&self, user: i64) -> Result<Output> {
        let mut command = Command::new(programs::built("kubectl-features", "backfill-cli")?);
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        command.args(["online", "get", "clicks", &format!("user_id={user}"), "-o", "json", "-n", self.namespace.name()]);
        let output = tokio::time::timeout(PATIENCE, run(command, "")).await.context("it does not end")??;
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={LOOKUP_MANAGER}"));
        let left = self.namespace.api::<Pod>().list(&ours).await?.items;
        ensure!(left.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()), "a pod is left: {left:#?}");
        Ok(output)
    }

    async fn row_of(&self, user: i64) -> Result<Value> {
        Ok(serde_json::from_str::<Value>(&self.look_up(user).await?.ok()?)?["row"].clone())
    }
}

/// The value of a feature.
fn value(row: &Value, feature: &str) -> Result<i64> {
    let features = row["features"].as_array().context("features")?;
    let found = features.iter().find(|found| found["name"] == feature).with_context(|| format!("no {feature} in {row}"))?;
    found["value"].as_i64().with_context(|| format!("{found}"))
}

#[test]
fn a_lookup_sees_what_feasts_client_is_served_from_redis() -> Result<()> {
    test(async |world| {
        world.filled().await?;
        world.stores.put_source(2).await?;
        world.correct("correction").await?;
        world.complete("correction").await?;
        for (user, time, backfill) in
            [(7, "2024-05-31T00:00:00.000007Z", "fill"), (8, "2024-05-20T00:00:00.000008Z", "correction")]
        {
            let row = world.row_of(user).await?;
            let served = world.stores.online(&[user]).await?;
            assert_eq!((value(&row, "version")?, value(&row, "twin")?), (served[0], served[0]), "user {user}");
            assert_eq!(served[0], data::online(user, 2, 1));
            assert_eq!((&row["eventTime"], &row["writtenBy"]["backfill"]), (&json!(time), &json!(backfill)));
        }
        let nobody = world.look_up(data::USERS + 1).await?;
        ensure!(!nobody.success && nobody.stderr.contains("has no row of \"clicks\""), "{nobody:?}");
        assert_eq!(serde_json::from_str::<Value>(&nobody.stdout)?["found"], false);

        let mut spec = store_spec(&world.namespace);
        spec["online"]["redis"]["urlSecret"]["name"] = json!("forgotten");
        world.apply("FeatureStore", "default", spec).await?;
        let missing = world.look_up(7).await?;
        let words = "error: SecretNotFound: cannot read entry \"url\" of secret \"forgotten\"";
        ensure!(!missing.success && missing.stderr.starts_with(words), "{missing:?}");
        world.holds(2).await
    })
}

#[test]
fn a_lookup_reads_a_sqlite_file_on_the_stores_volume() -> Result<()> {
    test(async |world| {
        let name = world.namespace.name().to_owned();
        let folder = world.cluster.folder().join(format!("volume-{name}"));
        std::fs::create_dir(&folder)?;
        // Of nobody in particular: a volume of this kind is given to no group.
        world.cluster.nodes()?.run(0, &["chmod", "777", &folder.to_string_lossy()]).await?;
        let capacity = json!({"storage": "1Gi"});
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "capacity": capacity, "accessModes": ["ReadWriteOnce"], "storageClassName": "", "hostPath": {"path": folder},
                "claimRef": {"namespace": name, "name": "store"},
            },
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "store"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name, "resources": {"requests": capacity}},
        });
        world.cluster.apply(&volume.to_string()).await?;
        world.namespace.apply(&claim.to_string()).await?;
        let mut spec = store_spec(&world.namespace);
        spec["offline"] = json!({"uri": "file:///store/tables", "credentialsSecret": "s3", "volumeClaim": "store"});
        spec["online"] = json!({"sqlite": {"path": "/store/online.db"}});
        world.namespace.kubectl(&["delete", "fstore", "default"]).await?.ok()?;
        world.apply("FeatureStore", "default", spec).await?;
        world.stores.put_source(1).await?;
        world.backfill("fill", json!({"reset": true, "startTime": "2024-05-01", "stopTime": "2024-06-01"})).await?;
        world.complete("fill").await?;
        let row = world.row_of(7).await?;
        assert_eq!((value(&row, "version")?, &row["eventTime"]), (1, &json!("2024-05-31T00:00:00.000007Z")));
        assert_eq!(row["writtenBy"]["backfill"], "fill");
        let files = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let files: Vec<String> = files.collect::<std::io::Result<_>>()?;
        let online: Vec<&String> = files.iter().filter(|file| file.starts_with("online.db")).collect();
        assert_eq!(online, ["online.db"], "nothing is left beside it");
        Ok(())
    })
}
