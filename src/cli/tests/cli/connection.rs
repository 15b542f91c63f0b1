//! kubectl's flags: which cluster, who, and where.

use crate::world::{PROGRAM, World, test};
use anyhow::{Context, Result};
use backfill_e2e::Who;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::path::Path;

async fn run(world: &World, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = world.command(PROGRAM).args(arguments).output().await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
}

#[test]
fn an_environment_is_a_namespace_a_label_or_a_name_of_the_configuration_file() -> Result<()> {
    test(async |mut world| {
        let namespace = world.name().to_owned();
        world.may("may", &["--suspend"]).await?.with(0)?;
        let good = "featuresetbackfill.featureset.dev/may\n".to_owned();
        let list = |environment: &str| ["backfill", "list", "-o", "name", "--environment", environment].map(str::to_owned);
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.shared.cluster.client());
        let label = format!("stage-{namespace}");
        let patch = json!({ "metadata": { "labels": { "featureset.dev/environment": label } } });
        namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let file = world.shared.cluster.folder().join(format!("{namespace}.yaml"));
        std::fs::write(&file, format!("environments: {{Production: {namespace}}}\n"))?;
        world.variables = vec![("FEATURES_CONFIG".to_owned(), file.display().to_string())];
        for environment in [&namespace, &label, "Production"] {
            let arguments = list(environment);
            let found = run(&world, &arguments.each_ref().map(String::as_str)).await?;
            assert_eq!(found, (Some(0), good.clone()), "{environment}");
        }
        let differ = run(&world, &["backfill", "list", "--environment", "Production", "-n", "default"]).await?;
        assert!(
            differ.0 == Some(2) && differ.1.contains(&format!("is the namespace \"{namespace}\", -n says \"default\"")),
            "{differ:?}"
        );
        std::fs::write(&file, "environment: {}\n")?;
        let broken = run(&world, &["backfill", "list", "--environment", "Production"]).await?;
        assert!(broken.0 == Some(1) && broken.1.contains("environments: {NAME: NAMESPACE}"), "{broken:?}");
        Ok(())
    })
}

#[test]
fn kubeconfigs_contexts_users_and_impersonation_are_those_of_kubectl() -> Result<()> {
    test(async |mut world| {
        let admin = world.kubeconfig.display().to_string();
        world.kubeconfig = "/nowhere".into();
        let none = run(&world, &["backfill", "list"]).await?;
        assert!(
            none.0 == Some(1) && none.1.contains("no usable kubeconfig") && none.1.contains("kubectl config get-contexts"),
            "{none:?}"
        );
        let here = ["backfill", "list", "-n", world.name(), "--kubeconfig", &admin];
        assert_eq!(run(&world, &here).await?.0, Some(0));
        let context = run(&world, &[&here[..], &["--context", "nobody"]].concat()).await?;
        assert!(context.0 == Some(1) && context.1.contains("nobody"), "{context:?}");
        let denied = run(&world, &[&here[..], &["--as", "jane"]].concat()).await?;
        assert!(
            denied.0 == Some(1) && denied.1.contains("not allowed to list backfills") && denied.1.contains("jane"),
            "{denied:?}"
        );
        assert!(denied.1.contains("hint: see what you may do: kubectl features check"), "{denied:?}");
        let member = run(&world, &[&here[..], &["--as", "jane", "--as-group", "system:masters"]].concat()).await?;
        assert_eq!(member.0, Some(0), "{member:?}");
        let alone = run(&world, &[&here[..], &["--as-group", "system:masters"]].concat()).await?;
        assert!(alone.0 == Some(2) && alone.1.contains("--as USER"), "{alone:?}");
        Ok(())
    })
}

#[test]
fn who_may_little_is_told_what_is_missing() -> Result<()> {
    test(async |mut world| {
        let jane = Who::User { name: "jane".to_owned(), groups: vec![] };
        world.kubeconfig = world.shared.cluster.kubeconfig_of(&jane, None).await?;
        let checked = run(&world, &["check", "-n", world.name()]).await?;
        assert_eq!(checked.0, Some(1));
        for line in
            ["? operator: you may not read leases", "✗ you may not create featuresetbackfills", "  hint: ask for the role"]
        {
            assert!(checked.1.contains(line), "{line}\n{}", checked.1);
        }
        let created = world.may("may", &[]).await?.with(1)?;
        assert!(
            created.stderr.contains("not allowed to list") && created.stderr.contains("features check"),
            "{}",
            created.stderr
        );
        Ok(())
    })
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_longer_than_asked() -> Result<()> {
    test(async |mut world| {
        // It accepts and says nothing.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let silent = format!("http://{}", listener.local_addr()?);
        world.kubeconfig = world.shared.cluster.kubeconfig_of(&Who::Admin, Some(&silent)).await?;
        let began = std::time::Instant::now();
        let late = run(&world, &["backfill", "list", "-n", world.name(), "--request-timeout", "1s"]).await?;
        assert!(late.0 == Some(1) && late.1.contains("no answer within --request-timeout of 1 s"), "{late:?}");
        assert!(late.1.contains("kubectl cluster-info"), "{late:?}");
        assert!(began.elapsed() < backfill_e2e::LIMIT);
        Ok(())
    })
}

#[test]
fn kubectl_finds_the_plugin_and_completes_it() -> Result<()> {
    test(async |world| {
        let found = run(&world, &["__complete", "backfill", "--feature-set", ""]).await;
        assert_eq!(found?.1, "user-clicks\n:4\n".replace("user-clicks\n", ""), "the context's namespace has none");
        let here = run(&world, &["__complete", "-n", world.name(), "backfill", "--feature-set", "User"]).await?;
        assert_eq!(here.1, "user-clicks\n:4\n");
        let template = run(&world, &["__complete", "backfill", "--cluster-template=xx"]).await?;
        assert_eq!(template.1, "--cluster-template=xxlarge\n--cluster-template=xxxlarge\n:4\n");
        world.may("may", &["--suspend"]).await?.with(0)?;
        let names = run(&world, &["__complete", "--namespace", world.name(), "backfill", "watch", ""]).await?;
        assert_eq!(names.1, "may\n@latest\n:4\n");
        Ok(())
    })
}

#[test]
fn kubectl_itself_asks_for_completions() -> Result<()> {
    test(async |mut world| {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/krew");
        let kubectl = backfill_e2e::tool("kubectl")?;
        let folders =
            [shipped.as_path(), Path::new(PROGRAM).parent().context("a folder")?, kubectl.parent().context("a folder")?];
        let path = std::env::join_paths(folders.into_iter().chain([Path::new("/usr/bin"), Path::new("/bin")]))?;
        world.variables = vec![("PATH".to_owned(), path.to_string_lossy().into_owned())];
        let asked = ["__complete", "features", "backfill", "-n", world.name(), "--feature-set", ""];
        let output = world.command(&kubectl).args(asked).output().await?;
        let said = String::from_utf8(output.stdout)?;
        assert!(said.starts_with("user-clicks\n:4"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

#[test]
fn versions_are_told() -> Result<()> {
    test(async |world| {
        let client = world.command(PROGRAM).env("KUBECONFIG", "/nowhere").args(["version", "--client"]).output().await?;
        assert_eq!(String::from_utf8(client.stdout)?, format!("client:   {}\n", env!("CARGO_PKG_VERSION")));
        let all = world.features(&["version", "-o", "json"]).await?.with(0)?.json()?;
        assert_eq!(all["client"], env!("CARGO_PKG_VERSION"));
        assert!(all["server"].as_str().is_some_and(|version| version.starts_with("v1.")), "{all}");
        Ok(())
    })
}
