//! What must be durable before it is told: the cut before its Seal and before any commit of its epoch, the attempt
//! before its Prepare, the plan before its Deploy.

use std::collections::BTreeSet;

use pulso_core::ids::Attempt;
use pulso_core::message::Instruction;
use pulso_core::record::Record;

use super::{Facts, Invariant, Seen};

#[derive(Default)]
pub(super) struct DurableFirst {
    attempts: BTreeSet<Attempt>,
    plans: BTreeSet<Attempt>,
}

impl Invariant for DurableFirst {
    fn name(&self) -> &'static str {
        "durable-first"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        let sealed = |epoch| facts.oracle.cuts.contains_key(&epoch);
        match seen {
            Seen::Logged(Record::Attempt { attempt, .. }) if !self.attempts.insert(*attempt) => {
                return Err(format!("attempt {attempt} was begun twice"));
            }
            Seen::Logged(Record::Plan { attempt, .. }) => {
                self.plans.insert(*attempt);
            }
            Seen::Sent(Instruction::Prepare { attempt, .. }) if !self.attempts.contains(attempt) => {
                return Err(format!("Prepare of attempt {attempt} before it is durable"));
            }
            Seen::Sent(Instruction::Deploy(d)) if !self.plans.contains(&d.attempt) => {
                return Err(format!("Deploy of attempt {} before its plan is durable", d.attempt));
            }
            Seen::Sent(Instruction::OpenCut { opening, .. }) if opening.epoch.0 > 1 => {
                let before = pulso_core::ids::Epoch(opening.epoch.0 - 1);
                if !sealed(before) {
                    return Err(format!("OpenCut {} before cut {before} is durable", opening.epoch));
                }
            }
            Seen::Sent(Instruction::Seal { seal, .. }) if !sealed(seal.epoch) => {
                return Err(format!("Seal of epoch {} before its cut is durable", seal.epoch));
            }
            Seen::Committed(commit) => {
                if let Some(row) = commit.rows.iter().find(|r| !sealed(r.epoch)) {
                    return Err(format!("rows of epoch {} were committed before its cut was durable", row.epoch));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
