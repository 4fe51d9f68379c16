//! The topic as a table of texts, and the views that give each field its name and its type.

use pulso_job::{FieldPath, FieldSpec, FieldType, JobSpec, KafkaSourceSpec, OnDataLoss, SourceSpec, StartPosition};

use crate::address::{self, option};
use crate::place::Step;
use crate::sql::{self, own};
use crate::unsaid::Ledger;
use crate::value::parsed;

/// What a JSON object is declared to hold.
enum Node {
    Text,
    Object(Members),
}

type Members = Vec<(String, Node)>;

/// The table and its views; `None` where a field or the source cannot be said.
pub(crate) fn source(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let kafka = match &job.source {
        SourceSpec::Kafka(kafka) => kafka,
        SourceSpec::Files(_) => {
            let why = "`type = \"files\"`: tables of files in Flink have no `each`, `when_bad` and `when_done`";
            ledger.refuse(&[Step::Key("source"), Step::Key("type")], "[source]", why);
            return None;
        }
    };
    let readable = readable(kafka, ledger);
    let members = members(job, ledger);
    let typed = typed(job, ledger);
    let (members, typed) = (members?, typed?);
    readable?;
    notes(job, kafka, ledger);
    let columns: Vec<String> =
        members.iter().map(|(key, node)| format!("  {} {},\n", sql::name(key), declared(node))).collect();
    let table = format!(
        "CREATE TABLE {source} (\n{columns}{metadata}{time}) WITH (\n  {options}\n);\n",
        source = sql::name(own::SOURCE),
        columns = columns.concat(),
        metadata = metadata(),
        time = event_time(job)?,
        options = options(kafka, ledger, &job.name).join(",\n  "),
    );
    let comment = sql::comment(
        "Every JSON value is read as the text that it is, so that a value of another type is seen below and not taken for NULL.",
    );
    Some(format!("{comment}{table}\n{}\n{typed}", texts(job, &members)))
}

fn readable(kafka: &KafkaSourceSpec, ledger: &mut Ledger<'_>) -> Option<()> {
    let at = |key| [Step::Key("source"), Step::Key(key)];
    if kafka.tombstone_key.is_some() {
        let why = "`tombstone`: a changelog of Flink (upsert-kafka) takes a bad record for a delete of the row that it \
                   was to change, and has no dead letters";
        ledger.refuse(&at("tombstone"), "[source]", why);
        return None;
    }
    Some(())
}

fn notes(job: &JobSpec, kafka: &KafkaSourceSpec, ledger: &mut Ledger<'_>) {
    ledger.note(
        "a record that is no JSON object is passed over without a trace (json.ignore-parse-errors); without that setting \
         it would end the job. In Pulso it is a dead letter",
    );
    ledger.note(
        "a number or a bool in quotes is taken for one, and a number for text where text is wanted; in Pulso both are dead \
         letters. Decimals with too many digits are rounded",
    );
    ledger.note(format!("records longer than {} bytes are read like any other", kafka.max_record));
    if kafka.on_data_loss == OnDataLoss::Fail {
        ledger.note("Flink goes on where Kafka has deleted records before they were read; Pulso would fail the job");
    }
    if job.fields.iter().any(|field| field.phi) {
        ledger.note("nothing masks columns marked `phi` in Flink's logs, pages and dumps");
    }
}

/// The tree of the JSON keys that fields read.
fn members(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<Members> {
    let mut root = Members::new();
    let mut good = Some(());
    for field in &job.fields {
        for path in &field.paths {
            let keys: Vec<&str> = keys(path).collect();
            if let Err(why) = grow(&mut root, &keys) {
                ledger.refuse(&[Step::Key("fields"), Step::Key(&field.name)], format!("[fields] {}", field.name), why);
                good = None;
            }
        }
    }
    good.map(|()| root)
}

/// The object keys from the record's root.
fn keys(path: &FieldPath) -> impl Iterator<Item = &str> {
    path.keys.iter().map(String::as_str)
}

fn grow(members: &mut Members, keys: &[&str]) -> Result<(), String> {
    let Some((first, rest)) = keys.split_first() else { return Ok(()) };
    if first.contains('$') {
        return Err(format!("`path`: the key `{first}` has a $, which stands in names of this script"));
    }
    let both = || format!("`path`: `{first}` is read as a value and as an object; Flink declares it as one of them");
    let found = members.iter_mut().find(|(key, _)| key == first);
    match (found, rest) {
        (None, []) => members.push(((*first).to_owned(), Node::Text)),
        (None, _) => {
            let mut inner = Members::new();
            grow(&mut inner, rest)?;
            members.push(((*first).to_owned(), Node::Object(inner)));
        }
        (Some((_, Node::Text)), []) => {}
        (Some((_, Node::Object(inner))), [_, ..]) => grow(inner, rest)?,
        (Some(_), _) => return Err(both()),
    }
    Ok(())
}

fn declared(node: &Node) -> String {
    match node {
        Node::Text => "STRING".to_owned(),
        Node::Object(members) => {
            let inner: Vec<String> =
                members.iter().map(|(key, node)| format!("{} {}", sql::name(key), declared(node))).collect();
            format!("ROW<{}>", inner.join(", "))
        }
    }
}

fn metadata() -> String {
    [
        (own::PARTITION, "INT METADATA FROM 'partition' VIRTUAL"),
        (own::OFFSET, "BIGINT METADATA FROM 'offset' VIRTUAL"),
        (own::TIMESTAMP, "TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL"),
    ]
    .map(|(column, what)| format!("  {} {what},\n", sql::name(column)))
    .concat()
}

/// The arrival and the event time, which is NULL where the record is refused for it, so that it moves no watermark.
fn event_time(job: &JobSpec) -> Option<String> {
    let arrived = format!("  {} AS PROCTIME()", sql::name(own::ARRIVED));
    let Some(time) = &job.time else { return Some(format!("{arrived}\n")) };
    // [time] takes no derived column.
    let field = job.fields.get(time.field)?;
    let value = parsed(field, &text(field), 3).ok()?;
    let limit = format!("{} + {}", sql::name(own::TIMESTAMP), sql::interval(time.max_future));
    let column = sql::name(own::EVENT_TIME);
    let close = job.aggregates.iter().any(|aggregate| aggregate.emit == pulso_job::Emit::Close);
    let delay = if close { time.delay + time.lateness } else { time.delay };
    Some(format!(
        "{arrived},\n  {column} AS CASE WHEN {value} <= {limit} THEN {value} END,\n  WATERMARK FOR {column} AS {column} - \
         {}\n",
        sql::interval(delay)
    ))
}

fn options(kafka: &KafkaSourceSpec, ledger: &Ledger<'_>, group: &str) -> Vec<String> {
    let mut options = vec![option("connector", "kafka"), option("topic", &kafka.topic)];
    options.extend(address::kafka(ledger.places, &[Step::Key("source")], &kafka.security));
    options.push(option("properties.group.id", group));
    options.push(option("properties.isolation.level", "read_committed"));
    match kafka.start {
        StartPosition::Earliest => options.push(option("scan.startup.mode", "earliest-offset")),
        StartPosition::Latest => options.push(option("scan.startup.mode", "latest-offset")),
        StartPosition::At(microseconds) => {
            options.push(option("scan.startup.mode", "timestamp"));
            options.push(option("scan.startup.timestamp-millis", &microseconds.div_euclid(1_000).to_string()));
        }
    }
    options.push(option("scan.topic-partition-discovery.interval", "10 s"));
    options.push(option("format", "json"));
    options.push(option("json.ignore-parse-errors", "true"));
    options
}

/// The text of a field: the first of its paths that is there.
fn text(field: &FieldSpec) -> String {
    let paths: Vec<String> =
        field.paths.iter().map(|path| keys(path).map(sql::name).collect::<Vec<_>>().join(".")).collect();
    match paths.as_slice() {
        [only] => only.clone(),
        several => format!("COALESCE({})", several.join(", ")),
    }
}

/// What else every view hands on.
fn handed_on(job: &JobSpec) -> String {
    let time = job.time.as_ref().map(|_| own::EVENT_TIME);
    let all = [own::RECORD, own::PARTITION, own::OFFSET, own::TIMESTAMP, own::ARRIVED];
    sql::names(all.into_iter().chain(time))
}

fn texts(job: &JobSpec, members: &Members) -> String {
    let fields: Vec<String> =
        job.fields.iter().map(|field| format!("  {} AS {},\n", text(field), sql::name(&field.name))).collect();
    let handed_on = handed_on(job).replacen(&sql::name(own::RECORD), "", 1);
    format!(
        "CREATE TEMPORARY VIEW {} AS SELECT\n{}  {} AS {}{handed_on}\nFROM {};\n",
        sql::name(own::TEXTS),
        fields.concat(),
        object(members, ""),
        sql::name(own::RECORD),
        sql::name(own::SOURCE)
    )
}

/// The record again as JSON, as far as fields read it.
fn object(members: &Members, path: &str) -> String {
    let parts: Vec<String> = members
        .iter()
        .map(|(key, node)| {
            let place = format!("{path}{}", sql::name(key));
            let value = match node {
                Node::Text => place,
                Node::Object(inner) => object(inner, &format!("{place}.")),
            };
            format!("KEY {} VALUE {value}", sql::text(key))
        })
        .collect();
    format!("JSON_OBJECT({} ABSENT ON NULL)", parts.join(", "))
}

/// Name of the column that keeps a field's text.
pub(crate) fn text_of(field: &FieldSpec) -> String {
    format!("{}$text", field.name)
}

fn typed(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let mut columns = Vec::new();
    let mut good = Some(());
    for (index, field) in job.fields.iter().enumerate() {
        let name = sql::name(&field.name);
        let is_time = job.time.as_ref().is_some_and(|time| time.field == index);
        let part = format!("[fields] {}", field.name);
        let path = [Step::Key("fields"), Step::Key(&field.name)];
        match (ledger.said(parsed(field, &name, 6), &path, &part), &field.kind) {
            (None, _) => good = None,
            (Some(_), FieldType::String) => columns.push(format!("  {name},\n")),
            (Some(_), _) if is_time => {
                let time = sql::name(own::EVENT_TIME);
                columns.push(format!("  {name} AS {},\n  {time} AS {name},\n", sql::name(&text_of(field))));
            }
            (Some(value), _) => {
                columns.push(format!("  {name} AS {},\n  {value} AS {name},\n", sql::name(&text_of(field))));
            }
        }
    }
    good?;
    Some(format!(
        "CREATE TEMPORARY VIEW {} AS SELECT\n{}  {}\nFROM {};\n",
        sql::name(own::TYPED),
        columns.concat(),
        handed_on(job),
        sql::name(own::TEXTS)
    ))
}
