//! What the tests of the generators share: a stream played through, and the judgement of the job that reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pulso_core::ids::{Position, SplitId, WallTime};
use pulso_dataflow::decode::{Decoder, RawRecord};
use pulso_job::{JobSpec, Submission, check};

use crate::stream::{Counts, Message, Record, Stream, Subject};

pub(crate) const START_US: i64 = 1_790_000_000_000_000;

/// When each message was due.
type Played<R> = Vec<(Duration, Message<R>)>;

/// Everything, sent at the moment it is due.
pub(crate) fn play<S: Subject>(mut stream: Stream<S>) -> (Played<S::Record>, Counts) {
    let mut sent = Vec::new();
    while let Some(due) = stream.due() {
        let now = START_US + i64::try_from(due.as_micros()).unwrap();
        sent.push((due, stream.next(now).unwrap()));
    }
    assert!(stream.next(START_US).is_none());
    (sent, stream.counts())
}

/// How many rows have an event time that lies more than ten minutes back.
pub(crate) fn late<R: Record>(sent: &Played<R>, time_ms: impl Fn(&R) -> i64) -> u64 {
    let lies_back = |message: &&Message<R>| message.row.iter().any(|row| message.timestamp_ms - time_ms(row) > 600_000);
    sent.iter().map(|(_, message)| message).filter(lies_back).count() as u64
}

/// Asserts the shares within 2 % of all messages.
pub(crate) fn shares_are(counts: Counts, duplicates: f64, corrections: f64, invalid: f64, late: f64) {
    assert_eq!(counts.distinct + counts.duplicates + counts.corrections + counts.invalid, counts.messages);
    for (what, count, share) in [
        ("duplicates", counts.duplicates, duplicates),
        ("corrections", counts.corrections, corrections),
        ("invalid", counts.invalid, invalid),
        ("late", counts.late, late),
    ] {
        let got = count as f64 / counts.messages as f64;
        assert!((got - share).abs() < 0.02, "{what}: {got}");
    }
}

/// A job of `jobs/` with everything that decides what a good record is, and its tables of records.
pub(crate) fn job(text: &str) -> Arc<JobSpec> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line.starts_with('[') {
            parts.push(String::new());
        }
        let part = parts.last_mut().unwrap();
        part.push_str(line);
        part.push('\n');
    }
    let kept = |part: &&String| {
        let aggregate = part.starts_with("[[aggregate]]") || part.starts_with("[aggregate.columns]");
        let records = !part.starts_with("[[sink]]") || part.contains("from = \"records\"");
        let kafka = part.starts_with("[target.kafka]") || part.contains("to = \"kafka\"");
        !aggregate && records && !kafka && !part.starts_with("[[panel]]")
    };
    let toml: String = parts.iter().filter(kept).map(String::as_str).collect();
    let environment = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://localhost/test".to_owned())]);
    match check(&Submission { toml, environment, folder: "/jobs".to_owned(), ..Submission::default() }, "job.toml") {
        Ok((job, _)) => Arc::new(job),
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

/// The job's own verdict on each record.
pub(crate) struct Judge(Decoder);

impl Judge {
    pub(crate) fn new(job: &Arc<JobSpec>) -> Judge {
        Judge(Decoder::new(Arc::clone(job)).unwrap())
    }

    /// Why the record would be a dead letter, as part of a longer text.
    pub(crate) fn judge(&mut self, key: &[u8], value: Option<&[u8]>, timestamp_ms: i64) -> Result<(), String> {
        self.0.push(RawRecord { split: SplitId(0), position: Position(0), timestamp_ms, key: Some(key), value });
        let payload = self.0.close(WallTime(timestamp_ms * 1000)).unwrap().payload;
        let rows = payload.rows.map_or(0, |rows| rows.num_rows());
        match payload.letters {
            None => {
                assert_eq!(rows, 1);
                Ok(())
            }
            Some(letters) => {
                assert_eq!((rows, letters.num_rows()), (0, 1));
                Err(format!("{:?} {:?}", letters.column(4), letters.column(5)))
            }
        }
    }
}
