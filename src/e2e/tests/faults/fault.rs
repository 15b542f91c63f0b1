//! What fails, and when.

use anyhow::{Context, Result};
use std::fmt;
use std::str::FromStr;

/// The kinds that the operator watches.
pub const KINDS: [&str; 5] = ["featuresetbackfills", "featuresets", "featurestores", "jobs", "pods"];

/// What is done while something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Two backfills of intervals of one feature set, of which the second waits for the first.
    Interval,
    /// A reset.
    Reset,
    /// A backfill that is deleted while it runs.
    Delete,
}

impl Workload {
    pub const ALL: [Self; 3] = [Self::Interval, Self::Reset, Self::Delete];

    const fn word(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Reset => "reset",
            Self::Delete => "delete",
        }
    }
}

/// What happens to one write of the operator, or from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The operator is killed before the write reaches the API server.
    CrashBefore,
    /// The operator is killed when the write is done; it has not heard of that.
    CrashAfter,
    /// The write is refused with this code.
    Refused(u16),
    /// The write is done, and answered as if nobody knew.
    TimeoutAfter,
    /// The write is done, and the connection is cut.
    ResetAfter,
    /// The watches of this kind deliver nothing for a while.
    Hold(&'static str),
    /// The watches of this kind lose what happens for a while and then end, because the past is gone.
    Gone(&'static str),
    /// The operator is killed, and the list of this kind that the next one gets is old.
    Stale(&'static str),
    /// Two operators are at work all the time, as if no lease were between them.
    Twins,
    /// The lease of the operator at work is renewed too late, so that another one takes over.
    Replicas,
}

impl What {
    /// What the write itself suffers, in the order of how much it finds.
    pub const OF_WRITES: [Self; 8] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::ResetAfter,
        Self::Refused(409),
        Self::Refused(500),
        Self::TimeoutAfter,
        Self::Refused(429),
        Self::Refused(504),
    ];

    /// Whether it begins at a write.
    pub const fn has_moment(self) -> bool {
        !matches!(self, Self::Twins | Self::Replicas)
    }

    /// Without its details, for counting.
    pub fn word(self) -> String {
        match self {
            Self::Hold(_) => "hold".to_owned(),
            Self::Gone(_) => "gone".to_owned(),
            Self::Stale(_) => "stale".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrashBefore => f.write_str("crash-before"),
            Self::CrashAfter => f.write_str("crash-after"),
            Self::Refused(code) => write!(f, "{code}"),
            Self::TimeoutAfter => f.write_str("timeout-after"),
            Self::ResetAfter => f.write_str("reset-after"),
            Self::Hold(kind) => write!(f, "hold-{kind}"),
            Self::Gone(kind) => write!(f, "gone-{kind}"),
            Self::Stale(kind) => write!(f, "stale-{kind}"),
            Self::Twins => f.write_str("twins"),
            Self::Replicas => f.write_str("replicas"),
        }
    }
}

/// One fault in one run: `interval 7 crash-after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    pub workload: Workload,
    /// Which write of the run without faults, from 0.
    pub write: usize,
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.workload.word(), self.write, self.what)
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [workload, write, what] = words[..] else { anyhow::bail!("a fault reads like: interval 7 crash-after") };
        let workload = Workload::ALL.into_iter().find(|known| known.word() == workload).context("no such workload")?;
        let of_kinds = KINDS.into_iter().flat_map(|kind| [What::Hold(kind), What::Gone(kind), What::Stale(kind)]);
        let mut known = What::OF_WRITES.into_iter().chain(of_kinds).chain([What::Twins, What::Replicas]);
        let what = known.find(|known| known.to_string() == what).context("no such fault")?;
        Ok(Self { workload, write: write.parse()?, what })
    }
}

/// Every fault, for runs without faults that write so often.
pub fn all(writes: impl Fn(Workload) -> usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for workload in Workload::ALL {
        let writes = writes(workload);
        let mut add = |what: What, first: usize, every: usize| {
            faults.extend((first..writes).step_by(every).map(|write| Fault { workload, write, what }));
        };
        // The operator is killed around every write of the backfills that meet each other. The rarer answers lead to the same code.
        let (killed, cut, refused, rarely) = match workload {
            Workload::Interval => (1, 1, 3, 6),
            Workload::Reset => (2, 3, 5, 9),
            Workload::Delete => (1, 2, 5, 9),
        };
        add(What::CrashBefore, 0, killed);
        add(What::CrashAfter, killed - 1, killed);
        add(What::ResetAfter, 0, cut);
        add(What::Refused(409), 0, refused);
        for (place, what) in What::OF_WRITES.into_iter().skip(4).enumerate() {
            add(what, place % rarely, rarely);
        }
        for (place, kind) in KINDS.into_iter().enumerate() {
            add(What::Hold(kind), 2 * place + 1, 12);
            add(What::Gone(kind), 2 * place + 2, 14);
            add(What::Stale(kind), 2 * place + 3, 16);
        }
        add(What::Twins, 0, writes / 8);
    }
    // They wait for leases to end: with the others, not after them.
    let replicas = Workload::ALL.map(|workload| Fault { workload, write: 0, what: What::Replicas });
    replicas.into_iter().chain(faults).collect()
}
