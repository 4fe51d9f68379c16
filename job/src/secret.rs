//! Addresses and credentials: resolved here, and in no message.

use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;

/// Where the value of a secret stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In job.toml itself, for all to read.
    File,
    Elsewhere,
}

impl Reader<'_> {
    /// An address or credential: a string, `{ env, default }` or `{ file }`. Its value is in no message.
    pub(crate) fn secret(&mut self, entry: &Entry<'_>) -> Option<(String, Origin)> {
        if let Some(text) = entry.value.as_str() {
            self.mask(&entry.span);
            return self.not_empty(entry, text).map(|text| (text, Origin::File));
        }
        let Some(table) = entry.value.as_table() else {
            self.wrong_type(entry, "a string, { env = \"NAME\" } or { file = \"...\" }");
            return None;
        };
        let section = Section::new(format!("the secret `{}`", printable(entry.key)), entry.span.clone(), table);
        let default = section.take("default");
        // A misspelt `default` holds the secret too.
        for other in section.entries.iter().filter(|entry| !["env", "file"].contains(&entry.key)) {
            self.mask(&other.span);
        }
        let (env, file) = (section.take("env"), section.take("file"));
        self.no_others(&section);
        match (env, file) {
            (Some(env), None) => self.environment_secret(entry, &env, default.as_ref()),
            (None, Some(file)) => self.file_secret(entry, &file, default.as_ref()),
            _ => {
                self.error(code::BAD_SECRET, &entry.span, "a secret has either `env` or `file`");
                None
            }
        }
    }

    fn environment_secret(
        &mut self,
        entry: &Entry<'_>,
        env: &Entry<'_>,
        default: Option<&Entry<'_>>,
    ) -> Option<(String, Origin)> {
        let name = self.string(env)?;
        if !is_variable(name) {
            self.error(code::BAD_SECRET, &env.span, "a variable's name has letters, digits and _ only");
            return None;
        }
        let default = match default {
            Some(default) => Some(self.string(default)?),
            None => None,
        };
        match (self.environment.get(name), default) {
            (Some(value), _) if !value.is_empty() => Some((value.clone(), Origin::Elsewhere)),
            (_, Some(default)) => self.not_empty(entry, default).map(|value| (value, Origin::File)),
            (found, None) => {
                let state = if found.is_some() { "empty" } else { "not set" };
                let message = format!("the environment variable `{name}` is {state} where the job is submitted");
                self.error_help(code::ENVIRONMENT, &entry.span, message, "set it, or give a `default`");
                None
            }
        }
    }

    fn file_secret(
        &mut self,
        entry: &Entry<'_>,
        file: &Entry<'_>,
        default: Option<&Entry<'_>>,
    ) -> Option<(String, Origin)> {
        if let Some(default) = default {
            self.error(code::BAD_SECRET, &default.key_span, "`default` goes with `env` only");
            return None;
        }
        let path = self.string(file)?;
        let Some(content) = self.environment.get(&format!("file:{path}")) else {
            let message = format!("the file `{}` cannot be read where the job is submitted", printable(path));
            self.error(code::ENVIRONMENT, &entry.span, message);
            return None;
        };
        // Editors end a file with a newline, which is no part of a password.
        let content = content.strip_suffix('\n').unwrap_or(content);
        let content = content.strip_suffix('\r').unwrap_or(content);
        if content.is_empty() {
            self.error(code::ENVIRONMENT, &entry.span, format!("the file `{}` is empty", printable(path)));
            return None;
        }
        Some((content.to_owned(), Origin::Elsewhere))
    }

    fn not_empty(&mut self, entry: &Entry<'_>, text: &str) -> Option<String> {
        if text.is_empty() {
            self.error(code::NOT_ALLOWED, &entry.span, format!("`{}` is empty", printable(entry.key)));
            return None;
        }
        Some(text.to_owned())
    }
}

pub(crate) fn is_variable(name: &str) -> bool {
    name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}
