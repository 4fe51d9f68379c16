use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::csv_file::{Format, read};

fn lines(text: &str) -> Lines {
    read(text.as_bytes(), &Format { delimiter: b',', key: vec!["id".to_owned()], input: None }, false).unwrap()
}

fn told(text: &str) -> Sent {
    let mut sent = Sent::default();
    let changes = compare(&sent, &lines(text), true);
    sent.confirm(&changes);
    sent
}

fn record(key: &str, text: &str) -> Change {
    Change::Record { key: key.to_owned(), record: format!(r#"{{"id":"{key}","n":"{text}"}}"#) }
}

fn tombstone(key: &str) -> Change {
    Change::Tombstone { key: key.to_owned() }
}

#[test]
fn new_changed_and_removed_lines() {
    let sent = told("id,n\n1,a\n2,b\n3,c\n");
    assert!(compare(&sent, &lines("id,n\n1,a\n2,b\n3,c\n"), true).is_empty());
    let changes = compare(&sent, &lines("id,n\n3,c\n4,d\n1,A\n"), true);
    assert_eq!(changes, [record("4", "d"), record("1", "A"), tombstone("2")]);
    // Another order or other quotes change nothing.
    assert!(compare(&sent, &lines("id,n\n3,c\n\"1\",a\n2,\"b\"\n"), true).is_empty());
    // Another column changes all.
    assert_eq!(compare(&sent, &lines("id,n,m\n1,a,\n2,b,\n3,c,\n"), true).len(), 3);
    let gone = compare(&sent, &lines("id,n\n"), true);
    assert_eq!(gone, [tombstone("1"), tombstone("2"), tombstone("3")]);
}

#[test]
fn removals_wait_until_the_file_is_settled_and_readable() {
    let sent = told("id,n\n1,a\n2,b\n3,c\n");
    assert_eq!(compare(&sent, &lines("id,n\n1,A\n"), false), [record("1", "A")]);
    // 2 has an unreadable line, 3 none.
    assert_eq!(compare(&sent, &lines("id,n\n1,a\n2,b,x\n"), true), [tombstone("3")]);
    assert_eq!(compare(&sent, &lines("id,n\n1,a\n2,b"), true), [tombstone("3")]);
    assert!(compare(&sent, &lines("id,n\n1,a\n2,\"b\n3,c\n"), true).is_empty());
}

/// A producer that died after it sent and before it knew.
#[test]
fn what_was_announced_only_is_sent_again_or_removed() {
    let mut sent = told("id,n\n1,a\n2,b\n");
    let changes = compare(&sent, &lines("id,n\n1,A\n3,c\n"), true);
    assert_eq!(changes, [record("1", "A"), record("3", "c"), tombstone("2")]);
    sent.announce(&changes);
    // Meanwhile the file went back to what it was.
    let again = compare(&sent, &lines("id,n\n1,a\n2,b\n"), true);
    assert_eq!(again, [record("1", "a"), record("2", "b"), tombstone("3")]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to the file and wherever the producer dies, who reads the topic ends with the file's last version.
    #[test]
    fn the_topic_follows_the_file(
        versions in prop::collection::vec((prop::collection::btree_map(0u8..6, 0u8..3, 0..6), 0usize..8, any::<bool>()), 1..12)
    ) {
        let (mut kept, mut topic) = (Sent::default(), BTreeMap::new());
        for (rows, delivered, dies) in versions {
            let text: String = rows.iter().map(|(id, n)| format!("{id},{n}\n")).collect();
            let changes = compare(&kept, &lines(&format!("id,n\n{text}")), true);
            kept.announce(&changes);
            let count = if dies { delivered.min(changes.len()) } else { changes.len() };
            for change in &changes[..count] {
                match change {
                    Change::Record { key, record } => drop(topic.insert(key.clone(), record.clone())),
                    Change::Tombstone { key } => drop(topic.remove(key)),
                }
            }
            if !dies {
                kept.confirm(&changes);
                let file = rows.iter().map(|(id, n)| (id.to_string(), format!(r#"{{"id":"{id}","n":"{n}"}}"#))).collect::<BTreeMap<_, _>>();
                prop_assert_eq!(&topic, &file);
            }
        }
    }
}
