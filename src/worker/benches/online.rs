//! How fast entities are decided and written to a Redis server, beside what the server takes at all.
//!
//! `online URL ENTITIES` prints one JSON object. It flushes the server's database: give it a server of its own.

use backfill_core::api::KeyType;
use backfill_core::contract::Notice;
use backfill_core::feast::{self, Key, KeyLayout, Value};
use backfill_core::online::{Bounds, Decision, EventTime, Rules, decide};
use backfill_worker::failure::Failure;
use backfill_worker::online::redis::RedisStore;
use backfill_worker::online::store::{Applied, Change, EntityKey, OnlineStore, Row, View};
use std::time::Instant;

const FEATURES: usize = 10;
const CHUNK: usize = 8192;
const START: i64 = 1_700_000_000_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench` of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [url, entities] = arguments.as_slice() else { anyhow::bail!("usage: online URL ENTITIES") };
    let entities: usize = entities.parse()?;
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let keys = keys(entities);
    let ceiling = ceiling(url, &keys).await?;
    let mut rates = vec![("pipelined HSET".to_owned(), ceiling)];
    for per_call in [64, 1] {
        flush(url).await?;
        let store = RedisStore::new(url, &view(), None)?.with_entities_per_call(per_call);
        let notices: Vec<Notice> = store.preflight(entities as u64, 200).await?;
        anyhow::ensure!(notices.is_empty(), "the server is not fit: {notices:?}");
        let first = pass(&store, &keys, 1, 0).await?;
        let second = pass(&store, &keys, 2, 10).await?;
        rates.push((format!("empty store, {per_call} a call"), first.decided_and_written));
        rates.push((format!("90 % changed, {per_call} a call"), second.decided_and_written));
        rates.push((format!("90 % changed, {per_call} a call, asking included"), second.all));
    }
    let rates: serde_json::Map<String, serde_json::Value> =
        rates.into_iter().map(|(name, rate)| (name, (rate.round() as u64).into())).collect();
    println!("{}", serde_json::json!({ "entities": entities, "per second": rates }));
    Ok(())
}

struct Rates {
    decided_and_written: f64,
    all: f64,
}

/// Brings every entity in line with rows of a generation; one in `unchanged` entities keeps its row.
async fn pass(store: &RedisStore, keys: &[EntityKey], generation: u64, unchanged: usize) -> Result<Rates, Failure> {
    store.raise_fence(generation).await?;
    let rules = Rules { bounds: Bounds { start: None, stop: None }, expired: None, unknown: Default::default() };
    let begun = Instant::now();
    let mut writing = std::time::Duration::ZERO;
    for (chunk, keys) in keys.chunks(CHUNK).enumerate() {
        let seen = store.ask(keys).await?;
        let asked = Instant::now();
        let mut changes = Vec::with_capacity(keys.len());
        for (place, (key, seen)) in keys.iter().zip(seen).enumerate() {
            let entity = chunk * CHUNK + place;
            let changed = unchanged == 0 || !entity.is_multiple_of(unchanged);
            let row = row(entity, if changed { generation } else { 1 });
            let decision = decide(&rules, seen.current, seen.current.map(|row| row.ts), Some(row.ts));
            assert_eq!(decision, Decision::Write, "nothing is newer");
            changes.push(Change { key: key.clone(), token: seen.token, row: Some(row) });
        }
        let applied = store.apply(generation, &changes).await?;
        assert!(applied.iter().all(|applied| matches!(applied, Applied::Written | Applied::Unchanged)), "nobody else writes");
        writing += asked.elapsed();
    }
    let rate = |duration: std::time::Duration| keys.len() as f64 / duration.as_secs_f64();
    Ok(Rates { decided_and_written: rate(writing), all: rate(begun.elapsed()) })
}

/// What the server takes when nothing is decided: the same rows, pipelined, on two connections.
async fn ceiling(url: &str, keys: &[EntityKey]) -> anyhow::Result<f64> {
    flush(url).await?;
    let client = redis::Client::open(url)?;
    let halves: Vec<Vec<EntityKey>> = keys.chunks(keys.len().div_ceil(2)).map(<[EntityKey]>::to_vec).collect();
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for half in halves {
        let mut connection = connect(&client).await?;
        tasks.push(tokio::spawn(async move {
            for (chunk, keys) in half.chunks(1000).enumerate() {
                let mut pipeline = redis::pipe();
                for (place, key) in keys.iter().enumerate() {
                    let row = row(chunk * 1000 + place, 1);
                    let command = pipeline.cmd("HSET").arg(feast::redis_key(key, "bench"));
                    for (feature, value) in row.values().enumerate() {
                        command.arg(&feast::field("bench", &feature_name(feature))[..]).arg(value);
                    }
                    let mut time = Vec::new();
                    feast::encode_timestamp(row.ts.0, &mut time);
                    command.arg(feast::timestamp_field("bench")).arg(time).ignore();
                }
                pipeline.query_async::<()>(&mut connection).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(keys.len() as f64 / begun.elapsed().as_secs_f64())
}

/// To forget a million entities takes a server longer than the library waits by default.
async fn connect(client: &redis::Client) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(std::time::Duration::from_secs(30)));
    client.get_multiplexed_async_connection_with_config(&config).await
}

async fn flush(url: &str) -> anyhow::Result<()> {
    let mut connection = connect(&redis::Client::open(url)?).await?;
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await?;
    Ok(())
}

fn keys(entities: usize) -> Vec<EntityKey> {
    let layout = KeyLayout::new([("entity_id", KeyType::Int64)]);
    let key = |entity: usize| {
        let mut bytes = Vec::new();
        layout.encode([Key::Int64(entity as i64)], &mut bytes);
        bytes.into_boxed_slice()
    };
    (0..entities).map(key).collect()
}

fn row(entity: usize, generation: u64) -> Row {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for feature in 0..FEATURES {
        feast::encode_value(&Value::Float64((entity * FEATURES + feature) as f64 + generation as f64), &mut bytes);
        ends.push(bytes.len() as u32);
    }
    Row::new(EventTime(START + entity as i64), &bytes, &ends)
}

fn feature_name(feature: usize) -> String {
    format!("f{feature}")
}

fn view() -> View {
    View {
        project: "bench".to_owned(),
        name: "bench".to_owned(),
        keys: vec![("entity_id".to_owned(), KeyType::Int64)],
        features: (0..FEATURES).map(feature_name).collect(),
        retired: vec![],
    }
}
