//! Dead letters: those of the input, into the job's own table, and refused rows, always into `pulso_dead_letters`.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt32Type};
use pulso_core::ids::JobId;

use super::connect::Connection;
use super::error::Failure;
use super::literal::{put_display, put_time};
use super::quote;
use super::statement::{Around, Put, send};
use crate::database::reduce::in_order;
use crate::database::refused::Refused;

const COLUMNS: &str = "(job, job_name, table_name, split, position, record_time, reason, field, `key`, value)";
/// Milliseconds of the year 10000: a record's time is for people to read, and a wrong one must not cost the letter.
const LATEST_MILLIS: i64 = 253_402_300_800_000;

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) job: JobId,
    pub(crate) name: &'a str,
}

impl Author<'_> {
    async fn send(self, connection: &Connection, table: &str, rows: usize, put: Put<'_>) -> Result<(), Failure> {
        let start = format!("('{}',{},", self.job, quote::literal(self.name));
        let mut put = |row: usize, out: &mut String| {
            out.push_str(&start);
            put(row, out);
            out.push(')');
        };
        let head = format!("INSERT INTO {table} {COLUMNS} VALUES ");
        let around = Around { head: &head, between: ",", tail: "" };
        send(connection, &around, rows, &mut put).await.map_err(|failure| failure.during("writing dead letters"))
    }
}

/// Appends all rows of `parts` (`dataflow::batch::letters_schema`) to `table`.
pub(crate) async fn write(
    connection: &Connection,
    author: Author<'_>,
    table: &str,
    parts: &[&RecordBatch],
) -> Result<(), Failure> {
    let rows = in_order(parts.iter().copied());
    let mut put = |i: usize, out: &mut String| {
        let (batch, row) = (parts[rows[i].part as usize], rows[i].row as usize);
        let text = |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_string::<i32>().value(row));
        let bytes = |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_binary::<i32>().value(row));
        let split = batch.column(1).as_primitive::<UInt32Type>().value(row);
        let position = batch.column(2).as_primitive::<Int64Type>().value(row);
        let millis = batch.column(3).as_primitive::<Int64Type>().value(row);
        put_display(format_args!("NULL,{split},{position},"), out);
        // Below 0 the record had none.
        if (0..LATEST_MILLIS).contains(&millis) {
            put_time(millis * 1_000, out)
        } else {
            out.push_str("NULL")
        }
        for column in [4, 5] {
            out.push(',');
            put_optional(text(column), quote::put_text, out);
        }
        for column in [6, 7] {
            out.push(',');
            put_optional(bytes(column), quote::put_bytes, out);
        }
    };
    author.send(connection, table, rows.len(), &mut put).await
}

/// Appends refused rows to `pulso_dead_letters`.
pub(crate) async fn write_refused(
    connection: &Connection,
    author: Author<'_>,
    refused: &[Refused],
) -> Result<(), Failure> {
    let mut put = |i: usize, out: &mut String| {
        let row = &refused[i];
        quote::put_text(&row.table, out);
        out.push_str(",NULL,NULL,NULL,");
        quote::put_text(&row.reason, out);
        out.push(',');
        put_optional(row.column.as_deref(), quote::put_text, out);
        out.push_str(",NULL,");
        quote::put_bytes(&row.row, out);
    };
    author.send(connection, "pulso_dead_letters", refused.len(), &mut put).await
}

fn put_optional<T>(value: Option<T>, put: impl FnOnce(T, &mut String), out: &mut String) {
    match value {
        Some(value) => put(value, out),
        None => out.push_str("NULL"),
    }
}
