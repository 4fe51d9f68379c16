//! `[target.NAME]` and `[dead_letter]`.

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::sink::Sinks;
use super::source::{self, Source};
use super::{MAX_TABLES, field, files, loops, unknown_name};
use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;
use crate::secret::Origin;
use crate::spec::{DeadLetterSpec, DeadLettersTo, SourceSpec, TargetIndex, TargetKind, TargetSpec};

pub(super) struct Targets {
    list: Vec<Target>,
    /// A reference found nothing: perhaps it meant one that is unused now.
    dangling: Cell<bool>,
    /// Brokers and topic that the job reads, where it reads one.
    pub(super) input: Option<(String, String)>,
}

struct Target {
    name: String,
    span: Range<usize>,
    state: State,
    used: Cell<bool>,
}

enum State {
    Good(TargetKind),
    /// Its mistakes are reported.
    Broken,
}

/// They name their tables differently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Database {
    Postgres,
    MySql,
}

/// What a reference to a target finds.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Database(TargetIndex, Database),
    Kafka(TargetIndex),
    Files(TargetIndex),
    /// Broken or unknown: reported.
    Nothing,
}

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, folder: &Path, source: Option<&Source>) -> Targets {
    let input = source.and_then(|source| match &source.spec {
        SourceSpec::Kafka(kafka) => Some((kafka.brokers.clone(), kafka.topic.clone())),
        SourceSpec::Files(_) => None,
    });
    let mut targets = Targets { list: Vec::new(), dangling: Cell::new(false), input };
    let Some(entry) = reader.required(root, "target") else {
        return targets;
    };
    let Some(section) = reader.section("[target]", &entry) else {
        return targets;
    };
    if section.entries.is_empty() || section.entries.len() > MAX_TABLES {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("a job has 1 to {MAX_TABLES} targets"));
        return targets;
    }
    for entry in &section.entries {
        if entry.value.as_table().is_none() {
            reader.error_help(
                code::WRONG_TYPE,
                &entry.key_span,
                format!("`{}` stands in [target] itself", printable(entry.key)),
                "each target has a name: [target.db]",
            );
            continue;
        }
        let named = reader.check_name("a target", entry.key, &entry.key_span);
        let state = target(reader, entry, folder).filter(|_| named).unwrap_or(State::Broken);
        targets.list.push(Target {
            name: entry.key.to_owned(),
            span: entry.key_span.clone(),
            state,
            used: Cell::new(false),
        });
    }
    targets.no_database_twice(reader);
    targets.no_folder_twice(reader);
    targets
}

fn target(reader: &mut Reader<'_>, entry: &Entry<'_>, folder: &Path) -> Option<State> {
    let section = reader.section(format!("[target.{}]", printable(entry.key)), entry)?;
    let kind = reader.required(&section, "type")?;
    match reader.choice(&kind, &[("postgres", 0), ("mysql", 1), ("kafka", 2), ("files", 3)])? {
        0 => database(reader, &section, Database::Postgres),
        1 => database(reader, &section, Database::MySql),
        2 => kafka(reader, &section),
        _ => files_target(reader, &section, folder),
    }
}

fn database(reader: &mut Reader<'_>, section: &Section<'_>, database: Database) -> Option<State> {
    let url = reader.required(section, "url").and_then(|entry| url(reader, &entry, database));
    let max_refused = section.take("max_refused").map_or(Some(0.1), |entry| share(reader, &entry));
    let zone = section.take("zone").map_or(Some("UTC".to_owned()), |entry| field::zone_name(reader, &entry));
    reader.no_others(section);
    let (url, zone, max_refused) = (url?, zone?, max_refused?);
    Some(State::Good(match database {
        Database::Postgres => TargetKind::Postgres { url, zone, max_refused },
        Database::MySql => TargetKind::MySql { url, zone, max_refused },
    }))
}

fn kafka(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<State> {
    let brokers = reader.required(section, "brokers").and_then(|entry| source::brokers(reader, &entry));
    let security = source::security(reader, section);
    reader.no_others(section);
    Some(State::Good(TargetKind::Kafka { brokers: brokers?, security: security? }))
}

fn files_target(reader: &mut Reader<'_>, section: &Section<'_>, folder: &Path) -> Option<State> {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(86_400);
    let path = reader.required(section, "path").and_then(|entry| files::folder(reader, &entry, folder));
    let minute = Some(Duration::from_secs(60));
    let roll = section.take("roll").map_or(minute, |entry| reader.duration(&entry, LEAST..=MOST));
    reader.no_others(section);
    Some(State::Good(TargetKind::Files { folder: path?, roll: roll? }))
}

fn url(reader: &mut Reader<'_>, entry: &Entry<'_>, database: Database) -> Option<SecretString> {
    let (text, origin) = reader.secret(entry)?;
    let rest = match database {
        Database::Postgres => text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")),
        Database::MySql => text.strip_prefix("mysql://"),
    };
    let parts = rest.map(|rest| {
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = address.split_once('/').unwrap_or((address, ""));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let whole = match database {
            Database::Postgres => !host.is_empty() || query.contains("host="),
            Database::MySql => !user.is_empty() && !host.is_empty() && !name.is_empty() && !name.contains('/'),
        };
        (user.contains(':'), whole)
    });
    match parts {
        Some((password, true)) if !text.contains(char::is_whitespace) => {
            if password && origin == Origin::File {
                reader.warn(
                    code::LITERAL_SECRET,
                    &entry.key_span,
                    "a password stands in the file",
                    "take the address from the environment: { env = \"DATABASE_URL\" }",
                );
            }
            Some(SecretString::from(text))
        }
        _ => {
            let scheme = match database {
                Database::Postgres => "postgres",
                Database::MySql => "mysql",
            };
            let message = format!("the address must be {scheme}://user:password@host:port/database");
            reader.error(code::BAD_ADDRESS, &entry.span, message);
            None
        }
    }
}

fn share(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<f64> {
    let text = entry.value.as_float().map(|number| number.as_str());
    let text = text.or_else(|| entry.value.as_integer().map(|number| number.as_str()));
    let Some(text) = text else {
        reader.wrong_type(entry, "a number from 0 to 1");
        return None;
    };
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    if share.is_none() {
        reader.error(code::OUT_OF_RANGE, &entry.span, format!("`{}` is a share: 0 to 1", entry.key));
    }
    share
}

impl Target {
    fn folder(&self) -> Option<&Path> {
        match &self.state {
            State::Good(TargetKind::Files { folder, .. }) => Some(folder),
            State::Good(TargetKind::Postgres { .. } | TargetKind::MySql { .. } | TargetKind::Kafka { .. })
            | State::Broken => None,
        }
    }

    fn brokers(&self) -> Option<&str> {
        match &self.state {
            State::Good(TargetKind::Kafka { brokers, .. }) => Some(brokers),
            State::Good(TargetKind::Postgres { .. } | TargetKind::MySql { .. } | TargetKind::Files { .. })
            | State::Broken => None,
        }
    }
}

impl Targets {
    /// All tables of one database must be one target, since they are written in one transaction.
    fn no_database_twice(&self, reader: &mut Reader<'_>) {
        let url = |target: &Target| match &target.state {
            State::Good(TargetKind::Postgres { url, .. } | TargetKind::MySql { url, .. }) => {
                Some(url.expose_secret().to_owned())
            }
            State::Good(TargetKind::Kafka { .. } | TargetKind::Files { .. }) | State::Broken => None,
        };
        for (index, target) in self.list.iter().enumerate() {
            let same = |other: &&Target| url(other).is_some() && url(other) == url(target);
            if let Some(other) = self.list[..index].iter().find(same) {
                let message = format!("this is the database of the target `{}`", other.name);
                reader.error_help(
                    code::DUPLICATE_NAME,
                    &target.span,
                    message,
                    "all tables of one database are one target",
                );
            }
        }
    }

    /// Writers of two targets would not know of each other's files.
    fn no_folder_twice(&self, reader: &mut Reader<'_>) {
        for (index, target) in self.list.iter().enumerate() {
            let same = |other: &&Target| other.folder().is_some() && other.folder() == target.folder();
            if let Some(other) = self.list[..index].iter().find(same) {
                let message = format!("this is the folder of the target `{}`", other.name);
                let help = "one target can be named by several sinks";
                reader.error_help(code::DUPLICATE_NAME, &target.span, message, help);
            }
        }
    }

    /// Folders that sinks or dead letters may write files to, with the places of their targets.
    pub(super) fn folders(&self) -> impl Iterator<Item = (TargetIndex, &Path, &Range<usize>)> {
        self.list.iter().enumerate().filter_map(|(index, target)| Some((index, target.folder()?, &target.span)))
    }

    /// Of a Kafka target.
    pub(super) fn brokers(&self, target: TargetIndex) -> Option<&str> {
        self.list.get(target)?.brokers()
    }

    /// The brokers of each Kafka target.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(Target::brokers)
    }

    pub(super) fn find(&self, reader: &mut Reader<'_>, entry: &Entry<'_>) -> Found {
        let Some(name) = reader.string(entry) else {
            return Found::Nothing;
        };
        let Some(index) = self.list.iter().position(|target| target.name == name) else {
            self.dangling.set(true);
            unknown_name(reader, &entry.span, "target", name, self.list.iter().map(|target| target.name.as_str()));
            return Found::Nothing;
        };
        self.list[index].used.set(true);
        match &self.list[index].state {
            State::Good(TargetKind::Postgres { .. }) => Found::Database(index, Database::Postgres),
            State::Good(TargetKind::MySql { .. }) => Found::Database(index, Database::MySql),
            State::Good(TargetKind::Kafka { .. }) => Found::Kafka(index),
            State::Good(TargetKind::Files { .. }) => Found::Files(index),
            State::Broken => Found::Nothing,
        }
    }

    /// Where dead letters and panels go by default. Broken targets could have been it.
    pub(super) fn first_database(&self) -> Option<(TargetIndex, Database)> {
        self.list.iter().enumerate().find_map(|(index, target)| match target.state {
            State::Good(TargetKind::Postgres { .. }) => Some((index, Database::Postgres)),
            State::Good(TargetKind::MySql { .. }) => Some((index, Database::MySql)),
            State::Good(TargetKind::Kafka { .. } | TargetKind::Files { .. }) | State::Broken => None,
        })
    }

    fn all_are_good(&self) -> bool {
        self.list.iter().all(|target| matches!(target.state, State::Good(_)))
    }

    pub(super) fn warn_unused(&self, reader: &mut Reader<'_>, root: &Section<'_>) {
        if root.take("sink").is_none() || self.dangling.get() {
            return;
        }
        for target in self.list.iter().filter(|target| !target.used.get() && matches!(target.state, State::Good(_))) {
            reader.warn(
                code::UNUSED,
                &target.span,
                format!("nothing is written to the target `{}`", target.name),
                "is a [[sink]] missing?",
            );
        }
    }

    /// None if one is broken.
    pub(super) fn into_specs(self) -> Option<Vec<TargetSpec>> {
        self.list
            .into_iter()
            .map(|target| match target.state {
                State::Good(kind) => Some(TargetSpec { name: target.name, kind }),
                State::Broken => None,
            })
            .collect()
    }
}

impl Database {
    /// Of a table that names none: empty is the database of the URL.
    fn default_schema(self) -> &'static str {
        match self {
            Self::Postgres => "public",
            Self::MySql => "",
        }
    }

    fn default_letters(self) -> (String, String) {
        match self {
            Self::Postgres => ("pulso".to_owned(), "dead_letters".to_owned()),
            Self::MySql => (String::new(), "pulso_dead_letters".to_owned()),
        }
    }

    /// Why a sink must not write to this table.
    pub(super) fn forbids(self, (schema, name): &(String, String)) -> Option<String> {
        let foreign: &[&str] = match self {
            Self::Postgres => &["pulso", "information_schema"],
            Self::MySql => &["mysql", "information_schema", "performance_schema", "sys"],
        };
        if foreign.contains(&schema.as_str()) || self == Self::Postgres && schema.starts_with("pg_") {
            return Some(format!("the schema `{schema}` is not for tables of a job"));
        }
        let own = self == Self::MySql && name.starts_with("pulso_");
        own.then(|| format!("`{name}`: tables whose names begin with pulso_ are Pulso's own"))
    }
}

/// `name` or `schema.name`.
pub(super) fn table(reader: &mut Reader<'_>, entry: &Entry<'_>, database: Database) -> Option<(String, String)> {
    let text = reader.string(entry)?;
    let (schema, name) = match text.split_once('.') {
        Some((schema, name)) => (schema, name),
        None => (database.default_schema(), text),
    };
    let named = schema == database.default_schema() || reader.check_name("a schema", schema, &entry.span);
    if !reader.check_name("a table", name, &entry.span) || !named {
        return None;
    }
    Some((schema.to_owned(), name.to_owned()))
}

pub(super) fn dead_letter(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    targets: &Targets,
    sinks: &Sinks,
) -> Option<DeadLetterSpec> {
    let Some(entry) = root.take("dead_letter") else {
        let first = targets.first_database().filter(|_| targets.all_are_good());
        if first.is_none() && targets.all_are_good() && !targets.list.is_empty() {
            let help = "records that do not pass must go somewhere: [dead_letter] with `to`";
            reader.error_help(
                code::MISSING_KEY,
                &root.span,
                "[dead_letter] is missing: there is no database target",
                help,
            );
        }
        return first
            .map(|(target, database)| DeadLetterSpec { target, to: DeadLettersTo::Table(database.default_letters()) });
    };
    let section = reader.section("[dead_letter]", &entry)?;
    let to = reader.required(&section, "to");
    let spec = match to.as_ref().map_or(Found::Nothing, |to| targets.find(reader, to)) {
        Found::Database(target, database) => {
            let table_entry = section.take("table");
            let table = match &table_entry {
                Some(entry) => table(reader, entry, database),
                None => Some(database.default_letters()),
            };
            let span = table_entry.map_or(entry.key_span, |entry| entry.span);
            table.and_then(|table| {
                if sinks.tables.contains(&(target, table.clone())) {
                    reader.error(code::SINK_TABLE, &span, "a sink writes to the table of the dead letters");
                    return None;
                }
                Some(DeadLetterSpec { target, to: DeadLettersTo::Table(table) })
            })
        }
        Found::Kafka(target) => {
            let topic = reader.required(&section, "topic");
            let topic = topic.and_then(|entry| loops::written_topic(reader, &entry, targets, target));
            topic.map(|topic| DeadLetterSpec { target, to: DeadLettersTo::Topic(topic) })
        }
        Found::Files(target) => Some(DeadLetterSpec { target, to: DeadLettersTo::Files }),
        Found::Nothing => {
            section.know(&["topic", "table"]);
            None
        }
    };
    reader.no_others(&section);
    spec
}
