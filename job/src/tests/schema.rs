//! The JSON Schema against the checker: neither may know a key, a word or a default that the other does not.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::examples::FILES;
use super::submission;
use crate::schema::{Key, Kind, TOP, schema};
use crate::{Diagnostic, check, stand_ins};

/// Whole jobs with `@` where a key of one section may be added. A path names the section: `source:kafka`, `sink`.
const SECTIONS: [(&str, &str); 26] = [
    ("", "@"),
    ("source:kafka", "[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n@"),
    ("source:files", "[source]\ntype = \"files\"\npath = \"p\"\nformat = \"json\"\n@"),
    (
        "source:files/when_bad",
        "[source]\ntype = \"files\"\npath = \"p\"\nformat = \"json\"\n[source.when_bad]\nmove_to = \"b\"\n@",
    ),
    (
        "source:files/when_done",
        "[source]\ntype = \"files\"\npath = \"p\"\nformat = \"json\"\n[source.when_done]\nmove_to = \"b\"\n@",
    ),
    ("source:kafka/tls", "[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n[source.tls]\n@"),
    (
        "source:kafka/sasl",
        "[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n[source.sasl]\nmechanism = \"PLAIN\"\nusername = \"u\"\n\
         password = \"p\"\n@",
    ),
    (
        "source:kafka/tombstone",
        "[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n[source.tombstone]\nkey = [\"id\", \"at\"]\n@",
    ),
    ("target:postgres", "[target.db]\ntype = \"postgres\"\nurl = \"postgres://h/d\"\n@"),
    ("target:mysql", "[target.my]\ntype = \"mysql\"\nurl = \"mysql://u@h/d\"\n@"),
    ("target:kafka", "[target.bus]\ntype = \"kafka\"\nbrokers = \"b:1\"\n@"),
    ("target:files", "[target.out]\ntype = \"files\"\npath = \"p\"\n@"),
    ("fields", "[fields.note]\ntype = \"string\"\n@"),
    ("fields", "[fields.other_time]\ntype = \"timestamp\"\n@"),
    ("filter", "[filter]\nkeep = \"true\"\n@"),
    ("time", "[time]\nfield = \"at\"\n@"),
    ("dedup", "[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n@"),
    ("lookup", "[[lookup]]\nname = \"l\"\nin = \"db\"\nsql = \"select 1 as id\"\non = [\"id\"]\n@"),
    (
        "aggregate",
        "[[aggregate]]\nname = \"a\"\ngroup_by = [\"id\"]\nwindow = { size = \"1m\" }\n@\n[aggregate.columns]\nn = \"count(*)\"\n",
    ),
    (
        "aggregate/window",
        "[[aggregate]]\nname = \"a\"\ngroup_by = [\"id\"]\ncolumns = { n = \"count(*)\" }\n[aggregate.window]\nsize = \"1m\"\n@",
    ),
    ("sink", "[[sink]]\nto = \"db\"\ntable = \"s\"\nkey = [\"id\", \"at\"]\n@"),
    ("sink", "[[sink]]\nto = \"bus\"\ntopic = \"s\"\n@\n[target.bus]\ntype = \"kafka\"\nbrokers = \"b:1\"\n"),
    ("sink", "[[sink]]\nto = \"out\"\n@\n[target.out]\ntype = \"files\"\npath = \"p\"\n"),
    ("dead_letter", "[dead_letter]\nto = \"db\"\n@"),
    ("dead_letter", "[dead_letter]\nto = \"bus\"\n@\n[target.bus]\ntype = \"kafka\"\nbrokers = \"b:1\"\n"),
    ("panel", "[[panel]]\ntitle = \"t\"\nchart = \"table\"\nsql = \"select 1\"\n@"),
];

/// What every job needs beside the section.
const REST: [(&str, &str); 5] = [
    ("[source", "[source]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n"),
    ("[target.db]", "[target.db]\ntype = \"postgres\"\nurl = \"postgres://h/d\"\n"),
    ("[time]", "[time]\nfield = \"at\"\n"),
    ("[dedup]", "[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n"),
    ("[[sink]]", "[[sink]]\nto = \"db\"\ntable = \"t\"\nkey = [\"id\", \"at\"]\n"),
];

/// The whole file with a line in the place of `@`.
fn file(section: &str, line: &str) -> String {
    let (top, section) =
        if section == "@" { (line.to_owned(), String::new()) } else { (String::new(), section.replace('@', line)) };
    let rest: String = REST.iter().filter(|(sign, _)| !section.contains(sign)).map(|(_, text)| *text).collect();
    let fields =
        "[fields.id]\ntype = \"string\"\nrequired = true\n[fields.at]\ntype = \"timestamp\"\nrequired = true\n";
    format!("version = 1\nname = \"n\"\n{top}\n{section}\n{rest}{fields}")
}

fn mistakes(toml: &str) -> Vec<Diagnostic> {
    check(&submission(toml), "job.toml").err().map_or(Vec::new(), |mistakes| mistakes.list)
}

/// The keys of a section in the schema, its `type` among them.
#[expect(clippy::wildcard_enum_match_arm, reason = "what has keys is named")]
fn keys(path: &str) -> (&'static [Key], bool) {
    let (mut found, mut typed) = (TOP, false);
    for step in path.split('/').filter(|step| !step.is_empty()) {
        let (name, kind) = step.split_once(':').unwrap_or((step, ""));
        let mut value = found.iter().find(|key| key.name == name).unwrap().kind;
        if let Kind::Named(of) = value {
            value = *of;
        }
        (found, typed) = match value {
            Kind::Table(keys) | Kind::Tables(keys) => (keys, false),
            Kind::ByType(types) => (types.iter().find(|(name, _)| *name == kind).unwrap().1, true),
            Kind::Any(kinds) => {
                let table = kinds.iter().find_map(|kind| if let Kind::Table(keys) = kind { Some(*keys) } else { None });
                (table.unwrap(), false)
            }
            _ => panic!("{path} has no keys"),
        };
    }
    (found, typed)
}

fn every_name(keys: &[Key], names: &mut BTreeSet<String>) {
    for key in keys {
        names.insert(key.name.to_owned());
        every_name_in(key.kind, names);
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what has keys is named")]
fn every_name_in(kind: Kind, names: &mut BTreeSet<String>) {
    match kind {
        Kind::Table(keys) | Kind::Tables(keys) => every_name(keys, names),
        Kind::Named(kind) => every_name_in(*kind, names),
        Kind::ByType(types) => types.iter().for_each(|(_, keys)| every_name(keys, names)),
        Kind::Any(kinds) => kinds.iter().for_each(|kind| every_name_in(*kind, names)),
        _ => {}
    }
}

/// What stands in backticks behind `allowed:`.
fn allowed(mistakes: &[Diagnostic], code: &str) -> BTreeSet<String> {
    let helps = mistakes.iter().filter(|m| m.code.as_str() == code).filter_map(|m| m.help.as_deref());
    let lists = helps.filter_map(|help| help.split_once("allowed: "));
    lists.flat_map(|(_, list)| list.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Whether a line at this place is told to be no key of it.
fn is_refused(section: &str, key: &str) -> bool {
    let toml = file(section, &format!("{key} = 1"));
    mistakes(&toml).iter().any(|m| {
        ["P0010", "P0011", "P0025"].contains(&m.code.as_str()) && toml.get(m.offset..m.offset + m.length) == Some(key)
    })
}

fn starts(line: &str, key: &str) -> bool {
    line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" ="))
}

/// Whether the table around `@` has the key.
fn has(section: &str, key: &str) -> bool {
    let before = section.split('@').next().unwrap_or_default();
    before.lines().rev().take_while(|line| !line.starts_with('[')).any(|line| starts(line, key))
}

#[test]
fn both_know_the_same_keys() {
    let mut names = BTreeSet::new();
    every_name(TOP, &mut names);
    let mut read = BTreeSet::new();
    for (path, section) in SECTIONS {
        let mistakes = mistakes(&file(section, "zzzzzz = 1"));
        let told = allowed(&mistakes, "P0010");
        assert!(!told.is_empty(), "{path}: an unknown key is not told with those that are known");
        read.extend((!told.is_empty()).then_some(path));
        names.extend(told);
    }
    assert!(read.len() > 15, "{read:?}");
    for path in read {
        let (keys, typed) = keys(path);
        let of_schema: BTreeSet<&str> = keys.iter().map(|key| key.name).chain(typed.then_some("type")).collect();
        let known = |name: &&str| {
            let mut sections = SECTIONS.iter().filter(|(other, _)| *other == path);
            sections.any(|(_, section)| is_there(path, section, name) || !is_refused(section, name))
        };
        let of_checker: BTreeSet<&str> = names.iter().map(String::as_str).filter(known).collect();
        assert_eq!(of_schema, of_checker, "{path}");
    }
}

/// Whether the file has the key already, so that it cannot be added.
fn is_there(path: &str, section: &str, key: &str) -> bool {
    let whole = file("@", "");
    let top = whole.lines().take_while(|line| !line.starts_with('['));
    let tables = whole.lines().filter_map(|line| line.strip_prefix('[')).map(|line| line.trim_matches(['[', ']']));
    let mut tables = tables.filter_map(|name| name.split('.').next());
    if path.is_empty() {
        top.into_iter().any(|line| starts(line, key)) || tables.any(|name| name == key)
    } else {
        has(section, key)
    }
}

#[test]
fn both_know_the_same_words() {
    let mut compared = 0;
    for (path, section) in SECTIONS {
        for key in keys(path).0 {
            let Kind::Choice(words) = key.kind else { continue };
            // A key that stands in the section already changes its value.
            let line = format!("{} = \"zzzzzz\"", key.name);
            let without: String = section.lines().filter(|l| !starts(l, key.name)).map(|l| format!("{l}\n")).collect();
            let told = allowed(&mistakes(&file(without.trim_end(), &line)), "P0014");
            // Sections that another kind of target has, or that a later version brings, are not read.
            if told.is_empty() {
                continue;
            }
            assert_eq!(told, words.iter().map(|word| (*word).to_owned()).collect(), "{path} {}", key.name);
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} keys could be compared");
}

#[test]
fn both_know_the_same_defaults() {
    let mut compared = 0;
    for (path, section) in SECTIONS {
        let Ok((job, _)) = check(&submission(&file(section, "")), "job.toml") else { continue };
        for key in keys(path).0 {
            let Some(default) = key.default.filter(|_| !has(section, key.name)) else { continue };
            let json = serde_json::from_str(default).unwrap_or_else(|_| Value::from(default));
            let Ok((same, _)) = check(&submission(&file(section, &format!("{} = {json}", key.name))), "job.toml")
            else {
                continue;
            };
            assert_eq!(format!("{job:?}"), format!("{same:?}"), "{path} {} = {json}", key.name);
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} defaults could be compared");
}

/// What is wrong with a value by a schema; just the words of JSON Schema that ours uses.
fn problems(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let mut fail = |what: &str| found.push(format!("{at}: {what}: {value}"));
    let number = |key: &str| schema[key].as_f64();
    for (word, rule) in schema.as_object().unwrap() {
        let good = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "properties" | "patternProperties" | "items" => true,
            "additionalProperties" | "required" | "oneOf" | "anyOf" => true,
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => match rule.as_str().unwrap() {
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                other => panic!("type {other}"),
            },
            "pattern" => value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
            "minimum" => value.as_f64().is_none_or(|value| Some(value) >= number("minimum")),
            "maximum" => value.as_f64().is_none_or(|value| Some(value) <= number("maximum")),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap()),
            "uniqueItems" => value.as_array().is_none_or(|list| (1..list.len()).all(|i| !list[..i].contains(&list[i]))),
            other => panic!("the schema has a word that this test does not know: {other}"),
        };
        if !good {
            fail(word);
        }
    }
    let holds = |schema: &Value| {
        let mut problems_of_it = Vec::new();
        problems(schema, value, at, &mut problems_of_it);
        problems_of_it.is_empty()
    };
    if schema["anyOf"].as_array().is_some_and(|kinds| !kinds.iter().any(holds)) {
        fail("anyOf");
    }
    if schema["oneOf"].as_array().is_some_and(|kinds| kinds.iter().filter(|kind| holds(kind)).count() != 1) {
        fail("oneOf");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.as_object().is_some_and(|object| !object.contains_key(name.as_str().unwrap())) {
            fail(&format!("{name} is missing"));
        }
    }
    for (at_item, item) in value.as_array().into_iter().flatten().enumerate() {
        problems(&schema["items"], item, &format!("{at}[{at_item}]"), found);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        let matching = |(pattern, _): &(&String, &Value)| Regex::new(pattern).unwrap().is_match(name);
        let by_pattern = schema["patternProperties"].as_object().and_then(|all| all.iter().find(matching));
        match schema["properties"].get(name).or(by_pattern.map(|(_, schema)| schema)) {
            Some(schema) => problems(schema, value, &at, found),
            None if schema["additionalProperties"] == false => found.push(format!("{at}: unknown")),
            None => {}
        }
    }
}

fn of_file(toml: &str) -> Vec<String> {
    let value: Value = toml::from_str(toml).unwrap();
    let mut found = Vec::new();
    problems(&schema(), &value, "", &mut found);
    found
}

#[test]
fn the_jobs_are_good_by_the_schema() {
    for (name, toml) in FILES {
        assert_eq!(of_file(toml), [] as [String; 0], "{name}");
    }
}

#[test]
fn what_the_schema_can_see_it_refuses() {
    let good = FILES[1].1;
    let wrong = [
        ("version = 1", "version = 2"),
        ("name = \"health-vitals\"", "name = \"Health\""),
        ("topic = \"health-data\"\n", "topik = \"health-data\"\n"),
        ("topic = \"health-data\"\n", ""),
        ("start = \"earliest\"", "start = \"first\""),
        ("type = \"postgres\"", "type = \"oracle\""),
        ("url = { env = \"DATABASE_URL\" }", "url = { env = \"DATABASE_URL\", file = \"x\" }"),
        ("type = \"float64\",   min = 10", "type = \"float\",   min = 10"),
        ("max_bytes = \"64KiB\"", "max_bytes = 64"),
        ("lateness = \"5m\"", "lateness = \"5 min\""),
        ("lateness = \"5m\"", "lateness = \"\""),
        ("keep_for = \"24h\"", "keep_for = \"10m24h\""),
        ("emit = \"change\"", "emit = \"always\""),
        ("write = \"upsert\"", "write = \"insert\""),
        ("table = \"health_records\"", "table = \"a.b.c\""),
        ("chart = \"line\"", "chart = \"lines\""),
    ];
    for (from, to) in wrong {
        assert!(good.contains(from), "{from}");
        assert!(!of_file(&good.replacen(from, to, 1)).is_empty(), "{to}");
    }
    assert!(
        check(
            &crate::Submission {
                toml: good.to_owned(),
                environment: stand_ins(good),
                folder: "/jobs".to_owned(),
                ..crate::Submission::default()
            },
            ""
        )
        .is_ok()
    );
}

/// Editors read the file; `healthctl schema` prints it.
#[test]
fn the_file_is_the_schema() {
    let file: Value = serde_json::from_str(include_str!("../../../jobs/job.schema.json")).unwrap();
    assert!(file == schema(), "write it anew: healthctl schema > jobs/job.schema.json");
}
