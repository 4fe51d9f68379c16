//! Every table equals the oracle, by value: epoch for epoch as it is committed, and as a whole at the end.

use std::collections::BTreeMap;

use pulso_core::ids::{Epoch, KeyGroupId};

use super::{Facts, Invariant, Seen};
use crate::database::Commit;
use crate::dedup::{KEYED, Written};

pub(super) struct Tables;

impl Invariant for Tables {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::Committed(commit) => epochs(commit, facts),
            Seen::End => whole(facts),
            _ => Ok(()),
        }
    }
}

fn epochs(commit: &Commit, facts: &Facts<'_>) -> Result<(), String> {
    let mut parts: BTreeMap<(Epoch, KeyGroupId), Vec<Written>> = BTreeMap::new();
    for row in &commit.rows {
        parts.entry((row.epoch, row.key_group)).or_default().push(row.clone());
    }
    for ((epoch, key_group), rows) in parts {
        let due = facts.oracle.rows.get(&(commit.target, epoch, key_group));
        if due != Some(&rows) {
            let due = due.map_or(0, Vec::len);
            let (target, found) = (commit.target, rows.len());
            return Err(format!(
                "target {target}: epoch {epoch} of key group {key_group} is not the oracle's: {found} rows, {due} due"
            ));
        }
    }
    match commit.repeated.first() {
        Some(key) => Err(format!("target {}: key {key} was inserted twice", commit.target)),
        None => Ok(()),
    }
}

fn whole(facts: &Facts<'_>) -> Result<(), String> {
    let keyed = facts.oracle.keyed(facts.kafka);
    for (target, database) in facts.databases {
        if *target == KEYED && database.contents.keyed != keyed {
            let wrong = keyed.iter().find(|(k, v)| database.contents.keyed.get(k) != Some(v));
            return Err(format!("the keyed table differs from the records: {wrong:?}"));
        }
        let mut due = BTreeMap::new();
        for ((_, _, _), rows) in facts.oracle.rows.iter().filter(|((t, _, _), _)| t == target) {
            for row in rows {
                due.insert((row.split, row.position), vec![row.clone()]);
            }
        }
        if database.contents.appended != due {
            let found = &database.contents.appended;
            let wrong = due.iter().find(|(k, rows)| found.get(k) != Some(rows)).map(|(k, _)| k);
            let wrong = wrong.or_else(|| found.keys().find(|k| !due.contains_key(k)));
            return Err(format!("target {target}: the append table differs: split and position {wrong:?}"));
        }
    }
    Ok(())
}
