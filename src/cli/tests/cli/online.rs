//! `online get`: what a pod answers is shown, and the pod is gone afterwards, however it ends.

use crate::world::{PROGRAM, World, set, test};
use anyhow::{Context, Result, ensure};
use backfill_core::contract::{Answer, LookupOutcome, Served};
use backfill_core::plan::manifest::LOOKUP_MANAGER;
use backfill_core::plan::run::MANAGED_BY;
use backfill_e2e::{Act, LIMIT, Who, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::process::Output;

/// What the worker prints of user 7.
pub fn answer(row: Option<Value>) -> Result<String> {
    let served = json!({
        "project": "shop", "view": "UserClicks", "entity": [{ "name": "user_id", "type": "int64", "value": 7 }],
        "found": row.is_some(), "row": row,
    });
    let served: Served = serde_json::from_value(served)?;
    Ok(format!("WARN waiting\n{}\n", serde_json::to_string(&Answer::new(LookupOutcome::Served(served)))?))
}

/// A row of the feature set `user-clicks`.
pub fn row() -> Value {
    json!({
        "eventTime": "2024-05-31T10:00:00Z", "writtenBy": { "generation": 0 },
        "features": [
            { "name": "amount", "type": "int64", "value": 12 },
            { "name": "tags", "type": "list<string>", "value": ["a", "ü"] },
        ],
    })
}

const GET: [&str; 4] = ["online", "get", "USER_CLICKS", "user_id=7"];

const IMAGE: [&str; 2] = ["--image", "worker:other"];

impl World {
    async fn get(&self, more: &[&str]) -> Result<crate::world::Ended> {
        self.features(&[&GET, more].concat()).await
    }

    async fn lookup_pods(&self) -> Result<Vec<Pod>> {
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={LOOKUP_MANAGER}"));
        Ok(self.namespace.api::<Pod>().list(&ours).await?.items)
    }

    /// Lets Jane do something here.
    async fn grant(&self, name: &str, verbs: &str, resources: &str) -> Result<()> {
        let role = ["create", "role", name, "--verb", verbs, "--resource", resources];
        self.namespace.kubectl(&role).await?.ok()?;
        self.namespace.kubectl(&["create", "rolebinding", name, "--role", name, "--user", "jane"]).await?.ok().map(drop)
    }

    /// The kubelet confirms a deletion.
    async fn no_pod_is_left(&self) -> Result<()> {
        eventually("the pods of lookups to go", async || Ok(self.lookup_pods().await?.is_empty().then_some(()))).await
    }
}

#[test]
fn what_the_pod_answers_is_shown_and_the_pod_is_gone() -> Result<()> {
    test(async |world| {
        world.pods_print(&answer(Some(row()))?);
        let unknown = world.get(&[]).await?.with(1)?;
        assert!(unknown.stderr.contains("no image of the worker is known") && unknown.stderr.contains("--image"), "{unknown:?}");
        assert!(world.lookup_pods().await?.is_empty(), "nothing was made");

        world.may("may", &["--wait"]).await?.with(0)?;
        let entered = async || Ok(world.sets().get("user-clicks").await?.status.filter(|status| !status.ledger.is_empty()));
        eventually("the ledger", entered).await?;
        let shown = world.get(&[]).await?.with(0)?;
        let expected = "\
entity       user_id=7
view         UserClicks of project shop
event time   2024-05-31T10:00:00Z
written by   backfill may, version 0 of the table

FEATURE  TYPE          VALUE
amount   int64         12
tags     list<string>  [\"a\",\"ü\"]
";
        assert_eq!((shown.stdout.as_str(), shown.stderr.as_str()), (expected, ""));
        let document = world.get(&["-o", "json"]).await?.with(0)?.json()?;
        assert_eq!((&document["found"], &document["row"]["features"][0]["value"]), (&json!(true), &json!(12)));
        assert_eq!(document["row"]["writtenBy"], json!({ "generation": 0, "backfill": "may" }));
        let yaml = world.get(&["--output", "yaml"]).await?.with(0)?.stdout;
        assert!(yaml.contains("found: true\n") && yaml.contains("value: 12\n"), "{yaml}");
        world.no_pod_is_left().await
    })
}

#[test]
fn an_entity_without_a_row_has_an_exit_code_of_its_own() -> Result<()> {
    test(async |world| {
        world.pods_print(&answer(None)?);
        let none = world.get(&IMAGE).await?.with(5)?;
        assert_eq!(none.stdout, "");
        assert!(
            none.stderr.starts_with("error: user_id=7 has no row of \"user-clicks\" in the online store\nhint: "),
            "{none:?}"
        );
        let document = world.get(&[&IMAGE[..], &["-o", "json"]].concat()).await?.with(5)?.json()?;
        assert_eq!((&document["found"], document.get("row")), (&json!(false), None));
        world.no_pod_is_left().await
    })
}

#[test]
fn a_lookup_runs_beside_a_backfill_and_is_none_of_it() -> Result<()> {
    test(async |world| {
        let rule = world.lookups(Act::run());
        let child = world.command(PROGRAM).args(GET).args(IMAGE).args(["-n", world.name()]).spawn()?;
        let found = async || Ok(world.lookup_pods().await?.pop().filter(|pod| pod.spec.is_some()));
        let pod = eventually("the pod of the lookup", found).await?;
        // The feature set is free: nothing that lives there is a run's.
        world.may("may", &["--wait"]).await?.with(0)?;
        let spec = pod.spec.context("a spec")?;
        assert_eq!(spec.containers[0].image.as_deref(), Some("worker:other"));
        assert_eq!(spec.active_deadline_seconds, Some(120));
        let annotations = pod.metadata.annotations.context("annotations")?;
        let asked: Value = serde_json::from_str(&annotations["featureset.dev/lookup"])?;
        assert_eq!((&asked["view"], &asked["entity"][0]["value"]), (&json!("UserClicks"), &json!(7)));
        let name = pod.metadata.name.context("a name")?;
        assert!(name.starts_with("lookup-user-clicks-") && name.len() == "lookup-user-clicks-".len() + 5, "{name}");
        world.pods_print(&answer(Some(row()))?);
        rule.change(Act::exit(0, ""));
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
        ensure!(output.status.code() == Some(0), "{output:?}");
        assert!(String::from_utf8(output.stdout)?.contains("amount   int64         12"));
        world.no_pod_is_left().await
    })
}

#[test]
fn what_the_worker_cannot_do_is_said_in_its_words() -> Result<()> {
    test(async |world| {
        world.lookups(Act::exit(1, ""));
        let failed =
            json!({ "version": 1, "failed": { "reason": "OnlineUnavailable", "message": "redis:6379 does not answer" } });
        world.pods_print(&format!("{failed}\nerror: redis:6379 does not answer\n"));
        let down = world.get(&IMAGE).await?.with(1)?;
        assert_eq!(
            (down.stdout, down.stderr),
            (String::new(), "error: OnlineUnavailable: redis:6379 does not answer\n".to_owned())
        );
        world.pods_print("error: unrecognized subcommand 'lookup'\nFor more information, try '--help'.\n");
        let old = world.get(&IMAGE).await?.with(1)?.stderr;
        assert!(
            old.contains("gave no answer: it ended with exit code 1 (Error)") && old.contains("subcommand 'lookup'"),
            "{old}"
        );
        let newer = json!({ "version": 2, "served": {} });
        world.pods_print(&format!("{newer}\n"));
        let newer = world.get(&IMAGE).await?.with(1)?.stderr;
        assert!(newer.contains("the answer has version 2") && newer.contains("hint: use plugin, operator and worker"), "{newer}");
        world.no_pod_is_left().await
    })
}

#[test]
fn a_pod_that_cannot_start_is_named_and_not_waited_for() -> Result<()> {
    test(async |world| {
        let rule = world.lookups(Act::waiting("ImagePullBackOff", "Back-off pulling image \"worker:other\""));
        for (reason, message, words) in [
            (
                "ImagePullBackOff",
                "Back-off pulling image",
                ["error: ImagePull: pod lookup-user-clicks-", "name another image with --image"],
            ),
            ("CreateContainerConfigError", "secret \"redis\" not found", ["error: PodTrouble: ", "secret \"redis\" not found"]),
        ] {
            rule.change(Act::waiting(reason, message));
            let stuck = world.get(&IMAGE).await?.with(1)?.stderr;
            for word in words.into_iter().chain([reason, message]) {
                assert!(stuck.contains(word), "{word}: {stuck}");
            }
            world.no_pod_is_left().await?;
        }
        Ok(())
    })
}

#[test]
fn a_node_is_waited_for_aloud_and_only_so_long() -> Result<()> {
    test(async |world| {
        world.lookups(Act::unschedulable("0/3 nodes are available: 3 Insufficient memory"));
        let late = world.get(&[&IMAGE[..], &["--timeout", "2s"]].concat()).await?.with(124)?.stderr;
        let words = "0/3 nodes are available: 3 Insufficient memory";
        assert_eq!(late.matches(words).count(), 2, "once while it waits, once at the end: {late}");
        assert!(late.starts_with("waiting: pod lookup-") && late.contains("error: no answer within 2 s"), "{late}");
        world.no_pod_is_left().await
    })
}

#[test]
fn who_goes_away_leaves_no_pod_behind() -> Result<()> {
    test(async |world| {
        world.lookups(Act::run());
        for signal in ["-INT", "-TERM"] {
            let child = world.command(PROGRAM).args(GET).args(IMAGE).args(["-n", world.name()]).spawn()?;
            let id = child.id().context("it runs")?.to_string();
            let runs = async || Ok((!world.lookup_pods().await?.is_empty()).then_some(()));
            eventually("the pod of the lookup", runs).await?;
            ensure!(world.command("kill").args([signal, &id]).status().await?.success(), "kill");
            let Output { status, stderr, .. } = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
            let said = String::from_utf8(stderr)?;
            assert!(status.code() == Some(130) && said.contains("error: interrupted"), "{status} {said}");
            world.no_pod_is_left().await?;
        }
        Ok(())
    })
}

#[test]
fn only_those_rights_are_needed_that_are_documented_and_without_them_nothing_is_made() -> Result<()> {
    test(async |mut world| {
        world.pods_print(&answer(Some(row()))?);
        world.grant("reads", "get,list", "featuresets.featureset.dev,featurestores.featureset.dev").await?;
        world.grant("sees-pods", "get,list", "pods").await?;
        let jane = Who::User { name: "jane".to_owned(), groups: vec![] };
        world.kubeconfig = world.shared.cluster.kubeconfig_of(&jane, None).await?;
        // Who may not look for an environment names the namespace.
        let get = async |world: &World| -> Result<(Option<i32>, String)> {
            let output = world.command(PROGRAM).args(GET).args(IMAGE).args(["-n", world.name()]).output().await?;
            Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
        };
        let (code, said) = get(&world).await?;
        let missing = format!("error: not allowed to create pods, delete pods, get pods/log in \"{}\"", world.name());
        assert!(code == Some(1) && said.starts_with(&missing) && said.contains("hint: "), "{code:?} {said}");
        assert!(world.lookup_pods().await?.is_empty());
        world.namespace.kubectl(&["delete", "role", "sees-pods"]).await?.ok()?;
        world.grant("looks-up", "create,get,delete", "pods").await?;
        world.grant("reads-logs", "get", "pods/log").await?;
        let works = async || {
            let (code, said) = get(&world).await?;
            Ok((code == Some(0)).then_some(said))
        };
        // A role is known a moment after it is made.
        let said = eventually("the roles to count", works).await?;
        assert!(said.contains("amount   int64         12"), "{said}");
        world.no_pod_is_left().await
    })
}

#[test]
fn what_does_not_fit_the_keys_is_refused_before_anything_is_made() -> Result<()> {
    test(async |world| {
        let mut composite = set("composite", "raw");
        composite["entities"] = json!([{ "name": "user_id", "type": "int64" }, { "name": "day", "type": "timestamp" }]);
        world.apply("FeatureSet", "composite", composite).await?;
        let keys = "hint: the keys of \"composite\" are: user_id (int64), day (timestamp)";
        for (words, code, expected) in [
            (&["composite", "user_id=7"][..], 2, ["InvalidRequest: \"day\" is missing", keys]),
            (&["composite", "user_id=x", "day=2024-05-01"], 2, ["user_id (int64): \"x\" is not a whole number", keys]),
            (&["composite", "user_id=7", "day=2024-05-01", "user_id=7"], 2, ["\"user_id\" is given twice", keys]),
            (&["user-click", "user_id=7"], 1, ["no feature set \"user-click\"", "did you mean \"user-clicks\"?"]),
            (&["composite"], 2, ["required arguments were not provided", "KEY=VALUE"]),
        ] {
            let refused = world.features(&[&["online", "get"], words, &IMAGE].concat()).await?.with(code)?;
            for part in expected {
                assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
            }
        }
        assert!(world.lookup_pods().await?.is_empty());
        let sets = world.command(PROGRAM).args(["__complete", "-n", world.name(), "online", "get", "comp"]).output().await?;
        assert_eq!(String::from_utf8(sets.stdout)?, "composite\n:4\n");
        Ok(())
    })
}
