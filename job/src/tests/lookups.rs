//! `[[lookup]]`: what it means, with the types of the database and without.

use arrow::datatypes::DataType;

use super::{GOOD, bad, good, one_in, submission};
use crate::{JobSpec, Missing, SinkValue, Submission, check};

const LOOKUP: &str = r#"
[[lookup]]
name = "map"
in = "db"
sql = "select id, place, most from map"
on = ["id"]
"#;

const SINK: &str = r#"
[[sink]]
to = "db"
table = "placed"
key = ["id", "at"]
columns = { id = "id", at = "at", place = "map.place", twice = "map.most * 2" }
where = "map.most > qty"
"#;

fn job() -> String {
    format!("{GOOD}{LOOKUP}{SINK}")
}

fn told(types: &[(&str, &str)]) -> Submission {
    let types = types.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    Submission { lookups: [("map".to_owned(), types)].into(), ..submission(&job()) }
}

const TYPES: [(&str, &str); 4] = [("id", "string"), ("place", "string"), ("most", "int64"), ("geometry", "box")];

fn types_of(job: &JobSpec) -> Vec<(&str, DataType)> {
    job.sinks.last().unwrap().columns.iter().map(|c| (c.name.as_str(), c.data_type.clone())).collect()
}

#[test]
fn what_it_means() {
    let job = check(&told(&TYPES), "job.toml").unwrap().0;
    let lookup = &job.lookups[0];
    assert_eq!((lookup.target, lookup.on.as_slice(), lookup.missing), (0, [0].as_slice(), Missing::DeadLetter));
    assert_eq!((lookup.refresh.as_secs(), lookup.max_rows, lookup.known), (60, 100_000, true));
    // Only what the job names.
    let names: Vec<&str> = lookup.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["map.place", "map.most"]);
    assert_eq!(lookup.columns[0].in_query(), "place");
    let columns: Vec<&str> = job.columns().collect();
    assert_eq!(columns, ["id", "at", "qty", "price", "weight", "note", "map.place", "map.most", "total"]);
    assert_eq!((job.first_derived(), job.field_schema().fields().len()), (8, 6));
    assert_eq!(job.lookup_schema(lookup).fields().len(), 3);
    assert_eq!(types_of(&job)[2..], [("place", DataType::Utf8), ("twice", DataType::Int64)]);
    assert_eq!(job.sinks[1].columns[2].value, SinkValue::Column(6));
    // Without `columns` a sink has those of the record.
    assert_eq!(job.sinks[0].columns.len(), 7);
}

#[test]
fn without_the_database_types_are_assumed_and_nothing_is_refused_for_them() {
    let job = good(&job());
    assert!(!job.lookups[0].known);
    assert_eq!(types_of(&job)[2..], [("place", DataType::Utf8), ("twice", DataType::Utf8)]);
    let derived = self::job().replace("qty * price", "map.most * map.most + qty");
    assert_eq!(good(&derived).derive[0].value.sql, "map.most * map.most + qty");
}

#[test]
fn what_the_database_says_must_fit() {
    let one = |types: &[(&str, &str)], at: &str, words: &str| {
        let submission = told(types);
        let mistakes = check(&submission, "job.toml").unwrap_err();
        let [mistake] = mistakes.list.as_slice() else { panic!("{}", mistakes.render(false)) };
        let text = &submission.toml[mistake.offset..mistake.offset + mistake.length];
        assert!(text.contains(at), "{at}: {}", mistakes.render(false));
        assert!(format!("{} {}", mistake.code, mistake.message).contains(words), "{}", mistakes.render(false));
    };
    one(&TYPES[1..], "[\"id\"]", "P0081 the query has no column `id`");
    one(&[("id", "int64"), TYPES[1], TYPES[2]], "[\"id\"]", "P0081 `id` is of type int64 in the query");
    one(&[TYPES[0], ("place", "bytea"), TYPES[2]], "select", "P0081 `place` of the query is of type bytea");
    let mistakes = check(&told(&[TYPES[0], TYPES[1], ("most", "timestamp")]), "job.toml").unwrap_err();
    assert!(mistakes.list.iter().all(|mistake| mistake.code.as_str() == "P0044"), "{}", mistakes.render(false));
    let mistakes = check(&told(&TYPES[..2]), "job.toml").unwrap_err();
    let lacking = |mistake: &crate::Diagnostic| mistake.message.starts_with("there is no column `map.most`");
    assert!(mistakes.list.len() == 2 && mistakes.list.iter().all(lacking), "{}", mistakes.render(false));
}

#[test]
fn mistakes_are_told_at_their_place() {
    let one = |from: &str, to: &str, code: &str, at: &str, help: &str| {
        assert!(LOOKUP.contains(from), "{from}");
        one_in(&format!("{GOOD}{}", LOOKUP.replacen(from, to, 1)), code, at, help);
    };
    one("in = \"db\"", "in = \"no\"", "P0060", "\"no\"", "db");
    one("on = [\"id\"]", "on = []", "P0014", "[]", "");
    one("on = [\"id\"]", "on = [\"idd\"]", "P0060", "\"idd\"", "did you mean `id`");
    one("on = [\"id\"]", "on = [\"weight\"]", "P0061", "\"weight\"", "");
    one("select id, place, most from map", "delete from map", "P0081", "\"delete from map\"", "");
    one(
        "select id, place, most from map",
        "with x as (delete from t) select 1",
        "P0081",
        "\"with x as (delete from t) select 1\"",
        "DELETE",
    );
    one("name = \"map\"", "name = \"Map\"", "P0016", "\"Map\"", "");
    one("on = ", "missing = \"drop\"\non = ", "P0014", "\"drop\"", "");
    one("on = ", "refresh = \"10ms\"\non = ", "P0015", "\"10ms\"", "");
    one("on = ", "max_rows = 0\non = ", "P0015", "0", "");
    let twice = bad(&format!("{GOOD}{LOOKUP}{LOOKUP}"));
    assert_eq!(twice.list.iter().map(|m| m.code.as_str()).collect::<Vec<_>>(), ["P0054"]);
}

#[test]
fn keys_must_not_change_with_a_table_and_rules_come_before() {
    let key = format!("{GOOD}{LOOKUP}")
        .replace("key = [\"id\", \"at\"]\nkeep_for", "key = [\"id\", \"at\", \"map.place\"]\nkeep_for");
    assert!(key.contains("map.place"), "the dedup key of GOOD is another");
    one_in(&key, "P0061", "\"map.place\"", "");
    one_in(&format!("{GOOD}{LOOKUP}[filter]\nkeep = \"map.most > 1\"\n"), "P0041", "most", "come before lookups");
}
