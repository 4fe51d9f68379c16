//! `[rules]`, `[filter]`, `[derive]`, and every other SQL expression of a file.

use std::ops::Range;

use arrow::datatypes::DataType;
use pulso_expr::{Expression, ExpressionError, ExpressionErrorKind};

use super::MAX_TABLES;
use super::name::{Columns, Derive, Scope};
use crate::code;
use crate::document::{Entry, Section, list};
use crate::reader::Reader;
use crate::spec::{ColumnIndex, RuleSpec, SqlExpression};

/// Most columns of a record.
pub(super) const MAX_COLUMNS: usize = 1_000;

/// In the place of an expression over columns whose types nobody knows yet.
const ASSUMED: &str = "cast(null as string)";

/// Compiles the expression of an entry against the columns it may see; mistakes are reported.
pub(super) fn compile(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    columns: &Columns,
    scope: Scope,
) -> Option<(SqlExpression, Expression)> {
    let sql = reader.string(entry)?;
    let compiled = Expression::compile(sql, &columns.schema(scope)).or_else(|error| {
        let forgiven = error.kind() == ExpressionErrorKind::Type && scope == Scope::All && columns.assumes(sql);
        if forgiven { Expression::compile(ASSUMED, &columns.schema(scope)) } else { Err(error) }
    });
    match compiled {
        Ok(expression) => Some((SqlExpression { sql: sql.to_owned() }, expression)),
        Err(error) => {
            report(reader, entry, sql, columns, scope, &error);
            None
        }
    }
}

/// As [`compile`], for what must be true or false.
pub(super) fn condition(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    columns: &Columns,
    scope: Scope,
) -> Option<SqlExpression> {
    let (sql, expression) = compile(reader, entry, columns, scope)?;
    if *expression.data_type() == DataType::Boolean || columns.assumes(&sql.sql) {
        return Some(sql);
    }
    let message = format!("`{}` must be true or false, but this is a {}", entry.key, type_name(expression.data_type()));
    reader.error(code::SQL_TYPE, &entry.span, message);
    None
}

/// Columns that hold a value wherever these conditions are true, as far as they say so.
pub(super) fn present<'s>(
    conditions: impl IntoIterator<Item = &'s SqlExpression>,
    columns: &Columns,
    scope: Scope,
) -> Vec<ColumnIndex> {
    let schema = columns.schema(scope);
    let compiled = conditions.into_iter().filter_map(|condition| Expression::compile(&condition.sql, &schema).ok());
    compiled.flat_map(|condition| condition.present()).collect()
}

pub(super) fn report(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    sql: &str,
    columns: &Columns,
    scope: Scope,
    error: &ExpressionError,
) {
    let span = place(reader.source, entry, sql, error);
    let code = match error.kind() {
        ExpressionErrorKind::Syntax => code::SQL_SYNTAX,
        ExpressionErrorKind::UnknownColumn => code::SQL_COLUMN,
        ExpressionErrorKind::UnknownFunction => code::SQL_FUNCTION,
        ExpressionErrorKind::Refused => code::SQL_REFUSED,
        ExpressionErrorKind::Type | ExpressionErrorKind::Evaluation => code::SQL_TYPE,
    };
    let mut help = error.suggestion().map(|meant| format!("did you mean `{meant}`?"));
    if error.kind() == ExpressionErrorKind::UnknownColumn {
        let name = error.message().split('`').nth(1).unwrap_or_default();
        if columns.is_broken(name) {
            return;
        }
        help = match help {
            _ if scope == Scope::Fields && columns.is_looked_up(name) => {
                Some("rules and the filter come before lookups: use it in [derive] or in `where` of a sink".to_owned())
            }
            _ if columns.is_derived(name) && scope == Scope::Fields => {
                Some("only the columns of [fields] can be used here".to_owned())
            }
            _ if columns.is_derived(name) => Some("a derived column sees those above it".to_owned()),
            None => Some(format!("there is {}", list(columns.names()))),
            Some(help) => Some(help),
        };
    }
    match help {
        Some(help) => reader.error_help(code, &span, error.message(), help),
        None => reader.error(code, &span, error.message()),
    }
}

/// Where in the file the mistake is: the SQL stands in the file as it is, unless it has escapes.
fn place(source: &str, entry: &Entry<'_>, sql: &str, error: &ExpressionError) -> Range<usize> {
    let raw = source.get(entry.span.clone()).unwrap_or_default();
    match (raw.find(sql), error.offset()) {
        (Some(at), Some(offset)) => {
            let start = entry.span.start + at + offset;
            start..start + error.length()
        }
        _ => entry.span.clone(),
    }
}

/// The job language's word for a type.
/// As `[fields]` calls it.
pub fn type_name(data_type: &DataType) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no expression has another type")]
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 => "string".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::FixedSizeBinary(16) => "uuid".to_owned(),
        other => other.to_string(),
    }
}

/// None if a rule is wrong.
pub(super) fn rules(reader: &mut Reader<'_>, root: &Section<'_>, columns: &Columns) -> Option<Vec<RuleSpec>> {
    let Some(entry) = root.take("rules") else {
        return Some(Vec::new());
    };
    let section = reader.section("[rules]", &entry)?;
    if section.entries.len() > MAX_TABLES {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("at most {MAX_TABLES} rules are allowed"));
        return None;
    }
    let rules: Vec<Option<RuleSpec>> = section
        .entries
        .iter()
        .map(|entry| {
            let named = reader.check_name("a rule", entry.key, &entry.key_span);
            let condition = condition(reader, entry, columns, Scope::Fields)?;
            named.then(|| RuleSpec { name: entry.key.to_owned(), condition })
        })
        .collect();
    rules.into_iter().collect()
}

pub(super) fn filter(reader: &mut Reader<'_>, root: &Section<'_>, columns: &Columns) -> Option<SqlExpression> {
    let entry = root.take("filter")?;
    let section = reader.section("[filter]", &entry)?;
    let keep = reader.required(&section, "keep");
    let filter = keep.and_then(|keep| condition(reader, &keep, columns, Scope::Fields));
    reader.no_others(&section);
    filter
}

/// Adds the columns of `[derive]` in file order, each seeing those above it.
pub(super) fn derive(reader: &mut Reader<'_>, root: &Section<'_>, columns: &mut Columns) {
    let Some(entry) = root.take("derive") else {
        return;
    };
    let Some(section) = reader.section("[derive]", &entry) else {
        return;
    };
    if section.entries.len() + columns.fields().len() > MAX_COLUMNS {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("a record may have {MAX_COLUMNS} columns"));
        return;
    }
    for entry in &section.entries {
        let mut good = reader.check_name("a column", entry.key, &entry.key_span);
        if columns.is_defined(entry.key) {
            reader.error(
                code::DUPLICATE_NAME,
                &entry.key_span,
                format!("`{}` is a column of [fields] already", entry.key),
            );
            good = false;
        }
        match compile(reader, entry, columns, Scope::All).filter(|_| good) {
            Some((sql, expression)) => {
                let from_fields = expression.columns().iter().all(|column| *column < columns.fields().len());
                columns.add_derive(Derive {
                    name: entry.key.to_owned(),
                    sql: sql.sql,
                    data_type: expression.data_type().clone(),
                    nullable: expression.nullable(),
                    from_fields,
                });
            }
            None if !columns.is_defined(entry.key) => columns.add_broken(entry.key),
            None => {}
        }
    }
}
