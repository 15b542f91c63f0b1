//! The offline table as others see it and write to it.

use super::World;
use super::rides::{Ride, rides_batch, rides_of};
use backfill_worker::delta;
use chrono::Utc;
use deltalake::arrow::array::{ArrayRef, Date32Array, RecordBatch};
use deltalake::arrow::compute::concat_batches;
use deltalake::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use deltalake::datafusion::prelude::SessionContext;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{Action, Add, StructType};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Everything that a backfill may change, as others see it: compare two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The files of the newest version.
    pub files: BTreeSet<String>,
    /// The files on disk, whether or not a version names them.
    pub on_disk: BTreeSet<String>,
    /// Name and type of every column, and the properties.
    pub metadata: String,
    /// Every row of the newest version.
    pub rows: Vec<String>,
    /// Every byte of the online store.
    pub online: Vec<String>,
}

impl World {
    fn table_url(&self) -> url::Url {
        let offline = &self.feature_set["spec"]["offline"]["table"];
        let name = offline.as_str().or(self.feature_set["metadata"]["name"].as_str()).expect("a name");
        url::Url::from_directory_path(self.path("offline").join(name)).expect("a path")
    }

    /// The folder of the table.
    pub fn table_path(&self) -> std::path::PathBuf {
        self.table_url().to_file_path().expect("a path")
    }

    /// The newest version of the table, if there is one.
    pub async fn find_table(&self) -> Option<DeltaTable> {
        let mut table = DeltaTableBuilder::from_url(self.table_url()).and_then(DeltaTableBuilder::build).expect("a table");
        table.load().await.is_ok().then_some(table)
    }

    /// The newest version of the table.
    pub async fn table(&self) -> DeltaTable {
        self.find_table().await.expect("there is a table")
    }

    /// The number of the newest version.
    pub async fn version(&self) -> u64 {
        delta::version(&self.table().await)
    }

    /// The rides in the newest version, by time and driver.
    pub async fn rides(&self) -> Vec<Ride> {
        rides_of_table(&self.table().await).await
    }

    /// The rides in an older version.
    pub async fn rides_at(&self, version: u64) -> Vec<Ride> {
        rides_of_table(&delta::at(&self.table().await, version).await.expect("the version")).await
    }

    /// The files of the newest version and their statistics of the event time.
    pub async fn files(&self) -> Vec<delta::DataFile> {
        let time = self.feature_set["spec"]["timestampColumn"].as_str().expect("a column");
        delta::files(&self.table().await, time)
    }

    /// Everything that a backfill may change.
    pub async fn data(&self) -> Data {
        let online = self.online_bytes();
        let Some(table) = self.find_table().await else {
            let (files, on_disk) = (BTreeSet::new(), parquet_files(&self.table_path()));
            return Data { files, on_disk, metadata: String::new(), rows: vec![], online };
        };
        let snapshot = delta::snapshot(&table);
        let configuration: BTreeMap<_, _> = snapshot.metadata().configuration().iter().collect();
        let all = rows(&table).await;
        let mut rows: Vec<String> = (0..all.num_rows()).map(|row| format!("{:?}", all.slice(row, 1).columns())).collect();
        rows.sort();
        Data {
            files: self.files().await.into_iter().map(|file| file.add.path).collect(),
            on_disk: parquet_files(&self.table_path()),
            metadata: format!("{:?} {configuration:?}", snapshot.schema()),
            rows,
            online,
        }
    }

    /// Others append rides, in one file.
    pub async fn append(&self, rides: &[Ride]) {
        self.append_batch(&rides_batch(rides)).await;
    }

    /// Others append rows, in one file a partition. The date column is derived.
    pub async fn append_batch(&self, batch: &RecordBatch) {
        let adds = self.write(batch).await;
        self.commit(&adds.into_iter().map(Action::Add).collect::<Vec<_>>()).await;
    }

    /// Others write files that no version names yet.
    pub async fn write(&self, batch: &RecordBatch) -> Vec<Add> {
        let table = self.table().await;
        let mut writer = RecordBatchWriter::for_table(&table).expect("a writer");
        writer.write(with_date(batch, &writer.arrow_schema())).await.expect("written");
        writer.flush().await.expect("flushed")
    }

    /// Others commit.
    pub async fn commit(&self, actions: &[Action]) -> u64 {
        let table = self.table().await;
        let version = delta::version(&table) + 1;
        let tried = delta::commit(&table, version, actions).await;
        assert!(matches!(tried, delta::Tried::Committed), "{tried:?}");
        version
    }

    /// Others remove a file with its rows, or by compaction.
    pub async fn remove(&self, file: &delta::DataFile, data_change: bool) {
        let remove = deltalake::kernel::Remove { data_change, ..file.remove(Utc::now()) };
        self.commit(&[Action::Remove(remove)]).await;
    }
}

/// Makes the table before any backfill does, as others would.
pub async fn create_table(world: &World, schema: &Schema, partition: &[&str], properties: &[(&str, &str)]) -> DeltaTable {
    std::fs::create_dir_all(world.table_path()).expect("a folder");
    let table = DeltaTableBuilder::from_url(world.table_url()).and_then(DeltaTableBuilder::build).expect("a table");
    let schema: StructType = schema.try_into_kernel().expect("a schema");
    let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())));
    let create = table.create().with_columns(schema.fields().cloned()).with_partition_columns(partition.iter().copied());
    create.with_configuration(properties).with_raise_if_key_not_exists(false).await.expect("a table")
}

/// The columns of rides and further nullable ones.
pub fn plain_schema(more: &[(&str, DataType)]) -> Schema {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let rides = [("driver", DataType::Int64), ("at", time), ("trips", DataType::Int64)];
    Schema::new(rides.iter().chain(more).map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
}

/// The log's entry for a file that somebody put into the table's folder, without statistics.
pub fn add(path: &str, bytes: usize) -> Add {
    Add { path: path.to_owned(), size: bytes as i64, modification_time: 1, data_change: true, ..Add::default() }
}

/// A Parquet file with these rows.
pub fn parquet_bytes(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
    bytes
}

/// The rows with every column of the table: dates from the event time `at`, the others null.
fn with_date(batch: &RecordBatch, schema: &Arc<Schema>) -> RecordBatch {
    let column = |field: &Field| -> ArrayRef {
        match batch.column_by_name(field.name()) {
            Some(column) => column.clone(),
            None if field.data_type() == &DataType::Date32 => {
                let dates = rides_of(batch).into_iter().map(|ride| ride.1.map(|t| t.div_euclid(86_400_000_000) as i32));
                Arc::new(dates.collect::<Date32Array>())
            }
            None => deltalake::arrow::array::new_null_array(field.data_type(), batch.num_rows()),
        }
    };
    let columns = schema.fields().iter().map(|field| column(field)).collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns of one length")
}

/// All rows of a version.
pub async fn rows(table: &DeltaTable) -> RecordBatch {
    let session = SessionContext::new();
    delta::register_store(&session, table);
    let provider = delta::provider(table, None, None).expect("a provider");
    let schema = provider.schema();
    let batches = session.read_table(provider).expect("a frame").collect().await.expect("rows");
    concat_batches(&schema, &batches).expect("batches of one schema")
}

/// The rides in a table, by time and driver.
pub async fn rides_of_table(table: &DeltaTable) -> Vec<Ride> {
    let mut rides = rides_of(&rows(table).await);
    rides.sort_by_key(|ride| (ride.1, ride.0, ride.2));
    rides
}

fn parquet_files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('_') {
                folders.push(path);
            } else if name.ends_with(".parquet") {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    found
}
