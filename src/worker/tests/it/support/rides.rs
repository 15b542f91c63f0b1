//! The rows of the feature set that most tests use: rides of drivers.

use deltalake::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use deltalake::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use std::sync::Arc;

/// Driver, event time in microseconds since 1970, and how many trips. Every one of them may be missing.
pub type Ride = (Option<i64>, Option<i64>, Option<i64>);

/// A complete row; the time as in [`at`].
pub fn ride(driver: i64, time: &str, trips: i64) -> Ride {
    (Some(driver), Some(at(time)), Some(trips))
}

/// Three drivers, each on a day of their own in April.
pub fn three() -> Vec<Ride> {
    vec![ride(1, "2024-04-01", 1), ride(2, "2024-04-02", 2), ride(3, "2024-04-03", 3)]
}

/// Microseconds since 1970 of a time in UTC: `2024-05-01`, `2024-05-01 12:00:00` or `2024-05-01 12:00:00.000001`.
pub fn at(time: &str) -> i64 {
    let text = if time.len() == 10 { format!("{time} 00:00:00") } else { time.to_owned() };
    let naive = chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f");
    naive.unwrap_or_else(|error| panic!("{time}: {error}")).and_utc().timestamp_micros()
}

/// Event times in the type of the table.
fn time_column(times: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(times.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// Rides with the columns `driver`, `at` and `trips`.
pub fn rides_batch(rides: &[Ride]) -> RecordBatch {
    let numbers = |pick: fn(&Ride) -> Option<i64>| Arc::new(rides.iter().map(pick).collect::<Int64Array>()) as ArrayRef;
    let columns = [
        ("driver", numbers(|ride| ride.0), true),
        ("at", time_column(rides.iter().map(|ride| ride.1)), true),
        ("trips", numbers(|ride| ride.2), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// Rides with further columns.
pub fn rides_with(rides: &[Ride], more: impl IntoIterator<Item = (&'static str, ArrayRef)>) -> RecordBatch {
    let columns = ["driver", "at", "trips"].into_iter().zip(rides_batch(rides).columns().to_vec());
    let columns = columns.chain(more).map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// The rides in a batch with at least these columns.
pub fn rides_of(batch: &RecordBatch) -> Vec<Ride> {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let (drivers, trips) = (column("driver").as_primitive::<Int64Type>(), column("trips").as_primitive::<Int64Type>());
    let times = column("at").as_primitive::<TimestampMicrosecondType>();
    let time = |row: usize| times.is_valid(row).then(|| times.value(row));
    let number = |array: &Int64Array, row: usize| array.is_valid(row).then(|| array.value(row));
    (0..batch.num_rows()).map(|row| (number(drivers, row), time(row), number(trips, row))).collect()
}
