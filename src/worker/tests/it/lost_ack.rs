//! An object store that does what it is asked and then says that it did not, or does it for somebody else first.

use crate::faults::{january, order, replaced, sorted, ten_days};
use crate::support::{Ride, World, rides_of_table};
use async_trait::async_trait;
use backfill_core::contract::{Order, Outcome, Report, Step};
use backfill_worker::context::Context;
use backfill_worker::{delta, steps, storage};
use deltalake::logstore::{LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore};
use deltalake::{DeltaResult, ObjectStoreError};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use url::Url;

/// What happens to one PUT.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It is done, and an error is returned.
    Done,
    /// Nothing is done, and an error is returned.
    NotDone,
    /// Another writer's commit takes the place; ours is told so.
    Taken,
    /// Another writer's commit takes the place; ours only hears of an error.
    TakenUnsaid,
    /// It is done, and from then on the store does not answer any more.
    DoneThenDown,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    /// Faults of the next commits whose text holds the word.
    faults: Mutex<Vec<(&'static str, Fault)>>,
    down: Mutex<bool>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty")
    }
}

fn error() -> ObjectStoreError {
    ObjectStoreError::Generic { store: "faulty", source: "the connection was reset".into() }
}

impl Faulty {
    fn answers(&self) -> Result<()> {
        if *self.down.lock().expect("a lock") { Err(error()) } else { Ok(()) }
    }

    fn fault(&self, location: &Path, payload: &PutPayload) -> Option<Fault> {
        if !location.as_ref().ends_with(".json") {
            return None;
        }
        let text: Vec<u8> = payload.iter().flat_map(|bytes| bytes.to_vec()).collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut faults = self.faults.lock().expect("a lock");
        let at = faults.iter().position(|(word, _)| text.contains(word))?;
        Some(faults.remove(at).1)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.answers()?;
        let theirs = || PutPayload::from(json!({ "txn": { "appId": "others", "version": 1 } }).to_string());
        match self.fault(location, &payload) {
            None => self.inner.put_opts(location, payload, options).await,
            Some(Fault::NotDone) => Err(error()),
            Some(Fault::Done) => self.inner.put_opts(location, payload, options).await.and(Err(error())),
            Some(Fault::DoneThenDown) => {
                self.inner.put_opts(location, payload, options).await?;
                *self.down.lock().expect("a lock") = true;
                Err(error())
            }
            Some(Fault::Taken) => {
                self.inner.put_opts(location, theirs(), options.clone()).await?;
                self.inner.put_opts(location, payload, options).await
            }
            Some(Fault::TakenUnsaid) => self.inner.put_opts(location, theirs(), options).await.and(Err(error())),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.answers()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.answers()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.answers() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.answers() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answers()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.answers()?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// The stores of all tests, by the host of their URL.
static STORES: LazyLock<Mutex<HashMap<String, Arc<Faulty>>>> = LazyLock::new(Mutex::default);

struct Factory;

impl ObjectStoreFactory for Factory {
    fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let stores = STORES.lock().expect("a lock");
        let store = stores.get(url.host_str().expect("a host")).expect("a store of a test").clone();
        Ok((store, Path::from_url_path(url.path()).expect("a path")))
    }
}

impl LogStoreFactory for Factory {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

/// A feature set whose table lies in a faulty store.
struct Remote {
    world: World,
    uri: String,
    store: Arc<Faulty>,
}

impl Remote {
    fn new(host: &str) -> Self {
        let scheme = Url::parse("s3a://").expect("a URL");
        deltalake::logstore::object_store_factories().insert(scheme.clone(), Arc::new(Factory));
        deltalake::logstore::logstore_factories().insert(scheme, Arc::new(Factory));
        let store = Arc::new(Faulty { inner: InMemory::new(), faults: Mutex::default(), down: Mutex::new(false) });
        STORES.lock().expect("a lock").insert(host.to_owned(), store.clone());
        // Days are partitions, so that no file straddles: rescued files are read back by another way.
        let world = World::new().partitioned_by("Day");
        Self { world, uri: format!("s3a://{host}/table"), store }
    }

    async fn filled(host: &str) -> Self {
        let remote = Self::new(host);
        remote.world.source(&january());
        done(&remote.runs("first", json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" }), Step::Offline).await);
        remote.world.source(&crate::faults::corrected());
        remote
    }

    fn order(&self, name: &str, spec: Value, step: Step) -> Order {
        let mut order = order(&self.world, name, spec, step, 1);
        order.table.uri.clone_from(&self.uri);
        order
    }

    fn context(&self) -> Context {
        let scratch = self.world.path("scratch");
        std::fs::create_dir_all(&scratch).expect("a folder");
        Context::new(self.world.path(""), self.world.path("secrets"), scratch, 0)
    }

    async fn runs(&self, name: &str, spec: Value, step: Step) -> Report {
        let order = self.order(name, spec, step);
        match step {
            Step::Offline => steps::offline(&self.context(), &order).await,
            Step::Online => steps::online(&self.context(), &order).await,
            Step::Settle => steps::settle(&self.context(), &order).await,
        }
    }

    fn next_commits(&self, faults: &[(&'static str, Fault)]) {
        self.store.faults.lock().expect("a lock").extend(faults);
    }

    async fn table(&self) -> deltalake::DeltaTable {
        let location = storage::locate(&self.context(), &self.uri, None).expect("a location");
        delta::open(&location).await.expect("it opens").expect("there is a table")
    }

    async fn rides(&self) -> Vec<Ride> {
        rides_of_table(&self.table().await).await
    }

    /// How many commits hold a word.
    async fn commits_with(&self, word: &str) -> usize {
        let table = self.table().await;
        let mut found = 0;
        for version in 0..=delta::version(&table) {
            let actions = delta::commit_at(&table, version).await.expect("readable").expect("there");
            let text = serde_json::to_string(&actions).expect("JSON");
            found += usize::from(text.contains(word));
        }
        found
    }
}

#[track_caller]
fn done(report: &Report) {
    assert_eq!(report.outcome, Outcome::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_acknowledgement_is_lost_happens_once() {
    let publish = "\"fsb/";
    for (number, faults) in [
        vec![(publish, Fault::Done)],
        vec![(publish, Fault::NotDone), (publish, Fault::NotDone), (publish, Fault::Done)],
        vec![(publish, Fault::Taken)],
        vec![(publish, Fault::TakenUnsaid), (publish, Fault::Done)],
    ]
    .into_iter()
    .enumerate()
    {
        let remote = Remote::filled(&format!("publish-{number}")).await;
        let taken = faults.iter().filter(|(_, fault)| matches!(fault, Fault::Taken | Fault::TakenUnsaid)).count();
        remote.next_commits(&faults);
        done(&remote.runs("ten-days", ten_days(), Step::Offline).await);
        assert_eq!(*remote.store.faults.lock().expect("a lock"), vec![], "every fault happened");
        assert_eq!(remote.rides().await, replaced(), "{faults:?}");
        assert_eq!(remote.commits_with("fsb/").await, 2, "the first load and one publish, {faults:?}");
        assert_eq!(remote.commits_with("\"others\"").await, taken);
        let again = remote.runs("ten-days", ten_days(), Step::Offline).await;
        assert_eq!(again.outcome, Outcome::AlreadyApplied { definition_changed: false });
        assert_eq!(remote.commits_with("fsb/").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_of_the_same_resource_published_is_its_own() {
    let remote = Remote::filled("own").await;
    let of = |uid: &str, step| {
        let mut order = remote.order("ten-days", ten_days(), step);
        order.backfill.uid = Some(uid.to_owned());
        order
    };
    let cx = remote.context();
    done(&steps::offline(&cx, &of("first", Step::Offline)).await);
    // Its pod died before anybody read what it said.
    let again = steps::offline(&cx, &of("first", Step::Offline)).await;
    assert_eq!((again.outcome, again.offline.expect("a report").rows_removed), (Outcome::Done, 41));
    // The same manifest, deleted and applied again.
    let other = steps::offline(&cx, &of("second", Step::Offline)).await;
    assert_eq!(other.outcome, Outcome::AlreadyApplied { definition_changed: false });
    assert_eq!(remote.commits_with("fsb/").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_whose_acknowledgement_is_lost_happens_once() {
    let remote = Remote::new("first-load");
    remote.world.source(&january());
    remote.next_commits(&[("\"fsb/", Fault::Done)]);
    let first = json!({ "startTime": "2024-01-01", "stopTime": "2024-02-01" });
    done(&remote.runs("first", first, Step::Offline).await);
    assert_eq!(remote.rides().await, sorted(january()));
    assert_eq!((remote.commits_with("fsb/").await, delta::version(&remote.table().await)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_before_the_store_goes_down_is_found_by_the_next_attempt() {
    let remote = Remote::filled("down").await;
    remote.next_commits(&[("\"fsb/", Fault::DoneThenDown)]);
    let report = remote.runs("ten-days", ten_days(), Step::Offline).await;
    assert!(matches!(report.outcome, Outcome::Failed { retry: true, .. }), "{:?}", report.outcome);
    *remote.store.down.lock().expect("a lock") = false;
    let report = remote.runs("ten-days", ten_days(), Step::Offline).await;
    assert_eq!(report.outcome, Outcome::AlreadyApplied { definition_changed: false });
    assert_eq!(report.offline.expect("a report").rows_removed, 41);
    assert_eq!(remote.commits_with("fsb/").await, 2);
    assert_eq!(remote.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_again_and_again_fails_the_attempt_and_not_the_run() {
    let remote = Remote::filled("again-and-again").await;
    remote.next_commits(&[("\"fsb/", Fault::NotDone); 6]);
    let report = remote.runs("ten-days", ten_days(), Step::Offline).await;
    assert!(matches!(report.outcome, Outcome::Failed { retry: true, .. }), "{:?}", report.outcome);
    assert_eq!(remote.rides().await, sorted(january()));
    done(&remote.runs("ten-days", ten_days(), Step::Offline).await);
    assert_eq!(remote.rides().await, replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_and_a_mark_whose_acknowledgements_are_lost_hold() {
    let remote = Remote::filled("marks").await;
    remote.next_commits(&[("fsb-fence", Fault::Done), ("fsb-online/", Fault::Done)]);
    done(&remote.runs("ten-days", ten_days(), Step::Offline).await);
    done(&remote.runs("ten-days", ten_days(), Step::Online).await);
    assert_eq!(*remote.store.faults.lock().expect("a lock"), vec![], "every fault happened");
    assert_eq!(remote.commits_with("fsb-online/").await, 1);
    assert_eq!((remote.rides().await, remote.world.online(7).expect("driver 7").1), (replaced(), 7));
}
