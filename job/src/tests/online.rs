//! Findings of servers are shown where the file names what they are about.

use super::{GOOD, submission};
use crate::{Diagnostics, Finding, FindingKind, Place, located};

fn told(toml: &str, found: &[(Place, FindingKind)]) -> Diagnostics {
    let finding = |(place, kind): &(Place, FindingKind)| Finding {
        place: *place,
        kind: *kind,
        message: "not there".to_owned(),
        help: "make it".to_owned(),
    };
    let findings: Vec<Finding> = found.iter().map(finding).collect();
    located(&submission(toml), "job.toml", &findings).expect_err("findings are mistakes")
}

#[test]
fn each_finding_has_its_line() {
    let second = "[[sink]]\nto = \"db\"\ntable = \"other\"\nkey = [\"id\", \"at\"]\n[dead_letter]\nto = \"db\"\ntable = \"letters\"\n";
    let lookups = ["first", "second"].map(|name| {
        format!("[[lookup]]\nname = \"{name}\"\nin = \"db\"\nsql = \"select id from {name}\"\non = [\"id\"]\n")
    });
    let toml = format!("{GOOD}{second}{}", lookups.concat());
    let found = [
        (Place::Source { key: "topic" }, FindingKind::Topic),
        (Place::Source { key: "brokers" }, FindingKind::Unreachable),
        (Place::Target { index: 0, key: "url" }, FindingKind::Unreachable),
        (Place::Sink { index: 0, key: "table" }, FindingKind::Table),
        (Place::Sink { index: 1, key: "table" }, FindingKind::Table),
        (Place::DeadLetter { key: "table" }, FindingKind::Table),
        (Place::Lookup { index: 0, key: "sql" }, FindingKind::Lookup),
        (Place::Lookup { index: 1, key: "in" }, FindingKind::Unreachable),
        // A key that is not there: the section.
        (Place::Source { key: "on_change" }, FindingKind::Compacted),
    ];
    let mistakes = told(&toml, &found);
    let places: Vec<String> = mistakes
        .list
        .iter()
        .map(|d| format!("{} {} {}", d.code, d.line, &toml[d.offset..d.offset + d.length]))
        .collect();
    assert_eq!(
        places,
        [
            "P0102 5 source",
            "P0100 7 \"localhost:9092\"",
            "P0101 8 \"orders\"",
            "P0100 12 { env = \"DATABASE_URL\" }",
            "P0103 37 \"orders\"",
            "P0103 41 \"other\"",
            "P0103 45 \"letters\"",
            "P0081 49 \"select id from first\"",
            "P0100 53 \"db\"",
        ]
    );
    assert!(located(&submission(&toml), "job.toml", &[]).is_ok());
}

/// What the databases say of the columns of lookups is a mistake of the file like others, beside the findings.
#[test]
fn columns_that_do_not_fit_are_told_beside_the_findings() {
    let lookup = "[[lookup]]\nname = \"l\"\nin = \"db\"\nsql = \"select * from t\"\non = [\"qty\"]\n";
    let toml = super::with("total = \"qty * price\"", "total = \"qty * price\"\nlabel = \"l.label\"") + lookup;
    let mut submission = submission(&toml);
    let found = [Finding {
        place: Place::Lookup { index: 0, key: "in" },
        kind: FindingKind::Unreachable,
        message: String::new(),
        help: String::new(),
    }];
    for (types, expected) in [
        (vec![("qty", "int64"), ("label", "string")], vec!["P0100"]),
        (vec![("qty", "string"), ("label", "string")], vec!["P0100", "P0081"]),
        (vec![("qty", "int32"), ("label", "bytea")], vec!["P0100", "P0081"]),
    ] {
        let types = types.into_iter().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        submission.lookups.insert("l".to_owned(), types);
        let mistakes = located(&submission, "job.toml", &found).expect_err("findings are mistakes");
        let codes: Vec<String> = mistakes.list.iter().map(|d| d.code.to_string()).collect();
        assert_eq!(codes, expected);
    }
}

#[test]
fn nothing_secret_is_shown_around_a_finding() {
    let toml = super::with("url = { env = \"DATABASE_URL\" }", "url = \"postgres://app:hunter2@db/app\"");
    let shown = told(&toml, &[(Place::Target { index: 0, key: "url" }, FindingKind::Unreachable)]).render(false);
    assert!(shown.contains("P0100") && !shown.contains("hunter2"), "{shown}");
}

/// A file that changed meanwhile, or has fewer parts than the findings.
#[test]
fn a_place_that_is_not_there_is_the_start_of_the_file() {
    let mistakes = told(GOOD, &[(Place::Sink { index: 7, key: "table" }, FindingKind::Table)]);
    assert_eq!((mistakes.list[0].line, mistakes.list[0].offset), (1, 0));
}
