//! The types of columns in tables that Pulso creates.

use arrow::datatypes::DataType;
use pulso_job::spec::{FieldSpec, JobSpec, RowsFrom, SinkColumn, SinkSpec, SinkValue, TableSink};

use super::connect::Facts;
use super::quote;

/// Bytes of an InnoDB index with rows of format DYNAMIC, which is the default.
const LONGEST_INDEX: usize = 3_072;
/// utf8mb4 takes that many for a character.
const CHARACTER: usize = 4;

/// A collation in which texts are equal only if their bytes are: neither case nor blanks at the end are ignored.
pub(crate) fn exact_collation(facts: &Facts) -> &'static str {
    if facts.mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
}

/// True for a collation that tells any two texts apart.
pub(crate) fn is_exact(collation: &str) -> bool {
    collation.ends_with("_bin") && (collation.contains("nopad") || collation.contains("0900"))
}

/// The statement that makes a sink's table.
pub(crate) fn create_table(facts: &Facts, spec: &JobSpec, table: &TableSink<'_>) -> String {
    let key = table.table.write.key();
    let marked = spec.is_marked(table.sink);
    let columns = table.sink.columns.iter().enumerate().map(|(i, column)| {
        // The row of a delete has only the columns of the record's key, and an append-only table takes it too.
        let not_null = key.contains(&i) || !column.nullable && !marked;
        let tail = if not_null { " NOT NULL" } else { "" };
        format!("{} {}{tail}", quote::identifier(&column.name), column_type(spec, table, i))
    });
    let mut parts: Vec<String> = columns.collect();
    if marked {
        parts.push("`pulso_change` VARCHAR(10)".to_owned());
    }
    if !key.is_empty() {
        let names = key.iter().filter_map(|&i| table.sink.columns.get(i)).map(|column| column.name.as_str());
        parts.push(format!("PRIMARY KEY ({})", quote::list(names)));
    }
    format!(
        "CREATE TABLE {} ({}) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        quote::table(&table.table.name),
        parts.join(", "),
        exact_collation(facts)
    )
}

/// The type of a sink's column. Texts of a key are as long as the field allows, at most what the index takes.
pub(crate) fn column_type(spec: &JobSpec, table: &TableSink<'_>, index: usize) -> String {
    let Some(column) = table.sink.columns.get(index) else { return String::new() };
    let is_text = |column: &SinkColumn| matches!(column.data_type, DataType::Utf8 | DataType::Utf8View);
    let key = table.table.write.key();
    if !is_text(column) {
        return plain_type(&column.data_type);
    }
    if spec.is_json(table.sink, column) {
        return "JSON".to_owned();
    }
    if !key.contains(&index) {
        return "LONGTEXT".to_owned();
    }
    let of_key = || key.iter().filter_map(|&i| table.sink.columns.get(i));
    let others: usize = of_key().filter(|column| !is_text(column)).map(|column| index_bytes(&column.data_type)).sum();
    let share =
        (LONGEST_INDEX - others.min(LONGEST_INDEX)) / CHARACTER / of_key().filter(|c| is_text(c)).count().max(1);
    // A text has at most as many characters as bytes.
    let bytes = field(spec, table.sink, column).map_or(usize::MAX, |field| field.max_bytes);
    format!("VARCHAR({})", bytes.min(share).max(1))
}

fn field<'a>(spec: &'a JobSpec, sink: &SinkSpec, column: &SinkColumn) -> Option<&'a FieldSpec> {
    let SinkValue::Column(index) = column.value else { return None };
    match sink.from {
        RowsFrom::Records | RowsFrom::Late => spec.fields.get(index),
        RowsFrom::Aggregate(aggregate) => spec.fields.get(*spec.aggregates.get(aggregate)?.group_by.get(index)?),
    }
}

fn plain_type(data_type: &DataType) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    match data_type {
        DataType::Boolean => "TINYINT(1)".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Timestamp(..) => "DATETIME(6)".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::FixedSizeBinary(16) => "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin".to_owned(),
        _ => "LONGTEXT".to_owned(),
    }
}

/// What a value takes in an index, at most.
fn index_bytes(data_type: &DataType) -> usize {
    if matches!(data_type, DataType::FixedSizeBinary(_)) { 36 } else { 20 }
}
