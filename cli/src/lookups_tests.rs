use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use serde_json::json;

use super::*;

const LOOKUP: &str = "[[lookup]]\nname = \"map\"\nin = \"db\"\nsql = \"select 1\"\non = [\"patient\", \"at\"]\n";
const SINK: &str = "[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n\
    columns = { place = \"map.place\", twice = \"map.most * 2\", same = \"map.patient\" }\n";
const ROW: &str = r#"{"patient": 1, "at": "2026-01-01", "place": "A", "most": 7}"#;

fn file(lookup: &str, sink: &str) -> JobFile {
    let toml = format!(
        "version = 1\nname = \"test\"\n[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n\
         [target.db]\ntype = \"postgres\"\nurl = \"postgres://localhost/test\"\n\
         [fields]\npatient = {{ type = \"int32\" }}\nat = {{ type = \"date\" }}\n{lookup}{sink}"
    );
    let submission =
        Submission { toml, environment: BTreeMap::new(), folder: "/jobs".to_owned(), ..Submission::default() };
    JobFile { name: "job.toml".to_owned(), submission, warnings: Vec::new() }
}

fn given(text: &str) -> LookupRows {
    let mut rows = LookupRows::default();
    rows.add("map", text).unwrap();
    rows
}

fn how(lookup: &str, row: &str) -> String {
    format!("{lookup} takes {row}")
}

/// Why these rows cannot be.
fn refused(rows: &LookupRows) -> String {
    let file = file(LOOKUP, SINK);
    let checked = rows.check(&file, how).and_then(|(spec, _)| rows.lookups(&spec, how));
    format!("{:#}", checked.map(drop).unwrap_err())
}

#[test]
fn more_rows_than_the_job_allows_are_refused() {
    let file = file(&LOOKUP.replace("on = ", "max_rows = 1\non = "), SINK);
    given(ROW).check(&file, how).unwrap();
    let error = given(&format!("{ROW}\n{ROW}")).check(&file, how).unwrap_err();
    assert_eq!(error.to_string(), "lookup `map`: more than 1 rows (max_rows)");
}

#[test]
fn types_follow_from_fields_and_values() {
    let rows = given(&format!(
        "{ROW}\n\n{{\"patient\": 2, \"at\": null, \"other\": [], \"most\": null}}\n{{\"place\": \"C\", \"most\": -1}}\n"
    ));
    let (spec, _) = rows.check(&file(LOOKUP, SINK), how).unwrap();
    let lookup = &spec.lookups[0];
    assert!(lookup.known);
    let columns: Vec<(&str, DataType)> =
        lookup.columns.iter().map(|column| (column.name.as_str(), column.data_type.clone())).collect();
    let expected = [("map.patient", DataType::Int32), ("map.place", DataType::Utf8), ("map.most", DataType::Int64)];
    assert_eq!(columns.len(), 3);
    assert!(expected.iter().all(|column| columns.contains(column)), "{columns:?}");
    let batch = batch(&spec, lookup, rows.of(&spec, lookup, how).unwrap()).unwrap();
    assert_eq!((batch.num_rows(), batch.column(1).data_type()), (3, &DataType::Date32));
    let of = |name: &str| batch.column_by_name(name).unwrap();
    assert_eq!(of("map.patient").as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), Some(2), None]);
    assert_eq!(of("map.most").as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(7), None, Some(-1)]);
    assert_eq!(rows.lookups(&spec, how).unwrap().len(), 1);
}

#[test]
fn numbers_booleans_and_texts_have_types_and_nothing_else() {
    for (value, kind) in [
        (json!(1), Some("int64")),
        (json!(1.0), Some("float64")),
        (json!("1"), Some("string")),
        (json!(false), Some("bool")),
        (json!(u64::MAX), None),
        (json!([1]), None),
        (json!({}), None),
    ] {
        assert_eq!(type_of_value(&value), kind, "{value}");
    }
}

#[test]
fn what_cannot_be_is_told_with_its_line() {
    let of = |text: &str| refused(&given(&format!("{ROW}\n{text}")));
    let told = |text: &str, words: &str| {
        let message = of(text);
        assert!(message.contains(words), "`{words}` is not in: {message}");
    };
    told(r#"{"most": 7.5}"#, "line 2: `most` is of type float64, but of type int64 in line 1");
    told(r#"{"most": [7]}"#, "line 2: `most` takes text, a number of 64 bits, true or false, not [7]");
    told(r#"{"patient": "x"}"#, "line 2: column patient takes a whole number of 32 bits, not \"x\"");
    told(r#"{"patient": 5000000000}"#, "line 2: column patient takes a whole number of 32 bits");
    told(r#"{"at": "soon"}"#, "line 2: column at takes a date");
    told(ROW, "1 of its 2 rows have the same values in the columns of `on`");
    let mut rows = LookupRows::default();
    let message = format!("{:#}", rows.add("map", "\n[1]").unwrap_err());
    assert!(message.contains("rows of lookup `map`, line 2: not a JSON object"), "{message}");
}

#[test]
fn rows_that_are_not_there_are_asked_for() {
    let message = refused(&LookupRows::default());
    let row = r#"map takes {"patient": ..., "at": ..., "#;
    assert!(message.starts_with("lookup `map` has no rows") && message.contains(row), "{message}");
    let message = refused(&given(&ROW.replace("most", "mots")));
    assert!(message.contains("no row of lookup `map` has a value for `most`"), "{message}");
    let mut rows = given(ROW);
    rows.add("mop", ROW).unwrap();
    assert_eq!(refused(&rows), "the job has no lookup `mop`; there is map");
    let none = file("", "[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n");
    let message = given(ROW).check(&none, how).unwrap_err().to_string();
    assert_eq!(message, "the job has no lookup `map`; there is none");
    assert!(LookupRows::default().check(&none, how).is_ok());
}

#[test]
fn what_the_types_make_wrong_is_a_mistake_of_the_file() {
    let error = given(&ROW.replace('7', "true")).check(&file(LOOKUP, SINK), how).unwrap_err();
    let mistakes = error.downcast::<pulso_job::Diagnostics>().unwrap();
    assert_eq!(mistakes.list[0].code.as_str(), "P0044", "{}", mistakes.render(false));
}

#[test]
fn own_rows_stand_in_the_place_of_others() {
    let mut own = given("");
    own.or(&given(ROW));
    assert!(own.0["map"].is_empty());
    own.extend(&given(ROW));
    assert_eq!(own.0["map"].len(), 1);
}
