//! Between operator and API server: does what the fault says, once.

use crate::fault::{Fault, What};
use crate::world::Fleet;
use backfill_e2e::proxy::{Asked, Cut, Reply, Server, events, gone, refusal, watched, whole};
use futures::{StreamExt, stream};
use hyper::Method;
use hyper::Response;
use hyper::body::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long watches are held, or lose what happens.
const WATCH_LATE: Duration = Duration::from_millis(1500);

/// How much older than the crash a list is that is called old, in writes.
const STALE_WRITES: usize = 4;

/// How late the lease is renewed: longer than another operator waits for that.
const LEASE_LATE: Duration = Duration::from_secs(25);

/// One proxy's part in a fault.
pub struct Meddler {
    fault: Option<Fault>,
    /// The write at which the fault happens.
    target: Option<String>,
    fleet: Arc<Fleet>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    writes: Vec<String>,
    last_write: Option<Instant>,
    fired: Option<Instant>,
    /// The list that the operator began with.
    list: Option<Asked>,
    /// The answer to it that is going to be old.
    old: Option<Response<Bytes>>,
    leases_late: bool,
}

impl Meddler {
    /// `reference` are the writes of a run without faults.
    pub fn new(fault: Option<Fault>, reference: &[String], fleet: Arc<Fleet>) -> Self {
        let target = fault.filter(|fault| fault.what.has_moment()).and_then(|fault| reference.get(fault.write).cloned());
        Self { fault, target, fleet, state: Mutex::default() }
    }

    /// All writes so far, each with how often it was asked for before: `PUT featuresets/clicks/status #2`.
    pub fn writes(&self) -> Vec<String> {
        self.lock().writes.clone()
    }

    /// Whether the fault has happened.
    pub fn fired(&self) -> bool {
        self.target.is_none() || self.lock().fired.is_some()
    }

    /// Whether nothing was written for so long, and no watch is late any more.
    pub fn is_quiet(&self, for_so_long: Duration) -> bool {
        let state = self.lock();
        let over = |at: Option<Instant>, time| at.is_none_or(|at| at.elapsed() >= time);
        let late = match self.fault.map(|fault| fault.what) {
            Some(What::Hold(_) | What::Gone(_) | What::Stale(_)) => WATCH_LATE + for_so_long,
            _ => for_so_long,
        };
        over(state.last_write, for_so_long) && over(state.fired, late)
    }

    /// From now on the lease is renewed too late.
    pub fn delay_leases(&self) {
        self.lock().leases_late = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// What becomes of a request.
    pub async fn meddle(self: Arc<Self>, asked: Asked, server: Server) -> Result<Reply, Cut> {
        if asked.kind() == "leases" && self.lock().leases_late {
            tokio::time::sleep(LEASE_LATE).await;
        }
        let what = self.fault.map(|fault| fault.what);
        if is_write(&asked) {
            return match (what, self.note(&asked)) {
                (Some(what), true) => self.strike(what, &asked, &server).await,
                (Some(What::Stale(_)), false) => self.write_and_look(&asked, &server).await,
                _ => Ok(server.forward(&asked).await?),
            };
        }
        match what {
            Some(What::Hold(kind)) if asked.watches() && asked.kind() == kind => Ok(self.held(server.forward(&asked).await?)),
            Some(What::Gone(kind)) if asked.watches() && asked.kind() == kind => Ok(self.lost(server.forward(&asked).await?)),
            Some(What::Stale(kind)) if asked.kind() == kind && asked.watches() => Ok(self.held(server.forward(&asked).await?)),
            Some(What::Stale(kind)) if asked.kind() == kind && fills_a_cache(&asked) => self.old_list(&asked, &server).await,
            _ => Ok(server.forward(&asked).await?),
        }
    }

    /// Notes a write. Whether it is the one at which the fault happens.
    fn note(&self, asked: &Asked) -> bool {
        let mut state = self.lock();
        let name = name_of(asked);
        let before = state.writes.iter().filter(|known| known.rsplit_once(" #").is_some_and(|(known, _)| known == name)).count();
        let write = format!("{name} #{}", before + 1);
        let is_target = state.fired.is_none() && self.target.as_ref() == Some(&write);
        state.writes.push(write);
        state.last_write = Some(Instant::now());
        if is_target {
            state.fired = state.last_write;
        }
        is_target
    }

    async fn strike(&self, what: What, asked: &Asked, server: &Server) -> Result<Reply, Cut> {
        match what {
            What::CrashBefore => {
                self.fleet.crash().await;
                Err(Cut)
            }
            What::CrashAfter | What::Stale(_) => {
                server.forward_wholly(asked).await?;
                self.fleet.crash().await;
                Err(Cut)
            }
            What::Refused(code) => Ok(refused(code)),
            What::TimeoutAfter => {
                server.forward_wholly(asked).await?;
                Ok(refused(504))
            }
            What::ResetAfter => {
                server.forward_wholly(asked).await?;
                Err(Cut)
            }
            What::Hold(_) | What::Gone(_) | What::Twins | What::Replicas => Ok(server.forward(asked).await?),
        }
    }

    /// Before the crash: some writes ahead of it, the list is taken that the next operator gets.
    async fn write_and_look(&self, asked: &Asked, server: &Server) -> Result<Reply, Cut> {
        let reply = server.forward_wholly(asked).await?;
        let list = {
            let state = self.lock();
            let is_time = self.fault.is_some_and(|fault| state.writes.len() + STALE_WRITES == fault.write + 1);
            state.list.clone().filter(|_| is_time)
        };
        if let Some(list) = list {
            let old = server.forward_wholly(&list).await?;
            self.lock().old = Some(old);
        }
        Ok(whole(reply))
    }

    /// The first list is kept. The first after the crash is that one, or a later one from before the crash.
    async fn old_list(&self, asked: &Asked, server: &Server) -> Result<Reply, Cut> {
        let (crashed, old) = {
            let mut state = self.lock();
            let crashed = state.fired.is_some();
            (crashed, if crashed { state.old.take() } else { None })
        };
        if let Some(old) = old {
            return Ok(whole(old));
        }
        let reply = server.forward_wholly(asked).await?;
        if !crashed {
            let mut state = self.lock();
            state.list.get_or_insert_with(|| asked.clone());
            state.old.get_or_insert_with(|| reply.clone());
        }
        Ok(whole(reply))
    }

    /// A watch that is late for a while after the fault has begun.
    fn held(self: &Arc<Self>, reply: Reply) -> Reply {
        let meddler = Arc::clone(self);
        watched(events(reply).then(move |event| {
            let fired = meddler.lock().fired;
            async move {
                if let Some(fired) = fired {
                    tokio::time::sleep_until(fired + WATCH_LATE).await;
                }
                event
            }
        }))
    }

    /// A watch that loses what happens for a while and then ends.
    fn lost(self: &Arc<Self>, reply: Reply) -> Reply {
        let over = |fired: Option<Instant>| fired.is_some_and(|fired| fired.elapsed() >= WATCH_LATE);
        if over(self.lock().fired) {
            return reply;
        }
        let (meddler, ending) = (Arc::clone(self), Arc::clone(self));
        let end = async move {
            while !over(ending.lock().fired) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let heard = events(reply).filter(move |_| std::future::ready(meddler.lock().fired.is_none()));
        watched(heard.take_until(Box::pin(end)).chain(stream::once(async { Ok(gone()) })))
    }
}

fn refused(code: u16) -> Reply {
    match code {
        409 => refusal(code, "Conflict", None),
        429 => refusal(code, "TooManyRequests", Some(1)),
        504 => refusal(code, "Timeout", None),
        _ => refusal(code, "InternalError", None),
    }
}

/// Events and leases are not what a backfill is made of.
fn is_write(asked: &Asked) -> bool {
    asked.method != Method::GET && !matches!(asked.kind(), "events" | "leases")
}

/// The lists that watches begin with: those that look for company of a run name its feature set.
fn fills_a_cache(asked: &Asked) -> bool {
    asked.lists() && !asked.target.contains("feature-set")
}

/// The same in every run: the names of children end with a hash of the backfill's uid.
fn name_of(asked: &Asked) -> String {
    let parts = asked.object().split('/').map(|part| match part.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 10 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => part,
    });
    format!("{} {}", asked.method, parts.collect::<Vec<_>>().join("/"))
}
