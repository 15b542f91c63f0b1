//! What time it is. Moments that are compared come from the API server: when a pod was told to end, when a claim was made, since
//! when a condition holds. So *now* is the API server's, too: its answers carry the time, and this machine's clock only counts on.

use chrono::{DateTime, TimeDelta, Utc};
use std::sync::atomic::{AtomicI64, Ordering};

/// Smaller differences are those of whole seconds and of the way to the API server.
const NOTICED: TimeDelta = TimeDelta::seconds(2);

/// From here on somebody should look after this machine's clock.
const TOLD: TimeDelta = TimeDelta::seconds(30);

/// The API server's clock, as far as it is known.
#[derive(Debug, Default)]
pub struct Clock {
    ahead_millis: AtomicI64,
}

impl Clock {
    /// The moment by the API server's clock. Before its first answer, by this machine's.
    pub fn now(&self) -> DateTime<Utc> {
        self.at(Utc::now())
    }

    fn at(&self, here: DateTime<Utc>) -> DateTime<Utc> {
        here + TimeDelta::milliseconds(self.ahead_millis.load(Ordering::Relaxed))
    }

    /// The `Date` of an answer that has just come.
    pub fn heard(&self, date: &str) {
        self.compare(date, Utc::now());
    }

    fn compare(&self, date: &str, here: DateTime<Utc>) {
        let Ok(there) = DateTime::parse_from_rfc2822(date) else { return };
        // Whole seconds are cut off, so that half of one is missing on average.
        let ahead = there.to_utc() + TimeDelta::milliseconds(500) - here;
        let before = TimeDelta::milliseconds(self.ahead_millis.load(Ordering::Relaxed));
        if (ahead - before).abs() < NOTICED {
            return;
        }
        let kept = if ahead.abs() < NOTICED { TimeDelta::zero() } else { ahead };
        self.ahead_millis.store(kept.num_milliseconds(), Ordering::Relaxed);
        if kept.abs() > TOLD {
            tracing::warn!(
                seconds = -kept.num_seconds(),
                "this machine's clock is ahead of the API server's; the API server's counts"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    #[test]
    fn the_api_servers_clock_counts() {
        for (here, ahead) in [
            ("2026-11-23T12:00:00.700Z", 0),
            ("2026-11-23T12:00:01.900Z", 0),
            ("2026-11-23T11:00:00.500Z", 3600),
            ("2026-11-23T13:00:00.500Z", -3600),
        ] {
            let clock = Clock::default();
            clock.compare("Mon, 23 Nov 2026 12:00:00 GMT", at(here));
            assert_eq!((clock.at(at(here)) - at(here)).num_seconds(), ahead, "{here}");
        }
    }

    #[test]
    fn a_small_difference_does_not_move_it_and_a_mended_clock_does() {
        let clock = Clock::default();
        clock.compare("Mon, 23 Nov 2026 12:00:00 GMT", at("2026-11-23T11:00:00.500Z"));
        clock.compare("Mon, 23 Nov 2026 12:00:10 GMT", at("2026-11-23T11:00:11.900Z"));
        assert_eq!(clock.at(at("2026-11-23T11:00:12Z")), at("2026-11-23T12:00:12Z"));
        clock.compare("Mon, 23 Nov 2026 12:00:20 GMT", at("2026-11-23T12:00:20.500Z"));
        assert_eq!(clock.at(at("2026-11-23T12:00:21Z")), at("2026-11-23T12:00:21Z"));
        clock.compare("no date", at("2026-11-23T15:00:00Z"));
        assert_eq!(clock.at(at("2026-11-23T12:00:22Z")), at("2026-11-23T12:00:22Z"));
    }
}
