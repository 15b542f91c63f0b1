//! What GitOps tools make of a backfill at every moment of its life: a folder of resources, read by kstatus and by Argo CD's scripts.

use crate::world::{complete, environment, in_phase, installed, may};
use anyhow::{Context, Result, ensure};
use backfill_core::condition::{Done, Ending, Finding, Moment, Reason, conditions, going, set_all};
use backfill_core::contract::Stores;
use backfill_core::time::parse_time;
use backfill_e2e::helm::{ROOT, program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/golden/moments");

/// Every moment and the conditions that the operator sets in it.
fn moments() -> Vec<(&'static str, Vec<Finding>)> {
    let why = |text: &str| text.to_owned();
    let running = Some(Done { stores: Stores::Both, offline: false, online: false });
    let at_work = |reason, message: &str| Moment::Going { reason, message: why(message) };
    let missing = |stalled| Moment::Missing {
        reason: Reason::FeatureSetNotFound,
        message: why("there is no feature set \"clicks\""),
        stalled,
    };
    let ended = |ending: Ending| conditions(&ending, Stores::Both, &[]);
    let failed = |reason, message: &str| Ending::OfflineFailed { reason, message: why(message) };
    vec![
        ("queued", going(&at_work(Reason::Queued, "waits for \"april\""), None, &[])),
        ("running", going(&at_work(Reason::Running, "rows are being computed"), running, &[])),
        ("missing-reference", going(&missing(false), None, &[])),
        ("missing-for-long", going(&missing(true), None, &[])),
        ("suspended", going(&Moment::Suspended { message: why("held by spec.suspend") }, running, &[])),
        ("planned", ended(Ending::Planned { moved: false, message: why("10 rows would replace 10") })),
        ("succeeded", ended(Ending::Succeeded { message: why("replaced 10 rows by 10") })),
        ("already-applied", ended(Ending::AlreadyApplied { message: why("as version 3") })),
        (
            "rejected",
            ended(Ending::Rejected { reason: Reason::EmptyInterval, message: why("the interval is empty"), recovers: false }),
        ),
        ("failed", ended(failed(Reason::ShrinkGuard, "5 rows would replace 100"))),
        ("online-failed", ended(Ending::OnlineFailed { reason: Reason::OnlineAuth, message: why("the password is wrong") })),
        ("cancelled", ended(failed(Reason::Cancelled, "cancelled; nothing was replaced"))),
    ]
}

/// The resources as the API server would show them.
fn resources() -> Result<BTreeMap<&'static str, Value>> {
    let now = parse_time("now", "2024-06-01T12:00:00Z")?;
    let mut resources = BTreeMap::new();
    let object = |status: Value| {
        let mut object = may("clicks-may");
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["namespace"] = json!("prod");
        object["status"] = status;
        object
    };
    resources.insert("unseen", object(json!({ "observedGeneration": -1 })));
    for (moment, findings) in moments() {
        let mut conditions = Vec::new();
        set_all(&mut conditions, findings, now, Some(1));
        resources.insert(moment, object(json!({ "observedGeneration": 1, "conditions": conditions })));
    }
    Ok(resources)
}

/// What `docs/gitops.md` says: by moment, kstatus' word and Argo CD's.
fn documented() -> Result<BTreeMap<String, (String, String)>> {
    let text = std::fs::read_to_string(format!("{ROOT}/docs/gitops.md"))?;
    let rows = text.lines().skip_while(|line| !line.starts_with("| moment |")).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [moment, kstatus, argo] = cells[..] else { anyhow::bail!("{row}") };
        Ok((moment.to_owned(), (kstatus.to_owned(), argo.to_owned())))
    })
    .collect()
}

/// A script out of the ConfigMap that users merge into theirs.
fn script(path: &[&str]) -> Result<String> {
    let text = std::fs::read_to_string(format!("{ROOT}/deploy/gitops/argocd/argocd-cm.yaml"))?;
    let map: Value = serde_saphyr::from_str(&text)?;
    let data = |key: &str| map["data"][key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    match path {
        ["health"] => data("resource.customizations.health.featureset.dev_FeatureSetBackfill"),
        [action] => {
            let actions: Value =
                serde_saphyr::from_str(&data("resource.customizations.actions.featureset.dev_FeatureSetBackfill")?)?;
            let script = match *action {
                "discovery" => actions["discovery.lua"].as_str(),
                action => {
                    let mut all = actions["definitions"].as_array().into_iter().flatten();
                    all.find(|definition| definition["name"] == action).and_then(|definition| definition["action.lua"].as_str())
                }
            };
            Ok(script.with_context(|| format!("no {action}"))?.to_owned())
        }
        _ => anyhow::bail!("{path:?}"),
    }
}

/// What a script answers to each object.
async fn lua(script: &str, objects: &[Value]) -> Result<Vec<Value>> {
    let file = std::env::temp_dir().join(format!("{}.lua", uuid::Uuid::new_v4()));
    std::fs::write(&file, script)?;
    let input: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let output = program("argo-lua", &[file.to_str().context("a path")?], &input).await;
    std::fs::remove_file(&file)?;
    output?.ok()?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn the_golden_folder_holds_every_moment_as_the_operator_sets_it() -> Result<()> {
    for (moment, resource) in resources()? {
        let file = Path::new(GOLDEN).join(format!("{moment}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&resource)?);
        if std::env::var_os("BACKFILL_BLESS").is_some() {
            std::fs::create_dir_all(GOLDEN)?;
            std::fs::write(&file, &text)?;
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        ensure!(kept == text, "{} is stale; look at the change and write it: BACKFILL_BLESS=1 cargo test", file.display());
    }
    ensure!(std::fs::read_dir(GOLDEN)?.count() == resources()?.len(), "no other files");
    Ok(())
}

#[test]
fn argo_cd_and_kstatus_read_every_moment_as_documented() -> Result<()> {
    installed(async |shared| {
        let documented = documented()?;
        let mut names = Vec::new();
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(GOLDEN)? {
            let path = entry?.path();
            names.push(path.file_stem().and_then(|name| name.to_str()).context("a name")?.to_owned());
            objects.push(serde_json::from_str::<Value>(&std::fs::read_to_string(&path)?)?);
        }
        ensure!(names.len() == documented.len(), "{names:?}");
        let healths = lua(&script(&["health"])?, &objects).await?;
        let statuses = shared.cluster.kstatus(&objects).await?;
        for ((name, health), status) in names.iter().zip(&healths).zip(&statuses) {
            let seen = (
                status.split('\t').next().unwrap_or_default().to_owned(),
                health["status"].as_str().unwrap_or_default().to_owned(),
            );
            assert_eq!(Some(&seen), documented.get(name), "{name}");
            assert!(health["message"].as_str().is_some_and(|message| !message.is_empty()), "{name}: {health}");
        }
        let behind = json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": 1, "conditions": [{ "type": "Complete", "status": "True" }] } });
        assert_eq!(lua(&script(&["health"])?, &[behind]).await?[0]["status"], "Progressing", "a change that was not seen yet");
        Ok(())
    })
}

#[test]
fn argo_cds_actions_are_offered_when_they_fit_and_taken_by_the_api_server() -> Result<()> {
    installed(async |shared| {
        let discovery = script(&["discovery"])?;
        let resources = resources()?;
        for (moment, offered) in [
            ("unseen", vec!["cancel", "suspend"]),
            ("running", vec!["cancel", "suspend"]),
            ("planned", vec!["cancel", "suspend"]),
            ("succeeded", vec!["rerun"]),
            ("failed", vec!["rerun"]),
        ] {
            let answer = lua(&discovery, &[resources[moment].clone()]).await?.remove(0);
            let all = answer.as_object().context("a table")?;
            let enabled: Vec<&str> =
                all.iter().filter(|(_, action)| action["disabled"] == false).map(|(name, _)| name.as_str()).collect();
            assert_eq!(enabled, offered, "{moment}");
        }
        let namespace = environment(&shared.cluster).await?;
        complete(&namespace, &[may("done")]).await?;
        let mut held = may("held");
        held["spec"]["suspend"] = json!(true);
        namespace.apply(&held.to_string()).await?;
        in_phase(&namespace, "held", "Suspended").await?;
        let act = async |name: &str, action: &str| {
            let object: Value = serde_json::from_str(&namespace.kubectl(&["get", "fsb", name, "-o", "json"]).await?.ok()?)?;
            let changed = lua(&script(&[action])?, &[object]).await?.remove(0);
            let patch = json!({ "spec": { "runId": changed["spec"]["runId"], "suspend": changed["spec"]["suspend"], "cancel": changed["spec"]["cancel"] } });
            namespace.kubectl(&["patch", "fsb", name, "--type=merge", "--patch", &patch.to_string()]).await?.ok()
        };
        act("held", "resume").await?;
        in_phase(&namespace, "held", "Complete").await?;
        act("done", "rerun").await?;
        backfill_e2e::eventually("another run", async || {
            let path = "jsonpath={.status.runId} {.status.phase}";
            let said = namespace.kubectl(&["get", "fsb", "done", "-o", path]).await?.ok()?;
            Ok((said.starts_with("argo-1") && said.ends_with(" Complete")).then_some(()))
        })
        .await
    })
}

#[test]
fn long_names_and_names_that_argo_cd_makes_work() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        let longest = format!("a{}z", "-".repeat(61));
        let backfills = [
            &*"a".repeat(63),
            &longest,
            "clicks-sync-3f2a9c1-presync-1717243200",
            &format!("{}3f2a9c1-postsync-1717243200", "long-".repeat(7)),
        ];
        for name in backfills {
            ensure!(name.len() <= 63, "{name}");
            complete(&namespace, &[may(name)]).await.with_context(|| name.to_owned())?;
        }
        let jobs = namespace.kubectl(&["get", "jobs", "-o", "jsonpath={.items[*].metadata.name}"]).await?.ok()?;
        assert_eq!(jobs.split(' ').count(), 2 * backfills.len(), "{jobs}");
        Ok(())
    })
}
