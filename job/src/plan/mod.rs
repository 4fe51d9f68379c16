//! What would run, before it runs: stages and exchanges, the order of writing, and hints where a file could say it cheaper.

mod compare;

use std::fmt;

use serde::Serialize;

pub use self::compare::{Comparison, Fate, StateChange, compare, kept};
use crate::spec::{
    AggregateSpec, ColumnIndex, DeadLettersTo, Emit, FileFormat, JobSpec, LookupSpec, Missing, OnChanged, RowsFrom,
    SinkSpec, SinkTo, SourceSpec, TargetKind, WindowSpec, WriteMode,
};
use crate::unit::show_duration;

/// A job as it would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub job: String,
    pub key_groups: u16,
    pub source: String,
    /// In file order.
    pub lookups: Vec<LookupPlan>,
    pub stages: Vec<StagePlan>,
    /// In file order.
    pub targets: Vec<TargetPlan>,
    pub dead_letters: String,
    /// Where another file would do the same with less.
    pub hints: Vec<String>,
}

/// Rows that records are joined with before they are exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LookupPlan {
    pub name: String,
    pub target: String,
    pub on: Vec<String>,
    /// How often it is read.
    pub refresh: String,
    /// `dead_letter` or `null`: what becomes of a record without a row.
    pub missing: &'static str,
    /// No database was asked for the types of its columns, so what uses them is not checked for types.
    pub types_assumed: bool,
}

/// An exchange and the work behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    /// Columns by whose values rows are spread over the key groups: of the first stage one list, empty where it is the split
    /// that decides; of the second one for each aggregate.
    pub exchange_by: Vec<Vec<String>>,
    /// Where that follows from.
    pub because: String,
    pub work: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetPlan {
    pub name: String,
    pub kind: &'static str,
    /// In the order in which a transaction writes them.
    pub writes: Vec<String>,
}

/// What a checked job comes to.
#[must_use]
pub fn plan(job: &JobSpec) -> Plan {
    let mut stages = vec![first_stage(job)];
    stages.extend((job.stages() > 1).then(|| second_stage(job)));
    Plan {
        job: job.name.clone(),
        key_groups: job.key_groups,
        source: source(job),
        lookups: job.lookups.iter().map(|lookup| lookup_plan(job, lookup)).collect(),
        stages,
        targets: (0..job.targets.len()).map(|target| target_plan(job, target)).collect(),
        dead_letters: dead_letters(job),
        hints: job.aggregates.iter().filter_map(|aggregate| route_hint(job, aggregate)).collect(),
    }
}

/// Names of columns.
fn names(job: &JobSpec, columns: &[ColumnIndex]) -> Vec<String> {
    columns.iter().filter_map(|column| job.columns().nth(*column)).map(str::to_owned).collect()
}

fn listed(job: &JobSpec, columns: &[ColumnIndex]) -> String {
    names(job, columns).join(", ")
}

fn source(job: &JobSpec) -> String {
    match &job.source {
        SourceSpec::Kafka(kafka) => format!("topic {}", kafka.topic),
        SourceSpec::Files(files) => format!("files {}", files.pattern),
    }
}

fn lookup_plan(job: &JobSpec, lookup: &LookupSpec) -> LookupPlan {
    LookupPlan {
        name: lookup.name.clone(),
        target: job.targets.get(lookup.target).map_or_else(String::new, |target| target.name.clone()),
        on: names(job, &lookup.on),
        refresh: show_duration(lookup.refresh),
        missing: match lookup.missing {
            Missing::DeadLetter => "dead_letter",
            Missing::Null => "null",
        },
        types_assumed: !lookup.known,
    }
}

fn first_stage(job: &JobSpec) -> StagePlan {
    let because = match &job.dedup {
        _ if job.routing_key.is_empty() => "nothing names a key: records stay with their split",
        Some(dedup) if dedup.key == job.routing_key => "the key of [dedup]",
        Some(_) => "`route_by` of [dedup]",
        None if job.deletes() => "the key of tombstones",
        None => "the key of the first sink",
    };
    let mut work = Vec::new();
    if let Some(dedup) = &job.dedup {
        let changed = match dedup.changed {
            OnChanged::Update => "a changed record corrects",
            OnChanged::Drop => "a changed record is ignored",
        };
        let (key, keep_for) = (listed(job, &dedup.key), show_duration(dedup.keep_for));
        work.push(format!("dedup by {key}, remembered for {keep_for}; {changed}"));
    }
    for aggregate in job.aggregates.iter().filter(|aggregate| !aggregate.own_stage) {
        work.push(format!(
            "{}; its group_by holds the routing key, so it shares this exchange",
            figures(job, aggregate)
        ));
    }
    StagePlan { exchange_by: vec![names(job, &job.routing_key)], because: because.to_owned(), work }
}

fn second_stage(job: &JobSpec) -> StagePlan {
    let own: Vec<&AggregateSpec> = job.aggregates.iter().filter(|aggregate| aggregate.own_stage).collect();
    let why = |aggregate: &&AggregateSpec| {
        let lacking = job.routing_key.iter().copied().filter(|column| !aggregate.group_by.contains(column));
        match lacking.collect::<Vec<_>>().as_slice() {
            [] => "records are spread by split, so a group is in several places".to_owned(),
            lacking => format!("the group_by of {} lacks {} of the routing key", aggregate.name, listed(job, lacking)),
        }
    };
    StagePlan {
        exchange_by: own.iter().map(|aggregate| names(job, &aggregate.group_by)).collect(),
        because: own.iter().map(why).collect::<Vec<_>>().join("; "),
        work: own.iter().map(|aggregate| figures(job, aggregate)).collect(),
    }
}

fn figures(job: &JobSpec, aggregate: &AggregateSpec) -> String {
    let window = match aggregate.window {
        WindowSpec::Sliding { size, slide } if size == slide => format!("windows of {}", show_duration(size)),
        WindowSpec::Sliding { size, slide } => {
            format!("windows of {} every {}", show_duration(size), show_duration(slide))
        }
        WindowSpec::Session { gap } => format!("sessions with gaps under {}", show_duration(gap)),
    };
    let emit = match aggregate.emit {
        Emit::Change => "a row at every change",
        Emit::Close => "a row when a window closes",
    };
    format!("aggregate {} by {}, {window}, {emit}", aggregate.name, listed(job, &aggregate.group_by))
}

fn target_plan(job: &JobSpec, target: usize) -> TargetPlan {
    let found = job.targets.get(target);
    let kind = match found.map(|target| &target.kind) {
        Some(TargetKind::Postgres { .. }) => "postgres",
        Some(TargetKind::MySql { .. }) => "mysql",
        Some(TargetKind::Kafka { .. }) => "kafka",
        Some(TargetKind::Files { .. }) => "files",
        None => "",
    };
    let sinks = job.sinks.iter().filter(|sink| sink.target == target);
    TargetPlan {
        name: found.map_or_else(String::new, |target| target.name.clone()),
        kind,
        writes: sinks.map(|sink| written(job, sink)).collect(),
    }
}

fn written(job: &JobSpec, sink: &SinkSpec) -> String {
    let from = match sink.from {
        RowsFrom::Records => "records",
        RowsFrom::Late => "late records",
        RowsFrom::Aggregate(index) => job.aggregates.get(index).map_or("", |aggregate| &aggregate.name),
    };
    let named = |columns: &[usize]| {
        let names = columns.iter().filter_map(|column| sink.columns.get(*column));
        names.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let how = match &sink.to {
        SinkTo::Table(table) => match &table.write {
            WriteMode::Upsert { key, newest_by: None } => format!("upsert by {}", named(key)),
            WriteMode::Upsert { key, newest_by: Some(newest) } => {
                format!("upsert by {}, the newest by {} stays", named(key), named(&[*newest]))
            }
            WriteMode::KeepFirst { key } => format!("the first by {} stays", named(key)),
            WriteMode::Append => "append".to_owned(),
        },
        SinkTo::Topic(topic) if topic.record_key.is_empty() => "messages without key".to_owned(),
        SinkTo::Topic(topic) => format!("messages with key {}", named(&topic.record_key)),
        SinkTo::Files(FileFormat::Jsonl) => "JSON lines".to_owned(),
        SinkTo::Files(FileFormat::Csv) => "CSV".to_owned(),
        SinkTo::Files(FileFormat::Parquet) => "Parquet".to_owned(),
    };
    format!("{} from {from}: {how}", place(job, sink))
}

/// What a sink writes to, as people name it.
fn place(job: &JobSpec, sink: &SinkSpec) -> String {
    match &sink.to {
        SinkTo::Table(table) => table_name(&table.name),
        SinkTo::Topic(topic) => format!("topic {}", topic.topic),
        SinkTo::Files(_) => format!("files of {}", job.targets.get(sink.target).map_or("", |target| &target.name)),
    }
}

fn table_name((schema, name): &(String, String)) -> String {
    if schema.is_empty() { format!("table {name}") } else { format!("table {schema}.{name}") }
}

fn dead_letters(job: &JobSpec) -> String {
    let target = job.targets.get(job.dead_letter.target).map_or("", |target| &target.name);
    match &job.dead_letter.to {
        DeadLettersTo::Table(name) => format!("{} in {target}", table_name(name)),
        DeadLettersTo::Topic(topic) => format!("topic {topic} in {target}"),
        DeadLettersTo::Files => format!("files of {target}"),
    }
}

/// The `route_by` that would save an aggregate its exchange: its group-by, where that is a part of the dedup key and in the
/// key of every sink that would then need it.
fn route_hint(job: &JobSpec, aggregate: &AggregateSpec) -> Option<String> {
    let dedup = job.dedup.as_ref().filter(|_| aggregate.own_stage)?;
    let part = aggregate.group_by.iter().all(|column| dedup.key.contains(column));
    let shared =
        |other: &AggregateSpec| other.own_stage || aggregate.group_by.iter().all(|c| other.group_by.contains(c));
    let fits = part
        && job.sinks.iter().all(|sink| takes_route(sink, &aggregate.group_by))
        && job.aggregates.iter().all(shared);
    let quoted = names(job, &aggregate.group_by).join("\", \"");
    fits.then(|| {
        format!(
            "`route_by = [\"{quoted}\"]` in [dedup] would save the aggregate {} its exchange: all of its group_by is in the \
             dedup key. Records of one group are then worked on in one place, so it pays where there are many groups",
            aggregate.name
        )
    })
}

/// A sink of records needs the whole routing key in its key, unless it settles by itself which row stays.
fn takes_route(sink: &SinkSpec, route: &[ColumnIndex]) -> bool {
    let SinkTo::Table(table) = &sink.to else { return true };
    let key = match &table.write {
        WriteMode::Upsert { newest_by: Some(_), .. } | WriteMode::Append => return true,
        WriteMode::Upsert { key, newest_by: None } | WriteMode::KeepFirst { key } => key,
    };
    let in_key = |column: &ColumnIndex| {
        let value = crate::spec::SinkValue::Column(*column);
        key.iter().any(|at| sink.columns.get(*at).is_some_and(|key| key.value == value))
    };
    table.one_to_one || !matches!(sink.from, RowsFrom::Records) || route.iter().all(in_key)
}

impl fmt::Display for LookupPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, target, on, refresh, missing, types_assumed } = self;
        let without = if *missing == "null" { "has nulls in its columns" } else { "is a dead letter" };
        let on = on.join(", ");
        write!(
            f,
            "lookup {name}: read from {target} every {refresh}, joined by {on}; a record without a row {without}"
        )?;
        let assumed = "; types of its columns are assumed: its database was not asked";
        if *types_assumed { f.write_str(assumed) } else { Ok(()) }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "job {}: reads {}, state in {} key groups", self.job, self.source, self.key_groups)?;
        self.lookups.iter().try_for_each(|lookup| writeln!(f, "{lookup}"))?;
        for (number, stage) in (1..).zip(&self.stages) {
            let key = |columns: &Vec<String>| if columns.is_empty() { "split".to_owned() } else { columns.join(", ") };
            let by = stage.exchange_by.iter().map(key).collect::<Vec<_>>().join(" and by ");
            writeln!(f, "stage {number}: exchange by {by} ({})", stage.because)?;
            stage.work.iter().try_for_each(|work| writeln!(f, "  {work}"))?;
        }
        for target in &self.targets {
            writeln!(f, "target {} ({}), one transaction per TaskManager and epoch:", target.name, target.kind)?;
            let writes = (1..).zip(&target.writes);
            writes.into_iter().try_for_each(|(number, text)| writeln!(f, "  {number}. {text}"))?;
        }
        write!(f, "dead letters: {}", self.dead_letters)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}
