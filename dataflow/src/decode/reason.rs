//! Why a record is a dead letter: stable words, part of what users build on. Two more depend on the job: `rule:<name>`
//! and `lookup:<name>`, for a record without a row there.

/// Not one JSON document: syntax, two documents, a byte order mark, control characters, lone surrogates.
pub(crate) const INVALID_JSON: &str = "invalid_json";
/// A CSV record with a quote in the wrong place.
pub(crate) const INVALID_CSV: &str = "invalid_csv";
/// A CSV record that has not as many fields as the header.
pub(crate) const WRONG_COLUMN_COUNT: &str = "wrong_column_count";
/// Not UTF-8.
pub(crate) const INVALID_UTF8: &str = "invalid_utf8";
/// More than 64 containers inside each other.
pub(crate) const TOO_DEEP: &str = "too_deep";
/// A key that a field reads stands twice in its object: which one counts would be a guess.
pub(crate) const DUPLICATE_KEY: &str = "duplicate_key";
/// JSON, but not an object.
pub(crate) const NOT_AN_OBJECT: &str = "not_an_object";
/// A JSON document without the array that `each` names.
pub(crate) const NO_RECORDS: &str = "no_records";
/// A CSV file whose first line is no header: not UTF-8, too long, or a name twice.
pub(crate) const BAD_HEADER: &str = "bad_header";
/// Longer than the source's `max_record`.
pub(crate) const TOO_LARGE: &str = "too_large";
/// A record without value, where the job has no `tombstone`.
pub(crate) const NO_VALUE: &str = "no_value";
/// A record without value whose key does not name a row.
pub(crate) const BAD_KEY: &str = "bad_key";
/// A required field, or a column of the dedup or routing key, is absent or null.
pub(crate) const MISSING_FIELD: &str = "missing_field";
/// A JSON value of another kind than the field's type takes.
pub(crate) const WRONG_TYPE: &str = "wrong_type";
/// Text that is not a timestamp, date or UUID, or no day of the calendar.
pub(crate) const INVALID_FORMAT: &str = "invalid_format";
/// A timestamp without zone, where the field has no `assume_zone`.
pub(crate) const NO_ZONE: &str = "no_zone";
/// A local time that clocks skipped.
pub(crate) const NO_SUCH_LOCAL_TIME: &str = "no_such_local_time";
/// Outside of `min` and `max`, or of what the type holds.
pub(crate) const OUT_OF_RANGE: &str = "out_of_range";
/// More decimals than the decimal type has.
pub(crate) const TOO_PRECISE: &str = "too_precise";
/// Text longer than `max_bytes`.
pub(crate) const TOO_LONG: &str = "too_long";
/// Text that `one_of` does not list.
pub(crate) const NOT_ONE_OF: &str = "not_one_of";
/// Text with a NUL character, which databases do not hold.
pub(crate) const NUL_IN_TEXT: &str = "nul_in_text";
/// An expression of the job fails for this record: division by zero, overflow.
pub(crate) const EXPRESSION_ERROR: &str = "expression_error";
/// The field of `[time]` is absent.
pub(crate) const NO_EVENT_TIME: &str = "no_event_time";
/// The event time is more than `max_future` ahead of the record's broker timestamp or of the epoch's clock.
pub(crate) const TOO_FAR_IN_FUTURE: &str = "too_far_in_future";

/// What is wrong with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: &'static str,
    /// Index of the field that it is about.
    pub(crate) field: Option<usize>,
}

impl Fault {
    pub(crate) fn record(reason: &'static str) -> Self {
        Self { reason, field: None }
    }

    pub(crate) fn field(reason: &'static str, field: usize) -> Self {
        Self { reason, field: Some(field) }
    }
}
