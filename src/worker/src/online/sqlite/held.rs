//! Reads one entity of a file, and leaves no trace in it or beside it.
//!
//! A reader of a file in WAL mode shares memory with writers in a file of its own beside it. Where nobody has the file open there
//! is none, and none is made: then the file is read as if nobody could change it, and again when somebody has.

use super::{MARK, Mark, Sql, Trouble};
use crate::failure::{Failure, Result};
use crate::online::store::{Held, HeldValue, View};
use backfill_core::condition::Reason;
use backfill_core::feast::sqlite_table;
use backfill_core::online::EventTime;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use url::Url;

const IS_TABLE: &str = "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = ?1";

/// How long a reader waits for a writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What readers are served of an entity by the file at `path`.
pub async fn held(path: PathBuf, view: &View, key: Vec<u8>) -> Result<Option<Held>> {
    let (sql, view) = (Sql::new(view), view.clone());
    let read = tokio::task::spawn_blocking(move || {
        if !path.exists() {
            let message = format!("there is no file {}: nothing was written to the online store yet", path.display());
            return Err(Failure::passing(Reason::OnlineUnavailable, message));
        }
        loop {
            let rest = Rest::of(&path);
            let read = open(&path, rest.is_some()).and_then(|mut file| row(&mut file, &sql, &view, &key));
            if rest.is_none() || rest == Rest::of(&path) {
                return read.map_err(|error| Trouble::from(error).failure(&path, &sql));
            }
        }
    });
    read.await.map_err(|error| Failure::passing(Reason::OnlineUnavailable, format!("the SQLite reader died: {error}")))?
}

/// The state of a file in WAL mode that nobody has open.
#[derive(PartialEq, Eq)]
struct Rest {
    changed: Option<SystemTime>,
    bytes: u64,
}

impl Rest {
    /// `None` for a file that somebody has open, or whose readers need nothing beside it.
    fn of(path: &Path) -> Option<Self> {
        let mut header = [0; 20];
        std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
        let beside = |what: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(what);
            std::fs::metadata(name).ok()
        };
        // The versions of the format that writers and readers must know: 2 is WAL.
        let in_wal_mode = header[18..] == [2, 2];
        let rests = in_wal_mode && beside("-shm").is_none() && beside("-wal").is_none_or(|log| log.len() == 0);
        let file = std::fs::metadata(path).ok().filter(|_| rests)?;
        Some(Self { changed: file.modified().ok(), bytes: file.len() })
    }
}

fn open(path: &Path, rests: bool) -> rusqlite::Result<Connection> {
    let mut uri = Url::from_file_path(path).map_err(|()| rusqlite::Error::InvalidPath(path.to_owned()))?;
    if rests {
        uri.set_query(Some("immutable=1"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(uri.as_str(), flags)?;
    file.busy_timeout(BUSY_TIMEOUT)?;
    Ok(file)
}

fn row(file: &mut Connection, sql: &Sql, view: &View, key: &[u8]) -> rusqlite::Result<Option<Held>> {
    // One snapshot for values and marker.
    let snapshot = file.transaction()?;
    let known = |table: &str| snapshot.query_row(IS_TABLE, [table], |row| row.get::<_, bool>(0));
    if !known(&sqlite_table(&view.project, &view.name))? {
        return Ok(None);
    }
    let mut read = snapshot.prepare(&sql.held)?;
    let read = read.query_map([key], |row| {
        let value = Stored { bytes: row.get::<_, Option<_>>(1)?.unwrap_or_default(), event: row.get(2)?, created: row.get(3)? };
        Ok((row.get(0)?, value))
    })?;
    let mut values: HashMap<String, Stored> = read.collect::<rusqlite::Result<_>>()?;
    values.retain(|feature, _| view.features.contains(feature));
    if values.is_empty() {
        return Ok(None);
    }
    let second = values.values().filter_map(|value| value.event).max();
    let mark = match known("fsb_row")? {
        true => snapshot.query_row(MARK, params![sql.scope, key], Mark::read).optional()?,
        false => None,
    };
    let mark = mark.filter(|mark| Some(EventTime(mark.ts_us).second()) == second);
    let start = |second: i64| EventTime(second.saturating_mul(1_000_000));
    let stale = |value: &Stored| value.event.filter(|own| Some(*own) != second).map(start);
    let held = |feature: &String| values.get(feature).map(|value| HeldValue { bytes: value.bytes.clone(), stale: stale(value) });
    Ok(Some(Held {
        ts: mark.map(|mark| EventTime(mark.ts_us)).or(second.map(start)),
        created: values.values().filter_map(|value| value.created).max().map(start),
        generation: mark.map(|mark| mark.generation.cast_unsigned()),
        key_ttl_seconds: None,
        values: view.features.iter().map(held).collect(),
    }))
}

/// A value as the file has it; times in seconds.
struct Stored {
    bytes: Vec<u8>,
    event: Option<i64>,
    created: Option<i64>,
}
