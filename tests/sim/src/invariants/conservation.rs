//! Read = written + duplicates + superseded + dead letters, each as the oracle counts it.

use super::{Facts, Invariant, Seen};

pub(super) struct Conservation;

impl Invariant for Conservation {
    fn name(&self) -> &'static str {
        "conservation"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match (seen, facts.counted) {
            (Seen::End, Some(counted)) if counted != facts.oracle.counters => {
                Err(format!("counted {counted:?}, the oracle {:?}", facts.oracle.counters))
            }
            _ => Ok(()),
        }
    }
}
