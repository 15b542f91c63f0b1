//! What anybody could have seen of backfills and Jobs, from the watches of an observer whom no fault concerns.

use anyhow::Result;
use backfill_core::api::{FeatureSetBackfill, FeatureSetBackfillStatus};
use backfill_core::plan::finished;
use backfill_core::plan::run::label;
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};

/// What was seen in one namespace.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By backfill: its statuses, one after the other.
    pub statuses: BTreeMap<String, Vec<FeatureSetBackfillStatus>>,
    /// Jobs of one feature set that lived at the same time.
    pub met: Vec<String>,
    /// By uid: the Jobs that live, as feature set and name.
    live: BTreeMap<String, (String, String)>,
    /// The newest version of each object; nothing for those that are gone.
    versions: HashMap<String, Option<u64>>,
}

/// What was seen, by namespace.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<HashMap<String, Told>>>);

impl History {
    /// Watches the whole cluster for as long as the runtime lives.
    pub fn of(client: &Client) -> Self {
        let history = Self::default();
        let (on_backfill, on_job) = (history.clone(), history.clone());
        tokio::spawn(follow(Api::<FeatureSetBackfill>::all(client.clone()), move |backfill, gone| {
            let mut told = on_backfill.lock();
            let told = told.entry(backfill.namespace().unwrap_or_default()).or_default();
            told.saw(&backfill, gone);
            let statuses = told.statuses.entry(backfill.name_any()).or_default();
            statuses.extend(backfill.status.filter(|status| !gone && statuses.last() != Some(status)));
        }));
        tokio::spawn(follow(Api::<Job>::all(client.clone()), move |job, gone| {
            let mut told = on_job.lock();
            told.entry(job.namespace().unwrap_or_default()).or_default().saw_job(&job, gone);
        }));
        history
    }

    /// What was seen in a namespace so far.
    pub fn of_namespace(&self, namespace: &str) -> Told {
        self.lock().get(namespace).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.0.lock().expect("nothing panics while it holds the history")
    }
}

impl Told {
    /// Whether the newest state of an object was seen; without a version, that it is gone.
    pub fn knows<K: Resource<DynamicType = ()>>(&self, name: &str, version: Option<u64>) -> bool {
        let seen = self.versions.get(&key::<K>(name));
        seen.is_some_and(|seen| *seen == version || seen.zip(version).is_some_and(|(seen, version)| seen > version))
    }

    fn saw<K: Resource<DynamicType = ()>>(&mut self, object: &K, gone: bool) {
        let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        self.versions.insert(key::<K>(&object.name_any()), version.filter(|_| !gone));
    }

    fn saw_job(&mut self, job: &Job, gone: bool) {
        self.saw(job, gone);
        let uid = job.uid().unwrap_or_default();
        if gone || finished(job) || job.metadata.deletion_timestamp.is_some() {
            self.live.remove(&uid);
            return;
        }
        let set = job.labels().get(label::FEATURE_SET).cloned().unwrap_or_default();
        let rivals = self.live.iter().filter(|(other, (of, _))| **other != uid && *of == set);
        self.met.extend(rivals.map(|(_, (_, name))| format!("{name} and {}", job.name_any())));
        self.live.insert(uid, (set, job.name_any()));
    }
}

fn key<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{}/{name}", K::kind(&()))
}

async fn follow<K>(api: Api<K>, mut saw: impl FnMut(K, bool)) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => saw(object, false),
            Ok(Event::Delete(object)) => saw(object, true),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => eprintln!("the observer cannot watch: {error}"),
        }
    }
    Ok(())
}
