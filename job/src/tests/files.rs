//! Files as a source and as targets.

use std::path::Path;
use std::time::Duration;

use super::{GOOD, bad, good, submission};
use crate::*;

const KAFKA: &str = "type = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"orders\"";

fn job(source: &str) -> String {
    GOOD.replace(KAFKA, &format!("type = \"files\"\n{source}"))
}

fn source(toml: &str) -> FilesSourceSpec {
    match good(&job(toml)).source {
        SourceSpec::Files(files) => files,
        SourceSpec::Kafka(_) => panic!("no files"),
    }
}

/// The one mistake: its code, the text it points at, words of it.
#[track_caller]
fn one(toml: &str, code: &str, at: &str, words: &str) {
    let diagnostics = bad(toml);
    let shown = diagnostics.render(false);
    assert_eq!(diagnostics.list.len(), 1, "{shown}");
    let found = &diagnostics.list[0];
    assert_eq!((found.code.as_str(), &toml[found.offset..found.offset + found.length]), (code, at), "{shown}");
    let text = format!("{} {}", found.message, found.help.as_deref().unwrap_or_default());
    assert!(text.contains(words), "{text}");
}

#[test]
fn relative_paths_start_at_the_folder_of_the_job_file() {
    let files = source(
        "path = \"raw/./x/../*.json\"\neach = \"data.records\"\nfollow = true\n\
         when_bad = { move_to = \"raw/broken\" }\nwhen_done = { move_to = \"/done\" }",
    );
    assert_eq!(files.pattern, "/jobs/raw/*.json");
    assert_eq!(files.format, SourceFormat::Json { each: Some(vec!["data".to_owned(), "records".to_owned()]) });
    assert!(files.follow);
    assert_eq!(files.when_bad.as_deref(), Some(Path::new("/jobs/raw/broken")));
    assert_eq!(files.when_done.as_deref(), Some(Path::new("/done")));
    let files = source("path = \"/in/*.csv\"\nformat = \"csv\"\nwhen_done = \"keep\"");
    assert_eq!((files.format, files.follow), (SourceFormat::Csv { header: true, delimiter: b',' }, false));
    assert_eq!((files.when_bad, files.when_done), (None, None));
    let mut nowhere = submission(&job("path = \"in/*.json\""));
    nowhere.folder = String::new();
    let mistakes = check(&nowhere, "job.toml").unwrap_err();
    assert!(mistakes.list[0].message.contains("not known"), "{}", mistakes.render(false));
}

#[test]
fn the_folder_of_the_job_file_counts_only_where_paths_are_named() {
    let elsewhere = |toml: &str| Submission { folder: "/other".to_owned(), ..submission(toml) };
    let files = job("path = \"in/*.json\"");
    assert_ne!(fingerprint(&submission(&files)), fingerprint(&elsewhere(&files)));
    assert_eq!(fingerprint(&submission(GOOD)), fingerprint(&elsewhere(GOOD)));
}

#[test]
fn mistakes_of_the_source_are_told() {
    one(&job("path = \"in/\""), "P0085", "\"in/\"", "folder/*");
    one(&job("path = \"in/[a.json\""), "P0085", "\"in/[a.json\"", "pattern");
    one(&job("path = \"in/*\"\nformat = \"jsonl\"\neach = \"r\""), "P0085", "each", "json");
    one(&job("path = \"in/*\"\ndelimiter = \";\""), "P0085", "delimiter", "csv");
    one(&job("path = \"in/*\"\nformat = \"csv\"\ndelimiter = \"--\""), "P0014", "\"--\"", "one ASCII");
    one(&job("path = \"in/*\"\nwhen_bad = \"delete\""), "P0014", "\"delete\"", "move_to");
    one(&job("path = \"in/*\"\ntopic = \"orders\""), "P0011", "topic", "kafka");
    one(&job("path = \"in/*\"\nwhen_done = { move_to = \"in\" }"), "P0085", "\"in\"", "read again");
    // A file keeps its name, whatever the pattern says of names.
    for (path, to) in [("in/batch-*.json", "in"), ("in/one.json", "./in"), ("in/**/a*", "in"), ("in/*/a*", "in/done")] {
        let toml = job(&format!("path = \"{path}\"\nwhen_done = {{ move_to = \"{to}\" }}"));
        one(&toml, "P0085", &format!("\"{to}\""), "read again");
    }
    for (path, to) in [("in/**/a*", "done"), ("in/**/a*", "in/.done"), ("in/a*", "in/done"), ("in/*/a*", "in")] {
        source(&format!("path = \"{path}\"\nwhen_done = {{ move_to = \"{to}\" }}"));
    }
    let note = r#"note = { type = "string" }"#;
    let root = job("path = \"in/*\"").replace(note, r#"note = { type = "string", path = ["^a"] }"#);
    one(&root, "P0053", "\"^a\"", "each");
}

#[test]
fn a_path_of_the_root_is_another_place_than_the_same_path_of_the_record() {
    let note = r#"note = { type = "string" }"#;
    let toml =
        job("path = \"in/*\"\neach = \"r\"").replace(note, r#"note = { type = "string", path = ["^id", "note"] }"#);
    let job = good(&toml);
    let from: Vec<PathStart> = job.fields[5].paths.iter().map(|path| path.from).collect();
    assert_eq!(from, [PathStart::File, PathStart::Record]);
    assert_eq!(job.file_paths(), [["id".to_owned()].as_slice()]);
}

const FILES: &str =
    "[target.out]\ntype = \"files\"\npath = \"out\"\nroll = \"5s\"\n\n[[sink]]\nto = \"out\"\nformat = \"csv\"\n";

#[test]
fn a_files_target_has_sinks_and_dead_letters() {
    let job = good(&format!("{GOOD}\n{FILES}\n[dead_letter]\nto = \"out\"\n"));
    let TargetKind::Files { folder, roll } = &job.targets[1].kind else { panic!() };
    assert_eq!((folder.as_path(), *roll), (Path::new("/jobs/out"), Duration::from_secs(5)));
    assert!(matches!(job.sinks[1].to, SinkTo::Files(FileFormat::Csv)));
    assert!(job.is_marked(&job.sinks[1]), "a correction must be told from a row");
    assert!(!job.keeps_deletes(&job.sinks[1]), "nothing is ever deleted");
    assert_eq!(job.dead_letter, DeadLetterSpec { target: 1, to: DeadLettersTo::Files });
}

#[test]
fn each_format_of_files_is_planned_by_its_name() {
    for (format, name) in [("jsonl", "JSON lines"), ("csv", "CSV"), ("parquet", "Parquet")] {
        let job = good(&format!("{GOOD}\n{}", FILES.replace("csv", format)));
        let SinkTo::Files(found) = job.sinks[1].to else { panic!() };
        assert_eq!(found.extension(), format);
        assert_eq!(plan(&job).targets[1].writes, [format!("files of out from records: {name}")]);
    }
}

#[test]
fn mistakes_of_files_targets_are_told() {
    let twice = "[target.again]\ntype = \"files\"\npath = \"./out\"\n[[sink]]\nto = \"again\"\n";
    one(&format!("{GOOD}\n{FILES}\n{twice}"), "P0054", "again", "target `out`");
    one(&format!("{GOOD}\n{FILES}key = [\"id\"]\n"), "P0011", "key", "files");
    one(&format!("{GOOD}\n{}", FILES.replace("5s", "1ms")), "P0015", "\"1ms\"", "roll");
    let loops = format!("{}\n{FILES}", job("path = \"out/*.csv\"\nformat = \"csv\""));
    one(&loops, "P0085", "out", "read what it writes");
}

/// Files have the names that a target gives them, and the pattern may be about these.
#[test]
fn what_a_target_writes_is_no_input() {
    let letters = "[dead_letter]\nto = \"out\"\n";
    let with = |pattern: &str, more: &str| format!("{}\n{FILES}\n{more}", job(&format!("path = \"{pattern}\"")));
    for (pattern, more) in [
        ("out/orders-sink2-*.csv", ""),
        ("**/*-sink?-*", ""),
        ("out/orders-dead_letters-*.jsonl", letters),
        ("*/*.jsonl", letters),
    ] {
        one(&with(pattern, more), "P0085", "out", "read what it writes");
    }
    let parquet = with("out/*-sink2-*.parquet", "").replace("format = \"csv\"", "format = \"parquet\"");
    one(&parquet, "P0085", "out", "read what it writes");
    for (pattern, more) in [
        ("out/orders-sink1-*.csv", ""),
        ("out/*.jsonl", ""),
        ("out/sink*", ""),
        ("out/in/*", letters),
        ("out/others-*", letters),
    ] {
        good(&with(pattern, more));
    }
}
