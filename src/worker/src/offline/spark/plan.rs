//! How much Spark writes at a time, and into how many files. Pure.

use backfill_core::window::Window;

/// How many windows are written by one job: plans stay small, and progress is told often.
const WINDOWS_MAX: usize = 16;

/// About how many bytes of the sources become one file.
const FILE_BYTES: u64 = 64 << 20;

/// The most tasks of one job that write.
const TASKS_MAX: i64 = 10_000;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// Windows that are written by one job, and how their rows are cut: into slices of time, and these by the hash of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// The windows, in the order of time.
    pub windows: &'a [Window],
    /// Where the first slice begins, a midnight.
    pub from: i64,
    /// The length of a slice, whole days.
    pub step: i64,
    /// How many slices.
    pub slices: i64,
    /// Into how many parts each is cut by its keys.
    pub buckets: i64,
}

/// Groups of windows whose sources hold so many bytes.
pub fn groups(windows: &[Window], bytes: u64) -> Vec<Group<'_>> {
    let span = |windows: &[Window]| match (windows.first(), windows.last()) {
        (Some(first), Some(last)) => (first.rows().0, last.rows().1),
        _ => (0, 0),
    };
    let (start, stop) = span(windows);
    let group = |windows| {
        let (from, to) = span(windows);
        // Nothing is known but the bytes of all: they count as spread evenly.
        let share = u128::from(bytes) * (to - from).unsigned_abs() as u128 / (stop - start).max(1).unsigned_abs() as u128;
        let files = i64::try_from(share / u128::from(FILE_BYTES)).unwrap_or(i64::MAX).clamp(1, TASKS_MAX);
        // Slices end at midnight, where partitions end.
        let from = from.div_euclid(MICROS_A_DAY) * MICROS_A_DAY;
        let days = ((to - from) + MICROS_A_DAY - 1).div_euclid(MICROS_A_DAY).max(1);
        let days_each = (days + files - 1) / files;
        let slices = (days + days_each - 1) / days_each;
        Group { windows, from, step: days_each * MICROS_A_DAY, slices, buckets: (files / slices).max(1) }
    };
    windows.chunks(WINDOWS_MAX).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backfill_core::contract::{Schedule, Ticks};
    use backfill_core::time::{Interval, parse_time};
    use backfill_core::window::windows;

    fn interval(start: &str, stop: &str) -> Interval {
        let at = |text| parse_time("t", text).expect(text);
        Interval::new(at(start), at(stop)).expect("not empty")
    }

    fn cut(start: &str, stop: &str, bytes: u64) -> (i64, i64, i64) {
        let windows = [Window::whole(interval(start, stop))];
        let groups = groups(&windows, bytes);
        assert_eq!(groups.len(), 1);
        (groups[0].step / MICROS_A_DAY, groups[0].slices, groups[0].buckets)
    }

    #[test]
    fn slices_are_whole_days_and_as_many_as_the_bytes_ask_for() {
        assert_eq!(cut("2024-05-01", "2024-06-01", 0), (31, 1, 1));
        assert_eq!(cut("2024-05-01", "2024-06-01", 4 * FILE_BYTES), (8, 4, 1));
        assert_eq!(cut("2024-05-01", "2024-06-01", 31 * FILE_BYTES), (1, 31, 1));
        assert_eq!(cut("2024-05-01", "2024-06-01", 100 * FILE_BYTES), (1, 31, 3));
        assert_eq!(cut("2024-05-01 12:00:00", "2024-05-01 13:00:00", 10 * FILE_BYTES), (1, 1, 10));
        assert_eq!(cut("1969-12-31 23:00:00", "1970-01-01 01:00:00", FILE_BYTES), (2, 1, 1));
        assert_eq!(cut("2024-05-01", "2024-05-02", u64::MAX), (1, 1, TASKS_MAX));
    }

    #[test]
    fn many_windows_are_written_in_groups_that_share_the_bytes() {
        let schedule = Schedule { ticks: Ticks::EverySeconds(86_400), stamp: Default::default() };
        let windows = windows(Some(&schedule), interval("2024-05-01", "2024-06-10")).expect("windows");
        let groups = groups(&windows, 40 * FILE_BYTES);
        let sizes: Vec<_> = groups.iter().map(|group| (group.windows.len(), group.slices, group.buckets)).collect();
        assert_eq!(sizes, [(16, 16, 1), (16, 16, 1), (8, 8, 1)]);
        assert_eq!(groups[1].from, windows[16].rows().0);
    }
}
