//! Redis, a single server or a cluster, in Feast's layout.
//!
//! The hash of an entity is shared by every view of that entity: only fields of this view are written or removed, never the key.

mod health;
mod script;
mod server;
mod trouble;

use crate::failure::{Failure, Result};
use crate::online::store::{Applied, Change, EntityKey, Found, Held, HeldValue, OnlineStore, Row, Seen, View};
use async_trait::async_trait;
use backfill_core::condition::Reason;
use backfill_core::contract::Notice;
use backfill_core::feast::{self, KeyLayout};
use backfill_core::online::{Bounds, Current, EventTime};
use script::{BYTES_PER_CALL, ENTITIES_PER_CALL, FENCES, Layout, Marker};
use server::{Call, Servers, tags};
use std::collections::{BTreeSet, HashMap};
use trouble::{PATIENCE_PREFLIGHT, Trouble};
use xxhash_rust::xxh3::xxh3_64;

/// How many keys a server looks at in one step of a scan.
const SCAN_COUNT: usize = 1000;

/// A view in Redis.
pub struct RedisStore {
    id: String,
    servers: Servers,
    keys: KeyLayout,
    layout: Layout,
    entities_per_call: usize,
    /// For every slot of a cluster the key of its fences; filled when a cluster is met.
    fences: tokio::sync::OnceCell<Vec<String>>,
}

/// What must be known to make a call, once per batch.
struct Placement<'a> {
    fences: Option<&'a [String]>,
}

impl Placement<'_> {
    fn slot(&self, key: &[u8], project: &str) -> u16 {
        self.fences.map_or(0, |_| server::slot(&feast::redis_key(key, project)))
    }

    fn fences(&self, slot: u16) -> &str {
        self.fences.map_or(FENCES, |fences| &fences[usize::from(slot)])
    }
}

impl RedisStore {
    /// The view in the servers behind `url`; connects when first used.
    pub fn new(url: &str, view: &View, key_ttl_seconds: Option<u64>) -> Result<Self> {
        let servers = Servers::new(url)?;
        Ok(Self {
            id: store_id(&servers),
            servers,
            keys: KeyLayout::new(view.keys.iter().map(|(name, value_type)| (name.as_str(), *value_type))),
            layout: Layout::new(view, key_ttl_seconds),
            entities_per_call: ENTITIES_PER_CALL,
            fences: tokio::sync::OnceCell::new(),
        })
    }

    /// The same store with fewer entities per call of the script: readers wait less, writing takes longer.
    pub fn with_entities_per_call(self, entities_per_call: usize) -> Self {
        Self { entities_per_call: entities_per_call.clamp(1, ENTITIES_PER_CALL), ..self }
    }

    /// The same store for somebody who waits: what does not answer now is a failure.
    pub fn impatient(self) -> Self {
        Self { servers: self.servers.patient_for(PATIENCE_PREFLIGHT), ..self }
    }

    /// What readers are served of an entity. Only reads.
    pub async fn held(&self, key: &[u8]) -> Result<Option<Held>> {
        let key: EntityKey = key.into();
        let mut fields = vec![self.layout.time.as_bytes(), self.layout.marker.as_bytes()];
        fields.extend(self.layout.features.iter().map(|field| &field[..]));
        let answer = self.fetch(std::slice::from_ref(&key), &fields).await?.pop().unwrap_or_default();
        let [time, marker, values @ ..] = answer.as_slice() else { return Err(unexpected()) };
        if time.is_none() && values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let marker = marker.as_deref().and_then(Marker::read).filter(|marker| Some(marker.time) == time.as_deref());
        let value = |bytes: &Option<Vec<u8>>| bytes.clone().map(|bytes| HeldValue { bytes, stale: None });
        Ok(Some(Held {
            ts: time.as_deref().and_then(feast::decode_timestamp).map(EventTime),
            created: None,
            generation: marker.map(|marker| marker.generation),
            key_ttl_seconds: self.key_ttl_seconds(&key).await?,
            values: values.iter().map(value).collect(),
        }))
    }

    async fn key_ttl_seconds(&self, key: &[u8]) -> Result<Option<u64>> {
        let call = Call { slot: self.placement().await?.slot(key, &self.layout.project), weight: 1 };
        let command = |_| {
            let mut ask = redis::cmd("PTTL");
            ask.arg(feast::redis_key(key, &self.layout.project));
            ask
        };
        let answer = self.servers.run(&[call], &command).await?.pop().ok_or_else(unexpected)?;
        let millis: i64 = redis::from_redis_value(answer).map_err(|_| unexpected())?;
        // Negative: it does not expire, or has just done so.
        Ok(u64::try_from(millis).ok().map(|millis| millis.div_ceil(1000)))
    }

    async fn placement(&self) -> Result<Placement<'_>> {
        if !self.servers.topology().await?.is_cluster() {
            return Ok(Placement { fences: None });
        }
        let fences =
            self.fences.get_or_init(|| async { tags().into_iter().map(|tag| format!("{{{tag}}}{FENCES}")).collect() }).await;
        Ok(Placement { fences: Some(fences) })
    }

    /// One HMGET per entity.
    async fn fetch(&self, keys: &[EntityKey], fields: &[&[u8]]) -> Result<Vec<Vec<Option<Vec<u8>>>>> {
        let placement = self.placement().await?;
        let calls: Vec<Call> =
            keys.iter().map(|key| Call { slot: placement.slot(key, &self.layout.project), weight: 1 }).collect();
        let command = |at: usize| {
            let mut command = redis::Cmd::with_capacity(2 + fields.len(), 128);
            command.arg("HMGET").arg(feast::redis_key(&keys[at], &self.layout.project));
            for field in fields {
                command.arg(*field);
            }
            command
        };
        self.servers
            .run(&calls, &command)
            .await?
            .into_iter()
            .map(|answer| redis::from_redis_value(answer).map_err(|_| unexpected()))
            .collect()
    }

    async fn scan_page(&self, page: Vec<Vec<u8>>, bounds: Bounds, found: &mut Found<'_>) -> Result<()> {
        let keys: Vec<EntityKey> =
            page.iter().filter_map(|key| self.keys.entity_key_of(key, &self.layout.project)).map(Into::into).collect();
        let times = self.fetch(&keys, &[self.layout.time.as_bytes()]).await?;
        for (key, time) in keys.iter().zip(times) {
            let time = time.first().and_then(Option::as_deref).and_then(feast::decode_timestamp);
            if time.is_some_and(|time| bounds.contain(EventTime(time))) {
                found(key)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl OnlineStore for RedisStore {
    fn id(&self) -> &str {
        &self.id
    }

    async fn preflight(&self, entities: u64, row_bytes: u64) -> Result<Vec<Notice>> {
        let notices = health::check(&self.servers, entities, row_bytes).await?;
        // Generation 0 stops nobody; that it may be written shows that we may write.
        let placement = self.placement().await?;
        self.servers.run(&[Call { slot: 0, weight: 1 }], &|_| self.layout.raise(0, placement.fences(0))).await?;
        Ok(notices)
    }

    async fn raise_fence(&self, generation: u64) -> Result<()> {
        let placement = self.placement().await?;
        // Every slot: an attempt that was overtaken must not write where its successor has nothing to do either.
        let slots = placement.fences.map_or(1, |_| server::SLOTS);
        let calls: Vec<Call> = (0..slots).map(|slot| Call { slot, weight: 1 }).collect();
        let command = |at: usize| self.layout.raise(generation, placement.fences(calls[at].slot));
        for answer in self.servers.run(&calls, &command).await? {
            let fence: String = redis::from_redis_value(answer).map_err(|_| unexpected())?;
            if fence.parse::<u64>().is_ok_and(|fence| fence > generation) {
                return Err(Trouble::Superseded(fence).failure(&self.servers.address()));
            }
        }
        Ok(())
    }

    async fn ask(&self, keys: &[EntityKey]) -> Result<Vec<Seen>> {
        let fields = [self.layout.time.as_bytes(), self.layout.marker.as_bytes()];
        let answers = self.fetch(keys, &fields).await?;
        Ok(answers
            .into_iter()
            .map(|fields| match fields.as_slice() {
                [time, marker] => seen(time.as_deref(), marker.as_deref()),
                _ => seen(None, None),
            })
            .collect())
    }

    async fn apply(&self, generation: u64, changes: &[Change]) -> Result<Vec<Applied>> {
        let placement = self.placement().await?;
        let batches = batches(changes, &placement, &self.layout.project, self.entities_per_call);
        let calls: Vec<Call> = batches.iter().map(|((slot, _), batch)| Call { slot: *slot, weight: batch.len() }).collect();
        let command = |at: usize| {
            let ((slot, compares), batch) = &batches[at];
            let part: Vec<&Change> = batch.iter().map(|at| &changes[*at]).collect();
            self.layout.change(generation, placement.fences(*slot), *compares, &part)
        };
        let mut applied = vec![Applied::Moved; changes.len()];
        for ((_, batch), answer) in batches.iter().zip(self.servers.run(&calls, &command).await?) {
            let codes: Vec<i64> = redis::from_redis_value(answer).map_err(|_| unexpected())?;
            for (at, code) in batch.iter().zip(codes) {
                applied[*at] = script::applied(code);
            }
        }
        Ok(applied)
    }

    async fn read_back(&self, generation: u64, keys: &[EntityKey]) -> Result<Vec<Option<Row>>> {
        let mut fields = vec![self.layout.time.as_bytes(), self.layout.marker.as_bytes()];
        fields.extend(self.layout.features.iter().map(|field| &field[..]));
        let answers = self.fetch(keys, &fields).await?;
        Ok(answers.into_iter().map(|answer| row(generation, &answer)).collect())
    }

    async fn scan(&self, bounds: Bounds, found: &mut Found<'_>) -> Result<()> {
        let topology = self.servers.topology().await?;
        let pattern = self.keys.scan_pattern(&self.layout.project);
        for primary in &topology.primaries {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern[..]).arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg("hash");
                // A scan that breaks off cannot go on elsewhere: the whole step is tried again.
                let answer = self.servers.ask_one(primary, &scan).await.map_err(|trouble| trouble.failure(&primary.name))?;
                let (next, page): (String, Vec<Vec<u8>>) = redis::from_redis_value(answer).map_err(|_| unexpected())?;
                self.scan_page(page, bounds, found).await?;
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn histories(&self) -> Result<BTreeSet<String>> {
        let mut ask = redis::cmd("INFO");
        ask.arg("replication");
        let answers = self.servers.run_everywhere(&ask).await?;
        Ok(answers
            .into_iter()
            .filter_map(|(_, info)| {
                let info: String = redis::from_redis_value(info).ok()?;
                health::entry(&info, "master_replid").map(str::to_owned)
            })
            .collect())
    }
}

fn store_id(servers: &Servers) -> String {
    format!("redis-{:016x}", xxh3_64(servers.address().as_bytes()))
}

fn unexpected() -> Failure {
    Failure::permanent(Reason::InvalidStore, "the online store gives answers that are not Redis'")
}

/// What an entity's event time and marker say. An event time that cannot be read counts as none, and is overwritten.
fn seen(time: Option<&[u8]>, marker: Option<&[u8]>) -> Seen {
    let ours = time.is_some() && marker.and_then(Marker::read).map(|marker| marker.time) == time;
    let current = time.and_then(feast::decode_timestamp).map(|ts| Current { ts: EventTime(ts), ours, whole_seconds: false });
    Seen { current, token: script::token(time, marker) }
}

/// A whole row, when `generation` wrote it last.
fn row(generation: u64, fields: &[Option<Vec<u8>>]) -> Option<Row> {
    let (time, rest) = fields.split_first()?;
    let (marker, values) = rest.split_first()?;
    let time = time.as_deref()?;
    Marker::read(marker.as_deref()?).filter(|marker| marker.generation == generation && marker.time == time)?;
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(values.len()));
    for value in values {
        bytes.extend(value.as_deref()?);
        ends.push(u32::try_from(bytes.len()).ok()?);
    }
    Some(Row::new(EventTime(feast::decode_timestamp(time)?), &bytes, &ends))
}

/// Cuts changes into calls, each of one slot, of few entities and of few bytes; with those that compare first apart from others.
fn batches(
    changes: &[Change],
    placement: &Placement<'_>,
    project: &str,
    entities_per_call: usize,
) -> Vec<((u16, bool), Vec<usize>)> {
    let mut open: HashMap<(u16, bool), (Vec<usize>, usize)> = HashMap::new();
    let mut closed = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        let kind = (placement.slot(&change.key, project), script::may_stand(change));
        let (batch, bytes) = open.entry(kind).or_default();
        batch.push(at);
        *bytes += change.row.as_ref().map_or(0, Row::size);
        if batch.len() >= entities_per_call || *bytes >= BYTES_PER_CALL {
            closed.push((kind, std::mem::take(batch)));
            *bytes = 0;
        }
    }
    closed.extend(open.into_iter().map(|(kind, (batch, _))| (kind, batch)).filter(|(_, batch)| !batch.is_empty()));
    closed
}

/// The identity of the servers behind a URL, as [`OnlineStore::id`] says it.
pub fn id(url: &str) -> Result<String> {
    Servers::new(url).map(|servers| store_id(&servers))
}
