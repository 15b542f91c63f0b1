//! A cluster in memory that carries plans out as the operator does: the status first, then effect by effect, write by write.

use super::super::*;
use crate::api::{ActiveBackfill, FeatureSetStatus, FeatureStoreStatus};
use crate::plan::manifest::REQUEST;
use crate::plan::run::{BACKFILL_FINALIZER, HELD_FINALIZER, label};
use crate::time::parse_time;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Succeeds,
    /// It is carried out, but nobody hears of it.
    ReplyLost,
    Fails,
}

/// The rest of a plan is not carried out.
#[derive(Debug)]
pub struct Aborted;

type Done = Result<(), Aborted>;

#[derive(Clone, Debug)]
pub struct Cluster {
    pub now: DateTime<Utc>,
    pub feature_sets: BTreeMap<String, FeatureSet>,
    pub stores: BTreeMap<String, FeatureStore>,
    pub templates: Vec<ClusterTemplate>,
    pub unknown: Vec<Unknown>,
    pub labels: BTreeMap<String, String>,
    pub terminating: bool,
    pub backfills: BTreeMap<String, FeatureSetBackfill>,
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub jobs: BTreeMap<String, Job>,
    pub pods: BTreeMap<String, Pod>,
    pub trouble: Option<Notice>,
    pub progress: Option<Progress>,
    pub settings: Settings,
    /// What was announced, by backfill.
    pub said: Vec<(String, Announcement)>,
    names: u64,
}

pub fn at(text: &str) -> DateTime<Utc> {
    parse_time("t", text).expect(text)
}

pub fn time(t: DateTime<Utc>) -> Time {
    Time(jiff::Timestamp::from_second(t.timestamp()).expect("a time"))
}

pub fn object<T: DeserializeOwned>(kind: &str, mut value: Value) -> T {
    value["apiVersion"] = json!("featureset.dev/v1alpha1");
    value["kind"] = json!(kind);
    serde_json::from_value(value).expect(kind)
}

pub fn feature_set(name: &str) -> FeatureSet {
    let spec = json!({
        "entities": [{"name": "user_id", "type": "int64"}],
        "timestampColumn": "t",
        "features": [{"name": "n", "type": "int64"}],
        "sources": [{"name": "raw", "parquet": {"uri": "s3://bucket/raw/"}}],
        "transformation": {"sql": "SELECT * FROM raw"},
        "backfill": {"startTime": "2024-01-01"}
    });
    object("FeatureSet", json!({"metadata": {"name": name, "namespace": "prod", "uid": name, "generation": 7}, "spec": spec}))
}

/// Feature sets `clicks` and `views`, the store, a template, and no backfill, on the first of June at noon.
pub fn cluster() -> Cluster {
    let store = object(
        "FeatureStore",
        json!({
            "metadata": {"name": "default", "namespace": "prod"},
            "spec": {
                "offline": {"uri": "s3://bucket/tables", "credentialsSecret": "s3"},
                "online": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}}
            }
        }),
    );
    let template = json!({"metadata": {"name": "small"}, "spec": {"engine": "DataFusion", "cores": 2, "memory": "2Gi"}});
    Cluster {
        now: at("2024-06-01 12:00:00"),
        feature_sets: ["clicks", "views"].map(|name| (name.to_owned(), feature_set(name))).into(),
        stores: [("default".to_owned(), store)].into(),
        templates: vec![object("ClusterTemplate", template)],
        unknown: Vec::new(),
        labels: BTreeMap::new(),
        terminating: false,
        backfills: BTreeMap::new(),
        config_maps: BTreeMap::new(),
        jobs: BTreeMap::new(),
        pods: BTreeMap::new(),
        trouble: None,
        progress: None,
        settings: Settings { worker_image: "worker:1".to_owned(), ..Settings::default() },
        said: Vec::new(),
        names: 0,
    }
}

/// An observation that owns what it saw.
pub struct Facts<'a> {
    seen: &'a Cluster,
    backfill: FeatureSetBackfill,
    rivals: Vec<Rival>,
    claimed_at: Option<DateTime<Utc>>,
    pinned: Option<Request>,
    jobs: Vec<Job>,
    pods: Vec<Pod>,
}

impl Facts<'_> {
    pub fn plan(&self, now: DateTime<Utc>) -> Plan {
        plan(
            &Observed {
                backfill: &self.backfill,
                feature_sets: self.seen.feature_sets.values().collect(),
                stores: self.seen.stores.values().collect(),
                templates: self.seen.templates.iter().collect(),
                unknown: &self.seen.unknown,
                namespace_labels: &self.seen.labels,
                namespace_terminating: self.seen.terminating,
                rivals: &self.rivals,
                claimed_at: self.claimed_at,
                pinned: self.pinned.as_ref(),
                jobs: &self.jobs,
                pods: &self.pods,
                trouble: self.seen.trouble.as_ref(),
                progress: self.seen.progress.as_ref(),
                settings: &self.seen.settings,
            },
            now,
        )
    }
}

/// What `kubectl delete` does to an object: it goes, or waits for its finalizers.
fn delete<K: Resource>(objects: &mut BTreeMap<String, K>, name: &str, now: DateTime<Utc>) {
    let Some(object) = objects.get_mut(name) else { return };
    object.meta_mut().deletion_timestamp.get_or_insert(time(now));
    if object.meta().finalizers.as_ref().is_none_or(Vec::is_empty) {
        objects.remove(name);
    }
}

fn add_finalizer<K: Resource>(object: &mut K, finalizer: &str) -> Done {
    let known = object.meta().finalizers.iter().flatten().any(|known| known == finalizer);
    // The API server forbids new finalizers of what is being deleted.
    if !known && object.meta().deletion_timestamp.is_some() {
        return Err(Aborted);
    }
    if !known {
        object.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_owned());
    }
    Ok(())
}

fn remove_finalizer<K: Resource>(objects: &mut BTreeMap<String, K>, name: &str, finalizer: &str) {
    let Some(object) = objects.get_mut(name) else { return };
    object.meta_mut().finalizers.get_or_insert_default().retain(|known| known != finalizer);
    if object.meta().deletion_timestamp.is_some() && object.meta().finalizers.iter().flatten().next().is_none() {
        objects.remove(name);
    }
}

pub fn labelled<'a, K: Resource>(object: &'a K, key: &str) -> &'a str {
    object.meta().labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

impl Cluster {
    pub fn named(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}-{}", self.names)
    }

    /// A user creates a backfill.
    pub fn apply(&mut self, name: &str, spec: Value) {
        let uid = self.named("uid");
        let created = show(self.now);
        let metadata = json!({"name": name, "namespace": "prod", "uid": uid, "generation": 1, "creationTimestamp": created});
        let status = json!({"observedGeneration": -1});
        let backfill = object("FeatureSetBackfill", json!({"metadata": metadata, "spec": spec, "status": status}));
        assert!(self.backfills.insert(name.to_owned(), backfill).is_none(), "{name} is there already");
    }

    /// A user edits a backfill.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut crate::api::FeatureSetBackfillSpec)) {
        let backfill = self.backfills.get_mut(name).expect(name);
        change(&mut backfill.spec);
        backfill.metadata.generation = backfill.metadata.generation.map(|generation| generation + 1);
    }

    pub fn delete_backfill(&mut self, name: &str) {
        delete(&mut self.backfills, name, self.now);
        self.collect_garbage();
    }

    pub fn delete_feature_set(&mut self, name: &str) {
        delete(&mut self.feature_sets, name, self.now);
    }

    pub fn status(&self, name: &str) -> &FeatureSetBackfillStatus {
        self.backfills[name].status.as_ref().expect("a status")
    }

    pub fn set_status(&self, name: &str) -> FeatureSetStatus {
        self.feature_sets.get(name).and_then(|set| set.status.clone()).unwrap_or_default()
    }

    pub fn slots(&self) -> Vec<RunningBackfill> {
        self.stores["default"].status.iter().flat_map(|status| status.running.clone()).collect()
    }

    /// Observes; what comes from caches is as `seen`.
    pub fn observe<'a>(&self, name: &str, seen: &'a Self) -> Facts<'a> {
        let backfill = self.backfills[name].clone();
        let run = Run::of(&backfill);
        let status = backfill.status.clone().unwrap_or_default();
        let others = seen.backfills.values().filter(|other| other.metadata.uid != backfill.metadata.uid);
        let others = others.filter(|other| other.spec.feature_set == backfill.spec.feature_set && !rests(other));
        let ours = |labels: &str| labels == run.uid;
        let set = seen.feature_sets.get(run.feature_set);
        let active = set.and_then(|set| set.status.as_ref()?.active.as_ref());
        let holds = active.is_some_and(|active| active.uid == run.uid);
        let claim = self.config_maps.get(&run.claim_name()).filter(|_| holds && status.attempts.is_empty());
        let orders = status.attempts.iter().filter_map(|attempt| self.config_maps.get(&attempt.job));
        let request = orders.filter_map(|order| order.data.as_ref()?.get(REQUEST)).next();
        Facts {
            rivals: others.filter(|other| other.metadata.deletion_timestamp.is_none()).map(Rival::of).collect(),
            claimed_at: claim.and_then(|claim| claim.metadata.creation_timestamp.as_ref().map(instant)),
            pinned: request.map(|json| serde_json::from_str(json).expect("a request")),
            jobs: seen.jobs.values().filter(|job| ours(labelled(*job, label::UID))).cloned().collect(),
            pods: seen.pods.values().filter(|pod| ours(labelled(*pod, label::UID))).cloned().collect(),
            seen,
            backfill: backfill.clone(),
        }
    }

    pub fn plan(&self, name: &str) -> Plan {
        self.observe(name, self).plan(self.now)
    }

    /// Plans, and carries the plan out without a fault.
    pub fn step(&mut self, name: &str) -> Plan {
        let plan = self.plan(name);
        self.perform(name, &plan, &mut || Fate::Succeeds).expect("nothing is in the way");
        plan
    }

    /// Steps until nothing changes any more.
    pub fn rest(&mut self, name: &str) -> Plan {
        for _ in 0..20 {
            if !self.backfills.contains_key(name) {
                return Plan { status: FeatureSetBackfillStatus::default(), effects: vec![], requeue: None };
            }
            let before = self.backfills[name].status.clone();
            let plan = self.step(name);
            if plan.effects.is_empty() && before.as_ref() == Some(&plan.status) {
                return plan;
            }
        }
        panic!("{name} does not come to rest: {:?}", self.plan(name));
    }

    /// Writes what a plan says: first the status, then the effects, in their order, up to the first fault.
    pub fn perform(&mut self, name: &str, plan: &Plan, fate: &mut impl FnMut() -> Fate) -> Done {
        let old = self.backfills[name].clone();
        if old.status.as_ref() != Some(&plan.status) {
            super::check_status(&plan.status);
            self.write(fate, |cluster| {
                let said = announcements(old.status.as_ref(), &plan.status);
                cluster.said.extend(said.into_iter().map(|said| (name.to_owned(), said)));
                cluster.backfills.get_mut(name).expect("the backfill").status = Some(plan.status.clone());
                Ok(())
            })?;
        }
        for effect in &plan.effects {
            match effect {
                Effect::Admit { store, claim } => self.admit(&old, store, claim, fate)?,
                Effect::Launch { order, job, .. } => self.launch(&old, order, job, fate)?,
                Effect::Stop { jobs } => self.stop(jobs, fate)?,
                Effect::Release { entry } => self.release(&old, entry.as_deref(), fate)?,
                Effect::CleanUp => self.write(fate, |cluster| {
                    let other = |uid: &str| Some(uid) != old.metadata.uid.as_deref();
                    cluster.jobs.retain(|_, job| other(labelled(job, label::UID)));
                    cluster.config_maps.retain(|_, map| other(labelled(map, label::UID)));
                    cluster.collect_garbage();
                    Ok(())
                })?,
                Effect::LetGo => self.write(fate, |cluster| {
                    remove_finalizer(&mut cluster.backfills, name, BACKFILL_FINALIZER);
                    cluster.collect_garbage();
                    Ok(())
                })?,
            }
        }
        Ok(())
    }

    fn write(&mut self, fate: &mut impl FnMut() -> Fate, change: impl FnOnce(&mut Self) -> Done) -> Done {
        match fate() {
            Fate::Succeeds => change(self),
            Fate::ReplyLost => change(self).and(Err(Aborted)),
            Fate::Fails => Err(Aborted),
        }
    }

    fn admit(&mut self, old: &FeatureSetBackfill, store: &str, claim: &ConfigMap, fate: &mut impl FnMut() -> Fate) -> Done {
        let run = Run::of(old);
        self.write(fate, |cluster| add_finalizer(cluster.backfills.get_mut(run.name).ok_or(Aborted)?, BACKFILL_FINALIZER))?;
        self.write(fate, |cluster| {
            let store = cluster.stores.get_mut(store).ok_or(Aborted)?;
            let slots = store.slots();
            let FeatureStoreStatus { running, .. } = store.status.get_or_insert_default();
            if running.iter().any(|running| running.uid == run.uid) {
                return Ok(());
            }
            running.push(RunningBackfill { uid: run.uid.to_owned(), name: run.name.to_owned() });
            if running.len() > slots { running.pop().map_or(Ok(()), |_| Err(Aborted)) } else { Ok(()) }
        })?;
        let free = |set: &FeatureSet| {
            let active = set.status.as_ref().and_then(|status| status.active.as_ref());
            active.is_none_or(|active| active.uid == run.uid && active.run_id.as_deref() == run.run_id)
        };
        self.write(fate, |cluster| {
            let set = cluster.feature_sets.get_mut(run.feature_set).filter(|set| free(set)).ok_or(Aborted)?;
            add_finalizer(set, HELD_FINALIZER)
        })?;
        self.write(fate, |cluster| {
            let since = show(cluster.now);
            let set = cluster.feature_sets.get_mut(run.feature_set).filter(|set| free(set)).ok_or(Aborted)?;
            let (uid, name, run_id) = (run.uid.to_owned(), run.name.to_owned(), run.run_id.map(str::to_owned));
            set.status.get_or_insert_default().active.get_or_insert(ActiveBackfill { uid, name, run_id, since });
            Ok(())
        })?;
        self.write(fate, |cluster| {
            cluster.create(claim);
            Ok(())
        })
    }

    fn create(&mut self, map: &ConfigMap) {
        let mut map = map.clone();
        map.metadata.creation_timestamp = Some(time(self.now));
        self.config_maps.entry(map.name_any()).or_insert(map);
    }

    fn launch(&mut self, old: &FeatureSetBackfill, order: &ConfigMap, job: &Job, fate: &mut impl FnMut() -> Fate) -> Done {
        let run = Run::of(old);
        if self.terminating || self.company(&run) {
            return Err(Aborted);
        }
        self.write(fate, |cluster| {
            cluster.create(order);
            Ok(())
        })?;
        self.write(fate, |cluster| {
            let uid = cluster.named("job");
            let now = time(cluster.now);
            cluster.jobs.entry(job.name_any()).or_insert_with(|| {
                let mut job = job.clone();
                (job.metadata.uid, job.metadata.creation_timestamp) = (Some(uid), Some(now));
                job
            });
            Ok(())
        })
    }

    /// Whether a Job or a pod of another run of the feature set lives.
    fn company(&self, run: &Run<'_>) -> bool {
        let other = |set: &str, labels: Option<&BTreeMap<String, String>>| set == run.feature_set && !run.owns(labels);
        let jobs = self
            .jobs
            .values()
            .filter(|job| !finished(job) && other(labelled(*job, label::FEATURE_SET), job.meta().labels.as_ref()));
        let pods = self.pods.values().filter(|pod| alive(pod, self.now));
        jobs.count() > 0 || pods.into_iter().any(|pod| other(labelled(pod, label::FEATURE_SET), pod.meta().labels.as_ref()))
    }

    fn stop(&mut self, jobs: &[(String, String)], fate: &mut impl FnMut() -> Fate) -> Done {
        for (name, uid) in jobs {
            self.write(fate, |cluster| {
                if cluster.jobs.get(name).is_some_and(|job| job.metadata.uid.as_ref() == Some(uid)) {
                    cluster.jobs.remove(name);
                }
                cluster.collect_garbage();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn release(&mut self, old: &FeatureSetBackfill, entry: Option<&LedgerEntry>, fate: &mut impl FnMut() -> Fate) -> Done {
        let run = Run::of(old);
        self.write(fate, |cluster| {
            let Some(set) = cluster.feature_sets.get_mut(run.feature_set) else { return Ok(()) };
            let status = set.status.clone().unwrap_or_default();
            if status.active.as_ref().is_some_and(|active| active.uid == run.uid) {
                let status = entry.map_or(status.clone(), |entry| record(status, entry.clone()));
                set.status = Some(FeatureSetStatus { active: None, ..status });
            }
            Ok(())
        })?;
        self.write(fate, |cluster| {
            let set = cluster.feature_sets.get(run.feature_set);
            if set.is_some_and(|set| set.status.as_ref().is_none_or(|status| status.active.is_none())) {
                remove_finalizer(&mut cluster.feature_sets, run.feature_set, HELD_FINALIZER);
            }
            Ok(())
        })?;
        self.write(fate, |cluster| {
            let statuses = cluster.stores.values_mut().filter_map(|store| store.status.as_mut());
            statuses.for_each(|status| status.running.retain(|running| running.uid != run.uid));
            Ok(())
        })
    }

    /// What Kubernetes does when an owner is gone: Jobs and orders go, pods are told to end.
    pub fn collect_garbage(&mut self) {
        let uids: Vec<_> = self.backfills.values().filter_map(|backfill| backfill.metadata.uid.clone()).collect();
        self.jobs.retain(|_, job| uids.iter().any(|uid| uid == labelled(job, label::UID)));
        self.config_maps.retain(|_, map| uids.iter().any(|uid| uid == labelled(map, label::UID)));
        let (jobs, now) = (&self.jobs, self.now);
        self.pods.retain(|_, pod| {
            let owned = jobs.contains_key(labelled(pod, JOB_NAME));
            if !owned {
                pod.metadata.deletion_timestamp.get_or_insert(time(now + TimeDelta::seconds(30)));
            }
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            owned || !matches!(phase, Some("Succeeded" | "Failed"))
        });
    }

    /// A pod of a Job, which has not begun.
    pub fn add_pod(&mut self, job: &str) -> String {
        let name = self.named("pod");
        let mut metadata = self.jobs[job].spec.as_ref().and_then(|spec| spec.template.metadata.clone()).unwrap_or_default();
        metadata.name = Some(name.clone());
        metadata.labels.get_or_insert_default().insert(JOB_NAME.to_owned(), job.to_owned());
        let status = serde_json::from_value(json!({"phase": "Pending"})).expect("a status");
        self.pods.insert(name.clone(), Pod { metadata, status: Some(status), spec: None });
        name
    }

    /// Gives a pod a phase and its container a state.
    pub fn pod_is(&mut self, pod: &str, phase: &str, state: Value) {
        let status = json!({"phase": phase, "containerStatuses": [
            {"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}
        ]});
        self.pods.get_mut(pod).expect(pod).status = Some(serde_json::from_value(status).expect("a status"));
    }

    /// A container has ended.
    pub fn pod_ends(&mut self, pod: &str, exit_code: i32, reason: &str, report: Option<&crate::contract::Report>) {
        let message = report.map_or_else(String::new, |report| serde_json::to_string(report).expect("a report"));
        let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
        let ended = json!({"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": show(self.now)});
        self.pod_is(pod, phase, json!({"terminated": ended}));
    }

    /// The Job controller has come to a conclusion.
    pub fn job_is(&mut self, job: &str, kind: &str) {
        let condition = json!({"type": kind, "status": "True", "message": "the backoff limit is reached"});
        let status = serde_json::from_value(json!({"conditions": [condition]})).expect("a status");
        self.jobs.get_mut(job).expect(job).status = Some(status);
    }
}

/// The label with which the Job controller marks its pods.
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
