//! Scripts of whole jobs, expressions one by one, and what is refused where.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pulso_job::{JobSpec, Submission};

use crate::expression::translate;
use crate::{Export, export};

const SECRET: &str = "postgres://anna:hunter2@db.example:5432/shop";

fn checked(toml: &str) -> JobSpec {
    let mysql = "mysql://anna:hunter2@db.example:3306/ward";
    let environment =
        [("DATABASE_URL", SECRET), ("MYSQL_URL", mysql)].map(|(name, url)| (name.to_owned(), url.to_owned()));
    let environment = environment.into();
    let submission =
        Submission { toml: toml.to_owned(), environment, folder: "/jobs".to_owned(), ..Submission::default() };
    match pulso_job::check(&submission, "job.toml") {
        Ok((job, _)) => job,
        Err(diagnostics) => panic!("{}", diagnostics.render(false)),
    }
}

fn exported(toml: &str) -> Export {
    export(&checked(toml), toml)
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../jobs/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Line and reason of everything that is refused, the reason up to its colon.
fn refused(toml: &str) -> Vec<(usize, String, String)> {
    let short = |why: &str| why.split(':').next().unwrap_or_default().to_owned();
    exported(toml).unsaid.into_iter().map(|unsaid| (unsaid.line, unsaid.part, short(&unsaid.why))).collect()
}

/// The line (from 1) that holds this text for the first time after the other.
fn line(toml: &str, after: &str, text: &str) -> usize {
    let from = toml.find(after).unwrap();
    let at = from + toml[from..].find(text).unwrap();
    toml[..at].matches('\n').count() + 1
}

#[test]
fn the_health_job() {
    let export = exported(&file("health-vitals"));
    assert_eq!(export.unsaid, []);
    insta::assert_snapshot!("health_vitals", export.script.unwrap());
}

#[test]
fn the_sensors() {
    let export = exported(&file("iot-sensors"));
    assert_eq!(export.unsaid, []);
    insta::assert_snapshot!("iot_sensors", export.script.unwrap());
}

#[test]
fn everything_that_can_be_said() {
    let export = exported(include_str!("tests/everything.toml"));
    assert_eq!(export.unsaid, []);
    insta::assert_snapshot!("everything", export.script.unwrap());
}

#[test]
fn a_part_of_a_job() {
    let toml = file("early-warning");
    let export = exported(&toml);
    assert_eq!(
        refused(&toml),
        [(line(&toml, "ward-alarms", "record_key"), "[[sink]] ward-alarms".to_owned(), "`record_key`".to_owned())]
    );
    let script = export.script.unwrap();
    assert!(script.contains("MISSING") && script.contains("[[sink]] ward-alarms: `record_key`"), "{script}");
    assert!(
        script.contains("INSERT INTO `sink_1_news2_scores`") && !script.contains("INSERT INTO `sink_2"),
        "{script}"
    );
    // The sum of bands rests on them, so it stands one view above.
    let (bands, sum) = script.split_once("CREATE TEMPORARY VIEW `derived_2`").unwrap();
    assert!(bands.contains("AS `news2_resp`") && sum.contains("AS `news2`\n"), "{script}");
}

#[test]
fn no_value_of_a_secret_is_in_a_script() {
    let literal = file("health-vitals").replace("{ env = \"DATABASE_URL\" }", &format!("\"{SECRET}\""));
    let sasl = literal.replace(
        "start = \"earliest\"",
        "tls = {}\nsasl = { mechanism = \"PLAIN\", username = \"anna\", password = \"hunter2\" }",
    );
    for toml in [file("health-vitals"), literal, sasl] {
        let script = exported(&toml).script.unwrap();
        assert!(!script.contains("hunter2") && !script.contains("anna") && !script.contains("db.example"), "{script}");
    }
}

#[test]
fn brokers_of_the_file_are_written_out_and_the_script_says_so() {
    let brokers = "{ env = \"KAFKA_BROKERS\", default = \"localhost:9092\" }";
    let toml = file("health-vitals");
    assert!(toml.contains(brokers));
    let script = exported(&toml.replace(brokers, "\"kafka.example:9092\"")).script.unwrap();
    assert!(script.contains("'properties.bootstrap.servers' = 'kafka.example:9092'"), "{script}");
    let words = script.replace("\n-- ", " ");
    assert!(words.contains("only brokers that the job file itself names are written here"), "{script}");
    assert!(!script.contains("${KAFKA_BROKERS}"), "{script}");
}

#[test]
fn credentials_have_names() {
    let toml = file("health-vitals").replace(
        "start = \"earliest\"",
        "sasl = { mechanism = \"SCRAM-SHA-256\", username = \"anna\", password = { env = \"DATABASE_URL\" } }",
    );
    let script = exported(&toml).script.unwrap();
    let login = "scram.ScramLoginModule required username=\"${SOURCE_SASL_USERNAME}\" password=\"${DATABASE_URL}\";";
    assert!(script.contains(login), "{script}");
    assert!(script.contains("-- * ${SOURCE_SASL_USERNAME}: as in the job file"), "{script}");
}

#[test]
fn what_sinks_cannot_do_is_refused_with_its_line() {
    let toml = file("ecommerce");
    let part = |name: &str| format!("[[sink]] {name}");
    assert_eq!(
        refused(&toml),
        [
            (line(&toml, "table = \"events\"", "write"), part("events"), "`write = \"keep_first\"`".to_owned()),
            (line(&toml, "table = \"products\"", "newest_by"), part("products"), "`newest_by`".to_owned()),
            (
                line(&toml, "table = \"transactions\"", "write"),
                part("transactions"),
                "`write = \"keep_first\"`".to_owned()
            ),
        ]
    );
}

#[test]
fn tables_of_other_databases_are_not_made() {
    let postgres = "type = \"postgres\"\nurl = { env = \"DATABASE_URL\" }";
    let toml = file("health-vitals");
    assert!(toml.contains(postgres));
    let letters = "[dead_letter]\nto = \"kafka\"\ntopic = \"health-data-dlq\"";
    assert!(toml.contains(letters));
    let toml = toml.replace(letters, "[dead_letter]\nto = \"db\"");
    let tables = |toml: &str| {
        let script = exported(toml).script.unwrap();
        script.lines().filter(|line| line.starts_with("--   CREATE TABLE")).count()
    };
    assert_eq!(tables(&toml), 3);
    let mysql = toml.replace(postgres, "type = \"mysql\"\nurl = { env = \"MYSQL_URL\" }");
    let parts: Vec<String> = refused(&mysql).into_iter().map(|(_, part, _)| part).collect();
    assert_eq!(parts, ["[[sink]] health_records", "[[sink]] vitals_by_minute", "[dead_letter]"]);
    let script = exported(&mysql).script.unwrap();
    assert!(!script.contains("these must be there") && !script.contains("'connector' = 'jdbc'"), "{script}");
}

#[test]
fn without_its_source_nothing_is_left() {
    let toml = file("csv-people");
    let export = exported(&toml);
    assert_eq!(export.script, None);
    let tombstone = (line(&toml, "[source]", "tombstone"), "[source]".to_owned(), "`tombstone`".to_owned());
    assert!(refused(&toml).contains(&tombstone), "{:?}", export.unsaid);
}

#[test]
fn files_as_source_are_refused() {
    let toml = file("ward-files");
    let export = exported(&toml);
    assert_eq!(export.script, None);
    assert_eq!(refused(&toml)[0].2, "`type = \"files\"`");
    let parts: Vec<&str> = export.unsaid.iter().map(|unsaid| unsaid.part.as_str()).collect();
    assert_eq!(parts, ["[source]", "[[lookup]] mapping", "[[sink]] registro", "[[sink]] files", "[dead_letter]"]);
}

#[test]
fn a_lookup_is_refused_by_name_and_takes_the_script_with_it() {
    let lookup = "[[lookup]]\nname = \"ward\"\nin = \"db\"\nsql = \"select 1\"\non = [\"patient_id\"]\n\n";
    let toml = file("health-vitals").replacen("[[sink]]", &format!("{lookup}[[sink]]"), 1);
    assert_eq!(refused(&toml), [(line(&toml, "[[lookup]]", "sql"), "[[lookup]] ward".to_owned(), "`sql`".to_owned())]);
    assert_eq!(exported(&toml).script, None);
}

/// The health job with one change, and where that is refused.
fn refused_with(from: &str, to: &str) -> Vec<(usize, String, String)> {
    let toml = file("health-vitals");
    assert!(toml.contains(from), "{from}");
    refused(&toml.replacen(from, to, 1))
}

#[test]
fn fields_that_flink_would_read_wrongly() {
    let of = |field: &str, what: &str| vec![(29, format!("[fields] {field}"), what.to_owned())];
    let large = "large_data        = { type = \"string\",    max_bytes = \"64KiB\" }";
    assert_eq!(refused_with(large, "large_data = { type = \"json\" }"), of("large_data", "`type = \"json\"`"));
    assert_eq!(refused_with(large, "sent = { type = \"timestamp\", epoch = \"us\" }"), of("sent", "`epoch`"));
    let both = "large_data = { type = \"string\", path = [\"temperature.x\"] }";
    assert!(refused_with(large, both).iter().any(|found| *found == of("large_data", "`path`")[0]));
}

#[test]
fn aggregates_that_flink_cannot_make() {
    let window = |to: &str| {
        let found = refused_with("window = { size = \"1m\" }", to);
        // Its sink has no rows then.
        assert_eq!(found.len(), 2, "{found:?}");
        found[0].2.clone()
    };
    assert_eq!(window("window = { gap = \"1m\" }"), "`window`");
    assert_eq!(window("window = { size = \"25s\", slide = \"10s\" }"), "`window`");
    let found = refused_with("avg(heart_rate)", "stddev(heart_rate)");
    assert_eq!(found[0].1, "[[aggregate]] vitals_by_minute, column avg_heart_rate");
    assert_eq!(found[0].2, "the function `stddev` is not translated");
}

#[test]
fn a_deleting_expression_and_late_rows_are_refused() {
    let sink = "table = \"health_records\"";
    let deleting = refused_with(sink, "table = \"health_records\"\ndelete_when = \"heart_rate > 200\"");
    assert_eq!(deleting[0].2, "`delete_when`");
    let late = "[[sink]]\nto = \"db\"\nfrom = \"late\"\ntable = \"late\"\nwrite = \"append\"\n\n[dead_letter]";
    assert_eq!(refused_with("[dead_letter]", late)[0].2, "`from = \"late\"`");
}

#[test]
fn names_that_need_quotes_are_refused() {
    let found = refused_with("table = \"health_records\"", "table = \"order\"");
    assert_eq!((found[0].1.as_str(), found[0].2.as_str()), ("[[sink]] order", "`table`"));
    let column = refused_with("large_data ", "offset ");
    assert_eq!(column[0].1, "[[sink]] health_records, column offset");
}

fn columns() -> SchemaRef {
    let column = |name, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        column("i", DataType::Int32),
        column("l", DataType::Int64),
        column("f", DataType::Float64),
        column("d", DataType::Decimal128(10, 2)),
        column("t", DataType::Utf8),
        column("b", DataType::Boolean),
        column("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
    ]))
}

#[test]
fn expressions_keep_their_meaning() {
    let cases = [
        ("i + 1", "CAST(`i` AS BIGINT) + CAST(1 AS BIGINT)"),
        ("l / i", "`l` / NULLIF(CAST(`i` AS BIGINT), 0)"),
        ("f * 2", "`f` * CAST(2 AS DOUBLE)"),
        ("f > 0.5", "`f` > 0.5E0"),
        ("(f + 1) * f", "(`f` + CAST(1 AS DOUBLE)) * `f`"),
        ("f - (f - f)", "`f` - (`f` - `f`)"),
        ("-f", "-`f`"),
        ("d * d", "`d` * `d`"),
        ("b and not b or b", "`b` AND NOT `b` OR `b`"),
        ("b and (b or b)", "`b` AND (`b` OR `b`)"),
        ("f is null", "`f` IS NULL"),
        ("(f > 1) is not true", "(`f` > 1) IS NOT TRUE"),
        ("coalesce(f, 1) > 0", "COALESCE(`f`, 1) > 0"),
        ("round(f)", "ROUND(`f`)"),
        ("concat('a', t)", "CONCAT('a', COALESCE(`t`, ''))"),
        ("t || 'it''s'", "`t` || 'it''s'"),
        ("T LIKE 'a%'", "`t` LIKE 'a%'"),
        ("t not in ('a', 'b')", "`t` NOT IN ('a', 'b')"),
        ("f not between 1 and 2", "`f` NOT BETWEEN 1 AND 2"),
        ("case when b then 1 else 0 end", "CASE WHEN `b` THEN 1 ELSE 0 END"),
        ("cast(t as int)", "TRY_CAST(`t` AS INT)"),
        ("cast(b as varchar)", "LOWER(CAST(`b` AS STRING))"),
        ("date_trunc('day', at)", "FLOOR(`at` TO DAY)"),
        ("count(*)", "COUNT(*)"),
        ("sum(i)", "SUM(CAST(`i` AS BIGINT))"),
        ("avg(i)", "AVG(CAST(`i` AS DOUBLE))"),
        ("sum(f) filter (where b)", "SUM(`f`) FILTER (WHERE `b`)"),
    ];
    for (sql, flink) in cases {
        assert_eq!(translate(sql, &columns()).map(|t| t.sql), Ok(flink.to_owned()), "{sql}");
    }
}

#[test]
fn what_differs_is_noted() {
    let notes = |sql| translate(sql, &columns()).unwrap().notes.len();
    assert_eq!([notes("i + 1"), notes("avg(f)"), notes("round(f, 1)"), notes("f > 1")], [1, 1, 1, 0]);
}

#[test]
fn what_might_mean_something_else_is_refused_by_name() {
    let cases = [
        ("greatest(f, 1)", "the function `greatest` is not translated"),
        ("d / 3", "decimals are divided to another number of digits there"),
        ("cast(f as varchar)", "a float64 is written out as text in another form there"),
        ("at > '2026-01-01'", "a timestamp and text stand together without a cast"),
        ("t ~ 'a'", "the operator `~` is not translated"),
        ("t ilike 'a'", "`t ILIKE 'a'` is not translated"),
        ("substr(t, -1)", "`substr` is translated with a start and a length that are numbers from 1 on"),
        ("avg(d)", "`avg` of a decimal is rounded to another number of digits there"),
        ("t like 'a\\%'", "`LIKE` with a backslash is not translated"),
        ("cast(i as smallint)", "a cast to SMALLINT is not translated"),
        ("date_trunc('week', at)", "`date_trunc` to `week` is not translated"),
        ("length(i)", "`char_length` of an integer is not translated"),
    ];
    for (sql, why) in cases {
        assert_eq!(translate(sql, &columns()).map(|t| t.sql), Err(why.to_owned()), "{sql}");
    }
}
