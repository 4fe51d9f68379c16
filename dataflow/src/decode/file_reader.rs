//! From a record of a file to one value per field: JSON with values of the file's root, or CSV.

use pulso_job::spec::{FilesSourceSpec, PathStart, SourceFormat};
use pulso_job::{FieldSpec, JobSpec};

use super::field_map::{FieldMap, Found, Places};
use super::reader::{Row, flaw};
use super::reason::{self, Fault};
use super::value::{FieldPlan, Value};
use crate::csv::{self, CsvField};
use crate::document::FileKey;
use crate::error::Result;
use crate::json::{Kind, Scanner, Token};

#[derive(Debug)]
pub(crate) struct FileReader {
    form: Form,
    fields: Vec<FieldPlan>,
    /// The key of the last record: records of one file follow each other.
    key: Option<Vec<u8>>,
    file: FileKey,
}

#[derive(Debug)]
enum Form {
    Json {
        record: FieldMap,
        root: FieldMap,
        /// Per field its alternatives: slots of `record` or of `root`.
        slots: Vec<Vec<(PathStart, usize)>>,
        root_places: Places,
    },
    Csv {
        delimiter: u8,
        has_header: bool,
        /// Per field the names of its column, in order of preference.
        names: Vec<Vec<String>>,
        /// Per field its columns in the file at hand, in order of preference.
        columns: Vec<Vec<usize>>,
        /// Of the file at hand; `None`: any.
        width: Option<usize>,
        plain: String,
        found: Vec<CsvField>,
    },
}

impl FileReader {
    pub(crate) fn new(job: &JobSpec, source: &FilesSourceSpec) -> Result<Self> {
        let fields = job.fields.iter().map(FieldPlan::new).collect::<Result<_>>()?;
        let form = match source.format {
            SourceFormat::Json { .. } | SourceFormat::Jsonl => json(&job.fields),
            SourceFormat::Csv { header, delimiter } => Form::Csv {
                delimiter,
                has_header: header,
                names: job.fields.iter().map(|f| f.paths.iter().map(|path| path.keys.join(".")).collect()).collect(),
                columns: (0..job.fields.len()).map(|index| vec![index]).collect(),
                width: (!header).then_some(job.fields.len()),
                plain: String::new(),
                found: Vec::new(),
            },
        };
        Ok(Self { form, fields, key: None, file: FileKey::default() })
    }

    /// Fills `row.values`, one per field, or says what is wrong with the first field that has a fault.
    pub(crate) fn read<'a>(&mut self, key: Option<&[u8]>, record: &'a [u8], row: &mut Row) -> Result<&'a str, Fault> {
        if self.key.as_deref() != key || key.is_none() {
            self.turn_to(key)?;
        }
        if let Some(bad) = &self.file.bad {
            return Err(Fault::record(whole_file(bad)));
        }
        let text = std::str::from_utf8(record).map_err(|_| Fault::record(reason::INVALID_UTF8))?;
        row.values.clear();
        row.unescaped.clear();
        match &mut self.form {
            Form::Json { record, slots, root_places, .. } => {
                record.walk(text, &mut row.places).map_err(flaw)?;
                let root = self.file.root.as_deref().unwrap_or_default();
                for (index, (field, slots)) in self.fields.iter().zip(slots).enumerate() {
                    let place = |(from, slot): &(PathStart, usize)| match from {
                        PathStart::Record => (text, row.places.slots[*slot], false),
                        PathStart::File => (root, root_places.slots[*slot], true),
                    };
                    let present = slots.iter().map(place).find(|(_, found, _)| *found != Found::Absent);
                    let (text, found, of_root) = present.unwrap_or((text, Found::Absent, false));
                    let value = field.read(found, text, &mut row.unescaped);
                    let value = value.map_err(|reason| Fault::field(reason, index))?;
                    row.values.push(if of_root { own(value, text, &mut row.unescaped) } else { value });
                }
                Ok(text)
            }
            Form::Csv { delimiter, columns, width, plain, found, .. } => {
                plain.clear();
                csv::fields(text, *delimiter, plain, found).map_err(|_| Fault::record(reason::INVALID_CSV))?;
                if width.is_some_and(|width| width != found.len()) {
                    return Err(Fault::record(reason::WRONG_COLUMN_COUNT));
                }
                for (index, (field, columns)) in self.fields.iter().zip(columns).enumerate() {
                    let value = csv_value(field, columns, found, plain, &mut row.unescaped);
                    row.values.push(value.map_err(|reason| Fault::field(reason, index))?);
                }
                Ok("")
            }
        }
    }

    /// The file that the records now come from.
    fn turn_to(&mut self, key: Option<&[u8]>) -> Result<(), Fault> {
        self.key = None;
        let key = key.ok_or(Fault::record(reason::BAD_KEY))?;
        self.file = FileKey::decode(key).ok_or(Fault::record(reason::BAD_KEY))?;
        match &mut self.form {
            Form::Json { root, root_places, .. } => {
                root.walk(self.file.root.as_deref().unwrap_or("{}"), root_places).map_err(flaw)?;
            }
            Form::Csv { has_header: false, .. } => {}
            Form::Csv { delimiter, names, columns, width, plain, found, .. } => {
                let header = self.file.header.as_deref().unwrap_or_default();
                plain.clear();
                csv::fields(header, *delimiter, plain, found).map_err(|_| Fault::record(reason::INVALID_CSV))?;
                let at = |name: &String| found.iter().position(|field| plain[field.text.clone()].trim() == *name);
                *columns = names.iter().map(|names| names.iter().filter_map(at).collect()).collect();
                *width = Some(found.len());
            }
        }
        self.key = Some(key.to_owned());
        Ok(())
    }
}

fn json(fields: &[FieldSpec]) -> Form {
    let mut slots = Vec::with_capacity(fields.len());
    let (mut of_record, mut of_root): (Vec<&[String]>, Vec<&[String]>) = (Vec::new(), Vec::new());
    for field in fields {
        let mut alternatives = Vec::with_capacity(field.paths.len());
        for path in &field.paths {
            let list = if path.from == PathStart::Record { &mut of_record } else { &mut of_root };
            list.push(path.keys.as_slice());
            alternatives.push((path.from, list.len() - 1));
        }
        slots.push(alternatives);
    }
    Form::Json { record: FieldMap::new(of_record), root: FieldMap::new(of_root), slots, root_places: Places::default() }
}

/// Text of another document than the record: it moves into the scratch.
fn own(value: Value, text: &str, scratch: &mut String) -> Value {
    let Value::Text(range) = value else { return value };
    let start = scratch.len();
    scratch.push_str(text.get(range).unwrap_or_default());
    Value::Unescaped(start..scratch.len())
}

/// An empty field without quotes is no value. The first alternative that has one wins.
fn csv_value(
    field: &FieldPlan,
    columns: &[usize],
    found: &[CsvField],
    plain: &str,
    scratch: &mut String,
) -> Result<Value, &'static str> {
    let present = columns.iter().filter_map(|column| found.get(*column)).find(|f| f.quoted || !f.text.is_empty());
    let Some(CsvField { text, .. }) = present else { return field.read(Found::Absent, plain, scratch) };
    let raw = plain.get(text.clone()).unwrap_or_default();
    let token = if field.reads_text() {
        let nul = raw.contains('\0');
        Token { kind: Kind::Text { escaped: false }, start: text.start, end: text.end, nul }
    } else {
        let mut scanner = Scanner::new(raw);
        let token = scanner.value(0).and_then(|token| scanner.end().map(|()| token));
        let token = token.map_err(|_| reason::WRONG_TYPE)?;
        Token { start: text.start + token.start, end: text.start + token.end, ..token }
    };
    let value = field.read(Found::Value(token), plain, scratch)?;
    Ok(own(value, plain, scratch))
}

/// The reasons that [`FileKey::bad`] can have.
fn whole_file(bad: &str) -> &'static str {
    let known = [
        reason::INVALID_UTF8,
        reason::TOO_DEEP,
        reason::DUPLICATE_KEY,
        reason::NO_RECORDS,
        reason::TOO_LARGE,
        reason::BAD_HEADER,
    ];
    known.into_iter().find(|reason| *reason == bad).unwrap_or(reason::INVALID_JSON)
}
