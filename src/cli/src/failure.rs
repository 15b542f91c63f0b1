//! How a command ends when it does not end well: what, why, and the next command.

use backfill_core::condition::Reason;
use backfill_core::request::Rejection;
use std::fmt;

/// What the process tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is as asked.
    Ok,
    /// Something went wrong.
    Error,
    /// The command line is wrong.
    Usage,
    /// The backfill failed.
    Failed,
    /// The backfill was cancelled.
    Cancelled,
    /// The entity has no row in the online store.
    NoRow,
    /// The plan would change something.
    WouldChange,
    /// It took longer than `--timeout`.
    TimedOut,
    /// Interrupted from the keyboard.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
            Self::NoRow => 5,
            Self::WouldChange => 10,
            Self::TimedOut => 124,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// What the caller is told.
    pub exit: Exit,
    /// What went wrong.
    pub what: String,
    hint: Option<String>,
}

impl Failure {
    /// Something went wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { exit: Exit::Error, what: what.into(), hint: None }
    }

    /// The command line is wrong.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(what) }
    }

    /// With the way out.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With another end.
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

/// What was said elsewhere: the way out comes after the first semicolon.
pub fn told(message: &str) -> Failure {
    match message.split_once("; ") {
        Some((what, way_out)) => Failure::new(what).hint(way_out),
        None => Failure::new(message),
    }
}

/// A request that is refused: because of what was typed, or of what is there.
pub fn rejected(Rejection { reason, message }: Rejection) -> Failure {
    let failure = told(&format!("{reason}: {message}"));
    match reason {
        Reason::FeatureSetNotFound | Reason::StoreNotFound | Reason::InvalidFeatureSet | Reason::InvalidStore => failure,
        _ => failure.exit(Exit::Usage),
    }
}

/// The result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
