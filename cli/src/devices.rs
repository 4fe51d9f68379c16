//! Event times of devices that report in turn.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::stream::{LATE_BY_MS, Turn};

/// Between two readings of a device when a given number is sent as fast as possible.
const FAST_STEP_MS: i64 = 1000;
/// Times are unique for each device, and even; late ones are odd.
#[derive(Debug)]
pub(crate) struct Devices {
    first_ms: Option<i64>,
    last_ms: Vec<i64>,
}

impl Devices {
    pub(crate) fn new(count: u32) -> Devices {
        Devices { first_ms: None, last_ms: vec![i64::MIN; count as usize] }
    }

    /// Which one reports, and at which event time.
    pub(crate) fn next(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> (u64, i64) {
        let (now_ms, count) = (turn.now_us / 1000, self.last_ms.len() as u64);
        let device = turn.n % count;
        let time = match turn.backlog {
            Some(backlog) => {
                let rounds = i64::try_from(backlog / count).unwrap_or(0) + 10;
                let first = *self.first_ms.get_or_insert(now_ms - rounds * FAST_STEP_MS);
                let round = i64::try_from(turn.n / count).unwrap_or(0);
                first + round * FAST_STEP_MS + random.random_range(0..FAST_STEP_MS)
            }
            None => now_ms,
        };
        let last = &mut self.last_ms[device as usize];
        *last = (time & !1).max(last.saturating_add(2));
        (device, *last)
    }

    /// Odd, and a fixed distance back: it meets no other reading of its device.
    pub(crate) fn late(time_ms: i64) -> i64 {
        time_ms - (LATE_BY_MS - 1)
    }
}
