//! Records in, rows and dead letters out; the numbers are those of the list of bad input.

use arrow::array::{AsArray, Float64Array, StringArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt16Type};
use proptest::prelude::*;
use pulso_core::ids::KeyGroup;
use pulso_core::key_group;

use super::*;
use crate::testing::job;

const NOON: i64 = 1_700_000_000_000;
const CLOCK: WallTime = WallTime(NOON * 1_000 + 5_000_000);

const FIELDS: &str = r#"
[fields]
id = { type = "string", required = true, max_bytes = "20B" }
at = { type = "timestamp", epoch = "ms", required = true }
f = { type = "float64", min = -5, max = 300 }
i = { type = "int32", min = 1 }
l = { type = "int64" }
d = { type = "decimal(6,2)", max = 1000 }
b = { type = "bool" }
t = { type = "timestamp", assume_zone = "Europe/Berlin" }
z = { type = "timestamp" }
day = { type = "date" }
u = { type = "uuid" }
j = { type = "json", max_bytes = "64B" }
c = { type = "string", one_of = ["OK", "ALERT"] }
n = { type = "int64", path = ["a.b", "ab"] }
"#;

const SINK: &str = "\n[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n";

fn plain() -> Decoder {
    Decoder::new(job("", &format!("{FIELDS}{SINK}"))).unwrap()
}

fn record(position: i64, value: &[u8]) -> RawRecord<'_> {
    let key = Some(&b"k"[..]);
    RawRecord { split: SplitId(3), position: Position(position), timestamp_ms: NOON, key, value: Some(value) }
}

fn letters(decoded: &Decoded) -> Vec<(i64, String, Option<String>)> {
    let Some(letters) = &decoded.payload.letters else { return Vec::new() };
    let positions = letters.column(2).as_primitive::<Int64Type>();
    let (reasons, fields) = (letters.column(4).as_string::<i32>(), letters.column(5).as_string::<i32>());
    let field = |row| fields.is_valid(row).then(|| fields.value(row).to_owned());
    (0..letters.num_rows()).map(|row| (positions.value(row), reasons.value(row).to_owned(), field(row))).collect()
}

fn rows(decoded: &Decoded) -> usize {
    decoded.payload.rows.as_ref().map_or(0, RecordBatch::num_rows)
}

fn one(decoder: &mut Decoder, value: &[u8]) -> Result<RecordBatch, (String, Option<String>)> {
    decoder.push(record(0, value));
    let decoded = decoder.close(CLOCK).unwrap();
    assert_eq!(rows(&decoded) + letters(&decoded).len(), 1);
    decoded.payload.rows.clone().ok_or_else(|| {
        let (_, reason, field) = letters(&decoded).remove(0);
        (reason, field)
    })
}

/// Asserts what becomes of a good record with these members added: `reason field`, or `ok`.
fn check_members(cases: &[(&str, &str)]) {
    let mut decoder = plain();
    for (members, expected) in cases {
        let text = format!("{{\"id\":\"x\",\"at\":{NOON},{members}}}");
        let found = match one(&mut decoder, text.as_bytes()) {
            Ok(_) => "ok".to_owned(),
            Err((reason, field)) => format!("{reason} {}", field.unwrap_or_default()),
        };
        assert_eq!(&found, expected, "{members}");
    }
}

/// 22, 23, 24, 27, 31
#[test]
fn what_is_not_one_object_of_json() {
    let deep = format!("{{\"id\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    let cases: [(&[u8], &str); 22] = [
        (b"", "invalid_json"),
        (b" \n", "invalid_json"),
        (b"{\"id\":", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{}\n{}\n", "invalid_json"),
        (b"\xEF\xBB\xBF{}", "invalid_json"),
        (b"{\"id\":\"\xFF\"}", "invalid_utf8"),
        (b"\xC3\x28", "invalid_utf8"),
        (b"{\"x\":\"\\ud800\"}", "invalid_json"),
        (b"{\"x\":\"a\nb\"}", "invalid_json"),
        (b"{\"x\":NaN}", "invalid_json"),
        (b"{\"x\":-Infinity}", "invalid_json"),
        (b"{\"x\":1,5}", "invalid_json"),
        (b"{'x':1}", "invalid_json"),
        (b"{\"x\":\"\0\"}", "invalid_json"),
        (b"\0\0\0\0\x07{\"id\":\"x\"}", "invalid_json"),
        (b"Obj\x01\x04", "invalid_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"\"text\"", "not_an_object"),
        (b"{\"id\":\"a\",\"id\":\"a\"}", "duplicate_key"),
        (deep.as_bytes(), "too_deep"),
    ];
    let mut decoder = plain();
    for (value, reason) in cases {
        let found = one(&mut decoder, value).unwrap_err();
        assert_eq!(found, (reason.to_owned(), None), "{:?}", String::from_utf8_lossy(value));
    }
}

/// 25, 28
#[test]
fn numbers() {
    check_members(&[
        ("\"f\":36.6", "ok"),
        ("\"f\":37", "ok"),
        ("\"f\":-0", "ok"),
        ("\"f\":300", "ok"),
        ("\"f\":300.00000000000006", "out_of_range f"),
        ("\"f\":300.000000000000001", "ok"),
        ("\"f\":-5.1", "out_of_range f"),
        ("\"f\":1e400", "out_of_range f"),
        ("\"f\":\"37.2\"", "wrong_type f"),
        ("\"f\":true", "wrong_type f"),
        ("\"f\":[1]", "wrong_type f"),
        ("\"i\":1", "ok"),
        ("\"i\":0", "out_of_range i"),
        ("\"i\":1.0", "wrong_type i"),
        ("\"i\":1e0", "wrong_type i"),
        ("\"i\":2147483648", "out_of_range i"),
        ("\"i\":\"1\"", "wrong_type i"),
        ("\"l\":9007199254740993", "ok"),
        ("\"l\":9223372036854775808", "out_of_range l"),
        ("\"d\":12.34", "ok"),
        ("\"d\":12.345", "too_precise d"),
        ("\"d\":1000.00", "ok"),
        ("\"d\":1000.01", "out_of_range d"),
        ("\"d\":99999", "out_of_range d"),
        ("\"b\":false", "ok"),
        ("\"b\":0", "wrong_type b"),
        ("\"b\":\"true\"", "wrong_type b"),
    ]);
}

/// 26
#[test]
fn times() {
    check_members(&[
        ("\"t\":\"2024-07-01T12:00:00\"", "ok"),
        ("\"t\":\"2024-07-01T12:00:00Z\"", "ok"),
        ("\"t\":\"2024-03-31T02:30:00\"", "no_such_local_time t"),
        ("\"t\":\"2024-10-27T02:30:00\"", "ok"),
        ("\"t\":1700000000", "wrong_type t"),
        ("\"z\":\"2024-07-01T12:00:00\"", "no_zone z"),
        ("\"z\":\"2024-02-30T12:00:00Z\"", "invalid_format z"),
        ("\"z\":\"0000-01-01T00:00:00Z\"", "out_of_range z"),
        ("\"z\":\"9999-12-31T23:59:59Z\"", "ok"),
        ("\"z\":\"2016-12-31T23:59:60Z\"", "ok"),
        ("\"z\":\"\\u0032024-07-01T12:00:00Z\"", "ok"),
        ("\"day\":\"2024-02-29\"", "ok"),
        ("\"day\":\"2023-02-29\"", "invalid_format day"),
        ("\"u\":\"01234567-89ab-cdef-0123-456789abcdef\"", "ok"),
        ("\"u\":\"xyz\"", "invalid_format u"),
    ]);
    let mut decoder = plain();
    for (at, reason) in
        [("1700000000000.5", "wrong_type"), ("\"2023\"", "wrong_type"), ("1700000000000000000", "out_of_range")]
    {
        let found = one(&mut decoder, format!("{{\"id\":\"x\",\"at\":{at}}}").as_bytes()).unwrap_err();
        assert_eq!(found, (reason.to_owned(), Some("at".to_owned())), "{at}");
    }
    assert!(one(&mut decoder, b"{\"id\":\"x\",\"at\":-1}").is_ok());
}

/// 23, 24, 27, 29, 32
#[test]
fn texts_and_objects() {
    check_members(&[
        ("\"c\":\"OK\"", "ok"),
        ("\"c\":\"ok\"", "not_one_of c"),
        ("\"c\":\"OK \"", "not_one_of c"),
        ("\"c\":\"\\u004fK\"", "ok"),
        ("\"c\":5", "wrong_type c"),
        ("\"c\":null", "ok"),
        ("\"C\":5", "ok"),
        ("\"j\":{\"a\":[1, 2]}", "ok"),
        ("\"j\":\"<script>\"", "ok"),
        ("\"j\":\"a\\u0000\"", "nul_in_text j"),
        ("\"j\":[\"0123456789012345678901234567890123456789012345678901234567890123456789\"]", "too_long j"),
        ("\"a\":{\"b\":1}", "ok"),
        ("\"a\":{\"b\":1.5}", "wrong_type n"),
        ("\"a\":[1]", "wrong_type n"),
        ("\"a\":{},\"ab\":1.5", "wrong_type n"),
        ("\"a\":{\"b\":null},\"ab\":7", "ok"),
        ("\"a\":{\"b\":1},\"ab\":\"not looked at\"", "ok"),
        ("\"unknown\":{\"x\":[{}, 1e400]}", "ok"),
    ]);
    let mut decoder = plain();
    let mut id = |id: &str| {
        one(&mut decoder, format!("{{\"at\":{NOON},\"id\":{id}}}").as_bytes())
            .map(|rows| text(&rows, 5))
            .map_err(|e| e.0)
    };
    assert_eq!(id("\"\"").unwrap(), "");
    assert_eq!(id("\"\\ud83d\\ude00\\n\\\"\"").unwrap(), "😀\n\"");
    assert_eq!(id("\"\u{1b}[31m\"").unwrap_err(), "invalid_json");
    assert_eq!(id("\"\\u001b[31m'; --\"").unwrap(), "\u{1b}[31m'; --");
    assert_eq!(id("\"a\\u0000\"").unwrap_err(), "nul_in_text");
    assert_eq!(id("\"\\\\u0000\"").unwrap(), "\\u0000");
    assert_eq!(id("\"123456789012345678901\"").unwrap_err(), "too_long");
    assert_eq!(id("\"éééééééééé\"").unwrap(), "éééééééééé");
    assert_eq!(id("null").unwrap_err(), "missing_field");
    assert_eq!(id("[\"a\"]").unwrap_err(), "wrong_type");
}

/// 24: so many fields that nobody asked for, and one of them twice.
#[test]
fn ten_thousand_fields() {
    let others: Vec<String> = (0..10_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let others = others.join(",");
    check_members(&[
        (&format!("{others},\"i\":7"), "ok"),
        (&format!("\"i\":7,{others},\"i\":7"), "duplicate_key "),
        (&format!("{others},\"i\":0"), "out_of_range i"),
    ]);
}

fn text(rows: &RecordBatch, column: usize) -> String {
    rows.column(column).as_string::<i32>().value(0).to_owned()
}

#[test]
fn values_are_exact() {
    let value = format!(
        "{{\"id\":\"x\",\"at\":{NOON},\"f\":0.1,\"i\":2147483647,\"l\":9007199254740993,\"d\":-12.3,\"b\":true,\
         \"t\":\"2024-07-01T12:00:00\",\"day\":\"1970-01-02\",\"u\":\"00000000-0000-0000-0000-0000000000ff\",\
         \"j\":{{\"k\": 1.50}},\"ab\":8}}"
    );
    let rows = one(&mut plain(), value.as_bytes()).unwrap();
    let at = |name: &str| rows.column_by_name(name).unwrap().clone();
    assert_eq!(at("at").as_primitive::<TimestampMicrosecondType>().value(0), NOON * 1_000);
    assert_eq!(at("f").as_primitive::<Float64Type>().value(0), 0.1);
    assert_eq!(at("i").as_primitive::<Int32Type>().value(0), i32::MAX);
    assert_eq!(at("l").as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
    assert_eq!(at("d").as_primitive::<Decimal128Type>().value(0), -1_230);
    assert!(at("b").as_boolean().value(0));
    assert_eq!(at("t").as_primitive::<TimestampMicrosecondType>().value(0), 1_719_828_000_000_000);
    assert!(at("z").is_null(0) && at("c").is_null(0));
    assert_eq!(at("u").as_fixed_size_binary().value(0)[15], 0xFF);
    assert_eq!(at("j").as_string::<i32>().value(0), "{\"k\": 1.50}");
    assert_eq!(at("n").as_primitive::<Int64Type>().value(0), 8);
    assert_eq!(rows.column(2).as_primitive::<Int64Type>().value(0), 0);
    assert!(!rows.column(4).as_boolean().value(0));
}

/// 22, 24
#[test]
fn dead_letters_keep_everything() {
    let mut decoder = Decoder::new(job("max_record = \"1KiB\"", &format!("{FIELDS}{SINK}"))).unwrap();
    let big = format!("{{\"id\":\"x\",\"at\":{NOON},\"pad\":\"{}\"}}", "x".repeat(1_024));
    decoder.push(record(7, big.as_bytes()));
    decoder.push(RawRecord { key: None, value: None, timestamp_ms: -1, ..record(8, b"") });
    assert_eq!(decoder.len(), 2);
    let decoded = decoder.close(CLOCK).unwrap();
    assert_eq!(letters(&decoded), [(7, "too_large".to_owned(), None), (8, "no_value".to_owned(), None)]);
    let batch = decoded.payload.letters.unwrap();
    let group = key_group::of_split(SplitId(3), 8);
    assert_eq!(batch.column(0).as_primitive::<UInt16Type>().values(), &[group.0, group.0]);
    assert_eq!(batch.column(3).as_primitive::<Int64Type>().values(), &[NOON, -1]);
    assert_eq!(batch.column(6).as_binary::<i32>().value(0), b"k");
    assert_eq!(batch.column(7).as_binary::<i32>().value(0), big.as_bytes());
    assert!(batch.column(6).is_null(1) && batch.column(7).is_null(1));
    assert!(decoder.is_empty() && decoder.bytes() == 0);
}

const TIMED: &str = r#"
[rules]
positive = "f is null or f > 0"
[filter]
keep = "c is null or c <> 'ALERT'"
[derive]
share = "100 / i"
half = "share / 2"
[time]
field = "at"
max_future = "10m"
[dedup]
key = ["id", "at"]
route_by = ["id"]
keep_for = "1h"
[[sink]]
to = "db"
table = "t"
key = ["id", "at"]
where = "l is null or l <> 0"
[sink.columns]
id = "id"
at = "at"
ratio = "1000 / l"
"#;

fn timed() -> Decoder {
    Decoder::new(job("", &format!("{FIELDS}{TIMED}"))).unwrap()
}

fn member(members: &str, at_ms: i64) -> String {
    format!("{{\"id\":\"x\",\"at\":{at_ms}{members}}}")
}

#[test]
fn rules_filter_and_expressions_judge_single_rows() {
    let mut decoder = Decoder::new(job("", &format!("{FIELDS}{}", TIMED.replace("min = 1", "")))).unwrap();
    let members = ["", ",\"f\":0", ",\"c\":\"ALERT\"", ",\"i\":7", ",\"l\":0", ",\"l\":5", ",\"f\":-1,\"c\":\"ALERT\""];
    for (position, members) in (0..).zip(members) {
        decoder.push(record(position, member(members, NOON).as_bytes()));
    }
    let decoded = decoder.close(CLOCK).unwrap();
    let rule = |position| (position, "rule:positive".to_owned(), None);
    assert_eq!(letters(&decoded), [rule(1), rule(6)]);
    assert_eq!(decoded.payload.filtered, BTreeMap::from([(key_group::of_split(SplitId(3), 8), 1)]));
    let batch = decoded.payload.rows.unwrap();
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().values(), &[0, 3, 4, 5]);
    let half = batch.column_by_name("half").unwrap();
    assert_eq!(arrow::util::display::array_value_to_string(half, 1).unwrap(), "7");
    assert_eq!(batch.column(0).as_primitive::<UInt16Type>().value(0), key_group::of_key(b"\x08\0\0\0\x01x", 8).0);
}

/// A failing expression costs its own row only, wherever it stands among many.
#[test]
fn expression_errors_are_dead_letters_of_their_rows() {
    let fields = FIELDS.replace("i = { type = \"int32\", min = 1 }", "i = { type = \"int32\" }");
    let mut decoder = Decoder::new(job("", &format!("{fields}{}", TIMED.replace("l <> 0", "l <> 1")))).unwrap();
    let zero = |n: i64| n % 97 == 13;
    for n in 0..1_000 {
        let members = if zero(n) {
            ",\"i\":0"
        } else if n == 500 {
            ",\"l\":0"
        } else {
            ",\"i\":3,\"l\":9"
        };
        decoder.push(record(n, member(members, NOON).as_bytes()));
    }
    let decoded = decoder.close(CLOCK).unwrap();
    let error = |n: i64, place: &str| (n, "expression_error".to_owned(), Some(place.to_owned()));
    let mut expected: Vec<_> = (0..1_000).filter(|n| zero(*n)).map(|n| error(n, "share")).collect();
    expected.push(error(500, "public.t.ratio"));
    assert_eq!(letters(&decoded), expected);
    assert_eq!(rows(&decoded) + expected.len(), 1_000);
}

/// 26, 30, 33
#[test]
fn event_times_ahead_of_broker_and_clock() {
    let minute = 60_000;
    let mut decoder = timed();
    let clock = |ms: i64| WallTime(ms * 1_000);
    let push = |decoder: &mut Decoder, position, at_ms: i64, broker_ms: i64, members: &str| {
        let value = member(members, at_ms);
        decoder.push(RawRecord { timestamp_ms: broker_ms, ..record(position, value.as_bytes()) });
    };
    push(&mut decoder, 0, NOON, NOON, "");
    // At the bound is not beyond it.
    push(&mut decoder, 1, NOON + 10 * minute, NOON, "");
    push(&mut decoder, 2, NOON + 10 * minute + 1, NOON, "");
    // The broker has no timestamp, or a wrong one: the clock decides, which is not known yet.
    push(&mut decoder, 3, NOON + 11 * minute, -1, "");
    push(&mut decoder, 4, NOON + 100 * 365 * 24 * 60 * minute, NOON + 100 * 365 * 24 * 60 * minute, "");
    push(&mut decoder, 5, NOON + 11 * minute, -1, ",\"c\":\"ALERT\"");
    let first = decoder.take(clock(NOON)).unwrap();
    assert_eq!(rows(&first), 2);
    let future = |position| (position, "too_far_in_future".to_owned(), Some("at".to_owned()));
    assert_eq!(letters(&first), [future(2)]);
    assert_eq!(first.greatest, BTreeMap::from([(SplitId(3), EventTime((NOON + 10 * minute) * 1_000))]));
    assert_eq!(decoder.len(), 2);
    let rest = decoder.close(clock(NOON + minute)).unwrap();
    assert_eq!(rows(&rest), 1);
    assert_eq!(letters(&rest), [future(4)]);
    assert_eq!(rest.greatest, BTreeMap::from([(SplitId(3), EventTime((NOON + 11 * minute) * 1_000))]));
    assert!(decoder.is_empty());
}

const TOMBSTONES: &str = "\n[time]\nfield = \"at\"\n[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n[[sink]]\nto = \"db\"\ntable = \"t\"\nkey = [\"id\", \"at\"]\n";

/// 22
#[test]
fn tombstones_name_their_row_by_the_key() {
    let mut decoder =
        Decoder::new(job("tombstone = { key = [\"id\", \"at\"] }", &format!("{FIELDS}{TOMBSTONES}"))).unwrap();
    let mut delete = |key: Option<&[u8]>| {
        decoder.push(RawRecord { key, value: None, ..record(0, b"") });
        let decoded = decoder.close(CLOCK).unwrap();
        decoded.payload.rows.clone().ok_or_else(|| letters(&decoded).remove(0))
    };
    let batch = delete(Some(format!("{{\"at\":{NOON},\"id\":\"\\u0078\"}}").as_bytes())).unwrap();
    assert!(batch.column(4).as_boolean().value(0));
    assert_eq!((text(&batch, 5), batch.column_by_name("f").unwrap().is_null(0)), ("x".to_owned(), true));
    // It goes where the record goes.
    let value = member("", NOON);
    let row = one(&mut Decoder::new(job("", &format!("{FIELDS}{TOMBSTONES}"))).unwrap(), value.as_bytes()).unwrap();
    assert_eq!(row.column(0), batch.column(0));
    let bad = |field: Option<&str>| (0, "bad_key".to_owned(), field.map(str::to_owned));
    assert_eq!(delete(None).unwrap_err(), bad(None));
    assert_eq!(delete(Some(b"x")).unwrap_err(), bad(None));
    assert_eq!(delete(Some(b"{\"id\":\"x\"}")).unwrap_err(), bad(Some("at")));
    assert_eq!(delete(Some(b"{\"id\":5,\"at\":1}")).unwrap_err(), bad(Some("id")));
    assert_eq!(delete(Some(b"{\"id\":\"x\",\"at\":9999999999999}")).unwrap_err().1, "too_far_in_future");
}

#[test]
fn a_tombstone_key_of_one_column_is_text() {
    let one_column = |column: &str, kind: &str, key: &[u8]| {
        let rest = format!(
            "[fields]\n{column} = {{ type = \"{kind}\", required = true }}\n[[sink]]\nto = \"db\"\ntable = \"t\"\nkey = [\"{column}\"]\n"
        );
        let mut decoder = Decoder::new(job(&format!("tombstone = {{ key = [\"{column}\"] }}"), &rest)).unwrap();
        decoder.push(RawRecord { key: Some(key), value: None, ..record(0, b"") });
        let decoded = decoder.close(CLOCK).unwrap();
        decoded.payload.rows.map(|rows| arrow::util::display::array_value_to_string(rows.column(5), 0).unwrap())
    };
    assert_eq!(one_column("id", "string", b"a \"b\"").unwrap(), "a \"b\"");
    assert_eq!(one_column("id", "string", b"").unwrap(), "");
    assert_eq!(one_column("id", "string", b"a\0"), None);
    assert_eq!(one_column("id", "string", b"\xFF"), None);
    assert_eq!(one_column("id", "int64", b"42").unwrap(), "42");
    assert_eq!(one_column("id", "int64", b"x"), None);
    assert_eq!(one_column("id", "int64", b"null"), None);
    assert_eq!(
        one_column("id", "uuid", b"00000000-0000-0000-0000-0000000000ff").unwrap().to_lowercase(),
        format!("{}ff", "0".repeat(30))
    );
}

/// A number as a column of the key and the same number in the value name the same row, whatever the integer type.
#[test]
fn routing_is_by_typed_values() {
    let fields =
        "[fields]\nid = { type = \"int32\", required = true }\n[[sink]]\nto = \"db\"\ntable = \"t\"\nkey = [\"id\"]\n";
    let mut decoder = Decoder::new(job("tombstone = { key = [\"id\"] }", fields)).unwrap();
    for n in 0..50 {
        let text = n.to_string();
        decoder.push(record(n, format!("{{\"id\": {text} }}").as_bytes()));
        decoder.push(RawRecord { key: Some(text.as_bytes()), value: None, ..record(100 + n, b"") });
    }
    let batch = decoder.close(CLOCK).unwrap().payload.rows.unwrap();
    let groups = batch.column(0).as_primitive::<UInt16Type>().values();
    assert_eq!(groups[..50], groups[50..]);
    assert!(groups.iter().collect::<std::collections::BTreeSet<_>>().len() > 4);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whenever `take` is called and with whatever earlier clock: the same rows and letters.
    #[test]
    fn it_does_not_matter_when_it_is_asked(
        records in prop::collection::vec((0i64..40, 0u32..3, 0usize..6, prop::option::of(-30i64..0)), 1..60),
    ) {
        let members = ["", ",\"f\":0", ",\"c\":\"ALERT\"", ",\"i\":4", ",\"f\":\"x\"", ",\"l\":3"];
        let push = |decoder: &mut Decoder, position: usize, (minute, split, kind, _): &(i64, u32, usize, Option<i64>)| {
            let value = member(members[*kind], NOON + minute * 60_000);
            let raw = RawRecord { split: SplitId(*split), timestamp_ms: -1, ..record(position as i64, value.as_bytes()) };
            decoder.push(raw);
        };
        let close = WallTime(NOON * 1_000 + 600_000_000);
        let mut whole = timed();
        records.iter().enumerate().for_each(|(n, record)| push(&mut whole, n, record));
        let expected = outcome([whole.close(close).unwrap()]);
        let mut often = timed();
        let mut parts = Vec::new();
        for (n, record) in records.iter().enumerate() {
            push(&mut often, n, record);
            if let Some(minutes) = record.3 {
                parts.push(often.take(WallTime(close.0 + minutes * 60_000_000)).unwrap());
            }
        }
        parts.push(often.close(close).unwrap());
        prop_assert_eq!(outcome(parts), expected);
        prop_assert_eq!(often.len(), 0);
    }

    /// Every record is counted exactly once, whatever its bytes.
    #[test]
    fn nothing_gets_lost_and_nothing_panics(values in prop::collection::vec(prop::option::of("[{}\":,a-d0-9.eE\\\\ -]{0,30}"), 1..20)) {
        let mut decoder = timed();
        for (n, value) in values.iter().enumerate() {
            decoder.push(RawRecord { value: value.as_ref().map(String::as_bytes), ..record(n as i64, b"") });
        }
        let decoded = decoder.close(CLOCK).unwrap();
        let filtered: u64 = decoded.payload.filtered.values().sum();
        prop_assert_eq!(decoded.payload.rows_count() + filtered as usize, values.len());
    }
}

type Outcome =
    (Vec<(i64, u16)>, Vec<(i64, String, Option<String>)>, BTreeMap<KeyGroup, u64>, BTreeMap<SplitId, EventTime>);

fn outcome(parts: impl IntoIterator<Item = Decoded>) -> Outcome {
    let (mut all_rows, mut all_letters) = (Vec::new(), Vec::new());
    let (mut filtered, mut greatest) = (BTreeMap::new(), BTreeMap::new());
    for part in parts {
        all_letters.extend(letters(&part));
        if let Some(rows) = part.payload.rows {
            let positions = rows.column(2).as_primitive::<Int64Type>().values().iter().copied();
            all_rows.extend(positions.zip(rows.column(0).as_primitive::<UInt16Type>().values().iter().copied()));
        }
        part.payload.filtered.into_iter().for_each(|(k, n)| *filtered.entry(k).or_default() += n);
        for (split, time) in part.greatest {
            let most = greatest.entry(split).or_insert(time);
            *most = (*most).max(time);
        }
    }
    all_rows.sort_unstable();
    all_letters.sort();
    (all_rows, all_letters, filtered, greatest)
}

#[test]
fn without_time_and_key_rows_go_by_split() {
    let rest = format!("[fields]\nf = {{ type = \"float64\" }}\n{SINK}");
    let mut decoder = Decoder::new(job("", &rest)).unwrap();
    decoder.push(record(0, b"{\"f\":1.5}"));
    decoder.push(record(1, b"{}"));
    let decoded = decoder.take(WallTime(0)).unwrap();
    assert!(decoded.greatest.is_empty());
    let batch = decoded.payload.rows.unwrap();
    let group = key_group::of_split(SplitId(3), 8).0;
    assert_eq!(batch.column(0).as_primitive::<UInt16Type>().values(), &[group, group]);
    assert_eq!(*batch.column(5).as_primitive::<Float64Type>(), Float64Array::from(vec![Some(1.5), None]));
    assert_eq!(batch.schema().field(5).name(), "f");
    assert!(batch.column(5).as_string_opt::<i32>().is_none_or(|_: &StringArray| false));
}
