//! Orders as pods get them, and the reports that they give.

use anyhow::{Context, Result};
use backfill_core::condition::Reason;
use backfill_core::contract::{
    GuardResult, OfflineReport, OnlineReport, Order, Outcome, Proof, Report, Scope, Step, VERSION, Verdict, exit,
};
use backfill_core::plan::run::label;
use backfill_core::time::show;
use chrono::Utc;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, Client, ResourceExt};

/// The volume with the order, and the key in its ConfigMap.
const ORDER: (&str, &str) = ("order", "order.json");

/// Which step a pod of a backfill does.
pub fn step_of(pod: &Pod) -> Option<Step> {
    match pod.labels().get("featureset.dev/step")?.as_str() {
        "offline" => Some(Step::Offline),
        "online" => Some(Step::Online),
        "settle" => Some(Step::Settle),
        _ => None,
    }
}

/// Which of the pods of an Indexed Job it is.
pub fn index_of(pod: &Pod) -> u32 {
    pod.labels().get(label::INDEX).and_then(|index| index.parse().ok()).unwrap_or(0)
}

/// What a pod is to do: the order in the ConfigMap that it mounts. `None` for a pod that mounts none.
pub async fn order_of(client: &Client, pod: &Pod) -> Result<Option<Order>> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let Some(source) = volumes.filter(|volume| volume.name == ORDER.0).find_map(|volume| volume.config_map.as_ref()) else {
        return Ok(None);
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let map = maps.get(&source.name).await?;
    let json =
        map.data.as_ref().and_then(|data| data.get(ORDER.1)).with_context(|| format!("{} has no {}", source.name, ORDER.1))?;
    Ok(Some(Order::read(json)?))
}

/// The report of a step that went well, with plausible numbers; versions of the table are left out.
pub fn done_report(order: &Order, step: Step) -> Report {
    let now = || Some(show(Utc::now()));
    let offline = || OfflineReport {
        rows_removed: 100,
        rows_written: 120,
        rows_rescued: 7,
        rows_read: 107,
        windows: 1,
        files_added: 2,
        files_removed: 2,
        bytes_written: 4096,
        started_at: now(),
        finished_at: now(),
        proof: Some(proof()),
        guards: vec![GuardResult { name: "shrink".into(), verdict: Verdict::Passed, message: "120 rows replace 100".into() }],
        ..OfflineReport::default()
    };
    let online = || OnlineReport {
        entities_updated: 10,
        entities_removed: 1,
        entities_kept_newer: 2,
        entities_unchanged: 3,
        entities_verified: 11,
        started_at: now(),
        finished_at: now(),
        ..OnlineReport::default()
    };
    let report = report(order, Outcome::Done);
    match step {
        Step::Offline => Report { offline: Some(offline()), ..report },
        Step::Online => Report { online: Some(online()), ..report },
        Step::Settle => Report { outcome: Outcome::Settled { published: false }, ..report },
    }
}

fn proof() -> Proof {
    let hash = "a".repeat(32);
    let verdict = Verdict::Passed;
    Proof {
        verdict,
        files_untouched: 3,
        rows_outside_before: 7,
        rows_outside_after: 7,
        hash_before: hash.clone(),
        hash_after: hash,
    }
}

/// A report without numbers.
pub fn report(order: &Order, outcome: Outcome) -> Report {
    let scope: Option<Scope> = Some(order.scope.clone());
    let (key, comment) = (order.key.clone(), order.comment.clone());
    Report { version: VERSION, key, outcome, comment, scope, offline: None, online: None, warnings: Vec::new() }
}

/// The worker's exit code for an outcome.
pub fn exit_code(outcome: &Outcome) -> i32 {
    let code = match outcome {
        Outcome::Done | Outcome::AlreadyApplied { .. } | Outcome::Planned | Outcome::Settled { .. } => exit::DONE,
        Outcome::Failed { reason: Reason::Superseded, .. } => exit::SUPERSEDED,
        Outcome::Failed { retry: true, .. } => exit::RETRY,
        Outcome::Failed { .. } => exit::PERMANENT,
    };
    code.into()
}
