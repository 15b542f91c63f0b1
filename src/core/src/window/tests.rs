use super::*;
use crate::time::parse_time;
use proptest::prelude::*;

fn at(text: &str) -> DateTime<Utc> {
    parse_time("t", text).expect(text)
}

fn interval(start: &str, stop: &str) -> Interval {
    Interval::new(at(start), at(stop)).expect("not empty")
}

fn every(seconds: u64, stamp: Stamp) -> Schedule {
    Schedule { ticks: Ticks::EverySeconds(seconds), stamp }
}

fn by_cron(expression: &str, stamp: Stamp) -> Schedule {
    Schedule { ticks: Ticks::Cron(expression.to_owned()), stamp }
}

fn spans(windows: &[Window]) -> Vec<(String, String, bool)> {
    windows.iter().map(|window| (show(window.start()), show(window.stop()), window.partial())).collect()
}

fn span(start: &str, stop: &str, partial: bool) -> (String, String, bool) {
    (show(at(start)), show(at(stop)), partial)
}

#[test]
fn without_a_schedule_the_interval_is_the_one_window() {
    let interval = interval("2024-05-01", "2024-05-03");
    assert_eq!(windows(None, interval), Ok(vec![Window::whole(interval)]));
    assert!(!Window::whole(interval).partial());
}

#[test]
fn an_aligned_interval_is_cut_at_its_ticks() {
    let windows = windows(Some(&every(86_400, Stamp::Start)), interval("2024-05-01", "2024-05-03")).expect("valid");
    assert_eq!(spans(&windows), [span("2024-05-01", "2024-05-02", false), span("2024-05-02", "2024-05-03", false)]);
}

#[test]
fn bounds_between_ticks_make_partial_windows() {
    let windows =
        windows(Some(&every(86_400, Stamp::Start)), interval("2024-05-01 06:00:00.250", "2024-05-03 01:00:00")).expect("valid");
    assert_eq!(
        spans(&windows),
        [
            span("2024-05-01 06:00:00.250", "2024-05-02", true),
            span("2024-05-02", "2024-05-03", false),
            span("2024-05-03", "2024-05-03 01:00:00", true)
        ]
    );
}

#[test]
fn an_interval_inside_one_tick_is_one_partial_window() {
    let inside = interval("2024-05-01 06:00:00", "2024-05-01 07:00:00");
    let windows = windows(Some(&every(86_400, Stamp::Start)), inside).expect("valid");
    assert_eq!(spans(&windows), [span("2024-05-01 06:00:00", "2024-05-01 07:00:00", true)]);
}

#[test]
fn ticks_before_1970_are_aligned_too() {
    let windows = windows(Some(&every(7 * 86_400, Stamp::Start)), interval("1969-12-20", "1970-01-05")).expect("valid");
    assert_eq!(
        spans(&windows),
        [span("1969-12-20", "1969-12-25", true), span("1969-12-25", "1970-01-01", false), span("1970-01-01", "1970-01-05", true)]
    );
}

#[test]
fn a_cron_expression_ticks_in_utc() {
    let windows = windows(Some(&by_cron("30 6 * * MON", Stamp::Start)), interval("2024-05-01", "2024-05-14")).expect("valid");
    assert_eq!(
        spans(&windows),
        [
            span("2024-05-01", "2024-05-06 06:30:00", true),
            span("2024-05-06 06:30:00", "2024-05-13 06:30:00", false),
            span("2024-05-13 06:30:00", "2024-05-14", true)
        ]
    );
}

#[test]
fn windows_stamped_by_their_stop_are_whole_and_their_stop_lies_in_the_interval() {
    for schedule in [every(86_400, Stamp::Stop), by_cron("0 0 * * *", Stamp::Stop)] {
        let windows = windows(Some(&schedule), interval("2024-05-01", "2024-05-03")).expect("valid");
        assert_eq!(spans(&windows), [span("2024-04-30", "2024-05-01", false), span("2024-05-01", "2024-05-02", false)]);
        let [first, second] = windows[..] else { panic!("two windows") };
        assert!(first.owns(at("2024-05-01")), "a row stamped with the stop belongs");
        assert!(!first.owns(at("2024-04-30 23:59:59.999")), "what lies before the interval does not, though the window holds it");
        assert!(!second.owns(at("2024-05-01")), "a row stamped with the start belongs to the window before");
        assert!(second.owns(at("2024-05-01") + TimeDelta::microseconds(1)));
        assert!(second.owns(at("2024-05-02")));
        assert!(!second.owns(at("2024-05-02") + TimeDelta::microseconds(1)), "after the last stop nothing is filled");
    }
}

#[test]
fn a_stop_within_the_second_of_the_start_is_not_missed_and_not_taken_twice() {
    let windows =
        windows(Some(&by_cron("0 0 * * *", Stamp::Stop)), interval("2024-05-01 00:00:00.500", "2024-05-02 00:00:00.001"))
            .expect("valid");
    assert_eq!(spans(&windows), [span("2024-05-01", "2024-05-02", false)]);
}

#[test]
fn an_interval_in_which_no_window_stops_is_refused_with_the_next_stop() {
    let error = windows(Some(&every(86_400, Stamp::Stop)), interval("2024-05-01 01:00:00", "2024-05-02")).expect_err("no tick");
    assert_eq!(error.reason(), Reason::EmptyInterval);
    assert_eq!(
        error.to_string(),
        "no window of the feature set stops in [2024-05-01T01:00:00Z, 2024-05-02T00:00:00Z); \
         the next one stops at 2024-05-02T00:00:00Z: give a later stopTime"
    );
}

#[test]
fn an_invalid_cron_expression_is_refused_with_the_expression() {
    for expression in
        ["", "* * * *", "* * * * * *", "@daily", "61 * * * *", "0 0 30 2 *", "0 0 * * FOO", "x y z a b", "0 0 0 0 0 2024"]
    {
        let error =
            windows(Some(&by_cron(expression, Stamp::Start)), interval("2024-05-01", "2024-05-02")).expect_err(expression);
        assert_eq!(error.reason(), Reason::InvalidSchedule, "{expression}");
        assert!(error.to_string().starts_with(&format!("\"{expression}\" is not a cron expression")), "{error}");
    }
}

#[test]
fn more_windows_than_the_limit_are_refused() {
    for stamp in [Stamp::Start, Stamp::Stop] {
        let year = interval("2023-01-01", "2024-01-01");
        let error = windows(Some(&every(60, stamp)), year).expect_err("525,600 windows");
        assert_eq!(error.reason(), Reason::TooManyWindows);
        assert!(error.to_string().ends_with("replace it in several backfills"), "{error}");
        let exactly = Interval::new(at("2024-01-01"), at("2024-01-01") + TimeDelta::minutes(100_000)).expect("not empty");
        assert_eq!(windows(Some(&every(60, stamp)), exactly).map(|windows| windows.len()), Ok(WINDOWS_MAX));
        let one_more = Interval::new(exactly.start(), exactly.stop() + TimeDelta::minutes(1)).expect("not empty");
        assert!(windows(Some(&every(60, stamp)), one_more).is_err());
    }
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let ticks = prop_oneof![
        (1..400_000_u64).prop_map(Ticks::EverySeconds),
        prop::sample::select(vec!["0 * * * *", "*/7 2-5 * * *", "15 3 * * MON,THU", "0 0 1 * *", "0 12 L * *", "0 0 29 2 *"])
            .prop_map(|expression| Ticks::Cron(expression.to_owned())),
    ];
    (ticks, prop_oneof![Just(Stamp::Start), Just(Stamp::Stop)]).prop_map(|(ticks, stamp)| Schedule { ticks, stamp })
}

fn intervals() -> impl Strategy<Value = Interval> {
    (-2_000_000_000_000_i64..4_000_000_000_000, 1..100_000_000_i64).prop_map(|(start, length)| {
        let time = |millis| DateTime::from_timestamp_millis(millis).expect("in range");
        Interval::new(time(start), time(start + length)).expect("not empty")
    })
}

proptest! {
    #[test]
    fn rows_of_windows_are_in_order_never_overlap_and_stay_in_the_interval(schedule in schedules(), interval in intervals()) {
        if let Ok(windows) = windows(Some(&schedule), interval) {
            let (start, stop) = Window::whole(interval).rows();
            prop_assert!(windows.iter().all(|window| start <= window.rows().0 && window.rows().0 < window.rows().1 && window.rows().1 <= stop));
            prop_assert!(windows.windows(2).all(|pair| pair[0].rows().1 <= pair[1].rows().0 && pair[0].stop() == pair[1].start()));
        }
    }

    #[test]
    fn windows_stamped_by_their_start_cover_the_interval_exactly(schedule in schedules(), interval in intervals()) {
        let schedule = Schedule { stamp: Stamp::Start, ..schedule };
        if let Ok(windows) = windows(Some(&schedule), interval) {
            prop_assert_eq!(windows.first().map(|window| window.rows().0), Some(interval.start().timestamp_micros()));
            prop_assert_eq!(windows.last().map(|window| window.rows().1), Some(interval.stop().timestamp_micros()));
            prop_assert!(windows.windows(2).all(|pair| pair[0].rows().1 == pair[1].rows().0));
            prop_assert!(windows.iter().skip(1).rev().skip(1).all(|window| !window.partial()), "only the first and the last may be partial");
        }
    }

    #[test]
    fn windows_stamped_by_their_stop_own_it_and_together_all_rows_up_to_the_last_stop(schedule in schedules(), interval in intervals()) {
        let schedule = Schedule { stamp: Stamp::Stop, ..schedule };
        if let Ok(windows) = windows(Some(&schedule), interval) {
            prop_assert!(windows.iter().all(|window| window.owns(window.stop()) && !window.owns(window.start())));
            prop_assert_eq!(windows[0].rows().0, interval.start().timestamp_micros().max(windows[0].start().timestamp_micros() + 1));
            prop_assert!(windows.windows(2).all(|pair| pair[0].rows().1 == pair[1].rows().0));
        }
    }
}
