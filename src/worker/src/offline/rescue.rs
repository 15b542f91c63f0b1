//! Rewrites the rows of a file that stay although the file goes, because others of its rows are replaced.

use crate::delta::{self, DataFile};
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::hash::{Digest, Digester};
use crate::offline::preflight;
use crate::offline::scope::{Deletes, quoted};
use crate::offline::shape::Shape;
use crate::offline::sources;
use crate::offline::stage::{self, Target};
use crate::offline::writer::TableWriter;
use backfill_core::condition::Reason;
use deltalake::DeltaTable;
use deltalake::arrow::array::{AsArray, RecordBatch};
use deltalake::arrow::compute::{filter_record_batch, not};
use deltalake::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use deltalake::datafusion::datasource::file_format::parquet::ParquetFormat;
use deltalake::datafusion::prelude::{DataFrame, SessionContext, cast, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::kernel::Add;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of one file that stay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rescued {
    /// The file that goes.
    pub file: String,
    /// How many rows it holds in all.
    pub rows: u64,
    /// The files that hold the rows that stay.
    pub adds: Vec<Add>,
    /// How many rows stay.
    pub kept: u64,
    /// The sum of their hashes as read from the file that goes, in hexadecimal digits.
    pub hash_before: String,
    /// The same as read back from the files that replace it.
    pub hash_after: String,
}

/// Which rows of a file to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that the run does not replace.
    Outside,
    /// Those in the replaced span: rows that landed after the pin and were compacted away.
    Inside,
}

/// Copies rows of a file of `table`, in their order and partition, and reads the copy back.
///
/// Fails with `ProofFailed` when the copy is not the same rows bit for bit; nothing is visible then.
pub async fn copy(
    session: &SessionContext,
    table: &DeltaTable,
    file: &DataFile,
    deletes: Deletes,
    which: Which,
    target: &Target<'_>,
) -> Result<Rescued> {
    let schema = stored_schema(table, target.shape);
    let digester = Digester::new(schema.clone())?;
    let shape = target.shape.with_rows(preflight::arrow_schema(table));
    let mut writer = TableWriter::new(Arc::clone(&target.store), &shape, target.prefix.clone());
    let partition = shape.partition_columns();
    let partition: Vec<(String, Option<String>)> =
        partition.into_iter().map(|name| (name.clone(), file.add.partition_values.get(&name).cloned().flatten())).collect();
    let (mut before, mut rows) = (Digest::default(), 0);
    let provider = delta::provider(table, Some(std::slice::from_ref(file)), None)?;
    let frame = session.read_table(provider).map_err(|error| crate::session::failure(&error, Reason::TableCorrupted))?;
    let mut stream = stage::stream(frame).await?;
    while let Some(batch) = stage::next(&mut stream).await? {
        rows += batch.num_rows() as u64;
        let batch = select(&batch, &shape.time, deletes, which)?;
        before += digester.digest(&batch)?;
        if batch.num_rows() > 0 {
            writer.write_to(partition.clone(), &batch).await?;
        }
    }
    let adds = writer.finish().await?;
    failpoint::reach("file-rescued");
    let mut after = Digest::default();
    if !adds.is_empty() {
        let mut stream = stage::stream(read_back(session, target, &adds, schema).await?).await?;
        while let Some(batch) = stage::next(&mut stream).await? {
            after += digester.digest(&batch)?;
        }
    }
    if before != after {
        return Err(Failure::permanent(
            Reason::ProofFailed,
            format!(
                "{} rows outside of {} were read, {} were written back, and they are not the same; nothing was changed",
                before.rows, file.add.path, after.rows
            ),
        ));
    }
    let hex = |digest: Digest| format!("{:032x}", digest.sum);
    Ok(Rescued { file: file.add.path.clone(), rows, adds, kept: before.rows, hash_before: hex(before), hash_after: hex(after) })
}

/// The columns that files of the table hold: all but the partition columns.
fn stored_schema(table: &DeltaTable, shape: &Shape) -> SchemaRef {
    let partition = shape.partition_columns();
    let all = preflight::arrow_schema(table);
    let stored = all.fields().iter().filter(|field| !partition.contains(field.name())).cloned();
    Arc::new(Schema::new(stored.collect::<Vec<_>>()))
}

fn select(batch: &RecordBatch, time: &str, deletes: Deletes, which: Which) -> Result<RecordBatch> {
    let damaged = || Failure::permanent(Reason::TableIncompatible, format!("column \"{time}\" holds no UTC timestamps"));
    let times = batch.column_by_name(time).and_then(|column| column.as_primitive_opt()).ok_or_else(damaged)?;
    let replaced = deletes.mask(times);
    let wanted = match which {
        Which::Inside => replaced,
        Which::Outside => not(&replaced).expect("a mask without nulls can be turned around"),
    };
    Ok(filter_record_batch(batch, &wanted).expect("the mask is of the batch's length"))
}

/// The given columns of Parquet files of the table's folder, whether or not a log names them. There is at least one file.
pub async fn read_back(session: &SessionContext, target: &Target<'_>, adds: &[Add], columns: SchemaRef) -> Result<DataFrame> {
    let partition = target.shape.partition_columns();
    let (by_value, stored): (Vec<FieldRef>, Vec<FieldRef>) =
        columns.fields().iter().cloned().partition(|field| partition.contains(field.name()));
    // Columns by which the table is partitioned are not in the files but in the log.
    let mut groups: BTreeMap<Vec<Option<String>>, Vec<&Add>> = BTreeMap::new();
    for add in adds {
        let values = by_value.iter().map(|field| add.partition_values.get(field.name()).cloned().flatten());
        groups.entry(values.collect()).or_default().push(add);
    }
    let failing = |error| crate::session::failure(&error, Reason::OfflineUnavailable);
    let stored = Arc::new(Schema::new(stored));
    let mut all: Option<DataFrame> = None;
    for (values, adds) in groups {
        let frame = read_files(session, target, &adds, stored.clone()).await?;
        let value = |field: &FieldRef| match by_value.iter().position(|other| other == field) {
            Some(index) => cast(lit(ScalarValue::Utf8(values[index].clone())), field.data_type().clone()).alias(field.name()),
            None => col(quoted(field.name())),
        };
        let frame = frame.select(columns.fields().iter().map(value)).map_err(failing)?;
        all = Some(match all {
            Some(all) => all.union(frame).map_err(failing)?,
            None => frame,
        });
    }
    Ok(all.expect("there is at least one file"))
}

async fn read_files(session: &SessionContext, target: &Target<'_>, adds: &[&Add], columns: SchemaRef) -> Result<DataFrame> {
    let (_, root) = target.location.store()?;
    let paths: Vec<String> = adds.iter().map(|add| format!("{root}/{}", add.path)).collect();
    let format = Arc::new(ParquetFormat::default());
    let table =
        sources::table_of_files(session, target.location, paths.iter().map(String::as_str), format, Some(columns)).await?;
    let frame = table.and_then(|table| session.read_table(Arc::new(table)));
    frame.map_err(|error| crate::session::failure(&error, Reason::OfflineUnavailable))
}
