//! Who may do what: the documented table, and that the operator has what it needs and nothing else.

use crate::world::{Hand, RELEASE, alone, complete, environment, in_phase, install, installed, may, operator, person};
use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::ROOT;
use backfill_e2e::{Act, Cluster, Kubelet, Namespace, Options, Who, eventually};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// `verb resource`, and the cells of its row.
type Row = (String, Vec<String>);

/// The documented table: the names of its columns, and its rows.
fn documented() -> Result<(Vec<String>, Vec<Row>)> {
    let text = std::fs::read_to_string(format!("{ROOT}/docs/security.md"))?;
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| | operator |"));
    let head = cells(lines.next().context("docs/security.md has a table")?);
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(|line| {
        let mut row = cells(line);
        (row.remove(0), row)
    });
    Ok((head.into_iter().skip(1).collect(), rows.collect()))
}

async fn hands(cluster: &Cluster, namespace: &Namespace) -> Result<BTreeMap<&'static str, Hand>> {
    namespace.kubectl(&["create", "serviceaccount", "backfill-runner"]).await?.ok()?;
    let account = |namespace: &str, name: &str| Who::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
    let stranger = Who::User { name: "sam".to_owned(), groups: vec!["system:authenticated".to_owned()] };
    let people = [
        ("operator", account(RELEASE, RELEASE)),
        ("runner", account(namespace.name(), "backfill-runner")),
        ("viewer", person(namespace, "vic", "backfill-operator-viewer").await?),
        ("editor", person(namespace, "eve", "backfill-operator-editor").await?),
        ("admin", person(namespace, "ada", "backfill-operator-admin").await?),
        ("stranger", stranger),
    ];
    let mut hands = BTreeMap::new();
    for (name, who) in people {
        hands.insert(name, Hand::of(cluster, &who, namespace).await?);
    }
    Ok(hands)
}

#[test]
fn rights_are_those_of_the_documented_table() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        let hands = hands(&shared.cluster, &namespace).await?;
        let (columns, rows) = documented()?;
        let cells: Vec<_> =
            rows.iter().flat_map(|(row, cells)| columns.iter().zip(cells).map(move |(who, cell)| (row, who, cell))).collect();
        ensure!(cells.len() >= 40 && columns.len() == hands.len(), "{} cells of {columns:?}", cells.len());
        let asked = futures::stream::iter(cells).map(|(row, who, cell)| {
            let hand = hands.get(who.as_str());
            async move {
                let (verb, resource) = row.split_once(' ').context("a verb and a resource")?;
                let hand = hand.with_context(|| format!("nobody is {who}"))?;
                let (resource, part) = resource
                    .split_once('/')
                    .map_or((resource, String::new()), |(name, part)| (name, format!("--subresource={part}")));
                let mut arguments = vec!["auth", "can-i", verb, resource];
                arguments.extend((!part.is_empty()).then_some(part.as_str()));
                let answer = hand.kubectl(&arguments, "").await?;
                let said = answer.stdout.trim().to_owned();
                anyhow::Ok((said != *cell).then(|| format!("{who} {row}: {said} and not {cell}; {}", answer.stderr.trim())))
            }
        });
        let wrong: Vec<Option<String>> = asked.buffer_unordered(6).try_collect().await?;
        let wrong: Vec<String> = wrong.into_iter().flatten().collect();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    })
}

#[test]
fn kubernetes_own_roles_contain_ours() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        for (role, may, may_not) in [("view", "get", "create"), ("edit", "backfill", "reset"), ("admin", "reset", "impersonate")]
        {
            let who = person(&namespace, role, role).await?;
            let hand = Hand::of(&shared.cluster, &who, &namespace).await?;
            let can = async |verb: &str| {
                Ok::<_, anyhow::Error>(hand.kubectl(&["auth", "can-i", verb, "featuresets"], "").await?.success)
            };
            backfill_e2e::eventually("the role to be aggregated", async || Ok(can(may).await?.then_some(()))).await?;
            assert!(!can(may_not).await?, "{role} may not {may_not}");
        }
        Ok(())
    })
}

/// A right as `group resource verb`.
type Rights = BTreeSet<String>;

/// What the release's roles allow to the operator.
async fn granted(cluster: &Cluster) -> Result<Rights> {
    let mut rights = Rights::new();
    for role in [&["clusterrole", RELEASE][..], &["role", "backfill-operator-leader", "--namespace", RELEASE]] {
        let text = cluster.kubectl(&[&["get"], role, &["-o", "json"]].concat()).await?.ok()?;
        let role: Value = serde_json::from_str(&text)?;
        for rule in serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone())? {
            let (groups, resources) = (rule.api_groups.unwrap_or_default(), rule.resources.unwrap_or_default());
            let of_group = |group: &String| resources.iter().map(|resource| format!("{group} {resource}")).collect::<Vec<_>>();
            let of_resource =
                |resource: String| rule.verbs.iter().map(move |verb| format!("{resource} {verb}")).collect::<Vec<_>>();
            rights.extend(groups.iter().flat_map(of_group).flat_map(of_resource));
        }
    }
    Ok(rights)
}

/// What the operator has asked for, and of that what was refused, by the API server's audit log.
fn asked(log: &Path) -> Result<(Rights, Rights)> {
    let (mut all, mut refused) = (Rights::new(), Rights::new());
    for line in std::fs::read_to_string(log)?.lines() {
        // The last line may be written at this moment.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let word = |key: &str| event["objectRef"][key].as_str().unwrap_or_default();
        if word("resource").is_empty() {
            continue;
        }
        let part = Some(word("subresource")).filter(|part| !part.is_empty()).map(|part| format!("/{part}")).unwrap_or_default();
        let verb = event["verb"].as_str().context("a verb")?;
        let right = format!("{} {}{part} {verb}", word("apiGroup"), word("resource"));
        if event["responseStatus"]["code"] == 403 {
            refused.insert(format!("{right}: {}", event["responseStatus"]["message"]));
        }
        all.insert(right);
    }
    Ok((all, refused))
}

/// A control plane that writes down what the operator asks for.
async fn audited(folder: &Path) -> Result<Cluster> {
    let rules = json!([
        { "level": "Metadata", "users": ["system:serviceaccount:backfill-operator:backfill-operator"], "omitStages": ["RequestReceived"] },
        { "level": "None" },
    ]);
    let policy = folder.join("policy.json");
    std::fs::write(&policy, json!({ "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules }).to_string())?;
    let log = folder.join("audit.log");
    let server_flags = vec![format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let cluster = Cluster::start_with(&Options { server_flags, ..Options::default() }).await?;
    cluster.kubectl(&["delete", "customresourcedefinitions", "--all"]).await?.ok()?;
    Ok(cluster)
}

#[test]
fn the_operator_uses_every_right_that_it_has_and_misses_none() -> Result<()> {
    alone(async || {
        let folder = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder)?;
        let cluster = audited(&folder).await?;
        let kubelet = Kubelet::start(cluster.client()).await?;
        install(&cluster, RELEASE, &[]).await?;
        let mut first = operator(&cluster, RELEASE, &[]).await?;
        let namespace = environment(&cluster).await?;
        let mut forgotten = may("forgotten");
        forgotten["spec"]["ttlSecondsAfterFinished"] = json!(1);
        complete(&namespace, &[forgotten]).await?;
        // It is observed anew by another process, waits for its image, and is cancelled.
        let rule = kubelet.script().set(|_| true, Act::waiting("ImagePullBackOff", "Back-off pulling image \"worker\""));
        namespace.apply(&may("waits").to_string()).await?;
        eventually("its Job", async || {
            let jobs = namespace.kubectl(&["get", "jobs", "-l", "featureset.dev/backfill=waits", "-o", "name"]).await?.ok()?;
            Ok((!jobs.is_empty()).then_some(()))
        })
        .await?;
        first.kill();
        let _second = operator(&cluster, RELEASE, &[]).await?;
        let log = folder.join("audit.log");
        eventually("the events of its pods to be read", async || Ok(asked(&log)?.0.contains(" events list").then_some(())))
            .await?;
        namespace.kubectl(&["patch", "fsb", "waits", "--type=merge", "--patch", r#"{"spec":{"cancel":true}}"#]).await?.ok()?;
        rule.remove();
        in_phase(&namespace, "waits", "Cancelled").await?;

        // An event that repeats is counted; and only some clusters ask for the right to block a deletion.
        let seldom = ["events.k8s.io events patch", "featureset.dev featuresetbackfills/finalizers update"].map(str::to_owned);
        let granted = granted(&cluster).await?;
        let unused = async || {
            let used = asked(&log)?.0;
            let unused: Rights = granted.difference(&used).filter(|right| !seldom.contains(right)).cloned().collect();
            anyhow::Ok(unused)
        };
        let used = eventually("every right to be used", async || Ok(unused().await?.is_empty().then_some(()))).await;
        let (unused, refused) = (unused().await?, asked(&log)?.1);
        std::fs::remove_dir_all(&folder)?;
        used.with_context(|| format!("never used: {unused:#?}"))?;
        ensure!(refused.is_empty(), "refused: {refused:#?}");
        Ok(())
    })
}
