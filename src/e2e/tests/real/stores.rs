//! The stores of one namespace, each a pod, and how other clients read them from outside the cluster.

use crate::data;
use anyhow::{Context, Result, ensure};
use backfill_core::api::KeyType;
use backfill_core::feast::{Key, KeyLayout, redis_key};
use backfill_e2e::{Namespace, until};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// The table of the feature set `clicks`.
const TABLE: &str = "s3://bucket/tables/clicks";

/// The credentials of S3.
const KEY: &str = "key";
const SECRET: &str = "secret";

/// Redis and S3 of a namespace.
pub struct Stores {
    namespace: Namespace,
    s3_address: String,
    redis_address: String,
}

impl Stores {
    /// Starts both, and makes the Secrets by which run pods reach them.
    pub async fn start(namespace: &Namespace) -> Result<Self> {
        let host = |service: &str| format!("{service}.{}.svc.cluster.local", namespace.name());
        let redis = [
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--dir",
            "/data",
            "--maxmemory-policy",
            "noeviction",
        ];
        let objects = [
            secret("s3", s3_at(&host("s3"), KEY, SECRET)),
            secret("redis", json!({"url": format!("redis://{}:6379", host("redis"))})),
            store("redis", 6379, json!({"image": "redis:test", "args": redis})),
            store(
                "s3",
                7070,
                json!({
                    "image": "versitygw:test", "args": ["--port", ":7070", "posix", "/data"],
                    "env": [{"name": "ROOT_ACCESS_KEY", "value": KEY}, {"name": "ROOT_SECRET_KEY", "value": SECRET}],
                }),
            ),
            service("redis", 6379),
            service("s3", 7070),
        ];
        namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).await?;
        for name in ["redis", "s3"] {
            until(&namespace.api::<Deployment>(), name, is_available).await?;
        }
        let address = async |name: &str| -> Result<String> {
            let spec = namespace.api::<Service>().get(name).await?.spec;
            spec.and_then(|spec| spec.cluster_ip).context("a Service has an address")
        };
        let (s3_address, redis_address) = (address("s3").await?, address("redis").await?);
        Ok(Self { namespace: namespace.clone(), s3_address, redis_address })
    }

    /// The pod of a store.
    pub async fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.namespace.api::<Pod>().list(&ListParams::default().labels(&format!("app={name}"))).await?;
        pods.items.into_iter().next().with_context(|| format!("no pod of {name}"))
    }

    /// How S3 is reached from outside the cluster.
    fn s3(&self) -> Value {
        s3_at(&self.s3_address, KEY, SECRET)
    }

    /// Puts the source of this version.
    pub async fn put_source(&self, version: i64) -> Result<()> {
        let request = json!({"what": "put", "s3": self.s3(), "uri": "s3://bucket/raw.parquet", "rows": data::rows(version)});
        python("stores.py", &request).await.map(drop)
    }

    /// All rows of the newest version of the table, by another client of Delta.
    pub async fn offline(&self) -> Result<BTreeSet<String>> {
        let rows = python("stores.py", &json!({"what": "rows", "s3": self.s3(), "table": TABLE})).await?;
        let whole = |row: &Value| {
            let column = |name: &str| row[name].clone();
            json!({"user_id": column("user_id"), "t": column("t"), "version": column("version"), "twin": column("twin")})
                .to_string()
        };
        let set: BTreeSet<String> = rows.iter().map(whole).collect();
        ensure!(set.len() == rows.len(), "the table holds rows twice");
        Ok(set)
    }

    /// Puts so many generated rows of this version as another source, in files of a million.
    pub async fn put_many(&self, version: i64, rows: i64, users: i64) -> Result<()> {
        let request = json!({
            "what": "put_many", "s3": self.s3(), "uri": "s3://bucket/many/", "files": (rows / 1_000_000).max(2),
            "rows": rows, "users": users, "version": version, "start": data::MAY, "evenDays": data::EVEN_LAST,
        });
        python("stores.py", &request).await.map(drop)
    }

    /// What the table holds outside and inside the interval, in sums.
    pub async fn sums(&self) -> Result<Value> {
        let request = json!({"what": "sums", "s3": self.s3(), "table": TABLE, "interval": data::interval()});
        python("stores.py", &request).await?.into_iter().next().context("it answers once")
    }

    /// How many publishes the table's log has.
    pub async fn publishes(&self) -> Result<usize> {
        let commits = python("stores.py", &json!({"what": "history", "s3": self.s3(), "table": TABLE})).await?;
        Ok(commits.iter().filter(|commit| commit["operation"] == "BACKFILL").count())
    }

    /// What a Feast client is served for users.
    pub async fn online(&self, users: &[i64]) -> Result<Vec<i64>> {
        let request = json!({
            "what": "online", "project": project(&self.namespace), "view": "clicks",
            "entities": [{"name": "user_id", "type": "int64"}],
            "features": [{"name": "version", "type": "int64"}, {"name": "twin", "type": "int64"}],
            "online": {"redis": format!("{}:6379", self.redis_address)},
            "rows": users.iter().map(|user| json!({"user_id": user})).collect::<Vec<_>>(),
        });
        let rows = python("feast_read.py", &request).await?;
        rows.iter().map(|row| row["values"]["version"].as_i64().with_context(|| format!("{row}"))).collect()
    }

    /// Begins to read both stores again and again, while the interval is replaced.
    pub async fn watch(&self, outside: i64, lenient: bool) -> Result<Watch> {
        let layout = KeyLayout::new([("user_id", KeyType::Int64)]);
        let keys = (1..=data::USERS).map(|user| {
            let mut key = Vec::new();
            layout.encode([Key::Int64(user)], &mut key);
            let key: String = redis_key(&key, &project(&self.namespace)).iter().map(|byte| format!("{byte:02x}")).collect();
            (user.to_string(), json!(key))
        });
        let (outside_rows, inside_rows) = data::counts();
        let request = json!({
            "what": "watch", "s3": self.s3(), "table": TABLE, "lenient": lenient,
            "redis": {"host": self.redis_address, "port": 6379, "view": "clicks"},
            "interval": data::interval(), "outsideVersion": outside, "rows": {"outside": outside_rows, "inside": inside_rows},
            "entities": keys.collect::<serde_json::Map<_, _>>(),
        });
        Watch::start(&request).await
    }
}

/// The Feast project of a namespace: Feast wants none with hyphens.
pub fn project(namespace: &Namespace) -> String {
    namespace.name().replace('-', "_")
}

/// Whether a Deployment has a pod at work.
pub fn is_available(deployment: Option<&Deployment>) -> bool {
    let status = deployment.and_then(|deployment| deployment.status.as_ref());
    status.is_some_and(|status| status.available_replicas.unwrap_or(0) > 0)
}

/// How S3 is reached at a host.
pub fn s3_at(host: &str, key: &str, secret: &str) -> Value {
    json!({
        "aws_access_key_id": key, "aws_secret_access_key": secret, "aws_region": "us-east-1",
        "aws_endpoint": format!("http://{host}:7070"), "aws_allow_http": "true",
    })
}

fn secret(name: &str, entries: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": entries})
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    })
}

/// A Deployment of one pod that keeps its data as long as it is not deleted.
fn store(name: &str, port: u16, mut container: Value) -> Value {
    container["name"] = json!(name);
    container["imagePullPolicy"] = json!("Never");
    container["ports"] = json!([{"containerPort": port}]);
    container["readinessProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    container["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    let user = json!({
        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let pod = json!({
        "automountServiceAccountToken": false, "securityContext": user, "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    })
}

/// A reader of both stores.
pub struct Watch {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Watch {
    async fn start(request: &Value) -> Result<Self> {
        let mut child = command("stores.py")?.spawn()?;
        let stdin = child.stdin.as_mut().context("standard input is piped")?;
        stdin.write_all(format!("{request}\n").as_bytes()).await?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let first = lines.next_line().await?;
        ensure!(first.as_deref() == Some("\"watching\""), "the reader did not start: {first:?}");
        Ok(Self { child, lines })
    }

    /// Ends it; fails with what it has seen that no reader may see.
    pub async fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let answer: Value = serde_json::from_str(&self.lines.next_line().await?.context("the reader has failed")?)?;
        ensure!(answer["wrong"] == json!([]), "a reader saw: {answer:#}");
        let reads = |store: &str| answer[store].as_u64().unwrap_or(0);
        ensure!(reads("offline") > 1 && reads("online") > 100, "the reader read too little: {answer}");
        Ok(())
    }
}

/// Runs a script with a request and returns the lines of its answer.
pub async fn python(script: &str, request: &Value) -> Result<Vec<Value>> {
    let mut child = command(script)?.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    stdin.write_all(format!("{request}\n").as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A script of this folder or of the worker's tests, with their libraries.
fn command(script: &str) -> Result<Command> {
    let python = std::env::var("BACKFILL_TEST_PYTHON").context("BACKFILL_TEST_PYTHON is not set; run the tests by: make test")?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let theirs = package.join("../worker/tests/python");
    let ours = package.join("tests/real").join(script);
    let mut command = Command::new(python);
    command.arg(if ours.exists() { ours } else { theirs.join(script) }).env("PYTHONPATH", theirs);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}
