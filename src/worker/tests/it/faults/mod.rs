//! Processes that die or stop at named points, and what others do to the stores meanwhile.

mod others;
mod process;
mod steps;
mod view;

pub use process::Running;
pub use steps::{order, run_step};
pub use view::{log, publishes};

use crate::support::{Ended, Ride, World, ride};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;

/// January 2024, a row a driver and day for four drivers, in one file; driver 9 has its only row on the 12th, driver 8 on the 25th.
pub fn january() -> Vec<Ride> {
    let days = (1..=30).flat_map(|day| (1..=4).map(move |driver| ride(driver, &format!("2024-01-{day:02}"), 100 * driver + day)));
    days.chain([ride(9, "2024-01-12", 9), ride(8, "2024-01-25", 8)]).collect()
}

/// The ten days that most tests replace: another value, and driver 9 is gone while driver 7 is new.
pub fn corrected() -> Vec<Ride> {
    let days =
        (10..20).flat_map(|day| (1..=4).map(move |driver| ride(driver, &format!("2024-01-{day:02}"), 1000 * driver + day)));
    days.chain([ride(7, "2024-01-15", 7)]).collect()
}

/// Those ten days.
pub fn ten_days() -> Value {
    json!({ "startTime": "2024-01-10", "stopTime": "2024-01-20" })
}

/// Rows of a span of days in January: `from <= day < to`.
pub fn within(rides: &[Ride], from: u32, to: u32) -> Vec<Ride> {
    let day = |day: u32| crate::support::at(&format!("2024-01-{day:02}"));
    rides.iter().filter(|ride| ride.1.is_some_and(|t| day(from) <= t && t < day(to))).copied().collect()
}

/// Rows outside of it.
pub fn outside(rides: &[Ride], from: u32, to: u32) -> Vec<Ride> {
    let inside = within(rides, from, to);
    rides.iter().filter(|ride| !inside.contains(ride)).copied().collect()
}

/// In the order of [`World::rides`].
pub fn sorted(rides: impl IntoIterator<Item = Ride>) -> Vec<Ride> {
    let mut rides: Vec<Ride> = rides.into_iter().collect();
    rides.sort_by_key(|ride| (ride.1, ride.0, ride.2));
    rides
}

/// January is filled, and the source holds what the ten days are to become.
pub fn filled() -> World {
    filled_in(World::new())
}

/// The same in a world.
pub fn filled_in(world: World) -> World {
    world.fill(&january(), "2024-01-01", "2024-02-01");
    world.source(&corrected());
    world
}

/// What the table holds once the ten days are replaced.
pub fn replaced() -> Vec<Ride> {
    sorted(outside(&january(), 10, 20).into_iter().chain(corrected()))
}

impl World {
    /// Runs a backfill that kills itself at a point.
    #[track_caller]
    pub fn killed_at(&self, point: &str, name: &str, spec: Value) {
        let output = self.command(name, spec).env("FAILPOINT", format!("{point}:kill")).output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(9), "{point} is reached; instead: {} {said}", output.status);
    }

    /// Starts a backfill and waits until it stops itself at a point.
    #[track_caller]
    pub fn stopped_at(&self, point: &str, name: &str, spec: Value) -> Running {
        let mut running = Running::start(self.command(name, spec).env("FAILPOINT", format!("{point}:stop")));
        assert!(running.stops(), "{point} is reached; instead: {:?}", running.ended());
        running
    }

    /// Replaces the ten days and lets others act right before the commit, each time it is tried.
    #[track_caller]
    pub fn replaced_while(&self, mut others: impl FnMut(&World)) -> Ended {
        let mut running = self.stopped_at("before-publish", "ten-days", ten_days());
        loop {
            others(self);
            running.goes_on();
            if !running.stops() {
                return running.ended();
            }
        }
    }
}
