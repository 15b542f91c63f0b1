//! What must hold of every run: the same end, on the same way, nothing twice and nothing left.

use crate::fault::Workload;
use crate::history::Told;
use crate::world::World;
use anyhow::{Result, bail, ensure};
use backfill_core::api::{FeatureSet, FeatureSetBackfill, FeatureSetBackfillStatus, FeatureStore};
use backfill_core::plan::run::{MANAGED_BY, MANAGER};
use backfill_e2e::eventually;
use backfill_e2e::kubelet::{Run, overlapping};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What is left of a run.
#[derive(Clone, Debug)]
pub struct End {
    objects: Value,
    told: Told,
    runs: Vec<Run>,
}

impl End {
    /// Reads everything, when the observer has seen the last of it.
    pub async fn of(world: &World, workload: Workload) -> Result<Self> {
        if workload == Workload::Delete {
            // The garbage collector does that.
            eventually("children of the deleted backfill to be gone", async || {
                let left = objects::<Job>(world).await?.len()
                    + objects::<Pod>(world).await?.len()
                    + objects::<ConfigMap>(world).await?.len();
                Ok((left == 0).then_some(()))
            })
            .await?;
        }
        let namespace = world.namespace.name();
        let (backfills, jobs) = (objects::<FeatureSetBackfill>(world).await?, objects::<Job>(world).await?);
        let told = eventually("the observer to have seen everything", async || {
            let told = world.shared.history.of_namespace(namespace);
            let knows = knows_all(&told, &backfills) && knows_all(&told, &jobs);
            let gone = workload != Workload::Delete || told.knows::<FeatureSetBackfill>("doomed", None);
            Ok((knows && gone).then_some(told))
        })
        .await?;
        let objects = json!({
            "backfills": normal(&backfills)?,
            "sets": normal(&objects::<FeatureSet>(world).await?)?,
            "stores": normal(&objects::<FeatureStore>(world).await?)?,
            "jobs": children(&jobs, |job| status_words(job.status.iter().flat_map(|status| status.conditions.iter().flatten()).map(|condition| condition.type_.as_str()))),
            "pods": children(&objects::<Pod>(world).await?, |pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()),
            "config": children(&objects::<ConfigMap>(world).await?, |_| String::new()),
        });
        Ok(Self { objects, told, runs: world.runs() })
    }

    /// What holds without a reference, too.
    pub fn check(&self, workload: Workload) -> Result<()> {
        ensure!(self.told.met.is_empty(), "Jobs of one feature set lived at the same time: {:?}", self.told.met);
        let met = overlapping(&self.runs);
        ensure!(met.is_empty(), "pods of one feature set lived at the same time: {met:#?}");
        let mut publishes = BTreeMap::<&str, usize>::new();
        for run in self.runs.iter().filter(|run| run.published) {
            *publishes.entry(&run.key).or_default() += 1;
        }
        let (keys, phases) = match workload {
            Workload::Interval => (2, vec!["Complete"; 2]),
            Workload::Reset => (1, vec!["Complete"]),
            Workload::Delete => (0, vec![]),
        };
        ensure!(publishes.len() == keys && publishes.values().all(|times| *times == 1), "published by key: {publishes:?}");
        let ends = self.objects["backfills"].as_array().into_iter().flatten().map(|backfill| backfill["status"]["phase"].clone());
        ensure!(ends.eq(phases), "the backfills ended as {:#}", self.objects["backfills"]);
        let text = self.objects.to_string();
        for held in ["\"active\"", "\"finalizers\"", "\"running\"", "\"broken\""] {
            ensure!(!text.contains(held), "{held} is left: {:#}", self.objects);
        }
        let ledger = self.objects["sets"][0]["status"]["ledger"].as_array().map_or(0, Vec::len);
        ensure!(ledger == keys, "{ledger} entries in the ledger");
        Ok(())
    }

    /// The same as without faults.
    pub fn compare(&self, reference: &Self) -> Result<()> {
        if self.objects != reference.objects {
            bail!("the end is another one: {}", difference(&reference.objects, &self.objects, "").join("; "));
        }
        for (name, statuses) in &self.told.statuses {
            let known = reference.told.statuses.get(name).map_or(&[][..], Vec::as_slice);
            same_way(&format!("the phase of {name}"), &phases(known), &phases(statuses))?;
            let kinds = known.iter().chain(statuses).flat_map(|status| &status.conditions).map(|condition| condition.kind);
            for kind in kinds.collect::<std::collections::BTreeSet<_>>() {
                let of = |statuses: &[FeatureSetBackfillStatus]| {
                    let found = statuses.iter().map(|status| {
                        let condition = status.conditions.iter().find(|condition| condition.kind == kind);
                        condition.map_or_else(|| "–".to_owned(), |condition| format!("{:?}", condition.status))
                    });
                    once_each(found)
                };
                same_way(&format!("{kind:?} of {name}"), &of(known), &of(statuses))?;
            }
        }
        Ok(())
    }
}

/// The phases one after the other. Whether a pod is seen to run, or is done by then, is a matter of time.
fn phases(statuses: &[FeatureSetBackfillStatus]) -> Vec<String> {
    let words = statuses.iter().filter_map(|status| status.phase.clone());
    once_each(words.map(|phase| if phase == "Starting" { "Running".to_owned() } else { phase }))
}

fn once_each(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<String> = words.collect();
    found.dedup();
    found
}

/// What was seen is part of what is seen without faults, in the same order.
fn same_way(what: &str, reference: &[String], seen: &[String]) -> Result<()> {
    let mut rest = reference.iter();
    ensure!(seen.iter().all(|word| rest.any(|known| known == word)), "{what} was {seen:?} instead of {reference:?}");
    Ok(())
}

async fn objects<K>(world: &World) -> Result<Vec<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let ours = matches!(&*K::kind(&()), "Job" | "Pod" | "ConfigMap");
    let params = if ours { ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}")) } else { ListParams::default() };
    Ok(world.namespace.api::<K>().list(&params).await?.items)
}

fn knows_all<K: Resource<DynamicType = ()>>(told: &Told, objects: &[K]) -> bool {
    objects.iter().all(|object| {
        let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        told.knows::<K>(&object.name_any(), version)
    })
}

/// Objects without what differs between equal runs.
fn normal<K: Resource + Serialize>(found: &[K]) -> Result<Value> {
    let mut objects: BTreeMap<String, Value> = BTreeMap::new();
    for object in found {
        let value = serde_json::to_value(object)?;
        let mut normal = json!({ "name": object.name_any(), "spec": value["spec"], "status": value["status"] });
        if !object.finalizers().is_empty() {
            normal["finalizers"] = json!(object.finalizers());
        }
        scrub(&mut normal);
        objects.insert(object.name_any(), normal);
    }
    Ok(objects.into_values().collect())
}

/// Takes out what depends on time, on the namespace, or is empty.
fn scrub(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                scrub(value);
                !matches!(name.as_str(), "key" | "message" | "job" | "held") && *value != json!([]) && !value.is_null()
            });
        }
        Value::Array(items) => items.iter_mut().for_each(scrub),
        Value::String(text) => {
            let time = DateTime::parse_from_rfc3339(text).ok();
            if time.is_some_and(|time| Utc::now() - time.to_utc() < TimeDelta::hours(1)) {
                *value = json!("now");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is left of the children, each with its labels and a word.
fn children<K: Resource>(found: &[K], word: impl Fn(&K) -> String) -> Vec<String> {
    let mut all: Vec<String> = found
        .iter()
        .map(|child| {
            let of = |label: &str| child.labels().get(&format!("featureset.dev/{label}")).map_or("", String::as_str).to_owned();
            let leaving = if child.meta().deletion_timestamp.is_some() { " leaving" } else { "" };
            format!("{} {} {} {}{leaving}", of("backfill"), of("step"), of("attempt"), word(child))
        })
        .collect();
    all.sort();
    all
}

fn status_words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = words.collect();
    words.sort_unstable();
    words.join("+")
}

/// Where two values differ.
fn difference(one: &Value, other: &Value, path: &str) -> Vec<String> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.into_iter().flat_map(|name| difference(&one[name], &other[name], &format!("{path}.{name}"))).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.flat_map(|(at, (one, other))| difference(one, other, &format!("{path}[{at}]"))).collect()
        }
        _ if one == other => vec![],
        _ => vec![format!("{path} is {other} instead of {one}")],
    }
}
