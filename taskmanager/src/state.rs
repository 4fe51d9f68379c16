//! The state task of one job: the thread that owns the state of its key groups and works epochs off.
//!
//! Everything that changes state goes through one queue, so that the order is the worker's. What takes long and changes
//! nothing (downloads, RocksDB checkpoints, uploads) happens beside it.

mod checkpoint;
mod disk;
mod group;
mod restore;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pulso_core::ids::{Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::Mark;
use pulso_core::message::{Barrier, Counters, Restore};
use pulso_core::worker::{Output, Processed};
use pulso_dataflow::batch::Payload;
use pulso_dataflow::keyed::KeyedStage;
use pulso_dataflow::state::Horizon;
use pulso_job::StateId;
use pulso_job::spec::JobSpec;

pub(crate) use self::snapshots::{SnapshotError, SnapshotStorage};

use self::group::{Group, Groups, OfStage};
use tokio::sync::Semaphore;

use crate::exchange::{LinkClosed, Links};
use crate::figures::Figures;
use crate::memory::Budget;
use crate::shell::{Event, Events};

/// Key groups that are restored at the same time.
const RESTORES: usize = 4;
/// How often the size of the state is told.
const FIGURES: Duration = Duration::from_millis(500);

pub(crate) enum Work {
    TakeBack {
        attempt: Attempt,
        key_groups: BTreeMap<KeyGroupId, Epoch>,
    },
    Restore {
        attempt: Attempt,
        key_group: KeyGroupId,
        restore: Restore,
    },
    Drop {
        key_groups: BTreeSet<KeyGroupId>,
    },
    Process {
        attempt: Attempt,
        stage: Stage,
        epoch: Epoch,
        watermark: EventTime,
        payloads: Vec<Payload>,
        skip: BTreeSet<KeyGroupId>,
        muted: BTreeMap<TargetId, BTreeSet<KeyGroupId>>,
        /// Where rows for the next stage go, if there is one.
        onward: Option<Links>,
    },
    Settle {
        upto: Epoch,
    },
    Snapshot {
        attempt: Attempt,
        checkpoint: CheckpointId,
        epoch: Epoch,
        key_groups: BTreeMap<KeyGroupId, (BTreeMap<TargetId, Mark>, Counters)>,
    },
    CheckpointDone {
        checkpoint: CheckpointId,
    },
    /// A download beside the queue is through.
    Downloaded {
        attempt: Attempt,
        key_group: KeyGroupId,
        group: Box<Group>,
    },
    /// The uploads of one key group for a checkpoint are through.
    Stored {
        checkpoint: CheckpointId,
        key_group: KeyGroupId,
        /// Of the database that they were in.
        folder: PathBuf,
        files: group::Files,
    },
    /// A checkpoint's hard links are made: state may be written to disk again.
    Linked,
    Stop,
}

/// Handle of a job's state task; dropping it ends the task and deletes the job's folder.
pub(crate) struct StateTask {
    queue: Sender<Work>,
}

/// A thread of a task. The process must not end before it: it may be inside of RocksDB.
pub(crate) type Thread = std::thread::JoinHandle<()>;

/// What a state task works with.
pub(crate) struct Parts {
    pub(crate) job: JobId,
    /// Its own; removed at its end.
    pub(crate) folder: PathBuf,
    pub(crate) storage: SnapshotStorage,
    pub(crate) budget: Budget,
    pub(crate) events: Events,
    pub(crate) figures: Figures,
}

impl StateTask {
    pub(crate) fn start(
        stages: Vec<KeyedStage>,
        spec: &JobSpec,
        Parts { job, folder, storage, budget, events, figures }: Parts,
    ) -> std::io::Result<(Self, Thread)> {
        std::fs::create_dir_all(&folder)?;
        let (queue, work) = channel();
        let runtime = tokio::runtime::Handle::current();
        let restores = Arc::new(Semaphore::new(RESTORES));
        let states = spec.states().map(|(_, state)| state).collect();
        let queue_in = queue.clone();
        let place = Place { job, folder, states, storage, budget, events, figures, restores, queue: queue_in, runtime };
        let task = Task::new(place, stages, spec);
        let thread = std::thread::Builder::new().name("state".into()).spawn(move || task.run(&work))?;
        Ok((Self { queue }, thread))
    }

    pub(crate) fn work(&self, work: Work) {
        // The thread ends only by `Stop`, or with the process when it panics.
        self.queue.send(work).ok();
    }
}

impl Drop for StateTask {
    fn drop(&mut self) {
        self.queue.send(Work::Stop).ok();
    }
}

/// Where the state task lives and whom it tells.
#[derive(Clone)]
pub(crate) struct Place {
    job: JobId,
    folder: PathBuf,
    /// What the job keeps, by number.
    states: Arc<[StateId]>,
    storage: SnapshotStorage,
    budget: Budget,
    events: Events,
    figures: Figures,
    /// Each holds a file in memory.
    restores: Arc<Semaphore>,
    queue: Sender<Work>,
    runtime: tokio::runtime::Handle,
}

impl Place {
    fn tell(&self, event: Event) {
        // Nobody listens any more when the process ends.
        self.events.send_blocking(event).ok();
    }
}

struct Task {
    place: Place,
    stages: Vec<KeyedStage>,
    groups: Groups,
    /// Watermarks under which recent epochs were processed: the horizon of what is written to disk.
    watermarks: BTreeMap<Epoch, EventTime>,
    keep_for: Option<i64>,
    /// Checkpoints whose hard links are still being made.
    linking: usize,
    /// The newest one that work was of: downloads for an older one come too late.
    attempt: Attempt,
    figured: Instant,
}

impl Task {
    fn new(place: Place, stages: Vec<KeyedStage>, spec: &JobSpec) -> Self {
        let keep_for = spec.dedup.as_ref().map(|d| i64::try_from(d.keep_for.as_micros()).unwrap_or(i64::MAX));
        Self {
            place,
            stages,
            groups: Groups::default(),
            watermarks: BTreeMap::new(),
            keep_for,
            linking: 0,
            attempt: Attempt::default(),
            figured: Instant::now(),
        }
    }

    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            match work {
                Work::TakeBack { attempt, key_groups } => {
                    self.attempt = attempt;
                    self.take_back(attempt, &key_groups);
                }
                Work::Restore { attempt, key_group, restore } => {
                    self.attempt = attempt;
                    self.restore(attempt, key_group, restore);
                }
                Work::Drop { key_groups } => key_groups.iter().for_each(|id| self.groups.remove(*id)),
                Work::Process { attempt, stage, epoch, watermark, payloads, skip, muted, onward } => {
                    self.watermarks.insert(epoch, watermark);
                    let barrier = Barrier { epoch, watermark };
                    let processed = self.process(stage, barrier, payloads, &skip, &muted);
                    let event = match processed.and_then(|done| send_onward(stage, barrier, done, onward.as_ref())) {
                        Ok(processed) => Event::Processed { job: self.place.job, attempt, stage, epoch, processed },
                        Err(reason) => Event::ProcessingFailed { job: self.place.job, attempt, reason },
                    };
                    self.place.tell(event);
                }
                Work::Settle { upto } => self.relieve(upto),
                Work::Snapshot { attempt, checkpoint, epoch, key_groups } => {
                    self.snapshot(attempt, checkpoint, epoch, key_groups);
                }
                Work::CheckpointDone { checkpoint } => self.groups.checkpoint_done(checkpoint),
                Work::Downloaded { attempt, group, .. } if attempt != self.attempt => group.discard(),
                Work::Downloaded { attempt, key_group, group } => {
                    self.groups.insert(key_group, *group);
                    self.place.tell(Event::Restored { job: self.place.job, attempt, key_group });
                }
                Work::Stored { checkpoint, key_group, folder, files } => {
                    self.groups.stored(checkpoint, key_group, &folder, files);
                }
                Work::Linked => self.linking = self.linking.saturating_sub(1),
                Work::Stop => break,
            }
            self.tell_figures();
        }
        drop(self.groups);
        std::fs::remove_dir_all(&self.place.folder).ok();
    }

    fn tell_figures(&mut self) {
        if self.figured.elapsed() >= FIGURES {
            self.figured = Instant::now();
            let bytes = self.groups.memory() + self.groups.on_disk();
            self.place.figures.tell(self.place.job, self.attempt, |figures| figures.state_bytes = bytes);
        }
    }

    fn take_back(&mut self, attempt: Attempt, key_groups: &BTreeMap<KeyGroupId, Epoch>) {
        self.groups.take_back(key_groups);
        self.place.tell(Event::TookBack { job: self.place.job, attempt });
    }

    fn process(
        &mut self,
        stage: Stage,
        Barrier { epoch, watermark }: Barrier,
        payloads: Vec<Payload>,
        skip: &BTreeSet<KeyGroupId>,
        muted: &BTreeMap<TargetId, BTreeSet<KeyGroupId>>,
    ) -> Result<Done, String> {
        let numbers = |ids: &BTreeSet<KeyGroupId>| ids.iter().map(|id| id.group).collect::<BTreeSet<KeyGroup>>();
        let id = |group: &KeyGroup| KeyGroupId { stage, group: *group };
        let target_id = |index: usize| TargetId(u16::try_from(index).unwrap_or(u16::MAX));
        let muted = muted.iter().map(|(target, ids)| (usize::from(target.0), numbers(ids))).collect();
        let work = self.stages.get(usize::from(stage.0)).ok_or_else(|| format!("the job has no stage {stage}"))?;
        let mut states = OfStage { groups: &mut self.groups, stage };
        let done =
            work.process(&mut states, epoch, watermark, payloads, &numbers(skip), &muted).map_err(|e| e.to_string())?;
        let outputs = done
            .outputs
            .into_iter()
            .map(|(target, (rows, key_groups))| {
                let bytes = rows.memory() as u64;
                let key_groups = key_groups.iter().map(id).collect();
                (target_id(target), Output { rows, key_groups, bytes })
            })
            .collect();
        let counters = done.counters.iter().map(|(group, counters)| (id(group), *counters)).collect();
        let muted =
            done.muted.iter().map(|(target, groups)| (target_id(*target), groups.iter().map(id).collect())).collect();
        Ok((Processed { outputs, muted, counters }, done.forward))
    }

    /// Under memory pressure, writes what is committed everywhere to disk.
    fn relieve(&mut self, upto: Epoch) {
        if self.linking > 0 || self.groups.memory() < self.place.budget.overlay_bytes {
            return;
        }
        let horizon = self.horizon(upto);
        if let Err(e) = self.groups.write(upto, horizon, &self.place) {
            // Still in memory and still right, so it is tried again; but not for ever.
            tracing::warn!(job = %self.place.job, error = %e, "state cannot be written to disk");
            if self.groups.memory() > 2 * self.place.budget.overlay_bytes {
                let reason = format!("state cannot be written to disk: {e}");
                self.place.tell(Event::ProcessingFailed { job: self.place.job, attempt: self.attempt, reason });
            }
        }
    }

    /// What lies before it counts as absent after `epoch`, so it may leave the disk.
    fn horizon(&mut self, epoch: Epoch) -> Option<Horizon> {
        let watermark = self.watermarks.range(..=epoch).next_back().map(|(_, watermark)| *watermark);
        self.watermarks = self.watermarks.split_off(&epoch);
        let windows = watermark.filter(|watermark| *watermark > EventTime::MIN)?;
        let dedup = self.keep_for.map_or(EventTime::MIN, |keep_for| EventTime(windows.0.saturating_sub(keep_for)));
        Some(Horizon { dedup, windows })
    }
}

/// What an epoch came to in one stage, and its rows for the next.
type Done = (Processed<pulso_dataflow::TargetRows>, Payload);

/// Blocks while a link is full.
fn send_onward(
    stage: Stage,
    barrier: Barrier,
    (processed, rows): Done,
    links: Option<&Links>,
) -> Result<Processed<pulso_dataflow::TargetRows>, String> {
    let Some(links) = links else { return Ok(processed) };
    let next = Stage(stage.0 + 1);
    match links.send(next, barrier.epoch, rows).and_then(|()| links.barrier(next, barrier)) {
        // Where a link is gone, another attempt is on its way.
        Ok(()) | Err(LinkClosed::Over) => Ok(processed),
        Err(LinkClosed::Rows(reason)) => Err(reason),
    }
}
