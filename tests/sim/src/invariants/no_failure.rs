//! Nothing that the simulation does is beyond the job's own means: it never fails for good.

use pulso_core::record::Record;

use super::{Facts, Invariant, Seen};

pub(super) struct NoFailure;

impl Invariant for NoFailure {
    fn name(&self) -> &'static str {
        "no-failure"
    }

    fn observe(&mut self, seen: &Seen<'_>, _: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::Logged(Record::Failed { reason, .. }) => Err(format!("the job failed: {reason}")),
            _ => Ok(()),
        }
    }
}
