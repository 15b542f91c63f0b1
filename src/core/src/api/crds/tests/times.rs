//! The rules for times, URIs, durations and sizes accept exactly what the parsers accept.

use super::*;
use crate::api::schema;
use crate::request::{check_uri, parse_quantity};
use crate::time::{parse_duration, parse_time};
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use proptest::prelude::*;
use schemars::{Schema, SchemaGenerator};
use std::sync::LazyLock;

fn compiled(of: fn(&mut SchemaGenerator) -> Schema) -> CompiledSchema {
    compile_schema(&serde_json::to_value(of(&mut SchemaGenerator::default())).expect("JSON"))
}

/// What the rules say to a text.
fn say(schema: &CompiledSchema, text: &str) -> Vec<String> {
    let result = Validator::new().validate_compiled(schema, &json!(text), None);
    result.err().iter().flat_map(|errors| errors.iter()).map(|error| error.message.clone()).collect()
}

static TIME: LazyLock<CompiledSchema> = LazyLock::new(|| compiled(schema::time));

#[test]
fn a_refused_time_gets_one_message_and_it_is_the_parsers() {
    for text in [
        "2024-05-01",
        "2024-05-01T12:30:05",
        "2024-05-01 12:30:05",
        "2024-05-01T12:30:05Z",
        "2024-05-01 12:30:05.123Z",
        "2024-02-29",
        "2000-02-29",
        "1900-01-01",
        "9999-12-31",
        "2024-03-31T02:30:00",
        "2024-13-01",
        "24-1-1",
        "yesterday",
        "",
        "2024-02-30",
        "2023-02-29",
        "1900-02-29",
        "2024-04-31",
        "2024-06-31T10:00:00Z",
        "2024-06-30T23:59:60",
        "2024-06-30T23:59:60Z",
        "2024-05-01T12:30:00+02:00",
        "2024-05-01 12:30:00 Europe/Paris",
        "2024-05-01T12:30:00-0500",
        "2024-05-01T12:30:00z",
        "2024-05-01T12:30:00 UTC+0Z",
        "2024-05-01T12:30:00.1234",
        "2024-05-01T12:30:00.123456Z",
        "1899-12-31",
        "0000-01-01",
        "10000-01-01",
        "2024-05-01T24:00:00",
        "2024-05-01T12:60:00",
        "2024-05-01T12:30",
        "2024-05-01T12:30:00.",
        "2024-05-01Z",
        "2024-05-01 ",
        " 2024-05-01",
        "2024-05-01\n",
        "2024-05-01T12:30:00Z\n",
        "2024-05-01T12:30:00 Z",
        "２０２４-05-01",
        "2024/05/01",
        "-2024-05-01",
        "2024-05-01T12:30:61",
    ] {
        let parsed: Vec<String> = parse_time("t", text).err().map(|error| error.fault.to_string()).into_iter().collect();
        assert_eq!(say(&TIME, text), parsed, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_rules_accept_exactly_the_times_that_are_read(
        text in "[0-9]{3,5}-[0-3][0-9]-[0-3][0-9]([T t][0-2][0-9]:[0-6][0-9]:[0-6][0-9]([.][0-9]{0,4})?(Z|z| Z|[+]01:00)?)?"
    ) {
        prop_assert_eq!(say(&TIME, &text).is_empty(), parse_time("t", &text).is_ok(), "{}", text);
    }

    #[test]
    fn the_rules_accept_exactly_the_days_of_the_calendar(year in 1900..2500_i32, month in 1..13_u32, day in 1..32_u32) {
        let text = format!("{year}-{month:02}-{day:02}");
        prop_assert_eq!(say(&TIME, &text).is_empty(), chrono::NaiveDate::from_ymd_opt(year, month, day).is_some(), "{}", text);
    }
}

#[test]
fn the_rules_accept_exactly_the_uris_that_are_used() {
    let schema = compiled(schema::uri);
    for uri in [
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a/b=1/c.parquet",
        "s3://b/x/",
        "gs://b_u/x/",
        "abfss://c@acc.dfs.core.windows.net/x",
        "file:///store",
        "file:///store/x/y",
        "",
        "bucket/x",
        "/store/x",
        "S3://b/x",
        "s3:///x",
        "s3://",
        "s3://key:secret@bucket/x",
        "s3://b/x?y=1",
        "s3://b/x#y",
        "s3://b/*.csv",
        "s3://b/a b",
        "s3://b/a\u{a0}b",
        "s3://b/a\tb",
        "s3://b/../x",
        "s3://b/x/..",
        "s3://b/./x",
        "s3://b/.x",
        "s3://b/x..y",
        "s3://b//x",
        "s3://b/x//",
        "s3://b/%2e%2e/x",
        "s3://b/x\u{0}",
        "s3://b/x\n",
        "abfss://acc/x",
        "abfss://c@/x",
        "abfss://@a/x",
        "file://host/store/x",
        "file:///etc/passwd",
        "file:///storex",
        "file:///store/../etc",
        "file:/store/x",
        "http://b/x",
        "ftp://b/x",
        "memory:///x",
        "s3://b/x'; DROP",
        "s3://b/{a,b}",
        "s3://b/[a]",
        "s3://b/\\x",
        "s3://b/\"x\"",
        "s3://b/é",
    ] {
        assert_eq!(say(&schema, uri).is_empty(), check_uri(uri).is_ok(), "{uri:?}: {:?} {:?}", say(&schema, uri), check_uri(uri));
    }
}

#[test]
fn the_rules_accept_exactly_the_durations_and_sizes_that_are_read() {
    let duration = compiled(schema::duration);
    for text in [
        "1s", "90s", "15m", "1h30m", "2d", "1d2h3m4s", "", "1", "0s", "0d0h", "1h1d", "1h1h", "-1h", "1.5h", "1 h", "h", "1w",
        "1H", "1h\n",
    ] {
        assert_eq!(say(&duration, text).is_empty(), parse_duration("t", text).is_ok(), "{text:?}");
    }
    let quantity = compiled(schema::quantity);
    for text in [
        "1",
        "128974848",
        "129e6",
        "1E3",
        "129M",
        "4Gi",
        "1.5Gi",
        ".5Ki",
        "1.Ki",
        "0.1",
        "1E",
        "",
        "0",
        "0Gi",
        "-1Gi",
        "4 Gi",
        "4GiB",
        "4K",
        "100m",
        "Gi",
        ".",
        "1.2.3",
        "1e",
        "e9",
        "4Gi\n",
    ] {
        assert_eq!(say(&quantity, text).is_empty(), parse_quantity("t", text).is_ok(), "{text:?}");
    }
}
