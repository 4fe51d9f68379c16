//! SQL expressions of a job, which are DataFusion's, in Flink SQL.
//!
//! Flink has the same words with other types: `1` is an INT there, `0.5` a DECIMAL, `SUM` of INTs an INT. So the type that
//! an expression has in Pulso decides on how it is written. What is not known to mean the same is refused.
#![expect(clippy::wildcard_enum_match_arm, reason = "of SQL's syntax few forms are translated, all others are refused")]

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_sql::parser::DFParserBuilder;
use datafusion_sql::sqlparser::ast::{BinaryOperator, CaseWhen, CastKind, Expr, UnaryOperator, Value};
use pulso_expr::{Aggregation, Expression};

use crate::sql;

/// How tightly an operator binds: what binds less than its surroundings gets parentheses.
pub(crate) mod rank {
    pub(crate) const OR: u8 = 1;
    pub(crate) const AND: u8 = 2;
    pub(crate) const NOT: u8 = 3;
    pub(crate) const COMPARISON: u8 = 4;
    pub(crate) const SUM: u8 = 5;
    pub(crate) const PRODUCT: u8 = 6;
    pub(crate) const SIGN: u8 = 7;
    pub(crate) const ATOM: u8 = 8;
}

pub(crate) const FAILURES: &str = "an expression that fails (overflow, division by zero, a cast of text that is no number) makes a dead letter in Pulso; \
     here overflow wraps around, and the other two give NULL";

/// Flink SQL and how tightly its outermost operator binds.
pub(crate) struct Written {
    pub(crate) sql: String,
    pub(crate) rank: u8,
}

impl Written {
    pub(crate) fn atom(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), rank: rank::ATOM }
    }

    /// In parentheses, unless it binds tighter than `rank`.
    pub(crate) fn above(self, rank: u8) -> String {
        if self.rank > rank { self.sql } else { format!("({})", self.sql) }
    }

    fn at_least(self, rank: u8) -> String {
        if self.rank >= rank { self.sql } else { format!("({})", self.sql) }
    }
}

/// An expression in Flink SQL.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) sql: String,
    /// What it does differently.
    pub(crate) notes: Vec<&'static str>,
}

/// Translates an expression, with or without aggregate functions, that has been checked against `schema`.
pub(crate) fn translate(sql: &str, schema: &SchemaRef) -> Result<Translated, String> {
    let mut translator = Translator { schema, notes: Vec::new() };
    let written = translator.write(&parse(sql)?)?;
    Ok(Translated { sql: written.sql, notes: translator.notes })
}

/// The same as a value of exactly this type.
pub(crate) fn translate_as(sql: &str, schema: &SchemaRef, data_type: &DataType) -> Result<Translated, String> {
    let translated = translate(sql, schema)?;
    if matches!(parse(sql)?, Expr::Identifier(_)) {
        return Ok(translated);
    }
    let cast = format!("CAST({} AS {})", translated.sql, sql::data_type(data_type)?);
    Ok(Translated { sql: cast, ..translated })
}

fn parse(sql: &str) -> Result<Expr, String> {
    let parsed = DFParserBuilder::new(sql).build().and_then(|mut parser| parser.parse_into_expr());
    parsed.map(|parsed| parsed.expr).map_err(|error| error.to_string())
}

pub(crate) struct Translator<'s> {
    schema: &'s SchemaRef,
    notes: Vec<&'static str>,
}

impl Translator<'_> {
    pub(crate) fn note(&mut self, note: &'static str) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The type that Pulso gives an expression; none for a bare NULL.
    pub(crate) fn data_type(&self, expr: &Expr) -> Option<DataType> {
        let text = expr.to_string();
        if let Ok(compiled) = Expression::compile(&text, self.schema) {
            return Some(compiled.data_type().clone());
        }
        let compiled = Aggregation::compile(&[&text], self.schema).ok()?;
        compiled.data_types().next().cloned()
    }

    pub(crate) fn nullable(&self, expr: &Expr) -> bool {
        Expression::compile(&expr.to_string(), self.schema).map_or(true, |compiled| compiled.nullable())
    }

    pub(crate) fn write(&mut self, expr: &Expr) -> Result<Written, String> {
        match expr {
            Expr::Identifier(ident) => Ok(Written::atom(sql::name(&normal(ident)))),
            Expr::Nested(inner) => Ok(Written::atom(format!("({})", self.write(inner)?.sql))),
            Expr::Value(value) => literal(&value.value),
            Expr::UnaryOp { op, expr } => self.unary(op, expr),
            Expr::BinaryOp { left, op, right } => self.binary(expr, left, op, right),
            Expr::IsNull(inner) => self.is(inner, "NULL"),
            Expr::IsNotNull(inner) => self.is(inner, "NOT NULL"),
            Expr::IsTrue(inner) => self.is(inner, "TRUE"),
            Expr::IsNotTrue(inner) => self.is(inner, "NOT TRUE"),
            Expr::IsFalse(inner) => self.is(inner, "FALSE"),
            Expr::IsNotFalse(inner) => self.is(inner, "NOT FALSE"),
            Expr::IsUnknown(inner) => self.is(inner, "UNKNOWN"),
            Expr::IsNotUnknown(inner) => self.is(inner, "NOT UNKNOWN"),
            Expr::IsDistinctFrom(left, right) => self.compare(left, "IS DISTINCT FROM", right),
            Expr::IsNotDistinctFrom(left, right) => self.compare(left, "IS NOT DISTINCT FROM", right),
            Expr::Between { expr, negated, low, high } => self.between(expr, *negated, low, high),
            Expr::InList { expr, list, negated } => self.in_list(expr, list, *negated),
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                if pattern.to_string().contains('\\') {
                    return Err("`LIKE` with a backslash is not translated".to_owned());
                }
                let operator = if *negated { "NOT LIKE" } else { "LIKE" };
                self.compare(expr, operator, pattern)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            Expr::Cast { kind, expr: inner, data_type, array: false, format: None } => {
                self.cast(expr, kind, inner, &data_type.to_string())
            }
            Expr::Function(function) => self.function(expr, function),
            other => self.special(other),
        }
    }

    fn unary(&mut self, op: &UnaryOperator, expr: &Expr) -> Result<Written, String> {
        let inner = self.write(expr)?;
        match op {
            UnaryOperator::Not => Ok(Written { sql: format!("NOT {}", inner.above(rank::NOT)), rank: rank::NOT }),
            UnaryOperator::Minus => Ok(Written { sql: format!("-{}", inner.above(rank::SIGN)), rank: rank::SIGN }),
            UnaryOperator::Plus => Ok(inner),
            other => Err(format!("the operator `{other}` is not translated")),
        }
    }

    fn binary(&mut self, whole: &Expr, left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Written, String> {
        match op {
            BinaryOperator::And => self.chain(left, "AND", right, rank::AND),
            BinaryOperator::Or => self.chain(left, "OR", right, rank::OR),
            BinaryOperator::Eq => self.compare(left, "=", right),
            BinaryOperator::NotEq => self.compare(left, "<>", right),
            BinaryOperator::Lt => self.compare(left, "<", right),
            BinaryOperator::LtEq => self.compare(left, "<=", right),
            BinaryOperator::Gt => self.compare(left, ">", right),
            BinaryOperator::GtEq => self.compare(left, ">=", right),
            BinaryOperator::StringConcat => {
                let mut parts = Vec::new();
                for part in [left, right] {
                    parts.push(self.as_text(part)?);
                }
                Ok(Written { sql: parts.join(" || "), rank: rank::SUM })
            }
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo => self.arithmetic(whole, left, op, right),
            other => Err(format!("the operator `{other}` is not translated")),
        }
    }

    fn chain(&mut self, left: &Expr, op: &str, right: &Expr, rank: u8) -> Result<Written, String> {
        let (left, right) = (self.write(left)?.at_least(rank), self.write(right)?.at_least(rank));
        Ok(Written { sql: format!("{left} {op} {right}"), rank })
    }

    fn is(&mut self, inner: &Expr, what: &str) -> Result<Written, String> {
        let inner = self.write(inner)?.above(rank::COMPARISON);
        Ok(Written { sql: format!("{inner} IS {what}"), rank: rank::COMPARISON })
    }

    fn compare(&mut self, left: &Expr, op: &str, right: &Expr) -> Result<Written, String> {
        self.alike([left, right])?;
        let (left, right) = (self.write(left)?.above(rank::COMPARISON), self.write(right)?.above(rank::COMPARISON));
        Ok(Written { sql: format!("{left} {op} {right}"), rank: rank::COMPARISON })
    }

    fn between(&mut self, expr: &Expr, negated: bool, low: &Expr, high: &Expr) -> Result<Written, String> {
        self.alike([expr, low, high])?;
        let not = if negated { "NOT " } else { "" };
        let [expr, low, high] =
            [self.write(expr)?, self.write(low)?, self.write(high)?].map(|w| w.above(rank::COMPARISON));
        Ok(Written { sql: format!("{expr} {not}BETWEEN {low} AND {high}"), rank: rank::COMPARISON })
    }

    fn in_list(&mut self, expr: &Expr, list: &[Expr], negated: bool) -> Result<Written, String> {
        self.alike(std::iter::once(expr).chain(list))?;
        let items = list.iter().map(|item| Ok(self.write(item)?.sql)).collect::<Result<Vec<_>, String>>()?;
        let (expr, not) = (self.write(expr)?.above(rank::COMPARISON), if negated { "NOT " } else { "" });
        Ok(Written { sql: format!("{expr} {not}IN ({})", items.join(", ")), rank: rank::COMPARISON })
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&Expr>,
    ) -> Result<Written, String> {
        self.alike(conditions.iter().map(|case| &case.result).chain(otherwise))?;
        let mut sql = "CASE".to_owned();
        if let Some(operand) = operand {
            self.alike(std::iter::once(operand).chain(conditions.iter().map(|case| &case.condition)))?;
            sql.push_str(&format!(" {}", self.write(operand)?.above(rank::COMPARISON)));
        }
        for case in conditions {
            sql.push_str(&format!(" WHEN {} THEN {}", self.write(&case.condition)?.sql, self.write(&case.result)?.sql));
        }
        if let Some(otherwise) = otherwise {
            sql.push_str(&format!(" ELSE {}", self.write(otherwise)?.sql));
        }
        Ok(Written::atom(sql + " END"))
    }

    /// Pulso converts text where it meets numbers or times, by rules that Flink does not share.
    pub(crate) fn alike<'e>(&self, values: impl IntoIterator<Item = &'e Expr>) -> Result<(), String> {
        let types: Vec<DataType> = values.into_iter().filter_map(|value| self.data_type(value)).collect();
        let alike = |a: &DataType, b: &DataType| {
            let times = matches!((a, b), (DataType::Timestamp(..), DataType::Timestamp(..)));
            a == b || (a.is_numeric() && b.is_numeric()) || times
        };
        match types.windows(2).find(|pair| !alike(&pair[0], &pair[1])) {
            Some(pair) => Err(format!("{} and {} stand together without a cast", named(&pair[0]), named(&pair[1]))),
            None => Ok(()),
        }
    }

    fn arithmetic(&mut self, whole: &Expr, left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Written, String> {
        let rank = match op {
            BinaryOperator::Plus | BinaryOperator::Minus => rank::SUM,
            _ => rank::PRODUCT,
        };
        let divides = matches!(op, BinaryOperator::Divide | BinaryOperator::Modulo);
        let data_type = self.data_type(whole).ok_or("an operation without a type")?;
        let mut sides = Vec::new();
        match &data_type {
            DataType::Int32 | DataType::Int64 => {
                self.note(FAILURES);
                for side in [left, right] {
                    sides.push(self.wide(side)?);
                }
                if divides {
                    let divisor = sides.pop().map(|divisor| Written::atom(format!("NULLIF({}, 0)", divisor.sql)));
                    sides.extend(divisor);
                }
            }
            DataType::Float64 => {
                for side in [left, right] {
                    sides.push(self.as_double(side)?);
                }
            }
            DataType::Decimal128(..) if !divides => {
                for side in [left, right] {
                    sides.push(self.write(side)?);
                }
            }
            DataType::Decimal128(..) => return Err("decimals are divided to another number of digits there".to_owned()),
            other => return Err(format!("arithmetic with {} is not translated", named(other))),
        }
        let mut sides = sides.into_iter();
        let (Some(left), Some(right)) = (sides.next(), sides.next()) else { return Err("two sides".to_owned()) };
        Ok(Written { sql: format!("{} {op} {}", left.at_least(rank), right.above(rank)), rank })
    }

    /// An integer as a BIGINT, which all integers of Pulso's arithmetic are.
    pub(crate) fn wide(&mut self, expr: &Expr) -> Result<Written, String> {
        let written = self.write(expr)?;
        let wide = matches!(expr, Expr::Identifier(_)) && self.data_type(expr) == Some(DataType::Int64);
        Ok(if wide { written } else { Written::atom(format!("CAST({} AS BIGINT)", written.sql)) })
    }

    pub(crate) fn as_double(&mut self, expr: &Expr) -> Result<Written, String> {
        let written = self.write(expr)?;
        let double = self.data_type(expr) == Some(DataType::Float64);
        Ok(if double { written } else { Written::atom(format!("CAST({} AS DOUBLE)", written.sql)) })
    }

    /// Text as it is, integers as text.
    pub(crate) fn as_text(&mut self, expr: &Expr) -> Result<String, String> {
        let written = self.write(expr)?;
        match self.data_type(expr) {
            Some(DataType::Utf8) | None => Ok(written.above(rank::SUM)),
            Some(DataType::Int32 | DataType::Int64) => Ok(format!("CAST({} AS STRING)", written.sql)),
            Some(other) => Err(format!("{} is written out as text in another form there", named(&other))),
        }
    }

    fn cast(&mut self, whole: &Expr, kind: &CastKind, inner: &Expr, target: &str) -> Result<Written, String> {
        const KNOWN: [&str; 14] = [
            "int",
            "integer",
            "bigint",
            "double",
            "double precision",
            "decimal",
            "numeric",
            "varchar",
            "text",
            "string",
            "boolean",
            "bool",
            "date",
            "char varying",
        ];
        let word = target.split('(').next().unwrap_or_default().trim().to_lowercase();
        if !KNOWN.contains(&word.as_str()) {
            return Err(format!("a cast to {target} is not translated"));
        }
        let to = self.data_type(whole).ok_or("a cast without a type")?;
        let from = self.data_type(inner);
        let written = self.write(inner)?.sql;
        let name = sql::data_type(&to)?;
        let tries = !matches!(kind, CastKind::Cast | CastKind::DoubleColon);
        match (&from, &to) {
            (Some(DataType::Boolean), DataType::Utf8) => {
                return Ok(Written::atom(format!("LOWER(CAST({written} AS STRING))")));
            }
            (
                Some(DataType::Utf8 | DataType::Int32 | DataType::Int64 | DataType::Decimal128(..) | DataType::Date32),
                DataType::Utf8,
            )
            | (None, _) => {}
            (Some(from), DataType::Utf8) => {
                return Err(format!("{} is written out as text in another form there", named(from)));
            }
            (Some(DataType::Utf8), _) => {
                self.note(FAILURES);
                return Ok(Written::atom(format!("TRY_CAST({written} AS {name})")));
            }
            (Some(from), to) if from.is_numeric() && to.is_numeric() => self.note(FAILURES),
            (Some(DataType::Timestamp(..)), DataType::Date32) => {}
            (Some(from), to) if from == to => {}
            (Some(from), to) => return Err(format!("a cast from {} to {} is not translated", named(from), named(to))),
        }
        let cast = if tries { "TRY_CAST" } else { "CAST" };
        Ok(Written::atom(format!("{cast}({written} AS {name})")))
    }
}

/// A name as DataFusion reads it: lower case unless quoted.
fn normal(ident: &datafusion_sql::sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn literal(value: &Value) -> Result<Written, String> {
    let sql = match value {
        Value::Number(number, false) => {
            let number = number.to_string();
            let float = number.contains(['.', 'e', 'E']);
            match (float, number.contains(['e', 'E'])) {
                // A number with a point alone is a DECIMAL in Flink.
                (true, false) => format!("{}E0", number.trim_end_matches('.')),
                (true, true) => number,
                (false, _) if number.parse::<i64>().is_ok() => number,
                (false, _) => return Err(format!("the number {number} is too large for a BIGINT")),
            }
        }
        Value::SingleQuotedString(text) => sql::text(text),
        Value::Boolean(true) => "TRUE".to_owned(),
        Value::Boolean(false) => "FALSE".to_owned(),
        Value::Null => "NULL".to_owned(),
        other => return Err(format!("the literal {other} is not translated")),
    };
    Ok(Written::atom(sql))
}

/// A type as people call it in a job file.
pub(crate) fn named(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        DataType::Boolean => "a bool".to_owned(),
        DataType::Int32 | DataType::Int64 => "an integer".to_owned(),
        DataType::Float64 => "a float64".to_owned(),
        DataType::Decimal128(..) => "a decimal".to_owned(),
        DataType::Timestamp(..) => "a timestamp".to_owned(),
        DataType::Date32 => "a date".to_owned(),
        DataType::FixedSizeBinary(_) => "a uuid".to_owned(),
        other => other.to_string(),
    }
}
