use super::*;
use proptest::prelude::*;

fn fault(text: &str) -> TimeFault {
    parse_time("spec.startTime", text).expect_err(text).fault
}

fn shown(text: &str) -> String {
    show(parse_time("spec.startTime", text).expect(text))
}

#[test]
fn the_three_formats_and_rfc_3339_with_z_are_read_as_utc() {
    for (text, expected) in [
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("2024-05-01T12:30:05", "2024-05-01T12:30:05Z"),
        ("2024-05-01 12:30:05", "2024-05-01T12:30:05Z"),
        ("2024-05-01T12:30:05Z", "2024-05-01T12:30:05Z"),
        ("2024-05-01 12:30:05Z", "2024-05-01T12:30:05Z"),
        ("2024-05-01T12:30:05.1", "2024-05-01T12:30:05.100Z"),
        ("2024-05-01T12:30:05.001Z", "2024-05-01T12:30:05.001Z"),
        ("2024-02-29", "2024-02-29T00:00:00Z"),
        ("2000-02-29", "2000-02-29T00:00:00Z"),
        ("1900-01-01", "1900-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn a_time_in_the_gap_of_a_zones_clock_change_is_just_utc() {
    assert_eq!(shown("2024-03-31T02:30:00"), "2024-03-31T02:30:00Z");
}

#[test]
fn every_other_text_is_refused_with_its_own_fault() {
    for (expected, texts) in [
        (
            TimeFault::Format,
            &[
                "",
                "yesterday",
                "24-1-1",
                "2024-13-01",
                "2024-00-01",
                "2024-01-00",
                "2024-01-32",
                "2024-1-1",
                "2024-05",
                "2024-05-01T12:30",
                "2024-05-01T24:00:00",
                "2024-05-01T12:60:00",
                "2024-05-01T12:30:61",
                "2024-05-01t12:30:00",
                "2024-05-01T12:30:00.",
                " 2024-05-01",
                "2024-05-01 ",
                "2024-05-01Z",
                "2024-05-01T",
                "1714521600",
                "2024-05-01T12:30:00\u{0}",
                "２０２４-05-01",
                "2024/05/01",
                "-2024-05-01",
                "2024-05-0é",
            ][..],
        ),
        (
            TimeFault::Zone,
            &[
                "2024-05-01T12:30:00+02:00",
                "2024-05-01T12:30:00-0500",
                "2024-05-01 12:30:00 Europe/Paris",
                "2024-05-01T12:30:00.123+00:00",
                "2024-05-01T12:30:00z",
            ],
        ),
        (TimeFault::NoSuchDay, &["2024-02-30", "2023-02-29", "1900-02-29", "2024-04-31", "2024-06-31T10:00:00Z"]),
        (TimeFault::LeapSecond, &["2024-06-30T23:59:60", "2024-06-30T23:59:60Z", "2024-06-30 23:59:60.5"]),
        (TimeFault::TooFine, &["2024-05-01T12:30:00.1234", "2024-05-01T12:30:00.123456Z", "2024-05-01T12:30:00.123000"]),
        (TimeFault::Year, &["1899-12-31", "0000-01-01", "10000-01-01", "999999999999-01-01"]),
    ] {
        for text in texts {
            assert_eq!(fault(text), expected, "{text}");
        }
    }
}

#[test]
fn a_refusal_names_field_value_and_way_out() {
    let message = |text| parse_time("spec.stopTime", text).expect_err(text).to_string();
    assert_eq!(
        message("yesterday"),
        "spec.stopTime: \"yesterday\" is not a time; write 2024-05-01, 2024-05-01T12:30:00 or 2024-05-01 12:30:00, in UTC, \
         with an optional Z after the time"
    );
    assert_eq!(message("2023-02-29"), "spec.stopTime: \"2023-02-29\" is no such day");
    assert!(message("2024-05-01T00:00:00+02:00").contains("times are UTC"));
    assert!(message("2024-06-30T23:59:60").contains("use 00:00:00 of the next day"));
}

#[test]
fn durations_are_sums_of_days_hours_minutes_and_seconds() {
    for (text, expected) in
        [("1s", 1), ("90s", 90), ("15m", 900), ("1h30m", 5_400), ("2d", 172_800), ("1d2h3m4s", 93_784), ("36500d", 3_153_600_000)]
    {
        assert_eq!(parse_duration("deadline", text), Ok(expected), "{text}");
    }
}

#[test]
fn other_durations_are_refused_with_an_example() {
    for text in [
        "",
        "1",
        "0s",
        "0d0h",
        "1h1d",
        "1h1h",
        "-1h",
        "+1h",
        "1.5h",
        "1 h",
        "h",
        "1w",
        "1H",
        "36501d",
        "99999999999999999999s",
        "18446744073709551615d",
    ] {
        let message = parse_duration("spec.deadline", text).expect_err(text).to_string();
        assert!(message.starts_with(&format!("spec.deadline: \"{text}\" is not a duration; write for instance")), "{message}");
    }
}

#[test]
fn an_interval_is_half_open_and_never_empty() {
    let at = |text| parse_time("t", text).expect(text);
    let interval = Interval::new(at("2024-05-01"), at("2024-05-02")).expect("not empty");
    assert!(interval.contains(interval.start()), "the start belongs");
    assert!(!interval.contains(interval.stop()), "the stop does not");
    assert!(Interval::new(at("2024-05-01"), at("2024-05-01")).is_err());
    assert_eq!(
        Interval::new(at("2024-05-02"), at("2024-05-01")).expect_err("empty").to_string(),
        "the start 2024-05-02T00:00:00Z is not before the stop 2024-05-01T00:00:00Z"
    );
    assert!(serde_json::from_str::<Interval>(r#"{"start":"2024-05-02T00:00:00Z","stop":"2024-05-01T00:00:00Z"}"#).is_err());
}

/// Milliseconds of the years that can be written.
fn millis() -> impl Strategy<Value = i64> {
    -2_208_988_800_000_i64..253_402_300_800_000
}

fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    millis().prop_map(|millis| DateTime::from_timestamp_millis(millis).expect("in range"))
}

fn intervals() -> impl Strategy<Value = Interval> {
    (millis(), 1..10_000_000_000_i64).prop_map(|(start, length)| {
        let at = |millis| DateTime::from_timestamp_millis(millis).expect("in range");
        Interval::new(at(start), at(start + length)).expect("not empty")
    })
}

proptest! {
    #[test]
    fn what_is_shown_is_read_back(t in instants()) {
        prop_assert_eq!(parse_time("t", &show(t)), Ok(t));
        prop_assert_eq!(parse_time("t", &show(t).replace('T', " ").replace('Z', "")), Ok(t));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,30}", near in "[0-9]{3,5}-[0-9]{2}-[0-9é]{1,3}[T ]?[0-9:]{0,8}[.]?[0-9]{0,4}[Z+]?") {
        let _ = parse_time("t", &text);
        let _ = parse_time("t", &near);
        let _ = parse_duration("t", &text);
    }

    #[test]
    fn an_accepted_time_lies_in_range_and_is_whole_milliseconds(text in "[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,4})?Z?") {
        if let Ok(t) = parse_time("t", &text) {
            prop_assert_eq!(t.timestamp_subsec_nanos() % 1_000_000, 0);
            prop_assert_eq!(&show(t)[..19], &text[..19]);
        }
    }

    #[test]
    fn intersection_is_what_both_contain(a in intervals(), b in intervals(), t in instants()) {
        let both = a.contains(t) && b.contains(t);
        prop_assert_eq!(a.intersection(b).is_some_and(|i| i.contains(t)), both);
        prop_assert_eq!(a.overlaps(b), a.intersection(b).is_some());
        prop_assert_eq!(a.overlaps(b), b.overlaps(a));
        prop_assert_eq!(a.intersection(a), Some(a));
    }

    #[test]
    fn a_duration_is_the_sum_of_its_parts(days in 0..100_u64, hours in 0..100_u64, minutes in 0..100_u64, seconds in 1..100_u64) {
        let total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds;
        prop_assert_eq!(parse_duration("t", &format!("{days}d{hours}h{minutes}m{seconds}s")), Ok(total));
    }
}
