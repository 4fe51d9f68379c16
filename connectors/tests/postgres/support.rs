//! A server, jobs, batches, and a writer that keeps the marks that the worker would keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use pulso_connectors::postgres::PostgresWriter;
use pulso_connectors::target::TargetError;
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::{GuardRow, Mark, transaction};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::spec::*;
use pulso_servers::{Postgres, PostgresOptions, temporary_folder};
use tokio::sync::Mutex;
use uuid::Uuid;

pub(crate) struct Server {
    // Dropped before its folder goes.
    postgres: Postgres,
    _folder: Box<dyn std::any::Any + Send + Sync>,
}

static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database of the test's own.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) name: String,
    _server: Arc<Server>,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let mut shared = SERVER.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => {
                let folder = temporary_folder().unwrap();
                let mut options = PostgresOptions::new(folder.path().join("postgres"), "tests");
                options.settings.push(("fsync".to_owned(), "off".to_owned()));
                let postgres = Postgres::start(options).await.unwrap();
                let server = Arc::new(Server { postgres, _folder: Box::new(folder) });
                *shared = Arc::downgrade(&server);
                server
            }
        };
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        query(server.postgres.url(), &format!("create database {name}")).await;
        let port = server.postgres.port();
        let url = format!("postgresql://postgres@127.0.0.1:{port}/{name}");
        Self { url, port, name, _server: server }
    }

    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        query(&self.url, sql).await
    }

    /// All rows as one text: fields by `|`, rows by blanks.
    pub(crate) async fn text(&self, sql: &str) -> String {
        self.query(sql).await.iter().map(|row| row.join("|")).collect::<Vec<_>>().join(" ")
    }

    /// The same database through another port.
    pub(crate) fn url_by(&self, port: u16) -> String {
        format!("postgresql://postgres@127.0.0.1:{port}/{}?sslmode=disable", self.name)
    }
}

/// A client of the test's own, not of the code that is tested.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn query(url: &str, sql: &str) -> Vec<Vec<String>> {
    let messages = client(url).await.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let mut rows = Vec::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).unwrap_or("null").to_owned()).collect());
        }
    }
    rows
}

pub(crate) fn field(name: &str, kind: FieldType, required: bool) -> FieldSpec {
    FieldSpec {
        name: name.to_owned(),
        kind,
        paths: vec![vec![name.to_owned()]],
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

pub(crate) fn job(url: &str, fields: Vec<FieldSpec>, sinks: Vec<SinkSpec>) -> JobSpec {
    let postgres = TargetKind::Postgres { url: url.to_owned().into(), max_refused: 0.1 };
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
        targets: vec![TargetSpec { name: "db".to_owned(), kind: postgres }],
        fields,
        rules: Vec::new(),
        filter: None,
        derive: Vec::new(),
        time: None,
        dedup: None,
        aggregates: Vec::new(),
        sinks,
        dead_letter: DeadLetterSpec {
            target: 0,
            to: DeadLettersTo::Table(("pulso".to_owned(), "dead_letters".to_owned())),
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
    pub(crate) writer: PostgresWriter,
    pub(crate) groups: BTreeSet<KeyGroupId>,
    pub(crate) epoch: u64,
}

pub(crate) const JOB: JobId = JobId(Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));

impl Writer {
    pub(crate) fn of(spec: &JobSpec, groups: &[u16]) -> Self {
        let writer = PostgresWriter::new(JOB, TargetId(0), Arc::new(spec.clone())).unwrap();
        Self { writer, groups: groups.iter().copied().map(group).collect(), epoch: 0 }
    }

    /// Deployed for the first time: everything is made, attempt 1.
    pub(crate) async fn first(spec: &JobSpec) -> Self {
        let mut writer = Self::of(spec, &[0, 1]);
        let found = writer.take_over(1, true).await.unwrap();
        assert_eq!(found, [(0, Some((1, mark(0)))), (1, Some((1, mark(0))))].into());
        writer
    }

    /// Rows by number of key group: attempt and mark.
    pub(crate) async fn take_over(&mut self, attempt: u64, create: bool) -> Result<Found, TargetError> {
        self.writer.take_over(Attempt(attempt), &self.groups, create).await.map(found)
    }

    pub(crate) async fn register(&mut self, attempt: u64) -> Result<Found, TargetError> {
        self.writer.register(Attempt(attempt), &self.groups).await.map(found)
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

pub(crate) fn found(rows: pulso_connectors::target::Rows) -> Found {
    rows.into_iter().map(|(id, row)| (id.group.0, row.map(|row| (row.attempt.0, row.mark)))).collect()
}
