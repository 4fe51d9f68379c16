//! The checked job: what a `job.toml` means once every mistake is ruled out.
//!
//! Made only by [`crate::check`]; whoever holds a `JobSpec` need not check names, types or references again.
//! Secrets are resolved; a `JobSpec` is therefore never logged or serialised.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::submission::StateId;

/// A whole checked job. Columns are those of `[fields]` in file order, of the lookups, then those of `[derive]`.
#[derive(Debug, Clone)]
pub struct JobSpec {
    pub name: String,
    /// 1 to 1024; fixed at the first submit.
    pub key_groups: u16,
    pub source: SourceSpec,
    /// In file order; [`TargetIndex`] points in here.
    pub targets: Vec<TargetSpec>,
    pub fields: Vec<FieldSpec>,
    pub rules: Vec<RuleSpec>,
    /// SQL of `[filter] keep`.
    pub filter: Option<SqlExpression>,
    /// In file order.
    pub lookups: Vec<LookupSpec>,
    pub derive: Vec<DeriveSpec>,
    pub time: Option<TimeSpec>,
    pub dedup: Option<DedupSpec>,
    /// In file order; [`RowsFrom::Aggregate`] points in here.
    pub aggregates: Vec<AggregateSpec>,
    /// In file order; the sinks of one target are written in this order.
    pub sinks: Vec<SinkSpec>,
    pub dead_letter: DeadLetterSpec,
    pub panels: Vec<PanelSpec>,
    /// Columns of the routing key (DESIGN: `route_by`, else tombstone key, else the first keyed sink's); empty: by split.
    pub routing_key: Vec<ColumnIndex>,
}

/// What the state of `[dedup]` is called.
pub const DEDUP_STATE: &str = "dedup";

impl JobSpec {
    /// What the job keeps of its records: names, and the numbers in its stores.
    pub fn states(&self) -> impl Iterator<Item = (String, StateId)> {
        let dedup = self.dedup.iter().map(|dedup| (DEDUP_STATE.to_owned(), dedup.state));
        dedup.chain(self.aggregates.iter().map(|aggregate| (aggregate.state_name(), aggregate.state)))
    }
}

impl AggregateSpec {
    /// What its state is called.
    #[must_use]
    pub fn state_name(&self) -> String {
        format!("aggregate {}", self.name)
    }
}

/// Index into the job's columns: `fields`, those of `lookups`, then `derive`.
pub type ColumnIndex = usize;
/// Index into [`JobSpec::targets`].
pub type TargetIndex = usize;

#[derive(Debug, Clone)]
pub enum SourceSpec {
    Kafka(KafkaSourceSpec),
    Files(FilesSourceSpec),
}

#[derive(Debug, Clone)]
pub struct KafkaSourceSpec {
    /// `host:port[,host:port]`
    pub brokers: String,
    pub topic: String,
    pub start: StartPosition,
    /// Columns of the record's key that a record without value deletes.
    pub tombstone_key: Option<Vec<ColumnIndex>>,
    pub on_data_loss: OnDataLoss,
    pub on_change: OnChange,
    /// Further librdkafka properties from `tls` and `sasl`.
    pub security: Vec<(String, SecretString)>,
    /// Longest record value in bytes; a longer one is a dead letter.
    pub max_record: usize,
}

/// A folder of files. Its path must mean the same to the JobManager and to every TaskManager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSourceSpec {
    /// Absolute, with `*`, `?`, `[...]` and `**` as the `glob` crate has them.
    pub pattern: String,
    pub format: SourceFormat,
    /// New files, and lines that are added, are read while the job runs. Else it ends when the files of the submit are read.
    pub follow: bool,
    /// Absolute folder for files that are none of the format; `None`: they stay.
    pub when_bad: Option<PathBuf>,
    /// Absolute folder for files that no replay can need any more; `None`: they stay.
    pub when_done: Option<PathBuf>,
}

/// How patterns of files match: by case, `*` within one name, and files that begin with a point only where it is written.
pub const PATTERN_OPTIONS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFormat {
    /// One document; its records are the elements of the array at `each`, or else it is the one record.
    Json { each: Option<Vec<String>> },
    /// A JSON document a line.
    Jsonl,
    /// RFC 4180. Without a header line the fields are those of `[fields]`, in this order.
    Csv { header: bool, delimiter: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    Earliest,
    Latest,
    /// Microseconds since 1970 UTC.
    At(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDataLoss {
    Fail,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    Fail,
    Accept,
}

#[derive(Debug, Clone)]
pub struct TargetSpec {
    pub name: String,
    pub kind: TargetKind,
}

#[derive(Debug, Clone)]
pub enum TargetKind {
    Postgres {
        url: SecretString,
        /// IANA name: columns of type `timestamp` hold the time of day there.
        zone: String,
        /// Share of refused rows (0 to 1) at which the job pauses.
        max_refused: f64,
    },
    /// MySQL or MariaDB.
    MySql {
        /// Names the database.
        url: SecretString,
        /// IANA name: columns of type DATETIME hold the time of day there.
        zone: String,
        /// Share of refused rows (0 to 1) at which the job pauses.
        max_refused: f64,
    },
    Kafka {
        /// `host:port[,host:port]`
        brokers: String,
        /// Further librdkafka properties from `tls` and `sasl`.
        security: Vec<(String, SecretString)>,
    },
    Files {
        /// Absolute; seen by every TaskManager.
        folder: PathBuf,
        /// A file is finished, and seen by readers, when it is this old.
        roll: Duration,
    },
}

/// Where a field's value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath {
    pub from: PathStart,
    /// Object keys, from the outermost in.
    pub keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathStart {
    Record,
    /// `^`: the document that the record is an element of.
    File,
}

#[derive(Debug, Clone)]
pub struct FieldSpec {
    pub name: String,
    pub kind: FieldType,
    /// Alternatives; the first one present wins.
    pub paths: Vec<FieldPath>,
    pub required: bool,
    /// Inclusive bounds, in the field's own type.
    pub min: Option<Bound>,
    pub max: Option<Bound>,
    /// Allowed texts; empty: any.
    pub one_of: Vec<String>,
    /// Longest string in bytes.
    pub max_bytes: usize,
    pub phi: bool,
    pub unit: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    Int(i64),
    Float(f64),
    /// Unscaled value at the field's scale.
    Decimal(i128),
}

#[derive(Debug, Clone, PartialEq)]
pub enum FieldType {
    String,
    Bool,
    Int32,
    Int64,
    Float64,
    /// Arrow `Decimal128(precision, scale)`.
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// Arrow `Timestamp(Microsecond, "UTC")`.
    Timestamp(TimestampText),
    /// Arrow `Date32`.
    Date,
    /// Arrow `FixedSizeBinary(16)`.
    Uuid,
    /// Arrow `Utf8`, the JSON text.
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TimestampText {
    /// A number of this many units a second since 1970 UTC (1, 1_000, 1_000_000, 1_000_000_000).
    Epoch { per_second: i64 },
    /// RFC 3339; text without a zone is read in `assume_zone` (IANA name), or is an error where that is `None`.
    Rfc3339 { assume_zone: Option<String> },
}

/// The text of a SQL expression that has been parsed, bound to the job's columns and type-checked.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlExpression {
    pub sql: String,
}

#[derive(Debug, Clone)]
pub struct RuleSpec {
    pub name: String,
    pub condition: SqlExpression,
}

/// Rows of a database that records are joined with.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    pub name: String,
    /// A database.
    pub target: TargetIndex,
    /// One SELECT.
    pub sql: String,
    /// Fields; the query has columns of the same names.
    pub on: Vec<ColumnIndex>,
    /// How often the query is run.
    pub refresh: Duration,
    pub missing: Missing,
    pub max_rows: usize,
    /// Columns of the query that the job uses. They count as nullable.
    pub columns: Vec<LookupColumn>,
    /// False: nobody has asked the database, so types are assumed, and the job can be shown but not run.
    pub known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupColumn {
    /// `lookup.column`
    pub name: String,
    pub data_type: arrow::datatypes::DataType,
}

/// What becomes of a record without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    DeadLetter,
    Null,
}

#[derive(Debug, Clone)]
pub struct DeriveSpec {
    pub name: String,
    pub value: SqlExpression,
    pub data_type: arrow::datatypes::DataType,
}

#[derive(Debug, Clone)]
pub struct TimeSpec {
    pub field: ColumnIndex,
    pub delay: Duration,
    pub lateness: Duration,
    pub max_future: Duration,
    pub idle_after: Duration,
}

#[derive(Debug, Clone)]
pub struct DedupSpec {
    pub state: StateId,
    pub key: Vec<ColumnIndex>,
    pub keep_for: Duration,
    pub changed: OnChanged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChanged {
    /// Same key, other values: the one with the greater position wins, a correction.
    Update,
    /// Same key, other values: ignored.
    Drop,
}

/// An aggregate over event-time windows. Its result has the columns of `group_by`, `window_start`, `window_end`, and
/// `columns`: see [`AggregateSpec::result`].
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    pub name: String,
    pub state: StateId,
    /// Rows for which this is true are counted in.
    pub condition: Option<SqlExpression>,
    pub group_by: Vec<ColumnIndex>,
    pub window: WindowSpec,
    pub emit: Emit,
    pub columns: Vec<AggregateColumn>,
    /// The columns of `group_by` do not hold the routing key: the aggregate has an exchange of its own.
    pub own_stage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowSpec {
    /// Windows of `size` begin every `slide`, aligned with 1970-01-01T00:00Z; equal for tumbling windows.
    Sliding { size: Duration, slide: Duration },
    /// A window ends where no row of the group follows for `gap`.
    Session { gap: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// A row as soon as it changes.
    Change,
    /// One row, when the watermark passes the window's end and the lateness.
    Close,
}

/// A column of an aggregate's result.
#[derive(Debug, Clone)]
pub struct AggregateColumn {
    pub name: String,
    /// An expression with aggregate functions.
    pub value: SqlExpression,
    pub data_type: arrow::datatypes::DataType,
    pub nullable: bool,
}

/// Which rows a sink is fed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsFrom {
    Records,
    /// Index into [`JobSpec::aggregates`].
    Aggregate(usize),
    /// Records that came too late for all windows of an aggregate.
    Late,
}

#[derive(Debug, Clone)]
pub struct SinkSpec {
    pub target: TargetIndex,
    pub from: RowsFrom,
    /// Rows for which this is true.
    pub condition: Option<SqlExpression>,
    /// Column of the table (or message, or line) and where its value comes from, in file order.
    pub columns: Vec<SinkColumn>,
    pub to: SinkTo,
}

/// What the rows of a sink become; which one it is follows from the target's kind.
#[derive(Debug, Clone)]
pub enum SinkTo {
    /// Of a database.
    Table(TableSpec),
    /// Of a Kafka cluster.
    Topic(TopicSpec),
    /// Files in the target's folder.
    Files(FileFormat),
}

#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Schema-qualified, each part unquoted; the schema is empty for MySQL's database of the URL.
    pub name: (String, String),
    pub write: WriteMode,
    pub one_to_one: bool,
    pub create: bool,
    pub delete_when: Option<SqlExpression>,
}

#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub topic: String,
    /// Indexes into [`SinkSpec::columns`]; empty: messages have no key.
    pub record_key: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    Jsonl,
    Csv,
    Parquet,
}

/// A table that a database target writes, with what feeds it.
#[derive(Debug, Clone, Copy)]
pub struct TableSink<'a> {
    /// Index into [`JobSpec::sinks`].
    pub index: usize,
    pub sink: &'a SinkSpec,
    pub table: &'a TableSpec,
}

#[derive(Debug, Clone)]
pub struct SinkColumn {
    pub name: String,
    pub value: SinkValue,
    pub data_type: arrow::datatypes::DataType,
    pub nullable: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SinkValue {
    /// Index into the columns of what feeds the sink: the job's, or those of the aggregate's result.
    Column(usize),
    Expression(SqlExpression),
}

#[derive(Debug, Clone, PartialEq)]
pub enum WriteMode {
    /// Indexes into [`SinkSpec::columns`].
    Upsert {
        key: Vec<usize>,
        newest_by: Option<usize>,
    },
    KeepFirst {
        key: Vec<usize>,
    },
    Append,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSpec {
    pub target: TargetIndex,
    pub to: DeadLettersTo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLettersTo {
    /// Schema-qualified table.
    Table((String, String)),
    Topic(String),
    /// JSON lines in the target's folder.
    Files,
}

#[derive(Debug, Clone)]
pub struct PanelSpec {
    pub title: String,
    pub chart: String,
    pub x: Option<String>,
    pub y: Vec<String>,
    pub series: Option<String>,
    pub sql: String,
    pub target: TargetIndex,
    pub every: Duration,
}
