//! The stable codes of mistakes, and what `explain` tells about each.

use std::fmt;

use serde::Serialize;

/// `P0001`, ...: never given to another meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Code(&'static str);

impl Code {
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! codes {
    ($($name:ident = $code:literal: $text:literal)*) => {
        $(pub(crate) const $name: Code = Code($code);)*
        const EXPLANATIONS: &[(Code, &str)] = &[$(($name, $text)),*];
    };
}

codes! {
    NOT_UTF8 = "P0001": "The file is not UTF-8. Save it again as UTF-8; the place is that of the first byte that is not."
    TOO_LARGE = "P0002": "A job file may have 1 MiB, 10,000 keys, 1,000 columns, 100 sinks, panels, targets or rules. More than that is a file that was made by accident."
    SYNTAX = "P0003": "The file is not TOML. Common causes: a string without its closing quote, typographic quotes instead of straight ones, a key or a table that is defined twice."
    UNKNOWN_KEY = "P0010": "No such key exists at this place. Unknown keys are mistakes, because a misspelt key would otherwise be silently ignored."
    WRONG_TABLE = "P0011": "The key exists, but not in this table: the help says where it belongs."
    WRONG_TYPE = "P0012": "The value is of another TOML type than the key wants: \"4\" is a string and 4 a number."
    MISSING_KEY = "P0013": "A key or table is missing that has no default."
    NOT_ALLOWED = "P0014": "The value is not one of those that the key takes."
    OUT_OF_RANGE = "P0015": "The number, duration or size is smaller or larger than the key takes."
    BAD_NAME = "P0016": "Names of targets, rules, columns and tables are `[a-z_][a-z0-9_]{0,62}`, a job's name is `[a-z0-9][a-z0-9-]{0,62}`, so that they mean the same in SQL, in files and in addresses, quoted or not."
    BAD_DURATION = "P0017": "A duration is a whole number with a unit: ms, s, m (minutes), h, d; several may follow each other, the larger unit first: \"1h30m\"."
    BAD_SIZE = "P0018": "A size is a number with a unit: B, KiB, MiB, GiB (1024) or kB, MB, GB (1000)."
    BAD_TIME = "P0019": "A point in time is RFC 3339 with a zone: \"2026-01-31T12:00:00Z\"; a zone is an IANA name: \"America/Sao_Paulo\"."
    ENVIRONMENT = "P0020": "The environment variable or file that holds a secret is missing or empty where `submit` runs, and there is no default."
    BAD_SECRET = "P0021": "An address or credential is a string, `{ env = \"NAME\", default = \"...\" }` or `{ file = \"...\" }`. At all other keys only a plain value stands."
    LITERAL_SECRET = "P0022": "A password stands in the file itself, where everybody who reads the file sees it. Take it from the environment or from a file."
    BAD_ADDRESS = "P0023": "Brokers are `host:port`, several with commas between; a PostgreSQL address is `postgres://user:password@host:port/database`, one of MySQL or MariaDB `mysql://user:password@host:port/database`, with user and database."
    UNPROTECTED = "P0024": "A password goes over the network in the clear: `sasl` without `tls`."
    KAFKA_PROPERTY = "P0025": "Kafka client properties are not set in job.toml. Pulso assigns partitions, keeps positions and reads committed records only; a property could break exactly that."
    BAD_VERSION = "P0031": "`version` is that of the job language. This Pulso knows version 1."
    SQL_SYNTAX = "P0040": "The text is not a SQL expression: what a SELECT could have between two commas."
    SQL_COLUMN = "P0041": "The expression names a column that does not exist here. Rules and the filter see the columns of [fields]; a column of [derive] sees [fields], the columns of lookups (lookup.column) and what stands above it in [derive]; sinks see all."
    SQL_FUNCTION = "P0042": "The expression calls a function that does not exist."
    SQL_REFUSED = "P0043": "The expression is valid SQL that a job must not use: a replay of the same records has to give the same values, and an expression sees one record. So no now() or random(), no subqueries, aggregates or parameters."
    SQL_TYPE = "P0044": "The types in the expression do not fit, or its result cannot be what is wanted: a condition must be true or false, a column one of the types of [fields]."
    FIELD_TYPE = "P0050": "Types are string, bool, int32, int64, float64, decimal(p,s) with p up to 38, timestamp, date, uuid, json."
    NOT_OF_TYPE = "P0051": "The key does not apply to a field of this type: min and max are for numbers, one_of and max_bytes for strings, epoch and assume_zone for timestamps."
    BAD_BOUND = "P0052": "A bound must be finite, of the field's own type, and min not above max."
    BAD_PATH = "P0053": "A path is a list of alternatives, the first one present wins; \"a.b\" goes into objects. Two fields cannot read the same place."
    DUPLICATE_NAME = "P0054": "Two things of one kind have the same name, or a list names the same thing twice."
    UNKNOWN_NAME = "P0060": "The name refers to a column, target or source of rows that the file does not define."
    BAD_KEY = "P0061": "A key column must be there in every record and compare exactly: a required field (or a column derived from fields alone that is never null), neither float64 nor json."
    BAD_TIME_FIELD = "P0062": "The event time is a field of type timestamp with `required = true`."
    NEEDS_TIME = "P0063": "Dedup forgets keys by event time, so it needs [time]; and it must remember a key at least as long as `lateness` lets a window change."
    BAD_ROUTE = "P0064": "`route_by` is a part of the dedup key: all records of one key must be worked on in one place."
    BAD_TOMBSTONE = "P0065": "The tombstone key is read from the record's key: plain required fields, and the same columns as the dedup key where there is one."
    SINK_KEY = "P0070": "upsert and keep_first need a key; append must have none. delete_when and newest_by belong to upsert."
    SINK_ROUTING = "P0071": "Rows of one sink key must come from one place, else two writers decide at once which row is last. Put all columns of the routing key into the sink's key, or name a column by which the newest wins (newest_by, upsert only), or promise with `one_to_one = true` that one key of the sink is one key of the job."
    SINK_CORRECTION = "P0072": "Where corrections or deletes can come, a record may change its other columns. Were one of them a part of the sink's key (or the event time), the old row would stay behind. So the sink's key and the time field must be columns of the dedup (or tombstone) key; sinks with one_to_one or newest_by are exempt."
    SINK_TABLE = "P0073": "A table is written by one sink of one job, and not one that belongs to the database or to Pulso."
    ON_CHANGE = "P0074": "`on_change = \"accept\"` says that a replay may see other records than the first run. Only upserts without aggregates would stand that. This version checks it and does no more: a replay that differs fails the job all the same."
    BAD_WINDOW = "P0075": "A window is tumbling ({ size }), sliding ({ size, slide } with slide not above size) or a session ({ gap }: it ends where no row of the group follows for that long)."
    AGGREGATE_CORRECTION = "P0076": "Where corrections or deletes can come, a record may change its other columns. An aggregate takes the old record out of the group and window that it was counted in, so group_by and the time field must be columns of the dedup (or tombstone) key. A delete must say of what: deletes need [dedup]."
    NULL_KEY = "P0077": "A column of group_by that can be null is a key column of the aggregate's sink. A primary key refuses a null, and in a unique index a null is equal to no other: there each change of that group would be another row. Leave such records out with `where`, or require the field."
    BAD_PANEL = "P0080": "A panel asks a database target. Its SQL is one SELECT (or WITH ... SELECT) that changes nothing; line, bar, pie and scatter need x and y, histogram x."
    BAD_LOOKUP = "P0081": "A lookup's SQL is one SELECT (or WITH ... SELECT) that changes nothing, in a database target. It has a column of the same name and type for every field in `on`; of the others those are taken that the job names as lookup.column, whose types must be ones of [fields]: cast what is not."
    BAD_FILES = "P0085": "Paths of files are relative to the folder of the job file, or absolute. A source's path is a pattern: * and ? within a name, ** for any folders between. What a job writes, and where it moves files to, must not match its own source's pattern: it would read its own output."
    BAD_TOPIC = "P0086": "A job must not write to the topic that it reads: its output would be its input, without end. Topics whose names begin with pulso-ledger- are Pulso's own: what is written there says what is committed."
    UNUSED = "P0090": "Nothing refers to this. It does no harm, but may be a forgotten sink."
    UNREACHABLE = "P0100": "A server that the file names does not answer, or refuses who asks. Told by `check --online` only: the file itself may be right. Check the address, that the server is up and reachable from here, and the credentials."
    TOPIC = "P0101": "The topic does not exist, or may not be read. A job reads topics that are there; it makes those that its sinks write."
    COMPACTED = "P0102": "The source's topic is compacted: records may be gone when a replay reads them again, so a replay can see other records than the first run, and then the job fails. Read a topic that is not compacted. With `on_change = \"accept\"` (upserts only, no aggregates) this is not told, but the job fails all the same."
    TABLE = "P0103": "The table in the database is not as the sink needs it: columns, types, the unique index for the key, privileges, another job that owns it. The message holds the statement that mends it."
}

/// What a code means and what to do about it; the code in any case of letters.
pub fn explain(code: &str) -> Option<&'static str> {
    EXPLANATIONS.iter().find(|(known, _)| known.0.eq_ignore_ascii_case(code)).map(|(_, text)| *text)
}

/// All codes with their explanations, ascending.
pub fn codes() -> impl Iterator<Item = (Code, &'static str)> {
    EXPLANATIONS.iter().copied()
}
