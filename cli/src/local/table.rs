//! What a sink's rows leave behind: a table in memory that follows the sink's rules for keys.

use std::cmp::Ordering;
use std::collections::HashMap;

use pulso_dataflow::Result;
use pulso_dataflow::batch::{Change, SinkRows};
use pulso_dataflow::key::{self, KeyColumns, KeyValue};
use pulso_job::{JobSpec, SinkSpec, SinkTo, WriteMode};

use super::value::{Column, order};

/// Values in the order of the columns.
pub type Row = Vec<KeyValue>;

/// How rows of one key meet. Indexes are those of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableKind {
    Upsert {
        key: Vec<usize>,
    },
    NewestBy {
        key: Vec<usize>,
        newest: usize,
    },
    KeepFirst {
        key: Vec<usize>,
    },
    /// Appending tables, topics and files. `marked`: the last column is `pulso_change`.
    Append {
        marked: bool,
    },
}

/// What one sink has written.
#[derive(Debug)]
pub struct Table {
    /// The table's, topic's or (of files) target's name; with `#2`, `#3` where an earlier sink has it.
    pub name: String,
    pub target: String,
    pub columns: Vec<Column>,
    pub kind: TableKind,
    rows: Vec<Option<Row>>,
    /// Where the row of a key is.
    places: HashMap<Vec<u8>, usize>,
}

pub(super) fn tables(spec: &JobSpec) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for sink in &spec.sinks {
        let mut table = Table::new(spec, sink);
        let same = tables.iter().filter(|other| other.name.split('#').next() == Some(&table.name)).count();
        if same > 0 {
            table.name = format!("{}#{}", table.name, same + 1);
        }
        tables.push(table);
    }
    tables
}

impl Table {
    fn new(spec: &JobSpec, sink: &SinkSpec) -> Self {
        let target = spec.targets.get(sink.target).map_or_else(String::new, |target| target.name.clone());
        let name = match &sink.to {
            SinkTo::Table(table) if table.name.0.is_empty() || table.name.0 == "public" => table.name.1.clone(),
            SinkTo::Table(table) => format!("{}.{}", table.name.0, table.name.1),
            SinkTo::Topic(topic) => topic.topic.clone(),
            SinkTo::Files(_) => target.clone(),
        };
        let mut columns = Column::of(spec, sink);
        let kind = match &sink.to {
            SinkTo::Table(table) => match table.write.clone() {
                WriteMode::Upsert { key, newest_by: None } => TableKind::Upsert { key },
                WriteMode::Upsert { key, newest_by: Some(newest) } => TableKind::NewestBy { key, newest },
                WriteMode::KeepFirst { key } => TableKind::KeepFirst { key },
                WriteMode::Append => TableKind::Append { marked: spec.is_marked(sink) },
            },
            SinkTo::Topic(_) | SinkTo::Files(_) => TableKind::Append { marked: spec.is_marked(sink) },
        };
        if kind == (TableKind::Append { marked: true }) {
            let data_type = arrow::datatypes::DataType::Utf8;
            columns.push(Column { name: "pulso_change".to_owned(), data_type, json: false });
        }
        Self { name, target, columns, kind, rows: Vec::new(), places: HashMap::new() }
    }

    /// Indexes of the key's columns; empty where rows are only appended.
    pub fn key(&self) -> &[usize] {
        match &self.kind {
            TableKind::Upsert { key } | TableKind::NewestBy { key, .. } | TableKind::KeepFirst { key } => key,
            TableKind::Append { .. } => &[],
        }
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().flatten()
    }

    /// Writes rows in the order given.
    pub(super) fn apply(&mut self, rows: &SinkRows) -> Result<()> {
        let all = KeyColumns::new(&rows.batch, 0..rows.batch.num_columns())?;
        let keys = KeyColumns::new(&rows.batch, self.key().iter().copied())?;
        let (mut bytes, mut key) = (Vec::new(), Vec::new());
        for (at, change) in rows.changes.iter().enumerate() {
            bytes.clear();
            all.encode(at, &mut bytes);
            let row = key::decode(&bytes)?;
            key.clear();
            keys.encode(at, &mut key);
            if keys.has_null(at) {
                // Null equals nothing, so no row is meant by it.
                self.rows.extend((*change != Change::Delete).then_some(Some(row)));
            } else {
                self.write(&key, row, *change);
            }
        }
        Ok(())
    }

    fn write(&mut self, key: &[u8], mut row: Row, change: Change) {
        let place = self.places.get(key).copied();
        let before = place.and_then(|place| self.rows.get(place)?.as_ref());
        match (&self.kind, change) {
            (TableKind::Append { marked }, _) => {
                if *marked {
                    row.push(mark(change));
                }
                self.rows.push(Some(row));
                return;
            }
            (TableKind::Upsert { .. }, Change::Delete) => {
                if let Some(row) = place.and_then(|place| self.rows.get_mut(place)) {
                    *row = None;
                }
                return;
            }
            (TableKind::NewestBy { .. } | TableKind::KeepFirst { .. }, Change::Delete) => return,
            (TableKind::KeepFirst { .. }, _) if before.is_some() => return,
            (TableKind::NewestBy { newest, .. }, _)
                if before.is_some_and(|before| !is_newer(&row, before, *newest)) =>
            {
                return;
            }
            (TableKind::Upsert { .. } | TableKind::NewestBy { .. } | TableKind::KeepFirst { .. }, _) => {}
        }
        match place.and_then(|place| self.rows.get_mut(place)) {
            Some(known) => *known = Some(row),
            None => {
                self.places.insert(key.to_vec(), self.rows.len());
                self.rows.push(Some(row));
            }
        }
    }

    /// Rows with a key in the order of it; nothing is written any more.
    pub(super) fn sort(&mut self) {
        let key = self.key().to_vec();
        let compare = |a: &Option<Row>, b: &Option<Row>| match (a, b) {
            (Some(a), Some(b)) => {
                key.iter().map(|&i| order(&a[i], &b[i])).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
            }
            _ => Ordering::Equal,
        };
        self.rows.retain(Option::is_some);
        self.rows.sort_by(compare);
        self.places.clear();
    }
}

fn mark(change: Change) -> KeyValue {
    match change {
        Change::Insert => KeyValue::Null,
        Change::Correction => KeyValue::Text("correction".to_owned()),
        Change::Delete => KeyValue::Text("delete".to_owned()),
    }
}

/// Of two rows equally new the one wins whose columns come later, whichever came first. A database compares them as text,
/// so it may pick the other one; both pick the same one every time.
fn is_newer(row: &Row, before: &Row, newest: usize) -> bool {
    let by_column = order(&row[newest], &before[newest]);
    let by_all = || row.iter().zip(before).map(|(a, b)| order(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal);
    by_column.then_with(by_all).is_gt()
}
