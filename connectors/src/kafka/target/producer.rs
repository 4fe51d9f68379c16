//! One transactional producer, every step of which ends in bounded time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::cluster::{Call, Cluster, does_not_start};
use super::messages::Message;
use crate::target::TargetError;

/// Brokers abort a transaction that is older. Nothing is lost by it, but until then readers of what is committed wait
/// behind one whose writer died, if no other takes over.
const TRANSACTION_TIMEOUT_MS: &str = "60000";
/// Largest batch in bytes; smaller where a topic takes less.
const BATCH: usize = 1_000_000;
/// What may wait in the client's memory for being sent.
const QUEUE_KIB: &str = "65536";
/// How long one step of a call goes without looking whether anybody still waits for it.
const SLICE: Duration = Duration::from_millis(250);
/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Left alone, a client tries every half second to begin: where it has no connection to the coordinator yet, where a
/// transaction has to be aborted first. Asked again, it tries at once.
const ASK_AGAIN: Duration = Duration::from_millis(30);
const FULL: Duration = Duration::from_millis(1);
/// How often it is looked whether all is delivered.
const ON_ITS_WAY: Duration = Duration::from_micros(300);

/// A message that the brokers did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undelivered {
    pub(super) topic: String,
    pub(super) code: RDKafkaErrorCode,
}

/// What the client's own threads leave for the one that writes.
#[derive(Default)]
pub(super) struct Context {
    undelivered: Mutex<Option<Undelivered>>,
    /// What is wrong with connections, most recently.
    trouble: Mutex<Option<String>>,
    /// The producer is of no use any more.
    pub(super) ended: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing in there can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.ended.notify_one();
        }
        *lock(&self.trouble) = Some(format!("{error}: {reason}"));
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            // What came after the first is a consequence.
            lock(&self.undelivered).get_or_insert(Undelivered { topic: message.topic().to_owned(), code });
        }
    }
}

/// A step that did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its outcome is unknown, or the producer is of no use any more.
    Lost(String),
    Undelivered(Undelivered),
}

pub(super) struct Producer {
    client: ThreadedProducer<Context>,
}

impl Producer {
    /// Everything that another producer of this id has under way is committed or aborted when this returns, and it
    /// commits no more. `largest`: what every topic takes as a batch, as
    /// far as known.
    pub(super) fn start(cluster: &Cluster, id: &str, largest: usize, call: &Call) -> Result<Self, TargetError> {
        let mut config = cluster.config();
        let settings = [
            ("transactional.id", id),
            ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
            // As Java clients do it, so that a key is where other producers put it.
            ("partitioner", "murmur2_random"),
            ("compression.type", "lz4"),
            // Batches grow while their epoch is sent, and its end waits for no company.
            ("linger.ms", "1"),
            ("queue.buffering.max.kbytes", QUEUE_KIB),
            ("delivery.report.only.error", "true"),
            // How large is too large is for the topics to say.
            ("message.max.bytes", "1000000000"),
        ];
        for (name, value) in settings {
            config.set(name, value);
        }
        config.set("batch.size", BATCH.min(largest).to_string());
        let client: ThreadedProducer<Context> =
            config.create_with_context(Context::default()).map_err(|e| does_not_start(&e))?;
        let producer = Self { client };
        producer.connect(cluster)?;
        loop {
            match producer.client.init_transactions(ASK_AGAIN) {
                Ok(()) => return Ok(producer),
                Err(error) if is_patient(&error) && call.goes_on() => {}
                Err(error) => {
                    let refused = cluster.refused("beginning to write", id, &error);
                    let TargetError::Retry { reason } = refused else { return Err(refused) };
                    return Err(TargetError::Retry { reason: producer.with_trouble(reason) });
                }
            }
        }
    }

    /// Without a connection the client would look for one again only after half a second.
    fn connect(&self, cluster: &Cluster) -> Result<(), TargetError> {
        let ledger = cluster.ledger();
        let found = self.client.client().fetch_metadata(Some(&ledger), CONNECT);
        found.map(drop).map_err(|error| {
            let refused = cluster.refused("connecting", &ledger, &error);
            let TargetError::Retry { reason } = refused else { return refused };
            TargetError::Retry { reason: self.with_trouble(reason) }
        })
    }

    pub(super) fn context(&self) -> Arc<Context> {
        Arc::clone(self.client.context())
    }

    pub(super) fn begin(&self) -> Result<(), Trouble> {
        lock(&self.client.context().undelivered).take();
        self.client.begin_transaction().map_err(|e| self.lost("beginning a transaction", &e))
    }

    /// `partition`: by the key where there is none.
    pub(super) fn send(&self, message: &Message<'_>, partition: Option<i32>, call: &Call) -> Result<(), Trouble> {
        let mut record = BaseRecord::<[u8], [u8]>::to(message.topic);
        record.key = message.key;
        record.payload = message.value;
        record.partition = partition;
        if !message.headers.is_empty() {
            let none = OwnedHeaders::new_with_capacity(message.headers.len());
            record.headers =
                Some(message.headers.iter().fold(none, |all, (key, value)| all.insert(Header { key, value: *value })));
        }
        let mut patience: Option<Call> = None;
        loop {
            let Err((error, unsent)) = self.client.send(record) else { return Ok(()) };
            self.undelivered()?;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    if !patience.get_or_insert_with(|| call.anew()).goes_on() {
                        return Err(self.no_answer("sending"));
                    }
                    std::thread::sleep(FULL);
                    record = unsent;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                    let code = RDKafkaErrorCode::MessageSizeTooLarge;
                    return Err(Trouble::Undelivered(Undelivered { topic: message.topic.to_owned(), code }));
                }
                _ => return Err(self.lost("sending", &error)),
            }
        }
    }

    /// Waits until the brokers have everything that was sent, for as long as they take more of it.
    pub(super) fn deliver(&self, call: &Call) -> Result<(), Trouble> {
        let (mut patience, mut waiting) = (call.anew(), self.client.in_flight_count());
        loop {
            // With a time-out it would look only every 100 ms.
            let flushed = self.client.flush(Duration::ZERO);
            self.undelivered()?;
            match flushed {
                Ok(()) => return Ok(()),
                Err(_) if patience.goes_on() => std::thread::sleep(ON_ITS_WAY),
                Err(_) => return Err(self.no_answer("sending")),
            }
            let left = self.client.in_flight_count();
            if left < std::mem::replace(&mut waiting, left) {
                patience = call.anew();
            }
        }
    }

    /// An error leaves the outcome unknown.
    pub(super) fn commit(&self, call: &Call) -> Result<(), Trouble> {
        if !call.is_wanted() {
            return Err(Trouble::Lost("given up".to_owned()));
        }
        loop {
            match self.client.commit_transaction(SLICE) {
                Ok(()) => return Ok(()),
                Err(error) if is_patient(&error) && call.goes_on() => {}
                Err(error) => return Err(self.lost("committing", &error)),
            }
        }
    }

    /// When this returns without error, nothing of the transaction is ever seen.
    pub(super) fn abort(&self, call: &Call) -> Result<(), Trouble> {
        loop {
            match self.client.abort_transaction(SLICE) {
                Ok(()) => return Ok(()),
                Err(error) if is_patient(&error) && call.goes_on() => {}
                Err(error) => return Err(self.lost("aborting a transaction", &error)),
            }
        }
    }

    fn undelivered(&self) -> Result<(), Trouble> {
        lock(&self.client.context().undelivered).take().map_or(Ok(()), |found| Err(Trouble::Undelivered(found)))
    }

    fn lost(&self, what: &str, error: &ClientError) -> Trouble {
        Trouble::Lost(self.with_trouble(format!("{what}: {error}")))
    }

    fn no_answer(&self, what: &str) -> Trouble {
        Trouble::Lost(self.with_trouble(format!("{what}: the brokers do not answer")))
    }

    /// With what the client says of its connections.
    fn with_trouble(&self, reason: String) -> String {
        match lock(&self.client.context().trouble).take() {
            Some(trouble) => format!("{reason} ({trouble})"),
            None => reason,
        }
    }
}

/// The step is still under way, and calling again waits for it.
fn is_patient(error: &ClientError) -> bool {
    if let ClientError::Transaction(error) = error {
        return error.is_retriable();
    }
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// Ends whatever these writers have under way: when this returns, it is committed or aborted, and they commit no more.
pub(super) fn fence(cluster: &Cluster, ids: &[&str], call: &Call) -> Result<(), TargetError> {
    std::thread::scope(|scope| {
        let fences: Vec<_> = ids.iter().map(|id| scope.spawn(|| fence_one(cluster, id, call))).collect();
        fences.into_iter().try_for_each(|fence| {
            fence.join().unwrap_or_else(|_| Err(cluster.unreachable("fencing a writer", "its thread ended")))
        })
    })
}

fn fence_one(cluster: &Cluster, id: &str, call: &Call) -> Result<(), TargetError> {
    let mut config = cluster.config();
    config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
    let client: BaseProducer = config.create().map_err(|e| does_not_start(&e))?;
    let refused = |error| cluster.refused("fencing an older writer", id, &error);
    client.client().fetch_metadata(Some(&cluster.ledger()), CONNECT).map_err(refused)?;
    loop {
        match client.init_transactions(ASK_AGAIN) {
            Ok(()) => return Ok(()),
            Err(error) if is_patient(&error) && call.goes_on() => {}
            Err(error) => return Err(refused(error)),
        }
    }
}
