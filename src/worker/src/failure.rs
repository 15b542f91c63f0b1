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
        Self { reason, message: without_backtrace(message.into()), retry: false }
    }

    /// A failure that may pass.
    pub fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: without_backtrace(message.into()), retry: true }
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

/// Some libraries print a backtrace with their errors when `RUST_BACKTRACE` is set. A status has no place for it.
fn without_backtrace(message: String) -> String {
    let is_frame = |line: &&str| {
        let text = line.trim_start();
        let number =
            text.split(": ").next().is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        line.starts_with("  ") && (number || text.starts_with("at "))
    };
    if !message.lines().any(|line| is_frame(&line)) {
        return message;
    }
    message.lines().filter(|line| !is_frame(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_in_an_error_does_not_reach_the_message() {
        let error =
            "cannot read x: it is cut\n   0: a::b\n  12: c::d\n             at /rustc/1/boxed.rs:2240:9\n; it was left as it is";
        assert_eq!(Failure::permanent(Reason::TableCorrupted, error).message, "cannot read x: it is cut; it was left as it is");
        let two_lines = "first\nat second: 3: no frame";
        assert_eq!(Failure::passing(Reason::Unavailable, two_lines).message, two_lines);
    }
}
