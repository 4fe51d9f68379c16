//! What has to be sent so that the topic says what the file says.

use std::collections::BTreeSet;

use super::lines::{Held, Lines};
use super::sent::{Sent, hash};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A line that is new or not as it was.
    Record { key: String, record: String },
    /// A line that is gone.
    Tombstone { key: String },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Record { key, .. } | Change::Tombstone { key } => key,
        }
    }
}

/// Records in file order, then, where the file is `settled` and not just being written, what was removed.
pub fn compare(sent: &Sent, lines: &Lines, settled: bool) -> Vec<Change> {
    let news = lines.good.iter().filter(|line| !sent.has(&line.key, hash(&line.record)));
    let mut changes: Vec<Change> =
        news.map(|line| Change::Record { key: line.key.clone(), record: line.record.clone() }).collect();
    if settled {
        let there: BTreeSet<&str> = lines.good.iter().map(|line| line.key.as_str()).collect();
        let gone = sent.keys().filter(|key| !there.contains(key) && !is_held(&lines.held, key));
        changes.extend(gone.map(|key| Change::Tombstone { key: key.to_owned() }));
    }
    changes
}

fn is_held(held: &Held, key: &str) -> bool {
    match held {
        Held::Keys(keys) => keys.contains(key),
        Held::All => true,
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
