//! Jobs, batches, and a writer that keeps the marks that the worker would keep: for tests of every kind of target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use pulso_connectors::target::{Rows, TargetError, TargetWriter};
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::{GuardRow, Mark, transaction};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::spec::*;
use uuid::Uuid;

pub(crate) fn field(name: &str, kind: FieldType, required: bool) -> FieldSpec {
    FieldSpec {
        name: name.to_owned(),
        kind,
        paths: vec![FieldPath { from: PathStart::Record, keys: vec![name.to_owned()] }],
        required,
        min: None,
        max: None,
        one_of: Vec::new(),
        max_bytes: 65_536,
        phi: false,
        unit: None,
    }
}

/// A sink with all fields as columns.
pub(crate) fn sink(table: &str, fields: &[FieldSpec], write: WriteMode) -> SinkSpec {
    let columns = fields.iter().enumerate().map(|(i, field)| SinkColumn {
        name: field.name.clone(),
        value: SinkValue::Column(i),
        data_type: field.kind.data_type(),
        nullable: !field.required,
    });
    SinkSpec {
        target: 0,
        from: RowsFrom::Records,
        condition: None,
        columns: columns.collect(),
        to: SinkTo::Table(TableSpec {
            name: ("public".to_owned(), table.to_owned()),
            write,
            one_to_one: false,
            create: true,
            delete_when: None,
        }),
    }
}

/// Of one target, which the URL says the kind of.
pub(crate) fn job(url: &str, fields: Vec<FieldSpec>, mut sinks: Vec<SinkSpec>) -> JobSpec {
    let (zone, max_refused) = ("UTC".to_owned(), 0.1);
    let mysql = url.starts_with("mysql://");
    let (kind, letters) = if mysql {
        for sink in &mut sinks {
            let SinkTo::Table(table) = &mut sink.to else { panic!("a table") };
            table.name.0.clear();
        }
        (TargetKind::MySql { url: url.to_owned().into(), zone, max_refused }, ("", "pulso_dead_letters"))
    } else {
        (TargetKind::Postgres { url: url.to_owned().into(), zone, max_refused }, ("pulso", "dead_letters"))
    };
    JobSpec {
        name: "vitals".to_owned(),
        key_groups: 2,
        source: SourceSpec::Kafka(KafkaSourceSpec {
            brokers: String::new(),
            topic: String::new(),
            start: StartPosition::Earliest,
            tombstone_key: None,
            on_data_loss: OnDataLoss::Fail,
            on_change: OnChange::Fail,
            security: Vec::new(),
            max_record: 1 << 20,
        }),
        targets: vec![TargetSpec { name: "db".to_owned(), kind }],
        fields,
        rules: Vec::new(),
        filter: None,
        lookups: vec![],
        derive: Vec::new(),
        time: None,
        dedup: None,
        aggregates: Vec::new(),
        sinks,
        dead_letter: DeadLetterSpec {
            target: 0,
            to: DeadLettersTo::Table((letters.0.to_owned(), letters.1.to_owned())),
        },
        panels: Vec::new(),
        routing_key: vec![0],
    }
}

/// `k` text, `v` bigint, key `k`: the table of most tests.
pub(crate) fn key_value(url: &str, write: WriteMode) -> JobSpec {
    let fields = vec![field("k", FieldType::String, true), field("v", FieldType::Int64, false)];
    let sinks = vec![sink("kv", &fields, write)];
    job(url, fields, sinks)
}

pub(crate) fn upsert() -> WriteMode {
    WriteMode::Upsert { key: vec![0], newest_by: None }
}

/// Rows of one sink; all columns nullable, as dataflow makes them.
pub(crate) fn rows(sink: usize, columns: Vec<(&str, ArrayRef)>, changes: Vec<Change>) -> TargetRows {
    let fields: Vec<Field> = columns.iter().map(|(name, a)| Field::new(*name, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let key_groups = vec![KeyGroup(0); changes.len()].into();
    TargetRows {
        sinks: vec![SinkRows { sink, batch, changes: changes.into(), key_groups }],
        letters: None,
        samples_ms: Vec::new(),
    }
}

/// Rows of [`key_value`].
pub(crate) fn kv(of: &[(&str, Option<i64>, Change)]) -> TargetRows {
    use arrow::array::{Int64Array, StringArray};
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(of.iter().map(|row| row.1).collect::<Int64Array>());
    rows(0, vec![("k", keys), ("v", values)], of.iter().map(|row| row.2).collect())
}

pub(crate) fn group(number: u16) -> KeyGroupId {
    KeyGroupId { stage: Stage(0), group: KeyGroup(number) }
}

pub(crate) fn mark(epoch: u64) -> Mark {
    if epoch == 0 { Mark::NOTHING } else { Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch) << 100 | 7) } }
}

/// A writer with the marks of its key groups, all of which have rows in every epoch.
pub(crate) struct Writer {
    pub(crate) writer: TargetWriter,
    pub(crate) groups: BTreeSet<KeyGroupId>,
    pub(crate) epoch: u64,
}

pub(crate) const JOB: JobId = JobId(Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));

impl Writer {
    pub(crate) fn of(spec: &JobSpec, groups: &[u16]) -> Self {
        Self::with(TargetWriter::new(JOB, TargetId(0), Arc::new(spec.clone())).unwrap(), groups)
    }

    pub(crate) fn with(writer: TargetWriter, groups: &[u16]) -> Self {
        Self { writer, groups: groups.iter().copied().map(group).collect(), epoch: 0 }
    }

    /// Deployed for the first time: everything is made, attempt 1.
    pub(crate) async fn first(spec: &JobSpec) -> Self {
        let mut writer = Self::of(spec, &[0, 1]);
        let found = writer.take_over(1, true).await.unwrap();
        assert_eq!(found, writer.all_at(1, 0));
        writer
    }

    /// Rows by number of key group: attempt and mark.
    pub(crate) async fn take_over(&mut self, attempt: u64, create: bool) -> Result<Found, TargetError> {
        self.writer.take_over(Attempt(attempt), &self.groups, create).await.map(found)
    }

    pub(crate) async fn register(&mut self, attempt: u64) -> Result<Found, TargetError> {
        self.writer.register(Attempt(attempt), &self.groups).await.map(found)
    }

    pub(crate) async fn read(&mut self) -> Result<Found, TargetError> {
        self.writer.read_ledger(&self.groups).await.map(found)
    }

    /// All its key groups at this attempt and epoch.
    pub(crate) fn all_at(&self, attempt: u64, epoch: u64) -> Found {
        self.groups.iter().map(|id| (id.group.0, Some((attempt, mark(epoch))))).collect()
    }

    /// One transaction of several epochs, guarded by the last one committed here.
    pub(crate) async fn transact(&mut self, outputs: Vec<TargetRows>) -> Result<Outcome, TargetError> {
        let outputs: Vec<(Epoch, TargetRows)> = (self.epoch + 1..).map(Epoch).zip(outputs).collect();
        let last = outputs.last().unwrap().0;
        let guard = self.groups.iter().map(|id| GuardRow { key_group: *id, from: mark(self.epoch), to: mark(last.0) });
        let steps = transaction(guard.collect(), outputs.iter().map(|(epoch, _)| *epoch).collect());
        let outcome = self.writer.transact(&steps, &outputs).await?;
        if outcome == Outcome::Committed {
            self.epoch = last.0;
        }
        Ok(outcome)
    }

    pub(crate) async fn commit(&mut self, outputs: Vec<TargetRows>) {
        assert_eq!(self.transact(outputs).await.unwrap(), Outcome::Committed);
    }
}

pub(crate) type Found = BTreeMap<u16, Option<(u64, Mark)>>;

pub(crate) fn found(rows: Rows) -> Found {
    rows.into_iter().map(|(id, row)| (id.group.0, row.map(|row| (row.attempt.0, row.mark)))).collect()
}
