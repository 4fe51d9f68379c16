//! Derived columns and deduplication: the view that sinks and aggregates read.

use pulso_expr::Expression;
use pulso_job::{JobSpec, OnChanged};

use crate::expression::translate_as;
use crate::place::Step;
use crate::sql::{self, own};
use crate::unsaid::Ledger;

pub(crate) fn records(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let levels = derived(job, ledger)?;
    let mut sql = String::new();
    let mut from = own::GOOD.to_owned();
    for (index, columns) in levels.iter().enumerate() {
        let view = format!("{}_{}", own::DERIVED, index + 1);
        let columns: String = columns.iter().map(|column| format!(",\n  {column}")).collect();
        sql.push_str(&format!(
            "CREATE TEMPORARY VIEW {} AS SELECT *{columns}\nFROM {};\n\n",
            sql::name(&view),
            sql::name(&from)
        ));
        from = view;
    }
    sql.push_str(&deduplicated(job, &from, ledger));
    Some(sql)
}

/// Derived columns by how many others they rest on, since a SELECT does not see its own columns.
fn derived(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<Vec<Vec<String>>> {
    let schema = job.schema();
    let mut levels: Vec<Vec<String>> = Vec::new();
    let mut level_of: Vec<usize> = Vec::new();
    let mut good = Some(());
    for derive in &job.derive {
        let read = Expression::compile(&derive.value.sql, &schema).map(|e| e.columns().to_vec()).unwrap_or_default();
        let below = read.iter().filter_map(|column| level_of.get(column.checked_sub(job.first_derived())?));
        let level = below.map(|level| level + 1).max().unwrap_or(0);
        level_of.push(level);
        let path = [Step::Key("derive"), Step::Key(&derive.name)];
        let said = translate_as(&derive.value.sql, &schema, &derive.data_type);
        let Some(value) = ledger.said(said, &path, &format!("[derive] {}", derive.name)) else {
            good = None;
            continue;
        };
        value.notes.into_iter().for_each(|note| ledger.note(note));
        levels.resize_with(levels.len().max(level + 1), Vec::new);
        levels[level].push(format!("{} AS {}", value.sql, sql::name(&derive.name)));
    }
    good.map(|()| levels)
}

fn deduplicated(job: &JobSpec, from: &str, ledger: &mut Ledger<'_>) -> String {
    let (records, from) = (sql::name(own::RECORDS), sql::name(from));
    let Some(dedup) = &job.dedup else { return format!("CREATE TEMPORARY VIEW {records} AS SELECT *\nFROM {from};\n") };
    let (order, which) = match dedup.changed {
        OnChanged::Update => ("DESC", "the last"),
        OnChanged::Drop => ("ASC", "the first"),
    };
    ledger.note(format!(
        "of records with one dedup key, {which} by arrival at the operator counts, where records of one key come from \
         several partitions. In Pulso the position in the input decides, in every replay alike",
    ));
    ledger.note(
        "a dedup key is remembered by the machine's clock (table.exec.state.ttl), in Pulso by event time: after a pause or in \
         a replay that is slower or faster than the original, other duplicates are recognised",
    );
    if job.time.is_some() {
        ledger.note("the event time is cut to milliseconds");
    }
    let key: Vec<&str> = dedup.key.iter().filter_map(|column| job.columns().nth(*column)).collect();
    format!(
        "CREATE TEMPORARY VIEW {records} AS SELECT * FROM (\n  SELECT *, ROW_NUMBER() OVER (PARTITION BY {} ORDER BY {} \
         {order}) AS {number}\n  FROM {from}\n) WHERE {number} = 1;\n",
        sql::names(key),
        sql::name(own::ARRIVED),
        number = sql::name(own::NUMBER),
    )
}
