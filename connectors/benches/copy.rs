//! Rows a second of the writer's path (reduce, binary COPY, ledger, COMMIT per epoch) beside one plain text COPY of the
//! same rows into the same kind of table, as `psql \copy` does it; and how long a small commit takes, here and over a
//! network.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};
use pulso_connectors::postgres::PostgresWriter;
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::{GuardRow, Mark, transaction};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::spec::*;
use pulso_servers::{Postgres, PostgresOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const ROWS: usize = 400_000;
const EPOCH: usize = 40_000;
const ROUNDS: usize = 3;
/// Commits of [`SMALL`] rows whose time is taken.
const COMMITS: usize = 300;
const SMALL: usize = 10;
/// One way, of the network between.
const DELAY: Duration = Duration::from_micros(500);

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs it too: there it only has to work.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rows, rounds) = if measured { (ROWS, ROUNDS) } else { (2 * EPOCH, 1) };
    let folder = pulso_servers::temporary_folder()?;
    let server = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), "bench")).await?;
    let (client, connection) = tokio_postgres::connect(server.url(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);

    let epochs = epochs(rows, EPOCH)?;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    let mut text = Vec::new();
    for round in 0..rounds {
        client.batch_execute("DROP TABLE IF EXISTS vitals; DROP SCHEMA IF EXISTS pulso CASCADE; CHECKPOINT").await?;
        ours.push(write(server.url(), &epochs).await?.iter().sum());
        if round == 0 {
            text = client.copy_out("COPY vitals TO STDOUT").await?.try_collect::<Vec<Bytes>>().await?;
        }
        client.batch_execute("TRUNCATE vitals; CHECKPOINT").await?;
        let began = Instant::now();
        let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>("COPY vitals FROM STDIN").await?);
        for piece in &text {
            sink.feed(piece.clone()).await?;
        }
        ensure!(sink.finish().await? == rows as u64);
        plain.push(began.elapsed());
    }
    let (ours, plain) = (median(ours), median(plain));
    println!("rows: {rows}, epochs of {EPOCH}, medians of {rounds}");
    println!("writer: {:.0} rows/s ({ours:?})", rows as f64 / ours.as_secs_f64());
    println!("plain COPY: {:.0} rows/s ({plain:?})", rows as f64 / plain.as_secs_f64());
    println!("ratio: {:.2}", plain.as_secs_f64() / ours.as_secs_f64());

    let small = self::epochs(if measured { COMMITS * SMALL } else { 5 * SMALL }, SMALL)?;
    let network = network(server.port()).await?;
    let far = server.url().replace(&format!(":{}/", server.port()), &format!(":{network}/"));
    for (what, url) in [("here", server.url()), ("over a network of 1 ms there and back", &far)] {
        client.batch_execute("DROP TABLE IF EXISTS vitals; DROP SCHEMA IF EXISTS pulso CASCADE; CHECKPOINT").await?;
        println!("median commit of {SMALL} rows, {what}: {:?}", median(write(url, &small).await?));
    }
    Ok(())
}

/// A port that carries everything to the server and back, [`DELAY`] later each way.
async fn network(server: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
            near.set_nodelay(true).ok();
            far.set_nodelay(true).ok();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_in, far_out));
            tokio::spawn(carry(far_in, near_out));
        }
    });
    Ok(port)
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            // The timer of the runtime counts milliseconds.
            while Instant::now() < due {
                tokio::task::yield_now().await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut bytes).await?;
        if n == 0 || sender.send((Instant::now() + DELAY, bytes[..n].to_vec())).is_err() {
            return Ok(());
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

const COLUMNS: [&str; 5] = ["patient_id", "timestamp", "heart_rate", "temperature", "oxygen_saturation"];

/// Readings of a thousand patients, each epoch in no order of the key.
fn epochs(rows: usize, epoch: usize) -> Result<Vec<TargetRows>> {
    let mut epochs = Vec::new();
    for first in (0..rows).step_by(epoch) {
        let of: Vec<usize> = (first..first + epoch).map(|i| first + (i * 7_919) % epoch).collect();
        let time = |i: usize| 1_700_000_000_000_000 + (i as i64) * 1_000_000;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(of.iter().map(|i| format!("patient-{:05}", i % 1_000)))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(of.iter().map(|&i| time(i))).with_timezone("UTC")),
            Arc::new(Float64Array::from_iter_values(of.iter().map(|i| 60.0 + (i % 400) as f64 / 10.0))),
            Arc::new(Float64Array::from_iter_values(of.iter().map(|i| 36.0 + (i % 30) as f64 / 10.0))),
            Arc::new(of.iter().map(|i| (i % 3 > 0).then_some(95.0 + (i % 5) as f64)).collect::<Float64Array>()),
        ];
        let batch = RecordBatch::try_from_iter(COLUMNS.into_iter().zip(columns))?;
        let (changes, key_groups) = (vec![Change::Insert; epoch].into(), vec![KeyGroup(0); epoch].into());
        let sinks = vec![SinkRows { sink: 0, batch, changes, key_groups }];
        epochs.push(TargetRows { sinks, ..TargetRows::default() });
    }
    Ok(epochs)
}

/// One transaction an epoch; how long each took.
async fn write(url: &str, epochs: &[TargetRows]) -> Result<Vec<Duration>> {
    let mut writer = PostgresWriter::new(JobId::default(), TargetId(0), Arc::new(job(url)))?;
    let key_group = KeyGroupId { stage: Stage(0), group: KeyGroup(0) };
    writer.take_over(Attempt(1), &[key_group].into(), true).await?;
    let mut times = Vec::new();
    let mut from = Mark::NOTHING;
    for (number, rows) in (1u64..).zip(epochs) {
        let to = Mark { epoch: Epoch(number), hash: CutHash(u128::from(number)) };
        let steps = transaction(vec![GuardRow { key_group, from, to }], vec![Epoch(number)]);
        let outputs = [(Epoch(number), rows.clone())];
        let began = Instant::now();
        let outcome = writer.transact(&steps, &outputs).await?;
        times.push(began.elapsed());
        ensure!(outcome == Outcome::Committed, "{outcome:?}");
        from = to;
    }
    Ok(times)
}

fn job(url: &str) -> JobSpec {
    let kinds = [
        FieldType::String,
        FieldType::Timestamp(TimestampText::Epoch { per_second: 1_000 }),
        FieldType::Float64,
        FieldType::Float64,
        FieldType::Float64,
    ];
    let fields: Vec<FieldSpec> = COLUMNS.into_iter().zip(kinds).enumerate().map(|(i, of)| field(of, i < 2)).collect();
    let columns = fields.iter().enumerate().map(|(i, field)| SinkColumn {
        name: field.name.clone(),
        value: SinkValue::Column(i),
        data_type: field.kind.data_type(),
        nullable: !field.required,
    });
    let sink = SinkSpec {
        target: 0,
        from: RowsFrom::Records,
        condition: None,
        columns: columns.collect(),
        to: SinkTo::Table(TableSpec {
            name: ("public".to_owned(), "vitals".to_owned()),
            write: WriteMode::Upsert { key: vec![0, 1], newest_by: None },
            one_to_one: false,
            create: true,
            delete_when: None,
        }),
    };
    let source = KafkaSourceSpec {
        brokers: String::new(),
        topic: String::new(),
        start: StartPosition::Earliest,
        tombstone_key: None,
        on_data_loss: OnDataLoss::Fail,
        on_change: OnChange::Fail,
        security: Vec::new(),
        max_record: 1 << 20,
    };
    let kind = TargetKind::Postgres { url: url.to_owned().into(), zone: "UTC".to_owned(), max_refused: 0.1 };
    JobSpec {
        name: "bench".to_owned(),
        key_groups: 1,
        source: SourceSpec::Kafka(source),
        targets: vec![TargetSpec { name: "db".to_owned(), kind }],
        fields,
        rules: Vec::new(),
        filter: None,
        lookups: Vec::new(),
        derive: Vec::new(),
        time: None,
        dedup: None,
        aggregates: Vec::new(),
        sinks: vec![sink],
        dead_letter: DeadLetterSpec {
            target: 0,
            to: DeadLettersTo::Table(("pulso".to_owned(), "dead_letters".to_owned())),
        },
        panels: Vec::new(),
        routing_key: vec![0],
    }
}

fn field((name, kind): (&str, FieldType), required: bool) -> FieldSpec {
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
