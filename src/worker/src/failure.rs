//! Why a step ends without having done what it was to do.

use backfill_core::condition::Reason;
use backfill_core::contract::{Outcome, exit};

/// A step's failure: a reason from the common vocabulary, a message for the person who reads the status, and whether trying
/// again may help.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// In one word.
    pub reason: Reason,
    /// For a person, with the way out; lower case, no full stop.
    pub message: String,
    /// Whether trying again may help.
    pub retry: bool,
}

/// The result of everything in a step.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that trying again does not change.
    pub fn permanent(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: false }
    }

    /// A failure that may pass.
    pub fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: true }
    }

    /// The outcome for the report.
    pub fn outcome(&self) -> Outcome {
        Outcome::Failed { reason: self.reason, message: self.message.clone(), retry: self.retry }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match (self.reason, self.retry) {
            (Reason::Superseded, _) => exit::SUPERSEDED,
            (_, true) => exit::RETRY,
            (_, false) => exit::PERMANENT,
        }
    }
}
