//! The task that owns one target's connection: executes what the worker decided, one command after another.

use std::collections::BTreeSet;
use std::sync::Arc;

use pulso_connectors::target::{Rows, TargetError, TargetWriter};
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::Step;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::JobSpec;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::figures::Figures;
use crate::shell::{Event, Events};

pub(crate) enum Order {
    TakeOver {
        attempt: Attempt,
        key_groups: BTreeSet<KeyGroupId>,
        create: bool,
    },
    Register {
        attempt: Attempt,
        key_groups: BTreeSet<KeyGroupId>,
    },
    /// `last`: nothing will be committed any more.
    ReadLedger {
        attempt: Attempt,
        key_groups: BTreeSet<KeyGroupId>,
        last: bool,
    },
    Transact {
        attempt: Attempt,
        steps: Vec<Step>,
        outputs: Vec<(Epoch, TargetRows)>,
    },
}

impl Order {
    fn attempt(&self) -> Attempt {
        match self {
            Self::TakeOver { attempt, .. }
            | Self::Register { attempt, .. }
            | Self::ReadLedger { attempt, .. }
            | Self::Transact { attempt, .. } => *attempt,
        }
    }
}

/// Handle of one target's task. Orders queue up only as far as the worker lets them: one at a time.
pub(crate) struct TargetTask {
    orders: UnboundedSender<Order>,
    /// Cancels what is under way and everything ordered before.
    connection: CancellationToken,
    start: Arc<dyn Fn(UnboundedReceiver<Order>, CancellationToken) + Send + Sync>,
}

impl TargetTask {
    pub(crate) fn start(job: JobId, target: TargetId, spec: Arc<JobSpec>, events: Events, figures: Figures) -> Self {
        let start = Arc::new(move |orders, cancelled: CancellationToken| {
            let (spec, events, figures) = (Arc::clone(&spec), events.clone(), figures.clone());
            let task = Task { job, target, spec, events, figures, attempt: Attempt(0), trouble: Trouble::default() };
            tokio::spawn(task.run(orders, cancelled));
        });
        let (orders, connection) = spawn(start.as_ref());
        Self { orders, connection, start }
    }

    pub(crate) fn order(&self, order: Order) {
        // The receiver ends only with its token, and then it is replaced at once.
        self.orders.send(order).ok();
    }

    /// Closes the connection at once; the next order opens another.
    pub(crate) fn disconnect(&mut self) {
        self.connection.cancel();
        (self.orders, self.connection) = spawn(self.start.as_ref());
    }
}

impl Drop for TargetTask {
    fn drop(&mut self) {
        self.connection.cancel();
    }
}

fn spawn(
    start: &(dyn Fn(UnboundedReceiver<Order>, CancellationToken) + Send + Sync),
) -> (UnboundedSender<Order>, CancellationToken) {
    let (orders, receiver) = unbounded_channel();
    let token = CancellationToken::new();
    start(receiver, token.clone());
    (orders, token)
}

struct Task {
    job: JobId,
    target: TargetId,
    spec: Arc<JobSpec>,
    events: Events,
    figures: Figures,
    /// Attempt of the newest order: whose event the loss of an idle connection is.
    attempt: Attempt,
    trouble: Trouble,
}

/// What is shown of a target that does not do as it is told.
#[derive(Debug, Default)]
struct Trouble {
    /// A transaction came to nothing, and none was committed since: that the ledger can be read mends nothing.
    writing: bool,
}

impl Trouble {
    /// After an order; `None` leaves what is shown as it was.
    fn after(&mut self, transact: bool, done: &Result<Event, TargetError>) -> Option<Option<String>> {
        match done {
            Err(error) => {
                self.writing |= transact;
                Some(Some(error.to_string()))
            }
            Ok(Event::Transacted { outcome, .. }) => match outcome {
                Outcome::Committed => {
                    self.writing = false;
                    Some(None)
                }
                Outcome::GuardMissed { .. } => None,
                Outcome::RolledBack { reason } | Outcome::Failed { reason } => {
                    self.writing = true;
                    Some(Some(reason.clone()))
                }
            },
            Ok(_) => (!self.writing).then_some(None),
        }
    }
}

impl Task {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>, cancelled: CancellationToken) {
        let mut writer = match TargetWriter::new(self.job, self.target, Arc::clone(&self.spec)) {
            Ok(writer) => writer,
            Err(e) => {
                // Wait for the first order, whose attempt the failure belongs to.
                if let Some(order) = orders.recv().await {
                    self.attempt = order.attempt();
                    let event = self.failed(&e);
                    self.events.send(event).await.ok();
                }
                return;
            }
        };
        loop {
            let event = tokio::select! {
                biased;
                () = cancelled.cancelled() => return,
                reason = writer.closed() => self.lost(reason),
                order = orders.recv() => match order {
                    Some(order) => {
                        self.attempt = order.attempt();
                        tokio::select! {
                            biased;
                            () = cancelled.cancelled() => return,
                            event = self.execute(&mut writer, order) => event,
                        }
                    }
                    None => return,
                },
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn execute(&mut self, writer: &mut TargetWriter, order: Order) -> Event {
        let transact = matches!(order, Order::Transact { .. });
        let (job, target, attempt) = (self.job, self.target, order.attempt());
        let done = match order {
            Order::TakeOver { key_groups, create, .. } => {
                writer.take_over(attempt, &key_groups, create).await.map(|rows| {
                    let connection = writer.connection();
                    Event::TakenOver { job, attempt, target, connection, rows }
                })
            }
            Order::Register { key_groups, .. } => writer.register(attempt, &key_groups).await.map(|rows| {
                let connection = writer.connection();
                Event::LedgerRead { job, attempt, target, connection, rows }
            }),
            Order::ReadLedger { key_groups, last, .. } => read_ledger(writer, &key_groups, last).await.map(|rows| {
                let connection = writer.connection();
                Event::LedgerRead { job, attempt, target, connection, rows }
            }),
            Order::Transact { steps, outputs, .. } => writer.transact(&steps, &outputs).await.map(|outcome| {
                if outcome == Outcome::Committed {
                    let rows = outputs.iter().map(|(_, rows)| rows.rows_count() as u64).sum::<u64>();
                    self.figures.tell(job, attempt, |figures| {
                        figures.rows_committed += rows;
                        figures.committed(outputs.iter().flat_map(|(_, rows)| rows.samples_ms.iter().copied()));
                    });
                }
                Event::Transacted { job, attempt, target, outcome }
            }),
        };
        if let Some(trouble) = self.trouble.after(transact, &done) {
            self.figures.tell(job, attempt, |figures| figures.trouble(target, trouble));
        }
        done.unwrap_or_else(|e| self.failed(&e))
    }

    fn failed(&self, error: &TargetError) -> Event {
        let (job, target, attempt, reason) = (self.job, self.target, self.attempt, error.to_string());
        match error {
            TargetError::ConnectionLost { .. } => Event::ConnectionLost { job, attempt, target, reason },
            TargetError::Retry { .. } => Event::TargetRefused { job, attempt, target, reason },
            TargetError::Fatal { .. } => Event::TargetFailed { job, attempt, target, reason },
        }
    }

    fn lost(&self, reason: String) -> Event {
        Event::ConnectionLost { job: self.job, attempt: self.attempt, target: self.target, reason }
    }
}

/// The last reading finds everything visible: nothing comes after it that could make it so.
async fn read_ledger(
    writer: &mut TargetWriter,
    key_groups: &BTreeSet<KeyGroupId>,
    last: bool,
) -> Result<Rows, TargetError> {
    if last {
        writer.finish().await?;
    }
    writer.read_ledger(key_groups).await
}

#[cfg(test)]
mod tests {
    use pulso_core::ids::ConnectionId;

    use super::*;

    #[test]
    fn trouble_lasts_until_a_transaction_is_committed() {
        let (job, attempt, target) = (JobId::default(), Attempt(1), TargetId(0));
        let transacted = |outcome| Ok(Event::Transacted { job, attempt, target, outcome });
        let read =
            || Ok(Event::LedgerRead { job, attempt, target, connection: ConnectionId(1), rows: Default::default() });
        let lost = || Err(TargetError::ConnectionLost { reason: "reset".into() });
        let mut trouble = Trouble::default();
        let shown = Some(Some("deadlock detected".to_owned()));
        let rolled_back = transacted(Outcome::RolledBack { reason: "deadlock detected".into() });
        assert_eq!(trouble.after(true, &rolled_back), shown);
        assert_eq!(trouble.after(false, &read()), None);
        assert_eq!(trouble.after(true, &transacted(Outcome::Committed)), Some(None));
        // An idle connection that was lost is mended by the next one.
        assert_eq!(trouble.after(false, &lost()), Some(Some("connection lost: reset".to_owned())));
        assert_eq!(trouble.after(false, &read()), Some(None));
        // One lost in a transaction is not.
        assert!(trouble.after(true, &lost()).is_some());
        assert_eq!(trouble.after(false, &read()), None);
    }
}
