//! Calls: the functions that mean the same in both, or can be made to.
#![expect(clippy::wildcard_enum_match_arm, reason = "of SQL's syntax few forms are translated, all others are refused")]

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{
    CeilFloorKind, DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    TrimWhereField, Value,
};

use crate::expression::{FAILURES, Translator, Written, named};

pub(crate) const ROUNDING: &str =
    "ROUND takes a DOUBLE's shortest decimal text, Pulso its binary value: exact halves can differ in the last digit";
pub(crate) const FLOAT_SUMS: &str = "SUM and AVG of DOUBLE add in the order of arrival and round at each step; Pulso's are exact in any order, so the last \
     digits can differ";

/// A call without its `DISTINCT` and `FILTER`.
struct Call<'e> {
    name: String,
    arguments: Vec<&'e Expr>,
    /// `count(*)`
    star: bool,
}

impl Translator<'_> {
    pub(crate) fn function(&mut self, whole: &Expr, function: &Function) -> Result<Written, String> {
        let call = call(function)?;
        if let Some(written) = self.aggregate(&call, function)? {
            return Ok(written);
        }
        let plain = function.filter.is_none() && distinct(function).is_none();
        if !plain {
            return Err(format!("the function `{}` is not translated", call.name));
        }
        let a = &call.arguments;
        match (call.name.as_str(), a.len()) {
            ("coalesce" | "nvl" | "ifnull", 1..) => {
                self.alike(a.iter().copied())?;
                self.plain("COALESCE", a)
            }
            ("nullif", 2) => {
                self.alike(a.iter().copied())?;
                self.plain("NULLIF", a)
            }
            ("round", 1 | 2) => self.round(whole, a),
            ("abs", 1) => {
                self.note_integer(a[0]);
                self.plain("ABS", a)
            }
            (
                "sqrt" | "exp" | "ln" | "log10" | "log2" | "power" | "pow" | "sin" | "cos" | "tan" | "degrees"
                | "radians",
                _,
            ) => self.doubles(&call),
            ("concat", 1..) => self.concat(a),
            ("lower" | "upper" | "reverse" | "md5", 1) | ("replace", 3) => self.texts(&call.name.to_uppercase(), a),
            ("length" | "char_length" | "character_length", 1) => {
                let written = self.texts("CHAR_LENGTH", a)?;
                Ok(written)
            }
            ("trim" | "btrim", 1) => self.texts("TRIM", a),
            ("ltrim", 1) => self.texts("LTRIM", a),
            ("rtrim", 1) => self.texts("RTRIM", a),
            ("substr" | "substring", 2 | 3) => self.substring(a),
            ("left" | "right", 2) if positive(a[1]) => self.plain(&call.name.to_uppercase(), a),
            ("date_trunc", 2) => self.date_trunc(a[0], a[1]),
            ("date_part", 2) => match text(a[0]) {
                Some(part) => self.part(&part, a[1]),
                None => Err("`date_part` needs the part as text".to_owned()),
            },
            ("ceil" | "floor", 1) => self.ceil_floor(&call.name.to_uppercase(), a[0]),
            (name, _) => Err(format!("the function `{name}` is not translated")),
        }
    }

    /// Functions that SQL has a syntax of its own for.
    pub(crate) fn special(&mut self, expr: &Expr) -> Result<Written, String> {
        match expr {
            Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                self.ceil_floor("CEIL", expr)
            }
            Expr::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                self.ceil_floor("FLOOR", expr)
            }
            Expr::Extract { field, expr, .. } => self.part(&field.to_string(), expr),
            Expr::Substring { expr, substring_from: Some(from), substring_for: None, .. } => {
                self.substring(&[expr, from])
            }
            Expr::Substring { expr, substring_from: Some(from), substring_for: Some(length), .. } => {
                self.substring(&[expr, from, length])
            }
            Expr::Trim { trim_where, trim_what: None, expr, trim_characters: None } => {
                let name = match trim_where {
                    Some(TrimWhereField::Leading) => "LTRIM",
                    Some(TrimWhereField::Trailing) => "RTRIM",
                    Some(TrimWhereField::Both) | None => "TRIM",
                };
                self.texts(name, &[expr])
            }
            other => Err(format!("`{other}` is not translated")),
        }
    }

    fn plain(&mut self, name: &str, arguments: &[&Expr]) -> Result<Written, String> {
        let arguments =
            arguments.iter().map(|argument| Ok(self.write(argument)?.sql)).collect::<Result<Vec<_>, String>>()?;
        Ok(Written::atom(format!("{name}({})", arguments.join(", "))))
    }

    /// Of texts and nothing that is made text on the way.
    fn texts(&mut self, name: &str, arguments: &[&Expr]) -> Result<Written, String> {
        for argument in arguments {
            if let Some(other) = self.data_type(argument).filter(|found| *found != DataType::Utf8) {
                return Err(format!("`{}` of {} is not translated", name.to_lowercase(), named(&other)));
            }
        }
        self.plain(name, arguments)
    }

    fn doubles(&mut self, call: &Call<'_>) -> Result<Written, String> {
        let wanted = if call.name.starts_with("pow") { 2 } else { 1 };
        if call.arguments.len() != wanted {
            return Err(format!("`{}` with {} arguments is not translated", call.name, call.arguments.len()));
        }
        let integers = |found: DataType| matches!(found, DataType::Int32 | DataType::Int64);
        if wanted == 2 && call.arguments.iter().all(|argument| self.data_type(argument).is_some_and(integers)) {
            return Err("`power` of two integers is an integer in Pulso and a DOUBLE there".to_owned());
        }
        let mut arguments = Vec::new();
        for argument in &call.arguments {
            arguments.push(self.as_double(argument)?.sql);
        }
        let name = if wanted == 2 { "POWER".to_owned() } else { call.name.to_uppercase() };
        Ok(Written::atom(format!("{name}({})", arguments.join(", "))))
    }

    fn round(&mut self, whole: &Expr, arguments: &[&Expr]) -> Result<Written, String> {
        match self.data_type(whole) {
            Some(DataType::Float64) => {
                self.note(ROUNDING);
                let mut written = vec![self.as_double(arguments[0])?.sql];
                written.extend(arguments.get(1).map(|digits| self.write(digits)).transpose()?.map(|digits| digits.sql));
                Ok(Written::atom(format!("ROUND({})", written.join(", "))))
            }
            Some(DataType::Decimal128(..)) => self.plain("ROUND", arguments),
            other => Err(format!("`round` to {} is not translated", other.as_ref().map_or("NULL".to_owned(), named))),
        }
    }

    fn ceil_floor(&mut self, name: &str, argument: &Expr) -> Result<Written, String> {
        match self.data_type(argument) {
            Some(DataType::Decimal128(..)) => Err(format!("`{}` of a decimal is not translated", name.to_lowercase())),
            _ => Ok(Written::atom(format!("{name}({})", self.as_double(argument)?.sql))),
        }
    }

    /// Pulso's `concat` passes over NULL, Flink's is NULL where one argument is.
    fn concat(&mut self, arguments: &[&Expr]) -> Result<Written, String> {
        let mut parts = Vec::new();
        for argument in arguments {
            let text = self.as_text(argument)?;
            parts.push(if self.nullable(argument) { format!("COALESCE({text}, '')") } else { text });
        }
        Ok(Written::atom(format!("CONCAT({})", parts.join(", "))))
    }

    /// Starts before the first letter mean different things.
    fn substring(&mut self, arguments: &[&Expr]) -> Result<Written, String> {
        if !arguments.iter().skip(1).all(|argument| positive(argument)) {
            return Err("`substr` is translated with a start and a length that are numbers from 1 on".to_owned());
        }
        if let Some(other) = self.data_type(arguments[0]).filter(|found| *found != DataType::Utf8) {
            return Err(format!("`substr` of {} is not translated", named(&other)));
        }
        self.plain("SUBSTRING", arguments)
    }

    fn date_trunc(&mut self, unit: &Expr, time: &Expr) -> Result<Written, String> {
        let unit = text(unit).unwrap_or_default().to_uppercase();
        if !["SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR"].contains(&unit.as_str()) {
            return Err(format!("`date_trunc` to `{}` is not translated", unit.to_lowercase()));
        }
        let time = self.time(time)?;
        Ok(Written::atom(format!("FLOOR({time} TO {unit})")))
    }

    fn part(&mut self, part: &str, time: &Expr) -> Result<Written, String> {
        let part = part.to_uppercase();
        if !["YEAR", "QUARTER", "MONTH", "DAY", "HOUR", "MINUTE"].contains(&part.as_str()) {
            return Err(format!("`{}` of a time is not translated", part.to_lowercase()));
        }
        let time = self.time(time)?;
        Ok(Written::atom(format!("CAST(EXTRACT({part} FROM {time}) AS INT)")))
    }

    fn time(&mut self, time: &Expr) -> Result<String, String> {
        match self.data_type(time) {
            Some(DataType::Timestamp(..)) => Ok(self.write(time)?.sql),
            other => Err(format!("a part of {} is not translated", other.as_ref().map_or("NULL".to_owned(), named))),
        }
    }

    fn note_integer(&mut self, argument: &Expr) {
        if matches!(self.data_type(argument), Some(DataType::Int32 | DataType::Int64)) {
            self.note(FAILURES);
        }
    }

    /// None where it is not the call of an aggregate function that is translated.
    fn aggregate(&mut self, call: &Call<'_>, function: &Function) -> Result<Option<Written>, String> {
        let name = call.name.to_uppercase();
        let inner = match (call.name.as_str(), call.arguments.as_slice()) {
            ("count", []) if call.star => "*".to_owned(),
            ("count", [argument]) => self.write(argument)?.sql,
            ("min" | "max", [argument]) => self.ordered(call, argument)?,
            ("sum", [argument]) => self.summed(argument)?,
            ("avg" | "mean", [argument]) => self.averaged(argument)?,
            _ => return Ok(None),
        };
        let name = if name == "MEAN" { "AVG" } else { &name };
        let distinct = if distinct(function).is_some() { "DISTINCT " } else { "" };
        let mut sql = format!("{name}({distinct}{inner})");
        if let Some(filter) = &function.filter {
            sql.push_str(&format!(" FILTER (WHERE {})", self.write(filter)?.sql));
        }
        Ok(Some(Written::atom(sql)))
    }

    fn ordered(&mut self, call: &Call<'_>, argument: &Expr) -> Result<String, String> {
        match self.data_type(argument) {
            Some(DataType::Boolean | DataType::FixedSizeBinary(_)) => {
                Err(format!("`{}` of a bool or uuid is not translated", call.name))
            }
            _ => Ok(self.write(argument)?.sql),
        }
    }

    fn summed(&mut self, argument: &Expr) -> Result<String, String> {
        match self.data_type(argument) {
            Some(DataType::Int32 | DataType::Int64) => {
                self.note(FAILURES);
                Ok(self.wide(argument)?.sql)
            }
            Some(DataType::Float64) => {
                self.note(FLOAT_SUMS);
                Ok(self.write(argument)?.sql)
            }
            Some(DataType::Decimal128(..)) => Ok(self.write(argument)?.sql),
            other => Err(format!("`sum` of {} is not translated", other.as_ref().map_or("NULL".to_owned(), named))),
        }
    }

    fn averaged(&mut self, argument: &Expr) -> Result<String, String> {
        match self.data_type(argument) {
            Some(DataType::Int32 | DataType::Int64 | DataType::Float64) => {
                self.note(FLOAT_SUMS);
                Ok(self.as_double(argument)?.sql)
            }
            other => {
                let what = other.as_ref().map_or("NULL".to_owned(), named);
                Err(format!("`avg` of {what} is rounded to another number of digits there"))
            }
        }
    }
}

fn call(function: &Function) -> Result<Call<'_>, String> {
    let name = function.name.to_string().to_lowercase();
    let odd = || format!("`{function}` is not translated");
    let plain = function.over.is_none() && function.within_group.is_empty() && function.null_treatment.is_none();
    let (FunctionArguments::List(list), true, FunctionArguments::None) = (&function.args, plain, &function.parameters)
    else {
        return Err(odd());
    };
    if !list.clauses.is_empty() {
        return Err(odd());
    }
    let mut call = Call { name, arguments: Vec::new(), star: false };
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => call.arguments.push(expr),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => call.star = true,
            _ => return Err(odd()),
        }
    }
    Ok(call)
}

fn distinct(function: &Function) -> Option<()> {
    match &function.args {
        FunctionArguments::List(list) => (list.duplicate_treatment == Some(DuplicateTreatment::Distinct)).then_some(()),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn positive(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.to_string().parse::<i32>().is_ok_and(|number| number > 0),
            _ => false,
        },
        _ => false,
    }
}
