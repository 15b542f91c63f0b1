//! One entity under any interleaving of ingestion and of a reconciliation that asks, decides, performs, crashes and begins again.

use super::*;

/// A row of the table. Among rows of equal time the one of the higher order wins; a backfill is ordered at its pin.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    ts: i64,
    value: usize,
    order: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Online {
    ts: i64,
    value: usize,
    marker: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Ingestion produces a row, which then reaches both stores in any order.
    Produce(i64),
    /// The oldest row that waits for the table is appended.
    Append,
    /// The oldest row that waits for the online store is written, by Feast's rule: only over an older one.
    Ingest,
    /// The reconciliation takes its next step.
    Step,
    /// The reconciliation dies and begins again.
    Crash,
}

struct World {
    rules: Rules,
    table: Vec<Row>,
    pinned: Vec<Row>,
    published: Vec<Row>,
    online: Option<Online>,
    to_append: Vec<Row>,
    to_ingest: Vec<Row>,
    /// What the reconciliation in flight has been told.
    asked: Option<Option<Online>>,
    done: bool,
    /// The next value and order; each is used once.
    next: usize,
}

fn newest(rows: &[Row]) -> Option<Row> {
    rows.iter().copied().max_by_key(|row| (row.ts, row.order))
}

fn current(online: Option<Online>) -> Option<Current> {
    online.map(|row| Current { ts: EventTime(row.ts), ours: row.marker == Some(row.ts), whole_seconds: false })
}

impl World {
    fn new(rules: Rules, old: &[i64], new: &[i64], start: Option<bool>) -> Self {
        let pinned: Vec<Row> = old.iter().enumerate().map(|(i, ts)| Row { ts: *ts, value: i, order: i }).collect();
        let pin = pinned.len();
        let outside = pinned.iter().copied().filter(|row| !rules.bounds.contain(EventTime(row.ts)));
        let fresh = new.iter().enumerate().map(|(i, ts)| Row { ts: *ts, value: 100 + i, order: pin });
        let published: Vec<Row> = outside.chain(fresh).collect();
        let online = start
            .and_then(|ours| newest(&pinned).map(|row| Online { ts: row.ts, value: row.value, marker: ours.then_some(row.ts) }));
        let table = published.clone();
        let (to_append, to_ingest) = (Vec::new(), Vec::new());
        Self { rules, table, pinned, published, online, to_append, to_ingest, asked: None, done: false, next: pin + 1 }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Produce(ts) => {
                let row = Row { ts, value: 1000 + self.next, order: 0 };
                self.next += 1;
                self.to_append.push(row);
                self.to_ingest.push(row);
            }
            Event::Append if !self.to_append.is_empty() => {
                let row = self.to_append.remove(0);
                self.table.push(Row { order: self.next, ..row });
                self.next += 1;
            }
            Event::Ingest if !self.to_ingest.is_empty() => {
                let row = self.to_ingest.remove(0);
                if self.online.is_none_or(|online| online.ts < row.ts) {
                    let marker = self.online.and_then(|online| online.marker);
                    self.online = Some(Online { ts: row.ts, value: row.value, marker });
                }
            }
            Event::Step => {
                let (before, published) = (newest(&self.pinned), newest(&self.published));
                self.done |= self.step(before, published);
            }
            Event::Crash => self.asked = None,
            Event::Append | Event::Ingest => {}
        }
    }

    /// Whether ingestion wrote a row that is newer than all that the table held when the reconciliation began.
    fn is_live(&self, row: Online) -> bool {
        let newer = |rows: &[Row]| rows.iter().all(|other| other.ts < row.ts);
        row.value >= 1000 && newer(&self.pinned) && newer(&self.published)
    }

    /// Asks, or performs what follows from the answer; whether that was the end of it.
    fn step(&mut self, before: Option<Row>, newest: Option<Row>) -> bool {
        let Some(seen) = self.asked.take() else {
            self.asked = Some(self.online);
            return false;
        };
        let time = |row: Option<Row>| row.map(|row| EventTime(row.ts));
        let decision = decide(&self.rules, current(seen), time(before), time(newest));
        if decision.keeps() {
            return true;
        }
        let token = |online: Option<Online>| online.map(|row| (row.ts, row.marker));
        if token(seen) != token(self.online) {
            return false;
        }
        self.online = match decision {
            Decision::Write => newest.map(|row| Online { ts: row.ts, value: row.value, marker: Some(row.ts) }),
            _ => None,
        };
        true
    }

    /// Lets the reconciliation end: the first pass, then twice what landed in the table meanwhile.
    fn finish(&mut self) {
        while !self.done {
            self.happen(Event::Step);
        }
        for _ in 0..2 {
            if self.table != self.published {
                self.asked = None;
                while !self.step(None, newest(&self.table)) {}
            }
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0_i64..9).prop_map(Event::Produce),
        2 => Just(Event::Append),
        2 => Just(Event::Ingest),
        4 => Just(Event::Step),
        1 => Just(Event::Crash),
    ]
}

fn bounded() -> impl Strategy<Value = Rules> {
    prop_oneof![Just((Some(START), Some(STOP))), Just((None, Some(STOP))), Just((None, None))]
        .prop_map(|(start, stop)| rules(start, stop))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn readers_see_old_then_new_and_at_rest_the_newest_row(
        rules in bounded(),
        old in proptest::collection::vec(0_i64..9, 0..4),
        new in proptest::collection::vec(START..STOP, 0..3),
        start in proptest::option::of(any::<bool>()),
        events in proptest::collection::vec(any_event(), 0..40),
    ) {
        let mut world = World::new(rules, &old, &new, start);
        let began = world.online;
        let replaced = |value: usize| value < 100 && !world.published.iter().any(|row| row.value == value);
        let replaced: Vec<usize> = world.pinned.iter().map(|row| row.value).filter(|value| replaced(*value)).collect();
        let stays = began.is_some() && newest(&world.published).is_some();
        let mut seen_new = false;
        for event in events.into_iter().chain([Event::Step; 2]) {
            let met = world.online.filter(|row| world.is_live(*row));
            world.happen(event);
            let steps = matches!(event, Event::Step);
            prop_assert!(!steps || met.is_none() || world.online == met, "a live row is never overwritten: {met:?}");
            let value = world.online.map(|row| row.value);
            prop_assert!(!stays || value.is_some(), "R1: an entity of before and after is never missing");
            if let Some(value) = value {
                let known = began.is_some_and(|row| row.value == value)
                    || value >= 1000
                    || world.published.iter().any(|row| row.value == value);
                prop_assert!(known, "R4: old, new, or ingested");
                prop_assert!(!(seen_new && replaced.contains(&value)), "R5, R7: the old row does not come back");
                seen_new |= !replaced.contains(&value);
            }
        }
        // Ingestion ends: its rows are in the table before the catch-up, online in between or after it.
        while !world.to_append.is_empty() {
            world.happen(Event::Append);
        }
        world.finish();
        while !world.to_ingest.is_empty() {
            world.happen(Event::Ingest);
        }
        let (online, newest) = (world.online, newest(&world.table));
        let lags = online.is_some_and(|row| rules.bounds.end_by(EventTime(row.ts)));
        if !lags {
            // Of two rows of one time Feast keeps the first, the table the last. We settle that inside the bounds only, and not
            // against ingestion that writes after us.
            let equal = newest.is_some_and(|n| n.value >= 1000 && online.is_some_and(|o| o.ts == n.ts));
            let outside = online.is_some_and(|row| rules.bounds.begin_after(EventTime(row.ts)));
            let twins = equal && (outside || online.is_some_and(|row| row.value >= 1000));
            prop_assert!(twins || online.map(|row| row.value) == newest.map(|row| row.value), "R6: {online:?} {newest:?}");
        }
        let at_rest = world.online;
        world.done = false;
        world.finish();
        prop_assert_eq!(world.online.map(|row| row.value), at_rest.map(|row| row.value), "again changes nothing");
    }
}
