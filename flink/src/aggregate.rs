//! Aggregates over windows, each a view.

use pulso_job::{AggregateSpec, Emit, JobSpec, WindowSpec};

use crate::expression::{translate, translate_as};
use crate::feed::aggregate_view;
use crate::place::Step;
use crate::sql::{self, own};
use crate::unsaid::Ledger;

/// A view for each aggregate; `None` for one that cannot be said.
pub(crate) fn aggregates(job: &JobSpec, ledger: &mut Ledger<'_>) -> Vec<Option<String>> {
    job.aggregates.iter().enumerate().map(|(index, aggregate)| view(job, index, aggregate, ledger)).collect()
}

fn view(job: &JobSpec, index: usize, aggregate: &AggregateSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let part = format!("[[aggregate]] {}", aggregate.name);
    let at = |key| [Step::Key("aggregate"), Step::Item(index), Step::Key(key)];
    let window = ledger.said(window(job, aggregate), &at("window"), &part);
    let condition = aggregate
        .condition
        .as_ref()
        .map(|condition| ledger.said(translate(&condition.sql, &job.schema()), &at("where"), &part));
    let columns = columns(job, index, aggregate, ledger);
    let (window, columns) = (window?, columns?);
    let filter = match condition {
        None => String::new(),
        Some(condition) => {
            let condition = condition?;
            condition.notes.into_iter().for_each(|note| ledger.note(note));
            format!("\n  WHERE {}", condition.sql)
        }
    };
    notes(job, aggregate, ledger);
    let keys: Vec<&str> = aggregate.group_by.iter().filter_map(|column| job.columns().nth(*column)).collect();
    let keys: String = keys.iter().map(|key| format!("{}, ", sql::name(key))).collect();
    Some(match aggregate.emit {
        Emit::Change => on_change(aggregate, &window, &keys, &columns, &filter),
        Emit::Close => on_close(aggregate, &window, &keys, &columns, &filter),
    })
}

/// Groups by the window's bounds as by any other value: rows change as soon as their group does, and are corrected later.
fn on_change(aggregate: &AggregateSpec, window: &str, keys: &str, columns: &str, filter: &str) -> String {
    let (start, end) = (sql::name(own::WINDOW_START), sql::name(own::WINDOW_END));
    format!(
        "CREATE TEMPORARY VIEW {view} AS SELECT\n  {keys}{start} AS `window_start`, {end} AS `window_end`,\n{columns}\n\
         FROM (\n  SELECT *, CAST(`window_start` AS TIMESTAMP_LTZ(3)) AS {start}, CAST(`window_end` AS TIMESTAMP_LTZ(3)) AS \
         {end}\n  FROM TABLE({window}){filter}\n) GROUP BY {keys}{start}, {end};\n",
        view = sql::name(&aggregate_view(&aggregate.name)),
    )
}

/// A window aggregate of Flink: one row when the watermark passes the window's end.
fn on_close(aggregate: &AggregateSpec, window: &str, keys: &str, columns: &str, filter: &str) -> String {
    format!(
        "CREATE TEMPORARY VIEW {view} AS SELECT\n  {keys}CAST(`window_start` AS TIMESTAMP_LTZ(3)) AS `window_start`, \
         CAST(`window_end` AS TIMESTAMP_LTZ(3)) AS `window_end`,\n{columns}\nFROM TABLE({window}){filter}\n\
         GROUP BY {keys}`window_start`, `window_end`;\n",
        view = sql::name(&aggregate_view(&aggregate.name)),
    )
}

fn window(job: &JobSpec, aggregate: &AggregateSpec) -> Result<String, String> {
    let (records, time) = (sql::name(own::RECORDS), sql::name(own::EVENT_TIME));
    match aggregate.window {
        WindowSpec::Sliding { size, slide } if size == slide => {
            Ok(format!("TUMBLE(TABLE {records}, DESCRIPTOR({time}), {})", sql::interval(size)))
        }
        WindowSpec::Sliding { size, slide } if size.as_micros() % slide.as_micros() == 0 => {
            let (size, slide) = (sql::interval(size), sql::interval(slide));
            Ok(format!("HOP(TABLE {records}, DESCRIPTOR({time}), {slide}, {size})"))
        }
        WindowSpec::Sliding { .. } => Err("`window`: in Flink `size` must be a multiple of `slide`".to_owned()),
        WindowSpec::Session { .. } if aggregate.emit == Emit::Change => {
            Err("`window`: sessions give their rows when they close; only with `emit = \"close\"`".to_owned())
        }
        WindowSpec::Session { .. } if job.corrects() => {
            Err("`window`: sessions take no corrections in Flink; only with `changed = \"drop\"` in [dedup]".to_owned())
        }
        WindowSpec::Session { gap } => {
            let keys: Vec<&str> = aggregate.group_by.iter().filter_map(|column| job.columns().nth(*column)).collect();
            Ok(format!(
                "SESSION(TABLE {records} PARTITION BY ({}), DESCRIPTOR({time}), {})",
                sql::names(keys),
                sql::interval(gap)
            ))
        }
    }
}

fn columns(job: &JobSpec, index: usize, aggregate: &AggregateSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let schema = job.schema();
    let mut columns = Vec::new();
    for column in &aggregate.columns {
        let path = [Step::Key("aggregate"), Step::Item(index), Step::Key("columns"), Step::Key(&column.name)];
        let part = format!("[[aggregate]] {}, column {}", aggregate.name, column.name);
        let said = translate_as(&column.value.sql, &schema, &column.data_type);
        columns.push(ledger.said(said, &path, &part).map(|value| {
            value.notes.into_iter().for_each(|note| ledger.note(note));
            format!("  {} AS {}", value.sql, sql::name(&column.name))
        }));
    }
    columns.into_iter().collect::<Option<Vec<_>>>().map(|columns| columns.join(",\n"))
}

fn notes(job: &JobSpec, aggregate: &AggregateSpec, ledger: &mut Ledger<'_>) {
    match aggregate.emit {
        Emit::Change => ledger.note(format!(
            "aggregate {}: records count in however late they are, as long as the state lives (table.exec.state.ttl); one \
             that comes later begins its window anew, and the row of before is overwritten",
            aggregate.name
        )),
        Emit::Close => ledger.note(format!(
            "aggregate {}: the watermark lags by `lateness` too, so that windows close as late as in Pulso; later records \
             are dropped and counted by Flink's numLateRecordsDropped alone",
            aggregate.name
        )),
    }
    if aggregate.emit == Emit::Close && job.corrects() {
        ledger.note("a correction for a window that has closed is dropped");
    }
}
