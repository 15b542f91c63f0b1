//! The first steps, as a newcomer takes them: the demo on a cluster of its own, then the document's commands as they stand there.

use crate::stores::{python, s3_at};
use crate::world::{alone, with_images};
use anyhow::{Context, Result, ensure};
use backfill_e2e::helm::ROOT;
use backfill_e2e::{Cluster, docs, programs, run, tool};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Instant;
use tokio::process::Command;

/// What the first steps replace, in microseconds: March 2013.
const MARCH: std::ops::Range<i64> = 1_362_096_000_000_000..1_364_774_400_000_000;

/// The demo's cluster.
struct Demo {
    cluster: Cluster,
}

impl Demo {
    /// Does what `make demo` does when all is built.
    async fn start() -> Result<Self> {
        let demo = Self { cluster: with_images().await? };
        demo.shell(&format!("{ROOT}/deploy/demo/run")).await?;
        Ok(demo)
    }

    /// Runs a line on it as somebody who has installed the plugin; it must end with 0.
    async fn shell(&self, line: &str) -> Result<String> {
        let python =
            std::env::var("BACKFILL_TEST_PYTHON").context("BACKFILL_TEST_PYTHON is not set; run the tests by: make test")?;
        let plugin = programs::built("kubectl-features", "backfill-cli")?;
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.cluster.folder())
            .env("PATH", docs::path(&plugin)?)
            .env("PYTHON", python)
            .env("TOOLS", tool("kubectl")?.parent().context("a folder")?);
        run(command, "").await?.ok().with_context(|| line.to_owned())
    }

    async fn address(&self, service: &str) -> Result<String> {
        self.shell(&format!("kubectl -n flights get service {service} -o 'jsonpath={{.spec.clusterIP}}'")).await
    }

    /// All rows of the table, by another client of Delta: those outside March, and those inside.
    async fn offline(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let s3 = s3_at(&self.address("s3").await?, "demo", "demosecret");
        let request = json!({"what": "rows", "s3": s3, "table": "s3://flights/tables/carrier-delays"});
        let rows = python("stores.py", &request).await?;
        let is_inside = |row: &&Value| row["day"].as_i64().is_some_and(|day| MARCH.contains(&day));
        let (inside, outside): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(is_inside);
        let set = |rows: Vec<&Value>| rows.into_iter().map(Value::to_string).collect::<BTreeSet<_>>();
        let found = (set(outside), set(inside));
        ensure!(found.0.len() + found.1.len() == rows.len(), "the table holds rows twice");
        Ok(found)
    }

    /// What a Feast client is served for two carriers.
    async fn online(&self) -> Result<Vec<Value>> {
        let request = json!({
            "what": "online", "project": "nyc", "view": "carrier_delays", "entities": [{"name": "carrier", "type": "string"}],
            "features": [{"name": "flights", "type": "int64"}, {"name": "mean_departure_delay", "type": "float64"}],
            "online": {"redis": format!("{}:6379", self.address("redis").await?)}, "rows": [{"carrier": "EV"}, {"carrier": "UA"}],
        });
        python("feast_read.py", &request).await
    }

    /// Makes the feature set's rows differ from now on, so that what a backfill replaced can be told from what was there.
    async fn transform_otherwise(&self) -> Result<()> {
        let set = self.shell("kubectl -n flights get featuresets carrier-delays -o json").await?;
        let set: Value = serde_json::from_str(&set)?;
        let sql = set["spec"]["transformation"]["sql"].as_str().context("SQL")?;
        let other = sql.replace("count(*) AS flights", "count(*) + 1 AS flights");
        ensure!(other != sql, "flights are counted: {sql}");
        let patch = json!({"spec": {"transformation": {"sql": other}}}).to_string();
        self.cluster
            .kubectl(&["-n", "flights", "patch", "featuresets", "carrier-delays", "--type=merge", "-p", &patch])
            .await?
            .ok()?;
        Ok(())
    }
}

#[test]
fn the_first_steps_replace_a_month_and_take_it_back() -> Result<()> {
    alone(async || {
        let begun = Instant::now();
        let demo = Demo::start().await?;
        let ready = begun.elapsed();
        let ((outside, inside), online) = (demo.offline().await?, demo.online().await?);
        ensure!(!inside.is_empty() && !outside.is_empty(), "the demo has filled March and the other months");
        ensure!(online.iter().all(|row| row["values"]["flights"].is_i64()), "the demo has filled Redis: {online:?}");
        demo.transform_otherwise().await?;

        let (mut spent, mut replaced) = (std::time::Duration::ZERO, 0);
        for line in docs::commands("docs/first-steps.md")? {
            let begun = Instant::now();
            demo.shell(&line).await?;
            spent += begun.elapsed();
            if line.contains("--start-time 2013-03-01") {
                let now = demo.offline().await?;
                ensure!(now.0 == outside, "rows outside March changed");
                ensure!(now.1.len() == inside.len() && now.1.is_disjoint(&inside), "not all rows of March were replaced");
                replaced += 1;
            }
        }
        ensure!(replaced == 1, "one of the commands replaces March: {replaced}");
        ensure!(demo.offline().await? == (outside, inside), "the undo did not give the old rows back");
        ensure!(demo.online().await? == online, "March is not the newest: online stays as it was");
        // Said, not judged: how long it takes is this machine's affair.
        let line = format!("first steps: demo {:.0} s, commands {:.0} s\n", ready.as_secs_f64(), spent.as_secs_f64());
        std::io::stderr().write_all(line.as_bytes())?;
        Ok(())
    })
}
