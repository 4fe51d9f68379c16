//! The live summary on standard error: two lines that are written over on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use pulso_proto::v1;

/// Between two lines where nobody watches.
const SELDOM: Duration = Duration::from_secs(5);
/// To the start of the line, and everything from there on is erased.
const ERASE: &str = "\r\x1b[J";

pub(super) struct Live {
    began: Instant,
    /// When it was shown last, and how many records were read then.
    before: Option<(Instant, u64)>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), before: None }
    }

    pub(super) fn show(&mut self, job: &v1::JobSummary, latency_ms: Option<f64>) {
        let mut out = std::io::stderr().lock();
        let terminal = out.is_terminal();
        if !terminal && self.before.is_some_and(|(at, _)| at.elapsed() < SELDOM) {
            return;
        }
        let rate = self.before.map_or(0.0, |(at, read)| {
            job.records_read.saturating_sub(read) as f64 / at.elapsed().as_secs_f64().max(0.001)
        });
        self.before = Some((Instant::now(), job.records_read));
        let [first, second] = lines(self.began.elapsed(), job, rate, latency_ms);
        // Without wrapping, and back to the first line: whatever comes next erases both.
        let written = if terminal {
            write!(out, "{ERASE}\x1b[?7l{first}\n{second}\x1b[?7h\r\x1b[1A")
        } else {
            writeln!(out, "{first}  {}", second.trim_start())
        };
        // Nobody may be looking.
        written.and_then(|()| out.flush()).ok();
    }
}

fn lines(since: Duration, job: &v1::JobSummary, rate: f64, latency_ms: Option<f64>) -> [String; 2] {
    let counters = job.counters.unwrap_or_default();
    let latency = latency_ms.map_or_else(String::new, |ms| format!("  p50 {ms:.0} ms"));
    let head = format!("{:>4} s {}", since.as_secs(), job.phase);
    let width = head.len();
    let rows = counters.written.saturating_sub(counters.corrections);
    let adds_up = match (job.uncounted, job.conserved) {
        (true, _) => "",
        (false, true) => "  adds up",
        (false, false) => "  DOES NOT ADD UP",
    };
    [
        format!("{head}  read {} ({rate:.0}/s)  rows {rows}  in flight {}{latency}", job.records_read, job.in_flight),
        format!(
            "{:width$}  duplicates {}  corrections {}  dead letters {}{adds_up}",
            "", counters.duplicates, counters.corrections, counters.dead_letters
        ),
    ]
}

pub(super) fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    let start = if out.is_terminal() { ERASE } else { "" };
    writeln!(out, "{start}{text}").ok();
}
