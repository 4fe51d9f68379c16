//! What goes wrong, and how it is mended.

use pulso_core::control_log::JobState;
use pulso_core::ids::TargetId;

use super::{JOB, World};
use crate::action::{Action, Heal};
use crate::database::Contents;
use crate::invariants::Seen;
use crate::network::Node;
use crate::task_manager::Life;

/// Every kind of fault, by its bit in the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    LoseMachine,
    Pause,
    CutFromJobManager,
    CutFromEachOther,
    CutFromTarget,
    BreakConnection,
    RestartTarget,
    TargetGoesBack,
    KillJobManager,
    PauseJobManager,
    StorageDown,
    Join,
    Leave,
    AddSplit,
    DamageSnapshot,
    BrokerDown,
    BrokerTrouble,
    BreakSession,
    BreakLink,
    Savepoint,
    KillAll,
    Absence,
    Change,
}

const FAULTS: [Fault; 24] = [
    Fault::Kill,
    Fault::LoseMachine,
    Fault::Pause,
    Fault::CutFromJobManager,
    Fault::CutFromEachOther,
    Fault::CutFromTarget,
    Fault::BreakConnection,
    Fault::RestartTarget,
    Fault::TargetGoesBack,
    Fault::KillJobManager,
    Fault::PauseJobManager,
    Fault::StorageDown,
    Fault::Join,
    Fault::Leave,
    Fault::AddSplit,
    Fault::DamageSnapshot,
    Fault::BrokerDown,
    Fault::BrokerTrouble,
    Fault::BreakSession,
    Fault::BreakLink,
    Fault::Savepoint,
    Fault::KillAll,
    Fault::Absence,
    Fault::Change,
];

/// Their bits.
pub(crate) const GOES_BACK: u64 = 8;
pub(crate) const CHANGE: u64 = 23;

impl World {
    pub(crate) fn fault(&mut self) {
        if !self.rough {
            return;
        }
        let kinds: Vec<Fault> =
            (0..).zip(FAULTS).filter(|(bit, _)| self.scenario.kinds >> bit & 1 == 1).map(|(_, f)| f).collect();
        if let Some(fault) = self.chance.pick(&kinds).copied() {
            self.trace.note(self.schedule.now(), "fault", &fault);
            self.strike(fault);
        }
        let next = self.chance.between(10_000..2 * self.scenario.fault_every);
        self.schedule.after(next, Action::Fault);
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Kill | Fault::LoseMachine => {
                if let Some(tm) = self.some_task_manager() {
                    self.kill_task_manager(tm, fault == Fault::LoseMachine);
                    self.heal_after(50_000..1_500_000, Heal::Restart);
                }
            }
            Fault::Pause => {
                if let Some(tm) = self.some_task_manager() {
                    self.tms[tm].life = Life::Paused;
                    let me = Node::TaskManager(tm);
                    self.watch_all(|a, b| a == me || b == me);
                    self.heal_after(20_000..4_000_000, Heal::Resume(tm));
                }
            }
            Fault::CutFromJobManager => {
                let from = self.some_job_manager().map(Node::JobManager);
                self.cut(from);
            }
            Fault::CutFromEachOther => {
                let from = self.some_task_manager().map(Node::TaskManager);
                self.cut(from);
            }
            Fault::CutFromTarget => {
                let from = self.some_target().map(Node::Target);
                self.cut(from);
            }
            Fault::BreakConnection => {
                let all: Vec<_> = self.connections.keys().copied().collect();
                if let Some(id) = self.chance.pick(&all).copied() {
                    self.break_connection(id);
                }
            }
            Fault::RestartTarget => self.restart_target(),
            Fault::TargetGoesBack => self.go_back(),
            Fault::KillJobManager | Fault::PauseJobManager => self.strike_job_manager(fault),
            Fault::StorageDown => {
                self.storage_up = false;
                self.heal_after(10_000..1_500_000, Heal::Storage);
            }
            Fault::Join => {
                if self.tms.iter().filter(|t| t.is_alive()).count() < 5 {
                    self.start_task_manager();
                }
            }
            Fault::Leave => self.leave(),
            Fault::AddSplit => {
                if self.kafka.splits.len() < 7 {
                    self.kafka.add_split(&mut self.chance);
                }
            }
            Fault::DamageSnapshot => self.damage_snapshot(),
            Fault::BrokerDown => {
                self.kafka_up = false;
                self.heal_after(10_000..900_000, Heal::Kafka);
            }
            Fault::BrokerTrouble => {
                if let Some(tm) = self.some_task_manager() {
                    self.broker_trouble(tm);
                }
            }
            Fault::BreakSession | Fault::BreakLink => self.break_some(fault),
            Fault::Savepoint => self.savepoint(),
            Fault::KillAll => self.kill_all(),
            Fault::Absence => self.absence(),
            Fault::Change => self.change(),
        }
    }

    fn restart_target(&mut self) {
        let Some(target) = self.some_target() else { return };
        self.end_backends(target);
        if let Some(database) = self.databases.get_mut(&target) {
            database.up = false;
        }
        self.heal_after(10_000..900_000, Heal::TargetUp(target));
    }

    fn break_some(&mut self, fault: Fault) {
        if fault == Fault::BreakSession {
            let all: Vec<_> = self.sessions.keys().copied().collect();
            self.chance.pick(&all).copied().into_iter().for_each(|id| self.break_session(id));
        } else {
            let all: Vec<_> = self.links.keys().copied().collect();
            self.chance.pick(&all).copied().into_iter().for_each(|id| self.break_link(id, false));
        }
    }

    fn heal_after(&mut self, within: std::ops::Range<u64>, heal: Heal) {
        let delay = self.chance.between(within);
        self.schedule.after(delay, Action::Heal(heal));
    }

    fn some_task_manager(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.tms.len()).filter(|tm| self.tms[*tm].runs()).collect();
        self.chance.pick(&running).copied()
    }

    fn some_target(&mut self) -> Option<TargetId> {
        let targets: Vec<TargetId> = self.databases.keys().copied().collect();
        self.chance.pick(&targets).copied()
    }

    fn some_job_manager(&mut self) -> Option<usize> {
        let living: Vec<usize> = (0..self.jms.len()).filter(|j| self.jms[*j].life != Life::Dead).collect();
        self.chance.pick(&living).copied()
    }

    fn cut(&mut self, from: Option<Node>) {
        let (Some(tm), Some(other)) = (self.some_task_manager(), from) else { return };
        let me = Node::TaskManager(tm);
        if me == other {
            return;
        }
        self.network.partition(me, other);
        self.watch_all(|a, b| (a, b) == (me, other) || (b, a) == (me, other));
        self.heal_after(20_000..4_000_000, Heal::Partition(me, other));
    }

    pub(crate) fn end_backends(&mut self, target: TargetId) {
        let effects = self.databases.get_mut(&target).map(crate::database::Database::end_all);
        self.take_effect(target, effects.unwrap_or_default());
    }

    /// To an older state that some retained checkpoint precedes: else the job rightly fails.
    pub(crate) fn go_back(&mut self) {
        let now = self.schedule.now();
        let Some(target) = self.some_target() else { return };
        if self.went_back.is_some_and(|at| now.since(at).as_millis() < 5_000) {
            return;
        }
        let Some(database) = self.databases.get(&target) else { return };
        let job = self.folded.jobs.get(&JOB);
        // What nobody writes to is not looked at, and before a change it was looked at for the last time.
        let looked_at = |job: &JobState| job.change.is_none() && usize::from(target.0) < job.definition.targets.len();
        if !job.is_some_and(looked_at) {
            return;
        }
        let fits: Vec<usize> = (0..database.history.len())
            .filter(|at| {
                database.history.get(*at).is_some_and(|(_, contents)| {
                    self.retained.precedes(target, contents, &self.objects, job, self.scenario.ledger_rows())
                })
            })
            .collect();
        // Where there is a way back behind a change, rather that.
        let past = self.folded.jobs.get(&JOB).and_then(|job| job.past.last()).map(|past| past.until);
        let before = |at: &&usize| {
            let marks = |(_, contents): &(_, Contents)| contents.ledger.values().map(|e| e.row.mark.epoch).max();
            database.history.get(**at).and_then(marks) < past
        };
        let behind: Vec<usize> = fits.iter().filter(before).copied().collect();
        let fits = if behind.is_empty() { fits } else { behind };
        let Some(contents) =
            self.chance.pick(&fits).and_then(|at| database.history.get(*at)).map(|(_, contents)| contents.clone())
        else {
            return;
        };
        self.went_back = Some(now);
        self.end_backends(target);
        if let Some(database) = self.databases.get_mut(&target) {
            database.contents = contents;
            database.history.clear();
        }
        self.see(&Seen::WentBack(target));
        self.sight(crate::coverage::Sight::WentBack);
    }

    fn strike_job_manager(&mut self, fault: Fault) {
        let running: Vec<usize> = (0..self.jms.len()).filter(|j| self.jms[*j].life == Life::Running).collect();
        let Some(jm) = self.chance.pick(&running).copied() else { return };
        if fault == Fault::KillJobManager {
            self.kill_job_manager(jm);
            self.heal_after(20_000..4_000_000, Heal::RestartJobManager(self.jms[jm].host));
        } else {
            self.jms[jm].life = Life::Paused;
            let me = Node::JobManager(jm);
            self.watch_all(|a, b| a == me || b == me);
            self.heal_after(20_000..5_000_000, Heal::ResumeJobManager(jm));
        }
    }

    /// SIGTERM: everything moves away, then the process ends.
    fn leave(&mut self) {
        let Some(tm) = self.some_task_manager() else { return };
        if self.tms.iter().filter(|t| t.is_alive() && !t.leaving).count() < 2 || self.tms[tm].leaving {
            return;
        }
        self.tms[tm].leaving = true;
        self.report(tm, pulso_core::message::Report::Leaving);
        self.heal_after(300_000..3_000_000, Heal::Exit(tm));
    }

    /// Damages a file that only the newest checkpoint names, just as everything must come back from it.
    fn damage_snapshot(&mut self) {
        // A change has its checkpoint alone to go on from.
        if self.folded.jobs.get(&JOB).is_some_and(|job| job.change.is_some()) {
            return;
        }
        let only: Vec<String> = self.retained.only_in_newest(&self.objects);
        let Some(name) = self.chance.pick(&only).cloned() else { return };
        if self.objects.damage(&name) {
            self.kill_all();
        }
    }

    /// One TaskManager is out of every JobManager's reach for long enough to be replaced, and then back with what it
    /// holds.
    fn absence(&mut self) {
        let Some(tm) = self.some_task_manager() else { return };
        let me = Node::TaskManager(tm);
        for jm in 0..self.jms.len() {
            self.network.partition(me, Node::JobManager(jm));
        }
        self.watch_all(|a, b| matches!(a, Node::JobManager(_)) && b == me);
        self.heal_after(1_600_000..3_500_000, Heal::Return(tm));
    }

    fn come_back(&mut self, tm: usize) {
        let others: Vec<usize> = (0..self.tms.len()).filter(|t| *t != tm && self.tms[*t].runs()).collect();
        if let (Some(other), true) = (self.chance.pick(&others).copied(), self.rough) {
            self.broker_trouble(other);
        }
        for jm in 0..self.jms.len() {
            self.heal_after(1..40_000, Heal::Partition(Node::TaskManager(tm), Node::JobManager(jm)));
        }
    }

    fn kill_all(&mut self) {
        for tm in 0..self.tms.len() {
            if self.tms[tm].is_alive() {
                self.kill_task_manager(tm, false);
            }
        }
        for _ in 0..self.scenario.task_managers {
            self.heal_after(50_000..1_500_000, Heal::Restart);
        }
    }

    pub(crate) fn heal(&mut self, heal: Heal) {
        self.trace.note(self.schedule.now(), "heal", &heal);
        match heal {
            Heal::Resume(tm) if self.tms[tm].life == Life::Paused => {
                self.tms[tm].life = Life::Running;
                for action in std::mem::take(&mut self.tms[tm].held) {
                    self.schedule.after(0, action);
                }
            }
            Heal::ResumeJobManager(jm) if self.jms[jm].life == Life::Paused => {
                self.jms[jm].life = Life::Running;
                for action in std::mem::take(&mut self.jms[jm].held) {
                    self.schedule.after(0, action);
                }
            }
            Heal::Resume(_) | Heal::ResumeJobManager(_) => {}
            Heal::Return(tm) => self.come_back(tm),
            Heal::Partition(a, b) => {
                if !self.is_lost(a) && !self.is_lost(b) {
                    self.network.heal(a, b);
                }
            }
            Heal::Restart => {
                if self.tms.iter().filter(|t| t.is_alive()).count() < 5 {
                    self.start_task_manager();
                }
            }
            Heal::RestartJobManager(host) => {
                if !self.jms.iter().any(|j| j.host == host && j.life != Life::Dead) {
                    self.start_job_manager(host);
                }
            }
            Heal::Exit(tm) => {
                if self.tms[tm].is_alive() {
                    self.kill_task_manager(tm, false);
                }
                let others = self.tms.iter().filter(|t| t.is_alive() && !t.leaving).count();
                if others == 0 {
                    self.start_task_manager();
                }
            }
            Heal::TargetUp(target) => {
                if let Some(database) = self.databases.get_mut(&target) {
                    database.up = true;
                }
            }
            Heal::Kafka => self.kafka_up = true,
            Heal::Storage => self.storage_up = true,
        }
    }

    fn is_lost(&self, node: Node) -> bool {
        matches!(node, Node::TaskManager(tm) if !self.tms[tm].is_alive())
    }

    pub(crate) fn heal_everything(&mut self) {
        self.network.heal_all();
        for tm in 0..self.tms.len() {
            self.heal(Heal::Resume(tm));
        }
        for jm in 0..self.jms.len() {
            self.heal(Heal::ResumeJobManager(jm));
        }
        for host in 0..self.scenario.job_managers {
            self.heal(Heal::RestartJobManager(host));
        }
        for target in self.databases.keys().copied().collect::<Vec<_>>() {
            self.heal(Heal::TargetUp(target));
        }
        self.heal(Heal::Kafka);
        self.heal(Heal::Storage);
        if !self.tms.iter().any(|t| t.is_alive() && !t.leaving) {
            self.start_task_manager();
        }
    }
}
