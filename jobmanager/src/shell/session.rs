//! The two ends of one TaskManager's session: the loop's, which sends, and the service's, which the stream is made of.

use pulso_core::ids::{SessionId, TaskManagerId};
use pulso_core::message::Instruction;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Instructions that wait for one TaskManager. One that reads nothing for this many is given up.
const INSTRUCTIONS: usize = 1024;

/// The queue is full, or the stream is gone.
#[derive(Debug)]
pub(crate) struct Closed;

#[derive(Debug)]
pub(crate) enum ToTaskManager {
    Instruction(Instruction),
    /// The last word: why the session ends.
    Close(String),
}

/// The loop's end; dropping it ends the session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) task_manager: TaskManagerId,
    queue: mpsc::Sender<ToTaskManager>,
    _ended: DropGuard,
}

/// The service's end.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) id: SessionId,
    pub(crate) queue: mpsc::Receiver<ToTaskManager>,
    /// The loop dropped its end: what the TaskManager still says is of no interest.
    pub(crate) ended: CancellationToken,
}

pub(super) fn pair(id: SessionId, task_manager: TaskManagerId) -> (Session, SessionEnd) {
    let (sender, receiver) = mpsc::channel(INSTRUCTIONS);
    let ended = CancellationToken::new();
    let session = Session { task_manager, queue: sender, _ended: ended.clone().drop_guard() };
    (session, SessionEnd { id, queue: receiver, ended })
}

impl Session {
    pub(super) fn send(&self, instruction: Instruction) -> Result<(), Closed> {
        self.queue.try_send(ToTaskManager::Instruction(instruction)).map_err(|_| Closed)
    }

    /// What was sent before still goes out; a full queue ends without the reason.
    pub(super) fn close(&self, reason: &str) {
        self.queue.try_send(ToTaskManager::Close(reason.to_owned())).ok();
    }
}

#[cfg(test)]
mod tests {
    use pulso_core::ids::{Attempt, JobId};

    use super::*;

    fn progress() -> Instruction {
        Instruction::Prepare { job: JobId::default(), attempt: Attempt(1) }
    }

    #[test]
    fn a_full_queue_is_noticed_at_once() {
        let (session, end) = pair(SessionId(1), TaskManagerId::default());
        for _ in 0..INSTRUCTIONS {
            session.send(progress()).unwrap();
        }
        assert!(session.send(progress()).is_err());
        drop(session);
        assert!(end.ended.is_cancelled());
    }

    #[test]
    fn the_reason_comes_after_what_was_sent() {
        let (session, mut end) = pair(SessionId(1), TaskManagerId::default());
        session.send(progress()).unwrap();
        session.close("silent");
        drop(session);
        assert!(matches!(end.queue.blocking_recv(), Some(ToTaskManager::Instruction(_))));
        assert!(matches!(end.queue.blocking_recv(), Some(ToTaskManager::Close(reason)) if reason == "silent"));
        assert!(end.queue.blocking_recv().is_none());
    }
}
