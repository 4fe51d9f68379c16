//! What a transaction does to one keyed table: the rows of all its epochs, one fate per key, in key order.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::HashSet;

use arrow::array::{ArrayRef, DynComparator, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use pulso_dataflow::batch::{Change, SinkRows};

use super::Keyed;

/// Row `row` of part `part`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRef {
    pub(crate) part: u32,
    pub(crate) row: u32,
}

/// Each list in key order, so that writers that meet in a table do not deadlock; no key in two of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// As far as the state knows, the key is not in the table.
    pub(crate) new: Vec<RowRef>,
    /// The key may be in the table.
    pub(crate) merge: Vec<RowRef>,
    pub(crate) delete: Vec<RowRef>,
    /// `merge` holds several rows of one key that are equally new: the writer lets the database pick one.
    pub(crate) tied: bool,
}

/// All rows in the order given.
pub(crate) fn in_order<'a>(parts: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<RowRef> {
    let mut rows = Vec::new();
    for (part, batch) in (0u32..).zip(parts) {
        rows.extend((0..batch.num_rows() as u32).map(|row| RowRef { part, row }));
    }
    rows
}

/// `key`: indexes of the key's columns. `staged`: nothing counts as new.
pub(crate) fn reduce(key: &[usize], keyed: &Keyed, parts: &[&SinkRows], staged: bool) -> Result<Fates, ArrowError> {
    let keys = Keys::new(key, parts)?;
    let newest = match keyed {
        Keyed::NewestBy(column) => Some(Newest::new(parts, *column)?),
        Keyed::Upsert | Keyed::KeepFirst => None,
    };
    let mut order: Vec<Sorted> =
        in_order(parts.iter().map(|part| &part.batch)).into_iter().map(|at| keys.sorted(at)).collect();
    // Equal keys stay in the order in which they came.
    order.sort_by(|a, b| keys.compare(a, b));

    let mut fates = Fates::default();
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let has_null = keys.has_null(first.at);
        let count = if has_null { 1 } else { rest.iter().take_while(|row| keys.compare(first, row).is_eq()).count() };
        let (group, behind) = rest.split_at(count);
        rest = behind;
        let change = |row: &Sorted| change(parts, row.at);
        match (&newest, keyed) {
            // Null equals nothing: no row of the table is meant, and the table says whether it takes this one.
            _ if has_null => fates.new.extend((change(first) != Change::Delete).then_some(first.at)),
            (Some(newest), _) => {
                newest.choose(group.iter().filter(|row| change(row) != Change::Delete), &mut fates)?;
            }
            (None, Keyed::KeepFirst) => {
                // The first one stays, whatever follows.
                let Some(kept) = group.iter().find(|row| change(row) != Change::Delete) else { continue };
                let is_new = !staged && change(kept) == Change::Insert;
                if is_new { fates.new.push(kept.at) } else { fates.merge.push(kept.at) }
            }
            (None, _) => {
                let last = &group[count - 1];
                if change(last) == Change::Delete {
                    fates.delete.push(last.at);
                } else if !staged && change(first) == Change::Insert {
                    fates.new.push(last.at);
                } else {
                    fates.merge.push(last.at);
                }
            }
        }
    }
    Ok(fates)
}

fn change(parts: &[&SinkRows], at: RowRef) -> Change {
    let change = parts.get(at.part as usize).and_then(|part| part.changes.get(at.row as usize));
    *change.expect("a sink's rows carry one change each")
}

struct Sorted {
    /// First bytes of the key: most comparisons end here.
    prefix: u64,
    at: RowRef,
}

/// The keys of all rows in a form that compares by bytes.
struct Keys<'a> {
    rows: Vec<Rows>,
    columns: Vec<Vec<&'a ArrayRef>>,
    /// Leading bytes that all keys have in common.
    common: usize,
}

impl<'a> Keys<'a> {
    fn new(key: &[usize], parts: &[&'a SinkRows]) -> Result<Self, ArrowError> {
        let columns: Vec<Vec<&ArrayRef>> =
            parts.iter().map(|part| key.iter().filter_map(|&i| part.batch.columns().get(i)).collect()).collect();
        let types: Vec<DataType> =
            columns.first().into_iter().flatten().map(|column| column.data_type().clone()).collect();
        let converter = RowConverter::new(types.into_iter().map(SortField::new).collect())?;
        let convert = |columns: &Vec<&ArrayRef>| {
            converter.convert_columns(&columns.iter().map(|column| ArrayRef::clone(column)).collect::<Vec<_>>())
        };
        let rows: Vec<Rows> = columns.iter().map(convert).collect::<Result<_, _>>()?;
        let common = common_prefix(&rows);
        Ok(Self { rows, columns, common })
    }

    fn bytes(&self, at: RowRef) -> &[u8] {
        self.rows[at.part as usize].row(at.row as usize).data()
    }

    fn sorted(&self, at: RowRef) -> Sorted {
        let mut first = [0; 8];
        let bytes = self.bytes(at).get(self.common..).unwrap_or_default();
        let length = bytes.len().min(8);
        first[..length].copy_from_slice(&bytes[..length]);
        Sorted { prefix: u64::from_be_bytes(first), at }
    }

    fn compare(&self, a: &Sorted, b: &Sorted) -> Ordering {
        a.prefix.cmp(&b.prefix).then_with(|| self.bytes(a.at).cmp(self.bytes(b.at)))
    }

    fn has_null(&self, at: RowRef) -> bool {
        self.columns[at.part as usize].iter().any(|column| column.is_null(at.row as usize))
    }
}

fn common_prefix(rows: &[Rows]) -> usize {
    let mut all = rows.iter().flat_map(Rows::iter);
    let Some(first) = all.next() else { return 0 };
    all.fold(first.data().len(), |common, row| {
        first.data().iter().zip(row.data()).take(common).take_while(|(a, b)| a == b).count()
    })
}

/// Compares rows by the newest-by column; null is the oldest.
struct Newest<'a> {
    parts: &'a [&'a SinkRows],
    /// `comparators[a][b]` compares rows of part `a` with rows of part `b`.
    comparators: Vec<Vec<DynComparator>>,
    images: OnceCell<Vec<Rows>>,
}

impl<'a> Newest<'a> {
    fn new(parts: &'a [&'a SinkRows], column: usize) -> Result<Self, ArrowError> {
        let options = SortOptions { descending: false, nulls_first: true };
        let column = |part: &&SinkRows| {
            let missing = || ArrowError::SchemaError("the newest-by column is missing".to_owned());
            part.batch.columns().get(column).cloned().ok_or_else(missing)
        };
        let columns: Vec<ArrayRef> = parts.iter().map(column).collect::<Result<_, _>>()?;
        let against = |a: &ArrayRef| columns.iter().map(|b| make_comparator(a, b, options)).collect();
        let comparators = columns.iter().map(against).collect::<Result<_, _>>()?;
        Ok(Self { parts, comparators, images: OnceCell::new() })
    }

    fn compare(&self, a: RowRef, b: RowRef) -> Ordering {
        self.comparators[a.part as usize][b.part as usize](a.row as usize, b.row as usize)
    }

    /// The newest rows of one key: several only where they are equally new and not the same.
    fn choose<'r>(&self, group: impl Iterator<Item = &'r Sorted>, fates: &mut Fates) -> Result<(), ArrowError> {
        let mut best: Vec<RowRef> = Vec::new();
        for row in group {
            match best.first().map_or(Ordering::Greater, |first| self.compare(row.at, *first)) {
                Ordering::Less => {}
                Ordering::Greater => best = vec![row.at],
                Ordering::Equal => best.push(row.at),
            }
        }
        if best.len() > 1 {
            let images = self.images()?;
            let mut seen = HashSet::new();
            best.retain(|at| seen.insert(images[at.part as usize].row(at.row as usize).data()));
        }
        fates.tied |= best.len() > 1;
        fates.merge.extend(best);
        Ok(())
    }

    /// All columns of all rows in a form that compares by bytes; made for the first tie.
    fn images(&self) -> Result<&[Rows], ArrowError> {
        if let Some(images) = self.images.get() {
            return Ok(images);
        }
        let types = self.parts.first().map(|part| part.batch.schema()).into_iter();
        let types = types.flat_map(|schema| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>());
        let converter = RowConverter::new(types.map(SortField::new).collect())?;
        let images = self.parts.iter().map(|part| converter.convert_columns(part.batch.columns()));
        let images = images.collect::<Result<Vec<Rows>, _>>()?;
        Ok(self.images.get_or_init(|| images))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use arrow::array::{Int64Array, StringArray};
    use pulso_core::ids::KeyGroup;

    use super::*;

    /// A device without a clock sends the same time for ever.
    #[test]
    fn many_rows_that_are_equally_new_take_no_longer_than_others() {
        const ROWS: usize = 50_000;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("k", Arc::new(StringArray::from(vec!["device"; ROWS]))),
            ("at", Arc::new(Int64Array::from(vec![0; ROWS]))),
            ("v", Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|i| i / 2)))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (changes, key_groups) = (vec![Change::Insert; ROWS].into(), vec![KeyGroup(0); ROWS].into());
        let rows = SinkRows { sink: 0, batch, changes, key_groups };
        let began = Instant::now();
        let fates = reduce(&[0], &Keyed::NewestBy(1), &[&rows], false).unwrap();
        // Each row is there twice.
        assert_eq!((fates.merge.len(), fates.tied), (ROWS / 2, true));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
