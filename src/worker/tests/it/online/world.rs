//! A small feature set with a real Delta table and a real online store, and the hands of everybody who touches them.

use super::feast::{Feast, FeastRedis, FeastSqlite};
use super::redis_server::RedisServer;
use super::stores::{key, number};
use backfill_core::api::{
    Entity, EvictionPolicy, Feature, KeyType, Mode, NullKeys, OnlineUnknown, PartitionBy, RowsOutside, SchemaGuard, Timestamps,
    ValueType,
};
use backfill_core::contract::{
    BackfillRef, Definition, Guards, Notice, Online, OnlineReport, OnlineTarget, Order, Scope, Size, Stores, Table, VERSION,
};
use backfill_core::feast::field;
use backfill_core::time::Interval;
use backfill_worker::context::Context;
use backfill_worker::delta;
use backfill_worker::failure::Result;
use backfill_worker::online::{self, Finished, Input};
use backfill_worker::record::RunRecord;
use backfill_worker::session;
use chrono::{DateTime, TimeDelta, Utc};
use deltalake::arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use deltalake::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use deltalake::kernel::{Action, Add, StructType, engine::arrow_conversion::TryIntoKernel};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder};
use std::path::PathBuf;
use std::sync::Arc;

pub const DAY: i64 = 86_400;

/// A row of the table: driver, seconds since 2024-01-01, value.
pub type Row = (i64, i64, i64);

/// An instant in seconds since 2024-01-01.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_704_067_200 + seconds, 0).expect("a time")
}

pub fn micros(seconds: i64) -> i64 {
    at(seconds).timestamp_micros()
}

/// What a test sees and touches.
pub struct World {
    pub folder: tempfile::TempDir,
    pub server: Option<RedisServer>,
    pub feast: Box<dyn Feast>,
    pub order: Order,
    pub table: Option<DeltaTable>,
    by_day: bool,
    files: Vec<(Add, Vec<Row>)>,
}

/// One published backfill, not yet online.
#[derive(Clone)]
pub struct Published {
    pub before: Option<DeltaTable>,
    pub table: DeltaTable,
    pub start: Option<i64>,
    pub stop: Option<i64>,
}

impl World {
    pub fn on_redis() -> Self {
        let server = RedisServer::start(&["--enable-debug-command", "yes"]);
        let target = OnlineTarget::Redis { secret: "redis".to_owned(), key: "url".to_owned(), key_ttl_seconds: None };
        let world = Self::new(target, |_| Box::new(FeastRedis::of(&server)));
        std::fs::create_dir(world.folder.path().join("secrets/redis")).expect("a folder");
        std::fs::write(world.folder.path().join("secrets/redis/url"), server.url()).expect("a secret");
        Self { server: Some(server), ..world }
    }

    pub fn on_sqlite() -> Self {
        let target = OnlineTarget::Sqlite { path: "/store/online.db".to_owned() };
        Self::new(target, |folder| Box::new(FeastSqlite::of(&folder.join("online.db"))))
    }

    fn new(target: OnlineTarget, feast: impl FnOnce(&std::path::Path) -> Box<dyn Feast>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["store", "secrets", "scratch"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let feast = feast(&folder.path().join("store"));
        let order = order(target);
        Self { folder, server: None, feast, order, table: None, by_day: false, files: Vec::new() }
    }

    pub fn by_day(mut self) -> Self {
        self.by_day = true;
        self
    }

    pub fn context(&self, index: u32) -> Context {
        let path = |name: &str| self.folder.path().join(name);
        Context::new(path("store"), path("secrets"), path("scratch"), index)
    }

    fn uri(&self) -> PathBuf {
        self.folder.path().join("store/table")
    }

    fn schema(&self) -> Arc<Schema> {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields = vec![
            Field::new("driver", DataType::Int64, true),
            Field::new("event_timestamp", time, true),
            Field::new("f", DataType::Int64, true),
            Field::new("g", DataType::Int64, true),
        ];
        if self.by_day {
            fields.push(Field::new("event_date", DataType::Date32, true));
        }
        Arc::new(Schema::new(fields))
    }

    /// The columns of rows; `g` is always `-f`, so that a row made of two is seen.
    fn batch(&self, rows: &[Row]) -> RecordBatch {
        let numbers = |pick: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(pick))) as ArrayRef;
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| micros(row.1))).with_timezone("UTC");
        let mut columns = vec![numbers(|row| row.0), Arc::new(times) as ArrayRef, numbers(|row| row.2), numbers(|row| -row.2)];
        if self.by_day {
            let day = |row: &Row| i32::try_from(at(row.1).timestamp() / DAY).expect("small");
            columns.push(Arc::new(Date32Array::from_iter_values(rows.iter().map(day))));
        }
        RecordBatch::try_new(self.schema(), columns).expect("a batch")
    }

    async fn opened(&mut self) -> DeltaTable {
        if let Some(table) = &mut self.table {
            delta::refresh(table).await.expect("a table");
            return table.clone();
        }
        std::fs::create_dir_all(self.uri()).expect("a folder");
        let url = url::Url::from_directory_path(self.uri()).expect("a path");
        let table = DeltaTableBuilder::from_url(url).and_then(DeltaTableBuilder::build).expect("a table");
        let schema: StructType = self.schema().as_ref().try_into_kernel().expect("a schema");
        let table = table
            .create()
            .with_columns(schema.fields().cloned())
            .with_partition_columns(self.by_day.then_some("event_date"))
            .await
            .expect("a table");
        self.table = Some(table.clone());
        table
    }

    async fn write(&mut self, rows: &[Row]) -> Vec<(Add, Vec<Row>)> {
        let table = self.opened().await;
        let mut parts: Vec<Vec<Row>> = vec![rows.to_vec()];
        if self.by_day {
            let mut days = std::collections::BTreeMap::<i64, Vec<Row>>::new();
            rows.iter().for_each(|row| days.entry(row.1.div_euclid(DAY)).or_default().push(*row));
            parts = days.into_values().collect();
        }
        let mut files = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let mut writer = RecordBatchWriter::for_table(&table).expect("a writer");
            writer.write(self.batch(&part)).await.expect("written");
            let adds = writer.flush().await.expect("flushed");
            assert_eq!(adds.len(), 1);
            files.extend(adds.into_iter().map(|add| (add, part.clone())));
        }
        files
    }

    async fn commit(&mut self, actions: &[Action]) -> DeltaTable {
        let mut table = self.opened().await;
        let tried = delta::commit(&table, delta::version(&table) + 1, actions).await;
        assert!(matches!(tried, delta::Tried::Committed), "{tried:?}");
        delta::refresh(&mut table).await.expect("a table");
        self.table = Some(table.clone());
        table
    }

    /// Others append rows.
    pub async fn append(&mut self, rows: &[Row]) {
        let files = self.write(rows).await;
        let adds: Vec<Action> = files.iter().map(|(add, _)| Action::Add(add.clone())).collect();
        self.commit(&adds).await;
        self.files.extend(files);
    }

    /// Our offline step: everything inside is replaced by `rows`, in one commit.
    pub async fn replace(&mut self, start: Option<i64>, stop: Option<i64>, rows: &[Row]) -> Published {
        let before = match self.table {
            Some(_) => Some(self.opened().await),
            None => None,
        };
        let inside = |row: &Row| start.is_none_or(|start| start <= row.1) && stop.is_none_or(|stop| row.1 < stop);
        let (touched, mut kept): (Vec<_>, Vec<_>) = self.files.drain(..).partition(|(_, rows)| rows.iter().any(inside));
        let rescued: Vec<Row> = touched.iter().flat_map(|(_, rows)| rows).filter(|row| !inside(row)).copied().collect();
        let added = [self.write(&rescued).await, self.write(rows).await].concat();
        let pinned = before.as_ref().map_or(-1, |table| delta::version(table).cast_signed());
        let mut actions = vec![
            delta::commit_info("BACKFILL", None, serde_json::json!({ "key": self.order.key, "pinned": pinned })),
            delta::txn(&delta::publish_app(&self.order.key), 1),
        ];
        let removed = |add: Add| Action::Remove(delta::DataFile::new(add, "event_timestamp").remove(Utc::now()));
        actions.extend(touched.into_iter().map(|(add, _)| removed(add)));
        actions.extend(added.iter().map(|(add, _)| Action::Add(add.clone())));
        kept.extend(added);
        self.files = kept;
        let table = self.commit(&actions).await;
        let (interval_start, interval_stop) = (start.unwrap_or(-1000 * DAY), stop.unwrap_or(1000 * DAY));
        let interval = Interval::new(at(interval_start), at(interval_stop)).expect("an interval");
        self.order.scope = match (start, stop) {
            (Some(_), Some(_)) => Scope::Interval { interval },
            (_, stop) => Scope::Reset { interval, delete_before: stop.map(at) },
        };
        Published { before, table, start, stop }
    }

    /// Our offline step of an interval that ends before `stop`, pinned at an earlier version: rows that landed since survive.
    pub async fn publish_pinned_at(&mut self, pinned: DeltaTable, rows: &[Row]) -> Published {
        let old: Vec<String> = delta::files(&pinned, "event_timestamp").into_iter().map(|file| file.add.path).collect();
        let (replaced, kept): (Vec<_>, Vec<_>) = self.files.drain(..).partition(|(add, _)| old.contains(&add.path));
        let added = self.write(rows).await;
        let version = delta::version(&pinned).cast_signed();
        let details = serde_json::json!({ "key": self.order.key, "pinned": version });
        let mut actions =
            vec![delta::commit_info("BACKFILL", None, details), delta::txn(&delta::publish_app(&self.order.key), 1)];
        let removed = |add: Add| Action::Remove(delta::DataFile::new(add, "event_timestamp").remove(Utc::now()));
        actions.extend(replaced.into_iter().map(|(add, _)| removed(add)));
        actions.extend(added.iter().map(|(add, _)| Action::Add(add.clone())));
        self.files = [kept, added].concat();
        let table = self.commit(&actions).await;
        Published { before: Some(pinned), table, start: Some(0), stop: Some(20) }
    }

    /// The online step of `stores: [Online]`.
    pub async fn backfill_nothing_offline(&mut self, start: Option<i64>, stop: Option<i64>) -> OnlineReport {
        let before = self.opened().await;
        let mut table = before.clone();
        online::generation(&self.order, &mut table, &self.record(&before)).await.expect("a generation");
        self.go_online(&Published { before: Some(before), table, start, stop }).await
    }

    pub fn record(&self, table: &DeltaTable) -> RunRecord {
        RunRecord::new(table.log_store().object_store(None), &self.order.key)
    }

    /// The online step as pod `index` does it.
    pub async fn step(&self, published: &Published, index: u32) -> Result<(Finished, Vec<Notice>)> {
        let cx = self.context(index);
        let store = online::open(&cx, &self.order, published.before.as_ref()).expect("a store");
        let input = Input {
            store,
            before: published.before.clone(),
            published: published.table.clone(),
            start: published.start.map(at),
            stop: published.stop.map(at),
            overlaps_unmarked: false,
            record: self.record(&published.table),
            runtime: session::runtime(&cx, &self.order.size).expect("a runtime"),
        };
        online::run(&cx, &self.order, input).await
    }

    /// The online step, done by one pod.
    pub async fn go_online(&self, published: &Published) -> OnlineReport {
        match self.step(published, 0).await.expect("the step ends well") {
            (Finished::All(report), _) => report,
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Publishes and goes online.
    pub async fn backfill(&mut self, start: Option<i64>, stop: Option<i64>, rows: &[Row]) -> OnlineReport {
        let published = self.replace(start, stop, rows).await;
        self.go_online(&published).await
    }

    /// The next backfill is another run.
    pub fn next_run(&mut self) {
        self.order.key = format!("{:064x}", u64::from_str_radix(&self.order.key[48..], 16).expect("hexadecimal") + 1);
    }

    /// Feast writes a row into the online store.
    pub fn ingest(&mut self, (driver, seconds, value): Row) {
        self.feast.ingest("trips", &key(driver), micros(seconds), &[("f", number(value)), ("g", number(-value))]);
    }

    /// What a Feast client reads: seconds and value.
    pub fn online(&mut self, driver: i64) -> Option<(i64, i64)> {
        let (time, values) = self.feast.read("trips", &key(driver), &["f", "g"])?;
        let value = |at: usize| match values[at].as_deref().and_then(backfill_core::feast::decode_value) {
            Some(backfill_core::feast::Value::Int64(value)) => value,
            other => panic!("driver {driver} has {other:?}"),
        };
        assert_eq!(value(0), -value(1), "all features of driver {driver} come from one row");
        Some((time / 1_000_000 - at(0).timestamp(), value(0)))
    }

    /// Sets how many buckets the entities are cut into, as an earlier attempt would have.
    pub async fn cut(&self, published: &Published, buckets: u32) {
        let cx = self.context(0);
        let store = online::open(&cx, &self.order, None).expect("a store");
        let cut = serde_json::json!({ "buckets": buckets });
        self.record(&published.table).put_if_absent(&format!("online/{}/cut.json", store.id()), &cut).await.expect("recorded");
    }
}

fn order(store: OnlineTarget) -> Order {
    let int64 = || ValueType::try_from("int64".to_owned()).expect("a type");
    let feature = |name: &str| Feature { name: name.to_owned(), value_type: int64() };
    assert_ne!(field("trips", "f"), field("trips", "g"));
    Order {
        version: VERSION,
        mode: Mode::Apply,
        attempt: 1,
        backfill: BackfillRef { namespace: "demo".to_owned(), name: "b".to_owned(), uid: None, run_id: None },
        key: format!("{:064x}", 1),
        comment: None,
        scope: Scope::Interval { interval: Interval::new(at(0), at(1)).expect("an interval") },
        stores: Stores::Both,
        now: at(0) + TimeDelta::days(1000),
        definition: Definition {
            feature_set: "trips".to_owned(),
            project: "demo".to_owned(),
            view: "trips".to_owned(),
            entities: vec![Entity { name: "driver".to_owned(), value_type: KeyType::Int64 }],
            timestamp_column: "event_timestamp".to_owned(),
            features: vec![feature("f"), feature("g")],
            sources: vec![],
            sql: "SELECT 1".to_owned(),
            windows: None,
            hash: String::new(),
        },
        table: Table {
            uri: "file:///store/table".to_owned(),
            partition_by: PartitionBy::Day,
            date_column: "event_date".to_owned(),
            credentials_secret: None,
        },
        online: Some(Online { store, ttl_seconds: None, unknown: OnlineUnknown::Keep, parallelism: 1 }),
        guards: Guards {
            schema: SchemaGuard::Strict,
            null_keys: NullKeys::Fail,
            keep_last_by: None,
            rows_outside: RowsOutside::Drop,
            allow_empty: false,
            max_shrink_percent: 50,
            timestamps: Timestamps::Exact,
            eviction_policy: EvictionPolicy::Warn,
            checks: vec![],
        },
        size: Size { cores: 2, memory_bytes: 1 << 30, scratch_bytes: 1 << 30 },
        engine: backfill_core::contract::Engine::DataFusion,
    }
}
