//! Values of rows as JSON, and back for comparing: each type of the job language has one form that loses nothing.

use std::cmp::Ordering;

use arrow::datatypes::DataType;
use pulso_dataflow::key::KeyValue;
use pulso_job::{JobSpec, SinkSpec};
use serde_json::{Number, Value};

/// A column of a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    /// Text that is a JSON document.
    pub json: bool,
}

impl Column {
    pub(super) fn of(spec: &JobSpec, sink: &SinkSpec) -> Vec<Self> {
        let column = |column: &pulso_job::SinkColumn| Self {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            json: spec.is_json(sink, column),
        };
        sink.columns.iter().map(column).collect()
    }

    fn scale(&self) -> usize {
        #[expect(clippy::wildcard_enum_match_arm, reason = "no other type has a scale")]
        match self.data_type {
            DataType::Decimal128(_, scale) => usize::try_from(scale).unwrap_or(0),
            _ => 0,
        }
    }
}

/// Decimals, timestamps, dates and UUIDs are text; so are the floats that JSON has no number for.
pub fn to_json(value: &KeyValue, column: &Column) -> Value {
    match value {
        KeyValue::Null => Value::Null,
        KeyValue::Bool(value) => Value::Bool(*value),
        KeyValue::Int(value) => Value::from(*value),
        KeyValue::Float(value) => Number::from_f64(*value).map_or_else(|| Value::from(value.to_string()), Value::from),
        KeyValue::Decimal(unscaled) => Value::from(decimal_text(*unscaled, column.scale())),
        KeyValue::Timestamp(micros) => Value::from(match jiff::Timestamp::from_microsecond(*micros) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{micros} us since 1970"),
        }),
        KeyValue::Date(days) => {
            Value::from(match jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(*days)) {
                Ok(date) => date.to_string(),
                Err(_) => format!("{days} days since 1970"),
            })
        }
        KeyValue::Uuid(bytes) => Value::from(uuid::Uuid::from_bytes(*bytes).to_string()),
        KeyValue::Text(text) if column.json => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
        }
        KeyValue::Text(text) => Value::from(text.as_str()),
    }
}

/// The value of a column as a person writes it; numbers may stand for decimals.
///
/// # Errors
/// What the column would take instead.
pub fn from_json(value: &Value, column: &Column) -> Result<KeyValue, String> {
    let wanted = |what: &str| format!("column {} takes {what}, not {value}", column.name);
    if value.is_null() {
        return Ok(KeyValue::Null);
    }
    if column.json {
        return Ok(KeyValue::Text(value.to_string()));
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    match column.data_type {
        DataType::Boolean => value.as_bool().map(KeyValue::Bool).ok_or_else(|| wanted("true or false")),
        DataType::Int32 => {
            let number = value.as_i64().filter(|number| i32::try_from(*number).is_ok());
            number.map(KeyValue::Int).ok_or_else(|| wanted("a whole number of 32 bits"))
        }
        DataType::Int64 => value.as_i64().map(KeyValue::Int).ok_or_else(|| wanted("a whole number")),
        DataType::Float64 => {
            let text = value.as_str().and_then(|text| text.parse().ok());
            value.as_f64().or(text).map(KeyValue::Float).ok_or_else(|| wanted("a number"))
        }
        DataType::Decimal128(..) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let what = format!("a number with at most {} digits behind the point", column.scale());
            decimal(&text, column.scale()).map(KeyValue::Decimal).ok_or_else(|| wanted(&what))
        }
        DataType::Timestamp(..) => {
            let time = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            let what = "a time with a zone, \"2026-01-31T12:00:00Z\"";
            time.map(|time| KeyValue::Timestamp(time.as_microsecond())).ok_or_else(|| wanted(what))
        }
        DataType::Date32 => {
            let date = value.as_str().and_then(|text| text.parse::<jiff::civil::Date>().ok());
            let days = date.and_then(|date| date.since(jiff::civil::date(1970, 1, 1)).ok()).map(|span| span.get_days());
            days.map(KeyValue::Date).ok_or_else(|| wanted("a date, \"2026-01-31\""))
        }
        DataType::FixedSizeBinary(16) => {
            let uuid = value.as_str().and_then(|text| uuid::Uuid::try_parse(text).ok());
            uuid.map(|uuid| KeyValue::Uuid(uuid.into_bytes())).ok_or_else(|| wanted("a UUID"))
        }
        _ => value.as_str().map(|text| KeyValue::Text(text.to_owned())).ok_or_else(|| wanted("text")),
    }
}

/// Null is the least. Values of one column have one type.
pub fn order(a: &KeyValue, b: &KeyValue) -> Ordering {
    match (a, b) {
        (KeyValue::Bool(a), KeyValue::Bool(b)) => a.cmp(b),
        (KeyValue::Int(a), KeyValue::Int(b)) | (KeyValue::Timestamp(a), KeyValue::Timestamp(b)) => a.cmp(b),
        (KeyValue::Float(a), KeyValue::Float(b)) => a.total_cmp(b),
        (KeyValue::Decimal(a), KeyValue::Decimal(b)) => a.cmp(b),
        (KeyValue::Date(a), KeyValue::Date(b)) => a.cmp(b),
        (KeyValue::Uuid(a), KeyValue::Uuid(b)) => a.cmp(b),
        (KeyValue::Text(a), KeyValue::Text(b)) => a.cmp(b),
        (a, b) => (*b == KeyValue::Null).cmp(&(*a == KeyValue::Null)),
    }
}

fn decimal_text(unscaled: i128, scale: usize) -> String {
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The unscaled value, if nothing has to be rounded.
fn decimal(text: &str, scale: usize) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit());
    if whole.is_empty() || !all_digits || fraction.len() > scale {
        return None;
    }
    let unscaled: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    Some(if negative { -unscaled } else { unscaled })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;
    use serde_json::json;

    use super::*;

    fn column(data_type: DataType) -> Column {
        Column { name: "c".to_owned(), data_type, json: false }
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let values = [
            (DataType::Boolean, KeyValue::Bool(true), json!(true)),
            (DataType::Int64, KeyValue::Int(i64::MIN), json!(i64::MIN)),
            (DataType::Float64, KeyValue::Float(0.1), json!(0.1)),
            (DataType::Decimal128(38, 2), KeyValue::Decimal(-5), json!("-0.05")),
            (DataType::Decimal128(4, 0), KeyValue::Decimal(12), json!("12")),
            (time, KeyValue::Timestamp(-1), json!("1969-12-31T23:59:59.999999Z")),
            (DataType::Date32, KeyValue::Date(-719_162), json!("0001-01-01")),
            (DataType::Date32, KeyValue::Date(20_484), json!("2026-01-31")),
            (DataType::FixedSizeBinary(16), KeyValue::Uuid([0x11; 16]), json!("11111111-1111-1111-1111-111111111111")),
            (DataType::Utf8, KeyValue::Text("ç".to_owned()), json!("ç")),
            (DataType::Utf8, KeyValue::Null, json!(null)),
        ];
        for (data_type, value, json) in values {
            let column = column(data_type);
            assert_eq!(to_json(&value, &column), json);
            assert_eq!(from_json(&json, &column), Ok(value));
        }
    }

    #[test]
    fn numbers_stand_for_decimals_and_nothing_is_rounded() {
        let price = column(DataType::Decimal128(10, 2));
        assert_eq!(from_json(&json!(12.5), &price), Ok(KeyValue::Decimal(1250)));
        assert_eq!(from_json(&json!(7), &price), Ok(KeyValue::Decimal(700)));
        for wrong in [json!(0.125), json!("1e3"), json!("."), json!(""), json!(true)] {
            let error = from_json(&wrong, &price).unwrap_err();
            assert!(error.contains("2 digits behind the point"), "{error}");
        }
        assert!(from_json(&json!("1"), &column(DataType::Int32)).is_err());
        assert!(
            from_json(&json!("2026-01-31T12:00:00"), &column(DataType::Timestamp(TimeUnit::Microsecond, None)))
                .is_err()
        );
    }

    #[test]
    fn null_is_the_least() {
        assert_eq!(order(&KeyValue::Null, &KeyValue::Int(i64::MIN)), Ordering::Less);
        assert_eq!(order(&KeyValue::Int(0), &KeyValue::Null), Ordering::Greater);
        assert_eq!(order(&KeyValue::Null, &KeyValue::Null), Ordering::Equal);
    }
}
