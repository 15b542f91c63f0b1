//! Metrics as Prometheus reads them, and what stands on them: alerts, their runbooks, the dashboard.

use crate::world::{alone, complete, environment, in_phase, installed, may};
use anyhow::{Context, Result, ensure};
use backfill_core::condition::Reason;
use backfill_e2e::helm::{CHART, ROOT, program};
use backfill_e2e::{Act, eventually};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn alerts_fire_when_they_should() -> Result<()> {
    alone(async || {
        let rules = format!("{CHART}/files/alerts.yaml");
        program("promtool", &["check", "rules", "--lint-fatal", &rules], "").await?.ok()?;
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/alerts_test.yaml");
        let said = program("promtool", &["test", "rules", tests], "").await?;
        ensure!(said.success, "{}{}", said.stdout, said.stderr);
        let text = std::fs::read_to_string(tests)?;
        for alert in alerts()? {
            let fires = text.contains(&format!("alertname: {alert}\n"));
            let rests = text.contains(&format!("{{alertname: {alert}, "));
            ensure!(fires && rests, "{alert} is tested to fire and to rest");
        }
        Ok(())
    })
}

/// The names of the alerts.
fn alerts() -> Result<BTreeSet<String>> {
    let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(format!("{CHART}/files/alerts.yaml"))?)?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?;
    Ok(rules.iter().filter_map(|rule| rule["alert"].as_str()).map(str::to_owned).collect())
}

#[test]
fn every_alert_has_its_runbook() -> Result<()> {
    let pages = std::fs::read_dir(format!("{ROOT}/docs/runbooks"))?.flatten();
    let pages: BTreeSet<String> =
        pages.filter_map(|page| Some(page.file_name().to_str()?.strip_suffix(".md")?.to_owned())).collect();
    assert_eq!(pages, alerts()?);
    for alert in alerts()? {
        let text = std::fs::read_to_string(format!("{ROOT}/docs/runbooks/{alert}.md"))?;
        ensure!(text.starts_with(&format!("# {alert}\n")), "{alert}");
        for part in ["## What it means", "## What to look at", "## What to do"] {
            ensure!(text.contains(part), "{alert}: {part}");
        }
    }
    Ok(())
}

/// The metrics that queries name.
fn named(queries: &str) -> BTreeSet<&str> {
    let words = queries.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["featureset_", "controller_", "leader_election_", "build_info"];
    words.filter(|word| ours.iter().any(|head| word.starts_with(head))).map(|word| word.trim_end_matches("_bucket")).collect()
}

#[test]
fn scraped_metrics_parse_and_hold_all_that_alerts_and_dashboard_name() -> Result<()> {
    installed(async |shared| {
        let namespace = environment(&shared.cluster).await?;
        complete(&namespace, &[may("good")]).await?;
        let inside = |step: &'static str| {
            let name = namespace.name().to_owned();
            move |pod: &k8s_openapi::api::core::v1::Pod| {
                let labels = pod.metadata.labels.as_ref();
                pod.metadata.namespace.as_ref() == Some(&name)
                    && labels.and_then(|labels| labels.get("featureset.dev/step")).is_some_and(|found| found == step)
            }
        };
        let rule = shared.kubelet.script().set(inside("online"), Act::fail(Reason::OnlineAuth, "the password is wrong", false));
        namespace.apply(&may("behind").to_string()).await?;
        in_phase(&namespace, "behind", "Failed").await?;
        let scrape = async || {
            let answer = shared.operator.get("/metrics").await?;
            anyhow::Ok(answer.split_once("\r\n\r\n").context("a body")?.1.to_owned())
        };
        let set = format!("{{namespace=\"{}\",feature_set=\"clicks\"}}", namespace.name());
        let behind = |is: u8| format!("featureset_backfill_online_behind{set} {is}\n");
        // A run is counted right after its status is written.
        let tells = async |line: &str| {
            eventually("the metric", async || {
                let text = scrape().await?;
                Ok(text.contains(line).then_some(text))
            })
            .await
        };
        let text = tells(&behind(1)).await?;
        let checked = program("promtool", &["check", "metrics"], &text).await?;
        ensure!(checked.success && checked.stderr.is_empty(), "{}{}", checked.stdout, checked.stderr);
        rule.remove();
        complete(&namespace, &[may("repaired")]).await?;
        tells(&behind(0)).await?;

        // Nothing has failed here that would make the last of them.
        let seldom = BTreeSet::from(["controller_reconcile_errors_total"]);
        let exported: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let alerts = std::fs::read_to_string(format!("{CHART}/files/alerts.yaml"))?;
        let dashboard = std::fs::read_to_string(format!("{CHART}/files/dashboard.json"))?;
        let queries = format!("{alerts}\n{dashboard}");
        let unknown: Vec<&str> =
            named(&queries).into_iter().filter(|name| !exported.contains(name) && !seldom.contains(name)).collect();
        ensure!(unknown.is_empty(), "{unknown:?} is not among {exported:?}");
        ensure!(named(&queries).len() > 10, "{:?}", named(&queries));
        Ok(())
    })
}

#[test]
fn every_query_of_the_dashboard_is_a_query() -> Result<()> {
    alone(async || {
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(format!("{CHART}/files/dashboard.json"))?)?;
        let panels = dashboard["panels"].as_array().context("panels")?;
        let queries = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
            .filter_map(|target| target["expr"].as_str());
        let rules: Vec<Value> = queries
            .enumerate()
            .map(|(number, query)| {
                let query = query.replace("$__rate_interval", "5m");
                serde_json::json!({ "record": format!("panel_{number}"), "expr": query })
            })
            .collect();
        ensure!(rules.len() > 15, "{}", rules.len());
        let text = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
        let said = program("promtool", &["check", "rules"], &text).await?;
        ensure!(said.success, "{}{}", said.stdout, said.stderr);
        Ok(())
    })
}
