//! The machine of one JobManager at the control log: follows it, claims leadership, appends with put-if-absent.
//!
//! A number belongs to whoever put it first. A leader has one put outstanding and settles every unclear answer by
//! reading before it writes anything else; so a leader that was replaced meets the claim of its successor.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::following::{Following, Looked};
use super::{LogState, ObjectHash, frame};
use crate::ids::Instant;
use crate::record::Record;

/// Everything that can happen to the appender. Every command but `Delete` is answered, however long it takes;
/// an operation whose outcome is not known is answered as such (`Unclear`) or tried again (reading, listing).
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed; sent at least every 50 ms.
    Tick,
    /// The coordinator's records, after `Lead`; answered by `Appended` once durable, in order.
    Append(Vec<Record>),
    PutAnswered {
        number: u64,
        answer: PutAnswer,
    },
    /// `None`: there is no such object.
    ReadAnswered {
        number: u64,
        bytes: Option<Vec<u8>>,
    },
    /// All numbers that exist, in any order.
    Listed {
        numbers: Vec<u64>,
    },
}

/// What became of a put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAnswer {
    Created,
    Exists,
    /// Time-out or error: it may have happened, or may yet.
    Unclear,
}

/// What the shell carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Put-if-absent, durable (file and directory synced) before it is answered.
    Put {
        number: u64,
        bytes: Vec<u8>,
    },
    Read {
        number: u64,
    },
    List,
    /// For the coordinator: the records of its oldest `Append` are durable.
    Appended,
    /// This JobManager leads: start a coordinator with this state.
    Lead {
        state: Box<LogState>,
    },
    /// Drop the coordinator and all it has under way. `fatal`: the log needs a person, the appender does nothing more;
    /// else it follows the new leader.
    StepDown {
        reason: String,
        fatal: bool,
    },
    /// Best effort.
    Delete {
        numbers: Vec<u64>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The leader appends at least this often.
    pub alive_every: Duration,
    /// A standby claims leadership after this long without a new number.
    pub takeover_after: Duration,
    /// How often a follower lists.
    pub list_every: Duration,
    /// Objects after which the leader writes the whole state, so that readers start there.
    pub base_every: u64,
    /// Objects read at once.
    pub read_batch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            alive_every: Duration::from_millis(400),
            takeover_after: Duration::from_secs(2),
            list_every: Duration::from_millis(250),
            base_every: 2_000,
            read_batch: 64,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Appender {
    settings: Settings,
    name: String,
    nonce: Uuid,
    log: Known,
    role: Role,
}

/// What is known of the log.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The fold up to and including `newest`, and of what is being put.
    pub(super) state: LogState,
    /// The newest number; 0: the log is empty, numbers begin with 1.
    pub(super) newest: u64,
    pub(super) hash: ObjectHash,
    /// Objects since the newest `Base`.
    pub(super) since_base: u64,
    /// Numbers that exist.
    pub(super) objects: BTreeSet<u64>,
}

#[derive(Debug)]
enum Role {
    Following(Following),
    /// The claim is being put.
    Claiming(Put),
    /// The claim won its number; only a LIST that shows nothing above it makes it count.
    Confirming(Put),
    Leading(Leading),
    Stopped,
}

#[derive(Debug)]
struct Leading {
    put: Option<(Put, Kind)>,
    waiting: Vec<Vec<Record>>,
    last_put: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Answers this many `Append` events.
    Records(usize),
    Alive,
    Base,
}

/// One put and what is known of its fate.
#[derive(Debug)]
struct Put {
    number: u64,
    bytes: Vec<u8>,
    /// The storage said that the number is taken.
    existed: bool,
}

enum Fate {
    Open(Vec<Command>),
    Mine,
    Lost,
}

impl Put {
    fn new(number: u64, bytes: Vec<u8>) -> (Self, Command) {
        let command = Command::Put { number, bytes: bytes.clone() };
        (Self { number, bytes, existed: false }, command)
    }

    /// `Exists` is read back too: a storage client that tried again by itself meets its own object.
    fn answered(&mut self, number: u64, answer: PutAnswer) -> Fate {
        if number != self.number {
            return Fate::Open(Vec::new());
        }
        match answer {
            PutAnswer::Created => Fate::Mine,
            PutAnswer::Exists => {
                self.existed = true;
                Fate::Open(vec![Command::Read { number }])
            }
            PutAnswer::Unclear => Fate::Open(vec![Command::Read { number }]),
        }
    }

    /// Absent after `Exists`: others wrote, based and collected beyond this number. Putting it again would succeed and
    /// mean nothing.
    fn read(&mut self, number: u64, bytes: Option<&[u8]>) -> Fate {
        if number != self.number {
            return Fate::Open(Vec::new());
        }
        match bytes {
            Some(found) if found == self.bytes => Fate::Mine,
            Some(_) => Fate::Lost,
            None if self.existed => Fate::Lost,
            None => Fate::Open(vec![Command::Put { number, bytes: self.bytes.clone() }]),
        }
    }
}

impl Appender {
    /// `name` tells JobManagers apart and stays the same over restarts; `nonce` is new for every process.
    #[must_use]
    pub fn new(settings: Settings, name: String, nonce: Uuid) -> Self {
        Self { settings, name, nonce, log: Known::default(), role: Role::Following(Following::at_start()) }
    }

    #[must_use]
    pub fn is_leading(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// Takes an event in and says what to do. Answers that fit nothing outstanding are ignored.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Command> {
        match std::mem::replace(&mut self.role, Role::Stopped) {
            Role::Following(following) => self.follow(following, event, now),
            Role::Claiming(put) => self.claiming(put, event, now),
            Role::Confirming(put) => self.confirming(put, event, now),
            Role::Leading(leading) => self.leading(leading, event, now),
            Role::Stopped => Vec::new(),
        }
    }

    fn follow(&mut self, mut following: Following, event: Event, now: Instant) -> Vec<Command> {
        let looked = following.handle(event, now, &self.settings, &self.name, &mut self.log);
        match looked {
            Looked::On(commands) => {
                self.role = Role::Following(following);
                commands
            }
            Looked::Silence => {
                let claim = [Record::Leader { nonce: self.nonce, name: self.name.clone() }];
                let bytes = frame(self.nonce, self.log.hash, &claim);
                let (put, command) = Put::new(self.log.newest + 1, bytes);
                self.role = Role::Claiming(put);
                vec![command]
            }
            Looked::Corrupt(reason) => vec![Command::StepDown { reason, fatal: true }],
        }
    }

    fn claiming(&mut self, mut put: Put, event: Event, now: Instant) -> Vec<Command> {
        match settle(&mut put, &event) {
            Fate::Open(commands) => {
                self.role = Role::Claiming(put);
                commands
            }
            Fate::Mine => {
                self.role = Role::Confirming(put);
                vec![Command::List]
            }
            Fate::Lost => {
                self.role = Role::Following(Following::behind(now));
                Vec::new()
            }
        }
    }

    fn confirming(&mut self, put: Put, event: Event, now: Instant) -> Vec<Command> {
        let Event::Listed { numbers } = event else {
            self.role = Role::Confirming(put);
            return Vec::new();
        };
        if numbers.iter().any(|n| *n > put.number) {
            self.role = Role::Following(Following::behind(now));
            return Vec::new();
        }
        self.log.objects = numbers.into_iter().collect();
        let claim = [Record::Leader { nonce: self.nonce, name: self.name.clone() }];
        if let Err(error) = self.log.state.apply_object(put.number, &claim) {
            return vec![Command::StepDown { reason: error.to_string(), fatal: true }];
        }
        self.log.wrote(put.number, &put.bytes);
        self.role = Role::Leading(Leading { put: None, waiting: Vec::new(), last_put: now });
        vec![Command::Lead { state: Box::new(self.log.state.clone()) }]
    }

    fn leading(&mut self, mut leading: Leading, event: Event, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        if let Some((mut put, kind)) = leading.put.take() {
            match settle(&mut put, &event) {
                Fate::Open(more) => {
                    commands.extend(more);
                    leading.put = Some((put, kind));
                }
                Fate::Mine => commands.extend(self.settled(&put, kind)),
                Fate::Lost => {
                    let reason = format!("record {} of the control log is another JobManager's", put.number);
                    // The fold has taken in what was never written.
                    self.log = Known::default();
                    self.role = Role::Following(Following::behind(now));
                    return vec![Command::StepDown { reason, fatal: false }];
                }
            }
        }
        if let Event::Append(records) = event {
            leading.waiting.push(records);
        }
        if leading.put.is_none() {
            match self.next_put(&mut leading, now) {
                Ok(command) => commands.extend(command),
                Err(reason) => {
                    commands.push(Command::StepDown { reason, fatal: true });
                    return commands;
                }
            }
        }
        self.role = Role::Leading(leading);
        commands
    }

    /// Records go first but for a base that is due: a coordinator that always has more must not put it off for ever.
    fn next_put(&mut self, leading: &mut Leading, now: Instant) -> Result<Option<Command>, String> {
        let (records, kind) = if self.log.since_base >= self.settings.base_every {
            (vec![Record::Base(Box::new(self.log.state.clone()))], Kind::Base)
        } else if !leading.waiting.is_empty() {
            let appends = leading.waiting.len();
            (leading.waiting.drain(..).flatten().collect(), Kind::Records(appends))
        } else if now.since(leading.last_put) >= self.settings.alive_every {
            (vec![Record::Alive], Kind::Alive)
        } else {
            return Ok(None);
        };
        // Folded before it is written: what no reader could read must never reach the log.
        let number = self.log.newest + 1;
        self.log.state.apply_object(number, &records).map_err(|e| format!("refused to write record {number}: {e}"))?;
        let (put, command) = Put::new(number, frame(self.nonce, self.log.hash, &records));
        leading.put = Some((put, kind));
        leading.last_put = now;
        Ok(Some(command))
    }

    fn settled(&mut self, put: &Put, kind: Kind) -> Vec<Command> {
        self.log.wrote(put.number, &put.bytes);
        match kind {
            Kind::Records(appends) => vec![Command::Appended; appends],
            Kind::Alive => Vec::new(),
            Kind::Base => {
                self.log.since_base = 0;
                let claims = &self.log.state.claims;
                let numbers: Vec<u64> =
                    self.log.objects.range(..put.number).copied().filter(|n| !claims.contains(n)).collect();
                self.log.objects = self.log.objects.split_off(&put.number);
                if numbers.is_empty() { Vec::new() } else { vec![Command::Delete { numbers }] }
            }
        }
    }
}

impl Known {
    fn wrote(&mut self, number: u64, bytes: &[u8]) {
        self.newest = number;
        self.hash = ObjectHash::of(bytes);
        self.since_base += 1;
        self.objects.insert(number);
    }
}

fn settle(put: &mut Put, event: &Event) -> Fate {
    match event {
        Event::PutAnswered { number, answer } => put.answered(*number, *answer),
        Event::ReadAnswered { number, bytes } => put.read(*number, bytes.as_deref()),
        Event::Tick | Event::Append(_) | Event::Listed { .. } => Fate::Open(Vec::new()),
    }
}

#[cfg(test)]
#[path = "appender_tests.rs"]
mod tests;
