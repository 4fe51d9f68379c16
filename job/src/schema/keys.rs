//! Every key of the language, as an editor shows it. docs/job-reference.md says the same at more length; a test holds
//! this against what the checker asks for.

use super::{Key, Kind};
use crate::check::{CHARTS, TYPES};

type Keys = &'static [Key];

pub(crate) const TOP: Keys = &[
    Key::new("version", Kind::Version(1), "Version of the job language.").required(),
    Key::new("name", Kind::Form("^[a-z0-9][a-z0-9-]{0,62}$"), "Name of the job.").required(),
    Key::new(
        "key_groups",
        Kind::Integer(1, 1024),
        "How finely state can be spread over TaskManagers; fixed at the first submit.",
    )
    .default("32"),
    Key::new("source", Kind::ByType(&[("kafka", KAFKA_SOURCE), ("files", FILES_SOURCE)]), "Where records come from.")
        .required(),
    Key::new(
        "target",
        Kind::Named(&Kind::ByType(TARGETS)),
        "Databases, Kafka clusters and folders that sinks write to.",
    )
    .required(),
    Key::new(
        "fields",
        Kind::Named(&Kind::Table(FIELD)),
        "Columns of a record: where each comes from and what it must be.",
    )
    .required(),
    Key::new(
        "rules",
        Kind::Named(&Kind::Sql),
        "Conditions of a good record; one that is not true makes it a dead letter.",
    ),
    Key::new("filter", Kind::Table(FILTER), "What is not for this job: counted as filtered, and no error."),
    Key::new("derive", Kind::Named(&Kind::Sql), "Further columns as SQL expressions, in file order."),
    Key::new("time", Kind::Table(TIME), "Event time; needed by dedup and aggregates."),
    Key::new("dedup", Kind::Table(DEDUP), "Drops duplicates by key."),
    Key::new("lookup", Kind::Tables(LOOKUP), "Enriches records from a table of a database."),
    Key::new("aggregate", Kind::Tables(AGGREGATE), "Figures by group and window of event time."),
    Key::new("sink", Kind::Tables(SINK), "A table, topic or set of files that rows are written to.").required(),
    Key::new("dead_letter", Kind::Table(DEAD_LETTER), "Where records go that do not pass."),
    Key::new("panel", Kind::Tables(PANEL), "A chart of what a database target holds."),
];

const BROKERS: Key = Key::new("brokers", Kind::Secret, "host:port, several with commas between.").required();
const TLS: Key = Key::new("tls", Kind::Table(TLS_KEYS), "Encrypted connections; {} uses the system's certificates.");
const SASL: Key = Key::new("sasl", Kind::Table(SASL_KEYS), "Who the job is to the brokers.");

const TLS_KEYS: Keys = &[
    Key::new("ca", Kind::Secret, "Certificates of who may vouch for the brokers, as PEM."),
    Key::new("cert", Kind::Secret, "The job's own certificate, as PEM."),
    Key::new("key", Kind::Secret, "The key of `cert`, as PEM."),
];

const SASL_KEYS: Keys = &[
    Key::new("mechanism", Kind::Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), "How to log in.").required(),
    Key::new("username", Kind::Secret, "Name of the user.").required(),
    Key::new("password", Kind::Secret, "Password of the user.").required(),
];

const START: Kind = Kind::Any(&[
    Kind::Choice(&["earliest", "latest"]),
    Kind::Form("^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+([Zz]|[+-][0-9:]+)$"),
]);

const KAFKA_SOURCE: Keys = &[
    BROKERS,
    Key::new("topic", Kind::Form(TOPIC), "One topic.").required(),
    Key::new("start", START, "Where the first start of the job begins: earliest, latest, or a time with zone.")
        .default("earliest"),
    Key::new("format", Kind::Choice(&["json"]), "One JSON object per record.").default("json"),
    Key::new("tombstone", Kind::Table(TOMBSTONE), "A record without value deletes the row of this key."),
    Key::new(
        "on_data_loss",
        Kind::Choice(&["fail", "skip"]),
        "What happens when Kafka deleted records before they were read.",
    )
    .default("fail"),
    Key::new(
        "on_change",
        Kind::Choice(&["fail", "accept"]),
        "Whether a replay may find other records (a compacted topic). Today it fails the job, whichever is said.",
    )
    .default("fail"),
    TLS,
    SASL,
    Key::new("max_record", Kind::Size, "A longer record is a dead letter.").default("1MiB"),
];

const TOMBSTONE: Keys =
    &[Key::new("key", Kind::Texts, "Columns of the record's key: one as text, several as a JSON object.").required()];

const MOVE: Kind = Kind::Any(&[
    Kind::Choice(&["keep"]),
    Kind::Table(&[Key::new("move_to", Kind::Text, "Folder that the file is moved to.").required()]),
]);

const FILES_SOURCE: Keys = &[
    Key::new("path", Kind::Text, "Glob of the files, relative to this file's folder; every TaskManager sees them.")
        .required(),
    Key::new("format", Kind::Choice(&["json", "jsonl", "csv"]), "What a file holds."),
    Key::new("each", Kind::Text, "The array that holds the records; ^a.b in a field's path starts at the file's root."),
    Key::new("header", Kind::Boolean, "The first line of a CSV file names the columns.").default("true"),
    Key::new("delimiter", Kind::Text, "Between two values of a CSV file.").default("\",\""),
    Key::new("follow", Kind::Boolean, "Wait for further files; else the job ends when all are read.").default("false"),
    Key::new("when_bad", MOVE, "What happens to a file that cannot be read.").default("keep"),
    Key::new("when_done", MOVE, "What happens to a file once nothing can ever need it again.").default("keep"),
];

const TARGETS: &[(&str, Keys)] = &[
    ("postgres", DATABASE_TARGET),
    ("mysql", DATABASE_TARGET),
    ("kafka", &[BROKERS, TLS, SASL]),
    ("files", FILES_TARGET),
];

const DATABASE_TARGET: Keys = &[
    Key::new("url", Kind::Secret, "postgres:// or mysql://user:password@host:port/database.").required(),
    Key::new("zone", Kind::Text, "IANA time zone of columns without zone.").default("UTC"),
    Key::new("max_refused", Kind::Share, "Share of rows refused by the database at which the job pauses.")
        .default("0.1"),
];

const FILES_TARGET: Keys = &[
    Key::new("path", Kind::Text, "Folder that files are written to.").required(),
    Key::new("roll", Kind::Duration, "How long one file is written to.").default("1m"),
];

const FIELD: Keys = &[
    Key::new(
        "type",
        Kind::Any(&[Kind::Choice(TYPES.split_at(5).0), Kind::Form(DECIMAL), Kind::Choice(TYPES.split_at(6).1)]),
        "string, bool, int32, int64, float64, decimal(p,s), timestamp, date, uuid or json.",
    )
    .required(),
    Key::new(
        "path",
        Kind::Texts,
        "Alternatives, the first one present wins; a.b goes into objects. Default: the column's name.",
    ),
    Key::new("required", Kind::Boolean, "A record without it is a dead letter.").default("false"),
    Key::new("min", Kind::Number, "Inclusive bound, of the field's own type; numbers only."),
    Key::new("max", Kind::Number, "Inclusive bound, of the field's own type; numbers only."),
    Key::new("one_of", Kind::Texts, "Allowed texts; strings only."),
    Key::new("max_bytes", Kind::Size, "Longest text; strings and json.").default("64KiB"),
    Key::new("epoch", Kind::Choice(&["s", "ms", "us", "ns"]), "Timestamps as numbers since 1970 UTC."),
    Key::new("assume_zone", Kind::Text, "IANA time zone of timestamps that are text without a zone."),
    Key::new("phi", Kind::Boolean, "Identifies a person or is otherwise protected: masked wherever records are shown.")
        .default("false"),
    Key::new("unit", Kind::Text, "For people, as in UCUM."),
];

const FILTER: Keys = &[Key::new("keep", Kind::Sql, "True for records that this job works on.").required()];

const TIME: Keys = &[
    Key::new("field", Kind::Text, "A required field of type timestamp.").required(),
    Key::new("delay", Kind::Duration, "The watermark stays so far behind the greatest event time.").default("0s"),
    Key::new("lateness", Kind::Duration, "How long after its end a window takes corrections.").default("0s"),
    Key::new("max_future", Kind::Duration, "A record further ahead is a dead letter.").default("10m"),
    Key::new("idle_after", Kind::Duration, "A split without records for so long does not hold the watermark back.")
        .default("30s"),
];

const DEDUP: Keys = &[
    Key::new("key", Kind::Texts, "Columns that identify a record.").required(),
    Key::new(
        "route_by",
        Kind::Texts,
        "The part of the key that decides where a record is worked on. Default: all of it.",
    ),
    Key::new("keep_for", Kind::Duration, "How long a key is remembered behind the watermark.").required(),
    Key::new("changed", Kind::Choice(&["update", "drop"]), "The same key with other values: a correction, or ignored.")
        .default("update"),
];

const LOOKUP: Keys = &[
    Key::new("name", Kind::Form(super::NAME), "Its columns appear as name.column.").required(),
    Key::new("in", Kind::Text, "A database target.").required(),
    Key::new("sql", Kind::Text, "One SELECT; it cannot change anything.").required(),
    Key::new("on", Kind::Texts, "Columns that a record and a row have in common.").required(),
    Key::new("refresh", Kind::Duration, "How often the table is read.").default("60s"),
    Key::new("missing", Kind::Choice(&["dead_letter", "null"]), "What becomes of a record without a row.")
        .default("dead_letter"),
    Key::new("max_rows", Kind::Integer(1, 10_000_000), "More rows than this are a mistake.").default("100000"),
];

const WINDOW: Keys = &[
    Key::new("size", Kind::Duration, "Length of a window."),
    Key::new("slide", Kind::Duration, "How often a window begins. Default: the size (tumbling windows)."),
    Key::new("gap", Kind::Duration, "A session ends where no row of the group follows for so long."),
];

const AGGREGATE: Keys = &[
    Key::new("name", Kind::Form(super::NAME), "What sinks call it in `from`.").required(),
    Key::new("where", Kind::Sql, "Rows that are counted in. Default: all."),
    Key::new("group_by", Kind::Texts, "Columns; each group has figures of its own.").required(),
    Key::new("window", Kind::Table(WINDOW), "{ size }, { size, slide } or { gap }.").required(),
    Key::new("emit", Kind::Choice(&["change", "close"]), "As soon as a row changes, or once when the window closes.")
        .default("change"),
    Key::new("columns", Kind::Named(&Kind::Sql), "Columns as expressions with aggregate functions.").required(),
];

const SINK: Keys = &[
    Key::new("to", Kind::Text, "A target.").required(),
    Key::new("from", Kind::Text, "records, an aggregate, or late.").default("records"),
    Key::new("where", Kind::Sql, "Rows for which it is true. Default: all."),
    Key::new("columns", Kind::Named(&Kind::Sql), "Columns and where their values come from. Default: all."),
    Key::new("table", Kind::Form(TABLE), "Databases: name or schema.name."),
    Key::new("write", Kind::Choice(&["upsert", "keep_first", "append"]), "Databases: how rows of one key meet.")
        .default("upsert"),
    Key::new("key", Kind::Texts, "Databases: columns that tell one row from another."),
    Key::new(
        "newest_by",
        Kind::Text,
        "Upsert only: an older row never overwrites a newer one, and nothing is deleted.",
    ),
    Key::new("one_to_one", Kind::Boolean, "A promise: one key of this sink is one key of the job.").default("false"),
    Key::new("create", Kind::Boolean, "Databases: create the table where it is missing.").default("false"),
    Key::new("delete_when", Kind::Sql, "Upsert only: a record for which it is true deletes its row."),
    Key::new("topic", Kind::Form(TOPIC), "Kafka: one topic."),
    Key::new("record_key", Kind::Texts, "Kafka: columns that make the record's key."),
    Key::new("format", Kind::Choice(&["jsonl", "csv", "parquet"]), "Files: what they hold.").default("jsonl"),
];

const DEAD_LETTER: Keys = &[
    Key::new("to", Kind::Text, "A target.").required(),
    Key::new(
        "table",
        Kind::Form(TABLE),
        "Databases: name or schema.name. Default: pulso.dead_letters, in MySQL pulso_dead_letters.",
    ),
    Key::new("topic", Kind::Form(TOPIC), "Kafka: one topic."),
];

const PANEL: Keys = &[
    Key::new("title", Kind::Text, "One line.").required(),
    Key::new("chart", Kind::Choice(&CHARTS), "How it is drawn.").required(),
    Key::new("x", Kind::Text, "Column of the result."),
    Key::new("y", Kind::Texts, "Columns of the result."),
    Key::new("series", Kind::Text, "Column of the result: one line, bar or colour for each of its values."),
    Key::new("sql", Kind::Text, "One SELECT in the target's own SQL; it cannot change anything.").required(),
    Key::new("in", Kind::Text, "A database target. Default: the first one."),
    Key::new("every", Kind::Duration, "How often it is run.").default("5s"),
];

const TOPIC: &str = "^[A-Za-z0-9._-]{1,249}$";
const TABLE: &str = "^([a-z_][a-z0-9_]{0,62}[.])?[a-z_][a-z0-9_]{0,62}$";
const DECIMAL: &str = "^decimal[(] *[0-9]{1,2} *, *[0-9]{1,2} *[)]$";
