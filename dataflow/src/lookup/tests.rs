use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use pulso_core::ids::{Position, SplitId, WallTime};
use pulso_job::LookupTypes;

use super::*;
use crate::decode::{Decoded, Decoder, RawRecord};
use crate::testing::job_with_lookups;

const FIELDS: &str = "[fields]\npatient = { type = \"int32\", required = true }\nsensor = { type = \"string\" }\n";
const SINK: &str = "[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n\
    columns = { patient = \"patient\", at = \"map.place\", limit = \"doubled\" }\n";

fn job(missing: &str) -> Arc<JobSpec> {
    let lookup = format!(
        "[[lookup]]\nname = \"map\"\nin = \"db\"\nsql = \"select 1\"\non = [\"patient\", \"sensor\"]\nmissing = \"{missing}\"\n"
    );
    let types =
        [("sensor", "string"), ("patient", "int64"), ("place", "string"), ("most", "int64"), ("unused", "money")];
    let types = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).to_vec();
    let derive = "[derive]\ndoubled = \"map.most * 2\"\n";
    job_with_lookups(&format!("{FIELDS}{lookup}{derive}{SINK}"), LookupTypes::from([("map".to_owned(), types)]))
}

/// Patient, sensor, place, most.
type Row = (Option<i32>, Option<&'static str>, Option<&'static str>, Option<i64>);

fn batch(job: &JobSpec, rows: &[Row]) -> RecordBatch {
    let schema = job.lookup_schema(&job.lookups[0]);
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["patient", "sensor", "map.place", "map.most"]);
    let patients: arrow::array::Int32Array = rows.iter().map(|row| row.0).collect();
    let sensors: StringArray = rows.iter().map(|row| row.1).collect();
    let places: StringArray = rows.iter().map(|row| row.2).collect();
    let most: Int64Array = rows.iter().map(|row| row.3).collect();
    RecordBatch::try_new(schema, vec![Arc::new(patients), Arc::new(sensors), Arc::new(places), Arc::new(most)]).unwrap()
}

const ROWS: [Row; 4] = [
    (Some(2), Some("spo2"), Some("B"), None),
    (Some(1), Some("spo2"), Some("A"), Some(90)),
    (None, Some("spo2"), Some("nowhere"), Some(1)),
    (Some(1), Some("hr"), None, Some(100)),
];

fn version(job: &JobSpec, rows: &[Row]) -> Arc<Lookup> {
    let bytes = encode(&job.lookups[0], &batch(job, rows)).unwrap();
    Arc::new(Lookup::decode(job, &job.lookups[0], &bytes).unwrap())
}

fn push(decoder: &mut Decoder, records: &[&str]) -> Decoded {
    for (position, value) in records.iter().enumerate() {
        let (position, value) = (Position(position as i64), Some(value.as_bytes()));
        decoder.push(RawRecord { split: SplitId(0), position, timestamp_ms: 0, key: None, value });
    }
    decoder.close(WallTime(0)).unwrap()
}

/// Place and double of each row that passed.
fn rows(decoded: &Decoded) -> Vec<(Option<String>, Option<i64>)> {
    let Some(rows) = &decoded.payload.rows else { return Vec::new() };
    let (places, doubled) = (rows.column_by_name("map.place").unwrap(), rows.column_by_name("doubled").unwrap());
    let (places, doubled) = (places.as_string::<i32>(), doubled.as_primitive::<Int64Type>());
    places.iter().zip(doubled).map(|(place, doubled)| (place.map(str::to_owned), doubled)).collect()
}

fn reasons(decoded: &Decoded) -> Vec<String> {
    let letters = decoded.payload.letters.iter();
    letters.flat_map(|letters| letters.column(4).as_string::<i32>().iter().flatten()).map(str::to_owned).collect()
}

const RECORDS: [&str; 5] = [
    r#"{"patient": 1, "sensor": "hr"}"#,
    r#"{"patient": 1, "sensor": "spo2"}"#,
    r#"{"patient": 2, "sensor": "spo2"}"#,
    r#"{"patient": 2, "sensor": "hr"}"#,
    r#"{"patient": 1}"#,
];

#[test]
fn records_get_the_columns_of_their_row_and_others_are_dead_letters() {
    let job = job("dead_letter");
    let mut decoder = Decoder::new(Arc::clone(&job)).unwrap();
    decoder.set_lookups([version(&job, &ROWS)]);
    let decoded = push(&mut decoder, &RECORDS);
    let some = |place: &str| Some(place.to_owned());
    assert_eq!(rows(&decoded), [(None, Some(200)), (some("A"), Some(180)), (some("B"), None)]);
    assert_eq!(reasons(&decoded), ["lookup:map", "lookup:map"]);
}

#[test]
fn another_version_counts_from_the_next_epoch_on() {
    let job = job("null");
    let mut decoder = Decoder::new(Arc::clone(&job)).unwrap();
    decoder.set_lookups([version(&job, &ROWS[..2])]);
    let some = |place: &str| Some(place.to_owned());
    let before = push(&mut decoder, &RECORDS[..3]);
    assert_eq!(rows(&before), [(None, None), (some("A"), Some(180)), (some("B"), None)]);
    decoder.set_lookups([version(&job, &[(Some(1), Some("hr"), Some("C"), Some(7))])]);
    let after = push(&mut decoder, &RECORDS[..2]);
    assert_eq!(rows(&after), [(some("C"), Some(14)), (None, None)]);
    assert!(reasons(&after).is_empty());
}

#[test]
fn without_rows_nothing_is_decoded() {
    let job = job("null");
    let mut decoder = Decoder::new(job).unwrap();
    let value = Some(RECORDS[0].as_bytes());
    decoder.push(RawRecord { split: SplitId(0), position: Position(0), timestamp_ms: 0, key: None, value });
    assert!(decoder.close(WallTime(0)).unwrap_err().to_string().contains("`map` has no rows"));
}

#[test]
fn the_bytes_do_not_depend_on_the_order_of_rows() {
    let job = job("null");
    let bytes = |rows: &[Row]| encode(&job.lookups[0], &batch(&job, rows)).unwrap();
    let turned: Vec<Row> = ROWS.into_iter().rev().collect();
    assert_eq!(bytes(&ROWS), bytes(&turned));
    assert_ne!(bytes(&ROWS), bytes(&ROWS[1..]));
}

#[test]
fn a_bundle_holds_all_and_tells_changed_bytes() {
    let job = job("null");
    let one = encode(&job.lookups[0], &batch(&job, &ROWS)).unwrap();
    let (bytes, hash) = bundle(&[&one]);
    assert_eq!(unbundle(&job, &bytes).unwrap()[0].columns.num_rows(), 3);
    assert_ne!(bundle(&[&one, &one]).1, hash);
    for at in [3, 12, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(unbundle(&job, &changed).unwrap_err().to_string().contains("have changed"));
    }
    assert!(unbundle(&job, &bytes[..5]).is_err());
}

#[test]
fn two_rows_for_one_record_are_refused_without_saying_whose() {
    let job = job("null");
    let rows = [ROWS[1], ROWS[0], (Some(1), Some("spo2"), Some("Z"), None)];
    let message = encode(&job.lookups[0], &batch(&job, &rows)).unwrap_err().to_string();
    assert!(message.contains("1 of its 3 rows") && !message.contains("spo2"), "{message}");
}

#[test]
fn a_version_of_another_job_is_refused() {
    let job = job("null");
    let bytes = encode(&job.lookups[0], &batch(&job, &ROWS)).unwrap();
    let other = LookupTypes::from([("map".to_owned(), vec![("patient".to_owned(), "int32".to_owned())])]);
    let lookup = "[[lookup]]\nname = \"map\"\nin = \"db\"\nsql = \"select 1\"\non = [\"patient\"]\n";
    let sink = "[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n";
    let other = job_with_lookups(&format!("{FIELDS}{lookup}{sink}"), other);
    assert!(Lookup::decode(&other, &other.lookups[0], &bytes).unwrap_err().to_string().contains("it has the columns"));
    assert!(Lookup::decode(&job, &job.lookups[0], &bytes[..40]).is_err());
}
