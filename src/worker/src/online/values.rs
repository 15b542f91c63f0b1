//! From rows of the table to rows of the online store.

use crate::failure::{Failure, Result};
use crate::offline::shape::arrow_type;
use crate::online::keys::typed;
use crate::online::store::{Row, VALUE_BYTES_MAX};
use backfill_core::api::{Feature, ScalarType};
use backfill_core::condition::Reason;
use backfill_core::feast::{Value, encode_value};
use backfill_core::online::EventTime;
use deltalake::arrow::array::cast::AsArray;
use deltalake::arrow::array::types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use deltalake::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, ListArray, RecordBatch};
use xxhash_rust::xxh3::xxh3_64;

/// The features of a batch, in the types that the feature set declares.
pub struct ValueRows<'a> {
    columns: Vec<(&'a Feature, ArrayRef)>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl<'a> ValueRows<'a> {
    /// The features lie in the columns from `first` on, in the order of their declaration.
    pub fn new(features: &'a [Feature], batch: &RecordBatch, first: usize) -> Result<Self> {
        let column = |(at, feature): (usize, &'a Feature)| {
            Ok((feature, typed(batch.column(first + at), &feature.name, &arrow_type(feature.value_type))?))
        };
        let columns = features.iter().enumerate().map(column).collect::<Result<_>>()?;
        Ok(Self { columns, bytes: Vec::new(), ends: Vec::new() })
    }

    /// Encodes a row; `key` only names it in a failure.
    pub fn row(&mut self, row: usize, ts: EventTime, key: &[u8]) -> Result<Row> {
        self.bytes.clear();
        self.ends.clear();
        for (feature, array) in &self.columns {
            let start = self.bytes.len();
            let value = value(feature, array, row)?;
            encode_value(&value, &mut self.bytes);
            let end = u32::try_from(self.bytes.len()).ok().filter(|_| self.bytes.len() - start <= VALUE_BYTES_MAX);
            self.ends.push(end.ok_or_else(|| too_large(&feature.name, key))?);
        }
        Ok(Row::new(ts, &self.bytes, &self.ends))
    }
}

fn too_large(feature: &str, key: &[u8]) -> Failure {
    Failure::permanent(
        Reason::RowTooLarge,
        format!(
            "feature \"{feature}\" of the entity with key hash {:016x} is larger than {} MiB, the most that an online store takes",
            xxh3_64(key),
            VALUE_BYTES_MAX >> 20
        ),
    )
}

fn value<'a>(feature: &Feature, array: &'a ArrayRef, row: usize) -> Result<Value<'a>> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    if feature.value_type.list {
        return list(feature, array.as_list::<i32>(), row);
    }
    Ok(match feature.value_type.scalar {
        ScalarType::String => Value::String(array.as_string::<i32>().value(row)),
        ScalarType::Bytes => Value::Bytes(array.as_binary::<i32>().value(row)),
        ScalarType::Int32 => Value::Int32(array.as_primitive::<Int32Type>().value(row)),
        ScalarType::Int64 => Value::Int64(array.as_primitive::<Int64Type>().value(row)),
        ScalarType::Float32 => Value::Float32(array.as_primitive::<Float32Type>().value(row)),
        ScalarType::Float64 => Value::Float64(array.as_primitive::<Float64Type>().value(row)),
        ScalarType::Bool => Value::Bool(array.as_boolean().value(row)),
        ScalarType::Timestamp => Value::Timestamp(seconds(array.as_primitive::<TimestampMicrosecondType>().value(row))),
    })
}

fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000)
}

fn list<'a>(feature: &Feature, lists: &'a ListArray, row: usize) -> Result<Value<'a>> {
    let (from, to) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
    let elements = lists.values();
    if (from..to).any(|at| elements.is_null(at)) {
        return Err(Failure::permanent(
            Reason::SchemaMismatch,
            format!(
                "a list of feature \"{}\" holds a null, which Feast's lists cannot; remove it in the transformation",
                feature.name
            ),
        ));
    }
    Ok(match feature.value_type.scalar {
        ScalarType::String => Value::StringList((from..to).map(|at| elements.as_string::<i32>().value(at)).collect()),
        ScalarType::Bytes => Value::BytesList((from..to).map(|at| elements.as_binary::<i32>().value(at)).collect()),
        ScalarType::Int32 => Value::Int32List(numbers::<Int32Type>(elements, from, to).to_vec()),
        ScalarType::Int64 => Value::Int64List(numbers::<Int64Type>(elements, from, to).to_vec()),
        ScalarType::Float32 => Value::Float32List(numbers::<Float32Type>(elements, from, to).to_vec()),
        ScalarType::Float64 => Value::Float64List(numbers::<Float64Type>(elements, from, to).to_vec()),
        ScalarType::Bool => Value::BoolList((from..to).map(|at| elements.as_boolean().value(at)).collect()),
        ScalarType::Timestamp => {
            Value::TimestampList(numbers::<TimestampMicrosecondType>(elements, from, to).iter().map(|t| seconds(*t)).collect())
        }
    })
}

fn numbers<T: ArrowPrimitiveType>(elements: &ArrayRef, from: usize, to: usize) -> &[T::Native] {
    &elements.as_primitive::<T>().values()[from..to]
}

/// Refuses lists that hold a null, for the offline step: what cannot be served online is not published either.
pub fn refuse_nulls_in_lists(features: &[Feature], batch: &RecordBatch) -> Result<()> {
    for feature in features.iter().filter(|feature| feature.value_type.list) {
        let Some(lists) = batch.column_by_name(&feature.name).and_then(|array| array.as_list_opt::<i32>()) else { continue };
        if lists.values().null_count() > 0 {
            (0..lists.len()).filter(|row| !lists.is_null(*row)).try_for_each(|row| list(feature, lists, row).map(|_| ()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backfill_core::api::ValueType;
    use deltalake::arrow::array::{Float64Array, Int64Builder, ListBuilder, StringArray, TimestampMicrosecondArray};
    use deltalake::arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn feature(name: &str, value_type: &str) -> Feature {
        Feature { name: name.to_owned(), value_type: ValueType::try_from(value_type.to_owned()).expect("a type") }
    }

    fn lists(values: Vec<Option<Vec<Option<i64>>>>) -> ArrayRef {
        let mut lists = ListBuilder::new(Int64Builder::new()).with_field(Arc::new(Field::new("element", DataType::Int64, true)));
        for value in values {
            lists.append_option(value);
        }
        Arc::new(lists.finish())
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<Field> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|column| column.1).collect())
            .expect("a batch")
    }

    #[test]
    fn a_row_becomes_the_bytes_that_feast_reads() {
        let features = [feature("d", "float64"), feature("s", "string"), feature("t", "timestamp"), feature("l", "list<int64>")];
        let batch = batch(vec![
            ("d", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
            ("s", Arc::new(StringArray::from(vec!["LX", ""]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![7_999_999, -1]).with_timezone("UTC"))),
            ("l", lists(vec![Some(vec![Some(1), Some(2)]), None])),
        ]);
        let mut rows = ValueRows::new(&features, &batch, 0).expect("typed");
        let row = rows.row(0, EventTime(1), b"k").expect("encoded");
        let values: Vec<&[u8]> = row.values().collect();
        assert_eq!(values, [&b"\x29\0\0\0\0\0\0\xe0\x3f"[..], b"\x12\x02LX", b"\x40\x07", b"\x72\x04\x0a\x02\x01\x02"]);
        let row = rows.row(1, EventTime(1), b"k").expect("encoded");
        let values: Vec<&[u8]> = row.values().collect();
        assert_eq!(
            values,
            [&b""[..], b"\x12\0", b"\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b""],
            "time is cut down, null is empty"
        );
    }

    #[test]
    fn a_null_inside_a_list_is_refused_by_name() {
        let features = [feature("l", "list<int64>")];
        let batch = batch(vec![("l", lists(vec![Some(vec![Some(1)]), Some(vec![None])]))]);
        let failure = refuse_nulls_in_lists(&features, &batch).expect_err("refused");
        assert_eq!(failure.reason, Reason::SchemaMismatch);
        assert!(failure.message.contains("\"l\""));
        let mut rows = ValueRows::new(&features, &batch, 0).expect("typed");
        assert!(rows.row(0, EventTime(1), b"k").is_ok());
        assert!(rows.row(1, EventTime(1), b"k").is_err());
    }
}
