//! From rows of the table to entity keys and event times.

use crate::failure::{Failure, Result};
use crate::offline::shape::{arrow_type, time_type};
use backfill_core::api::{KeyType, ValueType};
use backfill_core::condition::Reason;
use backfill_core::contract::Definition;
use backfill_core::feast::{Key, KeyLayout};
use deltalake::arrow::array::cast::AsArray;
use deltalake::arrow::array::types::TimestampMicrosecondType;
use deltalake::arrow::array::{Array, ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::DataType;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Which columns make the entity key.
#[derive(Clone, Debug)]
pub struct KeyReader {
    layout: KeyLayout,
    /// The key columns in the order of the layout, with their types.
    columns: Vec<(String, KeyType)>,
    time: String,
}

impl KeyReader {
    /// The keys of a definition.
    pub fn new(definition: &Definition) -> Self {
        let layout = KeyLayout::new(definition.entities.iter().map(|entity| (entity.name.as_str(), entity.value_type)));
        let column = |at: &usize| {
            let entity = &definition.entities[*at];
            (entity.name.clone(), entity.value_type)
        };
        let columns = layout.order().iter().map(column).collect();
        Self { layout, columns, time: definition.timestamp_column.clone() }
    }

    /// The columns that [`Self::rows`] wants first, in order: the keys, then the event time.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.0.as_str()).chain([self.time.as_str()])
    }

    /// The types of [`Self::columns`].
    pub fn types(&self) -> Vec<DataType> {
        self.columns.iter().map(|column| key_arrow_type(column.1)).chain([time_type()]).collect()
    }

    /// Types the leading columns of a batch.
    pub fn rows(&self, columns: &[ArrayRef]) -> Result<KeyRows<'_>> {
        let keys = self.columns.iter().zip(columns).map(|((name, key_type), array)| {
            typed(array, name, &key_arrow_type(*key_type)).map(|array| KeyColumn::new(&array, *key_type))
        });
        let keys = keys.collect::<Result<_>>()?;
        let times = typed(&columns[self.columns.len()], &self.time, &time_type())?;
        Ok(KeyRows { layout: &self.layout, keys, times: times.as_primitive::<TimestampMicrosecondType>().clone() })
    }
}

fn key_arrow_type(key_type: KeyType) -> DataType {
    arrow_type(ValueType { scalar: key_type.into(), list: false })
}

/// The array in the wanted type. A table that others made may hold the same values in another encoding.
pub fn typed(array: &ArrayRef, name: &str, wanted: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    cast(array, wanted).map_err(|error| {
        Failure::permanent(Reason::SchemaMismatch, format!("column \"{name}\" of the table cannot be read as {wanted}: {error}"))
    })
}

enum KeyColumn {
    Bytes(BinaryArray),
    String(StringArray),
    Int32(Int32Array),
    Int64(Int64Array),
    Timestamp(TimestampMicrosecondArray),
}

impl KeyColumn {
    fn new(array: &ArrayRef, key_type: KeyType) -> Self {
        match key_type {
            KeyType::Bytes => Self::Bytes(array.as_binary::<i32>().clone()),
            KeyType::String => Self::String(array.as_string::<i32>().clone()),
            KeyType::Int32 => Self::Int32(array.as_primitive().clone()),
            KeyType::Int64 => Self::Int64(array.as_primitive().clone()),
            KeyType::Timestamp => Self::Timestamp(array.as_primitive().clone()),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Bytes(array) => array.is_null(row),
            Self::String(array) => array.is_null(row),
            Self::Int32(array) => array.is_null(row),
            Self::Int64(array) => array.is_null(row),
            Self::Timestamp(array) => array.is_null(row),
        }
    }

    fn key(&self, row: usize) -> Key<'_> {
        match self {
            Self::Bytes(array) => Key::Bytes(array.value(row)),
            Self::String(array) => Key::String(array.value(row)),
            Self::Int32(array) => Key::Int32(array.value(row)),
            Self::Int64(array) => Key::Int64(array.value(row)),
            Self::Timestamp(array) => Key::Timestamp(array.value(row).div_euclid(1_000_000)),
        }
    }
}

/// The keys and event times of a batch.
pub struct KeyRows<'a> {
    layout: &'a KeyLayout,
    keys: Vec<KeyColumn>,
    times: TimestampMicrosecondArray,
}

impl KeyRows<'_> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Puts the entity key of a row into `key` and returns the event time. `None` for a row without a key or an event time,
    /// which belongs to no entity.
    pub fn entity(&self, row: usize, key: &mut Vec<u8>) -> Option<i64> {
        if self.times.is_null(row) || self.keys.iter().any(|column| column.is_null(row)) {
            return None;
        }
        key.clear();
        self.layout.encode(self.keys.iter().map(|column| column.key(row)), key);
        Some(self.times.value(row))
    }
}

/// The hash that distributes entities over buckets. It must be the same in every attempt, on every machine.
pub fn entity_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}
