//! The columns of the table and of new rows, and how files are partitioned.

use crate::delta::{self, DataFile, OWNER};
use crate::failure::{Failure, Result};
use crate::offline::writer::date_of;
use backfill_core::api::{PartitionBy, ScalarType, ValueType};
use backfill_core::condition::Reason;
use backfill_core::contract::{Definition, Order};
use chrono::{DateTime, Utc};
use deltalake::DeltaTable;
use deltalake::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// The table property that says how the date column derives from the event time: `Day` or `Month`.
pub const PARTITION: &str = "featureset.partition";

/// The table property of a table that settling made to hold a fence. While it holds no rows, its columns and its layout bind
/// nobody.
pub const UNUSED: &str = "featureset.unused";

/// Whether a table was made by settling and holds nothing yet.
pub fn is_unused(table: &DeltaTable) -> bool {
    let snapshot = delta::snapshot(table);
    snapshot.metadata().configuration().contains_key(UNUSED) && snapshot.log_data().iter().next().is_none()
}

/// How rows are distributed over files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Files are clustered by event time only.
    Flat,
    /// One partition a day or month of the event time, in this date column.
    Date {
        /// The partition column.
        column: String,
        /// Whether its value is the first day of the month.
        month: bool,
    },
    /// By the values of keys and features, with the date column perhaps among them.
    Values {
        /// The partition columns, in the table's order.
        columns: Vec<String>,
        /// The date column among them and whether it holds months.
        date: Option<(String, bool)>,
    },
}

/// The shape of what a run writes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The keys' names, as declared.
    pub keys: Vec<String>,
    /// The event-time column.
    pub time: String,
    /// Keys, event time and features, as new rows have them; all but features are required.
    pub rows: SchemaRef,
    /// How rows are distributed over files.
    pub layout: Layout,
}

/// The Arrow type in which values of a feature are kept.
pub fn arrow_type(value: ValueType) -> DataType {
    let scalar = match value.scalar {
        ScalarType::String => DataType::Utf8,
        ScalarType::Bytes => DataType::Binary,
        ScalarType::Int32 => DataType::Int32,
        ScalarType::Int64 => DataType::Int64,
        ScalarType::Float32 => DataType::Float32,
        ScalarType::Float64 => DataType::Float64,
        ScalarType::Bool => DataType::Boolean,
        ScalarType::Timestamp => time_type(),
    };
    if value.list { DataType::List(Arc::new(Field::new("element", scalar, true))) } else { scalar }
}

/// The type of event times and timestamp features: Delta's `timestamp`.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of new rows: keys, event time, features.
pub fn row_schema(definition: &Definition) -> SchemaRef {
    let keys = definition.entities.iter().map(|entity| {
        let value = ValueType { scalar: entity.value_type.into(), list: false };
        Field::new(&entity.name, arrow_type(value), true)
    });
    let time = Field::new(&definition.timestamp_column, time_type(), true);
    let features = definition.features.iter().map(|feature| Field::new(&feature.name, arrow_type(feature.value_type), true));
    Arc::new(Schema::new(keys.chain([time]).chain(features).collect::<Vec<_>>()))
}

impl Shape {
    /// The shape of a table that does not exist yet.
    pub fn of_new_table(order: &Order) -> Self {
        let column = order.table.date_column.clone();
        let layout = match order.table.partition_by {
            PartitionBy::None => Layout::Flat,
            PartitionBy::Day => Layout::Date { column, month: false },
            PartitionBy::Month => Layout::Date { column, month: true },
        };
        Self::with_layout(&order.definition, layout)
    }

    /// The shape of an existing table, which keeps its layout.
    ///
    /// Fails with `TableIncompatible` when a partition column is neither a key, a feature nor the date column.
    pub fn of_table(order: &Order, table: &DeltaTable) -> Result<Self> {
        if is_unused(table) {
            return Ok(Self::of_new_table(order));
        }
        let definition = &order.definition;
        let metadata = delta::snapshot(table).metadata();
        let columns = metadata.partition_columns().to_vec();
        let known = |name: &String| {
            definition.entities.iter().any(|entity| &entity.name == name)
                || definition.features.iter().any(|feature| &feature.name == name)
        };
        if let Some(stranger) = columns.iter().find(|name| !known(name) && **name != order.table.date_column) {
            return Err(Failure::permanent(
                Reason::TableIncompatible,
                format!(
                    "the table is partitioned by \"{stranger}\", which is neither a key, a feature nor the date column \
                     \"{}\"; set offline.dateColumn or use another table",
                    order.table.date_column
                ),
            ));
        }
        let date = match columns.contains(&order.table.date_column) {
            true => Some((order.table.date_column.clone(), holds_months(order, table)?)),
            false => None,
        };
        let layout = match (columns.as_slice(), date) {
            ([], _) => Layout::Flat,
            ([_], Some((column, month))) => Layout::Date { column, month },
            (_, date) => Layout::Values { columns, date },
        };
        Ok(Self::with_layout(definition, layout))
    }

    fn with_layout(definition: &Definition, layout: Layout) -> Self {
        Self {
            keys: definition.entities.iter().map(|entity| entity.name.clone()).collect(),
            time: definition.timestamp_column.clone(),
            rows: row_schema(definition),
            layout,
        }
    }

    /// The same layout for rows of these columns.
    pub fn with_rows(&self, rows: SchemaRef) -> Self {
        Self { rows, ..self.clone() }
    }

    /// The table's partition columns.
    pub fn partition_columns(&self) -> Vec<String> {
        match &self.layout {
            Layout::Flat => vec![],
            Layout::Date { column, .. } => vec![column.clone()],
            Layout::Values { columns, .. } => columns.clone(),
        }
    }

    /// The columns of the table: those of new rows and the date column, if there is one.
    pub fn table_schema(&self) -> Schema {
        let date = match &self.layout {
            Layout::Date { column, .. } | Layout::Values { date: Some((column, _)), .. } => Some(column),
            Layout::Flat | Layout::Values { date: None, .. } => None,
        };
        let date = date.map(|column| FieldRef::from(Field::new(column, DataType::Date32, true)));
        Schema::new(self.rows.fields().iter().cloned().chain(date).collect::<Vec<_>>())
    }

    /// The properties of a table that this run creates.
    pub fn properties(&self, definition: &Definition) -> Vec<(String, String)> {
        let mut properties = vec![(OWNER.to_owned(), owner(definition))];
        if let Layout::Date { month, .. } = self.layout {
            properties.push((PARTITION.to_owned(), if month { "Month" } else { "Day" }.to_owned()));
        }
        properties
    }
}

/// Whether the date column holds the first day of the month of the event time, or its day.
///
/// Tables of others do not say; their files show it. Fails with `TableIncompatible` when it is neither.
fn holds_months(order: &Order, table: &DeltaTable) -> Result<bool> {
    if let Some(partition) = delta::snapshot(table).metadata().configuration().get(PARTITION) {
        return Ok(partition == "Month");
    }
    let column = &order.table.date_column;
    let files = delta::files(table, &order.definition.timestamp_column);
    let differs = |file: &DataFile, month: bool| {
        let (Some(time), Some(Some(value))) = (file.time, file.add.partition_values.get(column)) else { return false };
        let date = |t: DateTime<Utc>| date_of(t.timestamp_micros(), month).to_string();
        date(time.min) != *value || date(time.max) != *value
    };
    let stranger = |month| files.iter().find(|file| differs(file, month));
    match (stranger(false), stranger(true)) {
        (None, _) => Ok(false),
        (Some(_), None) => Ok(true),
        (Some(file), Some(_)) => Err(Failure::permanent(
            Reason::TableIncompatible,
            format!(
                "the partition column \"{column}\" is neither the day nor the month of \"{}\", for instance of {}; \
                 set offline.dateColumn to another name or use another table",
                order.definition.timestamp_column, file.add.path
            ),
        )),
    }
}

/// Who a table belongs to.
pub fn owner(definition: &Definition) -> String {
    format!("{}/{}", definition.project, definition.view)
}
