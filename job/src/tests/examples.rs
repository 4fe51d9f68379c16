//! The job files of the repository.

use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};

use super::{GOOD, good, places, table};
use crate::*;

pub(super) const FILES: [(&str, &str); 7] = [
    ("health-records", include_str!("../../../jobs/health-records.toml")),
    ("health-vitals", include_str!("../../../jobs/health-vitals.toml")),
    ("early-warning", include_str!("../../../jobs/early-warning.toml")),
    ("ecommerce", include_str!("../../../jobs/ecommerce.toml")),
    ("csv-people", include_str!("../../../jobs/csv-people.toml")),
    ("iot-sensors", include_str!("../../../jobs/iot-sensors.toml")),
    ("ward-files", include_str!("../../../jobs/ward-files.toml")),
];

fn keys(field: &FieldSpec) -> Vec<&[String]> {
    field.paths.iter().map(|path| path.keys.as_slice()).collect()
}

fn file(name: &str) -> &'static str {
    FILES.iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn health_records_is_a_whole_job() {
    let job = good(file("health-records"));
    assert_eq!((job.name.as_str(), job.key_groups), ("health-records", 32));
    let SourceSpec::Kafka(kafka) = &job.source else { panic!() };
    assert_eq!((kafka.brokers.as_str(), kafka.topic.as_str()), ("localhost:9092", "health-data"));
    assert_eq!((kafka.start, kafka.max_record), (StartPosition::Earliest, 1024 * 1024));
    assert_eq!(keys(&job.fields[0]), [["patientId"], ["patient_id"]]);
    assert!(job.fields[0].phi && job.fields[0].required);
    assert_eq!(job.fields[1].kind, FieldType::Timestamp(TimestampText::Epoch { per_second: 1_000 }));
    assert_eq!((job.fields[2].min, job.fields[2].max), (Some(Bound::Float(0.0)), Some(Bound::Float(300.0))));
    assert_eq!(job.fields[5].max_bytes, 64 * 1024);
    let time = job.time.as_ref().unwrap();
    assert_eq!((time.field, time.delay, time.lateness), (1, Duration::ZERO, Duration::from_secs(300)));
    let dedup = job.dedup.as_ref().unwrap();
    assert_eq!((dedup.key.as_slice(), dedup.changed), ([0, 1].as_slice(), OnChanged::Update));
    assert_eq!(dedup.keep_for, Duration::from_secs(86_400));
    assert_eq!(job.routing_key, [0]);
    assert_eq!(
        job.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(),
        ["has_a_vital_sign", "not_a_lost_signal"]
    );
    let sink = &job.sinks[0];
    assert_eq!(table(sink).name, ("public".to_owned(), "health_records".to_owned()));
    assert_eq!(table(sink).write, WriteMode::Upsert { key: vec![0, 1], newest_by: None });
    assert_eq!(sink.columns.len(), 6);
    assert_eq!((sink.columns[1].nullable, sink.columns[2].nullable), (false, true));
    assert_eq!(job.dead_letter.to, DeadLettersTo::Table(("pulso".to_owned(), "dead_letters".to_owned())));
    assert_eq!((job.panels.len(), job.panels[0].every), (2, Duration::from_secs(5)));
}

#[test]
fn the_jobs_are_right() {
    for name in ["health-vitals", "early-warning", "ecommerce", "csv-people", "iot-sensors", "ward-files"] {
        let (_, warnings) = crate::check(&super::submission(file(name)), "job.toml").unwrap();
        assert!(warnings.iter().all(|warning| warning.code.as_str() != "P0077"), "{name}: {warnings:?}");
    }
    let shared = |name: &str| good(file(name)).aggregates.iter().map(|a| a.own_stage).collect::<Vec<_>>();
    assert_eq!(
        (shared("health-vitals"), shared("ecommerce"), shared("iot-sensors")),
        (vec![false], vec![true], vec![true])
    );
}

#[test]
fn the_shortened_job_is_the_long_one_without_what_comes_later() {
    let long = file("health-vitals");
    for line in file("health-records").lines().filter(|line| !line.starts_with('#') && !line.starts_with("name = ")) {
        assert!(long.contains(line), "{line}");
    }
}

#[test]
fn defaults_are_those_of_the_reference() {
    let job = good(GOOD);
    let time = job.time.unwrap();
    assert_eq!((time.delay, time.lateness), (Duration::ZERO, Duration::ZERO));
    assert_eq!((time.max_future, time.idle_after), (Duration::from_secs(600), Duration::from_secs(30)));
    let dedup = job.dedup.unwrap();
    assert_eq!((dedup.changed, job.routing_key.as_slice()), (OnChanged::Update, [0, 1].as_slice()));
    let SourceSpec::Kafka(kafka) = job.source else { panic!() };
    assert_eq!((kafka.on_data_loss, kafka.on_change), (OnDataLoss::Fail, OnChange::Fail));
    assert!(kafka.security.is_empty() && kafka.tombstone_key.is_none());
    let TargetKind::Postgres { max_refused, .. } = &job.targets[0].kind else { panic!() };
    assert!((max_refused - 0.1).abs() < f64::EPSILON);
    assert_eq!(keys(&job.fields[0]), [["id"]]);
    assert_eq!(job.fields[3].min, Some(Bound::Decimal(0)));
    assert!(!table(&job.sinks[0]).create && !table(&job.sinks[0]).one_to_one);
}

#[test]
fn columns_are_fields_then_derives() {
    let job = good(GOOD);
    let names: Vec<&str> = job.columns().collect();
    assert_eq!(names, ["id", "at", "qty", "price", "weight", "note", "total"]);
    assert_eq!(job.column_index("total"), Some(6));
    let schema = job.schema();
    assert_eq!(schema.fields().len(), 7);
    assert_eq!(schema.field(1).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    assert!(!schema.field(0).is_nullable() && schema.field(6).is_nullable());
    assert!(matches!(schema.field(6).data_type(), DataType::Decimal128(_, 2)));
    assert_eq!(job.field_schema().fields().len(), 6);
    assert_eq!(job.sinks[0].columns.len(), 7);
}

#[test]
fn types_map_to_postgres() {
    let toml = super::with(
        r#"note = { type = "string" }"#,
        "note = { type = \"json\" }\nu = { type = \"uuid\" }\nd = { type = \"date\" }\nb = { type = \"bool\" }\nl = { type = \"int64\" }",
    );
    let job = good(&toml);
    let types: Vec<String> =
        job.sinks[0].columns[..10].iter().map(|column| job.column_postgres_type(&job.sinks[0], column)).collect();
    assert_eq!(
        types,
        [
            "text",
            "timestamptz",
            "integer",
            "numeric(10,2)",
            "double precision",
            "jsonb",
            "uuid",
            "date",
            "boolean",
            "bigint"
        ]
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let toml = GOOD
        .replace("key_groups = 4", "key_groups = 0")
        .replace("topic = \"orders\"", "topik = \"orders\"")
        .replace("total = \"qty * price\"", "total = \"qty * prise\"")
        .replace("keep_for = \"1h\"", "keep_for = 3600");
    assert_eq!(
        places(&toml),
        ["P0015 3:14 0", "P0013 5:2 source", "P0010 8:1 topik", "P0041 26:16 prise", "P0017 33:12 3600"]
    );
}
