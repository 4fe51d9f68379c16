use pulso_job::{Submission, input};

use super::*;
use crate::testing::Judge;

const JOB: &str = include_str!("../../../jobs/csv-people.toml");

fn spec(toml: &str) -> InputSpec {
    input(&Submission { toml: toml.to_owned(), ..Submission::default() }, "job.toml").unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn layout(header: &[&str], key: &[&str], toml: Option<&str>) -> Result<Layout, String> {
    Layout::new(header.iter().copied(), &names(key), toml.map(spec).as_ref())
}

const PEOPLE: [&str; 5] = ["id", "nome", "idade", "cidade", "valor"];

#[test]
fn cells_get_the_types_of_the_job_and_digits_stay() {
    let people = layout(&PEOPLE, &["id"], Some(JOB)).unwrap();
    let cells = ["9007199254740993", "Ana \"A\"", "", "São Paulo", "0.10"];
    let (record, wrong) = people.record(&cells);
    assert_eq!(record, r#"{"id":9007199254740993,"nome":"Ana \"A\"","idade":null,"cidade":"São Paulo","valor":0.10}"#);
    assert!(wrong.is_empty());
    assert_eq!(people.key(&cells).as_deref(), Ok("9007199254740993"));
    let (record, wrong) = people.record(&["1", "x", "12.0", "", "R$ 5,00"]);
    assert_eq!(record, r#"{"id":1,"nome":"x","idade":"12.0","cidade":null,"valor":"R$ 5,00"}"#);
    assert_eq!(
        wrong,
        ["column idade is no int32; it is sent as text", "column valor is no decimal; it is sent as text"]
    );
}

#[test]
fn the_job_takes_records_and_tombstones_and_makes_dead_letters_of_wrong_types() {
    let people = layout(&PEOPLE, &["id"], Some(JOB)).unwrap();
    let mut judge = Judge::new(&crate::testing::job(JOB));
    let mut verdict = |cells: [&str; 5]| {
        let (record, _) = people.record(&cells);
        judge.judge(people.key(&cells).unwrap().as_bytes(), Some(record.as_bytes()), 0)
    };
    assert_eq!(verdict(["7", "Ana", "42", "Recife", "1234567890.12"]), Ok(()));
    assert_eq!(verdict([" 7", "Ana", "", "", "-0.5"]), Ok(()));
    assert!(verdict(["7", "Ana", "forty", "", "1"]).unwrap_err().contains("wrong_type"));
    assert!(verdict(["7", "Ana", "42", "", "1,5"]).unwrap_err().contains("wrong_type"));
    assert!(verdict(["7", "", "42", "", "1"]).unwrap_err().contains("missing_field"));
    assert_eq!(judge.judge(b"7", None, 0), Ok(()));
    assert!(judge.judge(b"x", None, 0).unwrap_err().contains("bad_key"));
}

const ALL: &str = r#"
[source]
type = "kafka"
brokers = "localhost:9092"
topic = "t"
tombstone = { key = ["n", "day"] }
[target.db]
type = "postgres"
url = "postgres://localhost/test"
[fields]
n = { type = "string", path = ["number"], required = true }
day = { type = "date", required = true }
b = { type = "bool" }
f = { type = "float64" }
at = { type = "timestamp", epoch = "ms" }
t = { type = "timestamp" }
u = { type = "uuid" }
j = { type = "json" }
[[sink]]
to = "db"
table = "t"
write = "upsert"
key = ["n", "day"]
"#;

#[test]
fn every_type_and_a_key_of_several_columns() {
    let header = ["day", "number", "b", "f", "at", "t", "u", "j", "note"];
    let layout = layout(&header, &["number", "day"], Some(ALL)).unwrap();
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let cells =
        [" 2026-01-02", "a b ", "True", "1e3", "1790000000000", "2026-01-02T03:04:05Z ", uuid, r#"{"x": [1]}"#, "5"];
    let (record, wrong) = layout.record(&cells);
    let expected = format!(
        r#"{{"day":"2026-01-02","number":"a b ","b":true,"f":1e3,"at":1790000000000,"t":"2026-01-02T03:04:05Z","u":"{uuid}","j":{{"x": [1]}},"note":"5"}}"#
    );
    assert_eq!((record.as_str(), wrong.len()), (expected.as_str(), 0));
    // By the names of the job's columns, as a tombstone's key is read.
    let key = layout.key(&cells).unwrap();
    assert_eq!(key, r#"{"n":"a b ","day":"2026-01-02"}"#);
    let toml = format!("version = 1\nname = \"test\"\n{ALL}");
    let mut judge = Judge::new(&crate::testing::job(&toml.replace("to = \"db\"", "to = \"db\"\nfrom = \"records\"")));
    assert_eq!(judge.judge(key.as_bytes(), Some(record.as_bytes()), 0), Ok(()));
    assert_eq!(judge.judge(key.as_bytes(), None, 0), Ok(()));
    let (record, wrong) = layout.record(&["d", "n", "yes", "inf", "1.5", "t", "u", "{", "note"]);
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    assert!(record.contains(r#""b":"yes","f":"inf","at":"1.5""#) && record.contains(r#""j":"{""#));
}

#[test]
fn without_a_job_every_cell_is_text() {
    let layout = layout(&["id", "n"], &["id"], None).unwrap();
    assert_eq!(layout.record(&["007", ""]), (r#"{"id":"007","n":null}"#.to_owned(), Vec::new()));
    assert_eq!(layout.key(&["007", ""]).as_deref(), Ok("007"));
    assert!(layout.key(&["", "1"]).unwrap_err().contains("empty"));
}

#[test]
fn headers_and_keys_that_do_not_fit_are_refused() {
    assert!(layout(&["id", "id"], &["id"], None).unwrap_err().contains("twice"));
    assert!(layout(&["id", " "], &["id"], None).unwrap_err().contains("column 2"));
    assert!(layout(&["id", "nome"], &["ID"], None).unwrap_err().contains("only id, nome"));
    assert!(layout(&PEOPLE, &["nome"], Some(JOB)).unwrap_err().contains("--key id"));
    let people = layout(&["id", "nome"], &["id"], Some(JOB)).unwrap();
    assert_eq!(people.missing(&spec(JOB)), ["valor"]);
    assert!(people.key(&["12a", "x"]).unwrap_err().contains("no int64"));
}
