//! `[source]`.

use std::ops::Range;
use std::path::Path;

use secrecy::SecretString;

use super::aggregate::Aggregates;
use super::files;
use super::loops;
use super::name::Columns;
use super::sink::Sinks;
use super::time::Dedup;
use super::unknown_name;
use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;
use crate::secret::Origin;
use crate::spec::{
    ColumnIndex, KafkaSourceSpec, OnChange, OnDataLoss, SinkSpec, SinkTo, SourceSpec, StartPosition, WriteMode,
};

const FILES_KEYS: [&str; 8] = ["path", "format", "each", "header", "delimiter", "follow", "when_bad", "when_done"];
const KAFKA_KEYS: [&str; 9] =
    ["brokers", "topic", "start", "tombstone", "on_data_loss", "on_change", "tls", "sasl", "max_record"];
/// First parts of Kafka client properties that people know and might put here.
const PROPERTIES: [&str; 12] = [
    "enable",
    "auto",
    "isolation",
    "group",
    "group_id",
    "client",
    "fetch",
    "session",
    "bootstrap",
    "security",
    "properties",
    "options",
];
/// A message between TaskManagers holds up to 64 MiB, and a record may be in it twice: as text and as values.
const MAX_RECORD: u64 = 24 * 1024 * 1024;

pub(super) struct Source {
    pub(super) spec: SourceSpec,
    pub(super) tombstone: Option<Vec<ColumnIndex>>,
    pub(super) topic_span: Range<usize>,
    tombstone_span: Range<usize>,
    on_change_span: Range<usize>,
}

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, columns: &Columns, folder: &Path) -> Option<Source> {
    let entry = reader.required(root, "source")?;
    let section = reader.section("[source]", &entry)?;
    let kind = reader.required(&section, "type")?;
    match reader.choice(&kind, &[("kafka", true), ("files", false)])? {
        true => kafka(reader, &section, columns),
        false => {
            let spec = files::source(reader, &section, columns, folder);
            for entry in section.unknown().filter(|entry| KAFKA_KEYS.contains(&entry.key)) {
                let message = format!("`{}` belongs to sources of type kafka", entry.key);
                reader.error(code::WRONG_TABLE, &entry.key_span, message);
            }
            section.know(&KAFKA_KEYS);
            reader.no_others(&section);
            let nowhere = section.span.clone();
            Some(Source {
                spec: SourceSpec::Files(spec?),
                tombstone: None,
                topic_span: nowhere.clone(),
                tombstone_span: nowhere.clone(),
                on_change_span: nowhere,
            })
        }
    }
}

fn kafka(reader: &mut Reader<'_>, section: &Section<'_>, columns: &Columns) -> Option<Source> {
    let brokers = reader.required(section, "brokers").and_then(|entry| brokers(reader, &entry));
    let topic_entry = reader.required(section, "topic");
    let topic = topic_entry.as_ref().and_then(|entry| loops::topic(reader, entry));
    let start = section.take("start").map_or(Some(StartPosition::Earliest), |entry| start(reader, &entry));
    if let Some(format) = section.take("format") {
        let _ = reader.choice(&format, &[("json", ())]);
    }
    let tombstone_entry = section.take("tombstone");
    let tombstone = match &tombstone_entry {
        Some(entry) => tombstone(reader, entry, columns).map(Some),
        None => Some(None),
    };
    let on_data_loss = section.take("on_data_loss").map_or(Some(OnDataLoss::Fail), |entry| {
        reader.choice(&entry, &[("fail", OnDataLoss::Fail), ("skip", OnDataLoss::Skip)])
    });
    let on_change_entry = section.take("on_change");
    let on_change = on_change_entry.as_ref().map_or(Some(OnChange::Fail), |entry| {
        reader.choice(entry, &[("fail", OnChange::Fail), ("accept", OnChange::Accept)])
    });
    let security = security(reader, section);
    let max_record = section.take("max_record").map_or(Some(1024 * 1024), |entry| reader.size(&entry, 1..=MAX_RECORD));
    for entry in section.unknown() {
        let first = entry.key.split(['.', '-']).next().unwrap_or_default();
        if PROPERTIES.contains(&first) || entry.key.contains('.') {
            let message = format!("`{}`: Kafka client properties are not set in a job file", printable(entry.key));
            reader.error_help(
                code::KAFKA_PROPERTY,
                &entry.key_span,
                message,
                "Pulso assigns partitions, keeps positions and reads committed records only",
            );
        }
    }
    let files: Vec<&'static str> =
        PROPERTIES.into_iter().filter(|key| section.entries.iter().any(|entry| entry.key == *key)).collect();
    no_others(reader, section, &files);
    let tombstone = tombstone?;
    let spec = KafkaSourceSpec {
        brokers: brokers?,
        topic: topic?,
        start: start?,
        tombstone_key: tombstone.clone(),
        on_data_loss: on_data_loss?,
        on_change: on_change?,
        security: security?,
        max_record: max_record?,
    };
    let span = |entry: Option<Entry<'_>>| entry.map_or(section.span.clone(), |entry| entry.key_span);
    Some(Source {
        spec: SourceSpec::Kafka(spec),
        tombstone,
        topic_span: topic_entry.map_or(section.span.clone(), |entry| entry.span),
        tombstone_span: span(tombstone_entry),
        on_change_span: span(on_change_entry),
    })
}

/// Unknown keys, but those that were told apart already.
fn no_others(reader: &mut Reader<'_>, section: &Section<'_>, told: &[&'static str]) {
    let dotted = section.entries.iter().any(|entry| entry.key.contains('.'));
    if told.is_empty() && !dotted {
        for entry in section.unknown().filter(|entry| FILES_KEYS.contains(&entry.key)) {
            let message = format!("`{}` belongs to sources of type files", entry.key);
            reader.error(code::WRONG_TABLE, &entry.key_span, message);
        }
        section.know(&FILES_KEYS);
    }
    section.know(told);
    if !dotted {
        reader.no_others(section);
    }
}

pub(super) fn brokers(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let (text, _) = reader.secret(entry)?;
    let good = |broker: &str| {
        let (host, port) = broker.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
        (clean && port.parse::<u16>().is_ok_and(|port| port != 0)).then_some(())
    };
    let list: Vec<&str> = text.split(',').map(str::trim).collect();
    if list.iter().all(|broker| good(broker).is_some()) {
        return Some(list.join(","));
    }
    reader.error(code::BAD_ADDRESS, &entry.span, "brokers are host:port, several with commas between");
    None
}

pub(super) fn topic(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let topic = reader.string(entry)?;
    let letters = topic.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if letters && !topic.is_empty() && topic.len() <= 249 && topic != "." && topic != ".." {
        return Some(topic.to_owned());
    }
    let message = format!("`{}` is not the name of one topic", printable(topic));
    reader.error_help(
        code::BAD_NAME,
        &entry.span,
        message,
        "a topic's name has letters, digits, points, _ and -, at most 249",
    );
    None
}

fn start(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<StartPosition> {
    let text = match entry.value.as_datetime() {
        Some(time) => time.to_string(),
        None => reader.string(entry)?.to_owned(),
    };
    match text.as_str() {
        "earliest" => return Some(StartPosition::Earliest),
        "latest" => return Some(StartPosition::Latest),
        _ => {}
    }
    let time = text.parse::<jiff::Timestamp>();
    if time.is_err() {
        reader.error(
            code::BAD_TIME,
            &entry.span,
            "`start` is earliest, latest or a time with a zone: \"2026-01-31T12:00:00Z\"",
        );
    }
    time.ok().map(|time| StartPosition::At(time.as_microsecond()))
}

fn tombstone(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<Vec<ColumnIndex>> {
    let section = reader.section("tombstone", entry)?;
    let key = reader.required(&section, "key");
    reader.no_others(&section);
    let mut key_columns = Vec::new();
    let mut good = true;
    for (name, span) in reader.strings(&key?)? {
        // Only fields are known so far.
        let Some(index) = columns.index(name) else {
            good = false;
            if columns.is_derived(name) || columns.is_looked_up(name) {
                let problem = "a column that is derived or looked up is not in the record's key";
                reader.error(code::BAD_TOMBSTONE, &span, problem);
            } else if !columns.is_broken(name) {
                unknown_name(reader, &span, "column", name, columns.names());
            }
            continue;
        };
        let required = columns.field(index).is_some_and(|field| field.required);
        let problem = if required { columns.unfit_for_key(index) } else { Some("the field must be `required = true`") };
        if let Some(problem) = problem {
            reader.error(code::BAD_TOMBSTONE, &span, problem);
            good = false;
        }
        key_columns.push(index);
    }
    good.then_some(key_columns)
}

pub(super) fn security(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Vec<(String, SecretString)>> {
    let (tls, sasl) = (section.take("tls"), section.take("sasl"));
    let mut properties = Vec::new();
    let protocol = match (&tls, &sasl) {
        (None, None) => return Some(properties),
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    properties.push(("security.protocol".to_owned(), SecretString::from(protocol)));
    let mut good = true;
    if let Some(entry) = &tls {
        good &= tls_properties(reader, entry, &mut properties).is_some();
    }
    if let Some(entry) = &sasl {
        if tls.is_none() {
            reader.warn(
                code::UNPROTECTED,
                &entry.key_span,
                "the password goes to the brokers in the clear",
                "add `tls = {}` to use the system's certificates",
            );
        }
        good &= sasl_properties(reader, entry, &mut properties).is_some();
    }
    good.then_some(properties)
}

fn tls_properties(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    properties: &mut Vec<(String, SecretString)>,
) -> Option<()> {
    let section = reader.section("tls", entry)?;
    let mut good = Some(());
    for (key, property) in [("ca", "ssl.ca.pem"), ("cert", "ssl.certificate.pem"), ("key", "ssl.key.pem")] {
        let Some(entry) = section.take(key) else {
            continue;
        };
        match reader.secret(&entry) {
            Some((pem, _)) if pem.trim_start().starts_with("-----BEGIN ") => {
                properties.push((property.to_owned(), SecretString::from(pem)));
            }
            Some(_) => {
                reader.error_help(
                    code::BAD_SECRET,
                    &entry.span,
                    format!("`{key}` is not PEM text"),
                    "to read it from a file: { file = \"ca.pem\" }",
                );
                good = None;
            }
            None => good = None,
        }
    }
    if section.take("cert").is_some() != section.take("key").is_some() {
        reader.error(code::MISSING_KEY, &entry.key_span, "`cert` and `key` go together");
        good = None;
    }
    reader.no_others(&section);
    good
}

fn sasl_properties(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    properties: &mut Vec<(String, SecretString)>,
) -> Option<()> {
    let section = reader.section("sasl", entry)?;
    let mechanism = reader.required(&section, "mechanism").and_then(|entry| {
        let names = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(|name| (name, name));
        reader.choice(&entry, &names)
    });
    let username = reader.required(&section, "username").and_then(|entry| reader.secret(&entry));
    let password = reader.required(&section, "password").and_then(|entry| {
        let secret = reader.secret(&entry);
        if let Some((_, Origin::File)) = secret {
            reader.warn(
                code::LITERAL_SECRET,
                &entry.key_span,
                "a password stands in the file",
                "take it from the environment: { env = \"NAME\" }",
            );
        }
        secret
    });
    reader.no_others(&section);
    properties.push(("sasl.mechanism".to_owned(), SecretString::from(mechanism?)));
    properties.push(("sasl.username".to_owned(), SecretString::from(username?.0)));
    properties.push(("sasl.password".to_owned(), SecretString::from(password?.0)));
    Some(())
}

/// The tombstone key is the dedup key, where there is one.
pub(super) fn tombstone_fits(reader: &mut Reader<'_>, source: &Source, dedup: Option<&Dedup>) {
    let (Some(tombstone), Some(dedup)) = (&source.tombstone, dedup) else {
        return;
    };
    let same = tombstone.len() == dedup.key.len() && tombstone.iter().all(|column| dedup.key.contains(column));
    if !same {
        reader.error(
            code::BAD_TOMBSTONE,
            &source.tombstone_span,
            "the tombstone key must have the columns of the dedup key",
        );
    }
}

pub(super) fn on_change_fits(reader: &mut Reader<'_>, source: &Source, sinks: &Sinks, aggregates: &Aggregates) {
    let SourceSpec::Kafka(kafka) = &source.spec else { return };
    if kafka.on_change != OnChange::Accept {
        return;
    }
    let upserts = |sink: &SinkSpec| match &sink.to {
        SinkTo::Table(table) => matches!(table.write, WriteMode::Upsert { .. }),
        SinkTo::Topic(_) | SinkTo::Files(_) => false,
    };
    if !sinks.specs.as_ref().is_none_or(|specs| specs.iter().all(upserts)) {
        let message = "`on_change = \"accept\"` needs `write = \"upsert\"` in every sink";
        reader.error(code::ON_CHANGE, &source.on_change_span, message);
    }
    if !aggregates.is_empty() {
        let message =
            "`on_change = \"accept\"` does not go with an aggregate: it would count what a replay does not see";
        reader.error(code::ON_CHANGE, &source.on_change_span, message);
    }
}
