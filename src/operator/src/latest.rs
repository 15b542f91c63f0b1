//! What our own writes returned, until the watch has caught up: the next decision is not made on an older object.

use crate::index::version;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The newest objects that writes have returned, by uid.
pub struct Latest<K> {
    written: Mutex<HashMap<String, (Arc<K>, Instant)>>,
}

impl<K> Default for Latest<K> {
    fn default() -> Self {
        Self { written: Mutex::default() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Latest<K> {
    /// Takes what a write, or a live read, returned.
    pub fn put(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        if let Some(uid) = object.uid() {
            let mut written = self.lock();
            let known = written.get(&uid).map_or(0, |(known, _)| version(known.as_ref()));
            if version(object.as_ref()) > known {
                written.insert(uid, (Arc::clone(&object), Instant::now()));
            }
        }
        object
    }

    /// The newer of what a cache holds and what was written.
    pub fn newest(&self, cached: Arc<K>) -> Arc<K> {
        let Some(uid) = cached.uid() else { return cached };
        let mut written = self.lock();
        match written.get(&uid) {
            Some((ours, _)) if version(ours.as_ref()) > version(cached.as_ref()) => Arc::clone(ours),
            Some(_) => {
                written.remove(&uid);
                cached
            }
            None => cached,
        }
    }

    /// For how long the watch has not told of a write of ours. `None` when it has told of all.
    pub fn behind(&self, store: &Store<K>) -> Option<Duration> {
        let mut written = self.lock();
        written.retain(|_, (ours, _)| {
            let cached = store.get(&kube::runtime::reflector::ObjectRef::from_obj(ours.as_ref()));
            // One that is gone from the cache was deleted since, or was never in it; either way there is nothing to wait for.
            cached.is_some_and(|cached| cached.uid() == ours.uid() && version(cached.as_ref()) < version(ours.as_ref()))
        });
        written.values().map(|(_, at)| at.elapsed()).max()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Arc<K>, Instant)>> {
        self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
