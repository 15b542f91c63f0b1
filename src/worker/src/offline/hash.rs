//! Canonical hashes of rows: equal exactly when every value is equal bit for bit, whatever the file, batch or order.

use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use deltalake::arrow::array::{RecordBatch, new_null_array};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{FieldRef, SchemaRef};
use deltalake::arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

/// A count of rows and the sum of their hashes modulo 2^128: equal for equal multisets of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

impl std::ops::AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Digests batches of one table. Columns are taken by name in the schema's order; one that a batch lacks is null.
pub struct Digester {
    schema: SchemaRef,
    converter: RowConverter,
}

impl Digester {
    /// A digester of rows of these columns.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(|error| unhashable(&error))?;
        Ok(Self { schema, converter })
    }

    /// The digest of a batch.
    pub fn digest(&self, batch: &RecordBatch) -> Result<Digest> {
        let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()).map_err(|error| unhashable(&error)),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let rows = self.converter.convert_columns(&columns).map_err(|error| unhashable(&error))?;
        let mut digest = Digest { rows: batch.num_rows() as u64, sum: 0 };
        for row in &rows {
            digest.sum = digest.sum.wrapping_add(xxh3_128(row.as_ref()));
        }
        Ok(digest)
    }
}

/// The hash of one row of a batch.
pub fn row_hash(batch: &RecordBatch, row: usize) -> u128 {
    let digester = Digester::new(batch.schema());
    digester.and_then(|digester| digester.digest(&batch.slice(row, 1))).map_or(0, |digest| digest.sum)
}

fn unhashable(error: &dyn std::fmt::Display) -> Failure {
    Failure::permanent(Reason::TableIncompatible, format!("the table's rows cannot be compared: {error}"))
}
