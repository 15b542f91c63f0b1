//! What `local` says became of a backfill.

use serde_json::Value;

/// One line of `local -o json`, and the exit code.
#[derive(Clone, Debug)]
pub struct Ended {
    pub json: Value,
    pub code: i32,
}

impl Ended {
    /// Status, reason and message of a condition.
    #[track_caller]
    pub fn condition(&self, kind: &str) -> (&str, &str, &str) {
        let conditions = self.json["conditions"].as_array().expect("conditions");
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let found = found.unwrap_or_else(|| panic!("no condition {kind} in {:#}", self.json));
        let text = |field: &str| found[field].as_str().unwrap_or_default();
        (text("status"), text("reason"), text("message"))
    }

    /// The backfill ended well and did something.
    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        let (status, reason, message) = self.condition("Complete");
        assert_eq!((status, reason, self.code), ("True", "Succeeded", 0), "{message}\n{:#}", self.json);
        self
    }

    /// The table held the result already.
    #[track_caller]
    pub fn already_applied(&self) -> &Self {
        let (status, reason, message) = self.condition("Complete");
        assert_eq!((status, reason, self.code), ("True", "AlreadyApplied", 0), "{message}\n{:#}", self.json);
        self
    }

    /// The backfill ended well; it may have found that all was done.
    #[track_caller]
    pub fn succeeded_or_applied(&self) -> &Self {
        let (status, reason, message) = self.condition("Complete");
        assert_eq!((status, self.code), ("True", 0), "{reason}: {message}\n{:#}", self.json);
        self
    }

    /// The backfill failed for this reason, with a message that holds all these words. Returns the message.
    #[track_caller]
    pub fn failed(&self, reason: &str, words: &[&str]) -> &str {
        let (status, found, message) = self.condition("Failed");
        assert_eq!((status, found, self.code), ("True", reason, 3), "{message}\n{:#}", self.json);
        assert_eq!(self.condition("Complete").0, "False");
        for word in words {
            assert!(message.contains(word), "\"{word}\" is missing in: {message}");
        }
        message
    }

    /// The backfill was refused before any Job for this reason, with a message that holds all these words.
    #[track_caller]
    pub fn rejected(&self, reason: &str, words: &[&str]) {
        let (status, found, message) = self.condition("Accepted");
        assert_eq!((status, found, self.code), ("False", reason, 3), "{message}\n{:#}", self.json);
        assert!(self.json.get("offline").is_none() && self.json.get("online").is_none(), "no step runs: {:#}", self.json);
        for word in words {
            assert!(message.contains(word), "\"{word}\" is missing in: {message}");
        }
    }

    /// A number of the offline report.
    #[track_caller]
    pub fn offline(&self, field: &str) -> u64 {
        let value = &self.json["offline"]["offline"][field];
        value.as_u64().unwrap_or_else(|| panic!("no number {field} in {:#}", self.json))
    }

    /// A number of the online report.
    #[track_caller]
    pub fn online(&self, field: &str) -> u64 {
        let value = &self.json["online"]["online"][field];
        value.as_u64().unwrap_or_else(|| panic!("no number {field} in {:#}", self.json))
    }

    /// The offline report's proof.
    pub fn proof(&self) -> &Value {
        &self.json["offline"]["offline"]["proof"]
    }

    /// The message of a warning.
    #[track_caller]
    pub fn warning(&self, reason: &str) -> &str {
        let warnings = self.json["warnings"].as_array().expect("warnings");
        let found = warnings.iter().find(|warning| warning["reason"] == reason);
        found.and_then(|warning| warning["message"].as_str()).unwrap_or_else(|| panic!("no warning {reason} in {:#}", self.json))
    }

    /// The reasons of all warnings.
    pub fn warnings(&self) -> Vec<&str> {
        let warnings = self.json["warnings"].as_array().expect("warnings");
        warnings.iter().map(|warning| warning["reason"].as_str().expect("a reason")).collect()
    }
}
