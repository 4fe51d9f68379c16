//! The source thread: polls Kafka as the source machine allows and sends rows and barriers over the links.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::ids::{Position, SplitId, Stage};
use pulso_core::message::{Barrier, Deployment};
use pulso_core::source::{Boundary, Offer, Source, SourceLimits};
use pulso_core::worker::Event;

use super::{JOB, World};
use crate::action::{Action, Payload, SourceMessage, TmMessage, WorkerEvent};
use crate::kafka::decode;
use crate::task_manager::SourceTask;

/// Records that one poll of a split returns at most.
const POLL: u64 = 24;

impl World {
    pub(crate) fn source(&mut self, tm: usize, message: SourceMessage) {
        match message {
            SourceMessage::Start(deployment) => self.start_source(tm, deployment),
            SourceMessage::Stop => self.tms[tm].source = None,
            SourceMessage::Close(attempt, opening) => {
                let Some(source) = self.serving(tm, attempt) else { return };
                match source.machine.opened(opening) {
                    Ok(()) => self.advance(tm),
                    Err(error) => self.source_failed(tm, error.to_string()),
                }
            }
            SourceMessage::Committed(attempt, committed) => {
                let Some(source) = self.serving(tm, attempt) else { return };
                source.machine.committed(committed);
                self.announce(tm);
            }
        }
    }

    fn serving(&mut self, tm: usize, attempt: pulso_core::ids::Attempt) -> Option<&mut SourceTask> {
        self.tms[tm].source.as_mut().filter(|s| s.deployment.attempt == attempt)
    }

    fn start_source(&mut self, tm: usize, deployment: Box<Deployment>) {
        let limits = SourceLimits { epoch_records: 5 + self.chance.below(60), epoch_bytes: 1 << 20 };
        let machine = Source::new(self.tms[tm].id, &deployment, limits);
        let generation = self.number();
        let hosts = deployment.plan.key_groups.iter();
        let hosts = hosts.filter_map(|(k, id)| Some((*k, self.tms.iter().position(|t| t.id == *id)?))).collect();
        self.tms[tm].source = Some(SourceTask {
            generation,
            next: machine.starts(),
            machine,
            hosts,
            deployment,
            held: BTreeSet::new(),
            greatest: BTreeMap::new(),
            outgoing: BTreeMap::new(),
        });
        self.schedule.after(0, Action::TaskManager(tm, TmMessage::Poll(generation)));
    }

    pub(crate) fn poll(&mut self, tm: usize, generation: u64) {
        if self.tms[tm].source.as_ref().is_none_or(|s| s.generation != generation) {
            return;
        }
        if self.kafka_up {
            let splits: Vec<SplitId> = self.tms[tm].source.iter().flat_map(|s| s.next.keys().copied()).collect();
            for split in splits {
                let records = self.chance.below(POLL);
                if let Err(reason) = self.read(tm, split, records) {
                    self.source_failed(tm, reason);
                    return;
                }
            }
            if self.chance.per_mille(200) {
                self.flush_outgoing(tm);
            }
            self.advance(tm);
        }
        let pause = self.chance.between(1_000..4_000);
        self.schedule.after(pause, Action::TaskManager(tm, TmMessage::Poll(generation)));
    }

    fn read(&mut self, tm: usize, split: SplitId, records: u64) -> Result<(), String> {
        let key_groups = self.scenario.key_groups;
        let Some(source) = self.tms[tm].source.as_mut() else { return Ok(()) };
        let Some(log) = self.kafka.splits.get(&split) else { return Ok(()) };
        for _ in 0..records {
            if source.held.contains(&split) || !source.machine.may_read(split) {
                break;
            }
            let Some(next) = source.next.get_mut(&split) else { break };
            let Some(record) = log.get(log.partition_point(|r| r.position < *next)) else { break };
            let (key, value) = (Some(record.key.as_slice()), Some(record.value.as_slice()));
            let offered = source.machine.offer(split, record.position, record.timestamp_ms, key, value);
            match offered.map_err(|e| e.to_string())? {
                Offer::Hold => {
                    source.held.insert(split);
                    break;
                }
                Offer::Skip => *next = Position(record.position.0 + 1),
                Offer::Take => {
                    let (epoch, version) = (source.machine.epoch(), source.machine.lookups());
                    let taken = self.lookups.taken(source.deployment.attempt, epoch, version, &self.objects);
                    if let Err(what) = taken {
                        self.violation.get_or_insert(format!("lookups-agree: {what}"));
                    }
                    *next = Position(record.position.0 + 1);
                    let row = decode(split, record, key_groups);
                    if let Some(content) = row.content {
                        let greatest = source.greatest.entry(split).or_insert(content.event_time);
                        *greatest = content.event_time.max(*greatest);
                    }
                    let resume = source.deployment.resume.get(&row.key_group).copied().unwrap_or_default();
                    let host = source.hosts.get(&row.key_group).filter(|_| source.machine.sends_to(resume));
                    if let Some(to) = host {
                        source.outgoing.entry(*to).or_default().push(row);
                    }
                }
            }
        }
        Ok(())
    }

    /// Closes what is complete, as far as it goes, and tells the worker what waits.
    fn advance(&mut self, tm: usize) {
        while let Some(boundary) = self.tms[tm].source.as_mut().map(|s| s.machine.boundary()) {
            match boundary {
                Err(error) => return self.source_failed(tm, error.to_string()),
                Ok(None) => break,
                Ok(Some(boundary)) => self.close_epoch(tm, boundary),
            }
        }
        self.announce(tm);
    }

    fn close_epoch(&mut self, tm: usize, boundary: Boundary) {
        self.flush_outgoing(tm);
        let barrier = Barrier { epoch: boundary.epoch, watermark: boundary.watermark };
        let from = self.tms[tm].id;
        let Some(source) = self.tms[tm].source.as_mut() else { return };
        let attempt = source.deployment.attempt;
        let splits = source.machine.closed(&std::mem::take(&mut source.greatest));
        source.held.clear();
        let links: Vec<usize> = self.tms[tm].links.keys().copied().collect();
        for to in links {
            self.over_link(tm, to, Event::BarrierArrived { job: JOB, attempt, stage: Stage(0), from, barrier });
        }
        if let Some(splits) = splits {
            self.tell(tm, Event::SourceClosed { job: JOB, attempt, epoch: boundary.epoch, splits });
        }
    }

    fn flush_outgoing(&mut self, tm: usize) {
        let from = self.tms[tm].id;
        let Some(source) = self.tms[tm].source.as_mut() else { return };
        let (attempt, epoch) = (source.deployment.attempt, source.machine.epoch());
        for (to, rows) in std::mem::take(&mut source.outgoing) {
            let payload = Payload::new(rows);
            self.over_link(tm, to, Event::Arrived { job: JOB, attempt, stage: Stage(0), from, epoch, payload });
        }
    }

    pub(super) fn over_link(&mut self, from: usize, to: usize, event: WorkerEvent) {
        let link = self.tms[from].links.get(&to).and_then(|id| self.links.get(id));
        let Some(pipe) = link.map(|l| l.pipe) else { return };
        self.send(pipe, Action::TaskManager(to, TmMessage::Worker(Box::new(event))));
    }

    fn announce(&mut self, tm: usize) {
        let Some(source) = self.tms[tm].source.as_mut() else { return };
        let attempt = source.deployment.attempt;
        if let Some(waiting) = source.machine.waiting() {
            let event = Event::SourceWaiting { job: JOB, attempt, epoch: waiting.epoch, full: waiting.full };
            self.tell(tm, event);
        }
    }

    pub(crate) fn source_failed(&mut self, tm: usize, reason: String) {
        let Some(source) = self.tms[tm].source.take() else { return };
        let attempt = source.deployment.attempt;
        self.tell(tm, Event::SourceFailed { job: JOB, attempt, fatal: true, reason });
    }

    pub(crate) fn broker_trouble(&mut self, tm: usize) {
        let Some(source) = self.tms[tm].source.take() else { return };
        let attempt = source.deployment.attempt;
        let reason = "broker: all connections are down".to_owned();
        self.tell(tm, Event::SourceFailed { job: JOB, attempt, fatal: false, reason });
    }
}
