//! What goes in comes out, and nothing else looks like it.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;

use super::*;

fn array(value: &KeyValue) -> ArrayRef {
    match value {
        KeyValue::Null => Arc::new(StringArray::from(vec![None::<&str>])),
        KeyValue::Bool(v) => Arc::new(BooleanArray::from(vec![*v])),
        KeyValue::Int(v) => Arc::new(Int64Array::from(vec![*v])),
        KeyValue::Float(v) => Arc::new(Float64Array::from(vec![*v])),
        KeyValue::Decimal(v) => Arc::new(Decimal128Array::from(vec![*v])),
        KeyValue::Timestamp(v) => Arc::new(TimestampMicrosecondArray::from(vec![*v])),
        KeyValue::Date(v) => Arc::new(Date32Array::from(vec![*v])),
        KeyValue::Uuid(v) => Arc::new(FixedSizeBinaryArray::try_from_iter([v].into_iter()).unwrap()),
        KeyValue::Text(v) => Arc::new(StringArray::from(vec![v.as_str()])),
    }
}

fn encode(values: &[KeyValue]) -> Vec<u8> {
    let arrays: Vec<ArrayRef> = values.iter().map(array).collect();
    let fields: Vec<Field> =
        (0..).zip(&arrays).map(|(n, a)| Field::new(format!("c{n}"), a.data_type().clone(), true)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let mut out = Vec::new();
    KeyColumns::new(&batch, 0..values.len()).unwrap().encode(0, &mut out);
    out
}

fn value() -> impl Strategy<Value = KeyValue> {
    prop_oneof![
        Just(KeyValue::Null),
        any::<bool>().prop_map(KeyValue::Bool),
        any::<i64>().prop_map(KeyValue::Int),
        any::<f64>().prop_filter("one zero, one NaN", |v| *v != 0.0 && !v.is_nan()).prop_map(KeyValue::Float),
        (-10i128.pow(38) + 1..10i128.pow(38)).prop_map(KeyValue::Decimal),
        any::<i64>().prop_map(KeyValue::Timestamp),
        any::<i32>().prop_map(KeyValue::Date),
        any::<[u8; 16]>().prop_map(KeyValue::Uuid),
        "[ab]{0,3}|.*".prop_map(KeyValue::Text),
    ]
}

fn values() -> impl Strategy<Value = Vec<KeyValue>> {
    prop::collection::vec(value(), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_back_what_it_wrote(values in values()) {
        prop_assert_eq!(decode(&encode(&values)).unwrap(), values);
    }

    #[test]
    fn other_keys_have_other_bytes(a in values(), b in values()) {
        prop_assert_eq!(encode(&a) == encode(&b), a == b);
    }

    #[test]
    fn never_panics_on_other_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = decode(&bytes);
    }
}

#[test]
fn texts_do_not_run_together() {
    let text = |text: &str| KeyValue::Text(text.to_owned());
    assert_ne!(encode(&[text("a"), text("bc")]), encode(&[text("ab"), text("c")]));
    assert_ne!(encode(&[text("")]), encode(&[KeyValue::Null]));
    assert_ne!(encode(&[text("é")]), encode(&[text("e\u{301}")]));
}

#[test]
fn both_integer_types_are_one() {
    let schema = |t| Arc::new(Schema::new(vec![Field::new("a", t, false)]));
    let narrow = RecordBatch::try_new(schema(DataType::Int32), vec![Arc::new(Int32Array::from(vec![-7]))]).unwrap();
    let mut out = Vec::new();
    KeyColumns::new(&narrow, [0]).unwrap().encode(0, &mut out);
    assert_eq!(out, encode(&[KeyValue::Int(-7)]));
}

/// Changing this moves every key to another key group and makes all state unreadable.
#[test]
fn the_bytes_are_stable() {
    let key = [KeyValue::Text("p-1".to_owned()), KeyValue::Timestamp(1_700_000_000_123_000)];
    assert_eq!(encode(&key), *b"\x08\0\0\0\x03p-1\x05\0\x06\x0a\x24\x18\x20\x20\x78");
    assert_eq!(pulso_core::key_group::of_key(&encode(&key[..1]), 32).0, 11);
}

/// No two spellings are one key, however alike they look: nobody normalises, so producers must agree.
#[test]
fn text_is_a_key_byte_by_byte() {
    let spellings = ["é", "e\u{301}", "É", "é ", "\u{fb01}", "fi", "\u{212b}", "\u{c5}", "A\u{30a}", "a", "a\u{200b}"];
    let keys: std::collections::BTreeSet<Vec<u8>> =
        spellings.iter().map(|text| encode(&[KeyValue::Text((*text).to_owned())])).collect();
    assert_eq!(keys.len(), spellings.len());
}
