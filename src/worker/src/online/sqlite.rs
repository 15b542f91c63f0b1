//! SQLite in Feast's layout: the embedded online store.
//!
//! Feast keeps whole seconds only. The exact time of a row that a backfill wrote lies in a side table beside it, and counts while it
//! agrees with Feast's. One writer process on the node of the file, never on a network file system.

mod held;

use crate::failure::{Failure, Result};
use crate::online::store::{Applied, Change, EntityKey, Found, OnlineStore, Row, Seen, View, superseded};
use async_trait::async_trait;
use backfill_core::condition::Reason;
use backfill_core::contract::Notice;
use backfill_core::feast::{KeyLayout, sqlite_table};
use backfill_core::online::{Bounds, Current, EventTime};
pub use held::held;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement, TransactionBehavior, params};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How long a writer waits for another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How many entities one transaction changes: other writers wait for it, by default up to five seconds.
const ENTITIES_PER_TRANSACTION: usize = 1024;

/// How many entities one step of a scan looks at.
const SCAN_PAGE: i64 = 10_000;

/// A view in a SQLite file.
pub struct SqliteStore {
    id: String,
    file: Arc<Mutex<File>>,
}

struct File {
    path: PathBuf,
    connection: Option<Connection>,
    sql: Sql,
    view: View,
    keys: KeyLayout,
}

/// The statements of one view. The table's name cannot be a parameter, so it is quoted.
struct Sql {
    schema: String,
    time: String,
    values: String,
    held: String,
    write: String,
    remove: String,
    scan: String,
    /// The view's name in the side tables, which all views of the file share.
    scope: String,
}

const MARK: &str = "SELECT ts_us, generation FROM fsb_row WHERE view = ?1 AND entity_key = ?2";
const WRITE_MARK: &str = "INSERT OR REPLACE INTO fsb_row (view, entity_key, ts_us, generation) VALUES (?1, ?2, ?3, ?4)";
const REMOVE_MARK: &str = "DELETE FROM fsb_row WHERE view = ?1 AND entity_key = ?2";
const FENCE: &str = "SELECT generation FROM fsb_fence WHERE view = ?1";
const RAISE_FENCE: &str = "INSERT INTO fsb_fence (view, generation) VALUES (?1, ?2)
    ON CONFLICT (view) DO UPDATE SET generation = excluded.generation WHERE generation < excluded.generation";
const SIDE_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS fsb_row (view TEXT NOT NULL, entity_key BLOB NOT NULL, ts_us INTEGER NOT NULL,
        generation INTEGER NOT NULL, PRIMARY KEY (view, entity_key)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS fsb_fence (view TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;";

/// Feast writes seconds; older clients wrote text.
fn seconds(column: &str) -> String {
    format!("CASE typeof({column}) WHEN 'text' THEN unixepoch({column}) ELSE CAST({column} AS INTEGER) END")
}

impl Sql {
    fn new(view: &View) -> Self {
        let name = sqlite_table(&view.project, &view.name);
        let (table, index) = (quoted(&name), quoted(&format!("{name}_ek")));
        let (event, created) = (seconds("event_ts"), seconds("created_ts"));
        Self {
            schema: format!(
                "CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, \
                 vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name)); \
                 CREATE INDEX IF NOT EXISTS {index} ON {table} (entity_key); {SIDE_TABLES}"
            ),
            time: format!("SELECT max({event}) FROM {table} WHERE entity_key = ?1"),
            values: format!("SELECT feature_name, value, {event} FROM {table} WHERE entity_key = ?1"),
            held: format!("SELECT feature_name, value, {event}, {created} FROM {table} WHERE entity_key = ?1"),
            // Replacing the whole row also clears what Feast derives from the value for its searches.
            write: format!("INSERT OR REPLACE INTO {table} (entity_key, feature_name, value, event_ts) VALUES (?1, ?2, ?3, ?4)"),
            remove: format!("DELETE FROM {table} WHERE entity_key = ?1 AND feature_name = ?2"),
            scan: format!(
                "SELECT entity_key, max({event}), (SELECT ts_us FROM fsb_row WHERE view = ?1 AND fsb_row.entity_key = t.entity_key) \
                 FROM {table} AS t WHERE entity_key > ?2 GROUP BY entity_key ORDER BY entity_key LIMIT ?3"
            ),
            scope: format!("{}/{}", view.project, view.name),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl SqliteStore {
    /// The view in the file at `path`, made when first used. `name` is the path as the manifest has it.
    pub fn new(name: &str, path: &Path, view: &View) -> Self {
        let file = File {
            path: path.to_owned(),
            connection: None,
            sql: Sql::new(view),
            keys: KeyLayout::new(view.keys.iter().map(|(name, value_type)| (name.as_str(), *value_type))),
            view: view.clone(),
        };
        Self { id: id(name), file: Arc::new(Mutex::new(file)) }
    }

    /// Runs `work` with the open file, off the runtime's threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, &Sql, &View, &KeyLayout) -> rusqlite::Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let File { path, connection, sql, view, keys } = &mut *file;
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => open(path, sql),
            };
            open.map_err(Trouble::from)
                .and_then(|open| work(connection.insert(open), sql, view, keys))
                .map_err(|trouble| trouble.failure(path, sql))
        });
        done.await.map_err(|error| Failure::passing(Reason::OnlineUnavailable, format!("the SQLite writer died: {error}")))?
    }
}

/// The identity of the file that manifests call `name`.
pub fn id(name: &str) -> String {
    format!("sqlite-{:016x}", xxh3_64(name.as_bytes()))
}

fn open(path: &Path, sql: &Sql) -> rusqlite::Result<Connection> {
    let made = !path.exists();
    if let Some(folder) = path.parent() {
        // When this fails, opening the file says why.
        std::fs::create_dir_all(folder).ok();
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if made {
        // Readers of a file in WAL mode never wait for the writer. A file of others is left as it is.
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    connection.execute_batch(&sql.schema)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Why the file could not be used.
enum Trouble {
    Sqlite(rusqlite::Error),
    Superseded(u64),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Trouble {
    fn failure(self, path: &Path, sql: &Sql) -> Failure {
        let error = match self {
            Self::Superseded(found) => {
                let fence = format!("the row \"{}\" of table fsb_fence in {}", sql.scope, path.display());
                return superseded(&found.to_string(), &fence);
            }
            Self::Sqlite(error) => error,
        };
        let path = path.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Failure::permanent(Reason::InvalidStore, format!("{path} is no intact SQLite file: {error}"))
            }
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied) => {
                Failure::permanent(Reason::OnlineAuth, format!("may not use {path}: {error}; check the volume's permissions"))
            }
            Some(ErrorCode::DiskFull) => {
                Failure::passing(Reason::OnlineOutOfMemory, format!("no space is left for {path}: {error}; enlarge its volume"))
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Failure::passing(Reason::OnlineUnavailable, format!("another process keeps {path} locked"))
            }
            _ => Failure::passing(Reason::OnlineUnavailable, format!("cannot use {path}: {error}")),
        }
    }
}

#[async_trait]
impl OnlineStore for SqliteStore {
    fn id(&self) -> &str {
        &self.id
    }

    async fn preflight(&self, _entities: u64, _row_bytes: u64) -> Result<Vec<Notice>> {
        self.with(|connection, _, _, _| {
            connection.transaction_with_behavior(TransactionBehavior::Immediate)?.rollback()?;
            Ok(Vec::new())
        })
        .await
    }

    async fn raise_fence(&self, generation: u64) -> Result<()> {
        self.with(move |connection, sql, _, _| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            check_fence(&transaction, sql, generation)?;
            transaction.execute(RAISE_FENCE, params![sql.scope, generation.cast_signed()])?;
            Ok(transaction.commit()?)
        })
        .await
    }

    async fn ask(&self, keys: &[EntityKey]) -> Result<Vec<Seen>> {
        let keys = keys.to_vec();
        self.with(move |connection, sql, _, _| {
            // One snapshot for all: cheaper than one per entity.
            let transaction = connection.transaction()?;
            let mut look = Look::new(&transaction, sql)?;
            Ok(keys.iter().map(|key| look.seen(key)).collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn apply(&self, generation: u64, changes: &[Change]) -> Result<Vec<Applied>> {
        let mut applied = Vec::with_capacity(changes.len());
        for part in changes.chunks(ENTITIES_PER_TRANSACTION) {
            let part = part.to_vec();
            applied
                .extend(self.with(move |connection, sql, view, _| change_all(connection, sql, view, generation, &part)).await?);
        }
        Ok(applied)
    }

    async fn read_back(&self, generation: u64, keys: &[EntityKey]) -> Result<Vec<Option<Row>>> {
        let keys = keys.to_vec();
        self.with(move |connection, sql, view, _| {
            let transaction = connection.transaction()?;
            let mut look = Look::new(&transaction, sql)?;
            Ok(keys.iter().map(|key| look.row(view, generation, key)).collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn scan(&self, bounds: Bounds, found: &mut Found<'_>) -> Result<()> {
        let mut last: Vec<u8> = Vec::new();
        loop {
            let from = last.clone();
            let page = self.with(move |connection, sql, _, keys| page(connection, sql, keys, &from)).await?;
            for entity in page.iter().filter(|entity| entity.may_lie_in(bounds)) {
                found(&entity.key)?;
            }
            match page.last() {
                Some(entity) => last.clone_from(&entity.key),
                None => return Ok(()),
            }
        }
    }

    async fn histories(&self) -> Result<BTreeSet<String>> {
        // What a transaction has committed is on the disk.
        Ok(BTreeSet::new())
    }
}

fn check_fence(connection: &Connection, sql: &Sql, generation: u64) -> Result<(), Trouble> {
    let fence: Option<i64> = connection.query_row(FENCE, [&sql.scope], |row| row.get(0)).optional()?;
    match fence.map(i64::cast_unsigned) {
        Some(fence) if fence > generation => Err(Trouble::Superseded(fence)),
        _ => Ok(()),
    }
}

fn change_all(
    connection: &mut Connection,
    sql: &Sql,
    view: &View,
    generation: u64,
    changes: &[Change],
) -> Result<Vec<Applied>, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check_fence(&transaction, sql, generation)?;
    let applied = {
        let mut look = Look::new(&transaction, sql)?;
        let mut edit = Edit::new(&transaction, sql, view, generation)?;
        changes.iter().map(|change| edit.change(&mut look, change)).collect::<rusqlite::Result<_>>()?
    };
    transaction.commit()?;
    Ok(applied)
}

/// Reads single entities within a transaction.
struct Look<'c> {
    time: Statement<'c>,
    mark: Statement<'c>,
    values: Statement<'c>,
    scope: &'c str,
}

/// The row of the side table.
#[derive(Clone, Copy)]
struct Mark {
    ts_us: i64,
    generation: i64,
}

impl Mark {
    /// Of what [`MARK`] selects.
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { ts_us: row.get(0)?, generation: row.get(1)? })
    }
}

impl<'c> Look<'c> {
    fn new(connection: &'c Connection, sql: &'c Sql) -> rusqlite::Result<Self> {
        Ok(Self {
            time: connection.prepare(&sql.time)?,
            mark: connection.prepare(MARK)?,
            values: connection.prepare(&sql.values)?,
            scope: &sql.scope,
        })
    }

    fn mark(&mut self, key: &[u8]) -> rusqlite::Result<Option<Mark>> {
        self.mark.query_row(params![self.scope, key], Mark::read).optional()
    }

    fn seen(&mut self, key: &[u8]) -> rusqlite::Result<Seen> {
        let seconds: Option<i64> = self.time.query_row([key], |row| row.get(0))?;
        let mark = self.mark(key)?;
        let current = seconds.map(|seconds| match mark.filter(|mark| EventTime(mark.ts_us).second() == seconds) {
            Some(mark) => Current { ts: EventTime(mark.ts_us), ours: true, whole_seconds: false },
            None => Current { ts: EventTime(seconds * 1_000_000), ours: false, whole_seconds: true },
        });
        let mut token = Vec::with_capacity(26);
        token.push(u8::from(seconds.is_some()));
        token.extend(seconds.unwrap_or_default().to_le_bytes());
        token.push(u8::from(mark.is_some()));
        token.extend(mark.map_or(0, |mark| mark.ts_us).to_le_bytes());
        token.extend(mark.map_or(0, |mark| mark.generation).to_le_bytes());
        Ok(Seen { current, token: token.into() })
    }

    /// The values by feature, each with its second.
    fn values(&mut self, key: &[u8]) -> rusqlite::Result<HashMap<String, (Vec<u8>, i64)>> {
        let read = |row: &rusqlite::Row<'_>| {
            let (value, seconds): (Option<Vec<u8>>, Option<i64>) = (row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, (value.unwrap_or_default(), seconds.unwrap_or(i64::MIN))))
        };
        self.values.query_map([key], read)?.collect()
    }

    /// The whole row, when `generation` wrote it last.
    fn row(&mut self, view: &View, generation: u64, key: &[u8]) -> rusqlite::Result<Option<Row>> {
        let Some(mark) = self.mark(key)?.filter(|mark| mark.generation.cast_unsigned() == generation) else { return Ok(None) };
        let values = self.values(key)?;
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(view.features.len()));
        for feature in &view.features {
            match values.get(feature) {
                Some((value, seconds)) if *seconds == EventTime(mark.ts_us).second() => bytes.extend(value),
                _ => return Ok(None),
            }
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Ok(Some(Row::new(EventTime(mark.ts_us), &bytes, &ends)))
    }
}

/// Changes single entities within a transaction.
struct Edit<'c> {
    write: Statement<'c>,
    remove: Statement<'c>,
    write_mark: Statement<'c>,
    remove_mark: Statement<'c>,
    scope: &'c str,
    view: &'c View,
    generation: u64,
}

impl<'c> Edit<'c> {
    fn new(connection: &'c Connection, sql: &'c Sql, view: &'c View, generation: u64) -> rusqlite::Result<Self> {
        Ok(Self {
            write: connection.prepare(&sql.write)?,
            remove: connection.prepare(&sql.remove)?,
            write_mark: connection.prepare(WRITE_MARK)?,
            remove_mark: connection.prepare(REMOVE_MARK)?,
            scope: &sql.scope,
            view,
            generation,
        })
    }

    fn change(&mut self, look: &mut Look<'_>, change: &Change) -> rusqlite::Result<Applied> {
        let seen = look.seen(&change.key)?;
        if seen.token != change.token {
            return Ok(Applied::Moved);
        }
        let Some(row) = &change.row else {
            self.leave(&change.key, &self.view.features)?;
            self.leave(&change.key, &self.view.retired)?;
            self.remove_mark.execute(params![self.scope, change.key])?;
            return Ok(Applied::Removed);
        };
        // A row of Feast's with the same second and values is the same row as far as Feast can tell.
        let same_time =
            seen.current.is_some_and(|now| if now.ours { now.ts == row.ts } else { now.ts.second() == row.ts.second() });
        if same_time && self.stands(look, &change.key, row)? {
            return Ok(Applied::Unchanged);
        }
        for (feature, value) in self.view.features.iter().zip(row.values()) {
            self.write.execute(params![change.key, feature, value, row.ts.second()])?;
        }
        self.leave(&change.key, &self.view.retired)?;
        self.write_mark.execute(params![self.scope, change.key, row.ts.0, self.generation.cast_signed()])?;
        Ok(Applied::Written)
    }

    fn leave(&mut self, key: &[u8], features: &[String]) -> rusqlite::Result<()> {
        features.iter().try_for_each(|feature| self.remove.execute(params![key, feature]).map(|_| ()))
    }

    fn stands(&self, look: &mut Look<'_>, key: &[u8], row: &Row) -> rusqlite::Result<bool> {
        let values = look.values(key)?;
        let second = row.ts.second();
        let equal = |(feature, value): (&String, &[u8])| values.get(feature).is_some_and(|(v, at)| v == value && *at == second);
        Ok(self.view.features.iter().zip(row.values()).all(equal)
            && !self.view.retired.iter().any(|name| values.contains_key(name)))
    }
}

/// An entity that a scan meets.
struct Met {
    key: Vec<u8>,
    /// The first and the last microsecond of its event time.
    ts: Option<(EventTime, EventTime)>,
}

impl Met {
    fn may_lie_in(&self, bounds: Bounds) -> bool {
        self.ts.is_some_and(|(first, last)| !bounds.begin_after(last) && !bounds.end_by(first))
    }
}

/// The next entities behind `from`. Keys of another layout carry no time, so that nothing is done to them.
fn page(connection: &Connection, sql: &Sql, keys: &KeyLayout, from: &[u8]) -> Result<Vec<Met>, Trouble> {
    let mut scan = connection.prepare_cached(&sql.scan)?;
    let read = |row: &rusqlite::Row<'_>| {
        let (key, seconds, mark): (Vec<u8>, Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let ours = keys.decode(&key).is_some_and(|(_, rest)| rest.is_empty());
        let ts = seconds.filter(|_| ours).map(|seconds| match mark.filter(|mark| EventTime(*mark).second() == seconds) {
            Some(mark) => (EventTime(mark), EventTime(mark)),
            None => (EventTime(seconds * 1_000_000), EventTime(seconds * 1_000_000 + 999_999)),
        });
        Ok(Met { key, ts })
    };
    Ok(scan.query_map(params![sql.scope, from, SCAN_PAGE], read)?.collect::<rusqlite::Result<_>>()?)
}
