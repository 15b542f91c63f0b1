//! What an error of Redis means: wait, load the scripts, or give up.

use crate::failure::{Failure, Result};
use crate::online::store::superseded;
use backfill_core::condition::Reason;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use std::time::{Duration, Instant};

/// How long a step bears what passes before it fails and is tried again as a whole.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a preflight does: what is down from the start is said at once.
pub const PATIENCE_PREFLIGHT: Duration = Duration::from_secs(3);

/// What an error means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The scripts are not in the server's cache (any more).
    NoScript,
    /// It does not answer, is loading, changes roles or moves slots.
    Passing(String),
    /// Its memory is full.
    Memory(String),
    /// The fence is higher than our generation; it is this one.
    Superseded(String),
    /// It refuses the credentials, or commands that are needed.
    Auth(String),
    /// It will not do it, however often it is asked.
    Permanent(String),
}

impl Trouble {
    /// What an error means.
    pub fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        let detail = || error.detail().unwrap_or_default().to_owned();
        match (error.kind(), error.code()) {
            (_, Some("SUPERSEDED")) => Self::Superseded(detail()),
            (_, Some("OOM")) => Self::Memory(text),
            (_, Some("NOAUTH" | "WRONGPASS")) | (ErrorKind::AuthenticationFailed, _) => Self::Auth(text),
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Self::Auth(text),
            (ErrorKind::Server(ServerErrorKind::NoScript), _) => Self::NoScript,
            (_, Some("BUSY" | "MISCONF" | "NOREPLICAS" | "UNBLOCKED")) => Self::Passing(text),
            (ErrorKind::Server(kind), _) if passes(kind) => Self::Passing(text),
            (ErrorKind::Io, _) => Self::Passing(text),
            _ if error.is_timeout() || error.is_connection_dropped() => Self::Passing(text),
            _ => Self::Permanent(text),
        }
    }

    /// Whether waiting may help.
    pub const fn passes(&self) -> bool {
        match self {
            Self::NoScript | Self::Passing(_) | Self::Memory(_) => true,
            Self::Superseded(_) | Self::Auth(_) | Self::Permanent(_) => false,
        }
    }

    /// Of two troubles the one to act on: giving up before waiting, waiting before loading scripts.
    pub fn worse(met: Option<Self>, other: Self) -> Option<Self> {
        let rank = |trouble: &Self| match trouble {
            Self::NoScript => 0,
            Self::Passing(_) => 1,
            Self::Memory(_) => 2,
            Self::Permanent(_) => 3,
            Self::Auth(_) => 4,
            Self::Superseded(_) => 5,
        };
        match met {
            Some(met) if rank(&met) >= rank(&other) => Some(met),
            _ => Some(other),
        }
    }

    /// The step's failure, once nothing else helps.
    pub fn failure(self, address: &str) -> Failure {
        match self {
            Self::NoScript => {
                Failure::passing(Reason::OnlineUnavailable, format!("the online store {address} does not keep loaded scripts"))
            }
            Self::Passing(text) => {
                Failure::passing(Reason::OnlineUnavailable, format!("the online store {address} does not answer: {text}"))
            }
            Self::Memory(text) => Failure::passing(
                Reason::OnlineOutOfMemory,
                format!("the online store {address} is out of memory: {text}; give it more, the backfill goes on by itself"),
            ),
            Self::Superseded(found) => {
                superseded(&found, &format!("the view's entry in the hash \"{}\" of Redis", super::script::FENCES))
            }
            Self::Auth(text) => Failure::permanent(
                Reason::OnlineAuth,
                format!("the online store {address} refuses the credentials: {text}; check the URL in the store's urlSecret"),
            ),
            Self::Permanent(text) => {
                Failure::permanent(Reason::InvalidStore, format!("the online store {address} refuses a command: {text}"))
            }
        }
    }
}

const fn passes(kind: ServerErrorKind) -> bool {
    matches!(
        kind,
        ServerErrorKind::BusyLoading
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
    )
}

/// Waits between tries, longer each time, and only so long.
pub struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits for so long in all.
    pub fn of(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, pause: Duration::from_millis(50) }
    }

    /// Waits for what passes; fails with what does not, or has not for too long.
    pub async fn bear(&mut self, trouble: Trouble, address: &str) -> Result<()> {
        if !trouble.passes() || self.until < Instant::now() {
            return Err(trouble.failure(address));
        }
        tracing::warn!(?trouble, address, "the online store does not take it now; waiting");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        Ok(())
    }
}
