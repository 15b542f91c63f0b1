//! The life of a backfill, one fact in and one decision out. `cluster` carries plans out; `simulation` does so while everything
//! goes wrong.

mod broken;
mod cluster;
mod life;
mod manifests;
mod simulation;
mod trouble;
mod wishes;

use super::*;
use crate::condition::ConditionStatus;
use crate::contract::{OfflineReport, OnlineReport, Outcome, Report};
use cluster::{Cluster, at, cluster};
use serde_json::{Value, json};

/// The rows of the table of conditions: Ready, Reconciling, Stalled, Complete, Failed, Suspended.
const ROWS: [(&str, &str); 6] = [
    ("going", "F T – F F –"),
    ("suspended", "F – – F F T"),
    ("stalled", "F – T F F –"),
    ("planned", "T – – F F –"),
    ("complete", "T – – T F –"),
    ("failed", "F – T F T –"),
];

/// Which row of the table of conditions a status is.
fn row(status: &FeatureSetBackfillStatus) -> &'static str {
    use ConditionType::{Complete, Failed, Ready, Reconciling, Stalled, Suspended};
    let word = |kind| match condition(status, kind).map(|condition| condition.status) {
        None => "–",
        Some(ConditionStatus::True) => "T",
        Some(ConditionStatus::False) => "F",
        Some(ConditionStatus::Unknown) => "?",
    };
    let found = [Ready, Reconciling, Stalled, Complete, Failed, Suspended].map(word).join(" ");
    let known = ROWS.iter().find(|(_, row)| *row == found);
    known.unwrap_or_else(|| panic!("no moment has the conditions {found}: {:#?}", status.conditions)).0
}

fn condition(status: &FeatureSetBackfillStatus, kind: ConditionType) -> Option<&condition::Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

/// What holds of every status that is ever written.
fn check_status(status: &FeatureSetBackfillStatus) {
    let json = serde_json::to_string(status).expect("JSON");
    assert!(json.len() <= 8 * 1024, "a status of {} bytes: {json}", json.len());
    assert!(status.attempts.len() <= 5, "{} attempts", status.attempts.len());
    assert!(status.phase.is_some(), "no phase");
    row(status);
}

/// A week of May, of `clicks`, with changes.
fn may(more: Value) -> Value {
    let week = json!({"featureSet": "clicks", "startTime": "2024-05-01", "stopTime": "2024-05-08"});
    let both = [week, more];
    let members = both.iter().filter_map(Value::as_object).flatten();
    let merged: BTreeMap<_, _> = members.collect();
    merged.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A cluster with the backfill `fix`.
fn world(more: Value) -> Cluster {
    let mut cluster = cluster();
    cluster.apply("fix", may(more));
    cluster
}

/// A cluster in which the first step of `fix` runs.
fn running(more: Value) -> Cluster {
    let mut cluster = world(more);
    cluster.rest("fix");
    cluster.begins("fix");
    cluster.rest("fix");
    cluster
}

/// A cluster in which `fix` is published as version 5, and its online step runs.
fn published(more: Value) -> Cluster {
    let mut cluster = running(more);
    cluster.reports("fix", replaced(5));
    cluster.rest("fix");
    cluster.begins("fix");
    cluster.rest("fix");
    cluster
}

fn report(outcome: Outcome) -> Report {
    Report { version: 1, key: String::new(), outcome, comment: None, scope: None, offline: None, online: None, warnings: vec![] }
}

fn replaced(version: u64) -> Report {
    let offline = OfflineReport { rows_removed: 10, rows_written: 12, version_after: Some(version), ..OfflineReport::default() };
    Report { offline: Some(offline), ..report(Outcome::Done) }
}

fn reconciled(version: u64) -> Report {
    let online = OnlineReport { entities_updated: 3, version: Some(version), ..OnlineReport::default() };
    Report { online: Some(online), ..report(Outcome::Done) }
}

fn settled(version: Option<u64>) -> Report {
    let outcome = Outcome::Settled { published: version.is_some() };
    Report { offline: version.and_then(|version| replaced(version).offline), ..report(outcome) }
}

/// The names of a plan's effects.
fn effects(plan: &Plan) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Admit { .. } => "Admit",
        Effect::Launch { .. } => "Launch",
        Effect::Stop { .. } => "Stop",
        Effect::Release { .. } => "Release",
        Effect::CleanUp => "CleanUp",
        Effect::LetGo => "LetGo",
    };
    plan.effects.iter().map(name).collect()
}

impl Cluster {
    /// The newest attempt's Job.
    fn job(&self, name: &str) -> String {
        self.status(name).attempts.last().expect("an attempt").job.clone()
    }

    /// The steps and numbers of the Jobs that are there, oldest first.
    fn steps(&self, name: &str) -> Vec<String> {
        let attempts = self.status(name).attempts.iter().filter(|attempt| self.jobs.contains_key(&attempt.job));
        attempts.map(|attempt| format!("{} {}", attempt.step, attempt.attempt)).collect()
    }

    /// A pod of the newest attempt runs.
    fn begins(&mut self, name: &str) -> String {
        let pod = self.add_pod(&self.job(name));
        self.pod_is(&pod, "Running", json!({"running": {}}));
        pod
    }

    /// The newest attempt's pods end with a report, and its Job is complete.
    fn reports(&mut self, name: &str, report: Report) {
        let job = self.job(name);
        let pods: Vec<String> = self.pods_of(&job);
        let pod = pods.first().cloned().unwrap_or_else(|| self.add_pod(&job));
        self.pod_ends(&pod, 0, "Completed", Some(&report));
        self.job_is(&job, "Complete");
    }

    /// The newest attempt's pod fails for good, and so does its Job.
    fn fails(&mut self, name: &str, reason: Reason) {
        let job = self.job(name);
        let pods: Vec<String> = self.pods_of(&job);
        let pod = pods.first().cloned().unwrap_or_else(|| self.add_pod(&job));
        let failed = report(Outcome::Failed { reason, message: "because".to_owned(), retry: false });
        self.pod_ends(&pod, 64, "Error", Some(&failed));
        self.job_is(&job, "Failed");
    }

    fn pods_of(&self, job: &str) -> Vec<String> {
        let ours = |pod: &&Pod| cluster::labelled(*pod, cluster::JOB_NAME) == job;
        self.pods.values().filter(ours).map(ResourceExt::name_any).collect()
    }

    /// The kubelet ends what was told to.
    fn pods_end(&mut self) {
        self.pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
    }

    fn wait(&mut self, time: TimeDelta) {
        self.now += time;
    }

    /// The row of the table of conditions, and the reason of Ready.
    fn stands(&self, name: &str) -> (&'static str, Reason) {
        let status = self.status(name);
        (row(status), condition(status, ConditionType::Ready).expect("Ready").reason)
    }

    fn message(&self, name: &str) -> &str {
        &condition(self.status(name), ConditionType::Ready).expect("Ready").message
    }

    /// What is told of both stores: status and reason.
    fn stores_say(&self, name: &str) -> [String; 2] {
        [ConditionType::OfflineReplaced, ConditionType::OnlineReplaced].map(|kind| {
            let found = condition(self.status(name), kind).expect("a condition");
            format!("{:?} {}", found.status, found.reason)
        })
    }

    /// Nothing is held: no slot, no feature set, no finalizer.
    #[track_caller]
    fn nothing_is_held(&self) {
        assert_eq!(self.slots(), [], "slots");
        for set in self.feature_sets.values() {
            assert_eq!(set.status.as_ref().and_then(|status| status.active.clone()), None, "active");
            assert_eq!(set.finalizers(), [""; 0], "finalizers of {}", set.name_any());
        }
        for backfill in self.backfills.values() {
            assert_eq!(backfill.finalizers(), [""; 0], "finalizers of {}", backfill.name_any());
        }
    }
}
