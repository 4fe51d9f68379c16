//! What a target's rows and dead letters become: messages, in the order of the rows.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt32Type};
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::spec::{DeadLettersTo, JobSpec, RowsFrom, SinkSpec, SinkTo, SinkValue, SourceSpec, TargetIndex};

use crate::json::{JsonColumn, JsonRows};

/// Bytes that a record and the batch around it add at most, without its headers (KIP-98: 61 for the batch, varints).
const FRAME: usize = 128;
/// The same for a header.
const HEADER_FRAME: usize = 10;

/// A message on its way into the producer's memory, which copies it.
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [Header<'a>],
}

pub(super) type Header<'a> = (&'a str, Option<&'a [u8]>);

impl Message<'_> {
    /// Upper bound of what it takes in a topic without compression.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len) + HEADER_FRAME);
        FRAME + self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers.sum::<usize>()
    }
}

/// The topics of one target, and how rows become messages.
#[derive(Debug)]
pub(super) struct Messages {
    sinks: Vec<Sink>,
    letters: Option<Letters>,
}

#[derive(Debug)]
struct Sink {
    index: usize,
    topic: String,
    columns: Vec<JsonColumn>,
    all: Vec<usize>,
    /// Of the message's key.
    key: Vec<usize>,
    /// What a delete has: columns that tell which row it was.
    identity: Vec<usize>,
}

#[derive(Debug)]
struct Letters {
    topic: String,
    job: String,
    source: String,
}

impl Messages {
    pub(super) fn new(spec: &JobSpec, target: TargetIndex) -> Self {
        let sinks = spec.sinks.iter().enumerate().filter(|(_, sink)| sink.target == target);
        let sinks = sinks.filter_map(|(index, sink)| Sink::new(spec, index, sink)).collect();
        let letters = match &spec.dead_letter.to {
            DeadLettersTo::Topic(topic) if spec.dead_letter.target == target => {
                // Which file it was stands in the record's key.
                let source = match &spec.source {
                    SourceSpec::Kafka(source) => &source.topic,
                    SourceSpec::Files(source) => &source.pattern,
                };
                Some(Letters { topic: topic.clone(), job: spec.name.clone(), source: source.clone() })
            }
            DeadLettersTo::Topic(_) | DeadLettersTo::Table(_) | DeadLettersTo::Files => None,
        };
        Self { sinks, letters }
    }

    /// Each once.
    pub(super) fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self.sinks.iter().map(|sink| sink.topic.as_str()).collect();
        topics.extend(self.letters.as_ref().map(|letters| letters.topic.as_str()));
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Hands out the messages of one epoch: sink by sink in file order, then dead letters. `Err` is the taker's, or says
    /// what cannot be a message.
    pub(super) fn each<E: From<String>>(
        &self,
        rows: &TargetRows,
        take: &mut impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for rows in &rows.sinks {
            let sink = self.sinks.iter().find(|sink| sink.index == rows.sink);
            sink.ok_or_else(|| format!("there are rows for sink {}, which is not of this target", rows.sink))?
                .each(rows, take)?;
        }
        match (&rows.letters, &self.letters) {
            (None, _) => Ok(()),
            (Some(batch), Some(letters)) => letters.each(batch, take),
            (Some(_), None) => Err(E::from("there are dead letters, which are not for this target".to_owned())),
        }
    }
}

impl Sink {
    fn new(spec: &JobSpec, index: usize, sink: &SinkSpec) -> Option<Self> {
        let SinkTo::Topic(topic) = &sink.to else { return None };
        // Only tombstones and windows that go away delete.
        let in_identity = |column: usize| match sink.from {
            RowsFrom::Records | RowsFrom::Late => {
                let SourceSpec::Kafka(source) = &spec.source else { return false };
                source.tombstone_key.as_ref().is_some_and(|key| key.contains(&column))
            }
            RowsFrom::Aggregate(aggregate) => {
                spec.aggregates.get(aggregate).is_some_and(|aggregate| column <= aggregate.window_start())
            }
        };
        let identity = sink.columns.iter().enumerate().filter(|(_, column)| match column.value {
            SinkValue::Column(column) => in_identity(column),
            SinkValue::Expression(_) => false,
        });
        let columns = sink.columns.iter().map(|column| JsonColumn::new(&column.name, spec.is_json(sink, column)));
        Some(Self {
            index,
            topic: topic.topic.clone(),
            all: (0..sink.columns.len()).collect(),
            key: topic.record_key.clone(),
            identity: identity.map(|(index, _)| index).collect(),
            columns: columns.collect(),
        })
    }

    fn each<E: From<String>>(
        &self,
        rows: &SinkRows,
        take: &mut impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(json) = JsonRows::new(&self.columns, &rows.batch) else {
            return Err(E::from(format!("a column for topic {} has a type that no message has", self.topic)));
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (row, change) in rows.changes.iter().enumerate() {
            key.clear();
            value.clear();
            let has_key = match self.key.as_slice() {
                [] => false,
                [one] => json.bare(*one, row, &mut key),
                several => {
                    json.object(several, row, &mut key);
                    true
                }
            };
            json.object(if *change == Change::Delete { &self.identity } else { &self.all }, row, &mut value);
            let header: Header<'_> = ("pulso_change", change.mark().map(str::as_bytes));
            let headers = if header.1.is_some() { std::slice::from_ref(&header) } else { &[] };
            take(Message { topic: &self.topic, key: has_key.then_some(&key), value: Some(&value), headers })?;
        }
        Ok(())
    }
}

impl Letters {
    /// `batch` is of `dataflow::batch::letters_schema`.
    fn each<E: From<String>>(
        &self,
        batch: &RecordBatch,
        take: &mut impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let splits = batch.column(1).as_primitive::<UInt32Type>();
        let positions = batch.column(2).as_primitive::<Int64Type>();
        let times = batch.column(3).as_primitive::<Int64Type>();
        let (reasons, fields) = (batch.column(4).as_string::<i32>(), batch.column(5).as_string::<i32>());
        let (keys, values) = (batch.column(6).as_binary::<i32>(), batch.column(7).as_binary::<i32>());
        for row in 0..batch.num_rows() {
            let (split, position) = (splits.value(row).to_string(), positions.value(row).to_string());
            let time = times.value(row).to_string();
            let mut headers: Vec<Header<'_>> = vec![
                ("pulso_reason", Some(reasons.value(row).as_bytes())),
                ("pulso_job", Some(self.job.as_bytes())),
                ("pulso_topic", Some(self.source.as_bytes())),
                ("pulso_partition", Some(split.as_bytes())),
                ("pulso_offset", Some(position.as_bytes())),
            ];
            if fields.is_valid(row) {
                headers.insert(1, ("pulso_field", Some(fields.value(row).as_bytes())));
            }
            // Below 0 the record had none.
            if times.value(row) >= 0 {
                headers.push(("pulso_timestamp", Some(time.as_bytes())));
            }
            take(Message {
                topic: &self.topic,
                key: keys.is_valid(row).then(|| keys.value(row)),
                value: values.is_valid(row).then(|| values.value(row)),
                headers: &headers,
            })?;
        }
        Ok(())
    }
}
