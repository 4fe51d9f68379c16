//! The rows of lookups: MariaDB's types.

use pulso_job::spec::FieldType;

use crate::lookups::{fits_no_column, looks, read, told};
use crate::support::{Database, field};

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_known_and_its_values_are_exact() {
    let database = Database::create().await;
    database
        .query(
            "create table everything (id int primary key, t text, v varchar(9), c char(5) character set latin1,
            e enum('sad', 'glad'), j json, ti tinyint, s smallint unsigned, me mediumint, i int, iu int unsigned,
            l bigint, lu bigint unsigned, f4 float, f8 double, n decimal(38,6), nu decimal(5) unsigned, y year,
            dt datetime(6), ts timestamp(6) null, d date)",
        )
        .await;
    database
        .query(
            "set names utf8mb4, time_zone = '+00:00';
            insert into everything values
            (1, 'João|\"x\"\n', '', 'é', 'glad', '{\"a\":  1}', -128, 65535, -8388608, -2147483648, 4294967295,
            -9223372036854775808, 18446744073709551615, 0.1, 0.30000000000000004,
            99999999999999999999999999999999.999999, 12345, 2024, '9999-12-31 23:59:59.999999', '2024-02-29 12:00:00.5',
            '0001-01-01'),
            (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
            null, null, null),
            (3, '', '', '', 'sad', '3', 0, 0, 0, 0, 0, 9007199254740993, 0, 0, -0.1, -0.000001, 0, 1999,
            '1970-01-01', '1970-01-01 00:00:01', '9999-12-31')",
        )
        .await;
    let columns = [
        ("t", "string"),
        ("v", "string"),
        ("c", "string"),
        ("e", "string"),
        ("j", "string"),
        ("ti", "int32"),
        ("s", "int32"),
        ("me", "int32"),
        ("i", "int32"),
        ("iu", "int64"),
        ("l", "int64"),
        ("lu", "decimal(20,0)"),
        ("f4", "float64"),
        ("f8", "float64"),
        ("n", "decimal(38,6)"),
        ("nu", "decimal(5,0)"),
        ("y", "int32"),
        ("dt", "timestamp"),
        ("ts", "timestamp"),
        ("d", "date"),
    ];
    let on = vec![field("id", FieldType::Int64, true)];
    let spec = looks(&database.url, "select * from everything order by id", on, &columns);
    let words: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    assert_eq!(told(&spec).await.unwrap()[1..], words);
    assert_eq!(
        read(&spec).await.unwrap(),
        [
            "1|João|\"x\"\n||é|glad|{\"a\":  1}|-128|65535|-8388608|-2147483648|4294967295|-9223372036854775808|\
             18446744073709551615|0.10000000149011612|0.30000000000000004|\
             99999999999999999999999999999999.999999|12345|2024|9999-12-31T23:59:59.999999Z|2024-02-29T12:00:00.500Z|\
             0001-01-01",
            "2|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null",
            "3||||sad|3|0|0|0|0|0|9007199254740993|0|0.0|-0.1|-0.000001|0|1999|1970-01-01T00:00:00Z|\
             1970-01-01T00:00:01Z|9999-12-31",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_have_types_and_what_has_none_of_a_column_keeps_its_name() {
    let database = Database::create().await;
    database
        .query("create table t (id int, b blob, vb varbinary(9), x bit(3), h time, w decimal(65,2), g point)")
        .await;
    database.query("insert into t values (1, 'x', 'x', b'1', '10:00:00', 1, null)").await;
    let sql = "select t.*, count(*) as n, sum(id) as total, concat(id, 'x') as label, id / 2 as half from t";
    let spec =
        looks(&database.url, sql, vec![field("id", FieldType::Int32, true)], &[("n", "int64"), ("label", "string")]);
    let expected = [
        "id int32",
        "b blob",
        "vb varbinary",
        "x bit",
        "h time",
        "w decimal(65,2)",
        "g geometry",
        "n int64",
        "total decimal(32,0)",
        "label string",
        "half decimal(14,4)",
    ];
    assert_eq!(told(&spec).await.unwrap(), expected);
    assert_eq!(read(&spec).await.unwrap(), ["1|1|1x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_column_holds_is_an_error_and_in_on_fits_no_record() {
    let database = Database::create().await;
    database.query("set sql_mode = ''; create table t (at datetime, d date); insert into t values (0, 0)").await;
    for (column, kind) in [("at", "timestamp"), ("d", "date")] {
        let sql = format!("select {column} as id, {column} as v from t");
        fits_no_column(&database.url, &sql, kind).await;
    }
}
