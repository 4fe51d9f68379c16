//! One COPY of rows that lie in several batches.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::SinkExt;
use tokio_postgres::CopyInSink;

use super::connect::answered;
use super::encode;
use super::error::Failure;

/// Sent in pieces of this size: large enough to cost nothing, small enough to overlap with the server's work.
const PIECE: usize = 128 * 1024;

/// Sends the rows that `put` appends one by one to a COPY that was started; returns what the server counted.
pub(crate) async fn fill<T: Copy>(
    started: CopyInSink<Bytes>,
    rows: &[T],
    mut put: impl FnMut(T, &mut BytesMut),
) -> Result<u64, Failure> {
    let mut sink = pin!(started);
    let mut out = BytesMut::with_capacity(PIECE + PIECE / 8);
    encode::header(&mut out);
    for row in rows {
        put(*row, &mut out);
        if out.len() >= PIECE {
            answered(sink.send(out.split().freeze())).await?;
            out.reserve(PIECE + PIECE / 8);
        }
    }
    encode::trailer(&mut out);
    answered(sink.send(out.freeze())).await?;
    // A row that the server refuses is told of here: until then it just reads on.
    answered(sink.finish()).await
}
