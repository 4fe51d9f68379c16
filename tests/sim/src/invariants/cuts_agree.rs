//! A sealed epoch is never cut differently: whatever names a cut names the one in the control log.

use std::collections::BTreeMap;

use pulso_core::cut::CutHash;
use pulso_core::ids::Epoch;
use pulso_core::message::Instruction;
use pulso_core::record::Record;

use super::{Facts, Invariant, Seen};

#[derive(Default)]
pub(super) struct CutsAgree {
    sealed: BTreeMap<Epoch, CutHash>,
}

impl Invariant for CutsAgree {
    fn name(&self) -> &'static str {
        "cuts-agree"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        let named = match seen {
            Seen::Logged(Record::Cut { cut, .. }) => {
                if let Some(before) = self.sealed.insert(cut.epoch, cut.hash()).filter(|h| *h != cut.hash()) {
                    return Err(format!("epoch {} was sealed as {before:?} before", cut.epoch));
                }
                vec![(cut.epoch, cut.hash())]
            }
            Seen::Sent(Instruction::Seal { seal, .. }) => vec![(seal.epoch, seal.hash)],
            Seen::Sent(Instruction::Deploy(d)) => {
                d.replay.iter().chain(std::iter::once(&d.start)).map(|c| (c.epoch, c.hash())).collect()
            }
            _ => Vec::new(),
        };
        for (epoch, hash) in named {
            if facts.oracle.cuts.get(&epoch).is_some_and(|sealed| *sealed != hash) {
                return Err(format!("{seen:?} names another cut of epoch {epoch} than the control log"));
            }
        }
        Ok(())
    }
}
