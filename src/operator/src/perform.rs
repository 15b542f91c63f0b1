//! Carries a plan out: the status first, then its effects, one after the other. The first that fails ends it.

use crate::index::version;
use crate::latest::Latest;
use crate::observe::request_of;
use crate::shell::{Answer, Error, Shell, call};
use backfill_core::api::{ActiveBackfill, FeatureSet, FeatureSetBackfill, FeatureStore, LedgerEntry, RunningBackfill};
use backfill_core::plan::manifest::ORDER_HASH;
use backfill_core::plan::manifest::spark::Company;
use backfill_core::plan::run::{BACKFILL_FINALIZER, HELD_FINALIZER, MANAGED_BY, MANAGER, Run, label};
use backfill_core::plan::{Effect, Plan, alive, announcements, finished, instant, record};
use backfill_core::time::show;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::sync::Arc;

/// How often a change is decided anew on a newer object before the whole is observed again.
const TRIES: usize = 4;

/// How many backfills that hold slots are looked for when a store is full.
const STALE_MAX: usize = 20;

/// The label by which the Job controller marks pods.
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Selects what the operator has made, by a label.
pub fn children(label: &str, value: &str) -> ListParams {
    ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER},{label}={value}"))
}

/// What to make of an object.
pub enum Change<K> {
    /// It is as it should be.
    Nothing,
    /// This.
    To(Box<K>),
    /// Somebody else's; said for the log.
    Busy(String),
}

impl Shell {
    /// Writes what the plan says. After an error nothing more of it is done.
    pub async fn perform(&self, backfill: &Arc<FeatureSetBackfill>, plan: &Plan) -> Result<(), Error> {
        let run = Run::of(backfill);
        if backfill.status.as_ref() != Some(&plan.status) {
            self.write_status(&run, backfill, plan).await?;
        }
        for effect in &plan.effects {
            match effect {
                Effect::Admit { store, claim } => self.admit(&run, store, claim).await?,
                Effect::Launch { order, job, company } => self.launch(&run, order, job, company.as_deref()).await?,
                Effect::Stop { jobs } => self.stop(&run, jobs).await?,
                Effect::Release { entry } => self.release(&run, entry.as_deref()).await?,
                Effect::CleanUp => self.clean_up(&run, backfill).await?,
                Effect::LetGo => self.let_go(&run, backfill).await?,
            }
        }
        Ok(())
    }

    async fn write_status(&self, run: &Run<'_>, backfill: &FeatureSetBackfill, plan: &Plan) -> Result<(), Error> {
        let new = FeatureSetBackfill { status: Some(plan.status.clone()), ..backfill.clone() };
        let what = format!("the status of backfill {}", run.name);
        let api = self.api::<FeatureSetBackfill>(run.namespace);
        let written = call("update", &what, api.replace_status(run.name, &PostParams::default(), &new)).await?;
        // Without the object there is nobody left to tell.
        let Answer::Ok(written) = written else { return Err(Error::Conflict { what }) };
        self.caches.open.put(&written);
        self.caches.written.backfills.put(written);
        let said = announcements(backfill.status.as_ref(), &plan.status);
        let engine = self.known.request(run).map(|request| request.template.engine);
        self.metrics.count(run, engine, &plan.status, &said, self.clock.now());
        for announcement in said {
            let (kind, reason) = (announcement.kind, announcement.reason);
            tracing::info!(?kind, %reason, message = announcement.message, "{}/{}", run.namespace, run.name);
            self.announce(backfill, announcement);
        }
        Ok(())
    }

    /// Makes everything ours that a run needs: finalizer, slot, feature set, claim.
    async fn admit(&self, run: &Run<'_>, store: &str, claim: &ConfigMap) -> Result<(), Error> {
        self.finalize(run).await?;
        self.take_slot(run, store).await?;
        self.take_feature_set(run).await?;
        let api = self.api::<ConfigMap>(run.namespace);
        let made = call("create", "the claim", api.create(&PostParams::default(), claim)).await?;
        let made = match made {
            Answer::Ok(made) => Some(made),
            Answer::Exists => call("get", "the claim", api.get(&run.claim_name())).await?.found(),
            Answer::NotFound => None,
        };
        let at = made.and_then(|claim| claim.metadata.creation_timestamp.as_ref().map(instant));
        match at {
            Some(at) => self.known.claimed(run, at),
            None => return Err(Error::Conflict { what: "the claim".to_owned() }),
        }
        Ok(())
    }

    async fn finalize(&self, run: &Run<'_>) -> Result<(), Error> {
        let caches = &self.caches;
        let changed =
            self.change(run.namespace, run.name, &caches.backfills, &caches.written.backfills, Part::Finalizers, |found| {
                if found.metadata.uid.as_deref() != Some(run.uid) {
                    return Change::Busy("the backfill was made anew".to_owned());
                }
                with_finalizer(found, BACKFILL_FINALIZER)
            });
        changed.await.map(drop)
    }

    async fn take_slot(&self, run: &Run<'_>, name: &str) -> Result<(), Error> {
        let desk = self.desks.of(&format!("store {}/{name}", run.namespace));
        let _desk = desk.lock().await;
        let gone = self.gone_holders(run, name).await?;
        let caches = &self.caches;
        let changed = self.change(run.namespace, name, &caches.stores, &caches.written.stores, Part::Status, |store| {
            let mut status = store.status.clone().unwrap_or_default();
            if status.running.iter().any(|running| running.uid == run.uid) {
                return Change::Nothing;
            }
            status.running.retain(|running| !gone.contains(&running.uid));
            let slots = store.slots();
            if status.running.len() >= slots {
                return Change::Busy(format!("all slots of feature store \"{name}\" are taken"));
            }
            status.running.push(RunningBackfill { uid: run.uid.to_owned(), name: run.name.to_owned() });
            status.observed_generation = store.metadata.generation;
            // Who looks something up in this store runs the same.
            status.worker_image = Some(self.settings.worker_image.clone());
            Change::To(Box::new(FeatureStore { status: Some(status), ..store.clone() }))
        });
        changed.await.map(drop)
    }

    /// The uids in a full store's slots whose backfills exist no more: somebody took their finalizers away.
    async fn gone_holders(&self, run: &Run<'_>, store: &str) -> Result<Vec<String>, Error> {
        let cached = self.caches.stores.get(&ObjectRef::new(store).within(run.namespace));
        let Some(store) = cached.map(|store| self.caches.written.stores.newest(store)) else { return Ok(vec![]) };
        let running = store.status.as_ref().map_or(&[][..], |status| &status.running);
        if running.len() < store.slots() {
            return Ok(vec![]);
        }
        let mut gone = Vec::new();
        for RunningBackfill { uid, name } in running.iter().take(STALE_MAX) {
            if !self.exists(run.namespace, name, uid).await? {
                gone.push(uid.clone());
            }
        }
        Ok(gone)
    }

    /// Whether a backfill exists. The cache may say yes; only the API server says no.
    pub async fn exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, Error> {
        let is = |backfill: &FeatureSetBackfill| backfill.metadata.uid.as_deref() == Some(uid);
        if self.caches.backfills.get(&ObjectRef::new(name).within(namespace)).is_some_and(|backfill| is(&backfill)) {
            return Ok(true);
        }
        let found = call("get", name, self.api::<FeatureSetBackfill>(namespace).get(name)).await?.found();
        Ok(found.is_some_and(|backfill| is(&backfill)))
    }

    async fn take_feature_set(&self, run: &Run<'_>) -> Result<(), Error> {
        let desk = self.desks.of(&format!("set {}/{}", run.namespace, run.feature_set));
        let _desk = desk.lock().await;
        let caches = &self.caches;
        let judge = |set: &FeatureSet| -> Result<bool, String> {
            if set.metadata.deletion_timestamp.is_some() {
                return Err(format!("feature set \"{}\" is being deleted", run.feature_set));
            }
            match set.status.as_ref().and_then(|status| status.active.as_ref()) {
                Some(active) if active.uid == run.uid && active.run_id.as_deref() == run.run_id => Ok(true),
                Some(active) => Err(format!("feature set \"{}\" is held by \"{}\"", run.feature_set, active.name)),
                None => Ok(false),
            }
        };
        let (sets, written) = (&caches.feature_sets, &caches.written.feature_sets);
        let finalized = self.change(run.namespace, run.feature_set, sets, written, Part::Finalizers, |set| match judge(set) {
            Err(why) => Change::Busy(why),
            Ok(_) => with_finalizer(set, HELD_FINALIZER),
        });
        finalized.await?;
        let taken = self.change(run.namespace, run.feature_set, sets, written, Part::Status, |set| match judge(set) {
            Err(why) => Change::Busy(why),
            Ok(true) => Change::Nothing,
            Ok(false) if !set.finalizers().iter().any(|finalizer| finalizer == HELD_FINALIZER) => {
                Change::Busy(format!("feature set \"{}\" was let go of meanwhile", run.feature_set))
            }
            Ok(false) => {
                let mut status = set.status.clone().unwrap_or_default();
                status.active = Some(ActiveBackfill {
                    uid: run.uid.to_owned(),
                    name: run.name.to_owned(),
                    run_id: run.run_id.map(str::to_owned),
                    since: show(self.clock.now()),
                });
                Change::To(Box::new(FeatureSet { status: Some(status), ..set.clone() }))
            }
        });
        taken.await.map(drop)
    }

    /// Enters what was replaced, and gives back feature set and slot. What is held is looked up live: the reply to the write that
    /// took it may have been lost.
    async fn release(&self, run: &Run<'_>, entry: Option<&LedgerEntry>) -> Result<(), Error> {
        let sets = self.api::<FeatureSet>(run.namespace);
        if let Some(set) = call("get", run.feature_set, sets.get(run.feature_set)).await?.found() {
            self.caches.written.feature_sets.put(set);
            self.release_feature_set(run.namespace, run.feature_set, run.uid, entry).await?;
        }
        let stores = self.api::<FeatureStore>(run.namespace);
        for cached in self.caches.stores.state_filter(|store| store.metadata.namespace.as_deref() == Some(run.namespace)) {
            let name = cached.name_any();
            let Some(store) = call("get", &name, stores.get(&name)).await?.found() else { continue };
            let store = self.caches.written.stores.put(store);
            if store.status.iter().flat_map(|status| &status.running).any(|running| running.uid == run.uid) {
                self.release_slot(run.namespace, &name, run.uid).await?;
            }
        }
        self.known.forget(run);
        Ok(())
    }

    /// Lets go of a feature set that a backfill holds.
    pub async fn release_feature_set(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        entry: Option<&LedgerEntry>,
    ) -> Result<(), Error> {
        let desk = self.desks.of(&format!("set {namespace}/{name}"));
        let _desk = desk.lock().await;
        let (sets, written) = (&self.caches.feature_sets, &self.caches.written.feature_sets);
        let released = self.change(namespace, name, sets, written, Part::Status, |set| {
            let Some(status) = set.status.clone().filter(|status| status.active.as_ref().is_some_and(|active| active.uid == uid))
            else {
                return Change::Nothing;
            };
            let mut status = match entry {
                Some(entry) => record(status, entry.clone()),
                None => status,
            };
            status.active = None;
            Change::To(Box::new(FeatureSet { status: Some(status), ..set.clone() }))
        });
        if released.await?.is_none() {
            return Ok(());
        }
        let free = self.change(namespace, name, sets, written, Part::Finalizers, |set| {
            match set.status.as_ref().is_some_and(|status| status.active.is_some()) {
                true => Change::Nothing,
                false => without_finalizer(set, HELD_FINALIZER),
            }
        });
        free.await.map(drop)
    }

    /// Gives a slot back.
    pub async fn release_slot(&self, namespace: &str, store: &str, uid: &str) -> Result<(), Error> {
        let desk = self.desks.of(&format!("store {namespace}/{store}"));
        let _desk = desk.lock().await;
        let (stores, written) = (&self.caches.stores, &self.caches.written.stores);
        let changed = self.change(namespace, store, stores, written, Part::Status, |store| {
            let mut status = store.status.clone().unwrap_or_default();
            let before = status.running.len();
            status.running.retain(|running| running.uid != uid);
            match status.running.len() == before {
                true => Change::Nothing,
                false => Change::To(Box::new(FeatureStore { status: Some(status), ..store.clone() })),
            }
        });
        changed.await.map(drop)
    }

    /// Makes the order and the Job, when nothing of another run lives.
    async fn launch(&self, run: &Run<'_>, order: &ConfigMap, job: &Job, company: Option<&Company>) -> Result<(), Error> {
        self.refuse_company(run, &job.name_any()).await?;
        let together = match company {
            Some(company) => Some(self.together(run, company, order, job).await?),
            None => None,
        };
        let (order, job) = together.as_ref().map_or((order, job), |(order, job)| (order, job));
        self.order(run, order).await?;
        let api = self.api::<Job>(run.namespace);
        let made = match call("create", "the Job", api.create(&PostParams::default(), job)).await? {
            Answer::Ok(made) => made,
            Answer::NotFound => return Err(Error::Conflict { what: "the namespace".to_owned() }),
            Answer::Exists => {
                let found = call("get", "the Job", api.get(&job.name_any())).await?.found();
                let same = |found: &Job| {
                    let hash = |job: &Job| job.annotations().get(ORDER_HASH).cloned();
                    let going = found.metadata.deletion_timestamp.is_none();
                    going && found.labels() == job.labels() && hash(found) == hash(job)
                };
                found
                    .filter(same)
                    .ok_or_else(|| Error::Busy { what: format!("a Job of the name {} is in the way", job.name_any()) })?
            }
        };
        let mut made = made;
        crate::caches::prune_job(&mut made);
        self.caches.jobs.put(&made);
        Ok(())
    }

    async fn order(&self, run: &Run<'_>, order: &ConfigMap) -> Result<(), Error> {
        let api = self.api::<ConfigMap>(run.namespace);
        match call("create", "the order", api.create(&PostParams::default(), order)).await? {
            Answer::Ok(made) => {
                if let Some(request) = request_of(&made) {
                    self.known.requested(run, request);
                }
            }
            Answer::Exists => {
                let found = call("get", "the order", api.get(&order.name_any())).await?.found();
                // What an earlier try wrote is what the run does.
                let in_the_way =
                    |found: &ConfigMap| found.metadata.deletion_timestamp.is_some() || !run.owns(found.metadata.labels.as_ref());
                if found.as_ref().is_some_and(in_the_way) {
                    return Err(Error::Busy { what: format!("an order of the name {} is in the way", order.name_any()) });
                }
            }
            Answer::NotFound => return Err(Error::Conflict { what: "the namespace".to_owned() }),
        }
        Ok(())
    }

    /// A live look: of this feature set, no Job that makes pods and no pod may be there but those of `job` itself.
    async fn refuse_company(&self, run: &Run<'_>, job: &str) -> Result<(), Error> {
        let params = children(label::FEATURE_SET, run.feature_set);
        let jobs = call("list", "Jobs", self.api::<Job>(run.namespace).list(&params)).await?.found();
        let pods = call("list", "pods", self.api::<Pod>(run.namespace).list(&params)).await?.found();
        let (Some(jobs), Some(pods)) = (jobs, pods) else { return Err(Error::Conflict { what: "the namespace".to_owned() }) };
        let live = jobs.iter().filter(|found| !finished(found)).map(ResourceExt::name_any).find(|found| found != job);
        let of_others = |pod: &&Pod| pod.labels().get(JOB_NAME).is_none_or(|owner| owner != job);
        let now = self.clock.now();
        let alive = pods.iter().filter(of_others).find(|pod| alive(pod, now)).map(ResourceExt::name_any);
        match live.or(alive) {
            Some(name) => Err(Error::Busy { what: format!("{name} of feature set \"{}\" still lives", run.feature_set) }),
            None => Ok(()),
        }
    }

    /// Deletes Jobs that still make pods. Whether they do is looked up live: one that has finished meanwhile is a record to keep.
    async fn stop(&self, run: &Run<'_>, jobs: &[(String, String)]) -> Result<(), Error> {
        let api = self.api::<Job>(run.namespace);
        for (name, uid) in jobs {
            let Some(job) = call("get", name, api.get(name)).await?.found() else { continue };
            if job.metadata.uid.as_ref() != Some(uid) || finished(&job) {
                continue;
            }
            let mut params = DeleteParams::background();
            params.preconditions = Some(Preconditions { uid: job.metadata.uid, resource_version: job.metadata.resource_version });
            call("delete", name, api.delete(name, &params)).await?;
        }
        Ok(())
    }

    /// Only for the backfill that was decided on: with a newer one a run may have begun whose children these are.
    async fn clean_up(&self, run: &Run<'_>, backfill: &FeatureSetBackfill) -> Result<(), Error> {
        let found = call("get", run.name, self.api::<FeatureSetBackfill>(run.namespace).get(run.name)).await?.found();
        let is_newer = |found: &FeatureSetBackfill| version(found) != version(backfill);
        if found.as_ref().is_none_or(is_newer) {
            return Err(Error::Conflict { what: format!("backfill {}", run.name) });
        }
        let ours = children(label::UID, run.uid);
        let background = DeleteParams::background();
        call("delete", "Jobs", self.api::<Job>(run.namespace).delete_collection(&background, &ours)).await?;
        call("delete", "orders", self.api::<ConfigMap>(run.namespace).delete_collection(&background, &ours)).await?;
        self.dissolve(run, &ours).await
    }

    async fn let_go(&self, run: &Run<'_>, backfill: &FeatureSetBackfill) -> Result<(), Error> {
        let caches = &self.caches;
        let uid = backfill.metadata.uid.clone();
        let changed =
            self.change(run.namespace, run.name, &caches.backfills, &caches.written.backfills, Part::Finalizers, |found| {
                if found.metadata.uid == uid { without_finalizer(found, BACKFILL_FINALIZER) } else { Change::Nothing }
            });
        changed.await.map(drop)
    }

    /// Decides on the newest object that is known and writes, with the version that was decided on. When somebody else wrote
    /// meanwhile, decides again on what is there now. `None` when the object is gone.
    pub async fn change<K>(
        &self,
        namespace: &str,
        name: &str,
        store: &Store<K>,
        written: &Latest<K>,
        part: Part,
        decide: impl Fn(&K) -> Change<K>,
    ) -> Result<Option<Arc<K>>, Error>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned
            + 'static,
    {
        let api = self.api::<K>(namespace);
        let what = format!("{} {name}", K::kind(&()));
        let cached = store.get(&ObjectRef::new(name).within(namespace)).map(|object| written.newest(object));
        let mut found = match cached {
            Some(object) => object,
            None => match call("get", &what, api.get(name)).await?.found() {
                Some(object) => written.put(object),
                None => return Ok(None),
            },
        };
        for _ in 0..TRIES {
            let new = match decide(&found) {
                Change::Nothing => return Ok(Some(found)),
                Change::Busy(why) => return Err(Error::Busy { what: why }),
                Change::To(new) => new,
            };
            match part.write(&api, &what, name, &found, &new).await {
                Ok(Answer::Ok(object)) => return Ok(Some(written.put(object))),
                Ok(Answer::NotFound | Answer::Exists) => return Ok(None),
                Err(Error::Conflict { .. }) => match call("get", &what, api.get(name)).await?.found() {
                    Some(object) => found = written.put(object),
                    None => return Ok(None),
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { what })
    }
}

/// Which part of an object is written.
#[derive(Clone, Copy)]
pub enum Part {
    /// The whole status, by PUT.
    Status,
    /// The finalizers, by a JSON patch that tests the version.
    Finalizers,
}

impl Part {
    async fn write<K>(self, api: &Api<K>, what: &str, name: &str, old: &K, new: &K) -> Result<Answer<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        match self {
            Self::Status => call("update", what, api.replace_status(name, &PostParams::default(), new)).await,
            Self::Finalizers => {
                let patch = json!([
                    { "op": "test", "path": "/metadata/resourceVersion", "value": version(old).to_string() },
                    { "op": "add", "path": "/metadata/finalizers", "value": new.meta().finalizers.clone().unwrap_or_default() },
                ]);
                let patch = serde_json::from_value(patch).expect("a JSON patch");
                call("patch", what, api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))).await
            }
        }
    }
}

fn with_finalizer<K: Resource + Clone>(object: &K, finalizer: &str) -> Change<K> {
    if object.finalizers().iter().any(|known| known == finalizer) {
        return Change::Nothing;
    }
    let mut new = object.clone();
    new.finalizers_mut().push(finalizer.to_owned());
    Change::To(Box::new(new))
}

fn without_finalizer<K: Resource + Clone>(object: &K, finalizer: &str) -> Change<K> {
    if !object.finalizers().iter().any(|known| known == finalizer) {
        return Change::Nothing;
    }
    let mut new = object.clone();
    new.finalizers_mut().retain(|known| known != finalizer);
    Change::To(Box::new(new))
}
