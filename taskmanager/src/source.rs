//! The source task of one attempt: a thread that reads this TaskManager's splits, decodes, and puts rows and barriers
//! on the links. What belongs to which epoch is decided by [`pulso_core::source::Source`].

mod backlog;
mod lookups;
mod reader;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use pulso_connectors::kafka::Flow;
use pulso_core::files::PlacedFile;
use pulso_core::ids::{Attempt, Epoch, EventTime, JobId, Position, SplitId, Stage, TaskManagerId, WallTime};
use pulso_core::message::{Barrier, Deployment, Opening};
use pulso_core::source::{Boundary, Mismatch, Source, SourceLimits};
use pulso_dataflow::decode::Decoder;
use pulso_job::spec::{JobSpec, SourceSpec};
use thiserror::Error;

use self::backlog::Backlog;
pub(crate) use self::lookups::Lookups;
use self::lookups::LookupsError;
use self::reader::{Input, Reader, ReaderError};
use crate::exchange::{LinkClosed, Links};
use crate::figures::{Figures, SplitFigures};
use crate::shell::{Event, Events};

/// The one that sources feed.
const STAGE: Stage = Stage(0);
/// Rows are put on the links once this many bytes of input are decoded, so that receivers get large batches.
const PART_BYTES: usize = 1 << 20;
/// An epoch of catch-up ends after this many records.
const EPOCH_RECORDS: u64 = 40_000;
/// However much memory there is: several epochs are in flight, each in several forms.
const EPOCH_BYTES: u64 = 64 << 20;
/// How long one call waits for records; also how late an `OpenCut` may be noticed.
const POLL: Duration = Duration::from_millis(1);
/// The same after nothing has happened for `QUIET`.
const POLL_QUIET: Duration = Duration::from_millis(4);
const QUIET: Duration = Duration::from_secs(1);
/// The epoch is full, or the window is: nothing to do until the JobManager says so. It is looked so often whether
/// figures are due.
const TOLD_WITHIN: Duration = Duration::from_millis(20);
/// How often figures are told.
const FIGURES: Duration = Duration::from_millis(250);
/// How often committed offsets are told to the consumer group, for outside lag tools.
const GROUP_COMMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
enum SourceError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("{mismatch}; files: {files}")]
    Files { mismatch: Mismatch, files: String },
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Lookups(#[from] LookupsError),
    #[error("decoding: {0}")]
    Decode(#[from] pulso_dataflow::DataflowError),
    /// The shell is gone or the link is broken: another attempt is on its way.
    #[error("stopped")]
    Stopped,
    #[error("{0}")]
    Rows(String),
}

impl From<LinkClosed> for SourceError {
    fn from(closed: LinkClosed) -> Self {
        match closed {
            LinkClosed::Over => Self::Stopped,
            LinkClosed::Rows(reason) => Self::Rows(reason),
        }
    }
}

impl SourceError {
    fn is_fatal(&self) -> bool {
        match self {
            // No record's fault and the same the next time.
            Self::Mismatch(_) | Self::Files { .. } | Self::Decode(_) | Self::Rows(_) => true,
            Self::Reader(e) => e.is_fatal(),
            Self::Lookups(e) => e.is_fatal(),
            Self::Stopped => false,
        }
    }
}

enum Control {
    Open(Opening),
    Committed(Epoch),
    Files(Vec<PlacedFile>),
    Stop,
}

/// What a source task works with.
pub(crate) struct Parts {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) lookups: Lookups,
    pub(crate) links: Links,
    /// Bytes of input, read and fetched ahead.
    pub(crate) buffer: u64,
    pub(crate) events: Events,
    pub(crate) figures: Figures,
}

/// Handle of a running source task; dropping it stops the task.
pub(crate) struct SourceTask {
    control: Sender<Control>,
}

impl SourceTask {
    /// Starts the thread. Its end is told as `SourceFailed`, unless it was stopped.
    pub(crate) fn start(me: TaskManagerId, deployment: Deployment, parts: Parts) -> std::io::Result<Self> {
        let (control, commands) = channel();
        let events = parts.events.clone();
        std::thread::Builder::new().name(format!("source-{}", deployment.attempt)).spawn(move || {
            let (job, attempt) = (deployment.job, deployment.attempt);
            let ended = Task::open(me, &deployment, parts).and_then(|mut task| task.run(&commands));
            match ended {
                Ok(()) | Err(SourceError::Stopped) => {}
                Err(e) => {
                    let failed = Event::SourceFailed { job, attempt, fatal: e.is_fatal(), reason: e.to_string() };
                    events.send_blocking(failed).ok();
                }
            }
        })?;
        Ok(Self { control })
    }

    pub(crate) fn open(&self, opening: Opening) {
        self.control.send(Control::Open(opening)).ok();
    }

    pub(crate) fn committed(&self, epoch: Epoch) {
        self.control.send(Control::Committed(epoch)).ok();
    }

    pub(crate) fn add_files(&self, files: Vec<PlacedFile>) {
        self.control.send(Control::Files(files)).ok();
    }
}

impl Drop for SourceTask {
    fn drop(&mut self) {
        self.control.send(Control::Stop).ok();
    }
}

struct Task {
    job: JobId,
    attempt: Attempt,
    machine: Source,
    reader: Reader,
    decoder: Decoder,
    lookups: Lookups,
    links: Links,
    events: Events,
    figures: Figures,
    /// Behind the newest record read of each split.
    next: BTreeMap<SplitId, Position>,
    /// Read since the last figures.
    records: u64,
    figured: Instant,
    /// Last clock of the JobManager that is known here.
    clock: WallTime,
    greatest: BTreeMap<SplitId, EventTime>,
    backlog: BTreeMap<SplitId, Backlog>,
    /// Ends of epochs that are closed and not yet told to the consumer group.
    ends: VecDeque<(Epoch, BTreeMap<SplitId, Position>)>,
    told: Instant,
    /// Everywhere.
    committed: Epoch,
    /// When something was last read or ordered.
    stirred: Instant,
    /// When something could last be read.
    readable: Instant,
    /// All splits are paused, because nothing may be read.
    halted: bool,
}

impl Task {
    fn open(me: TaskManagerId, deployment: &Deployment, parts: Parts) -> Result<Self, SourceError> {
        let Parts { spec, lookups, links, buffer, events, figures } = parts;
        let limits = SourceLimits { epoch_records: EPOCH_RECORDS, epoch_bytes: (buffer / 4).min(EPOCH_BYTES) };
        let mut machine = Source::new(me, deployment, limits);
        if let SourceSpec::Files(_) = &spec.source {
            machine = machine.with_gaps();
        }
        let reader = Reader::open(&spec, deployment, machine.starts(), buffer / 2)?;
        let machine_starts = machine.starts();
        let backlog = machine_starts.keys().map(|split| (*split, Backlog::default())).collect();
        let mut task = Self {
            job: deployment.job,
            attempt: deployment.attempt,
            machine,
            reader,
            decoder: Decoder::new(spec)?,
            lookups,
            links,
            events,
            figures,
            next: machine_starts,
            records: 0,
            figured: Instant::now(),
            clock: deployment.start.clock,
            greatest: BTreeMap::new(),
            backlog,
            ends: VecDeque::new(),
            told: Instant::now(),
            committed: deployment.committed,
            stirred: Instant::now(),
            readable: Instant::now(),
            halted: false,
        };
        task.load_lookups()?;
        Ok(task)
    }

    fn run(&mut self, commands: &Receiver<Control>) -> Result<(), SourceError> {
        let ended = self.work(commands);
        // A position says little to people; which files it may be does.
        match ended {
            Err(SourceError::Mismatch(mismatch)) => match self.reader.suspects(&mismatch) {
                Some(files) => Err(SourceError::Files { mismatch, files }),
                None => Err(mismatch.into()),
            },
            ended => ended,
        }
    }

    fn work(&mut self, commands: &Receiver<Control>) -> Result<(), SourceError> {
        loop {
            while let Ok(command) = commands.try_recv() {
                self.obey(command)?;
            }
            while let Some(boundary) = self.machine.boundary()? {
                self.close(boundary)?;
            }
            self.offer_held()?;
            // In a replay what was held often completes the next epoch: nothing to wait for.
            if self.machine.boundary()?.is_some() {
                continue;
            }
            let readable = self.backlog.keys().any(|split| self.machine.may_read(*split));
            self.halt(!readable && self.readable.elapsed() > QUIET)?;
            if readable {
                self.readable = Instant::now();
                let quiet = self.stirred.elapsed() > QUIET;
                let wait = if quiet { POLL_QUIET } else { POLL };
                if self.read(wait)? == 0 && !self.reader.waits() && !self.listen(commands, wait)? {
                    return Ok(());
                }
            } else if !self.listen(commands, TOLD_WITHIN)? {
                return Ok(());
            }
            if let Some(waiting) = self.machine.waiting() {
                let (job, attempt) = (self.job, self.attempt);
                self.tell(Event::SourceWaiting { job, attempt, epoch: waiting.epoch, full: waiting.full })?;
            }
            if self.figured.elapsed() >= FIGURES {
                if self.halted {
                    // The client has to be asked from time to time, or what it wants to tell piles up.
                    self.read(Duration::ZERO)?;
                }
                self.tell_figures(!readable);
                self.tell_group();
            }
            if self.decoder.bytes() >= PART_BYTES {
                let decoded = self.decoder.take(self.clock)?;
                self.put(self.machine.epoch(), decoded)?;
            }
        }
    }

    /// Waits for a command; false where none will come any more.
    fn listen(&mut self, commands: &Receiver<Control>, wait: Duration) -> Result<bool, SourceError> {
        match commands.recv_timeout(wait) {
            Ok(command) => self.obey(command)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    fn obey(&mut self, command: Control) -> Result<(), SourceError> {
        self.stirred = Instant::now();
        match command {
            Control::Open(opening) => {
                self.machine.opened(opening)?;
            }
            Control::Committed(epoch) => {
                self.machine.committed(epoch);
                self.committed = epoch;
            }
            Control::Files(files) => self.reader.add(files),
            Control::Stop => return Err(SourceError::Stopped),
        }
        Ok(())
    }

    /// Reads what is there, at most one part's worth; how much that was.
    fn read(&mut self, wait: Duration) -> Result<usize, SourceError> {
        let (machine, decoder, backlog) = (&mut self.machine, &mut self.decoder, &mut self.backlog);
        let (next, records) = (&mut self.next, &mut self.records);
        let mut mismatch = None;
        let mut take = |item: Input<'_>| {
            let (split, after) = match item {
                Input::Record(record) => {
                    *records += 1;
                    (record.split, Position(record.position.0 + 1))
                }
                Input::End { split, position } => (split, position),
            };
            next.insert(split, after);
            match backlog.entry(split).or_default().take(machine, decoder, &item) {
                Ok(flow) => flow,
                Err(e) => {
                    mismatch = Some(e);
                    Flow::Stop
                }
            }
        };
        let taken = self.reader.poll(wait, 4096, &mut take)?;
        if taken > 0 {
            self.stirred = Instant::now();
        }
        if let Some(mismatch) = mismatch {
            return Err(mismatch.into());
        }
        for (split, backlog) in &mut self.backlog {
            if backlog.is_full() && !backlog.paused && !self.halted {
                self.reader.pause(*split)?;
                backlog.paused = true;
            }
        }
        Ok(taken)
    }

    /// While nothing may be read for long, nothing is fetched either. Not for short: what is fetched already is lost by it.
    fn halt(&mut self, halt: bool) -> Result<(), SourceError> {
        if self.halted != halt {
            self.halted = halt;
            for (split, _) in self.backlog.iter().filter(|(_, backlog)| !backlog.paused) {
                if halt { self.reader.pause(*split)? } else { self.reader.resume(*split)? }
            }
        }
        Ok(())
    }

    /// Offers again what came before its epoch, at most one part's worth.
    fn offer_held(&mut self) -> Result<(), SourceError> {
        for (split, backlog) in &mut self.backlog {
            if !backlog.offer(*split, &mut self.machine, &mut self.decoder)? {
                return Ok(());
            }
            if backlog.paused && backlog.is_low() {
                if !self.halted {
                    self.reader.resume(*split)?;
                }
                backlog.paused = false;
            }
        }
        Ok(())
    }

    /// Ends the epoch: the rest of its rows, then its barrier on every link.
    fn close(&mut self, boundary: Boundary) -> Result<(), SourceError> {
        self.clock = self.clock.max(boundary.clock);
        let decoded = self.decoder.close(boundary.clock)?;
        self.put(boundary.epoch, decoded)?;
        let barrier = Barrier { epoch: boundary.epoch, watermark: boundary.watermark };
        self.links.barrier(STAGE, barrier)?;
        let greatest = std::mem::take(&mut self.greatest);
        if let Some(splits) = self.machine.closed(&greatest) {
            self.ends.push_back((boundary.epoch, splits.iter().map(|(id, s)| (*id, s.end)).collect()));
            let (job, attempt, epoch) = (self.job, self.attempt, boundary.epoch);
            self.tell(Event::SourceClosed { job, attempt, epoch, splits })?;
        }
        self.load_lookups()
    }

    /// For the records of the epoch that begins.
    fn load_lookups(&mut self) -> Result<(), SourceError> {
        if let Some(lookups) = self.lookups.load(self.machine.lookups())? {
            self.decoder.set_lookups(lookups);
        }
        Ok(())
    }

    fn put(&mut self, epoch: Epoch, decoded: pulso_dataflow::decode::Decoded) -> Result<(), SourceError> {
        for (split, time) in decoded.greatest {
            let greatest = self.greatest.entry(split).or_insert(time);
            *greatest = time.max(*greatest);
        }
        Ok(self.links.send(STAGE, epoch, decoded.payload)?)
    }

    fn tell(&self, event: Event) -> Result<(), SourceError> {
        self.events.send_blocking(event).map_err(|_| SourceError::Stopped)
    }

    fn tell_figures(&mut self, backpressured: bool) {
        self.figured = Instant::now();
        let (ends, trouble) = (self.reader.ends(), self.reader.trouble().unwrap_or_default());
        let (next, records) = (&self.next, std::mem::take(&mut self.records));
        self.figures.tell(self.job, self.attempt, |figures| {
            figures.records_read += records;
            figures.backpressured = backpressured;
            for (split, position) in next {
                let high_watermark = ends.get(split).map(|end| end.0);
                let figure = SplitFigures { position: *position, high_watermark, trouble: trouble.clone() };
                figures.splits.insert(*split, figure);
            }
        });
    }

    /// Offsets in the consumer group serve outside tools only; positions are the job's.
    fn tell_group(&mut self) {
        if self.told.elapsed() < GROUP_COMMIT {
            return;
        }
        let mut newest = None;
        while self.ends.front().is_some_and(|(epoch, _)| *epoch <= self.committed) {
            newest = self.ends.pop_front();
        }
        if let Some((_, positions)) = newest {
            self.told = Instant::now();
            self.reader.commit_group_offsets(&positions);
        }
    }
}
