//! What `submit` sends: the text of the file, and the values that it takes from elsewhere.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};
use xxhash_rust::xxh3::Xxh3Default;

use crate::code;
use crate::diagnostic::Diagnostics;
use crate::document::Section;
use crate::reader::Reader;
use crate::secret::is_variable;

/// Longest job file.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// A job file with the values of every `{ env = }` it names and, under `file:<path>`, of every `{ file = }`.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Submission {
    pub toml: String,
    /// Secrets: never logged or shown.
    pub environment: BTreeMap<String, String>,
    /// Absolute path of the folder that the file stands in: where its relative paths start. Empty where nobody knows.
    #[serde(default)]
    pub folder: String,
    /// What the databases say of the columns of each `[[lookup]]`, once they were asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lookups: LookupTypes,
    /// What a changed file takes over from the one that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// What a job keeps however often its file changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    pub key_groups: u16,
    /// By `dedup` or `aggregate NAME`; a piece of state that begins anew has a number that none had before.
    pub states: BTreeMap<String, StateId>,
    /// The next number.
    pub next: StateId,
}

/// Number of a piece of state in the stores of a job.
pub type StateId = u16;

/// By the name of the lookup: columns of its query and their types, as `[fields]` calls them.
pub type LookupTypes = BTreeMap<String, Vec<(String, String)>>;

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.environment.keys().collect();
        f.debug_struct("Submission")
            .field("bytes", &self.toml.len())
            .field("environment", &names)
            .finish_non_exhaustive()
    }
}

/// The text of a file's bytes, within the limit of size.
pub fn decode(bytes: &[u8], file_name: &str) -> Result<String, Diagnostics> {
    let fail = |text: &str, code, offset: usize, message: String| {
        let environment = BTreeMap::new();
        let mut reader = Reader::new(text, &environment);
        reader.error(code, &(offset..offset), message);
        reader.finish(file_name).err()
    };
    let failed = if bytes.len() > MAX_FILE_BYTES {
        fail(
            "",
            code::TOO_LARGE,
            0,
            format!("the file has {} bytes, at most {MAX_FILE_BYTES} are allowed", bytes.len()),
        )
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(text.to_owned()),
            Err(error) => {
                let (good, _) = bytes.split_at(error.valid_up_to());
                let text = String::from_utf8_lossy(good);
                fail(&text, code::NOT_UTF8, text.len(), "the file is not UTF-8 from here on".to_owned())
            }
        }
    };
    match failed {
        Some(diagnostics) => Err(diagnostics),
        None => Ok(String::new()),
    }
}

/// The values that a file names: variables by `lookup`, files by `read_file` (path as written). What does not exist is
/// left out; [`crate::check`] then tells. A file that is not TOML names nothing.
pub fn collect_environment(
    toml: &str,
    lookup: impl Fn(&str) -> Option<String>,
    read_file: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    if toml.len() > MAX_FILE_BYTES {
        return environment;
    }
    let (document, _) = DeTable::parse_recoverable(toml);
    for section in ["source", "target"] {
        if let Some(value) = document.get_ref().get(section) {
            collect(value.get_ref(), &lookup, &read_file, &mut environment);
        }
    }
    environment
}

fn collect(
    value: &DeValue<'_>,
    lookup: &impl Fn(&str) -> Option<String>,
    read_file: &impl Fn(&str) -> Option<String>,
    environment: &mut BTreeMap<String, String>,
) {
    let Some(table) = value.as_table() else {
        return;
    };
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    if let Some(name) = text("env").filter(|name| is_variable(name)) {
        environment.extend(lookup(name).map(|value| (name.to_owned(), value)));
    }
    if let Some(path) = text("file") {
        environment.extend(read_file(path).map(|content| (format!("file:{path}"), content)));
    }
    for (_, value) in table {
        collect(value.get_ref(), lookup, read_file, environment);
    }
}

/// Something fitting in the place of every secret of a file, for who checks or tries a job without its servers. A file that
/// is not TOML names nothing.
pub fn stand_ins(toml: &str) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    if toml.len() > MAX_FILE_BYTES {
        return environment;
    }
    let (document, _) = DeTable::parse_recoverable(toml);
    for section in ["source", "target"] {
        if let Some(value) = document.get_ref().get(section) {
            stand_in(section, "", value.get_ref(), &mut environment);
        }
    }
    environment
}

/// `kind`: the `type` of the table around `value`, which is that of `key`.
fn stand_in(key: &str, kind: &str, value: &DeValue<'_>, environment: &mut BTreeMap<String, String>) {
    let Some(table) = value.as_table() else { return };
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let variable = text("env").filter(|name| is_variable(name)).map(str::to_owned);
    if let Some(name) = variable.or_else(|| text("file").map(|path| format!("file:{path}"))) {
        // Targets of one address are refused, so each name is another host.
        let host = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let value = match key {
            "brokers" => format!("{host}.invalid:9092"),
            "url" if kind == "mysql" => format!("mysql://nobody@{host}.invalid/none"),
            "url" => format!("postgres://nobody@{host}.invalid/none"),
            "ca" | "cert" | "key" => "-----BEGIN STAND-IN-----".to_owned(),
            _ => "stand-in".to_owned(),
        };
        environment.insert(name, value);
        return;
    }
    let kind = text("type").unwrap_or_default();
    for (key, value) in table {
        stand_in(key.get_ref(), kind, value.get_ref(), environment);
    }
}

/// The same for the same job: comments and spacing do not count, the order of keys and every value does.
///
/// For comparing, not for showing: it covers the environment's values too.
pub fn fingerprint(submission: &Submission) -> u128 {
    let mut hash = Xxh3Default::new();
    match DeTable::parse(&submission.toml) {
        Ok(document) => hash_table(document.get_ref(), &mut hash),
        Err(_) => feed(&mut hash, b'!', &submission.toml),
    }
    for (name, value) in &submission.environment {
        feed(&mut hash, b'n', name);
        feed(&mut hash, b'v', value);
    }
    if DeTable::parse(&submission.toml).is_ok_and(|document| names_paths(document.get_ref())) {
        feed(&mut hash, b'p', &submission.folder);
    }
    hash.digest128()
}

/// Paths of source and targets mean something else in another folder.
fn names_paths(document: &DeTable<'_>) -> bool {
    let has_path = |value: &DeValue<'_>| value.as_table().is_some_and(|table| table.contains_key("path"));
    let table = |key: &str| document.get(key).map(|value| value.get_ref());
    let targets = table("target").and_then(|value| value.as_table());
    table("source").is_some_and(has_path)
        || targets.is_some_and(|targets| targets.iter().any(|(_, target)| has_path(target.get_ref())))
}

fn hash_table(table: &DeTable<'_>, hash: &mut Xxh3Default) {
    hash.update(b"{");
    for entry in Section::new("", 0..0, table).entries {
        feed(hash, b'k', entry.key);
        hash_value(entry.value, hash);
    }
    hash.update(b"}");
}

fn hash_value(value: &DeValue<'_>, hash: &mut Xxh3Default) {
    match value {
        DeValue::String(text) => feed(hash, b's', text),
        DeValue::Integer(number) => feed(hash, b'i', &number.to_string()),
        DeValue::Float(number) => feed(hash, b'f', number.as_str()),
        DeValue::Boolean(value) => hash.update(if *value { b"t" } else { b"n" }),
        DeValue::Datetime(value) => feed(hash, b'd', &value.to_string()),
        DeValue::Array(array) => {
            hash.update(b"[");
            for value in array {
                hash_value(value.get_ref(), hash);
            }
            hash.update(b"]");
        }
        DeValue::Table(table) => hash_table(table, hash),
    }
}

/// With its length in front, so that no two sequences of texts look the same.
fn feed(hash: &mut Xxh3Default, kind: u8, text: &str) {
    hash.update(&[kind]);
    hash.update(&(text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}
