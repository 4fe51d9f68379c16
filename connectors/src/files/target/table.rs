//! Rows for Parquet files. In a record of a chain they are Arrow IPC streams, one behind the other: what they hold is known
//! without the job.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use pulso_dataflow::batch::SinkRows;
use pulso_job::spec::{JobSpec, SinkColumn, SinkSpec};

/// A row group ends before its columns take more memory than this.
const MOST_MEMORY: usize = 16 << 20;
/// Rows that are looked at together: after each the memory is looked at.
const ROWS: usize = 8_192;
/// Bytes: buffers in a stream begin at multiples of it.
const ALIGNMENT: usize = 8;

/// The columns of one sink's files.
#[derive(Debug)]
pub(super) struct Table {
    schema: SchemaRef,
    is_marked: bool,
}

impl Table {
    pub(super) fn new(job: &JobSpec, sink: &SinkSpec) -> Self {
        let (is_marked, deletes) = (job.is_marked(sink), job.keeps_deletes(sink));
        let own = sink.columns.iter().map(|column| field(column, deletes));
        let mark = is_marked.then(|| Field::new("pulso_change", DataType::Utf8, true));
        Self { schema: Arc::new(Schema::new(own.chain(mark).collect::<Vec<_>>())), is_marked }
    }

    /// A stream. `Err` where a row is not as the columns are.
    pub(super) fn encode(&self, part: &SinkRows) -> Result<Vec<u8>, String> {
        let mut columns = part.batch.columns().to_vec();
        if self.is_marked {
            columns.push(Arc::new(part.changes.iter().map(|change| change.mark()).collect::<StringArray>()));
        }
        let stream = RecordBatch::try_new(Arc::clone(&self.schema), columns).and_then(|batch| stream(&batch));
        stream.map_err(|error| format!("rows do not fit into the columns of their file: {error}"))
    }
}

fn stream(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options)?;
    writer.write(batch)?;
    writer.into_inner()
}

/// `deletes`: of a deleted row only the key is there.
fn field(column: &SinkColumn, deletes: bool) -> Field {
    let field = Field::new(&column.name, column.data_type.clone(), column.nullable || deletes);
    match column.data_type == DataType::FixedSizeBinary(16) {
        // Arrow's name of what Parquet calls UUID.
        true => field.with_metadata(HashMap::from([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())])),
        false => field,
    }
}

/// A Parquet file that grows by row groups.
pub(super) struct TableFile {
    file: File,
    /// None until the columns are known.
    writer: Option<ArrowWriter<File>>,
}

impl TableFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, writer: None }
    }

    /// Appends the rows of streams.
    pub(super) fn append(&mut self, mut streams: &[u8]) -> io::Result<()> {
        while !streams.is_empty() {
            let reader = StreamReader::try_new(&mut streams, None).map_err(damaged)?;
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(begin(&self.file, &reader.schema())?),
            };
            for batch in reader {
                write(writer, &batch.map_err(damaged)?).map_err(unwritten)?;
            }
        }
        Ok(())
    }

    /// The file is whole and on disk once this returns.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.close().map_err(unwritten)?;
        }
        self.file.sync_all()
    }
}

fn begin(file: &File, schema: &SchemaRef) -> io::Result<ArrowWriter<File>> {
    // Every reader knows this compression.
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    ArrowWriter::try_new(file.try_clone()?, Arc::clone(schema), Some(properties)).map_err(unwritten)
}

fn write(writer: &mut ArrowWriter<File>, batch: &RecordBatch) -> Result<(), ParquetError> {
    for start in (0..batch.num_rows()).step_by(ROWS) {
        writer.write(&batch.slice(start, ROWS.min(batch.num_rows() - start)))?;
        if writer.memory_size() > MOST_MEMORY {
            writer.flush()?;
        }
    }
    Ok(())
}

fn damaged(error: ArrowError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What the disk says stays what it is.
fn unwritten(error: ParquetError) -> io::Error {
    let ParquetError::External(inner) = error else { return io::Error::other(error) };
    inner.downcast::<io::Error>().map_or_else(io::Error::other, |error| *error)
}

#[cfg(test)]
mod tests;
