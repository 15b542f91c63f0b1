//! The online store as Feast's clients see it and write to it.

use super::World;
use crate::online::feast::{Feast, FeastRedis, FeastSqlite, value};
use backfill_core::api::KeyType;
use backfill_core::feast::{Key, KeyLayout, Value, decode_value};

impl World {
    fn feast(&self) -> Box<dyn Feast> {
        match &self.server {
            Some(server) => Box::new(FeastRedis::of(server)),
            None => Box::new(FeastSqlite::of(&self.path("online.db"))),
        }
    }

    /// The driver's row online: whole seconds since 1970, and trips.
    pub fn online(&self, driver: i64) -> Option<(i64, i64)> {
        let (micros, values) = self.feast().read("rides", &key(driver), &["trips"])?;
        let trips = match values[0].as_deref().and_then(decode_value) {
            Some(Value::Int64(trips)) => trips,
            other => panic!("driver {driver} has {other:?}"),
        };
        Some((micros.div_euclid(1_000_000), trips))
    }

    /// Feast's ingestion writes a row.
    pub fn ingest(&self, driver: i64, micros: i64, trips: i64) {
        self.ingest_into("rides", driver, micros, trips);
    }

    /// Feast's ingestion writes a row of another view.
    pub fn ingest_into(&self, view: &str, driver: i64, micros: i64, trips: i64) {
        self.feast().ingest(view, &key(driver), micros, &[("trips", value(&Value::Int64(trips)))]);
    }

    /// Every byte of the online store, in order.
    pub fn online_bytes(&self) -> Vec<String> {
        let mut all = match &self.server {
            Some(server) => redis_bytes(server.connection()),
            None if self.path("online.db").exists() => sqlite_bytes(&FeastSqlite::of(&self.path("online.db")).0),
            None => vec![],
        };
        all.sort();
        all
    }
}

/// The entity key of a driver.
pub fn key(driver: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    KeyLayout::new([("driver", KeyType::Int64)]).encode([Key::Int64(driver)], &mut bytes);
    bytes
}

fn redis_bytes(mut connection: redis::Connection) -> Vec<String> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("KEYS");
    let mut all = Vec::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).expect("TYPE");
        let fields: Vec<(Vec<u8>, Vec<u8>)> = match kind.as_str() {
            "hash" => redis::cmd("HGETALL").arg(&key).query(&mut connection).expect("HGETALL"),
            _ => vec![(vec![], redis::cmd("GET").arg(&key).query(&mut connection).expect("GET"))],
        };
        all.extend(fields.into_iter().map(|(field, value)| format!("{key:x?} {field:x?} {value:x?}")));
    }
    all
}

fn sqlite_bytes(connection: &rusqlite::Connection) -> Vec<String> {
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")
        .and_then(|mut tables| tables.query_map([], |row| row.get(0))?.collect())
        .expect("tables");
    let mut all = Vec::new();
    for table in tables {
        let mut read = connection.prepare(&format!("SELECT * FROM \"{table}\"")).expect("a statement");
        let width = read.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let values: Result<Vec<rusqlite::types::Value>, _> = (0..width).map(|column| row.get(column)).collect();
            Ok(format!("{table} {:?}", values?))
        };
        let rows: Result<Vec<String>, _> = read.query_map([], row).expect("rows").collect();
        all.extend(rows.expect("rows"));
    }
    all
}
