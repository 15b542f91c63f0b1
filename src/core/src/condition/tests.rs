use super::*;
use crate::time::parse_time;

fn at(text: &str) -> DateTime<Utc> {
    parse_time("t", text).expect(text)
}

fn finding(status: ConditionStatus, message: &str) -> Finding {
    Finding { kind: ConditionType::Ready, status, reason: Reason::Running, message: message.to_owned() }
}

/// The row of the status table: what is shown for each type, `–` when the condition is absent.
fn row(ending: &Ending, stores: Stores) -> String {
    let found = conditions(ending, stores, &[]);
    let word = |kind: ConditionType| {
        found.iter().find(|finding| finding.kind == kind).map_or("–".to_owned(), |finding| match kind {
            ConditionType::OfflineReplaced | ConditionType::OnlineReplaced => format!("{:?} {}", finding.status, finding.reason),
            _ => format!("{:?}", finding.status),
        })
    };
    use ConditionType::*;
    [Ready, Reconciling, Stalled, Complete, Failed, Accepted, OfflineReplaced, OnlineReplaced].map(word).join(" | ")
}

#[test]
fn the_transition_time_moves_only_with_the_status() {
    let mut conditions = Vec::new();
    set(&mut conditions, finding(ConditionStatus::False, "one"), at("2024-05-01"), Some(1));
    set(&mut conditions, finding(ConditionStatus::False, "two"), at("2024-05-02"), Some(2));
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].last_transition_time, "2024-05-01T00:00:00Z");
    assert_eq!((conditions[0].message.as_str(), conditions[0].observed_generation), ("two", Some(2)));
    set(&mut conditions, finding(ConditionStatus::True, "two"), at("2024-05-03"), Some(2));
    assert_eq!(conditions[0].last_transition_time, "2024-05-03T00:00:00Z");
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let mut conditions = Vec::new();
    set(&mut conditions, finding(ConditionStatus::True, &"é".repeat(5_000)), at("2024-05-01"), None);
    assert_eq!(conditions[0].message, "é".repeat(1_024));
}

#[test]
fn conditions_of_a_moment_replace_those_of_the_one_before() {
    let mut now = Vec::new();
    let reconciling = Finding { kind: ConditionType::Reconciling, ..finding(ConditionStatus::True, "") };
    set_all(&mut now, vec![reconciling, finding(ConditionStatus::False, "")], at("2024-05-01"), None);
    assert_eq!(
        now.iter().map(|condition| condition.kind).collect::<Vec<_>>(),
        [ConditionType::Ready, ConditionType::Reconciling]
    );
    set_all(&mut now, vec![finding(ConditionStatus::False, "")], at("2024-05-02"), None);
    assert_eq!(now.len(), 1, "reconciling is over");
    assert_eq!(now[0].last_transition_time, "2024-05-01T00:00:00Z");
}

#[test]
fn every_ending_has_its_row_of_the_status_table() {
    let message = String::new;
    let rejected = |recovers| Ending::Rejected { reason: Reason::EmptyInterval, message: message(), recovers };
    let failed = (Reason::ShrinkGuard, Reason::OnlineUnavailable);
    for (ending, stores, expected) in [
        (rejected(false), Stores::Both, "False | – | True | False | True | False | – | –"),
        (rejected(true), Stores::Both, "False | – | True | False | False | False | – | –"),
        (
            Ending::Planned { moved: false, message: message() },
            Stores::Both,
            "True | – | – | False | False | True | False Planned | False Planned",
        ),
        (
            Ending::Planned { moved: false, message: message() },
            Stores::Offline,
            "True | – | – | False | False | True | False Planned | False Skipped",
        ),
        (
            Ending::Succeeded { message: message() },
            Stores::Both,
            "True | – | – | True | False | True | True Replaced | True Reconciled",
        ),
        (
            Ending::Succeeded { message: message() },
            Stores::Offline,
            "True | – | – | True | False | True | True Replaced | False Skipped",
        ),
        (
            Ending::Succeeded { message: message() },
            Stores::Online,
            "True | – | – | True | False | True | False Skipped | True Reconciled",
        ),
        (
            Ending::AlreadyApplied { message: message() },
            Stores::Both,
            "True | – | – | True | False | True | True Replaced | True Reconciled",
        ),
        (
            Ending::OfflineFailed { reason: failed.0, message: message() },
            Stores::Both,
            "False | – | True | False | True | True | False ShrinkGuard | False ShrinkGuard",
        ),
        (
            Ending::OnlineFailed { reason: failed.1, message: message() },
            Stores::Both,
            "False | – | True | False | True | True | True Replaced | False OnlineUnavailable",
        ),
        (
            Ending::OnlineFailed { reason: failed.1, message: message() },
            Stores::Online,
            "False | – | True | False | True | True | False Skipped | False OnlineUnavailable",
        ),
    ] {
        assert_eq!(row(&ending, stores), expected, "{ending:?} {stores:?}");
    }
}

#[test]
fn what_resolving_warned_of_is_told_with_the_acceptance() {
    let notice = |reason, message: &str| Notice { reason, message: message.to_owned() };
    let warnings = [notice(Reason::StopClamped, "rounded"), notice(Reason::PartialWindows, "partial")];
    let found = conditions(&Ending::Succeeded { message: String::new() }, Stores::Both, &warnings);
    let accepted = found.iter().find(|finding| finding.kind == ConditionType::Accepted).expect("accepted");
    assert_eq!(
        (accepted.status, accepted.reason, accepted.message.as_str()),
        (ConditionStatus::True, Reason::StopClamped, "rounded; partial")
    );
}

#[test]
fn a_reason_is_written_as_its_word_and_explained_in_one_sentence() {
    for (reason, sentence) in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).expect("a word"), reason.word());
        assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{reason}: {sentence}");
    }
}
