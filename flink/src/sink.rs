//! Where rows go: a table and an INSERT for each sink.

use arrow::datatypes::{DataType, SchemaRef};
use pulso_job::{
    DeadLettersTo, JobSpec, RowsFrom, SinkColumn, SinkSpec, SinkTo, SinkValue, TableSpec, TargetKind, TopicSpec,
    WriteMode,
};

use crate::address::{self, option};
use crate::expression::{translate, translate_as};
use crate::feed::{Feed, feed};
use crate::place::Step;
use crate::sql::{self, own};
use crate::unsaid::Ledger;

const UNQUOTED: &str = "Flink's JDBC sink does not quote names";
const WITHOUT_ZONE: &str = "TIMESTAMP(6)";
const ZONE: &str = "times go to databases in the zone of the machine's Java: TaskManagers need -Duser.timezone=UTC in \
                    env.java.opts.all";

/// A table and what is written to it.
pub(crate) struct Output {
    pub(crate) table: String,
    pub(crate) insert: String,
}

/// `None` for a sink that cannot be said.
pub(crate) fn sinks(job: &JobSpec, aggregates: &[Option<String>], ledger: &mut Ledger<'_>) -> Vec<Option<Output>> {
    job.sinks.iter().enumerate().map(|(index, sink)| output(job, index, sink, aggregates, ledger)).collect()
}

fn output(
    job: &JobSpec,
    index: usize,
    sink: &SinkSpec,
    aggregates: &[Option<String>],
    ledger: &mut Ledger<'_>,
) -> Option<Output> {
    let what = match &sink.to {
        SinkTo::Table(table) => table.name.1.as_str(),
        SinkTo::Topic(topic) => topic.topic.as_str(),
        SinkTo::Files(_) => "files",
    };
    let part = format!("[[sink]] {what}");
    let Some(feed) = feed(job, sink.from) else {
        let why = "`from = \"late\"`: Flink SQL drops late records, and has no rows of them";
        ledger.refuse(&at(index, "from"), part, why);
        return None;
    };
    if let RowsFrom::Aggregate(from) = sink.from
        && aggregates.get(from).is_none_or(Option::is_none)
    {
        ledger.refuse(&at(index, "from"), part, "`from`: its aggregate cannot be said");
        return None;
    }
    let name = format!("sink_{}_{}", index + 1, what);
    let rows = rows(job, index, sink, &feed, &part, ledger);
    let (key, options) = match &sink.to {
        SinkTo::Table(table) => database(job, index, sink, table, &feed, &part, ledger)?,
        SinkTo::Topic(topic) => kafka(job, index, sink, topic, &feed, &part, ledger)?,
        SinkTo::Files(_) => {
            let why =
                "`to`: files of Flink become whole at checkpoints and have other names; declare a `filesystem` table";
            ledger.refuse(&at(index, "to"), part, why);
            return None;
        }
    };
    let (columns, select) = rows?;
    let key = match key.as_slice() {
        [] => String::new(),
        key => format!(
            ",\n  PRIMARY KEY ({}) NOT ENFORCED",
            sql::names(key.iter().map(|at| sink.columns[*at].name.as_str()))
        ),
    };
    let name = sql::name(&name);
    Some(Output {
        table: format!("CREATE TABLE {name} (\n{columns}{key}\n) WITH (\n  {}\n);\n", options.join(",\n  ")),
        insert: format!("INSERT INTO {name} {select};\n"),
    })
}

fn at(index: usize, key: &'static str) -> [Step<'static>; 3] {
    [Step::Key("sink"), Step::Item(index), Step::Key(key)]
}

/// The table's columns, and the SELECT that fills them.
fn rows(
    job: &JobSpec,
    index: usize,
    sink: &SinkSpec,
    feed: &Feed,
    part: &str,
    ledger: &mut Ledger<'_>,
) -> Option<(String, String)> {
    let schema = job.feed_schema(sink.from);
    let database = matches!(sink.to, SinkTo::Table(_));
    let condition = sink
        .condition
        .as_ref()
        .map(|condition| ledger.said(translate(&condition.sql, &schema), &at(index, "where"), part));
    let columns: Vec<Option<(String, String)>> =
        sink.columns.iter().map(|column| filled(index, column, &schema, (part, database), ledger)).collect();
    let columns = columns.into_iter().collect::<Option<Vec<_>>>()?;
    let filter = match condition {
        None => String::new(),
        Some(condition) => {
            let condition = condition?;
            condition.notes.into_iter().for_each(|note| ledger.note(note));
            format!("\nWHERE {}", condition.sql)
        }
    };
    let (declared, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
    let select = format!("SELECT\n  {}\nFROM {}{filter}", values.join(", "), sql::name(&feed.view));
    Some((declared.join(",\n"), select))
}

/// A column's declaration and its value.
fn filled(
    index: usize,
    column: &SinkColumn,
    schema: &SchemaRef,
    (part, database): (&str, bool),
    ledger: &mut Ledger<'_>,
) -> Option<(String, String)> {
    let path = [Step::Key("sink"), Step::Item(index), Step::Key("columns"), Step::Key(&column.name)];
    let part = format!("{part}, column {}", column.name);
    let data_type = ledger.said(sql::data_type(&column.data_type), &path, &part)?;
    if database && sql::RESERVED.contains(&column.name.as_str()) {
        ledger.refuse(&path, part, format!("`{}` is a word of SQL, and {UNQUOTED}", column.name));
        return None;
    }
    let value = match &column.value {
        SinkValue::Column(index) => sql::name(schema.fields().get(*index)?.name()),
        SinkValue::Expression(value) => {
            let value = ledger.said(translate_as(&value.sql, schema, &column.data_type), &path, &part)?;
            value.notes.into_iter().for_each(|note| ledger.note(note));
            value.sql
        }
    };
    // Flink's JDBC sink takes no other times.
    let (data_type, value) = if database && matches!(column.data_type, DataType::Timestamp(..)) {
        ledger.note(ZONE);
        (WITHOUT_ZONE.to_owned(), format!("CAST({value} AS {WITHOUT_ZONE})"))
    } else {
        (data_type, value)
    };
    Some((format!("  {} {data_type}", sql::name(&column.name)), value))
}

/// True where each row that changes is found by the very key of its sink: then changes of it come in order, and Flink need
/// not keep all rows once more to put them in order.
pub(crate) fn keys_are_identities(job: &JobSpec) -> bool {
    job.sinks.iter().all(|sink| {
        let Some(feed) = feed(job, sink.from).filter(|feed| feed.changes) else { return true };
        let key: &[usize] = match &sink.to {
            SinkTo::Table(table) => table.write.key(),
            SinkTo::Topic(topic) => &topic.record_key,
            SinkTo::Files(_) => return true,
        };
        same_rows(sink, key, &feed)
    })
}

fn same_rows(sink: &SinkSpec, key: &[usize], feed: &Feed) -> bool {
    let behind = |at: &usize| match sink.columns.get(*at).map(|column| &column.value) {
        Some(SinkValue::Column(index)) => feed.identity.contains(index),
        Some(SinkValue::Expression(_)) | None => false,
    };
    key.len() == feed.identity.len() && key.iter().all(behind)
}

/// Columns of the primary key, and the options.
fn database(
    job: &JobSpec,
    index: usize,
    sink: &SinkSpec,
    table: &TableSpec,
    feed: &Feed,
    part: &str,
    ledger: &mut Ledger<'_>,
) -> Option<(Vec<usize>, Vec<String>)> {
    let target = job.targets.get(sink.target)?;
    match &target.kind {
        TargetKind::Postgres { zone, .. } if zone != "UTC" => {
            ledger.note("columns without zone get times of UTC, whatever `zone` of the target says");
        }
        TargetKind::MySql { .. } => {
            ledger.refuse(&at(index, "to"), part, "`to`: targets of type mysql are not translated");
            return None;
        }
        TargetKind::Postgres { .. } | TargetKind::Kafka { .. } | TargetKind::Files { .. } => {}
    }
    let key = match &table.write {
        WriteMode::Upsert { key, newest_by: None } => Ok(key.clone()),
        WriteMode::Upsert { newest_by: Some(_), .. } => {
            Err(("newest_by", "`newest_by`: Flink's JDBC sink overwrites a row whatever is in it"))
        }
        WriteMode::KeepFirst { .. } => {
            Err(("write", "`write = \"keep_first\"`: Flink's JDBC sink inserts or overwrites, and never keeps a row"))
        }
        WriteMode::Append if feed.changes => {
            Err(("write", "`write = \"append\"`: Flink cannot append corrections to a table, only change its rows"))
        }
        WriteMode::Append => Ok(Vec::new()),
    };
    if table.delete_when.is_some() {
        let why = "`delete_when`: a row of Flink is deleted by a change of its input, and not by an expression";
        ledger.refuse(&at(index, "delete_when"), part, why);
        return None;
    }
    if sql::RESERVED.contains(&table.name.1.as_str()) {
        ledger.refuse(
            &at(index, "table"),
            part,
            format!("`table`: `{}` is a word of SQL, and {UNQUOTED}", table.name.1),
        );
        return None;
    }
    let key = match key {
        Ok(key) => key,
        Err((place, why)) => {
            ledger.refuse(&at(index, place), part, why);
            return None;
        }
    };
    if key.is_empty() {
        ledger.note(format!(
            "{part}: rows since the last checkpoint are written a second time after a crash (at least once)"
        ));
    }
    ledger.note(
        "tables of one database are written one by one and not in one transaction: for a while one shows what another does \
         not yet",
    );
    let options = vec![
        option("connector", "jdbc"),
        option("url", &address::jdbc(ledger.places, &target.name)),
        option("table-name", &format!("{}.{}", table.name.0, table.name.1)),
        option("sink.buffer-flush.max-rows", "1000"),
        option("sink.buffer-flush.interval", "1 s"),
    ];
    Some((key, options))
}

/// Changing rows make a changelog with the record key as its key; others are messages.
fn kafka(
    job: &JobSpec,
    index: usize,
    sink: &SinkSpec,
    topic: &TopicSpec,
    feed: &Feed,
    part: &str,
    ledger: &mut Ledger<'_>,
) -> Option<(Vec<usize>, Vec<String>)> {
    let target = job.targets.get(sink.target)?;
    let TargetKind::Kafka { security, .. } = &target.kind else { return None };
    let section = [Step::Key("target"), Step::Key(&target.name)];
    let connector = if feed.changes { "upsert-kafka" } else { "kafka" };
    let mut options = vec![option("connector", connector), option("topic", &topic.topic)];
    options.extend(address::kafka(ledger.places, &section, security));
    let columns = &sink.columns;
    let key_format = if topic.record_key.len() == 1 { "raw" } else { "json" };
    if feed.changes {
        if !same_rows(sink, &topic.record_key, feed) {
            let why = "`record_key`: rows can be corrected, and Flink writes corrections to Kafka only as changes of the \
                       row with this key: it would have to be the dedup key (of an aggregate: `group_by` and `window_start`)";
            ledger.refuse(&at(index, "record_key"), part, why);
            return None;
        }
        ledger.note(format!(
            "{part}: a correction is a newer record of its key, a delete one without value; no header marks them"
        ));
        options.extend([option("key.format", key_format), option("value.format", "json")]);
    } else if topic.record_key.is_empty() {
        options.push(option("format", "json"));
    } else {
        let fields: Vec<&str> = topic.record_key.iter().map(|at| columns[*at].name.as_str()).collect();
        options.extend([option("key.format", key_format), option("key.fields", &fields.join(";"))]);
        options.push(option("value.format", "json"));
    }
    let format = if feed.changes || !topic.record_key.is_empty() { "value.json" } else { "json" };
    options.push(option(&format!("{format}.timestamp-format.standard"), "ISO-8601"));
    options.extend(exactly_once(&format!("{}-sink-{}", job.name, index + 1)));
    let key = if feed.changes { topic.record_key.clone() } else { Vec::new() };
    Some((key, options))
}

/// Brokers allow transactions of 15 minutes unless told otherwise, Flink asks for an hour.
fn exactly_once(name: &str) -> [String; 3] {
    [
        option("sink.delivery-guarantee", "exactly-once"),
        option("sink.transactional-id-prefix", name),
        option("properties.transaction.timeout.ms", "900000"),
    ]
}

/// Refused records with their reason.
pub(crate) fn dead_letters(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<Output> {
    let target = job.targets.get(job.dead_letter.target)?;
    let options = match (&target.kind, &job.dead_letter.to) {
        (TargetKind::Kafka { security, .. }, DeadLettersTo::Topic(topic)) => {
            let mut options = vec![option("connector", "kafka"), option("topic", topic)];
            options.extend(address::kafka(ledger.places, &[Step::Key("target"), Step::Key(&target.name)], security));
            options.push(option("format", "json"));
            options.push(option("json.timestamp-format.standard", "ISO-8601"));
            options.extend(exactly_once(&format!("{}-dead-letters", job.name)));
            options
        }
        (TargetKind::Postgres { .. }, DeadLettersTo::Table(_)) => vec![
            option("connector", "jdbc"),
            option("url", &address::jdbc(ledger.places, &target.name)),
            option("table-name", &dead_letter_table(job)?),
        ],
        _ => {
            ledger.refuse(
                &[Step::Key("dead_letter"), Step::Key("to")],
                "[dead_letter]",
                "`to`: not to a target of this type",
            );
            return None;
        }
    };
    ledger.note("a dead letter holds what fields read of the record, not its bytes");
    let (name, time) = (sql::name(own::DEAD_LETTERS), sql::name(own::TIMESTAMP));
    let (data_type, time) = match target.kind {
        TargetKind::Kafka { .. } | TargetKind::Files { .. } => ("TIMESTAMP_LTZ(3)", time),
        TargetKind::Postgres { .. } | TargetKind::MySql { .. } => {
            ledger.note(ZONE);
            (WITHOUT_ZONE, format!("CAST({time} AS {WITHOUT_ZONE})"))
        }
    };
    Some(Output {
        table: format!(
            "CREATE TABLE {name} (\n  `reason` STRING, `split` INT, `position` BIGINT, `record_time` {data_type}, `record` \
             STRING\n) WITH (\n  {}\n);\n",
            options.join(",\n  ")
        ),
        insert: format!(
            "INSERT INTO {name} SELECT\n  {}, {time}, {}\nFROM {} WHERE {} IS NOT NULL;\n",
            sql::names([own::PROBLEM, own::PARTITION, own::OFFSET]),
            sql::name(own::RECORD),
            sql::name(own::JUDGED),
            sql::name(own::PROBLEM)
        ),
    })
}

/// The only database that is translated.
pub(crate) fn is_postgres(job: &JobSpec, target: usize) -> bool {
    job.targets.get(target).is_some_and(|target| matches!(target.kind, TargetKind::Postgres { .. }))
}

/// Another one than Pulso's, which has other columns. `None` where they go to no table that can be said.
pub(crate) fn dead_letter_table(job: &JobSpec) -> Option<String> {
    match &job.dead_letter.to {
        DeadLettersTo::Table((schema, table)) if is_postgres(job, job.dead_letter.target) => {
            let schema = if schema == "pulso" { "public" } else { schema };
            Some(format!("{schema}.{table}_of_flink"))
        }
        DeadLettersTo::Table(_) | DeadLettersTo::Topic(_) | DeadLettersTo::Files => None,
    }
}
