//! Records of files: values of the file's root, CSV, and files that are none of their format.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use pulso_core::ids::{Position, SplitId, WallTime};

use super::{Decoded, Decoder, RawRecord};
use crate::document::FileKey;
use crate::testing::job_of_files;

const FIELDS: &str = r#"
[fields]
patient = { type = "int64", path = ["^p.id", "id"], required = true }
name = { type = "string", path = ["^p.name"] }
at = { type = "timestamp", required = true }
value = { type = "decimal(6,2)", max = 1000 }
[time]
field = "at"
[[sink]]
to = "db"
table = "t"
write = "append"
"#;

const CLOCK: WallTime = WallTime(1_800_000_000_000_000);

fn push(decoder: &mut Decoder, key: &FileKey, position: i64, value: &[u8]) {
    let key = key.encode();
    // Modified long before what it says happened: no reason to doubt it.
    let (split, position) = (SplitId(1), Position(position));
    decoder.push(RawRecord { split, position, timestamp_ms: 5, key: Some(&key), value: Some(value) });
}

fn letters(decoded: &Decoded) -> Vec<String> {
    let Some(letters) = &decoded.payload.letters else { return Vec::new() };
    let (reasons, fields) = (letters.column(4).as_string::<i32>(), letters.column(5).as_string::<i32>());
    let field = |row| if fields.is_valid(row) { fields.value(row) } else { "-" };
    (0..letters.num_rows()).map(|row| format!("{} {}", reasons.value(row), field(row))).collect()
}

#[test]
fn values_of_the_root_go_with_every_record_of_their_file() {
    let mut decoder = Decoder::new(job_of_files("each = \"r\"", FIELDS)).unwrap();
    let one = FileKey { root: Some(r#"{"p":{"id":17,"name":"Ana \"X\""}}"#.to_owned()), ..FileKey::default() };
    let other = FileKey { file: "/b".to_owned(), root: Some("{}".to_owned()), ..FileKey::default() };
    push(&mut decoder, &one, 0, br#"{"at":"2026-01-01T00:00:00Z","value":1.5}"#);
    push(&mut decoder, &one, 1, br#"{"at":"2026-01-01T00:00:01Z","value":"x"}"#);
    push(&mut decoder, &one, 2, b"7");
    push(&mut decoder, &other, 3, br#"{"id":9,"at":"2026-01-01T00:00:02Z"}"#);
    push(&mut decoder, &other, 4, br#"{"at":"2026-01-01T00:00:02Z"}"#);
    let decoded = decoder.close(CLOCK).unwrap();
    let rows = decoded.payload.rows.as_ref().unwrap();
    let patient = rows.column_by_name("patient").unwrap().as_primitive::<Int64Type>();
    assert_eq!(patient.values().to_vec(), [17, 9]);
    let name = rows.column_by_name("name").unwrap().as_string::<i32>();
    assert_eq!((name.value(0), name.is_null(1)), ("Ana \"X\"", true));
    assert_eq!(letters(&decoded), ["wrong_type value", "not_an_object -", "missing_field patient"]);
}

#[test]
fn a_file_that_is_none_of_its_format_is_one_dead_letter() {
    let mut decoder = Decoder::new(job_of_files("each = \"r\"", FIELDS)).unwrap();
    let bad = FileKey { file: "/broken.json".to_owned(), bad: Some("no_records".to_owned()), ..FileKey::default() };
    push(&mut decoder, &bad, 0, b"{\"x\":1}");
    let decoded = decoder.close(CLOCK).unwrap();
    assert_eq!(letters(&decoded), ["no_records -"]);
    let letters = decoded.payload.letters.unwrap();
    assert_eq!(letters.column(6).as_binary::<i32>().value(0), bad.encode());
    assert_eq!(letters.column(7).as_binary::<i32>().value(0), b"{\"x\":1}");
}

#[test]
fn csv_columns_go_by_the_header_and_their_text_is_typed() {
    let fields = FIELDS.replace("\"^p.id\", \"id\"", "\"id\", \"codigo\"").replace("\"^p.name\"", "\"nome\"");
    let mut decoder = Decoder::new(job_of_files("format = \"csv\"\ndelimiter = \";\"", &fields)).unwrap();
    let header = |text: &str| FileKey { header: Some(text.to_owned()), ..FileKey::default() };
    let one = header("nome;codigo;\"at\";value");
    push(&mut decoder, &one, 0, "\"José; \"\"Zé\"\"\";9007199254740993;2026-01-01T00:00:00Z;12.34".as_bytes());
    push(&mut decoder, &one, 1, b";2;2026-01-01T00:00:00Z;");
    push(&mut decoder, &one, 2, b"\"\";3;2026-01-01T00:00:00Z;1,5");
    push(&mut decoder, &one, 3, b"x;4;2026-01-01T00:00:00Z");
    push(&mut decoder, &one, 4, b"x\"y;5;2026-01-01T00:00:00Z;1");
    push(&mut decoder, &one, 5, b"x;;2026-01-01T00:00:00Z;1");
    push(&mut decoder, &one, 6, b"\xff;6;2026-01-01T00:00:00Z;1");
    // Other columns in another file.
    push(&mut decoder, &header("at;id"), 7, b"2026-01-01T00:00:07Z;7");
    let decoded = decoder.close(CLOCK).unwrap();
    let rows = decoded.payload.rows.as_ref().unwrap();
    let patient = rows.column_by_name("patient").unwrap().as_primitive::<Int64Type>();
    assert_eq!(patient.values().to_vec(), [9_007_199_254_740_993, 2, 7]);
    let name = rows.column_by_name("name").unwrap().as_string::<i32>();
    assert_eq!((name.value(0), name.is_null(1), name.is_null(2)), ("José; \"Zé\"", true, true));
    let value = rows.column_by_name("value").unwrap().as_primitive::<Decimal128Type>();
    assert_eq!((value.value(0), value.is_null(1)), (1_234, true));
    let at = rows.column_by_name("at").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(at.value(2) - at.value(0), 7_000_000);
    let expected =
        ["wrong_type value", "wrong_column_count -", "invalid_csv -", "missing_field patient", "invalid_utf8 -"];
    assert_eq!(letters(&decoded), expected);
}

#[test]
fn csv_without_header_goes_by_the_order_of_the_fields() {
    let fields = FIELDS.replace("path = [\"^p.id\", \"id\"], ", "").replace(", path = [\"^p.name\"]", "");
    let mut decoder = Decoder::new(job_of_files("format = \"csv\"\nheader = false", &fields)).unwrap();
    push(&mut decoder, &FileKey::default(), 0, b"1,Ana,2026-01-01T00:00:00Z,2.5");
    push(&mut decoder, &FileKey::default(), 1, b"1,Ana,2026-01-01T00:00:00Z");
    let decoded = decoder.close(CLOCK).unwrap();
    assert_eq!(decoded.payload.rows.as_ref().unwrap().num_rows(), 1);
    assert_eq!(letters(&decoded), ["wrong_column_count -"]);
}

/// What a spreadsheet would take for a formula is text like any other, and so many columns are too many.
#[test]
fn csv_is_text_whatever_a_spreadsheet_would_make_of_it() {
    let fields = FIELDS.replace("path = [\"^p.id\", \"id\"], ", "").replace(", path = [\"^p.name\"]", "");
    let mut decoder = Decoder::new(job_of_files("format = \"csv\"\nheader = false", &fields)).unwrap();
    let formulas = ["=1+1", "@SUM(A1)", "+1", "-1", "=cmd|' /C calc'!A0"];
    for (position, formula) in (0..).zip(formulas) {
        let record = format!("1,{formula},2026-01-01T00:00:00Z,2.5");
        push(&mut decoder, &FileKey::default(), position, record.as_bytes());
    }
    push(&mut decoder, &FileKey::default(), 9, b"=1+1,Ana,2026-01-01T00:00:00Z,2.5");
    push(&mut decoder, &FileKey::default(), 10, vec!["1"; 10_000].join(",").as_bytes());
    let decoded = decoder.close(CLOCK).unwrap();
    let rows = decoded.payload.rows.as_ref().unwrap();
    let names = rows.column_by_name("name").unwrap().as_string::<i32>();
    assert_eq!(names.iter().flatten().collect::<Vec<_>>(), formulas);
    assert_eq!(letters(&decoded), ["wrong_type patient", "wrong_column_count -"]);
}
