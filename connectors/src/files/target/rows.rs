//! What is kept of rows and dead letters in a record: lines of text, or what Parquet files are made of.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt32Type};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulso_core::files::byte_of;
use pulso_core::ids::Position;
use pulso_dataflow::batch::{SinkRows, TargetRows};
use pulso_dataflow::document::FileKey;
use pulso_job::spec::{FileFormat, JobSpec, SinkSpec, SinkTo, SourceSpec};

use super::record::Stream;
use super::table::Table;
use crate::json::{JsonColumn, JsonRows, text};

/// What the sinks of one target write.
#[derive(Debug)]
pub(super) struct Encoder {
    /// By the sink's index; `None` for sinks of other targets.
    sinks: Vec<Option<Sink>>,
    letters: Stream,
    of_files: bool,
}

#[derive(Debug)]
struct Sink {
    stream: Stream,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Lines(Lines),
    Table(Table),
}

#[derive(Debug)]
struct Lines {
    is_csv: bool,
    columns: Vec<JsonColumn>,
    /// Says what a row is that is not new.
    is_marked: bool,
}

impl Encoder {
    pub(super) fn new(job: &JobSpec, target: usize) -> Self {
        let sink = |(index, sink): (usize, &SinkSpec)| {
            let SinkTo::Files(format) = &sink.to else { return None };
            if sink.target != target {
                return None;
            }
            let form = match format {
                FileFormat::Jsonl | FileFormat::Csv => Form::Lines(Lines::new(job, sink, *format == FileFormat::Csv)),
                FileFormat::Parquet => Form::Table(Table::new(job, sink)),
            };
            let stream = Stream {
                name: format!("sink{}", index + 1),
                extension: format.extension().to_owned(),
                header: if *format == FileFormat::Csv { header(job, sink) } else { String::new() },
            };
            Some(Sink { stream, form })
        };
        let letters = Stream { name: "dead_letters".to_owned(), extension: "jsonl".to_owned(), header: String::new() };
        Self {
            sinks: job.sinks.iter().enumerate().map(sink).collect(),
            letters,
            of_files: matches!(job.source, SourceSpec::Files(_)),
        }
    }

    /// `Err` where a column has a type that no checked job has.
    pub(super) fn encode(&self, outputs: &[&TargetRows]) -> Result<Vec<(Stream, Vec<u8>)>, String> {
        let mut out: Vec<(Stream, Vec<u8>)> = Vec::new();
        let mut add = |stream: &Stream, bytes: Vec<u8>| match out.iter_mut().find(|(known, _)| known == stream) {
            Some((_, all)) => all.extend_from_slice(&bytes),
            None => out.push((stream.clone(), bytes)),
        };
        for rows in outputs {
            for part in &rows.sinks {
                if let Some(Some(sink)) = self.sinks.get(part.sink) {
                    let bytes = match &sink.form {
                        Form::Lines(lines) => lines.encode(part)?,
                        Form::Table(table) => table.encode(part)?,
                    };
                    add(&sink.stream, bytes);
                }
            }
            if let Some(batch) = &rows.letters {
                add(&self.letters, self.letters(batch));
            }
        }
        Ok(out)
    }

    fn letters(&self, batch: &RecordBatch) -> Vec<u8> {
        let mut out = Vec::new();
        for row in 0..batch.num_rows() {
            let string =
                |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_string::<i32>().value(row));
            let bytes =
                |i: usize| (!batch.column(i).is_null(row)).then(|| batch.column(i).as_binary::<i32>().value(row));
            let split = batch.column(1).as_primitive::<UInt32Type>().value(row);
            let position = batch.column(2).as_primitive::<Int64Type>().value(row);
            out.extend_from_slice(b"{\"reason\":");
            text(string(4).unwrap_or_default(), &mut out);
            out.extend_from_slice(b",\"field\":");
            match string(5) {
                Some(name) => text(name, &mut out),
                None => out.extend_from_slice(b"null"),
            }
            let file = bytes(6).filter(|_| self.of_files).and_then(FileKey::decode);
            match file {
                Some(key) => {
                    out.extend_from_slice(b",\"file\":");
                    text(&key.file, &mut out);
                    out.extend_from_slice(format!(",\"byte\":{}", byte_of(Position(position))).as_bytes());
                }
                None => {
                    out.extend_from_slice(format!(",\"split\":{split},\"position\":{position}").as_bytes());
                    raw("key", bytes(6), &mut out);
                }
            }
            raw("value", bytes(7), &mut out);
            out.extend_from_slice(b"}\n");
        }
        out
    }
}

/// Bytes as text where they are text, else as base64 under another name.
fn raw(name: &str, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(bytes) = bytes else { return };
    match std::str::from_utf8(bytes) {
        Ok(plain) => {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            text(plain, out);
        }
        Err(_) => out.extend_from_slice(format!(",\"{name}_base64\":\"{}\"", STANDARD.encode(bytes)).as_bytes()),
    }
}

/// First line of a CSV file.
fn header(job: &JobSpec, sink: &SinkSpec) -> String {
    let mut header = Vec::new();
    let names = sink.columns.iter().map(|column| column.name.as_str());
    for name in names.chain(job.is_marked(sink).then_some("pulso_change")) {
        field(name.as_bytes(), &mut header);
    }
    line_end(&mut header);
    String::from_utf8(header).unwrap_or_default()
}

impl Lines {
    fn new(job: &JobSpec, sink: &SinkSpec, is_csv: bool) -> Self {
        let columns = sink.columns.iter().map(|c| JsonColumn::new(&c.name, job.is_json(sink, c))).collect();
        Self { is_csv, columns, is_marked: job.is_marked(sink) }
    }

    fn encode(&self, part: &SinkRows) -> Result<Vec<u8>, String> {
        let rows = JsonRows::new(&self.columns, &part.batch).ok_or("a column has no form in a file")?;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let (mut out, mut value) = (Vec::new(), Vec::new());
        for (row, change) in part.changes.iter().enumerate() {
            let mark = change.mark();
            if self.is_csv {
                for column in &all {
                    value.clear();
                    // Nothing at all is null, and empty text has its quotes.
                    match rows.bare(*column, row, &mut value) {
                        true if value.is_empty() => out.extend_from_slice(b"\"\","),
                        true => field(&value, &mut out),
                        false => out.push(b','),
                    }
                }
                if self.is_marked {
                    field(mark.unwrap_or_default().as_bytes(), &mut out);
                }
                line_end(&mut out);
                continue;
            }
            rows.object(&all, row, &mut out);
            if let Some(mark) = mark.filter(|_| self.is_marked) {
                out.pop();
                out.extend_from_slice(format!(",\"pulso_change\":\"{mark}\"}}").as_bytes());
            }
            out.push(b'\n');
        }
        Ok(out)
    }
}

/// One field of RFC 4180 with the comma behind it.
fn field(value: &[u8], out: &mut Vec<u8>) {
    if value.iter().any(|byte| matches!(byte, b'"' | b',' | b'\n' | b'\r')) {
        out.push(b'"');
        for byte in value {
            if *byte == b'"' {
                out.push(b'"');
            }
            out.push(*byte);
        }
        out.push(b'"');
    } else {
        out.extend_from_slice(value);
    }
    out.push(b',');
}

/// In the place of the last comma.
fn line_end(out: &mut Vec<u8>) {
    out.pop();
    out.extend_from_slice(b"\r\n");
}
