//! One transaction: the ledger's marks and the messages of its epochs.

use pulso_core::ids::Epoch;
use pulso_core::ledger::{GuardRow, Step};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;

use rdkafka::error::RDKafkaErrorCode;

use super::cluster::Call;
use super::ledger::{self, MARKS};
use super::messages::{Header, Message};
use super::producer::{Trouble, Undelivered};
use super::session::Session;
use super::topics::{self, OVERSIZE};
use crate::target::TargetError;

/// Why a transaction was not committed.
enum Setback {
    /// The ledger is not where the guard wants it.
    GuardMissed,
    /// Only a person can mend it.
    Failed(String),
    Lost(String),
    Undelivered(Undelivered),
}

impl From<Trouble> for Setback {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Lost(reason) => Self::Lost(reason),
            Trouble::Undelivered(found) => Self::Undelivered(found),
        }
    }
}

impl From<TargetError> for Setback {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Fatal { reason } => Self::Failed(reason),
            TargetError::Retry { reason } | TargetError::ConnectionLost { reason } => Self::Lost(reason),
        }
    }
}

impl From<String> for Setback {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl Session {
    /// Every error is `ConnectionLost`: whether it was committed is for the ledger to say.
    pub(super) fn transact(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
        call: &Call,
    ) -> Result<Outcome, TargetError> {
        let setback = match self.take_steps(steps, outputs, call) {
            Ok(()) => return Ok(Outcome::Committed),
            Err(Setback::Lost(reason)) => return Err(TargetError::ConnectionLost { reason }),
            Err(setback) => setback,
        };
        if let Err(trouble) = self.producer.abort(&call.anew()) {
            let reason = match (setback, trouble) {
                (Setback::Failed(reason), _) => return Ok(Outcome::Failed { reason }),
                (_, Trouble::Lost(reason)) => reason,
                (_, Trouble::Undelivered(found)) => format!("topic {}: {}", found.topic, found.code),
            };
            return Err(TargetError::ConnectionLost { reason });
        }
        match setback {
            Setback::GuardMissed => {
                let rows = self.read(call).map_err(|e| TargetError::ConnectionLost { reason: e.to_string() })?;
                Ok(Outcome::GuardMissed { rows })
            }
            Setback::Failed(reason) => Ok(Outcome::Failed { reason }),
            Setback::Lost(reason) => Err(TargetError::ConnectionLost { reason }),
            Setback::Undelivered(found) => self.not_taken(&found),
        }
    }

    fn take_steps(&mut self, steps: &[Step], outputs: &[(Epoch, TargetRows)], call: &Call) -> Result<(), Setback> {
        let mut guarded: &[GuardRow] = &[];
        for step in steps {
            match step {
                Step::Begin => self.producer.begin()?,
                Step::Guard(rows) => {
                    self.guard(rows, call)?;
                    guarded = rows;
                }
                Step::Rows(epochs) => {
                    for epoch in epochs {
                        for (_, rows) in outputs.iter().filter(|(of, _)| of == epoch) {
                            self.send(rows, call)?;
                        }
                    }
                }
                Step::Commit => {
                    self.producer.deliver(&call.anew())?;
                    self.producer.commit(&call.anew()).map_err(|trouble| match trouble {
                        Trouble::Lost(reason) => Setback::Lost(reason),
                        // Whether it is committed is open from here on.
                        Trouble::Undelivered(found) => Setback::Lost(format!("topic {}: {}", found.topic, found.code)),
                    })?;
                    self.marks.extend(guarded.iter().map(|row| (row.key_group, row.to)));
                    return Ok(());
                }
            }
        }
        Err(Setback::Failed("a transaction without a commit".to_owned()))
    }

    /// Nobody else can have moved the marks since this producer began: were it shut out, its transaction would fail.
    fn guard(&self, rows: &[GuardRow], call: &Call) -> Result<(), Setback> {
        if rows.iter().any(|row| self.marks.get(&row.key_group).is_none_or(|mark| mark.epoch != row.from.epoch)) {
            return Err(Setback::GuardMissed);
        }
        for row in rows {
            let (key, value) = (ledger::mark_key(row.key_group), ledger::mark_value(row.to));
            self.enter((MARKS, &key, Some(&value)), call)?;
        }
        Ok(())
    }

    fn send(&mut self, rows: &TargetRows, call: &Call) -> Result<(), Setback> {
        let (mut oversize, mut moved) = (None, 0_u64);
        let sent = self.plan.messages.each(rows, &mut |message: Message<'_>| -> Result<(), Setback> {
            if !call.is_wanted() {
                return Err(Setback::Lost("given up".to_owned()));
            }
            let limit = self.limits.get(message.topic).copied().unwrap_or(usize::MAX);
            if message.size() <= limit {
                return Ok(self.producer.send(&message, None, call)?);
            }
            let largest = match oversize {
                Some(known) => known,
                None => *oversize.insert(topics::oversize(&self.plan.cluster, &call.anew())?),
            };
            moved += 1;
            self.send_elsewhere(&message, limit, largest.unwrap_or(usize::MAX), call)
        });
        // What is sent there is one of the session's topics from now on.
        self.limits.extend(oversize.flatten().map(|largest| (OVERSIZE.to_owned(), largest)));
        sent?;
        if moved > 0 {
            let job = self.plan.cluster.job;
            tracing::warn!(%job, count = moved, "messages larger than their topic takes, kept in {OVERSIZE}");
        }
        Ok(())
    }

    /// What its topic never takes is a dead letter of this cluster, in the same transaction.
    fn send_elsewhere(&self, message: &Message<'_>, limit: usize, largest: usize, call: &Call) -> Result<(), Setback> {
        let job = self.plan.cluster.job.to_string();
        let mut headers: Vec<Header<'_>> = vec![
            ("pulso_refused", Some(b"larger than max.message.bytes of its topic".as_slice())),
            ("pulso_refused_by", Some(message.topic.as_bytes())),
            ("pulso_job_id", Some(job.as_bytes())),
        ];
        headers.extend_from_slice(message.headers);
        let kept = Message { topic: OVERSIZE, key: message.key, value: message.value, headers: &headers };
        if kept.size() > largest {
            let (topic, size, brokers) = (message.topic, message.size(), &self.plan.cluster.brokers);
            return Err(Setback::Failed(format!(
                "a message for topic {topic} has about {size} bytes; the topic takes {limit}, and {OVERSIZE}, which keeps \
                 what is too large, {largest}. Raise max.message.bytes of one of them: kafka-configs.sh \
                 --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config \
                 max.message.bytes={size}"
            )));
        }
        Ok(self.producer.send(&kept, None, call)?)
    }

    /// What it means that a message was not taken, when its transaction is aborted for certain.
    fn not_taken(&self, found: &Undelivered) -> Result<Outcome, TargetError> {
        let Undelivered { topic, code } = found;
        if let Some(reason) = self.plan.cluster.needs(*code, topic) {
            return Ok(Outcome::Failed { reason });
        }
        let reason = format!("topic {topic}: {code}");
        #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else it is passes by itself")]
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge => too_large(topic, self.limits.get(topic).copied()),
            // Deleted, or of other partitions than before.
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition => Err(TargetError::ConnectionLost { reason }),
            _ => Ok(Outcome::RolledBack { reason }),
        }
    }
}

/// `limit`: what is known of the topic's.
fn too_large(topic: &str, limit: Option<usize>) -> Result<Outcome, TargetError> {
    match limit {
        // It is not what it was: a new session reads it anew.
        Some(limit) => Err(TargetError::ConnectionLost {
            reason: format!("topic {topic} refuses a batch of at most {limit} bytes as too large"),
        }),
        // Another try would send the same.
        None => Ok(Outcome::Failed {
            reason: format!(
                "topic {topic} refuses a message as too large, and the job's user may not read how large one may be; give \
                 it DESCRIBE_CONFIGS on topic {topic}"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_for_an_unknown_limit_needs_a_person() {
        let Ok(Outcome::Failed { reason }) = too_large("vitals", None) else { panic!("tried again") };
        assert!(reason.contains("topic vitals") && reason.contains("DESCRIBE_CONFIGS"), "{reason}");
        let lost = too_large("vitals", Some(3_000));
        assert!(matches!(&lost, Err(TargetError::ConnectionLost { reason }) if reason.contains("3000")), "{lost:?}");
    }
}
