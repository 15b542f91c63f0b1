//! Connections to one Redis server or to every primary of a cluster, and calls that survive whatever passes.

use super::script::{CHANGE_SCRIPT, RAISE_SCRIPT};
use super::trouble::{PATIENCE, Patience, Trouble};
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use futures::{StreamExt, TryStreamExt, stream};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The slots of a cluster.
pub const SLOTS: u16 = 16384;

/// Pipelines in flight to each primary.
const CONNECTIONS: usize = 2;

/// How much one pipeline carries, in entities: while one is being answered, the next is being made.
const PIPELINE: usize = 512;

/// A command for the primary that owns a slot.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The slot of the command's keys; any on a single server.
    pub slot: u16,
    /// How many entities it concerns.
    pub weight: usize,
}

/// A primary and the connections to it.
pub struct Primary {
    /// Host and port.
    pub name: String,
    connections: Vec<MultiplexedConnection>,
}

/// Who owns what.
pub struct Topology {
    /// The server, or the cluster's primaries.
    pub primaries: Vec<Primary>,
    /// The primary of every slot; empty for a single server.
    owners: Vec<u16>,
}

impl Topology {
    /// Whether the keys are spread over slots.
    pub fn is_cluster(&self) -> bool {
        !self.owners.is_empty()
    }

    fn owner(&self, slot: u16) -> usize {
        self.owners.get(usize::from(slot)).map_or(0, |owner| usize::from(*owner))
    }
}

/// The servers behind one URL.
pub struct Servers {
    seed: ConnectionInfo,
    patience: Duration,
    topology: Mutex<Option<Arc<Topology>>>,
}

impl Servers {
    /// The servers behind `url`; connects when first used.
    pub fn new(url: &str) -> Result<Self> {
        // The URL holds a password: neither it nor the library's message about it is shown.
        let seed = url.into_connection_info().map_err(|_| {
            Failure::permanent(
                Reason::InvalidStore,
                "cannot read the URL of the online store; write redis://[user:password@]host[:port][/db], or rediss:// for TLS",
            )
        })?;
        Ok(Self { seed, patience: PATIENCE, topology: Mutex::new(None) })
    }

    /// The same, waiting no longer than `patience` for what passes.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Host, port and database, without secrets.
    pub fn address(&self) -> String {
        format!("{}/{}", self.seed.addr(), self.seed.redis_settings().db())
    }

    /// The topology as last seen, connecting when there is none.
    pub async fn topology(&self) -> Result<Arc<Topology>> {
        self.topology_within(self.patience).await
    }

    /// The same, waiting no longer than `limit` for servers that do not answer.
    pub async fn topology_within(&self, limit: Duration) -> Result<Arc<Topology>> {
        let mut patience = Patience::of(limit);
        loop {
            match self.connected().await {
                Ok(topology) => return Ok(topology),
                Err(error) => patience.bear(Trouble::of(&error), &self.address()).await?,
            }
        }
    }

    /// Forgets the topology and its connections.
    pub async fn disconnect(&self) {
        *self.topology.lock().await = None;
    }

    /// Makes the calls, each on the primary of its slot, and returns the answers in order. `command` is asked for the command of
    /// a call when its turn comes.
    ///
    /// What passes (a lost connection, a failover, a moved slot, full memory) is waited for; a call may then have been made twice.
    pub async fn run(&self, calls: &[Call], command: &(dyn Fn(usize) -> Cmd + Sync)) -> Result<Vec<Value>> {
        let mut answers: Vec<Option<Value>> = vec![None; calls.len()];
        let mut loaded = false;
        let mut patience = Patience::of(self.patience);
        loop {
            let topology = self.topology().await?;
            let Some(trouble) = round(&topology, calls, command, &mut answers).await else { break };
            let forgotten = trouble == Trouble::NoScript;
            if forgotten && !loaded {
                loaded = true;
            } else {
                patience.bear(trouble, &self.address()).await?;
            }
            if forgotten {
                self.load(&topology).await?;
            } else {
                self.disconnect().await;
            }
        }
        Ok(answers.into_iter().map(|answer| answer.expect("a round without trouble answers every call")).collect())
    }

    /// Loads the scripts into every primary.
    pub async fn load(&self, topology: &Topology) -> Result<()> {
        for primary in &topology.primaries {
            for script in [&CHANGE_SCRIPT, &RAISE_SCRIPT] {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script.code);
                match self.ask_one(primary, &load).await {
                    Ok(_) => {}
                    // The next round meets the same trouble and bears it.
                    Err(trouble) if trouble.passes() => self.disconnect().await,
                    Err(trouble) => return Err(trouble.failure(&self.address())),
                }
            }
        }
        Ok(())
    }

    /// Asks every primary the same, and returns the answers with the primaries' names.
    pub async fn run_everywhere(&self, command: &Cmd) -> Result<Vec<(String, Value)>> {
        let mut patience = Patience::of(self.patience);
        loop {
            let topology = self.topology().await?;
            let asked = stream::iter(&topology.primaries)
                .then(|primary| async {
                    let mut connection = primary.connections[0].clone();
                    let answer: Value = command.query_async(&mut connection).await?;
                    RedisResult::Ok((primary.name.clone(), answer))
                })
                .try_collect()
                .await;
            match asked {
                Ok(answers) => return Ok(answers),
                Err(error) => patience.bear(Trouble::of(&error), &self.address()).await?,
            }
            self.disconnect().await;
        }
    }

    /// Asks one primary once.
    pub async fn ask_one(&self, primary: &Primary, command: &Cmd) -> Result<Value, Trouble> {
        let mut connection = primary.connections[0].clone();
        command.query_async(&mut connection).await.map_err(|error| Trouble::of(&error))
    }

    async fn connected(&self) -> RedisResult<Arc<Topology>> {
        let mut held = self.topology.lock().await;
        if let Some(topology) = held.as_ref() {
            return Ok(Arc::clone(topology));
        }
        let topology = Arc::new(discover(&self.seed).await?);
        *held = Some(Arc::clone(&topology));
        Ok(topology)
    }
}

/// Makes the calls that have no answer yet; the first trouble that was met, if any.
async fn round(
    topology: &Topology,
    calls: &[Call],
    command: &(dyn Fn(usize) -> Cmd + Sync),
    answers: &mut [Option<Value>],
) -> Option<Trouble> {
    let mut results = stream::iter(pipelines(topology, calls, answers).into_iter().enumerate())
        .map(|(turn, (owner, part))| async move {
            let mut pipe = redis::Pipeline::with_capacity(part.len());
            pipe.ignore_errors();
            for at in &part {
                pipe.add_command(command(*at));
            }
            let mut connection = topology.primaries[owner].connections[turn % CONNECTIONS].clone();
            let answers: RedisResult<Vec<RedisResult<Value>>> = pipe.query_async(&mut connection).await;
            (part, answers)
        })
        .buffer_unordered(CONNECTIONS * topology.primaries.len());
    let mut met: Option<Trouble> = None;
    while let Some((part, outcome)) = results.next().await {
        match outcome {
            Err(error) => met = Trouble::worse(met, Trouble::of(&error)),
            Ok(outcomes) => {
                for (at, outcome) in part.into_iter().zip(outcomes) {
                    match outcome {
                        Ok(value) => answers[at] = Some(value),
                        Err(error) => met = Trouble::worse(met, Trouble::of(&error)),
                    }
                }
            }
        }
    }
    met
}

/// Cuts the calls that have no answer yet into pipelines, each for one primary.
fn pipelines(topology: &Topology, calls: &[Call], answers: &[Option<Value>]) -> Vec<(usize, Vec<usize>)> {
    let mut pipelines: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut open: Vec<(Vec<usize>, usize)> = vec![(Vec::new(), 0); topology.primaries.len()];
    for (at, call) in calls.iter().enumerate().filter(|(at, _)| answers[*at].is_none()) {
        let owner = topology.owner(call.slot);
        let (waiting, weight) = &mut open[owner];
        waiting.push(at);
        *weight += call.weight;
        if *weight >= PIPELINE {
            pipelines.push((owner, std::mem::take(waiting)));
            *weight = 0;
        }
    }
    pipelines.extend(
        open.into_iter().enumerate().map(|(owner, (waiting, _))| (owner, waiting)).filter(|(_, waiting)| !waiting.is_empty()),
    );
    pipelines
}

/// Connects to the seed, and to every primary when it belongs to a cluster.
async fn discover(seed: &ConnectionInfo) -> RedisResult<Topology> {
    let mut first = connect(seed).await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut first).await?;
    if super::health::entry(&info, "redis_mode") != Some("cluster") {
        let connections = vec![first, connect(seed).await?];
        return Ok(Topology { primaries: vec![Primary { name: seed.addr().to_string(), connections }], owners: Vec::new() });
    }
    let ranges = slots(redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut first).await?)?;
    let mut primaries: Vec<Primary> = Vec::new();
    let mut owners = vec![0; usize::from(SLOTS)];
    for Owned { from, to, host, port } in ranges {
        let node = seed.clone().set_addr(beside(seed.addr(), host, port));
        let name = node.addr().to_string();
        let owner = match primaries.iter().position(|primary| primary.name == name) {
            Some(owner) => owner,
            None => {
                let connections = vec![connect(&node).await?, connect(&node).await?];
                primaries.push(Primary { name, connections });
                primaries.len() - 1
            }
        };
        let owner = u16::try_from(owner).expect("a cluster has at most as many primaries as slots");
        owners[usize::from(from)..=usize::from(to.min(SLOTS - 1))].fill(owner);
    }
    Ok(Topology { primaries, owners })
}

async fn connect(node: &ConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(30)));
    Client::open(node.clone())?.get_multiplexed_async_connection_with_config(&config).await
}

/// A range of slots and where its primary is. A node that does not know its own name has no host.
struct Owned {
    from: u16,
    to: u16,
    host: Option<String>,
    port: u16,
}

/// The answer to `CLUSTER SLOTS`.
fn slots(answer: Value) -> RedisResult<Vec<Owned>> {
    let ranges: Vec<Vec<Value>> = redis::from_redis_value(answer)?;
    let mut found = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut parts = range.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Nil);
        let (from, to) = (redis::from_redis_value(next())?, redis::from_redis_value(next())?);
        let mut node = Vec::<Value>::into_iter(redis::from_redis_value(next())?);
        let mut next = || node.next().unwrap_or(Value::Nil);
        let (host, port): (Option<String>, u16) = (redis::from_redis_value(next())?, redis::from_redis_value(next())?);
        found.push(Owned { from, to, host: host.filter(|host| !host.is_empty() && host != "?"), port });
    }
    Ok(found)
}

/// The address of another node, reached the way the seed is.
fn beside(seed: &ConnectionAddr, host: Option<String>, port: u16) -> ConnectionAddr {
    match seed {
        ConnectionAddr::Tcp(own, _) => ConnectionAddr::Tcp(host.unwrap_or_else(|| own.clone()), port),
        ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: host.unwrap_or_else(|| own.clone()),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        other => other.clone(),
    }
}

/// The slot of a key: CRC-16 (XMODEM) of the key, or of what stands between its first braces.
pub fn slot(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0).map(|close| &rest[..close])
    });
    let crc = tagged.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

/// For every slot a tag that lies in it.
pub fn tags() -> Vec<String> {
    let mut tags = vec![String::new(); usize::from(SLOTS)];
    let mut missing = tags.len();
    for number in 0_u32.. {
        let tag = number.to_string();
        let found = &mut tags[usize::from(slot(tag.as_bytes()))];
        if found.is_empty() {
            *found = tag;
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), 8363, "an empty tag is no tag");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        assert!(tags().iter().enumerate().all(|(at, tag)| usize::from(slot(tag.as_bytes())) == at));
    }
}
