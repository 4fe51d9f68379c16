//! One COPY of rows that lie in several batches.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::SinkExt;

use super::connect::Connection;
use super::encode;
use super::error::Failure;

/// Sent in pieces of this size: large enough to cost nothing, small enough to overlap with the server's work.
const PIECE: usize = 128 * 1024;

/// Sends the rows that `put` appends one by one; returns what the server counted.
pub(crate) async fn copy<T: Copy>(
    connection: &mut Connection,
    sql: &str,
    rows: &[T],
    mut put: impl FnMut(T, &mut BytesMut),
) -> Result<u64, Failure> {
    let statement = connection.copy_statement(sql).await?;
    let mut sink = pin!(connection.client.copy_in::<_, Bytes>(&statement).await?);
    let mut out = BytesMut::with_capacity(PIECE + PIECE / 8);
    encode::header(&mut out);
    for row in rows {
        put(*row, &mut out);
        if out.len() >= PIECE {
            sink.send(out.split().freeze()).await?;
            out.reserve(PIECE + PIECE / 8);
        }
    }
    encode::trailer(&mut out);
    sink.send(out.freeze()).await?;
    // A row that the server refuses is told of here: until then it just reads on.
    Ok(sink.finish().await?)
}
