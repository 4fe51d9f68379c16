use std::collections::BTreeMap;

use pulso_job::Submission;
use serde_json::{Value, json};

use super::*;

fn job(rest: &str) -> Arc<JobSpec> {
    let toml = format!(
        "version = 1\nname = \"test\"\n[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n\
         tombstone = {{ key = [\"id\"] }}\n[target.db]\ntype = \"postgres\"\nurl = \"postgres://localhost/test\"\n\
         [fields]\nid = {{ type = \"int32\", required = true }}\nat = {{ type = \"int64\" }}\nv = {{ type = \"string\" }}\n\
         {rest}"
    );
    match pulso_job::check(
        &Submission { toml, environment: BTreeMap::new(), folder: "/jobs".to_owned(), ..Submission::default() },
        "test.toml",
    ) {
        Ok((spec, _)) => Arc::new(spec),
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

/// Each list of lines is an epoch.
fn run(spec: &Arc<JobSpec>, epochs: &[&[&str]]) -> Outcome {
    let mut job = LocalJob::new(spec, WallTime(i64::MAX)).unwrap();
    for lines in epochs {
        lines.iter().for_each(|line| job.push(line.as_bytes()));
        job.cut().unwrap();
    }
    let outcome = job.finish().unwrap();
    assert_eq!(outcome.counters.total(), outcome.read);
    outcome
}

fn rows(table: &Table) -> Value {
    let row =
        |row: &Row| row.iter().zip(&table.columns).map(|(value, column)| to_json(value, column)).collect::<Value>();
    table.rows().map(row).collect()
}

const SINK: &str = "[[sink]]\nto = \"db\"\ntable = \"t\"\n";
const LINES: [&[&str]; 2] = [
    &["{\"id\": 10, \"at\": 5, \"v\": \"a\"}", "{\"id\": -2, \"at\": 5, \"v\": \"b\"}"],
    &["{\"id\": 10, \"at\": 4, \"v\": \"c\"}", "tombstone -2", "{\"id\": 3, \"v\": \"d\"}"],
];

#[test]
fn an_upsert_overwrites_and_deletes() {
    let outcome = run(&job(&format!("{SINK}key = [\"id\"]")), &LINES);
    assert_eq!(rows(&outcome.tables[0]), json!([[3, null, "d"], [10, 4, "c"]]));
}

#[test]
fn the_newest_row_stays_and_nothing_deletes_it() {
    let outcome = run(&job(&format!("{SINK}key = [\"id\"]\nnewest_by = \"at\"")), &LINES);
    assert_eq!(rows(&outcome.tables[0]), json!([[-2, 5, "b"], [3, null, "d"], [10, 5, "a"]]));
}

#[test]
fn of_equally_new_rows_it_does_not_matter_which_came_first() {
    let spec = job(&format!("{SINK}key = [\"id\"]\nnewest_by = \"at\""));
    let (a, b) = ("{\"id\": 1, \"at\": 5, \"v\": \"a\"}", "{\"id\": 1, \"at\": 5, \"v\": \"b\"}");
    for lines in [[a, b], [b, a]] {
        assert_eq!(rows(&run(&spec, &[&lines]).tables[0]), json!([[1, 5, "b"]]));
    }
}

#[test]
fn the_first_row_stays() {
    let outcome = run(&job(&format!("{SINK}key = [\"id\"]\nwrite = \"keep_first\"")), &LINES);
    assert_eq!(rows(&outcome.tables[0]), json!([[-2, 5, "b"], [3, null, "d"], [10, 5, "a"]]));
}

#[test]
fn what_only_appends_marks_what_is_not_new() {
    let spec = job(&format!("{SINK}key = [\"id\"]\n[[sink]]\nto = \"db\"\ntable = \"log\"\nwrite = \"append\""));
    let outcome = run(&spec, &LINES);
    let log = &outcome.tables[1];
    assert_eq!(log.columns.last().map(|column| column.name.as_str()), Some("pulso_change"));
    let marked: Vec<Value> = rows(log).as_array().unwrap().iter().filter(|row| !row[3].is_null()).cloned().collect();
    assert_eq!(marked, [json!([-2, null, null, "delete"])]);
    assert_eq!(log.rows().count(), 5);
}

#[test]
fn dead_letters_tell_the_record() {
    let outcome = run(&job(&format!("{SINK}key = [\"id\"]")), &[&["{\"id\": 1}", "nothing"], &["tombstone", "{}"]]);
    let letters: Vec<_> =
        outcome.dead_letters.iter().map(|l| (l.record, l.reason.as_str(), l.field.as_deref())).collect();
    assert_eq!(letters, [(1, "invalid_json", None), (2, "bad_key", None), (3, "missing_field", Some("id"))]);
    assert_eq!((outcome.read, outcome.counters.written), (4, 1));
}

#[test]
fn two_sinks_of_one_name_can_be_told_apart() {
    let spec = job(&format!(
        "{SINK}key = [\"id\"]\n[target.bus]\ntype = \"kafka\"\nbrokers = \"b:1\"\n\
         [[sink]]\nto = \"bus\"\ntopic = \"out\"\n[[sink]]\nto = \"bus\"\ntopic = \"out\""
    ));
    let outcome = run(&spec, &[]);
    let names: Vec<&str> = outcome.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["t", "out", "out#2"]);
}

/// All lines are of one file.
fn of_files(source: &str, fields: &str, lines: &[&[u8]]) -> Outcome {
    of_several(source, fields, &[lines])
}

fn of_several(source: &str, fields: &str, files: &[&[&[u8]]]) -> Outcome {
    let toml = format!(
        "version = 1\nname = \"t\"\n[source]\ntype = \"files\"\npath = \"in/*\"\n{source}\n[target.out]\ntype = \"files\"\n\
         path = \"out\"\n[fields]\n{fields}\n[[sink]]\nto = \"out\"\n[dead_letter]\nto = \"out\"\n"
    );
    let submission =
        Submission { toml, environment: BTreeMap::new(), folder: "/jobs".to_owned(), ..Submission::default() };
    let spec =
        pulso_job::check(&submission, "job.toml").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false))).0;
    let mut job = LocalJob::new(&Arc::new(spec), WallTime(0)).unwrap();
    for lines in files {
        job.next_file();
        lines.iter().for_each(|line| job.push(line));
    }
    job.finish().unwrap()
}

#[test]
fn lines_are_documents_or_csv_where_the_source_is_files() {
    let fields = "id = { type = \"int64\", path = [\"^p.id\"], required = true }\nv = { type = \"int64\" }";
    let lines: [&[u8]; 3] = [br#"{"p":{"id":7},"r":[{"v":1},{"v":"x"},{"v":3}]}"#, b"{\"p\":", br#"{"r":[{"v":4}]}"#];
    let outcome = of_files("each = \"r\"", fields, &lines);
    assert_eq!((outcome.read, outcome.counters.written), (5, 2));
    let letters: Vec<(usize, &str)> = outcome.dead_letters.iter().map(|l| (l.record, l.reason.as_str())).collect();
    assert_eq!(letters, [(0, "wrong_type"), (1, "invalid_json"), (2, "missing_field")]);
    let fields = "id = { type = \"int64\", required = true }\nv = { type = \"string\" }";
    let outcome = of_files("format = \"csv\"", fields, &[b"v,id", b"a,1", b",2", b"x"]);
    assert_eq!((outcome.read, outcome.counters.written), (3, 2));
    assert_eq!(outcome.dead_letters[0].reason, "wrong_column_count");
}

#[test]
fn each_csv_file_has_its_own_header_and_may_begin_with_a_byte_order_mark() {
    let fields = "id = { type = \"int64\", required = true }\nv = { type = \"string\" }";
    let files: [&[&[u8]]; 3] = [
        &[b"\xEF\xBB\xBFid,v", b"1,a"],
        &[b"v,id", b"b,2", b"c,3"],
        // Told once: nobody knows what the lines behind it are.
        &[b"id,id", b"4,d", b"5,e"],
    ];
    let outcome = of_several("format = \"csv\"", fields, &files);
    assert_eq!((outcome.read, outcome.counters.written), (4, 3));
    assert_eq!(rows(&outcome.tables[0]), json!([[1, "a"], [2, "b"], [3, "c"]]));
    let letters: Vec<(usize, &str)> = outcome.dead_letters.iter().map(|l| (l.record, l.reason.as_str())).collect();
    assert_eq!(letters, [(5, "bad_header")]);
    let files: [&[&[u8]]; 2] = [&[b"\xEF\xBB\xBF1,a", b"2,b"], &[b"\xEF\xBB\xBF", b"3,c"]];
    let outcome = of_several("format = \"csv\"\nheader = false", fields, &files);
    assert_eq!((outcome.read, rows(&outcome.tables[0])), (3, json!([[1, "a"], [2, "b"], [3, "c"]])));
}

/// As in the cluster: what is in front of a document is no JSON.
#[test]
fn a_byte_order_mark_before_json_is_a_dead_letter() {
    let fields = "id = { type = \"int64\", required = true }";
    let outcome = of_files("format = \"jsonl\"", fields, &[b"\xEF\xBB\xBF{\"id\": 1}", b"{\"id\": 2}"]);
    assert_eq!((outcome.counters.written, outcome.dead_letters[0].reason.as_str()), (1, "invalid_json"));
}
