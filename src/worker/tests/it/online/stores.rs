//! What every online store promises, asked of each.

use super::feast::{Feast, FeastRedis, FeastSqlite, value};
use super::redis_server::RedisServer;
use backfill_core::api::KeyType;
use backfill_core::condition::Reason;
use backfill_core::feast::{Key, KeyLayout, Value};
use backfill_core::online::{Bounds, EventTime};
use backfill_worker::online::redis::RedisStore;
use backfill_worker::online::sqlite::SqliteStore;
use backfill_worker::online::store::{Applied, Change, EntityKey, OnlineStore, Row, View};
use std::sync::Arc;

pub const SECOND: i64 = 1_000_000;

type Make = dyn Fn(&View) -> Arc<dyn OnlineStore>;

/// A store of one kind with what keeps it alive.
pub struct Bed {
    make: Box<Make>,
    pub feast: Box<dyn Feast>,
}

impl Bed {
    pub fn redis(server: &RedisServer) -> Self {
        let url = server.url();
        let make = move |view: &View| Arc::new(RedisStore::new(&url, view, None).expect("a URL")) as Arc<dyn OnlineStore>;
        Self { make: Box::new(make), feast: Box::new(FeastRedis::of(server)) }
    }

    pub fn sqlite(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().join("online.db");
        let feast = Box::new(FeastSqlite::of(&path));
        let make = move |view: &View| Arc::new(SqliteStore::new("/store/online.db", &path, view)) as Arc<dyn OnlineStore>;
        Self { make: Box::new(make), feast }
    }

    pub fn open(&self, view: &View) -> Arc<dyn OnlineStore> {
        (self.make)(view)
    }
}

/// Runs a test on every kind of store.
macro_rules! on_every_store {
    ($($(#[$doc:meta])* async fn $name:ident($bed:ident) $body:block)+) => {
        mod on_redis {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let server = RedisServer::start(&[]);
                super::$name(Bed::redis(&server)).await;
            })+
        }
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let folder = tempfile::tempdir().expect("a folder");
                super::$name(Bed::sqlite(&folder)).await;
            })+
        }
        $($(#[$doc])* async fn $name(#[allow(unused_mut)] mut $bed: Bed) $body)+
    };
}

pub fn view(features: &[&str], retired: &[&str]) -> View {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    View {
        project: "demo".to_owned(),
        name: "trips".to_owned(),
        keys: vec![("driver".to_owned(), KeyType::Int64)],
        features: names(features),
        retired: names(retired),
    }
}

pub fn key(id: i64) -> EntityKey {
    let mut bytes = Vec::new();
    KeyLayout::new([("driver", KeyType::Int64)]).encode([Key::Int64(id)], &mut bytes);
    bytes.into()
}

pub fn number(n: i64) -> Vec<u8> {
    value(&Value::Int64(n))
}

pub fn row(ts: i64, values: &[i64]) -> Row {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for n in values {
        bytes.extend(number(*n));
        ends.push(u32::try_from(bytes.len()).expect("small"));
    }
    Row::new(EventTime(ts), &bytes, &ends)
}

/// Asks, and applies the change to what was seen.
async fn change(store: &dyn OnlineStore, generation: u64, id: i64, row: Option<Row>) -> Applied {
    let token = store.ask(&[key(id)]).await.expect("an answer")[0].token.clone();
    let changes = [Change { key: key(id), token, row }];
    store.apply(generation, &changes).await.expect("applied")[0]
}

on_every_store! {
    async fn a_row_is_written_whole_and_found_again(bed) {
        let store = bed.open(&view(&["f", "g"], &[]));
        assert!(store.preflight(10, 100).await.expect("healthy").is_empty());
        store.raise_fence(7).await.expect("first");
        assert_eq!(store.ask(&[key(1)]).await.expect("an answer")[0].current, None);
        assert_eq!(change(&*store, 7, 1, Some(row(5 * SECOND + 1, &[10, 20]))).await, Applied::Written);
        let seen = store.ask(&[key(1), key(2)]).await.expect("an answer");
        let current = seen[0].current.expect("it is there");
        assert!(current.ours && !current.whole_seconds);
        assert_eq!(current.ts, EventTime(5 * SECOND + 1), "to the microsecond");
        assert_eq!(seen[1].current, None, "and no other");
        let (ts, values) = bed.feast.read("trips", &key(1), &["f", "g"]).expect("Feast reads it");
        assert_eq!(ts / SECOND, 5);
        assert_eq!(values, [Some(number(10)), Some(number(20))]);
        let back = store.read_back(7, &[key(1), key(2)]).await.expect("read");
        assert_eq!(back, [Some(row(5 * SECOND + 1, &[10, 20])), None]);
        assert_eq!(store.read_back(8, &[key(1)]).await.expect("read"), [None], "another generation's row is not ours");
    }

    async fn equal_bytes_are_not_written_again(bed) {
        let store = bed.open(&view(&["f"], &[]));
        assert_eq!(change(&*store, 1, 1, Some(row(SECOND, &[1]))).await, Applied::Written);
        let before = store.ask(&[key(1)]).await.expect("an answer");
        assert_eq!(change(&*store, 2, 1, Some(row(SECOND, &[1]))).await, Applied::Unchanged);
        assert_eq!(store.ask(&[key(1)]).await.expect("an answer"), before, "not even the marker");
        assert_eq!(change(&*store, 2, 1, Some(row(SECOND, &[2]))).await, Applied::Written);
        assert_eq!(change(&*store, 2, 1, Some(row(SECOND + 1, &[2]))).await, Applied::Written, "another time is another row");
    }

    async fn time_may_go_back_and_a_row_may_leave(bed) {
        let store = bed.open(&view(&["f"], &[]));
        change(&*store, 1, 1, Some(row(9 * SECOND, &[1]))).await;
        assert_eq!(change(&*store, 1, 1, Some(row(2 * SECOND, &[2]))).await, Applied::Written);
        assert_eq!(store.ask(&[key(1)]).await.expect("an answer")[0].current.expect("there").ts, EventTime(2 * SECOND));
        assert_eq!(change(&*store, 1, 1, None).await, Applied::Removed);
        assert_eq!(store.ask(&[key(1)]).await.expect("an answer")[0].current, None);
        assert!(bed.feast.read("trips", &key(1), &["f"]).is_none());
    }

    async fn a_row_that_has_moved_is_left_alone(bed) {
        let store = bed.open(&view(&["f"], &[]));
        let absent = store.ask(&[key(1)]).await.expect("an answer")[0].token.clone();
        bed.feast.ingest("trips", &key(1), 5 * SECOND, &[("f", number(1))]);
        let stale = Change { key: key(1), token: absent, row: Some(row(9 * SECOND, &[2])) };
        assert_eq!(store.apply(1, &[stale]).await.expect("applied"), [Applied::Moved]);
        let live = store.ask(&[key(1)]).await.expect("an answer")[0].clone();
        assert!(!live.current.expect("there").ours);
        bed.feast.ingest("trips", &key(1), 6 * SECOND, &[("f", number(3))]);
        let stale = Change { key: key(1), token: live.token, row: None };
        assert_eq!(store.apply(1, &[stale]).await.expect("applied"), [Applied::Moved]);
        let (_, values) = bed.feast.read("trips", &key(1), &["f"]).expect("it is there");
        assert_eq!(values, [Some(number(3))], "the live row is untouched");
    }

    async fn ingestion_over_our_row_takes_it_over(bed) {
        let store = bed.open(&view(&["f"], &[]));
        change(&*store, 1, 1, Some(row(5 * SECOND, &[1]))).await;
        bed.feast.ingest("trips", &key(1), 6 * SECOND, &[("f", number(2))]);
        let current = store.ask(&[key(1)]).await.expect("an answer")[0].current.expect("there");
        assert!(!current.ours, "the marker carries another time");
        assert_eq!(current.ts, EventTime(6 * SECOND));
        assert_eq!(store.read_back(1, &[key(1)]).await.expect("read"), [None]);
    }

    async fn a_superseded_generation_writes_nothing(bed) {
        let zombie = bed.open(&view(&["f"], &[]));
        let successor = bed.open(&view(&["f"], &[]));
        zombie.raise_fence(4).await.expect("first");
        let token = zombie.ask(&[key(1)]).await.expect("an answer")[0].token.clone();
        successor.raise_fence(5).await.expect("higher");
        let changes = [Change { key: key(1), token, row: Some(row(SECOND, &[1])) }];
        let failure = zombie.apply(4, &changes).await.expect_err("refused");
        assert_eq!(failure.reason, Reason::Superseded);
        assert!(failure.message.contains("generation 5"), "{}", failure.message);
        assert!(bed.feast.read("trips", &key(1), &["f"]).is_none(), "nothing was written");
        assert_eq!(zombie.raise_fence(4).await.expect_err("lower").reason, Reason::Superseded);
        successor.raise_fence(5).await.expect("an attempt raises it again");
        assert_eq!(successor.apply(5, &changes).await.expect("applied"), [Applied::Written]);
        let mut other = view(&["f"], &[]);
        other.name = "rides".to_owned();
        bed.open(&other).raise_fence(1).await.expect("each view has its own fence");
    }

    async fn another_view_of_the_entity_stays_byte_for_byte(bed) {
        let store = bed.open(&view(&["f"], &["old"]));
        bed.feast.ingest("rides", &key(1), 3 * SECOND, &[("f", number(7)), ("old", number(8))]);
        bed.feast.ingest("trips", &key(1), 3 * SECOND, &[("f", number(1)), ("old", number(2))]);
        let before = bed.feast.others("trips", &key(1));
        assert!(!before.is_empty());
        assert_eq!(change(&*store, 1, 1, Some(row(2 * SECOND, &[5]))).await, Applied::Written);
        let (_, values) = bed.feast.read("trips", &key(1), &["f", "old"]).expect("there");
        assert_eq!(values, [Some(number(5)), None], "a feature that the view has no more leaves");
        assert_eq!(bed.feast.others("trips", &key(1)), before);
        assert_eq!(change(&*store, 1, 1, None).await, Applied::Removed);
        assert!(bed.feast.read("trips", &key(1), &["f"]).is_none());
        assert_eq!(bed.feast.others("trips", &key(1)), before);
    }

    async fn a_row_with_a_retired_feature_is_not_unchanged(bed) {
        bed.feast.ingest("trips", &key(1), 3 * SECOND, &[("f", number(1)), ("old", number(2))]);
        let store = bed.open(&view(&["f"], &["old"]));
        assert_eq!(change(&*store, 1, 1, Some(row(3 * SECOND, &[1]))).await, Applied::Written);
        assert_eq!(bed.feast.read("trips", &key(1), &["old"]).expect("there").1, [None]);
        assert_eq!(change(&*store, 1, 1, Some(row(3 * SECOND, &[1]))).await, Applied::Unchanged);
    }

    async fn a_scan_finds_what_lies_inside_the_bounds(bed) {
        let store = bed.open(&view(&["f"], &[]));
        for id in 0..2500 {
            bed.feast.ingest("trips", &key(id), id * SECOND, &[("f", number(id))]);
        }
        bed.feast.ingest("rides", &key(9999), 1500 * SECOND, &[("f", number(1))]);
        change(&*store, 1, 3000, Some(row(2000 * SECOND - 1, &[1]))).await;
        change(&*store, 1, 3001, Some(row(2000 * SECOND, &[1]))).await;
        let bounds = Bounds { start: Some(EventTime(1000 * SECOND)), stop: Some(EventTime(2000 * SECOND)) };
        let mut found = std::collections::BTreeSet::new();
        store
            .scan(bounds, &mut |entity| {
                found.insert(entity.to_vec());
                Ok(())
            })
            .await
            .expect("scanned");
        let expected: std::collections::BTreeSet<_> = (1000..2000).chain([3000]).map(|id| key(id).to_vec()).collect();
        assert_eq!(found, expected);
    }

    async fn many_changes_are_answered_in_order(bed) {
        let store = bed.open(&view(&["f", "g"], &[]));
        let keys: Vec<_> = (0..3000).map(key).collect();
        let seen = store.ask(&keys).await.expect("answers");
        let changes: Vec<Change> = keys
            .iter()
            .zip(&seen)
            .enumerate()
            .map(|(i, (key, seen))| {
                let i = i64::try_from(i).expect("small");
                let row = (i % 7 != 0).then(|| row(SECOND + i, &[i, -i]));
                Change { key: key.clone(), token: seen.token.clone(), row }
            })
            .collect();
        let applied = store.apply(1, &changes).await.expect("applied");
        for (i, applied) in applied.into_iter().enumerate() {
            assert_eq!(applied, if i % 7 == 0 { Applied::Removed } else { Applied::Written });
        }
        let back = store.read_back(1, &keys).await.expect("read");
        assert!(back.iter().zip(&changes).all(|(back, change)| *back == change.row));
        let again = store.apply(1, &changes).await.expect("applied");
        assert!(again.iter().enumerate().all(|(i, applied)| i % 7 == 0 || *applied == Applied::Moved));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_feasts_is_known_to_the_second_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bed = Bed::sqlite(&folder);
    let store = bed.open(&view(&["f"], &[]));
    bed.feast.ingest("trips", &key(1), 5 * SECOND + 700_000, &[("f", number(1))]);
    let current = store.ask(&[key(1)]).await.expect("an answer")[0].current.expect("there");
    assert!(current.whole_seconds);
    assert_eq!(current.ts, EventTime(5 * SECOND));
    let mut found = 0;
    let bounds = Bounds { start: Some(EventTime(5 * SECOND + 600_000)), stop: None };
    let mut count = |_: &[u8]| {
        found += 1;
        Ok(())
    };
    store.scan(bounds, &mut count).await.expect("scanned");
    assert_eq!(found, 1, "it may lie inside, so the decision looks at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_others_keeps_its_journal_mode_and_a_new_one_is_wal() {
    let folder = tempfile::tempdir().expect("a folder");
    let mode = |path: &std::path::Path| -> String {
        let file = rusqlite::Connection::open(path).expect("a file");
        file.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode")
    };
    let (theirs, ours) = (folder.path().join("theirs.db"), folder.path().join("sub/ours.db"));
    rusqlite::Connection::open(&theirs).and_then(|file| file.execute_batch("CREATE TABLE x (y)")).expect("a file");
    for path in [&theirs, &ours] {
        let store = SqliteStore::new("/store/x.db", path, &view(&["f"], &[]));
        store.preflight(0, 0).await.expect("healthy");
    }
    assert_eq!(mode(&theirs), "delete");
    assert_eq!(mode(&ours), "wal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "not a database, but dear to someone".repeat(100)).expect("written");
    let failure = SqliteStore::new("/store/notes.txt", &path, &view(&["f"], &[])).preflight(0, 0).await.expect_err("refused");
    assert_eq!(failure.reason, Reason::InvalidStore);
    assert!(failure.message.contains("notes.txt"), "{}", failure.message);
    assert!(std::fs::read_to_string(&path).expect("still there").starts_with("not a database"));
}
