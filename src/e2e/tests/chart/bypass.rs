//! Attempts to get around what protects an environment, each refused with the words that say why; and what stays allowed.

use crate::world::{
    Hand, Installed, RELEASE, child, complete, environment, feature_set, in_phase, installed, may, person, reset, store, undo,
};
use anyhow::{Context, Result, ensure};
use backfill_core::condition::ConditionType;
use backfill_e2e::{Act, Namespace, Who, manifest};
use serde_json::{Value, json};

const VERB_BACKFILL: &str = "the verb backfill on featuresets.featureset.dev is missing";
const VERB_RESET: &str = "the verb reset on featuresets.featureset.dev is missing";
const THE_OPERATORS: &str = "is the operator's";
const NO_RIGHT: &str = "is forbidden: User";
const UNKNOWN_FIELD: &str = "unknown field";

/// An environment in which somebody has filled everything, and people with all roles.
struct Scene {
    here: Namespace,
    /// Bound to `backfill-operator-editor` and to Kubernetes' own `edit`: may write Jobs, ConfigMaps and pods.
    editor: Hand,
    admin: Hand,
    viewer: Hand,
    /// To whom nothing is forbidden but by the admission policies.
    root: Hand,
    operator: Hand,
    runner: Hand,
}

impl Scene {
    async fn set(shared: &Installed) -> Result<Self> {
        let cluster = &shared.cluster;
        let here = environment(cluster).await?;
        complete(&here, &[reset("full"), may("may")]).await?;
        let editor = person(&here, "eve", "backfill-operator-editor").await?;
        here.kubectl(&["create", "rolebinding", "edit", "--clusterrole=edit", "--user=eve"]).await?.ok()?;
        let account =
            |namespace: &str, name: &str| Who::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
        here.kubectl(&["create", "serviceaccount", "backfill-runner"]).await?.ok()?;
        let hand = async |who: &Who| Hand::of(cluster, who, &here).await;
        Ok(Self {
            editor: hand(&editor).await?,
            admin: hand(&person(&here, "ada", "backfill-operator-admin").await?).await?,
            viewer: hand(&person(&here, "vic", "backfill-operator-viewer").await?).await?,
            root: hand(&Who::Admin).await?,
            operator: hand(&account(RELEASE, RELEASE)).await?,
            runner: hand(&account(here.name(), "backfill-runner")).await?,
            here,
        })
    }
}

/// An attempt: what is tried, by whom, how, with which input, and the words of the refusal.
struct Attempt<'a>(&'static str, &'a Hand, Vec<String>, Value, &'static str);

fn create<'a>(what: &'static str, hand: &'a Hand, object: Value, words: &'static str) -> Attempt<'a> {
    Attempt(what, hand, ["create", "-f", "-"].map(str::to_owned).to_vec(), object, words)
}

fn run<'a>(what: &'static str, hand: &'a Hand, command: &str, words: &'static str) -> Attempt<'a> {
    Attempt(what, hand, command.split(' ').map(str::to_owned).collect(), Value::Null, words)
}

fn patch<'a>(what: &'static str, hand: &'a Hand, target: &str, patch: Value, words: &'static str) -> Attempt<'a> {
    let command =
        format!("patch {target} --type=merge --patch").split(' ').map(str::to_owned).chain([patch.to_string()]).collect();
    Attempt(what, hand, command, Value::Null, words)
}

fn with(mut object: Value, field: &str, value: Value) -> Value {
    object["spec"][field] = value;
    object
}

/// Fails with those attempts that were not refused, or for another reason.
async fn all_refused(attempts: Vec<Attempt<'_>>) -> Result<()> {
    let mut wrong = Vec::new();
    for Attempt(what, hand, arguments, input, words) in attempts {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = hand.kubectl(&arguments, &input.to_string()).await?;
        if answer.success || !answer.stderr.contains(words) {
            wrong.push(format!("{what}: {}{}", answer.stdout, answer.stderr));
        }
    }
    ensure!(wrong.is_empty(), "not refused as documented: {wrong:#?}");
    Ok(())
}

#[test]
fn another_tenants_things_cannot_be_reached() -> Result<()> {
    installed(async |shared| {
        let scene = Scene::set(shared).await?;
        let there = environment(&shared.cluster).await?;
        let there = there.name();
        let (editor, operator, runner) = (&scene.editor, &scene.operator, &scene.runner);
        let source = |change: Value| json!([{ "name": "raw", "featureSet": change }]);
        let elsewhere = |mut object: Value| {
            object["metadata"]["namespace"] = json!(there);
            Value::clone(&object)
        };
        let in_there = |command: &str| format!("--namespace {there} {command}");
        all_refused(vec![
            Attempt(
                "a backfill there",
                editor,
                vec!["--namespace".into(), there.into(), "create".into(), "-f".into(), "-".into()],
                elsewhere(may("m")),
                NO_RIGHT,
            ),
            run("feature sets there", editor, &in_there("get featuresets"), NO_RIGHT),
            run("logs there", editor, &in_there("get pods"), NO_RIGHT),
            create(
                "a source of another namespace",
                editor,
                with(may("a"), "sources", source(json!({ "name": "clicks", "namespace": there }))),
                UNKNOWN_FIELD,
            ),
            create(
                "a feature set by a path",
                editor,
                with(may("a"), "featureSet", json!(format!("{there}/clicks"))),
                "spec.featureSet",
            ),
            create(
                "a table of another tenant by way of ..",
                editor,
                with(feature_set("a"), "offline", json!({ "table": "../other" })),
                "spec.offline.table",
            ),
            create(
                "files of the node",
                editor,
                with(feature_set("a"), "sources", json!([{ "name": "raw", "csv": { "uri": "file:///etc/passwd" } }])),
                "file:///store/",
            ),
            create("an image of one's own", editor, with(may("a"), "image", json!("mine")), UNKNOWN_FIELD),
            create(
                "a service account of one's choice",
                editor,
                with(may("a"), "serviceAccountName", json!("admin")),
                UNKNOWN_FIELD,
            ),
            create("variables of the environment", editor, with(may("a"), "env", json!([])), UNKNOWN_FIELD),
            create("another Secret", editor, with(feature_set("a"), "credentialsSecret", json!("root")), UNKNOWN_FIELD),
            create("a store with another Secret", editor, store(), NO_RIGHT),
            patch(
                "the store's Secret",
                editor,
                "featurestore default",
                json!({ "spec": { "offline": { "credentialsSecret": "root" } } }),
                NO_RIGHT,
            ),
            patch(
                "the store's service account",
                editor,
                "featurestore default",
                json!({ "spec": { "jobs": { "serviceAccountName": "admin" } } }),
                NO_RIGHT,
            ),
            create(
                "a cluster template",
                editor,
                manifest("ClusterTemplate", "huge", json!({ "engine": "DataFusion", "cores": 64, "memory": "1Ti" })),
                NO_RIGHT,
            ),
            run("the operator's token", editor, "--namespace backfill-operator create token backfill-operator", NO_RIGHT),
            run("more rights", editor, "create rolebinding more --clusterrole=backfill-operator-admin --user=eve", NO_RIGHT),
            run("Secrets, by the operator", operator, "get secrets", NO_RIGHT),
            run("a Secret, by the operator", operator, "get secret redis", NO_RIGHT),
            run("pods, by the operator", operator, "run one --image=one", NO_RIGHT),
            run("anything, by a run pod's account", runner, "get fsb", NO_RIGHT),
            run("Secrets, by a run pod's account", runner, "get secrets", NO_RIGHT),
        ])
        .await
    })
}

#[test]
fn what_the_operator_relies_on_is_not_written_by_hand() -> Result<()> {
    installed(async |shared| {
        let scene = Scene::set(shared).await?;
        let (editor, admin, root) = (&scene.editor, &scene.admin, &scene.root);
        let name = async |kind: &str| {
            let found = scene.here.kubectl(&["get", kind, "-l", "featureset.dev/step=offline", "-o", "name"]).await?.ok()?;
            found.lines().next().map(str::to_owned).with_context(|| format!("a {kind} of the operator"))
        };
        let (order, job) = (name("configmap").await?, name("job").await?);
        editor.kubectl(&["create", "configmap", "plain"], "").await?.ok()?;
        editor.kubectl(&["create", "job", "plain", "--image=plain"], "").await?.ok()?;
        let done = json!({ "status": { "phase": "Complete" } });
        let label = "app.kubernetes.io/managed-by=backfill-operator";
        all_refused(vec![
            patch("the status, by an editor", editor, "fsb may --subresource=status", done.clone(), NO_RIGHT),
            patch("the status, by an admin", admin, "fsb may --subresource=status", done.clone(), NO_RIGHT),
            patch("the status, by root", root, "fsb may --subresource=status", done, THE_OPERATORS),
            patch(
                "the ledger, by root",
                root,
                "fset clicks --subresource=status",
                json!({ "status": { "ledger": null } }),
                THE_OPERATORS,
            ),
            patch(
                "the lock, by root",
                root,
                "fset clicks --subresource=status",
                json!({ "status": { "active": null, "observedGeneration": 9 } }),
                THE_OPERATORS,
            ),
            patch(
                "the slots, by root",
                root,
                "fstore default --subresource=status",
                json!({ "status": { "observedGeneration": 9 } }),
                THE_OPERATORS,
            ),
            create("an order", editor, child("ConfigMap", "forged"), THE_OPERATORS),
            create("an order, by root", root, child("ConfigMap", "forged"), THE_OPERATORS),
            create("a Job", editor, child("Job", "forged"), THE_OPERATORS),
            run("a ConfigMap becomes an order", editor, &format!("label configmap plain {label}"), THE_OPERATORS),
            run("a Job becomes one of the operator's", editor, &format!("label job plain {label}"), THE_OPERATORS),
            run("an order becomes another's", editor, &format!("label {order} --overwrite featureset.dev/uid=1"), THE_OPERATORS),
            run("an order is hidden", editor, &format!("label {order} app.kubernetes.io/managed-by-"), THE_OPERATORS),
            run(
                "a Job counts as another attempt",
                editor,
                &format!("label {job} --overwrite featureset.dev/attempt=9"),
                THE_OPERATORS,
            ),
            patch("what an order says", editor, &order, json!({ "data": { "order.json": "{}" } }), "field is immutable"),
        ])
        .await?;
        let label = ["label", &job, "kueue.x-k8s.io/priority-class=low"];
        editor.kubectl(&label, "").await?.ok().context("other changes of Jobs stay free")?;
        editor.kubectl(&["delete", &job, &order], "").await?.ok().context("and deletions")?;
        scene.root.kubectl(&["label", "configmap", "plain", "featureset.dev/uid=1"], "").await?.ok().map(drop)
    })
}

#[test]
fn who_lacks_the_verb_gets_no_run() -> Result<()> {
    installed(async |shared| {
        let scene = Scene::set(shared).await?;
        let (editor, admin, viewer) = (&scene.editor, &scene.admin, &scene.viewer);
        scene.here.apply(&feature_set("views").to_string()).await?;
        let writes = [
            "create",
            "role",
            "writes",
            "--verb=create,get,list,watch,patch,delete",
            "--resource=featuresetbackfills.featureset.dev",
        ];
        scene.here.kubectl(&writes).await?.ok()?;
        let views = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "views" }, "rules": [
            { "apiGroups": ["featureset.dev"], "resources": ["featuresets"], "resourceNames": ["views"], "verbs": ["backfill"] },
        ] });
        scene.here.apply(&views.to_string()).await?;
        for (role, user) in [("writes", "cal"), ("writes", "dan"), ("views", "dan")] {
            let arguments =
                ["create", "rolebinding", &format!("{role}-{user}"), &format!("--role={role}"), &format!("--user={user}")];
            scene.here.kubectl(&arguments).await?.ok()?;
        }
        let hand = async |name: &str| {
            let who = Who::User { name: name.to_owned(), groups: Vec::new() };
            Hand::of(&shared.cluster, &who, &scene.here).await
        };
        let (cal, dan) = (hand("cal").await?, hand("dan").await?);
        admin.create(&with(reset("planned"), "mode", json!("Plan"))).await?.ok()?;
        in_phase(&scene.here, "planned", "Planned").await?;
        all_refused(vec![
            create("a backfill, by a viewer", viewer, may("a"), NO_RIGHT),
            create("a backfill, by who may only write backfills", &cal, may("a"), VERB_BACKFILL),
            create("a backfill of another feature set", &dan, may("a"), VERB_BACKFILL),
            create("a plan without the verb", &cal, with(may("a"), "mode", json!("Plan")), VERB_BACKFILL),
            create("a held backfill without the verb", &cal, with(may("a"), "suspend", json!(true)), VERB_BACKFILL),
            patch("another run without the verb", &cal, "fsb may", json!({ "spec": { "runId": "2" } }), VERB_BACKFILL),
            create("a reset", editor, reset("a"), VERB_RESET),
            create("the plan of a reset", editor, with(reset("a"), "mode", json!("Plan")), VERB_RESET),
            patch("another run of a reset", editor, "fsb full", json!({ "spec": { "runId": "2" } }), VERB_RESET),
            patch("the publishing of a planned reset", editor, "fsb planned", json!({ "spec": { "mode": "Apply" } }), VERB_RESET),
            patch("a backfill becomes a reset", editor, "fsb may", json!({ "spec": { "reset": true } }), "immutable"),
            create("the undo of a reset", editor, undo("a", "full"), VERB_RESET),
            create("the undo of what nobody knows", editor, undo("a", "nobody"), VERB_RESET),
            create("an undo, by who may only write backfills", &cal, undo("a", "may"), VERB_BACKFILL),
        ])
        .await?;
        let other = |mut backfill: Value| {
            backfill["spec"]["featureSet"] = json!("views");
            backfill
        };
        editor.create(&may("mine")).await?.ok().context("an editor may replace an interval")?;
        dan.create(&other(may("of-views"))).await?.ok().context("who has the verb on one feature set may replace it")?;
        in_phase(&scene.here, "mine", "Complete").await?;
        in_phase(&scene.here, "of-views", "Complete").await?;
        editor.create(&undo("not-mine", "mine")).await?.ok().context("and take it back")?;
        in_phase(&scene.here, "not-mine", "Complete").await?;
        let publish = ["patch", "fsb", "planned", "--type=merge", "--patch", r#"{"spec":{"mode":"Apply"}}"#];
        admin.kubectl(&publish, "").await?.ok().context("an admin may publish a planned reset")?;
        in_phase(&scene.here, "planned", "Complete").await?;
        admin.create(&undo("no-reset", "planned")).await?.ok().context("and take it back")?;
        in_phase(&scene.here, "no-reset", "Complete").await.map(drop)
    })
}

#[test]
fn a_transformation_reads_nothing_but_its_sources() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        for (name, sql) in [
            ("files", "SELECT user_id, t, amount FROM 's3://other/table'"),
            ("others", "SELECT user_id, t, amount FROM other"),
            ("two", "SELECT user_id, t, amount FROM raw; DROP TABLE raw"),
        ] {
            namespace.apply(&with(may(name), "transformation", json!({ "sql": sql })).to_string()).await?;
            let refused = in_phase(&namespace, name, "Failed").await?;
            let conditions = refused.status.context("a status")?.conditions;
            let accepted = conditions.iter().find(|condition| condition.kind == ConditionType::Accepted).context("Accepted")?;
            assert_eq!(accepted.reason.word(), "TransformRejected", "{sql}");
        }
        assert!(shared.kubelet.tables().runs(namespace.name()).is_empty(), "no pod was made");
        Ok(())
    })
}

#[test]
fn run_pods_hold_no_token_and_meet_the_restricted_standard() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        let label = ["label", "namespace", namespace.name(), "pod-security.kubernetes.io/enforce=restricted"];
        shared.cluster.kubectl(&label).await?.ok()?;
        let name = namespace.name().to_owned();
        let rule = shared.kubelet.script().set(move |pod| pod.metadata.namespace.as_ref() == Some(&name), Act::run());
        namespace.apply(&may("may").to_string()).await?;
        in_phase(&namespace, "may", "Running").await?;
        let pods = namespace.kubectl(&["get", "pods", "-o", "json"]).await?.ok()?;
        let pods: Value = serde_json::from_str(&pods)?;
        let pod = &pods["items"][0]["spec"];
        assert_eq!((&pod["automountServiceAccountToken"], &pod["serviceAccountName"]), (&json!(false), &json!("default")));
        let volumes = pod["volumes"].as_array().context("volumes")?;
        assert!(volumes.iter().all(|volume| volume.get("projected").is_none()), "{volumes:#?}");
        rule.remove();
        in_phase(&namespace, "may", "Complete").await.map(drop)
    })
}
