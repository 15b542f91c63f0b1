//! What a pod does, and the script that says it.

use backfill_core::condition::Reason;
use k8s_openapi::api::core::v1::Pod;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a pod does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub(super) play: Play,
    pub(super) after: Duration,
    pub(super) hangs: bool,
}

/// How far a pod comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Play {
    Unschedulable { message: String, ago: Duration },
    Waiting { reason: String, message: String },
    Running,
    Ends(Ending),
}

/// How a container ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As the order says: the tables change, the report tells.
    Obeys,
    /// The tables change, but the container dies before it tells.
    ObeysAndDies,
    /// With a report of a failure.
    Fails { reason: Reason, message: String, retry: bool },
    /// With this code and termination message.
    Exits { code: i32, message: String },
    /// Killed for its memory.
    OutOfMemory,
    /// Removed by the node: not the pod's fault.
    Evicted,
}

impl Act {
    fn new(play: Play) -> Self {
        Self { play, after: Duration::ZERO, hangs: false }
    }

    /// It finds no node; `message` is the scheduler's.
    pub fn unschedulable(message: &str) -> Self {
        Self::new(Play::Unschedulable { message: message.to_owned(), ago: Duration::ZERO })
    }

    /// Its container never starts, for instance because of `ImagePullBackOff`.
    pub fn waiting(reason: &str, message: &str) -> Self {
        Self::new(Play::Waiting { reason: reason.to_owned(), message: message.to_owned() })
    }

    /// It runs until it is deleted, or until the script says otherwise.
    pub fn run() -> Self {
        Self::new(Play::Running)
    }

    /// It does at once what its order says. A pod without an order exits with 0.
    pub fn obey() -> Self {
        Self::new(Play::Ends(Ending::Obeys))
    }

    /// It does what its order says and dies before it can tell.
    pub fn obey_and_die() -> Self {
        Self::new(Play::Ends(Ending::ObeysAndDies))
    }

    /// It fails with a report, and the exit code that belongs to it.
    pub fn fail(reason: Reason, message: &str, retry: bool) -> Self {
        Self::new(Play::Ends(Ending::Fails { reason, message: message.to_owned(), retry }))
    }

    /// It exits with this code and termination message.
    pub fn exit(code: i32, message: &str) -> Self {
        Self::new(Play::Ends(Ending::Exits { code, message: message.to_owned() }))
    }

    /// It is killed for its memory: exit code 137, reason `OOMKilled`.
    pub fn out_of_memory() -> Self {
        Self::new(Play::Ends(Ending::OutOfMemory))
    }

    /// The node evicts it: `DisruptionTarget`, phase `Failed`.
    pub fn evicted() -> Self {
        Self::new(Play::Ends(Ending::Evicted))
    }

    /// The same, as if that had begun so long ago. Only waiting for a node has a beginning that can be seen.
    pub fn since(mut self, long_ago: Duration) -> Self {
        if let Play::Unschedulable { ago, .. } = &mut self.play {
            *ago = long_ago;
        }
        self
    }

    /// The same, so long after its container has started.
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// The same, and when it is deleted it stays in `Terminating`, its container alive, until the script says otherwise.
    pub fn hanging(mut self) -> Self {
        self.hangs = true;
        self
    }
}

type Matcher = dyn Fn(&Pod) -> bool + Send + Sync;

struct Entry {
    number: u64,
    matcher: Box<Matcher>,
    act: Act,
}

#[derive(Default)]
struct Entries {
    next: u64,
    rules: Vec<Entry>,
}

/// What pods do: the newest rule that matches a pod says it, else its order.
///
/// May be changed at any time, also for pods that are being played: what has ended stays ended, everything else goes on as the new
/// rule says.
#[derive(Clone)]
pub struct Script {
    entries: Arc<watch::Sender<Entries>>,
}

impl Default for Script {
    fn default() -> Self {
        Self { entries: Arc::new(watch::Sender::new(Entries::default())) }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<Act> = self.entries.borrow().rules.iter().map(|rule| rule.act.clone()).collect();
        f.debug_tuple("Script").field(&rules).finish()
    }
}

impl Script {
    /// Pods that match do this from now on.
    pub fn set(&self, matcher: impl Fn(&Pod) -> bool + Send + Sync + 'static, act: Act) -> Rule {
        let mut number = 0;
        self.entries.send_modify(|entries| {
            number = entries.next;
            entries.next += 1;
            entries.rules.push(Entry { number, matcher: Box::new(matcher), act });
        });
        Rule { script: self.clone(), number }
    }

    /// What a pod does now.
    pub fn act(&self, pod: &Pod) -> Act {
        let entries = self.entries.borrow();
        let rule = entries.rules.iter().rev().find(|rule| (rule.matcher)(pod));
        rule.map_or_else(Act::obey, |rule| rule.act.clone())
    }

    pub(super) fn changes(&self) -> Changes {
        Changes(self.entries.subscribe())
    }
}

/// Tells a pod's task that the script has changed.
pub(super) struct Changes(watch::Receiver<Entries>);

impl Changes {
    /// Waits for a change since this was called last.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // No script any more: it will never change.
            std::future::pending::<()>().await;
        }
    }
}

/// A rule of a script. It holds until it is removed, also when this is dropped.
#[derive(Clone, Debug)]
pub struct Rule {
    script: Script,
    number: u64,
}

impl Rule {
    /// The pods do something else from now on.
    pub fn change(&self, act: Act) {
        self.script.entries.send_modify(|entries| {
            entries.rules.iter_mut().filter(|rule| rule.number == self.number).for_each(|rule| rule.act = act.clone());
        });
    }

    /// The pods do what the rules before this one say.
    pub fn remove(&self) {
        self.script.entries.send_modify(|entries| entries.rules.retain(|rule| rule.number != self.number));
    }
}
