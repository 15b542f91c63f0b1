//! Random sequences of what everybody does, against a model of the table and of the newest row of each entity.

use crate::faults::{order, publishes, sorted};
use crate::support::{Ride, World, at, ride};
use backfill_core::condition::Reason;
use backfill_core::contract::{Outcome, Report, Step};
use backfill_worker::context::Context;
use backfill_worker::steps;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CASES: u64 = 20;
const STEPS: usize = 8;
const DRIVERS: i64 = 4;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A backfill that was done: what it replaced and by what.
struct Done {
    name: String,
    span: Option<(i64, i64)>,
    before: Vec<Ride>,
    landed: Vec<Ride>,
    superseded: bool,
}

impl Done {
    fn holds(span: Option<(i64, i64)>, ride: &Ride) -> bool {
        span.is_none_or(|(start, stop)| ride.1.is_some_and(|t| start <= t && t < stop))
    }

    fn overlaps(&self, other: Option<(i64, i64)>) -> bool {
        match (self.span, other) {
            (Some((a, b)), Some((c, d))) => a < d && c < b,
            _ => true,
        }
    }
}

#[derive(Default)]
struct Model {
    rides: Vec<Ride>,
    done: Vec<Done>,
    serial: i64,
}

impl Model {
    /// The rows of a span are replaced.
    fn replace(&mut self, name: String, span: Option<(i64, i64)>, rides: Vec<Ride>) {
        let (before, kept): (Vec<Ride>, Vec<Ride>) = self.rides.iter().partition(|ride| Done::holds(span, ride));
        self.rides = kept.into_iter().chain(rides).collect();
        self.done.iter_mut().filter(|done| done.overlaps(span)).for_each(|done| done.superseded = true);
        self.done.push(Done { name, span, before, landed: vec![], superseded: false });
    }

    fn append(&mut self, rides: &[Ride]) {
        self.rides.extend(rides);
        for done in &mut self.done {
            done.landed.extend(rides.iter().filter(|ride| Done::holds(done.span, ride)));
        }
    }

    fn newest(&self) -> BTreeMap<i64, (i64, i64)> {
        let mut newest = BTreeMap::new();
        for ride in &self.rides {
            let (Some(driver), Some(t), Some(trips)) = *ride else { continue };
            let best = newest.entry(driver).or_insert((t / 1_000_000, trips));
            if best.0 < t / 1_000_000 {
                *best = (t / 1_000_000, trips);
            }
        }
        newest
    }
}

fn day(day: u64) -> String {
    format!("2024-01-{:02}", day + 1)
}

struct Case {
    world: World,
    model: Model,
    dice: Dice,
}

impl Case {
    fn new(seed: u64) -> Self {
        let layout = ["None", "Day", "Month"][(seed % 3) as usize];
        Self { world: World::new().partitioned_by(layout), model: Model::default(), dice: Dice(seed) }
    }

    fn span(&mut self) -> (u64, u64) {
        let start = self.dice.below(25);
        (start, start + 1 + self.dice.below(28 - start))
    }

    fn serial(&mut self) -> i64 {
        self.model.serial += 1;
        self.model.serial
    }

    /// A source with a row for some drivers and days of a span; the bounds of the span are days.
    fn source(&mut self, (start, stop): (u64, u64)) -> Vec<Ride> {
        let mut rides = Vec::new();
        for of in start..stop {
            for driver in 1..=DRIVERS {
                if self.dice.below(3) > 0 {
                    let trips = self.serial();
                    rides.push(ride(driver, &day(of), trips));
                }
            }
        }
        // Beyond both bounds, and never taken.
        let outside = [ride(1, "2023-12-31", -1), ride(1, &day(stop), -1)];
        self.world.source(&rides.iter().copied().chain(outside).collect::<Vec<_>>());
        rides
    }

    async fn runs(&self, name: &str, spec: Value) -> Report {
        let scratch = self.world.path("scratch");
        std::fs::create_dir_all(&scratch).expect("a folder");
        let cx = Context::new(self.world.path(""), self.world.path("secrets"), scratch, 0);
        let report = steps::offline(&cx, &order(&self.world, name, spec.clone(), Step::Offline, 1)).await;
        if report.outcome != Outcome::Done {
            steps::settle(&cx, &order(&self.world, name, spec, Step::Settle, 1)).await;
            return report;
        }
        let online = steps::online(&cx, &order(&self.world, name, spec, Step::Online, 1)).await;
        assert_eq!(online.outcome, Outcome::Done, "{name}");
        report
    }

    async fn replace(&mut self, reset: bool) {
        let span = self.span();
        let rides = self.source(span);
        let name = format!("b{}", self.serial());
        let guards = json!({ "maxShrinkPercent": 100, "allowEmpty": true });
        let mut spec = json!({ "startTime": day(span.0), "stopTime": day(span.1), "guards": guards });
        if reset {
            spec["reset"] = json!(true);
        }
        let report = self.runs(&name, spec).await;
        assert_eq!(report.outcome, Outcome::Done, "{name}");
        let micros = (at(&day(span.0)), at(&day(span.1)));
        self.model.replace(name, (!reset).then_some(micros), rides);
    }

    /// Ingestion writes rows into both stores.
    async fn append(&mut self) {
        if self.model.done.is_empty() {
            return;
        }
        let mut rides = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let (driver, of, serial) = (1 + self.dice.below(DRIVERS as u64) as i64, self.dice.below(28), self.serial());
            let (driver, t, trips) = (driver, at(&day(of)) + (3600 + serial) * 1_000_000, serial);
            rides.push((Some(driver), Some(t), Some(trips)));
            if self.world.online(driver).is_none_or(|(seconds, _)| seconds < t / 1_000_000) {
                self.world.ingest(driver, t, trips);
            }
        }
        self.world.append(&rides).await;
        self.model.append(&rides);
    }

    async fn compact(&self) {
        if self.world.find_table().await.is_some() {
            self.world.table().await.optimize().await.expect("compacted");
        }
    }

    async fn undo(&mut self) {
        if self.model.done.is_empty() {
            return;
        }
        let place = self.model.done.len() - 1 - self.dice.below(2.min(self.model.done.len() as u64)) as usize;
        let name = format!("undo{}", self.serial());
        let report = self.runs(&name, json!({ "undo": self.model.done[place].name })).await;
        let done = &self.model.done[place];
        if done.superseded {
            assert!(matches!(report.outcome, Outcome::Failed { reason: Reason::UndoSuperseded, .. }), "{:?}", report.outcome);
            return;
        }
        assert_eq!(report.outcome, Outcome::Done, "{name}");
        let (span, rides) = (done.span, done.before.iter().chain(&done.landed).copied().collect());
        self.model.replace(name, span, rides);
    }

    async fn holds(&self, what: &str) {
        if self.world.find_table().await.is_none() {
            return;
        }
        assert_eq!(self.world.rides().await, sorted(self.model.rides.clone()), "the table after {what}");
        let served: BTreeMap<i64, (i64, i64)> =
            (1..=DRIVERS).filter_map(|driver| Some((driver, self.world.online(driver)?))).collect();
        assert_eq!(served, self.model.newest(), "the online store after {what}");
        assert_eq!(publishes(&self.world, None).len(), self.model.done.len(), "one publish each");
    }
}

async fn case(seed: u64) {
    let mut case = Case::new(seed);
    let mut what = format!("case {seed}:");
    for _ in 0..STEPS {
        let step = case.dice.below(10);
        match step {
            0..=2 => case.append().await,
            3 => case.compact().await,
            4..=6 => case.replace(false).await,
            7 => case.replace(true).await,
            _ => case.undo().await,
        }
        what = format!(
            "{what} {}",
            ["append", "compact", "interval", "reset", "undo"][[0, 0, 0, 1, 2, 2, 2, 3, 4, 4][step as usize]]
        );
        case.holds(&what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_always_agree_with_the_model() {
    for seed in 0..CASES {
        case(seed).await;
    }
}
