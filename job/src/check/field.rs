//! `[fields]`: the columns of a record, where each comes from and what it must be.

use std::collections::BTreeMap;
use std::ops::Range;

use super::expression::MAX_COLUMNS;
use super::name::Columns;
use crate::code;
use crate::document::{Entry, Section, list, nearest, printable};
use crate::reader::Reader;
use crate::spec::{Bound, FieldPath, FieldSpec, FieldType, PathStart, TimestampText};

pub(crate) const TYPES: [&str; 10] =
    ["string", "bool", "int32", "int64", "float64", "decimal(p,s)", "timestamp", "date", "uuid", "json"];
/// Most alternatives of one field, and most objects that a path goes into.
const MAX_PATH: usize = 16;
const DEFAULT_MAX_BYTES: usize = 64 * 1024;
const MOST_MAX_BYTES: u64 = 64 * 1024 * 1024;

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, columns: &mut Columns) {
    let Some(entry) = reader.required(root, "fields") else {
        return;
    };
    let Some(section) = reader.section("[fields]", &entry) else {
        return;
    };
    if section.entries.is_empty() {
        reader.error(code::MISSING_KEY, &entry.key_span, "[fields] needs at least one column");
    }
    if section.entries.len() > MAX_COLUMNS {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("a record may have {MAX_COLUMNS} columns"));
        return;
    }
    let caret = caret(root);
    let mut taken = BTreeMap::new();
    for entry in &section.entries {
        match field(reader, entry, caret, &mut taken) {
            Some(field) => columns.add_field(field),
            None => columns.add_broken(entry.key),
        }
    }
}

/// What `^` in front of a path means in this job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caret {
    /// Elements of a file's array: the file's root.
    Root,
    /// A record of a file is all there is.
    NoEach,
    Kafka,
}

fn caret(root: &Section<'_>) -> Caret {
    let source = root.take("source").and_then(|entry| entry.value.as_table());
    let files = source.filter(|table| table.get("type").is_some_and(|kind| kind.get_ref().as_str() == Some("files")));
    match files {
        None => Caret::Kafka,
        Some(files) if files.contains_key("each") => Caret::Root,
        Some(_) => Caret::NoEach,
    }
}

fn field(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    caret: Caret,
    taken: &mut BTreeMap<FieldPath, String>,
) -> Option<FieldSpec> {
    let named = reader.check_name("a column", entry.key, &entry.key_span);
    if entry.key == "pulso_change" {
        reader.error(
            code::BAD_NAME,
            &entry.key_span,
            "`pulso_change` is the column in which Pulso marks corrections and deletes",
        );
    }
    let section = reader.section(format!("field `{}`", printable(entry.key)), entry)?;
    let kind = reader.required(&section, "type").and_then(|entry| field_type(reader, &entry));
    let required = section.take("required").map_or(Some(false), |entry| reader.boolean(&entry));
    let phi = section.take("phi").map_or(Some(false), |entry| reader.boolean(&entry));
    let unit = match section.take("unit") {
        Some(entry) => Some(reader.string(&entry)?.to_owned()),
        None => None,
    };
    let paths = paths(reader, &section, entry, caret, taken);
    section.know(&["min", "max", "one_of", "max_bytes", "epoch", "assume_zone"]);
    reader.no_others(&section);
    let mut kind = kind?;
    timestamp_keys(reader, &section, &mut kind)?;
    let (min, max) = bounds(reader, &section, &kind)?;
    let (max_bytes, one_of) = string_keys(reader, &section, &kind)?;
    named.then_some(())?;
    Some(FieldSpec {
        name: entry.key.to_owned(),
        kind,
        paths: paths?,
        required: required?,
        min,
        max,
        one_of,
        max_bytes,
        phi: phi?,
        unit,
    })
}

/// The type that a word of the job language stands for.
pub fn type_named(text: &str) -> Option<FieldType> {
    Some(match text {
        "string" => FieldType::String,
        "bool" => FieldType::Bool,
        "int32" => FieldType::Int32,
        "int64" => FieldType::Int64,
        "float64" => FieldType::Float64,
        "timestamp" => FieldType::Timestamp(TimestampText::Rfc3339 { assume_zone: None }),
        "date" => FieldType::Date,
        "uuid" => FieldType::Uuid,
        "json" => FieldType::Json,
        _ => {
            let (precision, scale) = decimal(text)?;
            let fits = (1..=38).contains(&precision) && scale <= precision;
            FieldType::Decimal { precision, scale: i8::try_from(scale).ok().filter(|_| fits)? }
        }
    })
}

fn field_type(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<FieldType> {
    let text = reader.string(entry)?;
    let kind = type_named(text);
    match decimal(text) {
        _ if kind.is_some() => {}
        Some(_) => reader.error(
            code::FIELD_TYPE,
            &entry.span,
            "decimal(p,s) has 1 to 38 digits, s of them (0 to p) behind the point",
        ),
        None => unknown_type(reader, entry, text),
    }
    kind
}

fn decimal(text: &str) -> Option<(u8, u8)> {
    let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let digits = |text: &str| {
        let text = text.trim();
        text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    Some((digits(precision)?, digits(scale)?))
}

fn unknown_type(reader: &mut Reader<'_>, entry: &Entry<'_>, text: &str) {
    let lower = text.to_lowercase();
    let meant = match lower.as_str() {
        "str" | "text" | "varchar" => Some("string"),
        "int" | "integer" => Some("int32"),
        "long" | "bigint" => Some("int64"),
        "float" | "double" | "real" | "number" => Some("float64"),
        "datetime" | "timestamptz" | "time" => Some("timestamp"),
        "decimal" | "numeric" => Some("decimal(p,s)"),
        _ => nearest(&lower, TYPES),
    };
    let mut help = format!("allowed: {}", list(TYPES));
    if let Some(meant) = meant {
        help = format!("did you mean `{meant}`? {help}");
    }
    reader.error_help(code::FIELD_TYPE, &entry.span, format!("there is no type `{}`", printable(text)), help);
}

/// Each of the paths as list of keys; the column's own name where there is none.
fn paths(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    field: &Entry<'_>,
    caret: Caret,
    taken: &mut BTreeMap<FieldPath, String>,
) -> Option<Vec<FieldPath>> {
    let given = match section.take("path") {
        Some(entry) if entry.value.as_str().is_some() => {
            let shown = printable(entry.value.as_str().unwrap_or_default());
            reader.error_help(
                code::WRONG_TYPE,
                &entry.span,
                "`path` is a list of alternatives",
                format!("did you mean [\"{shown}\"]?"),
            );
            return None;
        }
        Some(entry) => reader.strings(&entry)?,
        None => vec![(field.key, field.key_span.clone())],
    };
    if given.len() > MAX_PATH {
        reader.error(code::BAD_PATH, &section.span, format!("a field may have {MAX_PATH} alternatives"));
        return None;
    }
    let mut paths = Vec::new();
    let mut good = true;
    for (text, span) in given {
        match path(reader, text, &span, caret) {
            Some(path) => match taken.get(&path) {
                Some(other) if other != field.key => {
                    let message = format!("`{}` is read by the field `{}` already", printable(text), printable(other));
                    reader.error(code::BAD_PATH, &span, message);
                    good = false;
                }
                _ => {
                    taken.insert(path.clone(), field.key.to_owned());
                    paths.push(path);
                }
            },
            None => good = false,
        }
    }
    good.then_some(paths)
}

fn path(reader: &mut Reader<'_>, text: &str, span: &Range<usize>, caret: Caret) -> Option<FieldPath> {
    let wrong = match caret {
        _ if !text.starts_with('^') => None,
        Caret::Root => None,
        Caret::NoEach => Some("^ starts at the root of a file, so it needs `each`: else the record is all there is"),
        Caret::Kafka => Some("^ starts at the root of a file; a Kafka record has only itself"),
    };
    if let Some(wrong) = wrong {
        reader.error(code::BAD_PATH, span, wrong);
        return None;
    }
    let (from, inner) = match text.strip_prefix('^') {
        Some(rest) => (PathStart::File, rest),
        None => (PathStart::Record, text),
    };
    let keys = object_keys(reader, inner, span)?;
    Some(FieldPath { from, keys })
}

/// `a.b` as a list of object keys.
pub(super) fn object_keys(reader: &mut Reader<'_>, text: &str, span: &Range<usize>) -> Option<Vec<String>> {
    let keys: Vec<String> = text.split('.').map(str::to_owned).collect();
    if keys.iter().any(String::is_empty) || keys.len() > MAX_PATH || text.contains(char::is_control) {
        let message = format!("`{}` is not a path", printable(text));
        reader.error_help(
            code::BAD_PATH,
            span,
            message,
            format!("object keys with points between, {MAX_PATH} at most: \"product.price\""),
        );
        return None;
    }
    Some(keys)
}

/// None if a key is wrong.
fn timestamp_keys(reader: &mut Reader<'_>, section: &Section<'_>, kind: &mut FieldType) -> Option<()> {
    let (epoch, zone) = (section.take("epoch"), section.take("assume_zone"));
    let FieldType::Timestamp(text) = kind else {
        for entry in [epoch, zone].into_iter().flatten() {
            reader.error(
                code::NOT_OF_TYPE,
                &entry.key_span,
                format!("`{}` is for fields of type timestamp", entry.key),
            );
        }
        return Some(());
    };
    match (epoch, zone) {
        (Some(epoch), None) => {
            let units = [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)];
            *text = TimestampText::Epoch { per_second: reader.choice(&epoch, &units)? };
        }
        (None, Some(entry)) => {
            *text = TimestampText::Rfc3339 { assume_zone: Some(zone_name(reader, &entry)?) };
        }
        (Some(_), Some(zone)) => {
            reader.error(
                code::NOT_OF_TYPE,
                &zone.key_span,
                "`assume_zone` is for text, but `epoch` says that this is a number",
            );
            return None;
        }
        (None, None) => {}
    }
    Some(())
}

/// The IANA name of a time zone.
pub(super) fn zone_name(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let zone = reader.string(entry)?;
    if jiff::tz::TimeZone::get(zone).is_ok() {
        return Some(zone.to_owned());
    }
    let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let help = nearest(zone, known.iter().map(String::as_str))
        .map_or("a zone is an IANA name: \"UTC\", \"America/Sao_Paulo\"".to_owned(), |meant| {
            format!("did you mean `{meant}`?")
        });
    let message = format!("there is no time zone `{}`", printable(zone));
    reader.error_help(code::BAD_TIME, &entry.span, message, help);
    None
}

type Bounds = (Option<Bound>, Option<Bound>);

fn bounds(reader: &mut Reader<'_>, section: &Section<'_>, kind: &FieldType) -> Option<Bounds> {
    let (min, max) = (section.take("min"), section.take("max"));
    let numeric = matches!(kind, FieldType::Int32 | FieldType::Int64 | FieldType::Float64 | FieldType::Decimal { .. });
    let mut read = |entry: &Option<Entry<'_>>| match entry {
        Some(entry) if !numeric => {
            reader.error(code::NOT_OF_TYPE, &entry.key_span, format!("`{}` is for numbers", entry.key));
            None
        }
        Some(entry) => bound(reader, entry, kind).map(Some),
        None => Some(None),
    };
    let (lower, upper) = (read(&min), read(&max));
    let (lower, upper) = (lower?, upper?);
    let above = match (lower, upper) {
        (Some(Bound::Int(a)), Some(Bound::Int(b))) => a > b,
        (Some(Bound::Float(a)), Some(Bound::Float(b))) => a > b,
        (Some(Bound::Decimal(a)), Some(Bound::Decimal(b))) => a > b,
        _ => false,
    };
    if above {
        let span = min.map_or(section.span.clone(), |entry| entry.span);
        reader.error(code::BAD_BOUND, &span, "`min` is greater than `max`: no value could pass");
        return None;
    }
    Some((lower, upper))
}

fn bound(reader: &mut Reader<'_>, entry: &Entry<'_>, kind: &FieldType) -> Option<Bound> {
    let (integer, float) = (entry.value.as_integer(), entry.value.as_float());
    let whole = integer.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
    let (bound, wanted) = match kind {
        FieldType::Int32 => (
            whole.filter(|value| i32::try_from(*value).is_ok()).map(Bound::Int),
            "a whole number of 32 bits".to_owned(),
        ),
        FieldType::Int64 => (whole.map(Bound::Int), "a whole number of 64 bits".to_owned()),
        FieldType::Decimal { precision, scale } => {
            let text = integer.and(whole).map(|whole| whole.to_string()).or_else(|| Some(float?.as_str().to_owned()));
            let value = text.and_then(|text| decimal_bound(&text, *precision, *scale));
            (
                value.map(Bound::Decimal),
                format!("a number with at most {precision} digits, {scale} of them behind the point"),
            )
        }
        FieldType::String
        | FieldType::Bool
        | FieldType::Float64
        | FieldType::Timestamp(_)
        | FieldType::Date
        | FieldType::Uuid
        | FieldType::Json => {
            // Exact up to 2^53; larger bounds of a float are rounded like the records' values.
            #[expect(clippy::cast_precision_loss, reason = "rounds like the values that it bounds")]
            let value = whole.map(|value| value as f64).or_else(|| float?.as_str().parse().ok());
            (value.filter(|value| value.is_finite()).map(Bound::Float), "a finite number".to_owned())
        }
    };
    if bound.is_none() {
        reader.error(code::BAD_BOUND, &entry.span, format!("`{}` must be {wanted}", entry.key));
    }
    bound
}

/// The unscaled value of `-12.5`, if it fits without rounding.
fn decimal_bound(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let scale = usize::try_from(scale).ok()?;
    if whole.is_empty() || fraction.len() > scale || !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let unscaled: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    (unscaled < 10_i128.pow(u32::from(precision))).then_some(if negative { -unscaled } else { unscaled })
}

fn string_keys(reader: &mut Reader<'_>, section: &Section<'_>, kind: &FieldType) -> Option<(usize, Vec<String>)> {
    let (max_bytes, one_of) = (section.take("max_bytes"), section.take("one_of"));
    let sized = matches!(kind, FieldType::String | FieldType::Json);
    let max_bytes = match max_bytes {
        Some(entry) if !sized => {
            reader.error(code::NOT_OF_TYPE, &entry.key_span, "`max_bytes` is for fields of type string or json");
            None
        }
        Some(entry) => reader.size(&entry, 1..=MOST_MAX_BYTES),
        None => Some(DEFAULT_MAX_BYTES),
    };
    let one_of = match one_of {
        Some(entry) if *kind != FieldType::String => {
            reader.error(code::NOT_OF_TYPE, &entry.key_span, "`one_of` is for fields of type string");
            None
        }
        Some(entry) => reader.strings(&entry).map(|texts| texts.into_iter().map(|(text, _)| text.to_owned()).collect()),
        None => Some(Vec::new()),
    };
    Some((max_bytes?, one_of?))
}
