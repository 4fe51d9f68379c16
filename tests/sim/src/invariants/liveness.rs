//! After the faults stop, everything is committed within a bound of virtual time.

use super::{Facts, Invariant, Seen};

pub(super) struct Liveness;

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::Waiting(progress) if facts.now > progress.deadline => Err(format!("still {progress:?}")),
            _ => Ok(()),
        }
    }
}
