//! The test cluster itself: what it leaves behind, and who may do what.

use anyhow::{Context, Result};
use backfill_e2e::{Cluster, Options, Who, eventually, test};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// The ids of running processes that have `text` in their command line.
fn processes_with(text: &str) -> Result<Vec<u32>> {
    let ids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mentions = |id: &u32| std::fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.contains(text));
    Ok(ids.filter(mentions).collect())
}

#[test]
fn a_dropped_cluster_leaves_no_process_and_no_file() -> Result<()> {
    test(async |shared| {
        let cluster = Cluster::start_with(&Options::as_shipped()).await?;
        let (processes, folder) = (cluster.processes(), cluster.folder().to_owned());
        assert_ne!(cluster.url(), shared.cluster.url(), "several clusters live in one process");
        assert!(processes.iter().all(|process| is_alive(*process)) && folder.exists());
        drop(cluster);
        assert_eq!(processes.into_iter().filter(|process| is_alive(*process)).collect::<Vec<_>>(), [0; 0]);
        assert!(!folder.exists());
        Ok(())
    })
}

#[test]
fn a_killed_cluster_leaves_no_process_and_no_file() -> Result<()> {
    test(async |_| {
        let mut owner = tokio::process::Command::new(env!("CARGO_BIN_EXE_test-cluster"));
        let mut owner = owner.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(owner.stdout.take().context("piped")?).lines();
        let line = lines.next_line().await?.context("the cluster did not start")?;
        let kubeconfig = PathBuf::from(line.strip_prefix("export KUBECONFIG=").context("the first line")?);
        let folder = kubeconfig.parent().context("in a folder")?;
        let name = folder.to_str().context("a name")?;
        assert!(processes_with(name)?.len() >= 3, "etcd, the API server and the controllers name the folder");
        owner.start_kill()?;
        owner.wait().await?;
        eventually("all to be gone", async || Ok((!folder.exists() && processes_with(name)?.is_empty()).then_some(()))).await
    })
}

#[test]
fn people_and_service_accounts_may_do_what_roles_allow() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("roles").await?;
        let person = Who::User { name: "ann".into(), groups: vec!["team".into()] };
        let account = Who::ServiceAccount { namespace: namespace.name().into(), name: "default".into() };
        let bind = ["create", "rolebinding", "readers", "--clusterrole=view", "--group=team"];
        namespace.kubectl(&bind).await?.ok()?;
        let reads = async |who: &Who| -> Result<bool> {
            let maps: Api<ConfigMap> = Api::namespaced(shared.cluster.client_of(who).await?, namespace.name());
            match maps.list(&ListParams::default()).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        // The role is aggregated from others by a controller.
        eventually("the person to be let in", async || Ok(reads(&person).await?.then_some(()))).await?;
        assert!(!reads(&account).await?);
        Ok(())
    })
}
