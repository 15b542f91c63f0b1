//! Types of Spark and those of our rows.

use deltalake::arrow::datatypes::{DataType, Field, Fields, IntervalUnit, Schema, TimeUnit};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// The entry of a field's metadata that keeps the engine's own word for the type.
pub const WORD: &str = "type";

/// A column of a result, as Spark describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type in Spark's JSON.
    #[serde(rename = "type")]
    pub kind: Value,
}

/// The columns of a result as a schema, each with Spark's word for its type.
pub fn schema(columns: &[Column]) -> Schema {
    let field = |column: &Column| {
        let metadata = [(WORD.to_owned(), word(&column.kind))].into();
        Field::new(&column.name, arrow(&column.kind), true).with_metadata(metadata)
    };
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

fn arrow(kind: &Value) -> DataType {
    let Some(name) = kind.as_str() else { return nested(kind) };
    match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "date" => DataType::Date32,
        "void" => DataType::Null,
        name if name.starts_with("decimal") => DataType::Decimal128(38, 0),
        // Nothing that a feature can be; the message says Spark's own word.
        _ => DataType::Interval(IntervalUnit::MonthDayNano),
    }
}

fn nested(kind: &Value) -> DataType {
    match kind["type"].as_str() {
        Some("array") => DataType::List(Arc::new(Field::new("element", arrow(&kind["elementType"]), true))),
        _ => DataType::Struct(Fields::empty()),
    }
}

fn word(kind: &Value) -> String {
    match kind.as_str() {
        Some("integer") => "int".to_owned(),
        Some("long") => "bigint".to_owned(),
        Some(name) => name.to_owned(),
        None if kind["type"] == "array" => format!("array<{}>", word(&kind["elementType"])),
        None => kind["type"].as_str().unwrap_or("?").to_owned(),
    }
}

/// Spark's word for one of the types that rows have, or that a source of text was found to have.
pub fn name(wanted: &DataType) -> String {
    match wanted {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(_, None) => "timestamp_ntz".to_owned(),
        DataType::List(element) => format!("array<{}>", name(element.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{}: {}", quoted(field.name()), name(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        _ => "string".to_owned(),
    }
}

/// The columns of a source of text, as Spark declares them.
pub fn declaration(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| format!("{} {}", quoted(field.name()), name(field.data_type()));
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

/// The columns that hold nanoseconds, of which Spark has none, and whether they have a zone.
pub fn nanos(schema: &Schema) -> Vec<(&str, bool)> {
    let of = |field: &'_ Arc<Field>| match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => Some(zone.is_some()),
        _ => None,
    };
    schema.fields().iter().filter_map(|field| Some((field.name().as_str(), of(field)?))).collect()
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Whether the cast between two types that hold the same kind of values must look at every value.
pub fn narrows(given: &DataType, wanted: &DataType) -> bool {
    match (given, wanted) {
        (DataType::Int64, DataType::Int32) => true,
        (DataType::List(given), DataType::List(wanted)) => narrows(given.data_type(), wanted.data_type()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_of_spark_are_found_by_their_words() {
        for (kind, expected, shown) in [
            (json!("integer"), DataType::Int32, "int"),
            (json!("long"), DataType::Int64, "bigint"),
            (json!("timestamp_ntz"), DataType::Timestamp(TimeUnit::Microsecond, None), "timestamp_ntz"),
            (json!("decimal(10,2)"), DataType::Decimal128(38, 0), "decimal(10,2)"),
            (json!("variant"), DataType::Interval(IntervalUnit::MonthDayNano), "variant"),
            (json!({"type": "struct", "fields": []}), DataType::Struct(Fields::empty()), "struct"),
            (
                json!({"type": "array", "elementType": "long", "containsNull": true}),
                DataType::List(Arc::new(Field::new("element", DataType::Int64, true))),
                "array<bigint>",
            ),
        ] {
            let schema = schema(&[Column { name: "a".into(), kind }]);
            assert_eq!((schema.field(0).data_type(), schema.field(0).metadata()[WORD].as_str()), (&expected, shown));
        }
    }

    #[test]
    fn columns_of_text_are_declared_with_their_names_quoted() {
        let fields = vec![
            Field::new("a b`c", DataType::Int64, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Second, None), true),
            Field::new("n", DataType::Null, true),
            Field::new("l", DataType::List(Arc::new(Field::new("item", DataType::Float64, true))), true),
        ];
        assert_eq!(declaration(&Schema::new(fields)), "`a b``c` bigint, `t` timestamp_ntz, `n` string, `l` array<double>");
    }
}
