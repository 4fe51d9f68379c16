//! SQL text -> AST -> logical expression -> coerced and simplified -> physical expression.
#![expect(clippy::wildcard_enum_match_arm, reason = "enums of other crates, of which few variants matter here")]

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Cast, Expr, ExprSchemable, Volatility};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::utils::collect_columns;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::parser::DFParserBuilder;
use datafusion_sql::planner::{PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{Expr as SqlExpr, Ident, visit_expressions_mut};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::error::{ExpressionError, ExpressionErrorKind, missing_column, planner_message, root};
use crate::expression::Inner;
use crate::functions::{CONFIG, Functions, function_names};

/// Longest SQL text of one expression, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// Most operators: chains of them become trees as deep as they are long, and evaluation recurses.
const MAX_OPERATORS: usize = 300;
/// Deepest nesting of parentheses, calls and CASE.
const MAX_NESTING: usize = 40;
/// Planning in DataFusion recurses with large frames: deeper than the 2 MiB of a worker thread hold.
const COMPILE_STACK: usize = 32 * 1024 * 1024;

pub(crate) fn compile(sql: &str, schema: &SchemaRef) -> Result<Inner, ExpressionError> {
    on_large_stack(|| {
        let text = SqlText::read(sql)?;
        let df_schema = bound_to(schema)?;
        let logical = text.plan(text.parse()?, &df_schema)?;
        refuse_unsuitable(&logical, &text)?;
        let logical = coerce(logical, &df_schema)?;
        finish(sql, to_column_type(logical, &df_schema)?, schema, &df_schema)
    })
}

pub(crate) fn on_large_stack<T: Send, E: Send + From<ExpressionError>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let refused = |message: &str| E::from(ExpressionError::new(ExpressionErrorKind::Refused, message));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("compile-expression".into()).stack_size(COMPILE_STACK);
        let handle = thread.spawn_scoped(scope, work).map_err(|_| refused("no memory to compile the expression"))?;
        handle.join().unwrap_or_else(|_| Err(refused("the SQL library cannot handle this expression")))
    })
}

pub(crate) fn bound_to(schema: &SchemaRef) -> Result<DFSchemaRef, ExpressionError> {
    DFSchema::try_from(schema.clone()).map_err(|error| type_error(&error)).map(DFSchemaRef::new)
}

fn simplifier(schema: &DFSchemaRef) -> ExprSimplifier {
    ExprSimplifier::new(
        SimplifyContext::builder().with_schema(schema.clone()).with_config_options(CONFIG.clone()).build(),
    )
}

pub(crate) fn coerce(logical: Expr, schema: &DFSchemaRef) -> Result<Expr, ExpressionError> {
    simplifier(schema).coerce(logical, schema).map_err(|error| type_error(&error))
}

/// A coerced expression, ready to be evaluated.
pub(crate) fn finish(
    sql: &str,
    logical: Expr,
    schema: &SchemaRef,
    df_schema: &DFSchemaRef,
) -> Result<Inner, ExpressionError> {
    let logical = simplifier(df_schema).simplify(logical).map_err(|error| type_error(&error))?;
    let physical =
        create_physical_expr(&logical, df_schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
            .map_err(|error| type_error(&error))?;
    let physical = fail_on_overflow(physical)?;
    let data_type = physical.data_type(schema).map_err(|error| type_error(&error))?;
    let nullable = physical.nullable(schema).map_err(|error| type_error(&error))?;
    let mut columns: Vec<usize> = collect_columns(&physical).iter().map(|column| column.index()).collect();
    columns.sort_unstable();
    columns.dedup();
    Ok(Inner { sql: sql.to_owned(), physical, data_type, nullable, columns })
}

/// Arithmetic of DataFusion wraps around unless told otherwise.
fn fail_on_overflow(physical: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, ExpressionError> {
    let transformed = physical.transform_up(|node| {
        Ok(match node.downcast_ref::<BinaryExpr>() {
            Some(binary) => Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true))),
            None => Transformed::no(node),
        })
    });
    transformed.map(|transformed| transformed.data).map_err(|error| type_error(&error))
}

/// The text with its tokens, to find again in it what an error names.
pub(crate) struct SqlText<'a> {
    sql: &'a str,
    tokens: Vec<TokenWithSpan>,
}

impl<'a> SqlText<'a> {
    pub(crate) fn read(sql: &'a str) -> Result<Self, ExpressionError> {
        if sql.trim().is_empty() {
            return Err(ExpressionError::new(ExpressionErrorKind::Syntax, "the expression is empty"));
        }
        if sql.len() > MAX_BYTES {
            let message = format!("an expression may have {MAX_BYTES} bytes, this one has {}", sql.len());
            return Err(ExpressionError::new(ExpressionErrorKind::Refused, message));
        }
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(|error| {
            ExpressionError::new(ExpressionErrorKind::Syntax, error.message.clone()).at(byte_offset(
                sql,
                error.location.line,
                error.location.column,
            )
            .map(|offset| (offset, 0)))
        })?;
        let text = Self { sql, tokens };
        text.limit_size()?;
        Ok(text)
    }

    fn limit_size(&self) -> Result<(), ExpressionError> {
        let operators = self.tokens.iter().filter(|token| is_operator(&token.token)).count();
        if operators > MAX_OPERATORS {
            let message = format!("an expression may have {MAX_OPERATORS} operators, this one has {operators}");
            return Err(ExpressionError::new(ExpressionErrorKind::Refused, message));
        }
        let mut nesting = 0_usize;
        for token in &self.tokens {
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => nesting += 1,
                Token::RParen | Token::RBracket | Token::RBrace => nesting = nesting.saturating_sub(1),
                Token::Word(word) if word.value.eq_ignore_ascii_case("case") => nesting += 1,
                Token::Word(word) if word.value.eq_ignore_ascii_case("end") => nesting = nesting.saturating_sub(1),
                _ => {}
            }
            if nesting > MAX_NESTING {
                let message = format!("an expression may be nested {MAX_NESTING} deep");
                return Err(ExpressionError::new(ExpressionErrorKind::Refused, message).at(self.place(token)));
            }
        }
        Ok(())
    }

    pub(crate) fn parse(&self) -> Result<SqlExpr, ExpressionError> {
        let syntax = |error: &DataFusionError| self.syntax_error(error);
        let mut parser = DFParserBuilder::new(self.sql).build().map_err(|error| syntax(&error))?;
        let parsed = parser.parse_into_expr().map_err(|error| syntax(&error))?;
        match parsed.alias {
            Some(alias) => Err(ExpressionError::new(
                ExpressionErrorKind::Syntax,
                "an expression has no alias: its name is the key before the equals sign",
            )
            .at(self.word(&alias.value))),
            None => Ok(parsed.expr),
        }
    }

    pub(crate) fn plan(&self, ast: SqlExpr, schema: &DFSchema) -> Result<Expr, ExpressionError> {
        let functions = Functions::default();
        let planned =
            SqlToRel::new(&functions).sql_to_expr(with_dotted(ast, schema), schema, &mut PlannerContext::new());
        planned.map_err(|error| {
            if let Some(name) = missing_column(&error) {
                return self.unknown_column(&name, schema);
            }
            match functions.unknown() {
                Some(name) => self.unknown_function(&name),
                None => type_error(&error),
            }
        })
    }

    fn unknown_column(&self, name: &str, schema: &DFSchema) -> ExpressionError {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let last = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        ExpressionError::new(ExpressionErrorKind::UnknownColumn, format!("there is no column `{name}` here"))
            .at(self.word(last))
            .suggest(nearest(last, names))
    }

    fn unknown_function(&self, name: &str) -> ExpressionError {
        ExpressionError::new(ExpressionErrorKind::UnknownFunction, format!("there is no function `{name}`"))
            .at(self.word(name))
            .suggest(nearest(name, function_names()))
    }

    fn syntax_error(&self, error: &DataFusionError) -> ExpressionError {
        let text = match root(error) {
            DataFusionError::SQL(parser, _) => parser.to_string(),
            other => other.strip_backtrace(),
        };
        let text = text.trim_start_matches("sql parser error: ");
        let (message, place) = match text.rsplit_once(" at Line: ") {
            Some((message, place)) => (message, self.parse_location(place)),
            None => (text, None),
        };
        let place = place.or_else(|| message.ends_with("found: EOF").then_some((self.sql.len(), 0)));
        ExpressionError::new(ExpressionErrorKind::Syntax, message).at(place)
    }

    /// `1, Column: 9`, as sqlparser writes it; the token that starts there gives the length.
    fn parse_location(&self, place: &str) -> Option<(usize, usize)> {
        let (line, column) = place.split_once(", Column: ")?;
        let (line, column) = (line.trim().parse().ok()?, column.trim().parse().ok()?);
        let start = Location { line, column };
        let token = self.tokens.iter().find(|token| token.span.start == start);
        token.and_then(|token| self.place(token)).or_else(|| Some((byte_offset(self.sql, line, column)?, 0)))
    }

    /// The first place of a column or function of this name.
    pub(crate) fn word(&self, name: &str) -> Option<(usize, usize)> {
        let found = self.tokens.iter().find(|token| match &token.token {
            Token::Word(word) => word.value.eq_ignore_ascii_case(name),
            _ => false,
        });
        found.and_then(|token| self.place(token))
    }

    fn place(&self, token: &TokenWithSpan) -> Option<(usize, usize)> {
        let start = byte_offset(self.sql, token.span.start.line, token.span.start.column)?;
        let end = byte_offset(self.sql, token.span.end.line, token.span.end.column)?;
        Some((start, end.saturating_sub(start)))
    }
}

/// With `a.b` as the one name that it is where there is a column `a.b`.
fn with_dotted(mut ast: SqlExpr, schema: &DFSchema) -> SqlExpr {
    let _ = visit_expressions_mut(&mut ast, |expr| {
        if let SqlExpr::CompoundIdentifier(parts) = expr {
            let plain =
                |part: &Ident| if part.quote_style.is_some() { part.value.clone() } else { part.value.to_lowercase() };
            let name = parts.iter().map(plain).collect::<Vec<_>>().join(".");
            if schema.fields().iter().any(|field| *field.name() == name) {
                *expr = SqlExpr::Identifier(Ident::with_quote('"', name));
            }
        }
        ControlFlow::<()>::Continue(())
    });
    ast
}

/// Tokens that make the tree deeper without nesting it in parentheses.
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && ["and", "or", "not", "is", "like", "ilike", "between", "in", "at"]
                    .iter()
                    .any(|name| word.value.eq_ignore_ascii_case(name))
        }
        Token::EOF
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Comma
        | Token::Whitespace(_)
        | Token::LParen
        | Token::RParen
        | Token::Period => false,
        _ => true,
    }
}

/// sqlparser counts lines and characters from 1.
fn byte_offset(sql: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let mut start = 0;
    for _ in 0..line {
        start += sql.get(start..)?.find('\n')? + 1;
    }
    let rest = sql.get(start..)?;
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(offset, _)| offset))
}

/// A name that could have been meant.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    let scored = names.map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))?;
    (best.0 > 0.8).then(|| best.1.to_owned())
}

/// Valid SQL whose result would depend on more than the record.
pub(crate) fn refuse_unsuitable(expr: &Expr, text: &SqlText<'_>) -> Result<(), ExpressionError> {
    let mut refused = None;
    let walked = expr.apply(|node| {
        refused = unsuitable(node, text);
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| type_error(&error))?;
    refused.map_or(Ok(()), Err)
}

fn unsuitable(node: &Expr, text: &SqlText<'_>) -> Option<ExpressionError> {
    let refuse = |message: String| ExpressionError::new(ExpressionErrorKind::Refused, message);
    match node {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            let name = call.name();
            let message = format!("`{name}` is refused: a replay of the same records must give the same values");
            Some(
                refuse(message).at(call
                    .func
                    .aliases()
                    .iter()
                    .map(String::as_str)
                    .chain([name])
                    .find_map(|name| text.word(name))),
            )
        }
        Expr::AggregateFunction(call) => {
            let message = format!("`{}` is an aggregate: an expression sees one record", call.func.name());
            Some(refuse(message).at(text.word(call.func.name())))
        }
        Expr::WindowFunction(_) => Some(refuse("window functions are refused: an expression sees one record".into())),
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
            Some(refuse("subqueries are refused: an expression sees one record".into()).at(text.word("select")))
        }
        Expr::Placeholder(_) | Expr::ScalarVariable(..) => Some(refuse("parameters and variables are refused".into())),
        Expr::Unnest(_) | Expr::GroupingSet(_) | Expr::HigherOrderFunction(_) | Expr::Lambda(_) => {
            Some(refuse("an expression gives one value per record".into()))
        }
        _ => None,
    }
}

/// Casts the result to the type of column that holds it.
pub(crate) fn to_column_type(expr: Expr, schema: &DFSchema) -> Result<Expr, ExpressionError> {
    let data_type = expr.get_type(schema).map_err(|error| type_error(&error))?;
    match column_type(&data_type) {
        Some(column) if column == data_type => Ok(expr),
        Some(column) => Ok(Expr::Cast(Cast::new(Box::new(expr), column))),
        None if data_type == DataType::Null => Err(ExpressionError::new(
            ExpressionErrorKind::Type,
            "the expression is always null; give it a type: cast(null as ...)",
        )),
        None => {
            let message = format!("the result is of type {data_type}, which no column can hold; cast it");
            Err(ExpressionError::new(ExpressionErrorKind::Type, message))
        }
    }
}

fn column_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float64
        | DataType::Utf8
        | DataType::Date32
        | DataType::Decimal128(..)
        | DataType::FixedSizeBinary(16) => Some(data_type.clone()),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => Some(DataType::Int32),
        DataType::UInt32 | DataType::UInt64 => Some(DataType::Int64),
        DataType::Float16 | DataType::Float32 => Some(DataType::Float64),
        DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8),
        DataType::Date64 => Some(DataType::Date32),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            Some(DataType::Decimal128(*precision, *scale))
        }
        DataType::Decimal256(precision, scale) if *precision <= 38 => Some(DataType::Decimal128(*precision, *scale)),
        DataType::Timestamp(..) => Some(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        _ => None,
    }
}

pub(crate) fn type_error(error: &DataFusionError) -> ExpressionError {
    ExpressionError::new(ExpressionErrorKind::Type, planner_message(error))
}
