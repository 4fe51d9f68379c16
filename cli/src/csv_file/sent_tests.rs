use super::*;

fn key() -> Vec<String> {
    vec!["id".to_owned()]
}

fn record(key: &str) -> Change {
    Change::Record { key: key.to_owned(), record: format!("{{\"id\":\"{key}\"}}") }
}

fn some() -> Sent {
    let mut sent = Sent::default();
    sent.confirm(&[record("1"), record("a\n\"é")]);
    sent.announce(&[record("2")]);
    sent
}

#[test]
fn what_is_kept_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv.pulso");
    let (file, sent) = StateFile::open(&path, "t", &key()).unwrap();
    assert_eq!(sent, Sent::default());
    file.keep(&some()).unwrap();
    file.keep(&some()).unwrap();
    drop(file);
    assert_eq!(StateFile::open(&path, "t", &key()).unwrap().1, some());
}

#[test]
fn one_producer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv.pulso");
    let _one = StateFile::open(&path, "t", &key()).unwrap();
    assert!(StateFile::open(&path, "t", &key()).unwrap_err().to_string().contains("another producer"));
}

#[test]
fn another_topic_or_key_and_damage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv.pulso");
    StateFile::open(&path, "t", &key()).unwrap().0.keep(&some()).unwrap();
    let refused = |topic: &str, key: &[String]| format!("{:#}", StateFile::open(&path, topic, key).unwrap_err());
    assert!(refused("other", &key()).contains("about topic t"));
    assert!(refused("t", &["nome".to_owned()]).contains("its key is id"));
    let text = std::fs::read(&path).unwrap();
    for at in 0..text.len() {
        let mut damaged = text.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(StateFile::open(&path, "t", &key()).is_err(), "byte {at}");
        std::fs::write(&path, &text[..at]).unwrap();
        assert!(StateFile::open(&path, "t", &key()).is_err(), "cut at {at}");
    }
}
