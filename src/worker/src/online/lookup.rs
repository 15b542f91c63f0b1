//! What the online store serves of one entity now: reads one key and writes nothing.

use super::store::{Held, HeldValue, View};
use super::{redis, sqlite};
use crate::context::Context;
use crate::failure::Result;
use backfill_core::api::Feature;
use backfill_core::contract::{Lookup, OnlineTarget, Served, ServedFeature, ServedRow, Writer};
use backfill_core::feast::{self, KeyLayout};
use backfill_core::hex;
use backfill_core::online::EventTime;
use backfill_core::time::show;
use chrono::{DateTime, Utc};
use serde_json::{Number, Value};

/// So many bytes of a value that cannot be read are shown.
const SHOWN_MAX: usize = 32;

/// Looks an entity up. What does not answer is said soon: somebody waits.
pub async fn look_up(cx: &Context, lookup: &Lookup, now: DateTime<Utc>) -> Result<Served> {
    let keys = || lookup.entity.iter().map(|key| (key.name.as_str(), key.value.key_type()));
    let view = View {
        project: lookup.project.clone(),
        name: lookup.view.clone(),
        keys: keys().map(|(name, value_type)| (name.to_owned(), value_type)).collect(),
        features: lookup.features.iter().map(|feature| feature.name.clone()).collect(),
        retired: Vec::new(),
    };
    let layout = KeyLayout::new(keys());
    let mut key = Vec::new();
    layout.encode(layout.order().iter().map(|at| lookup.entity[*at].value.key()), &mut key);
    let held = match &lookup.store {
        OnlineTarget::Redis { secret, key: entry, .. } => {
            redis::RedisStore::new(&cx.secret(secret, entry)?, &view, None)?.impatient().held(&key).await?
        }
        OnlineTarget::Sqlite { path } => sqlite::held(cx.on_volume(path)?, &view, key).await?,
    };
    Ok(lookup.served(held.map(|held| row(lookup, held, now))))
}

fn row(lookup: &Lookup, held: Held, now: DateTime<Utc>) -> ServedRow {
    let features = lookup.features.iter().zip(&held.values);
    // As readers count: a row is too old from the moment at which its time to live is over.
    let expired =
        |ts: EventTime| lookup.ttl_seconds.is_some_and(|ttl| ts.second().saturating_add_unsigned(ttl) <= now.timestamp());
    ServedRow {
        event_time: held.ts.and_then(instant),
        created_time: held.created.and_then(instant),
        expired: held.ts.is_some_and(expired),
        key_ttl_seconds: held.key_ttl_seconds,
        written_by: held.generation.map(|generation| Writer { generation, backfill: None }),
        features: features.map(|(feature, value)| served(feature, value.as_ref())).collect(),
    }
}

fn instant(t: EventTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(t.0)
}

fn served(feature: &Feature, held: Option<&HeldValue>) -> ServedFeature {
    let Feature { name, value_type } = feature.clone();
    let (value, note) = match held.map(|held| (held, feast::decode_value(&held.bytes))) {
        None => (Value::Null, Some("not in the row".to_owned())),
        Some((held, None)) => {
            let shown = &held.bytes[..held.bytes.len().min(SHOWN_MAX)];
            (Value::Null, Some(format!("{} bytes that are no value of Feast: {}", held.bytes.len(), hex::encode(shown))))
        }
        Some((held, Some(value))) => {
            let stored = value.value_type().filter(|stored| *stored != value_type);
            let other = stored.map(|stored| format!("stored as {stored}"));
            let stale = held.stale.and_then(instant).map(|ts| format!("left from the row of {}", show(ts)));
            let notes: Vec<String> = other.into_iter().chain(stale).collect();
            (json(&value), (!notes.is_empty()).then(|| notes.join(", ")))
        }
    };
    ServedFeature { name, value_type, value, note }
}

/// A value as [`ServedFeature`] documents it.
fn json(value: &feast::Value<'_>) -> Value {
    let list = |values: Vec<Value>| Value::Array(values);
    match value {
        feast::Value::Null => Value::Null,
        feast::Value::Bytes(bytes) => hex::encode(bytes).into(),
        feast::Value::String(text) => (*text).into(),
        feast::Value::Int32(number) => (*number).into(),
        feast::Value::Int64(number) => (*number).into(),
        feast::Value::Float64(number) => double(*number),
        feast::Value::Float32(number) => single(*number),
        feast::Value::Bool(truth) => (*truth).into(),
        feast::Value::Timestamp(seconds) => time(*seconds),
        feast::Value::BytesList(values) => list(values.iter().map(|bytes| hex::encode(bytes).into()).collect()),
        feast::Value::StringList(values) => list(values.iter().map(|text| (*text).into()).collect()),
        feast::Value::Int32List(values) => list(values.iter().map(|number| (*number).into()).collect()),
        feast::Value::Int64List(values) => list(values.iter().map(|number| (*number).into()).collect()),
        feast::Value::Float64List(values) => list(values.iter().map(|number| double(*number)).collect()),
        feast::Value::Float32List(values) => list(values.iter().map(|number| single(*number)).collect()),
        feast::Value::BoolList(values) => list(values.iter().map(|truth| (*truth).into()).collect()),
        feast::Value::TimestampList(values) => list(values.iter().map(|seconds| time(*seconds)).collect()),
    }
}

fn double(number: f64) -> Value {
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// With as many digits as single precision has: 0.1, not 0.10000000149011612.
fn single(number: f32) -> Value {
    double(number.to_string().parse().unwrap_or(f64::from(number)))
}

/// An instant; a number of seconds that is beyond the calendar stays a number.
fn time(seconds: i64) -> Value {
    DateTime::from_timestamp(seconds, 0).map_or_else(|| seconds.into(), |instant| show(instant).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_json_that_loses_nothing() {
        use feast::Value as V;
        let cases = [
            (V::Null, "null"),
            (V::Bytes(&[0, 255]), r#""00ff""#),
            (V::String("nul\0 \"é\""), r#""nul\u0000 \"é\"""#),
            (V::Int32(i32::MIN), "-2147483648"),
            (V::Int64(i64::MAX), "9223372036854775807"),
            (V::Float64(-0.0), "-0.0"),
            (V::Float64(f64::MIN_POSITIVE), "2.2250738585072014e-308"),
            (V::Float64(f64::NAN), r#""NaN""#),
            (V::Float32(0.1), "0.1"),
            (V::Float32(f32::NEG_INFINITY), r#""-Infinity""#),
            (V::Bool(false), "false"),
            (V::Timestamp(-1), r#""1969-12-31T23:59:59Z""#),
            (V::Timestamp(i64::MAX), "9223372036854775807"),
            (V::BytesList(vec![b"", b"a"]), r#"["","61"]"#),
            (V::StringList(vec!["a", ""]), r#"["a",""]"#),
            (V::Int32List(vec![1]), "[1]"),
            (V::Int64List(vec![]), "[]"),
            (V::Float64List(vec![f64::INFINITY, 0.5]), r#"["Infinity",0.5]"#),
            (V::Float32List(vec![16_777_216.0, 3.4e38]), "[16777216.0,3.4e+38]"),
            (V::BoolList(vec![true]), "[true]"),
            (V::TimestampList(vec![0]), r#"["1970-01-01T00:00:00Z"]"#),
        ];
        for (value, expected) in cases {
            assert_eq!(json(&value).to_string(), expected, "{value:?}");
        }
    }
}
