//! `helm test`, without its pod: what its hooks make is made, and its containers' commands are run by the plugin under its account.

use crate::world::{Installed, RELEASE, installed};
use anyhow::{Context, Result, ensure};
use backfill_e2e::programs::built;
use backfill_e2e::{Output, Who};
use serde::Deserialize;
use serde_json::Value;

/// The hooks of the release, the pod apart.
async fn hooks(shared: &Installed) -> Result<(Value, Vec<Value>)> {
    let yaml = shared.cluster.helm(&["get", "hooks", RELEASE, "--namespace", RELEASE]).await?.ok()?;
    let all: Vec<Value> = serde_saphyr::from_multiple(&yaml)?;
    let (pods, others): (Vec<Value>, Vec<Value>) = all.into_iter().partition(|hook| hook["kind"] == "Pod");
    let [pod] = <[Value; 1]>::try_from(pods).map_err(|pods| anyhow::anyhow!("{pods:?}"))?;
    Ok((pod, others))
}

#[derive(Deserialize)]
struct Container {
    name: String,
    command: Vec<String>,
    args: Vec<String>,
}

async fn run(container: &Container, kubeconfig: &std::path::Path) -> Result<Output> {
    assert_eq!(container.command, ["/kubectl-features"]);
    let arguments = container.args.iter().map(|argument| argument.replace("$(POD_UID)", "0f0f0f0f-0f0f-0f0f-0f0f-0f0f0f0f0f0f"));
    let mut command = tokio::process::Command::new(built("kubectl-features", "backfill-cli")?);
    command.args(arguments).env("KUBECONFIG", kubeconfig);
    backfill_e2e::run(command, "").await
}

#[test]
fn the_commands_of_helm_test_run_under_its_own_account_and_leave_no_backfill() -> Result<()> {
    installed(async |shared| {
        let cluster = &shared.cluster;
        let (pod, others) = hooks(shared).await?;
        for hook in others {
            cluster.apply(&hook.to_string()).await?;
        }
        let name = pod["spec"]["serviceAccountName"].as_str().context("an account")?.to_owned();
        let account = Who::ServiceAccount { namespace: RELEASE.to_owned(), name };
        let kubeconfig = cluster.kubeconfig_of(&account, None).await?;
        let containers = ["initContainers", "containers"].map(|kind| pod["spec"][kind].clone());
        let containers = containers.into_iter().map(serde_json::from_value::<Vec<Container>>).collect::<Result<Vec<_>, _>>()?;
        for container in containers.iter().flatten() {
            let output = run(container, &kubeconfig).await?;
            ensure!(output.success, "{}: {}{}", container.name, output.stdout, output.stderr);
        }
        let published = shared.kubelet.tables().runs(RELEASE).into_iter().filter(|run| run.published).map(|run| run.feature_set);
        assert_eq!(published.collect::<Vec<_>>(), ["backfill-operator-test-rows", "backfill-operator-test-count"]);
        assert_eq!(cluster.kubectl(&["get", "fsb", "--namespace", RELEASE, "-o", "name"]).await?.ok()?, "");
        Ok(())
    })
}
