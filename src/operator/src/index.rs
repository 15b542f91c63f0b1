//! What is kept of a watch's objects, in groups, so that finding those of one backfill does not look at all.

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

/// How many deletions are remembered.
const GONE_MAX: usize = 10_000;

/// What is kept (`V`) of objects (`K`), by group, then by namespace and name. Written by a watch, and by what our own writes return.
pub struct Index<K, V> {
    keep: Keep<K, V>,
    ready: tokio::sync::watch::Sender<bool>,
    inner: Mutex<Inner<V>>,
}

/// The group of an object and what is kept of it; `None` leaves it out.
pub type Keep<K, V> = fn(&K) -> Option<(String, V)>;

struct Entry<V> {
    version: u64,
    kept: Arc<V>,
}

type Groups<V> = HashMap<String, BTreeMap<String, Entry<V>>>;

struct Inner<V> {
    groups: Groups<V>,
    /// The group of each object.
    places: HashMap<String, String>,
    /// What a new list has brought so far.
    listing: Option<Groups<V>>,
    /// What our own writes have returned since the new list was asked for: it may lack them.
    written: HashSet<String>,
    /// The newest version that a list or an event has shown.
    version: u64,
    /// Deleted objects: the reply to a write may arrive after the event of the deletion.
    gone: HashSet<String>,
}

impl<K: Resource<DynamicType = ()>, V> Index<K, V> {
    /// An empty index.
    pub fn new(keep: Keep<K, V>) -> Self {
        let inner = Inner {
            groups: HashMap::new(),
            places: HashMap::new(),
            listing: None,
            written: HashSet::new(),
            version: 0,
            gone: HashSet::new(),
        };
        Self { keep, ready: tokio::sync::watch::Sender::new(false), inner: Mutex::new(inner) }
    }

    /// What is kept of a group.
    pub fn of(&self, group: &str) -> Vec<Arc<V>> {
        let kept = |entries: &BTreeMap<_, Entry<V>>| entries.values().map(|entry| Arc::clone(&entry.kept)).collect();
        self.lock().groups.get(group).map_or_else(Vec::new, kept)
    }

    /// What is kept of all objects.
    pub fn all(&self) -> Vec<Arc<V>> {
        self.lock().groups.values().flat_map(BTreeMap::values).map(|entry| Arc::clone(&entry.kept)).collect()
    }

    /// Waits for the first complete list.
    pub async fn wait_until_ready(&self) {
        // The sender is ours, so that it cannot be gone.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.lock().groups.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what a watch says.
    pub fn apply(&self, event: &Event<K>) {
        let inner = &mut *self.lock();
        match event {
            Event::Init => {
                inner.listing = Some(HashMap::new());
                inner.written.clear();
            }
            Event::InitApply(object) => {
                inner.version = inner.version.max(version(object));
                if let (Some((group, kept)), Some(listing)) = ((self.keep)(object), &mut inner.listing) {
                    listing
                        .entry(group)
                        .or_default()
                        .insert(key(object), Entry { version: version(object), kept: Arc::new(kept) });
                }
            }
            Event::InitDone => {
                inner.listed();
                self.ready.send_replace(true);
            }
            Event::Apply(object) => {
                inner.version = inner.version.max(version(object));
                self.insert(inner, object);
            }
            Event::Delete(object) => {
                inner.version = inner.version.max(version(object));
                if inner.gone.len() >= GONE_MAX {
                    inner.gone.clear();
                }
                inner.gone.extend(object.uid());
                inner.remove(&key(object));
            }
        }
    }

    /// Takes what one of our own writes returned, before the watch tells.
    pub fn put(&self, object: &K) {
        let inner = &mut *self.lock();
        inner.written.extend(inner.listing.is_some().then(|| key(object)));
        self.insert(inner, object);
    }

    fn insert(&self, inner: &mut Inner<V>, object: &K) {
        let key = key(object);
        let known = inner.get(&key).map_or(0, |known| known.version);
        if version(object) < known || object.uid().is_some_and(|uid| inner.gone.contains(&uid)) {
            return;
        }
        inner.remove(&key);
        if let Some((group, kept)) = (self.keep)(object) {
            inner.insert(group, key, Entry { version: version(object), kept: Arc::new(kept) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<V> Inner<V> {
    /// A new list is complete.
    fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let place = |(group, entries): (&String, &BTreeMap<String, _>)| {
            entries.keys().map(|key| (key.clone(), group.clone())).collect::<Vec<_>>()
        };
        self.places = listing.iter().flat_map(place).collect();
        let before = std::mem::replace(&mut self.groups, listing);
        // What was written after the list was taken is not in it. What was written before, and is not in it either, is gone.
        let written = std::mem::take(&mut self.written);
        for (group, entries) in before {
            for (key, entry) in entries {
                if entry.version > self.version && written.contains(&key) {
                    self.remove(&key);
                    self.insert(group.clone(), key, entry);
                }
            }
        }
    }

    fn get(&self, key: &str) -> Option<&Entry<V>> {
        self.groups.get(self.places.get(key)?)?.get(key)
    }

    fn insert(&mut self, group: String, key: String, entry: Entry<V>) {
        self.places.insert(key.clone(), group.clone());
        self.groups.entry(group).or_default().insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        let Some(group) = self.places.remove(key) else { return };
        if let Some(entries) = self.groups.get_mut(&group) {
            entries.remove(key);
            if entries.is_empty() {
                self.groups.remove(&group);
            }
        }
    }
}

/// An object as JSON: a Job or a pod takes more than 2 KiB as a struct, however little it says.
pub struct Text<K> {
    json: Box<[u8]>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Serialize + DeserializeOwned> Text<K> {
    /// Writes an object.
    pub fn of(object: &K) -> Self {
        let json = serde_json::to_vec(object).expect("what was read as JSON can be written").into_boxed_slice();
        Self { json, kind: PhantomData }
    }

    /// Reads it.
    pub fn read(&self) -> K {
        serde_json::from_slice(&self.json).expect("what was written is read")
    }
}

/// An object's version. Versions of one kind can be compared since Kubernetes 1.35, and could in fact before.
pub fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn key<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(name: &str, version: u64) -> ConfigMap {
        let metadata = json!({ "name": name, "namespace": "n", "uid": name, "resourceVersion": version.to_string() });
        serde_json::from_value(json!({ "metadata": metadata })).expect("an object")
    }

    fn index() -> Index<ConfigMap, Text<ConfigMap>> {
        Index::new(|object| Some(("all".to_owned(), Text::of(object))))
    }

    fn versions(index: &Index<ConfigMap, Text<ConfigMap>>) -> Vec<u64> {
        index.of("all").iter().map(|object| version(&object.read())).collect()
    }

    #[test]
    fn an_older_event_does_not_replace_what_a_write_returned() {
        let index = index();
        index.put(&object("a", 7));
        index.apply(&Event::Apply(object("a", 5)));
        assert_eq!(versions(&index), [7]);
        index.apply(&Event::Apply(object("a", 8)));
        assert_eq!(versions(&index), [8]);
    }

    #[test]
    fn a_late_reply_does_not_bring_a_deleted_object_back() {
        let index = index();
        index.apply(&Event::Apply(object("a", 5)));
        index.apply(&Event::Delete(object("a", 6)));
        index.put(&object("a", 4));
        assert!(index.is_empty());
    }

    #[test]
    fn a_new_list_forgets_what_is_gone_and_keeps_what_was_written_since() {
        let index = index();
        index.apply(&Event::Apply(object("gone", 3)));
        index.apply(&Event::Init);
        index.apply(&Event::InitApply(object("listed", 10)));
        index.put(&object("written", 11));
        index.apply(&Event::InitDone);
        assert_eq!(versions(&index), [10, 11]);
    }

    #[test]
    fn what_was_written_before_an_empty_list_is_gone() {
        let index = index();
        index.put(&object("written", 11));
        index.apply(&Event::Init);
        index.apply(&Event::InitDone);
        assert!(index.is_empty());
    }
}
