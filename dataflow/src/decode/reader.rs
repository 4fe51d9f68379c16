//! From the bytes of a record, or of a tombstone's key, to one value per column.

use pulso_job::{ColumnIndex, JobSpec};

use super::field_map::{FieldMap, Found, Places};
use super::reason::{self, Fault};
use super::value::{FieldPlan, Value};
use crate::error::Result;
use crate::json::{Flaw, Kind, Scanner, Token};

/// Values of one record; kept from record to record so that nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) values: Vec<Value>,
    pub(crate) unescaped: String,
    pub(super) places: Places,
}

/// Reads the fields of a record's value.
#[derive(Debug)]
pub(crate) struct ValueReader {
    map: FieldMap,
    /// Per field, and the slots of its alternatives in the map.
    fields: Vec<(FieldPlan, Vec<usize>)>,
}

impl ValueReader {
    pub(crate) fn new(job: &JobSpec) -> Result<Self> {
        let mut slot = 0;
        let mut fields = Vec::with_capacity(job.fields.len());
        for field in &job.fields {
            let slots = (slot..slot + field.paths.len()).collect();
            slot += field.paths.len();
            fields.push((FieldPlan::new(field)?, slots));
        }
        let paths = job.fields.iter().flat_map(|field| field.paths.iter().map(|path| path.keys.as_slice()));
        Ok(Self { map: FieldMap::new(paths), fields })
    }

    /// Fills `row.values`, one per field, or says what is wrong with the first field that has a fault.
    pub(crate) fn read<'a>(&self, record: &'a [u8], row: &mut Row) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(record).map_err(|_| Fault::record(reason::INVALID_UTF8))?;
        self.map.walk(text, &mut row.places).map_err(flaw)?;
        row.values.clear();
        row.unescaped.clear();
        for (index, (field, slots)) in self.fields.iter().enumerate() {
            let present = slots.iter().map(|slot| row.places.slots[*slot]).find(|found| *found != Found::Absent);
            let found = present.unwrap_or(Found::Absent);
            let value = field.read(found, text, &mut row.unescaped).map_err(|reason| Fault::field(reason, index))?;
            row.values.push(value);
        }
        Ok(text)
    }
}

pub(super) fn flaw(flaw: Flaw) -> Fault {
    Fault::record(match flaw {
        Flaw::Syntax => reason::INVALID_JSON,
        Flaw::Depth => reason::TOO_DEEP,
        Flaw::Duplicate => reason::DUPLICATE_KEY,
        Flaw::NotAnObject => reason::NOT_AN_OBJECT,
    })
}

/// Reads the columns that a tombstone's key names: one as text, several as a JSON object by their names.
#[derive(Debug)]
pub(crate) struct KeyReader {
    map: FieldMap,
    columns: Vec<(FieldPlan, ColumnIndex)>,
    /// Columns of the job.
    width: usize,
}

impl KeyReader {
    pub(crate) fn new(job: &JobSpec, key: &[ColumnIndex]) -> Result<Self> {
        let schema = job.schema();
        let names: Vec<[String; 1]> = key.iter().map(|column| [schema.field(*column).name().clone()]).collect();
        let plan = |column: ColumnIndex| match job.fields.get(column) {
            Some(field) => FieldPlan::new(field).map(FieldPlan::required),
            None => FieldPlan::of_type(schema.field(column).data_type()),
        };
        let columns = key.iter().map(|column| Ok((plan(*column)?, *column))).collect::<Result<_>>()?;
        Ok(Self {
            map: FieldMap::new(names.iter().map(<[String; 1]>::as_slice)),
            columns,
            width: schema.fields().len(),
        })
    }

    /// Fills `row.values`, one per column of the job; those outside of the key are null. Every fault is a `bad_key`.
    pub(crate) fn read<'a>(&self, key: Option<&'a [u8]>, row: &mut Row) -> Result<&'a str, Fault> {
        let bad = |column: Option<ColumnIndex>| Fault { reason: reason::BAD_KEY, field: column };
        let text = key.and_then(|key| std::str::from_utf8(key).ok()).ok_or(bad(None))?;
        row.values.clear();
        row.values.resize(self.width, Value::Null);
        row.unescaped.clear();
        if let [(plan, column)] = self.columns.as_slice() {
            let found = single(plan, text).ok_or(bad(Some(*column)))?;
            row.values[*column] = plan.read(found, text, &mut row.unescaped).map_err(|_| bad(Some(*column)))?;
            return Ok(text);
        }
        self.map.walk(text, &mut row.places).map_err(|_| bad(None))?;
        for (slot, (plan, column)) in self.columns.iter().enumerate() {
            let value = plan.read(row.places.slots[slot], text, &mut row.unescaped).map_err(|_| bad(Some(*column)))?;
            row.values[*column] = value;
        }
        Ok(text)
    }
}

/// A key that is one column: text as it stands, other types as JSON has them.
fn single(plan: &FieldPlan, text: &str) -> Option<Found> {
    if plan.reads_text() {
        let nul = text.contains('\0');
        return Some(Found::Value(Token { kind: Kind::Text { escaped: false }, start: 0, end: text.len(), nul }));
    }
    let mut scanner = Scanner::new(text);
    let token = scanner.value(0).ok()?;
    scanner.end().ok()?;
    Some(if token.kind == Kind::Null { Found::Absent } else { Found::Value(token) })
}
