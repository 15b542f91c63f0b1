//! Whose turn it is: one backfill at a time per feature set, in the order of creation, and so many per store.

use super::{Situation, running};
use crate::api::FeatureSetBackfill;
use crate::condition::{ConditionType, is_true};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use std::time::Duration;

/// How often a waiting backfill looks whether it is its turn, besides being woken.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Another backfill of the same feature set that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was created, by the API server's clock.
    pub created: DateTime<Utc>,
    /// Whether it waits in the queue: it is neither refused nor suspended.
    pub waits: bool,
}

impl Rival {
    /// What matters of a backfill to those behind it.
    pub fn of(backfill: &FeatureSetBackfill) -> Self {
        let conditions = backfill.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let accepted = conditions.iter().find(|condition| condition.kind == ConditionType::Accepted);
        let refused = accepted.is_some() && !is_true(conditions, ConditionType::Accepted);
        Self {
            name: backfill.name_any(),
            uid: backfill.uid().unwrap_or_default(),
            created: created(backfill),
            waits: !refused && backfill.spec.suspend != Some(true),
        }
    }
}

/// When an object was created.
pub fn created(object: &FeatureSetBackfill) -> DateTime<Utc> {
    object.metadata.creation_timestamp.as_ref().map(super::instant).unwrap_or_default()
}

impl Situation<'_> {
    /// Why it is not this backfill's turn; `None` when it may take the feature set.
    pub(super) fn blocked(&self) -> Option<String> {
        let name = self.run.feature_set;
        let Some(set) = self.feature_set() else { return Some(format!("feature set \"{name}\" does not exist")) };
        let mine = (created(self.observed.backfill), self.run.uid);
        let ahead = self.observed.rivals.iter().filter(|rival| rival.waits && (rival.created, rival.uid.as_str()) < mine).count();
        if let Some(active) = set.status.as_ref().and_then(|status| status.active.as_ref())
            && active.uid != self.run.uid
        {
            // The holder is one of those ahead, unless it is older and was suspended.
            let holder = self.observed.rivals.iter().find(|rival| rival.uid == active.uid);
            let paused = holder.filter(|rival| !rival.waits).map_or("", |_| ", which is suspended after it has published");
            let place = ahead.max(1);
            return Some(format!("number {place} in the queue of feature set \"{name}\", held by \"{}\"{paused}", active.name));
        }
        if ahead > 0 {
            return Some(format!("number {ahead} in the queue of feature set \"{name}\""));
        }
        let named = self.store_name();
        let Some(store) = self.observed.stores.iter().find(|store| store.name_any() == named) else {
            return Some(format!("feature store \"{named}\" does not exist"));
        };
        let slots = store.slots();
        let full = running(store).filter(|running| running.uid != self.run.uid).count() >= slots;
        full.then(|| {
            format!("all {slots} slots of feature store \"{}\" are taken (spec.maxConcurrentBackfills)", store.name_any())
        })
    }

    pub(super) fn store_name(&self) -> String {
        self.feature_set().map(|set| set.store().to_owned()).unwrap_or_default()
    }
}
