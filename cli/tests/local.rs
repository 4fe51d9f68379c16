//! The real `healthctl`, where it needs no server: `test` and `dev`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const EXAMPLES: &str = r#"
[[example]]
name = "right"
input = '''
{"patientId": "p1", "timestamp": 1, "heartRate": 70}
'''
counts = { read = 1, written = 1 }

[[example]]
name = "wrong"
input = '''
{"patientId": "p1", "timestamp": 1, "heartRate": 70}
{"patientId": "p2", "timestamp": 1, "heartRate": 71}

{"patientId": "p3", "timestamp": 1, "heartRate": -1}
'''
dead_letters = '{"line": 1, "reason": "invalid_json"}'
counts = { written = 3 }
[example.rows]
health_records = '''
{"patient_id": "p1", "timestamp": "1970-01-01T00:00:00.001Z", "heart_rate": 72}
{"patient_id": "p9", "timestamp": "1970-01-01T00:00:00.001Z"}
'''

[[example]]
name = "left out"
skip = "not today"
input = ""
counts = { read = 9 }
"#;

fn jobs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs")
}

fn healthctl(arguments: &[&str]) -> Output {
    // Whatever the developer has set must not matter: no server is asked.
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthctl"));
    command.args(arguments).env_remove("DATABASE_URL").env_remove("KAFKA_BROKERS").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A folder with health-records.toml and these examples.
fn folder(examples: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(jobs().join("health-records.toml"), folder.path().join("vitals.toml")).unwrap();
    std::fs::write(folder.path().join("vitals.test.toml"), examples).unwrap();
    folder
}

#[test]
fn the_examples_of_the_jobs_hold() {
    let (code, out, err) = texts(&healthctl(&["test", jobs().to_str().unwrap()]));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.ends_with(" 0 failed, 0 skipped\n"), "{out}");
    for job in ["health-vitals", "early-warning", "ecommerce", "csv-people", "iot-sensors", "ward-files"] {
        assert!(out.contains(&format!("ok    {job}: ")), "{job} has no example that was tried\n{out}");
    }
}

#[test]
fn a_wrong_example_tells_every_difference_and_fails() {
    let folder = folder(EXAMPLES);
    let (code, out, _) = texts(&healthctl(&["test", folder.path().to_str().unwrap()]));
    assert_eq!(code, Some(1), "{out}");
    let expected = [
        "ok    health-records: right",
        "FAIL  health-records: wrong",
        r#"        health_records: {"patient_id":"p1","timestamp":"1970-01-01T00:00:00.001Z"} has {"heart_rate":70.0}, expected {"heart_rate":72.0}"#,
        r#"        health_records: expected, but not there: {"patient_id":"p9","timestamp":"1970-01-01T00:00:00.001Z"}"#,
        r#"        health_records: there, but not expected: {"heart_rate":71.0,"patient_id":"p2","timestamp":"1970-01-01T00:00:00.001Z"}"#,
        r#"        dead letters: expected, but not there: {"line":1,"reason":"invalid_json"}"#,
        r#"        dead letters: there, but not expected: {"field":"heart_rate","line":4,"reason":"out_of_range"}"#,
        "        written: 2, expected 3",
        "skip  health-records: left out (not today)",
        "1 passed, 1 failed, 1 skipped",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);

    let job = folder.path().join("vitals.toml");
    let (code, out, _) = texts(&healthctl(&["test", job.to_str().unwrap(), "-o", "json"]));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["failed"], &answer["examples"][1]["status"]), (Some(1), &1.into(), &"failed".into()));
}

#[test]
fn examples_that_say_nothing_or_what_cannot_be_are_refused() {
    let one = |rest: &str| format!("[[example]]\nname = \"x\"\ninput = ''\n{rest}");
    let wrong = [
        (String::new(), "has no [[example]]"),
        (one(""), "nothing is expected"),
        (one("expect = 1"), "unknown field `expect`"),
        (one("counts = { writen = 1 }"), "unknown field `writen`"),
        (one("clock = 2026-01-01\ncounts = { read = 0 }"), "`clock` is a time with a zone"),
        (one("rows = { nowhere = '' }"), "no sink `nowhere`; there is health_records"),
        (one("rows = { health_records = '{\"pulse\": 1}' }"), "no column `pulse`"),
        (one("rows = { health_records = 'x' }"), "line 1: not a JSON object"),
        (one("rows = { health_records = '{\"timestamp\": 1}' }"), "column timestamp takes a time with a zone"),
        (one("dead_letters = '{\"lin\": 1}'"), "dead_letters: line 1"),
        (format!("{0}\n{0}", one("counts = { read = 0 }")), "two examples have the name `x`"),
    ];
    for (examples, words) in wrong {
        let folder = folder(&examples);
        let (code, _, err) = texts(&healthctl(&["test", folder.path().to_str().unwrap()]));
        assert!(code == Some(1) && err.contains(words), "`{words}` is not in: {err}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (code, _, err) = texts(&healthctl(&["test", empty.path().to_str().unwrap()]));
    assert!(code == Some(1) && err.contains("there are no examples"), "{err}");
}

#[test]
fn a_job_with_mistakes_shows_them() {
    let folder = folder(EXAMPLES);
    let job = folder.path().join("vitals.toml");
    let text = std::fs::read_to_string(&job).unwrap().replace("keep_for", "keep_four");
    std::fs::write(&job, text).unwrap();
    for arguments in [["test", job.to_str().unwrap()].as_slice(), &["dev", job.to_str().unwrap(), "-i", "-"]] {
        let (code, _, err) = texts(&healthctl(arguments));
        assert!(code == Some(1) && err.contains("did you mean `keep_for`"), "{err}");
    }
}

#[test]
fn dev_prints_rows_dead_letters_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
    std::fs::write(&first, "{\"id\": 2, \"nome\": \"Bia\", \"valor\": 7.5}\r\n\n{\"id\": 3}\n").unwrap();
    std::fs::write(&second, "{\"id\": 1, \"nome\": \"Ana\\u001b[2J\", \"valor\": 1}\ntombstone 2").unwrap();
    let job = jobs().join("csv-people.toml");
    let inputs = [first.to_str().unwrap(), second.to_str().unwrap()];
    let arguments = ["dev", job.to_str().unwrap(), "--input", inputs[0], inputs[1], "--epoch", "1"];
    let (code, out, err) = texts(&healthctl(&arguments));
    assert_eq!(code, Some(0), "{err}");
    assert!(!out.contains('\u{1b}'), "a terminal would obey this: {out:?}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = out.lines().map(words).collect();
    for expected in [
        "pessoas in db: 1 row",
        "1 Ana\u{fffd}[2J null null 1.00 0.10",
        "csv-data-processed in kafka: 3 rows",
        "2 null null null null null delete",
        &format!("{}:3 missing_field nome", inputs[0]),
        "read 4 = written 3 (0 corrections) + filtered 0 + duplicates 0 + superseded 0 + dead letters 1",
    ] {
        assert!(lines.iter().any(|line| line == expected), "`{expected}` is not in\n{out}");
    }

    let (_, out, _) = texts(&healthctl(&[&arguments[..], &["-o", "json"]].concat()));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let row = serde_json::json!({
        "id": 1, "nome": "Ana\u{1b}[2J", "idade": null, "cidade": null, "valor": "1.00", "imposto": "0.10"
    });
    assert_eq!(answer["sinks"][0]["rows"], serde_json::json!([row]));
    assert_eq!(answer["dead_letters"][0]["line"], 3);
    assert_eq!(answer["counts"]["read"], 4);
}

#[test]
fn dev_reads_the_header_of_every_csv_file() {
    const JOB: &str = "version = 1\nname = \"people\"\n[source]\ntype = \"files\"\npath = \"in/*.csv\"\nformat = \"csv\"\n\
        [target.out]\ntype = \"files\"\npath = \"out\"\n[fields]\nid = { type = \"int64\", required = true }\n\
        name = { type = \"string\" }\n[[sink]]\nto = \"out\"\n[dead_letter]\nto = \"out\"\n";
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let job = file("people.toml", JOB);
    let first = file("a.csv", "\u{feff}id,name\r\n1,Ana\r\n");
    let second = file("b.csv", "\u{feff}name,id\nBia,2\nCaio,x\n");
    let arguments = ["dev", &job, "--input", &first, &second, "-o", "json"];
    let (code, out, err) = texts(&healthctl(&arguments));
    assert_eq!(code, Some(0), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let rows = serde_json::json!([{ "id": 1, "name": "Ana" }, { "id": 2, "name": "Bia" }]);
    assert_eq!((&answer["sinks"][0]["rows"], &answer["counts"]["read"]), (&rows, &3.into()), "{out}");
    let letter = serde_json::json!([{ "file": second, "line": 3, "reason": "wrong_type", "field": "id" }]);
    assert_eq!(answer["dead_letters"], letter);
}

#[test]
fn dev_runs_again_when_a_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("a.jsonl");
    std::fs::write(&input, "{\"id\": 1, \"nome\": \"Ana\", \"valor\": 1}\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthctl"));
    command.arg("dev").arg(jobs().join("csv-people.toml")).arg("--input").arg(&input).arg("--watch");
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut next = |words: &str| lines.any(|line| line.unwrap().starts_with(words));
    assert!(next("read 1 = written 1"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    std::fs::write(&input, "nothing\n").unwrap();
    // Some file systems tell times in steps: this change might have fallen into that of the first one.
    std::fs::File::options().append(true).open(&input).unwrap().set_modified(later).unwrap();
    assert!(next("read 1 = written 0"));
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn dev_tells_what_it_cannot_read() {
    let job = jobs().join("csv-people.toml");
    let job = job.to_str().unwrap();
    let (code, _, err) = texts(&healthctl(&["dev", job, "--input", "no/such/file"]));
    assert!(code == Some(1) && err.contains("opening no/such/file"), "{err}");
    let (code, _, err) = texts(&healthctl(&["dev", job, "--input", "-", "--watch"]));
    assert!(code == Some(2) && err.contains("--watch needs files"), "{err}");
    assert_eq!(texts(&healthctl(&["dev", job])).0, Some(2));
}

#[test]
fn export_needs_no_address() {
    let job = jobs().join("health-vitals.toml");
    let (code, out, err) = texts(&healthctl(&["export", "flink", job.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("${KAFKA_BROKERS}") && out.contains("${JDBC_DATABASE_URL}"), "{out}");
    assert!(!out.contains(".invalid"), "a stand-in is in the script: {out}");
}

#[test]
fn plan_tells_stages_and_what_a_change_costs() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (jobs().join("health-vitals.toml"), folder.path().join("new.toml"));
    let text = std::fs::read_to_string(&old).unwrap();
    std::fs::write(&new, text.replace("window = { size = \"1m\" }", "window = { size = \"5m\" }")).unwrap();
    let (code, out, err) = texts(&healthctl(&["plan", old.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("stage 1: exchange by patient_id (`route_by` of [dedup])") && !out.contains("as a change"),
        "{out}"
    );
    let arguments = ["plan", new.to_str().unwrap(), "--against", old.to_str().unwrap()];
    let (code, out, _) = texts(&healthctl(&arguments));
    assert_eq!(code, Some(0), "{out}");
    for line in ["  positions: kept", "  dedup: kept", "  aggregate vitals_by_minute: dropped; its window has changed"]
    {
        assert!(out.lines().any(|found| found == line), "`{line}` is not in\n{out}");
    }
    let (_, out, _) = texts(&healthctl(&[&arguments[..], &["-o", "json"]].concat()));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&answer["job"], &answer["stages"][0]["exchange_by"][0][0]),
        (&"health-vitals".into(), &"patient_id".into())
    );
    assert_eq!(answer["change"]["states"][2]["fate"], "dropped");
}

/// The ward's job with these examples, a file of one reading, and one of rows of its lookup.
fn ward(examples: &str) -> (tempfile::TempDir, [String; 4]) {
    let folder = tempfile::tempdir().unwrap();
    let job = std::fs::read_to_string(jobs().join("ward-files.toml")).unwrap();
    let reading = r#"{"paciente":{"id":1},"records":[{"sensor":"hr","valor":70,"timestamp":"2026-01-01T00:00:00"}]}"#;
    let rows = r#"{"patient_id": 1, "sensor": "hr", "paciente_sensor_id": 7}"#;
    let files = [("w.toml", job.as_str()), ("w.test.toml", examples), ("in.json", reading), ("rows.jsonl", rows)];
    let paths = files.map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    (folder, paths)
}

#[test]
fn rows_of_lookups_are_asked_for_where_they_belong() {
    let example = "[[example]]\nname = \"x\"\ninput = ''\ncounts = { read = 0 }\n";
    let row = r#"'{"patient_id": 1, "sensor": "hr", "paciente_sensor_id": 7}'"#;
    let own = format!("[example.lookups]\nmapping = {row}\n");
    let line = r#"mapping = '''{"patient_id": ..., "sensor": ..., "paciente_sensor_id": ...}'''"#;
    for (examples, words) in [
        (example.to_owned(), line),
        (example.to_owned(), "lookup `mapping` has no rows, and its database is not asked"),
        (format!("{example}{own}{}", example.replace("\"x\"", "\"y\"")), "example `y`: lookup `mapping` has no rows"),
        (format!("[lookups]\nmap = {row}\n{example}"), "the job has no lookup `map`; there is mapping"),
        (format!("[lookups]\nmapping = 'x'\n{example}"), "rows of lookup `mapping`, line 1: not a JSON object"),
    ] {
        let (_folder, [job, ..]) = ward(&examples);
        let (code, _, err) = texts(&healthctl(&["test", &job]));
        assert!(code == Some(1) && err.contains(words) && err.contains("w.test.toml"), "`{words}` is not in: {err}");
    }
}

#[test]
fn dev_takes_rows_of_lookups_from_files() {
    let (_folder, [job, _, input, rows]) = ward("");
    let lookup = format!("mapping={rows}");
    let arguments = ["dev", &job, "-i", &input, "-o", "json"];
    let (code, out, err) = texts(&healthctl(&[&arguments[..], &["--lookup", &lookup]].concat()));
    assert_eq!(code, Some(0), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let row = serde_json::json!({ "paciente_sensor_id": 7, "valor": "70.00", "created_at": "2026-01-01T03:00:00Z" });
    assert_eq!(answer["sinks"][0]["rows"], serde_json::json!([row]));
    let told = |more: &[&str], words: &str| {
        let (code, _, err) = texts(&healthctl(&[&arguments[..], more].concat()));
        assert!(code != Some(0) && err.contains(words), "`{words}` is not in: {err}");
    };
    told(&[], "say --lookup mapping=FILE, a file of JSON lines like");
    told(&["--lookup", "mapping"], "the name of the lookup and a file");
    told(&["--lookup", "mapping=no/file"], "reading no/file");
    told(&["--lookup", &lookup, "--lookup", &lookup], "--lookup names `mapping` twice");
}
