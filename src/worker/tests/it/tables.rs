//! Tables and object stores that would not be replaced faithfully: refused by name, left as they are.

use crate::support::{World, add, create_table, filled, plain_schema, python, ride, rides_with, three};
use backfill_core::condition::Reason;
use backfill_worker::context::Context;
use backfill_worker::storage::{locate, probe_put_if_absent};
use deltalake::arrow::array::{ArrayRef, StringArray};
use deltalake::arrow::datatypes::{DataType, Field, Schema};
use deltalake::kernel::{Action, MetadataExt};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn april() -> Value {
    json!({ "startTime": "2024-04-02", "stopTime": "2024-05-01" })
}

/// The names and sizes of the log and of all data files.
fn everything(world: &World) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    let mut folders = vec![world.table_path()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.to_string_lossy().into_owned();
            match path.is_dir() {
                true if !name.ends_with("_fsb") => folders.push(path),
                true => {}
                false => drop(found.insert((name, path.metadata().expect("a file").len()))),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_reported_and_not_repaired() {
    let world = filled();
    let online = world.online_bytes();
    let log = world.table_path().join("_delta_log/00000000000000000001.json");
    std::fs::write(&log, "{\"add\": {\"path\": ").expect("written");
    let before = everything(&world);
    world.backfill("broken", april()).failed("TableCorrupted", &["offline/rides", "it was left as it is"]);
    assert_eq!((everything(&world), world.online_bytes()), (before, online));
}

#[tokio::test]
async fn a_data_file_that_is_missing_or_damaged_is_named() {
    for damage in ["missing", "garbage", "cut"] {
        let world = filled();
        let online = world.online_bytes();
        let file = world.files().await.remove(0).add.path;
        let path = world.table_path().join(&file);
        match damage {
            "missing" => std::fs::remove_file(&path).expect("removed"),
            "garbage" => std::fs::write(&path, vec![7; path.metadata().expect("a file").len() as usize]).expect("written"),
            _ => {
                let bytes = std::fs::read(&path).expect("read");
                std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
            }
        }
        let log = || std::fs::read_dir(world.table_path().join("_delta_log")).expect("a log").count();
        let versions = log();
        world.source(&three());
        let ended = world.backfill("broken", april());
        ended.failed("TableCorrupted", &[&file]);
        assert_eq!(ended.condition("OfflineReplaced").0, "False");
        let publishes = python("delta_read.py", &json!({ "table": world.table_path(), "what": "history" }));
        assert_eq!(publishes.iter().filter(|commit| commit["operation"] == "BACKFILL").count(), 1, "{damage}: only the fill");
        assert!(log() >= versions, "only fences are added");
        assert_eq!(world.online_bytes(), online);
    }
}

#[tokio::test]
async fn features_that_would_not_be_kept_are_refused_by_name() {
    let properties = [
        ("delta.enableChangeDataFeed", "true", "changeDataFeed"),
        ("delta.enableDeletionVectors", "true", "deletionVectors"),
        ("delta.columnMapping.mode", "name", "columnMapping"),
        ("delta.enableRowTracking", "true", "rowTracking"),
        ("delta.constraints.few", "trips < 100", "checkConstraints"),
        ("delta.appendOnly", "true", "appendOnly"),
        ("delta.setTransactionRetentionDuration", "interval 7 days", "delta.setTransactionRetentionDuration"),
    ];
    for (key, value, name) in properties {
        let world = filled();
        let metadata = backfill_worker::delta::snapshot(&world.table().await).metadata().clone();
        let metadata = metadata.add_config_key(key.to_owned(), value.to_owned()).expect("metadata");
        world.commit(&[Action::Metadata(metadata)]).await;
        let (rides, online) = (world.rides().await, world.online_bytes());
        world.backfill("unfit", april()).failed("UnsupportedTableFeature", &[name]);
        assert_eq!((world.rides().await, world.online_bytes()), (rides, online), "{name}");
    }
    let world = filled();
    let protocol = json!({
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors", "appendOnly", "invariants"],
    });
    world.commit(&[Action::Protocol(serde_json::from_value(protocol).expect("a protocol"))]).await;
    world.backfill("unfit", april()).failed("UnsupportedTableFeature", &["the table uses deletionVectors, which"]);
    assert_eq!(world.rides().await, three());
}

#[tokio::test]
async fn a_table_of_another_shape_is_refused_with_what_to_change() {
    let numbers = Schema::new(vec![
        Field::new("driver", DataType::Int64, true),
        Field::new("at", DataType::Int64, true),
        Field::new("trips", DataType::Int64, true),
    ]);
    let required =
        Schema::new([plain_schema(&[]).fields().to_vec(), vec![Arc::new(Field::new("vendor", DataType::Utf8, false))]].concat());
    let without =
        Schema::new(plain_schema(&[]).fields().iter().filter(|field| field.name() != "driver").cloned().collect::<Vec<_>>());
    let cases: [(Schema, &[&str], &str, &[&str]); 5] = [
        (
            plain_schema(&[("region", DataType::Utf8)]),
            &["region"],
            "TableIncompatible",
            &["partitioned by \"region\"", "offline.dateColumn"],
        ),
        (plain_schema(&[("raw", DataType::Binary)]), &["raw"], "TableIncompatible", &["partitioned by \"raw\""]),
        (numbers, &[], "SchemaMismatch", &["\"at\" is Int64 in the table and Timestamp"]),
        (required, &[], "SchemaMismatch", &["\"vendor\" of the table must not be null"]),
        (without, &[], "SchemaMismatch", &["column \"driver\" is missing in the table"]),
    ];
    for (schema, partition, reason, words) in cases {
        let world = World::new();
        create_table(&world, &schema, partition, &[]).await;
        world.source(&three());
        let before = world.data().await;
        world.backfill("unfit", april()).failed(reason, words);
        assert_eq!(world.data().await, before);
    }
}

#[tokio::test]
async fn a_partition_column_that_cannot_hold_a_value_does_not_change_it() {
    let mut world = World::new();
    world.set("entities", json!([{ "name": "city", "type": "string" }, { "name": "driver", "type": "int64" }]));
    world.set("transformation", json!({ "sql": "SELECT city, driver, at, trips FROM rides" }));
    create_table(&world, &plain_schema(&[("city", DataType::Utf8)]), &["city"], &[]).await;
    let city = Arc::new(StringArray::from(vec!["a", "", "b"])) as ArrayRef;
    world.parquet("data/rides.parquet", &rides_with(&three(), [("city", city)]));
    let before = world.data().await;
    world.backfill("empty-text", april()).failed("TableIncompatible", &["(city)", "an empty text would be read as null"]);
    assert_eq!(world.data().await, before);
}

#[tokio::test]
async fn an_undo_finds_the_files_of_partitions_with_odd_names() {
    let mut world = World::new();
    world.set("entities", json!([{ "name": "city", "type": "string" }, { "name": "driver", "type": "int64" }]));
    world.set("transformation", json!({ "sql": "SELECT city, driver, at, trips FROM rides" }));
    create_table(&world, &plain_schema(&[("city", DataType::Utf8)]), &["city"], &[]).await;
    let cities = |trips: i64| {
        let city = Arc::new(StringArray::from(vec!["New York", "100% ü/?#", "b"])) as ArrayRef;
        rides_with(
            &three().iter().map(|ride| (ride.0, ride.1, ride.2.map(|old| old + trips))).collect::<Vec<_>>(),
            [("city", city)],
        )
    };
    world.append_batch(&cities(0)).await;
    let before = world.data().await;
    world.parquet("data/rides.parquet", &cities(10));
    world.backfill("replace", april()).succeeded();
    assert_eq!(world.rides().await, [ride(1, "2024-04-01", 1), ride(2, "2024-04-02", 12), ride(3, "2024-04-03", 13)]);
    world.backfill("undo", json!({ "undo": "replace" })).succeeded();
    assert_eq!((world.rides().await, world.data().await.rows), (three(), before.rows));
}

#[tokio::test]
async fn a_delta_source_whose_files_are_vacuumed_fails_and_names_it() {
    let mut world = filled();
    world.set("offline", json!({ "table": "raw" }));
    create_table(&world, &plain_schema(&[]), &[], &[]).await;
    world.append(&three()).await;
    world.commit(&[Action::Add(add("vacuumed.parquet", 1000))]).await;
    world.set("offline", json!({ "partitionBy": "None" }));
    world.set("sources", json!([{ "name": "rides", "delta": { "uri": "file:///store/offline/raw" } }]));
    let before = world.data().await;
    world.backfill("vacuumed", april()).failed("SnapshotExpired", &["vacuumed.parquet"]);
    assert_eq!(world.data().await, before);
}

#[tokio::test]
async fn an_undo_whose_files_are_vacuumed_fails_and_changes_nothing() {
    let world = filled();
    let old = world.files().await.remove(0).add.path;
    world.source(&[three()[0], ride(2, "2024-04-02", 20), ride(3, "2024-04-03", 30)]);
    world.backfill("replace", april()).succeeded();
    std::fs::remove_file(world.table_path().join(&old)).expect("removed");
    let before = world.data().await;
    world.backfill("undo", json!({ "undo": "replace" })).failed("SnapshotExpired", &[&old, "VACUUM"]);
    assert_eq!(world.data().await, before);
    world
        .backfill("undo-nothing", json!({ "undo": "never-there" }))
        .failed("UndoNotFound", &["\"never-there\" has published nothing"]);
    assert_eq!(world.data().await, before);
}

/// A store that ignores the condition of a conditional PUT, as some look-alikes of S3 do, or does not know it.
#[derive(Debug)]
struct Careless {
    store: InMemory,
    refuses: bool,
}

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let known = self.store.head_exists(path).await;
        if self.refuses && known {
            return Err(object_store::Error::NotImplemented {
                operation: "a conditional PUT".to_owned(),
                implementer: "careless".to_owned(),
            });
        }
        self.store.put_opts(path, payload, PutOptions { mode: PutMode::Overwrite, ..options }).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

trait Exists {
    async fn head_exists(&self, path: &Path) -> bool;
}

impl Exists for InMemory {
    async fn head_exists(&self, path: &Path) -> bool {
        self.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await.is_ok()
    }
}

#[tokio::test]
async fn a_store_that_ignores_put_if_absent_is_refused() {
    let folder = Path::from("_fsb/key");
    for refuses in [false, true] {
        let store = Careless { store: InMemory::new(), refuses };
        let failure = probe_put_if_absent(&store, &folder).await.expect_err("refused");
        assert_eq!((failure.reason, failure.retry), (Reason::UnsafeObjectStore, false));
        let words = if refuses { "only when there is none" } else { "honours If-None-Match" };
        assert!(failure.message.contains(words), "{}", failure.message);
        assert!(store.list_with_delimiter(None).await.expect("listed").objects.is_empty(), "the probe is removed");
    }
    probe_put_if_absent(&InMemory::new(), &folder).await.expect("this one honours it");
}

#[test]
fn uris_are_located_or_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let cx = Context::new(path("store"), path("secrets"), path("scratch"), 0);
    let located = locate(&cx, "file:///store/a/b c.parquet", None).expect("a file").url;
    assert_eq!(located.to_file_path().expect("a path"), path("store/a/b c.parquet"));
    for (uri, reason, words) in [
        ("no scheme", Reason::SourceNotFound, "cannot use the URI \"no scheme\""),
        ("http://example.org/x", Reason::SourceNotFound, "its scheme is none of s3, gs, abfss, file"),
        ("file://host/store/x", Reason::SourceNotFound, "it names a host"),
        ("file:///etc/passwd", Reason::InvalidStore, "does not lie on the volume claim; write /store/"),
        ("file:///store/../etc/passwd", Reason::InvalidStore, "does not lie on the volume claim"),
    ] {
        let failure = locate(&cx, uri, None).expect_err("refused");
        assert_eq!((failure.reason, failure.retry), (reason, false), "{uri}");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let failure = locate(&cx, "s3://bucket/x", Some("missing")).expect_err("refused");
    assert_eq!(failure.reason, Reason::OfflineAuth);
    assert!(failure.message.contains("cannot read secret \"missing\""));
    std::fs::create_dir_all(path("secrets/aws/..data")).expect("a folder");
    std::fs::write(path("secrets/aws/AWS_REGION"), "eu-west-1\n").expect("a file");
    std::fs::write(path("secrets/aws/.hidden"), "x").expect("a file");
    let located = locate(&cx, "s3://bucket/x", Some("aws")).expect("a bucket");
    assert_eq!(located.options, [("aws_region".to_owned(), "eu-west-1".to_owned())].into());
}
