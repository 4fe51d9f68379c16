//! docker-compose.yml: what it runs is what the programs know, and nothing in it is left to chance.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMPOSE: &str = include_str!("../../docker-compose.yml");
const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");
const PROGRAMS: [&str; 3] = ["jobmanager", "taskmanager", "healthctl"];

/// Name and lines of each service. The file keeps to two blanks a level.
fn services() -> BTreeMap<&'static str, Vec<&'static str>> {
    let section = COMPOSE.split("\nservices:\n").nth(1).unwrap().split("\nvolumes:\n").next().unwrap();
    let mut services: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in section.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.strip_prefix("  ").filter(|line| !line.starts_with(' ')).and_then(|line| line.strip_suffix(':')) {
            Some(service) => name = service,
            None => services.entry(name).or_default().push(line),
        }
    }
    services
}

/// The words of `command:`, as a list in one line or in several.
fn command(lines: &[&str]) -> Vec<String> {
    let Some(at) = lines.iter().position(|line| line.starts_with("    command:")) else { return Vec::new() };
    let inline = lines[at].trim_start().trim_start_matches("command:").trim();
    if !inline.is_empty() {
        return serde_json::from_str(inline).unwrap();
    }
    let items = lines[at + 1..].iter().map_while(|line| line.strip_prefix("      - "));
    items.map(with_defaults).collect()
}

/// `${NAME:-default}` as it is where the variable is not set.
fn with_defaults(text: &str) -> String {
    match text.split_once("${") {
        None => text.to_owned(),
        Some((before, rest)) => {
            let (variable, after) = rest.split_once('}').unwrap();
            let default = variable.split_once(":-").unwrap().1;
            format!("{before}{default}{}", with_defaults(after))
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_healthctl")).with_file_name(name);
    assert!(path.exists(), "{} is missing: has the workspace been built?", path.display());
    path
}

/// Flags and their values are read in their order, so that help is only shown where those before it are right.
fn understands(words: &[String]) -> Result<String, String> {
    let done = Command::new(program(&words[0])).args(&words[1..]).arg("--help").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

#[test]
fn every_command_is_one_that_the_programs_understand() {
    let mut seen = Vec::new();
    for (service, lines) in services() {
        let words = command(&lines);
        if words.first().is_some_and(|word| PROGRAMS.contains(&word.as_str())) {
            understands(&words).unwrap_or_else(|error| panic!("{service}: {error}"));
            seen.push(service);
        }
    }
    assert_eq!(seen, ["generator", "jobmanager", "submit", "taskmanager-1", "taskmanager-2"]);
    let wrong = |words: &[&str]| understands(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).is_err();
    assert!(wrong(&["jobmanager", "--no-such-flag"]) && wrong(&["taskmanager", "--memory=much"]));
}

#[test]
fn every_variable_is_one_that_the_programs_read() {
    let help: String = PROGRAMS.iter().map(|name| understands(&[(*name).to_owned()]).unwrap()).collect();
    let names = COMPOSE.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name);
    let ours: Vec<&str> = names.filter(|name| name.starts_with("PULSO_")).collect();
    assert!(!ours.is_empty());
    assert!(ours.iter().all(|name| help.contains(&format!("[env: {name}="))), "{ours:?}");
}

#[test]
fn every_service_says_how_it_is_well_and_what_ends_it() {
    for (service, lines) in services() {
        let has = |key: &str| lines.iter().any(|line| line.trim_start().starts_with(key));
        // Those that run once tell by their exit code.
        if !has("restart: on-failure") {
            assert!(has("healthcheck:"), "{service}");
            assert!(has("restart: unless-stopped") || has("<<: *taskmanager"), "{service}");
            assert!(has("stop_grace_period:") || has("<<: *taskmanager"), "{service}");
        }
        assert!(has("user:") || has("<<: *pulso") || has("<<: *taskmanager"), "{service} may run as root");
    }
    assert!(DOCKERFILE.lines().any(|line| line == "USER pulso"));
}

#[test]
fn every_image_has_a_version() {
    let named = COMPOSE.lines().chain(DOCKERFILE.lines()).map(str::trim);
    let images: Vec<&str> = named
        .filter_map(|line| line.strip_prefix("image: ").or_else(|| line.strip_prefix("FROM ")))
        .map(|image| image.split(' ').next().unwrap())
        .collect();
    assert_eq!(images.len(), 6, "{images:?}");
    for image in images {
        let version = image.split_once(':').map_or("", |(_, tag)| tag);
        assert!(version.matches('.').count() >= 1 && version.starts_with(|c: char| c.is_ascii_digit()), "{image}");
    }
    let toolchain = include_str!("../../rust-toolchain.toml");
    let built_with = DOCKERFILE.split("FROM rust:").nth(1).unwrap().split('-').next().unwrap();
    assert!(toolchain.contains(&format!("\"{built_with}\"")), "the image builds with another Rust than everybody");
    assert!(DOCKERFILE.contains(&format!("RUSTUP_TOOLCHAIN={built_with}")));
}

#[test]
fn what_is_submitted_is_there() {
    let submit = command(&services()["submit"]);
    let job = submit.last().unwrap().strip_prefix("/jobs/").unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs").join(job)).unwrap();
    for topic in ["health-data", "health-data-dlq"] {
        assert!(text.contains(&format!("topic = \"{topic}\"")) && COMPOSE.contains(topic), "{topic}");
    }
}
