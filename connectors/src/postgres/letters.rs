//! Dead letters: those of the input, into the job's own table, and refused rows, always into `pulso.dead_letters`.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt32Type};
use bytes::{Bytes, BytesMut};
use pulso_core::ids::JobId;
use tokio_postgres::CopyInSink;

use super::ahead::Ahead;
use super::connect::Connection;
use super::copy::fill;
use super::encode::{optional_bytes, optional_i64, optional_text, row_start, timestamp};
use super::error::Failure;
use super::write::Setback;
use crate::database::reduce::{RowRef, in_order};
use crate::database::refused::Refused;

const COLUMNS: &str = "job, job_name, table_name, split, position, record_time, reason, field, key, value";
const FIELDS: usize = 10;

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) job: JobId,
    pub(crate) name: &'a str,
}

impl Author<'_> {
    fn start(&self, out: &mut BytesMut) {
        row_start(out, FIELDS);
        optional_bytes(out, Some(self.job.0.as_bytes()));
        optional_text(out, Some(self.name));
    }
}

fn copy(table: &str) -> String {
    format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)")
}

/// Appends all rows of `parts` (`dataflow::batch::letters_schema`) to `table`.
pub(crate) async fn write(
    connection: &mut Connection,
    ahead: &mut Ahead,
    author: Author<'_>,
    table: &str,
    parts: &[&RecordBatch],
) -> Result<(), Setback> {
    let rows = in_order(parts.iter().copied());
    if rows.is_empty() {
        return Ok(());
    }
    let sql = copy(table);
    let put = |at: RowRef, out: &mut BytesMut| {
        let (batch, row) = (parts[at.part as usize], at.row as usize);
        let text = |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_string::<i32>().value(row));
        let bytes = |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_binary::<i32>().value(row));
        let millis = batch.column(3).as_primitive::<Int64Type>().value(row);
        author.start(out);
        optional_text(out, None);
        optional_i64(out, Some(i64::from(batch.column(1).as_primitive::<UInt32Type>().value(row))));
        optional_i64(out, Some(batch.column(2).as_primitive::<Int64Type>().value(row)));
        // Below 0 the record had none.
        optional_i64(out, (millis >= 0).then(|| timestamp(millis.saturating_mul(1_000))));
        optional_text(out, text(4));
        optional_text(out, text(5));
        optional_bytes(out, bytes(6));
        optional_bytes(out, bytes(7));
    };
    let started = ahead.start(connection, &sql).await?;
    write_started(started, &rows, put).await
}

/// Appends refused rows to `pulso.dead_letters`.
pub(crate) async fn write_refused(
    connection: &mut Connection,
    ahead: &mut Ahead,
    author: Author<'_>,
    refused: &[Refused],
) -> Result<(), Setback> {
    if refused.is_empty() {
        return Ok(());
    }
    let sql = copy("pulso.dead_letters");
    let rows: Vec<&Refused> = refused.iter().collect();
    let put = |row: &Refused, out: &mut BytesMut| {
        author.start(out);
        optional_text(out, Some(&row.table));
        optional_i64(out, None);
        optional_i64(out, None);
        optional_i64(out, None);
        optional_text(out, Some(&row.reason));
        optional_text(out, row.column.as_deref());
        optional_bytes(out, None);
        optional_bytes(out, Some(&row.row));
    };
    let started = ahead.start(connection, &sql).await?;
    write_started(started, &rows, put).await
}

async fn write_started<T: Copy>(
    started: Result<CopyInSink<Bytes>, Failure>,
    rows: &[T],
    put: impl FnMut(T, &mut BytesMut),
) -> Result<(), Setback> {
    let during = |failure: Failure| failure.during("writing dead letters");
    fill(started.map_err(during)?, rows, put).await.map_err(during)?;
    Ok(())
}
