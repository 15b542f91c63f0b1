//! What Feast's own writers do, as far as a backfill meets it.

use super::redis_server::RedisServer;
use backfill_core::feast::{self, Value};
use std::path::Path;

/// One feature's value.
pub fn value(value: &Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    feast::encode_value(value, &mut bytes);
    bytes
}

pub fn timestamp(micros: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    feast::encode_timestamp(micros, &mut bytes);
    bytes
}

/// A store as Feast writes it, and as its clients read it: values by feature, and the event time that Feast keeps.
pub trait Feast: Send {
    fn ingest(&mut self, view: &str, key: &[u8], micros: i64, values: &[(&str, Vec<u8>)]);
    fn read(&mut self, view: &str, key: &[u8], features: &[&str]) -> Option<(i64, Vec<Option<Vec<u8>>>)>;
    /// Every byte of the entity that is not of `view`, in order.
    fn others(&mut self, view: &str, key: &[u8]) -> Vec<Vec<u8>>;
}

pub struct FeastRedis(pub redis::Connection);

impl FeastRedis {
    pub fn of(server: &RedisServer) -> Self {
        Self(server.connection())
    }
}

impl Feast for FeastRedis {
    fn ingest(&mut self, view: &str, key: &[u8], micros: i64, values: &[(&str, Vec<u8>)]) {
        let key = feast::redis_key(key, "demo");
        let field = feast::timestamp_field(view);
        let stored: Option<Vec<u8>> = redis::cmd("HGET").arg(&key).arg(&field).query(&mut self.0).expect("HGET");
        if stored.and_then(|bytes| feast::decode_timestamp(&bytes)).is_some_and(|stored| stored >= micros) {
            return;
        }
        let mut set = redis::cmd("HSET");
        set.arg(&key).arg(&field).arg(timestamp(micros));
        for (feature, value) in values {
            set.arg(&feast::field(view, feature)[..]).arg(value);
        }
        set.exec(&mut self.0).expect("HSET");
    }

    fn read(&mut self, view: &str, key: &[u8], features: &[&str]) -> Option<(i64, Vec<Option<Vec<u8>>>)> {
        let mut get = redis::cmd("HMGET");
        get.arg(feast::redis_key(key, "demo"));
        for feature in features {
            get.arg(&feast::field(view, feature)[..]);
        }
        let mut fields: Vec<Option<Vec<u8>>> = get.arg(feast::timestamp_field(view)).query(&mut self.0).expect("HMGET");
        let time = fields.pop().flatten()?;
        Some((feast::decode_timestamp(&time).expect("a timestamp"), fields))
    }

    fn others(&mut self, view: &str, key: &[u8]) -> Vec<Vec<u8>> {
        let own = [feast::timestamp_field(view).into_bytes(), format!("_fsb:{view}").into_bytes()];
        let own = own.into_iter().chain(["f", "g", "old"].map(|name| feast::field(view, name).to_vec())).collect::<Vec<_>>();
        let all: Vec<(Vec<u8>, Vec<u8>)> =
            redis::cmd("HGETALL").arg(feast::redis_key(key, "demo")).query(&mut self.0).expect("HGETALL");
        let mut others: Vec<Vec<u8>> =
            all.into_iter().filter(|(field, _)| !own.contains(field)).map(|(field, value)| [field, value].concat()).collect();
        others.sort();
        others
    }
}

pub struct FeastSqlite(pub rusqlite::Connection);

impl FeastSqlite {
    pub fn of(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path).expect("a file");
        connection.busy_timeout(std::time::Duration::from_secs(30)).expect("a timeout");
        Self(connection)
    }

    fn table(&self, view: &str) -> String {
        self.0
            .execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS \"demo_{view}\" (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, \
                 vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            ))
            .expect("a table");
        format!("\"demo_{view}\"")
    }
}

impl Feast for FeastSqlite {
    fn ingest(&mut self, view: &str, key: &[u8], micros: i64, values: &[(&str, Vec<u8>)]) {
        let table = self.table(view);
        let transaction = self.0.transaction().expect("a transaction");
        for (feature, value) in values {
            transaction
                .execute(
                    &format!(
                        "INSERT OR REPLACE INTO {table} (entity_key, feature_name, value, event_ts) VALUES (?1, ?2, ?3, ?4)"
                    ),
                    rusqlite::params![key, feature, value, micros.div_euclid(1_000_000)],
                )
                .expect("INSERT");
        }
        transaction.commit().expect("COMMIT");
    }

    fn read(&mut self, view: &str, key: &[u8], features: &[&str]) -> Option<(i64, Vec<Option<Vec<u8>>>)> {
        let table = self.table(view);
        let mut read = self
            .0
            .prepare(&format!("SELECT feature_name, value, event_ts FROM {table} WHERE entity_key = ?1"))
            .expect("a statement");
        let rows: Vec<(String, Vec<u8>, i64)> =
            read.query_map([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).and_then(Iterator::collect).expect("rows");
        let seconds = rows.iter().map(|row| row.2).max()?;
        let values = features.iter().map(|name| rows.iter().find(|row| row.0 == *name).map(|row| row.1.clone())).collect();
        Some((seconds * 1_000_000, values))
    }

    fn others(&mut self, view: &str, key: &[u8]) -> Vec<Vec<u8>> {
        let tables: Vec<String> = self
            .0
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'demo\\_%' ESCAPE '\\' ORDER BY name")
            .and_then(|mut tables| tables.query_map([], |row| row.get(0))?.collect())
            .expect("tables");
        let mut others = Vec::new();
        for table in tables.into_iter().filter(|table| *table != format!("demo_{view}")) {
            let dump = format!("SELECT feature_name || hex(value) || event_ts FROM \"{table}\" WHERE entity_key = ?1 ORDER BY 1");
            let rows: Vec<String> =
                self.0.prepare(&dump).and_then(|mut rows| rows.query_map([key], |row| row.get(0))?.collect()).expect("rows");
            others.extend(rows.into_iter().map(String::into_bytes));
        }
        others
    }
}
