//! Who is there: TaskManagers with a live session.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Instant, MemberView, SessionId, TaskManagerId};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) session: SessionId,
    name: String,
    exchange: String,
    heard: Instant,
    leaving: bool,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    members: BTreeMap<TaskManagerId, Member>,
    sessions: BTreeMap<SessionId, TaskManagerId>,
}

impl Members {
    /// Returns the session that this one replaces: whatever was under way on it may be lost.
    pub(super) fn register(
        &mut self,
        session: SessionId,
        task_manager: TaskManagerId,
        name: String,
        exchange: String,
        now: Instant,
    ) -> Option<SessionId> {
        let replaced = self.members.get(&task_manager).map(|member| member.session);
        if let Some(replaced) = replaced {
            self.sessions.remove(&replaced);
        }
        self.sessions.insert(session, task_manager);
        self.members.insert(task_manager, Member { session, name, exchange, heard: now, leaving: false });
        replaced
    }

    /// `None` for a session that is unknown or was replaced.
    pub(super) fn lose(&mut self, session: SessionId) -> Option<TaskManagerId> {
        let task_manager = self.sessions.remove(&session)?;
        self.members.remove(&task_manager);
        Some(task_manager)
    }

    /// Notes that the session lives, and says whose it is.
    pub(super) fn heard(&mut self, session: SessionId, now: Instant) -> Option<TaskManagerId> {
        let task_manager = *self.sessions.get(&session)?;
        self.members.get_mut(&task_manager)?.heard = now;
        Some(task_manager)
    }

    pub(super) fn leave(&mut self, task_manager: TaskManagerId) {
        if let Some(member) = self.members.get_mut(&task_manager) {
            member.leaving = true;
        }
    }

    pub(super) fn silent(&self, now: Instant, timeout: Duration) -> Vec<SessionId> {
        self.members.values().filter(|m| now.since(m.heard) > timeout).map(|m| m.session).collect()
    }

    pub(super) fn session(&self, task_manager: TaskManagerId) -> Option<SessionId> {
        self.members.get(&task_manager).map(|member| member.session)
    }

    pub(super) fn ids(&self) -> Vec<TaskManagerId> {
        self.members.keys().copied().collect()
    }

    pub(super) fn leaving(&self) -> Vec<TaskManagerId> {
        self.members.iter().filter(|(_, m)| m.leaving).map(|(id, _)| *id).collect()
    }

    /// Those that work can be given to, and where others reach them.
    pub(super) fn staying(&self) -> BTreeMap<TaskManagerId, String> {
        self.members.iter().filter(|(_, m)| !m.leaving).map(|(id, m)| (*id, m.exchange.clone())).collect()
    }

    pub(super) fn nobody_stays(&self) -> bool {
        self.members.values().all(|member| member.leaving)
    }

    pub(super) fn view(&self) -> Vec<MemberView> {
        let view = |(id, member): (&TaskManagerId, &Member)| MemberView {
            task_manager: *id,
            name: member.name.clone(),
            exchange: member.exchange.clone(),
            leaving: member.leaving,
        };
        self.members.iter().map(view).collect()
    }
}
