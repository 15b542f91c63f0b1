//! Everything that reconciling needs, and the errors of talking to the API server.

use crate::caches::{Caches, ClusterCaches};
use crate::clock::Clock;
use crate::metrics::Metrics;
use backfill_core::api::{FeatureSetBackfill, Mode};
use backfill_core::contract::Notice;
use backfill_core::plan::run::Run;
use backfill_core::plan::{Announcement, Settings};
use backfill_core::request::Request;
use chrono::{DateTime, Utc};
use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No call to the API server takes longer; watches aside.
const CALL_MAX: Duration = Duration::from_secs(30);

/// How long an event is tried to be told.
const EVENT_MAX: Duration = Duration::from_secs(10);

/// How soon events of the same Job are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The name under which events are reported.
pub const REPORTER: &str = "backfill-operator";

/// What all reconciles of a scope share.
pub struct Shell {
    /// The API server.
    pub client: Client,
    /// The API server's clock.
    pub clock: Arc<Clock>,
    /// What is known of the scope.
    pub caches: Arc<Caches>,
    /// What is known of the cluster.
    pub cluster: Arc<ClusterCaches>,
    /// What the operator was told when it was started.
    pub settings: Settings,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Tells events.
    pub recorder: Recorder,
    /// Asks for a backfill to be looked at.
    pub wake: UnboundedSender<ObjectRef<FeatureSetBackfill>>,
    /// What has been read of running backfills.
    pub known: Known,
    /// Per store, so that changes of its slots do not conflict with each other.
    pub desks: Desks,
}

/// Backfills by creation and uid.
pub type Queue = BTreeMap<(DateTime<Utc>, String), ObjectRef<FeatureSetBackfill>>;

/// What of running backfills has been read from ConfigMaps that never change.
#[derive(Default)]
pub struct Known {
    claims: Mutex<HashMap<String, DateTime<Utc>>>,
    requests: Mutex<HashMap<String, Arc<Request>>>,
    troubles: Mutex<HashMap<String, Trouble>>,
    /// Who holds it asks for events.
    pub asking: tokio::sync::Mutex<()>,
    /// How often reconciling an object has failed in a row.
    pub failures: Mutex<HashMap<ObjectRef<FeatureSetBackfill>, u32>>,
    /// Backfills that wait for a slot of a store, by namespace and store, in the order of creation.
    pub waiters: Mutex<HashMap<String, Queue>>,
}

/// What events said of a Job.
struct Trouble {
    job: Option<String>,
    heard_at: Instant,
    notice: Option<Notice>,
}

impl Known {
    /// What events said of a run's Job when they were asked for last, and whether that is not long ago.
    pub fn trouble(&self, run: &Run<'_>, job: &Job) -> (Option<Notice>, bool) {
        let troubles = lock(&self.troubles);
        let trouble = troubles.get(&run_key(run)).filter(|trouble| trouble.job == job.metadata.uid);
        (
            trouble.and_then(|trouble| trouble.notice.clone()),
            trouble.is_some_and(|trouble| trouble.heard_at.elapsed() < ASK_AGAIN),
        )
    }

    /// Keeps what events say of a run's Job.
    pub fn heard(&self, run: &Run<'_>, job: &Job, notice: Option<Notice>) {
        let trouble = Trouble { job: job.metadata.uid.clone(), heard_at: Instant::now(), notice };
        lock(&self.troubles).insert(run_key(run), trouble);
    }

    /// When the run's claim was made.
    pub fn claim(&self, run: &Run<'_>) -> Option<DateTime<Utc>> {
        lock(&self.claims).get(&run_key(run)).copied()
    }

    /// Keeps when the run's claim was made.
    pub fn claimed(&self, run: &Run<'_>, at: DateTime<Utc>) {
        lock(&self.claims).insert(run_key(run), at);
    }

    /// What the run's first order was made from.
    pub fn request(&self, run: &Run<'_>) -> Option<Arc<Request>> {
        lock(&self.requests).get(&run_key(run)).cloned()
    }

    /// Keeps what an order was made from.
    pub fn requested(&self, run: &Run<'_>, request: Request) -> Arc<Request> {
        let request = Arc::new(request);
        lock(&self.requests).insert(run_key(run), Arc::clone(&request));
        request
    }

    /// Forgets a run that has ended.
    pub fn forget(&self, run: &Run<'_>) {
        lock(&self.claims).remove(&run_key(run));
        lock(&self.requests).remove(&run_key(run));
        lock(&self.troubles).remove(&run_key(run));
    }
}

fn run_key(run: &Run<'_>) -> String {
    format!("{}/{}/{}", run.uid, run.id(), if run.mode == Mode::Plan { "plan" } else { "apply" })
}

/// A lock per object. The operator is the only one who changes most of what it changes; its own writes need not collide.
#[derive(Default)]
pub struct Desks {
    desks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Desks {
    /// The desk of an object.
    pub fn of(&self, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut desks = lock(&self.desks);
        if desks.len() > 10_000 {
            desks.retain(|_, desk| Arc::strong_count(desk) > 1);
        }
        Arc::clone(desks.entry(what.to_owned()).or_default())
    }
}

/// Tells an event about an object, if the API server takes it. What is true is in the status.
pub fn publish(recorder: &Recorder, announcement: Announcement, about: ObjectReference) {
    let Announcement { kind, warning, reason, message } = announcement;
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.word().to_owned(),
        note: Some(message.chars().take(1000).collect()),
        action: format!("{kind:?}"),
        secondary: None,
    };
    let recorder = recorder.clone();
    tokio::spawn(async move {
        match tokio::time::timeout(EVENT_MAX, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an event was not taken"),
            Err(_) => tracing::debug!("an event was not taken in time"),
        }
    });
}

/// Locks; a panic elsewhere does not make the data worse.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a reconcile did not come to its end. Everything is observed and decided again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else wrote in between.
    #[error("{what} was changed by somebody else meanwhile")]
    Conflict {
        /// The object.
        what: String,
    },
    /// Something that others hold.
    #[error("{what}")]
    Busy {
        /// What, and by whom.
        what: String,
    },
    /// The role lacks a right.
    #[error("not allowed to {verb} {what}; check the operator's role: {message}")]
    Forbidden {
        /// The verb.
        verb: &'static str,
        /// The object.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server refuses what we made.
    #[error("the API server refuses to {verb} {what}: {message}")]
    Refused {
        /// The verb.
        verb: &'static str,
        /// The object.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// It will be tried again.
    #[error("cannot {verb} {what}; it will be tried again: {message}")]
    Unavailable {
        /// The verb.
        verb: &'static str,
        /// The object.
        what: String,
        /// The cause.
        message: String,
        /// When the API server wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// The word in metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::Busy { .. } => "Busy",
            Self::Forbidden { .. } => "Forbidden",
            Self::Refused { .. } => "Refused",
            Self::Unavailable { .. } => "Unavailable",
        }
    }
}

/// An answer of the API server that is not an error.
pub enum Answer<T> {
    /// As asked.
    Ok(T),
    /// It does not exist.
    NotFound,
    /// It exists already.
    Exists,
}

impl<T> Answer<T> {
    /// The object, when there is one.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Ok(object) => Some(object),
            Self::NotFound | Self::Exists => None,
        }
    }
}

/// Calls the API server, within a time, and sorts its answers.
pub async fn call<T>(verb: &'static str, what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<Answer<T>, Error> {
    let what = || what.to_owned();
    let unavailable = |message: String, retry_after| Error::Unavailable { verb, what: what(), message, retry_after };
    let status = match tokio::time::timeout(CALL_MAX, request).await {
        Err(_) => return Err(unavailable(format!("no answer within {} s", CALL_MAX.as_secs()), None)),
        Ok(Ok(object)) => return Ok(Answer::Ok(object)),
        Ok(Err(kube::Error::Api(status))) => status,
        Ok(Err(error)) => return Err(unavailable(error.to_string(), None)),
    };
    let message = status.message.clone();
    Err(match status.code {
        404 => return Ok(Answer::NotFound),
        409 if status.reason == "AlreadyExists" => return Ok(Answer::Exists),
        409 => Error::Conflict { what: what() },
        // A JSON patch whose test does not hold.
        422 if verb == "patch" => Error::Conflict { what: what() },
        401 | 403 => Error::Forbidden { verb, what: what(), message },
        400 | 405 | 422 => Error::Refused { verb, what: what(), message },
        _ => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            unavailable(message, (seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
        }
    })
}

impl Shell {
    /// The objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Events are reported by this.
    pub fn recorder(client: &Client, instance: &str) -> Recorder {
        Recorder::new(client.clone(), Reporter { controller: REPORTER.to_owned(), instance: Some(instance.to_owned()) })
    }
}
