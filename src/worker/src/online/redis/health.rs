//! Whether Redis answers, takes writes, keeps what it is given and has room.

use super::server::Servers;
use super::trouble::PATIENCE_PREFLIGHT;
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use backfill_core::contract::Notice;

/// The first version whose scripts are refused before they run when memory is out.
const VERSION: u64 = 7;

/// What Redis keeps for one more hash beside its bytes: key, dictionary entry, lengths.
const HASH_OVERHEAD: u64 = 128;

/// What servers say of themselves.
struct Health {
    name: String,
    info: String,
}

impl Health {
    fn number(&self, key: &str) -> Option<u64> {
        entry(&self.info, key)?.parse().ok()
    }
}

/// The value of a line `key:value` of INFO.
pub fn entry<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// Checks every primary. `entities` rows of `row_bytes` each are to find room.
pub async fn check(servers: &Servers, entities: u64, row_bytes: u64) -> Result<Vec<Notice>> {
    let topology = servers.topology_within(PATIENCE_PREFLIGHT).await?;
    let mut answers = Vec::new();
    for (name, info) in servers.run_everywhere(&redis::cmd("INFO")).await? {
        let info: String = redis::from_redis_value(info).unwrap_or_default();
        answers.push(Health { name, info });
    }
    for health in &answers {
        version(health)?;
        role(health)?;
    }
    capacity(&answers, entities, row_bytes)?;
    servers.load(&topology).await?;
    let mut notices = Vec::new();
    for health in &answers {
        notices.extend(eviction(servers, health).await?);
    }
    Ok(notices)
}

fn version(health: &Health) -> Result<()> {
    let version = entry(&health.info, "redis_version").unwrap_or_default();
    match version.split('.').next().and_then(|major| major.parse::<u64>().ok()) {
        Some(major) if major < VERSION => Err(Failure::permanent(
            Reason::InvalidStore,
            format!("the online store {} is Redis {version}; Redis {VERSION}.0 or newer is needed", health.name),
        )),
        _ => Ok(()),
    }
}

fn role(health: &Health) -> Result<()> {
    match entry(&health.info, "role") {
        Some("slave") => Err(Failure::passing(
            Reason::OnlineUnavailable,
            format!("the online store {} is a replica and takes no writes; let the URL name the primary", health.name),
        )),
        _ => Ok(()),
    }
}

fn capacity(answers: &[Health], entities: u64, row_bytes: u64) -> Result<()> {
    let mut free = 0_u64;
    for health in answers {
        match (health.number("maxmemory"), health.number("used_memory")) {
            (Some(limit), Some(used)) if limit > 0 => free += limit.saturating_sub(used),
            _ => return Ok(()),
        }
    }
    let needed = entities.saturating_mul(row_bytes + HASH_OVERHEAD);
    if needed <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Failure::permanent(
        Reason::OnlineCapacity,
        format!(
            "{entities} more entities need about {} MiB in the online store, {} MiB are free; raise its maxmemory",
            mib(needed),
            mib(free)
        ),
    ))
}

async fn eviction(servers: &Servers, health: &Health) -> Result<Option<Notice>> {
    let policy = match entry(&health.info, "maxmemory_policy") {
        Some(policy) => Some(policy.to_owned()),
        None => configured_policy(servers).await?,
    };
    let message = match policy.as_deref() {
        Some("noeviction") => return Ok(None),
        Some(policy) => format!("may evict rows by itself (maxmemory-policy {policy}); set noeviction"),
        None => "does not say whether it evicts rows by itself; see to it that its maxmemory-policy is noeviction".to_owned(),
    };
    Ok(Some(Notice { reason: Reason::EvictionPolicy, message: format!("the online store {} {message}", health.name) }))
}

/// The policy by CONFIG GET, which managed servers refuse.
async fn configured_policy(servers: &Servers) -> Result<Option<String>> {
    let topology = servers.topology().await?;
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("maxmemory-policy");
    let answer = servers.ask_one(&topology.primaries[0], &ask).await.ok();
    let entries: Option<Vec<String>> = answer.and_then(|answer| redis::from_redis_value(answer).ok());
    Ok(entries.and_then(|entries| entries.into_iter().nth(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(info: &str) -> Health {
        Health { name: "redis:6379".to_owned(), info: info.to_owned() }
    }

    #[test]
    fn entries_are_found_by_their_whole_name() {
        let info = "# Memory\r\nused_memory_rss:7\r\nused_memory:5\r\n";
        assert_eq!(entry(info, "used_memory"), Some("5"));
        assert_eq!(entry(info, "memory"), None);
    }

    #[test]
    fn an_estimate_beyond_the_free_memory_is_refused_with_both_figures() {
        let full = [health("maxmemory:104857600\nused_memory:94371840")];
        assert!(capacity(&full, 10_000, 300).is_ok());
        let failure = capacity(&full, 100_000_000, 300).expect_err("too much");
        assert_eq!(failure.reason, Reason::OnlineCapacity);
        assert!(failure.message.contains("10 MiB are free"), "{}", failure.message);
        assert!(capacity(&[health("maxmemory:0\nused_memory:94371840")], 100_000_000, 300).is_ok(), "no limit");
    }

    #[test]
    fn an_old_server_and_a_replica_are_refused() {
        assert!(version(&health("redis_version:6.2.14")).is_err());
        assert!(version(&health("redis_version:7.0.15")).is_ok());
        assert!(role(&health("role:slave")).is_err());
    }
}
