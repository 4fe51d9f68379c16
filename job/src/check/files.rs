//! `[source]` of type files, and where files are written and moved to.

use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use super::name::Columns;
use super::{field, loops};
use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;
use crate::spec::{FieldType, FilesSourceSpec, SourceFormat};

/// Keys by which only some formats are read.
const FORMAT_KEYS: [(&str, Format); 3] = [("each", Format::Json), ("header", Format::Csv), ("delimiter", Format::Csv)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Jsonl,
    Csv,
}

pub(super) fn source(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    columns: &Columns,
    folder: &Path,
) -> Option<FilesSourceSpec> {
    let pattern = reader.required(section, "path").and_then(|entry| pattern(reader, &entry, folder));
    let formats = [("json", Format::Json), ("jsonl", Format::Jsonl), ("csv", Format::Csv)];
    let kind = section.take("format").map_or(Some(Format::Json), |entry| reader.choice(&entry, &formats));
    let format = kind.and_then(|kind| format(reader, section, kind));
    let follow = section.take("follow").map_or(Some(false), |entry| reader.boolean(&entry));
    let when_bad = verdict(reader, section, "when_bad", folder, pattern.as_deref());
    let when_done = verdict(reader, section, "when_done", folder, pattern.as_deref());
    if let Some(SourceFormat::Csv { .. }) = format {
        names_are_plain(reader, columns, section);
    }
    Some(FilesSourceSpec {
        pattern: pattern?,
        format: format?,
        follow: follow?,
        when_bad: when_bad?,
        when_done: when_done?,
    })
}

fn format(reader: &mut Reader<'_>, section: &Section<'_>, kind: Format) -> Option<SourceFormat> {
    let mut good = true;
    for (key, of) in FORMAT_KEYS.iter().filter(|(_, of)| *of != kind) {
        if let Some(entry) = section.take(key) {
            let name = if *of == Format::Csv { "csv" } else { "json" };
            reader.error(code::BAD_FILES, &entry.key_span, format!("`{key}` is for `format = \"{name}\"`"));
            good = false;
        }
    }
    let format = match kind {
        Format::Json => {
            let each = match section.take("each") {
                Some(entry) => {
                    let text = reader.string(&entry)?;
                    Some(field::object_keys(reader, text, &entry.span)?)
                }
                None => None,
            };
            SourceFormat::Json { each }
        }
        Format::Jsonl => SourceFormat::Jsonl,
        Format::Csv => {
            let header = section.take("header").map_or(Some(true), |entry| reader.boolean(&entry));
            let delimiter = section.take("delimiter").map_or(Some(b','), |entry| delimiter(reader, &entry));
            SourceFormat::Csv { header: header?, delimiter: delimiter? }
        }
    };
    good.then_some(format)
}

fn delimiter(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<u8> {
    let text = reader.string(entry)?;
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | b'\0') => Some(*byte),
        _ => {
            let message = "`delimiter` is one ASCII character, neither a quote nor the end of a line";
            reader.error(code::NOT_ALLOWED, &entry.span, message);
            None
        }
    }
}

/// A column of a CSV file is one value: there is nothing to go into.
fn names_are_plain(reader: &mut Reader<'_>, columns: &Columns, section: &Section<'_>) {
    for field in columns.fields().iter().filter(|field| field.kind == FieldType::Json) {
        let message = format!("the field `{}` is of type json, which a CSV file does not hold", field.name);
        reader.error_help(code::BAD_FILES, &section.span, message, "read it as a string");
    }
}

/// The outer `None` is a mistake.
#[expect(clippy::option_option, reason = "a mistake is not the same as keeping the file")]
fn verdict(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    key: &'static str,
    folder: &Path,
    pattern: Option<&str>,
) -> Option<Option<PathBuf>> {
    let Some(entry) = section.take(key) else { return Some(None) };
    if entry.value.as_str() == Some("keep") {
        return Some(None);
    }
    if entry.value.as_table().is_none() {
        let help = format!("{key} = {{ move_to = \"folder\" }}, or \"keep\"");
        reader.error_help(code::NOT_ALLOWED, &entry.span, format!("`{key}` says what becomes of a file"), help);
        return None;
    }
    let table = reader.section(key, &entry)?;
    let to = reader.required(&table, "move_to");
    reader.no_others(&table);
    let to = to?;
    let folder = self::folder(reader, &to, folder)?;
    if pattern.is_some_and(|pattern| loops::is_found_in(pattern, &folder)) {
        let message = "files in this folder would match the pattern of the source: they would be read again";
        reader.error(code::BAD_FILES, &to.span, message);
        return None;
    }
    Some(Some(folder))
}

fn pattern(reader: &mut Reader<'_>, entry: &Entry<'_>, folder: &Path) -> Option<String> {
    let text = reader.string(entry)?;
    if text.ends_with('/') {
        reader.error_help(
            code::BAD_FILES,
            &entry.span,
            "this is a folder, and a pattern of files is wanted",
            "all files of a folder: \"folder/*\"",
        );
        return None;
    }
    let whole = absolute(reader, entry, text, folder, Pattern::escape)?;
    match Pattern::new(&whole) {
        Ok(_) => Some(whole),
        Err(error) => {
            let message = format!("`{}` is not a pattern of files: {}", printable(text), error.msg);
            reader.error(code::BAD_FILES, &entry.span, message);
            None
        }
    }
}

/// A folder that is there or will be made.
pub(super) fn folder(reader: &mut Reader<'_>, entry: &Entry<'_>, base: &Path) -> Option<PathBuf> {
    let text = reader.string(entry)?;
    absolute(reader, entry, text, base, str::to_owned).map(PathBuf::from)
}

/// Joined and without `.` and `..`, so that equal folders look equal.
fn absolute(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    text: &str,
    base: &Path,
    as_pattern: impl Fn(&str) -> String,
) -> Option<String> {
    if text.is_empty() || text.contains('\0') {
        reader.error(code::BAD_FILES, &entry.span, format!("`{}` is not a path", printable(entry.key)));
        return None;
    }
    let relative = !Path::new(text).is_absolute();
    if relative && !base.is_absolute() {
        let message = "the path is relative, and the folder of the job file is not known here";
        reader.error_help(code::BAD_FILES, &entry.span, message, "write the whole path, or submit with healthctl");
        return None;
    }
    let base = if relative { as_pattern(&base.to_string_lossy()) } else { String::new() };
    let mut whole = PathBuf::from("/");
    for component in Path::new(&base).components().chain(Path::new(text).components()) {
        match component {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => {
                whole.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    whole.into_os_string().into_string().ok()
}
