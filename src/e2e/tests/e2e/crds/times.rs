//! Times of a backfill: each that is refused gets one message, of its field, with the way out.

use super::{assert_refused, backfill, refusals};
use anyhow::Result;
use backfill_e2e::test;
use serde_json::json;

const FORMAT: &str =
    "is not a time; write 2024-05-01, 2024-05-01T12:30:00 or 2024-05-01 12:30:00, in UTC, with an optional Z after the time";
const NO_SUCH_DAY: &str = "is no such day";
const LEAP_SECOND: &str = "is a leap second; leap seconds are not supported; use 00:00:00 of the next day";
const ZONE: &str = "has an offset or a zone; times are UTC: convert it, or end it with Z";
const TOO_FINE: &str = "is finer than 1 ms; give at most three digits after the second";
const YEAR: &str = "year";
const ORDER: &str = "startTime must be before stopTime";

#[test]
fn times_of_three_formats_are_accepted() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("times").await?;
        for time in [
            "2024-05-01",
            "2024-05-01T12:30:05",
            "2024-05-01 12:30:05",
            "2024-05-01T12:30:05Z",
            "2024-05-01 12:30:05.123Z",
            "2024-02-29",
            "2000-02-29",
            "1900-01-01",
            "9999-12-31",
            // Row 5: a gap in local time is an ordinary time in UTC.
            "2024-03-31T02:30:00",
        ] {
            let object = backfill(&json!({"startTime": time, "stopTime": null}));
            assert_eq!(refusals(shared, &namespace, &object).await?, Vec::<String>::new(), "{time}");
        }
        Ok(())
    })
}

#[test]
fn a_refused_time_gets_one_message_with_the_way_out() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("times").await?;
        for (time, words) in [
            // Row 1.
            ("2024-13-01", FORMAT),
            ("24-1-1", FORMAT),
            ("yesterday", FORMAT),
            ("", FORMAT),
            ("2024-05-01\n", FORMAT),
            ("2024-05-01T24:00:00", FORMAT),
            ("2024-05-01T12:30", FORMAT),
            // Row 2.
            ("2024-02-30", NO_SUCH_DAY),
            ("2023-02-29", NO_SUCH_DAY),
            ("1900-02-29", NO_SUCH_DAY),
            ("2024-06-31T10:00:00Z", NO_SUCH_DAY),
            // Row 3.
            ("2024-06-30T23:59:60", LEAP_SECOND),
            ("2024-06-30T23:59:60Z", LEAP_SECOND),
            // Row 4.
            ("2024-05-01T12:30:00+02:00", ZONE),
            ("2024-05-01 12:30:00 Europe/Paris", ZONE),
            ("2024-05-01T12:30:00z", ZONE),
            // Row 6.
            ("2024-05-01T12:30:00.1234", TOO_FINE),
            ("2024-05-01T12:30:00.123456Z", TOO_FINE),
            // Row 7.
            ("1899-12-31", YEAR),
            ("0000-01-01", YEAR),
            ("10000-01-01", YEAR),
        ] {
            for field in ["startTime", "stopTime"] {
                let mut change = json!({"startTime": null, "stopTime": null});
                change[field] = json!(time);
                let refusals = refusals(shared, &namespace, &backfill(&change)).await?;
                assert_refused(&refusals, &format!("spec.{field}"), words, &change);
            }
        }
        Ok(())
    })
}

#[test]
fn the_start_lies_before_the_stop_in_whatever_format() -> Result<()> {
    test(async |shared| {
        let namespace = shared.cluster.namespace("times").await?;
        for (start, stop, fine) in [
            ("2024-05-01", "2024-05-01T00:00:00.001", true),
            ("2024-05-01 00:00:00", "2024-05-01T00:00:00.001Z", true),
            ("2024-05-01T00:00:00Z", "2024-05-01 00:00:01", true),
            ("2024-05-01T00:00:00.5", "2024-05-01T00:00:00.501", true),
            ("1999-12-31", "2000-01-01", true),
            // Row 8.
            ("2024-05-01", "2024-05-01", false),
            ("2024-05-02", "2024-05-01", false),
            ("2024-05-01", "2024-05-01T00:00:00Z", false),
            ("2024-05-01T00:00:00.5", "2024-05-01 00:00:00.500Z", false),
            ("2024-05-01T00:00:00.001", "2024-05-01", false),
            ("2024-05-01T12:00:00Z", "2024-05-01 00:00:00", false),
        ] {
            for reset in [false, true] {
                let change = json!({"startTime": start, "stopTime": stop, "reset": reset});
                let refusals = refusals(shared, &namespace, &backfill(&change)).await?;
                if fine {
                    assert_eq!(refusals, Vec::<String>::new(), "{change}");
                } else {
                    assert_refused(&refusals, "spec", ORDER, &change);
                }
            }
        }
        let unreadable = json!({"startTime": "yesterday", "stopTime": "2024-05-01"});
        assert_refused(&refusals(shared, &namespace, &backfill(&unreadable)).await?, "spec.startTime", FORMAT, &unreadable);
        Ok(())
    })
}
