//! The decision for one entity of the online store: what is to become of the row that is there, given the offline table.
//!
//! The one implementation of the rules for every store. Pure: a store asks, this decides, and the store performs the decision
//! only if the row is still the one that was decided on. Knows no bytes and no clock.

use crate::api::OnlineUnknown;
use chrono::{DateTime, Utc};

/// An event time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

impl EventTime {
    /// The whole second that the instant lies in.
    pub const fn second(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

impl From<DateTime<Utc>> for EventTime {
    fn from(t: DateTime<Utc>) -> Self {
        Self(t.timestamp_micros())
    }
}

/// Which event times are replaced: `start <= t < stop`; a missing bound is infinitely far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first event time that is replaced.
    pub start: Option<EventTime>,
    /// The first event time that is not replaced any more.
    pub stop: Option<EventTime>,
}

impl Bounds {
    /// Whether rows at `t` are replaced.
    pub fn contain(self, t: EventTime) -> bool {
        !self.begin_after(t) && !self.end_by(t)
    }

    /// Whether `t` lies before the start.
    pub fn begin_after(self, t: EventTime) -> bool {
        self.start.is_some_and(|start| t < start)
    }

    /// Whether `t` lies at or after the stop.
    pub fn end_by(self, t: EventTime) -> bool {
        self.stop.is_some_and(|stop| stop <= t)
    }
}

/// What holds for all entities of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which event times are replaced.
    pub bounds: Bounds,
    /// Rows at this event time or before count as nothing: the run's *now* less the time to live.
    pub expired: Option<EventTime>,
    /// What happens to rows of unknown origin that are newer than the table's.
    pub unknown: OnlineUnknown,
}

/// The row that the online store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its event time; the start of its second when `whole_seconds`.
    pub ts: EventTime,
    /// Whether a backfill wrote it. Otherwise ingestion wrote last.
    pub ours: bool,
    /// Whether only the second of the event time is known.
    pub whole_seconds: bool,
}

/// What happens to an entity's online row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Neither store has a row.
    Nothing,
    /// The online row is not older than the stop: it stays.
    KeepNewer,
    /// The online row came from ingestion and has not reached the table yet: it stays.
    KeepLive,
    /// The online row lies outside the bounds and nothing newer is known: it stays.
    KeepOutside,
    /// The table's newest row is written, whole.
    Write,
    /// The row leaves.
    Remove,
}

impl Decision {
    /// Whether the online row is left alone.
    pub const fn keeps(self) -> bool {
        match self {
            Self::Nothing | Self::KeepNewer | Self::KeepLive | Self::KeepOutside => true,
            Self::Write | Self::Remove => false,
        }
    }
}

/// Decides about one entity.
///
/// `before` is the newest event time of the entity in the table as pinned, `newest` the one in the table as published. Of
/// `before` only rows inside the bounds matter: a row before the start is older than what it is compared with, and one after the
/// stop is also in `newest`. Guarantees: a row that is served and lies at or after the stop stays; one before the start is only
/// ever replaced by a newer one; performing the decision for the same table again changes no byte.
pub fn decide(rules: &Rules, current: Option<Current>, before: Option<EventTime>, newest: Option<EventTime>) -> Decision {
    let served = |t: &EventTime| rules.expired.is_none_or(|expired| expired < *t);
    let (before, newest) = (before.filter(served), newest.filter(served));
    let Some(current) = current else {
        return if newest.is_some() { Decision::Write } else { Decision::Nothing };
    };
    let ts = exact(current, before);
    let newer_than = |t: Option<EventTime>| t.is_none_or(|t| t < ts);
    if !served(&ts) && newest.is_some() {
        return Decision::Write;
    }
    if rules.bounds.end_by(ts) {
        return Decision::KeepNewer;
    }
    let keeps_unknown = rules.unknown == OnlineUnknown::Keep && !current.ours && served(&ts);
    if keeps_unknown && newer_than(before) && newer_than(newest) {
        return Decision::KeepLive;
    }
    if rules.bounds.begin_after(ts) && newest.is_none_or(|newest| newest <= ts) {
        return Decision::KeepOutside;
    }
    if newest.is_some() { Decision::Write } else { Decision::Remove }
}

/// The decision, when it is to leave the row alone whatever rows of the table have not been read yet.
///
/// `known` is the newest event time read so far, `latest` the latest one that a row not read yet may have, if there may be one.
pub fn kept(
    rules: &Rules,
    current: Option<Current>,
    before: Option<EventTime>,
    known: Option<EventTime>,
    latest: Option<EventTime>,
) -> Option<Decision> {
    // Over growing `newest` the decision changes at most from one way of keeping to another and then to writing: equal at
    // both ends means equal in between.
    let decision = decide(rules, current, before, known);
    (decision.keeps() && decide(rules, current, before, known.max(latest)) == decision).then_some(decision)
}

/// A store of whole seconds cannot tell on which side of a bound inside that second its row lies: the table's row of that second
/// tells.
fn exact(current: Current, before: Option<EventTime>) -> EventTime {
    match before {
        Some(before) if current.whole_seconds && before.second() == current.ts.second() => before,
        _ => current.ts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: i64 = 3;
    const STOP: i64 = 6;

    fn rules(start: Option<i64>, stop: Option<i64>) -> Rules {
        let bounds = Bounds { start: start.map(EventTime), stop: stop.map(EventTime) };
        Rules { bounds, expired: None, unknown: OnlineUnknown::Keep }
    }

    fn row(ts: i64, ours: bool) -> Option<Current> {
        Some(Current { ts: EventTime(ts), ours, whole_seconds: false })
    }

    fn at(t: i64) -> Option<EventTime> {
        Some(EventTime(t))
    }

    #[test]
    fn every_rule_has_its_case() {
        let interval = rules(Some(START), Some(STOP));
        let cases = [
            ("a newer row stays", row(6, false), at(4), at(5), Decision::KeepNewer),
            ("our own newer row stays", row(9, true), at(4), None, Decision::KeepNewer),
            ("a live row stays", row(5, false), at(4), at(4), Decision::KeepLive),
            ("a live row of an entity that the table does not have stays", row(3, false), None, None, Decision::KeepLive),
            ("a correction at an equal time lands", row(4, false), at(4), at(4), Decision::Write),
            ("a correction of our own row lands", row(4, true), at(4), at(4), Decision::Write),
            ("time goes back inside the interval", row(5, false), at(5), at(4), Decision::Write),
            ("a vanished entity falls back", row(5, false), at(5), at(1), Decision::Write),
            ("a vanished entity leaves", row(5, true), at(5), None, Decision::Remove),
            ("an outside row stays", row(2, true), at(5), at(2), Decision::KeepOutside),
            ("an outside row stays when the table has none", row(2, true), at(5), None, Decision::KeepOutside),
            ("an outside row gives way to a newer one", row(2, false), None, at(4), Decision::Write),
            ("an absent row is written", None, None, at(1), Decision::Write),
            ("nothing comes of nothing", None, at(4), None, Decision::Nothing),
            ("a row exactly at the start is inside", row(3, true), None, None, Decision::Remove),
            ("a row exactly at the stop is not", row(6, true), None, None, Decision::KeepNewer),
        ];
        for (why, current, before, newest, expected) in cases {
            assert_eq!(decide(&interval, current, before, newest), expected, "{why}");
        }
    }

    #[test]
    fn a_store_known_to_hold_rubbish_is_replaced_inside_the_bounds_only() {
        let rules = Rules { unknown: OnlineUnknown::Replace, ..rules(Some(START), Some(STOP)) };
        assert_eq!(decide(&rules, row(5, false), at(4), at(4)), Decision::Write);
        assert_eq!(decide(&rules, row(5, false), None, None), Decision::Remove);
        assert_eq!(decide(&rules, row(2, false), None, None), Decision::KeepOutside);
        assert_eq!(decide(&rules, row(6, false), None, None), Decision::KeepNewer);
    }

    #[test]
    fn expired_rows_count_as_nothing_everywhere() {
        let rules = Rules { expired: at(4), ..rules(Some(START), Some(8)) };
        assert_eq!(decide(&rules, None, None, at(4)), Decision::Nothing, "an expired row of the table is not written");
        assert_eq!(decide(&rules, row(5, true), None, at(4)), Decision::Remove, "nor does an entity fall back to one");
        assert_eq!(decide(&rules, row(4, false), None, at(5)), Decision::Write, "an expired online row is no live row");
        assert_eq!(decide(&rules, row(4, false), None, None), Decision::Remove);
        assert_eq!(decide(&rules, row(2, true), None, at(4)), Decision::KeepOutside, "the outside stays as it is");
        let past = Rules { expired: at(9), ..rules };
        assert_eq!(decide(&past, row(8, false), None, at(10)), Decision::Write);
        assert_eq!(decide(&past, row(8, false), None, None), Decision::KeepNewer);
    }

    #[test]
    fn a_bound_inside_a_second_is_settled_by_the_row_of_the_table() {
        let rules = rules(Some(500_000), Some(1_500_000));
        let second = |ts| Some(Current { ts: EventTime(ts), ours: false, whole_seconds: true });
        assert_eq!(decide(&rules, second(0), at(700_000), None), Decision::Remove, "the row of .7 s is inside");
        assert_eq!(decide(&rules, second(0), at(400_000), at(400_000)), Decision::KeepOutside);
        assert_eq!(decide(&rules, second(1_000_000), at(1_600_000), None), Decision::KeepNewer);
        assert_eq!(decide(&rules, second(1_000_000), at(1_400_000), None), Decision::Remove);
        assert_eq!(decide(&rules, row(0, false), at(700_000), None), Decision::KeepOutside, "an exact time is believed");
    }

    /// The rules as the design states them, word for word.
    fn reference(rules: &Rules, current: Option<Current>, before: Option<EventTime>, newest: Option<EventTime>) -> Decision {
        let dead = |t: EventTime| rules.expired.is_some_and(|e| t <= e);
        let t0 = before.filter(|t| !dead(*t)).map_or(i64::MIN, |t| t.0);
        let t = newest.filter(|t| !dead(*t)).map_or(i64::MIN, |t| t.0);
        let (a, b) = (rules.bounds.start.map_or(i64::MIN, |t| t.0), rules.bounds.stop.map_or(i64::MAX, |t| t.0));
        let exists = t != i64::MIN;
        match current {
            None if exists => Decision::Write,
            None => Decision::Nothing,
            Some(cur) if dead(cur.ts) && exists => Decision::Write,
            Some(cur) if dead(cur.ts) && cur.ts.0 >= b => Decision::KeepNewer,
            Some(cur) if dead(cur.ts) && cur.ts.0 < a => Decision::KeepOutside,
            Some(cur) if dead(cur.ts) => Decision::Remove,
            Some(cur) if cur.ts.0 >= b => Decision::KeepNewer,
            Some(cur) if !cur.ours && cur.ts.0 > t0 && cur.ts.0 > t && rules.unknown == OnlineUnknown::Keep => Decision::KeepLive,
            Some(cur) if cur.ts.0 < a && t <= cur.ts.0 => Decision::KeepOutside,
            Some(_) if exists => Decision::Write,
            Some(_) => Decision::Remove,
        }
    }

    fn any_time() -> impl Strategy<Value = Option<EventTime>> {
        proptest::option::of((0_i64..9).prop_map(EventTime))
    }

    fn any_rules() -> impl Strategy<Value = Rules> {
        let bounds =
            prop_oneof![Just((Some(START), Some(STOP))), Just((None, Some(STOP))), Just((Some(START), None)), Just((None, None))];
        let unknown = prop_oneof![Just(OnlineUnknown::Keep), Just(OnlineUnknown::Replace)];
        (bounds, any_time(), unknown).prop_map(|((start, stop), expired, unknown)| Rules {
            expired,
            unknown,
            ..rules(start, stop)
        })
    }

    fn any_row() -> impl Strategy<Value = Option<Current>> {
        proptest::option::of((0_i64..9, any::<bool>()).prop_map(|(ts, ours)| Current {
            ts: EventTime(ts),
            ours,
            whole_seconds: false,
        }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_decision_is_that_of_the_reference(rules in any_rules(), row in any_row(), before in any_time(), newest in any_time()) {
            prop_assert_eq!(decide(&rules, row, before, newest), reference(&rules, row, before, newest));
        }

        #[test]
        fn what_is_kept_early_is_kept_whatever_is_read_later(
            rules in any_rules(), row in any_row(), before in any_time(), known in any_time(), latest in any_time(), read in any_time()
        ) {
            let read = read.min(latest);
            if let Some(decision) = kept(&rules, row, before, known, latest) {
                prop_assert_eq!(decide(&rules, row, before, known.max(read)), decision);
            }
        }

        #[test]
        fn the_pin_matters_only_inside_the_bounds(rules in any_rules(), row in any_row(), before in any_time(), newest in any_time()) {
            // Rows outside are the same in both versions.
            let shared = before.filter(|t| !rules.bounds.contain(*t));
            let inside = before.filter(|t| rules.bounds.contain(*t));
            let newest = newest.max(shared);
            prop_assert_eq!(decide(&rules, row, before, newest), decide(&rules, row, inside, newest));
        }
    }

    mod interleaving;
}
