//! The rows of lookups: PostgreSQL's types.

use pulso_job::spec::FieldType;

use crate::lookups::{fits_no_column, looks, read, told};
use crate::support::{Database, field};

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_known_and_its_values_are_exact() {
    let database = Database::create().await;
    database.query("create type mood as enum ('sad', 'glad'); create domain short as varchar(5)").await;
    database
        .query(
            "create table everything (id int primary key, t text, v varchar(9), c char(5), e mood, dm short, j json,
            jb jsonb, b bool, s smallint, i int, l bigint, f4 real, f8 double precision, n numeric(38,6), m numeric(5),
            ts timestamptz, d date, u uuid)",
        )
        .await;
    database
        .query(
            "insert into everything values
            (1, E'Jo\\u00e3o|\"x\"\\n', '', 'ab', 'glad', 'dom', '{\"a\":  1}', '{\"a\": 1}', true, -32768, -2147483648,
            -9223372036854775808, 0.1, 0.1, 99999999999999999999999999999999.999999, -12345,
            '9999-12-31 23:59:59.999999+00', '0001-01-01', 'abababab-abab-abab-abab-abababababab'),
            (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
            null, null, null), (3, null, null, null, null, null, null, null, false, 0, 0, 9007199254740993, 'NaN', '-Infinity',
            -0.000001, 0, '1970-01-01 00:00:00+02', '9999-12-31', null)",
        )
        .await;
    let columns = [
        ("t", "string"),
        ("v", "string"),
        ("c", "string"),
        ("e", "string"),
        ("dm", "string"),
        ("j", "string"),
        ("jb", "string"),
        ("b", "bool"),
        ("s", "int32"),
        ("i", "int32"),
        ("l", "int64"),
        ("f4", "float64"),
        ("f8", "float64"),
        ("n", "decimal(38,6)"),
        ("m", "decimal(5,0)"),
        ("ts", "timestamp"),
        ("d", "date"),
        ("u", "uuid"),
    ];
    let on = vec![field("id", FieldType::Int64, true)];
    let spec = looks(&database.url, "select * from everything order by id", on, &columns);
    let words: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    assert_eq!(told(&spec).await.unwrap()[1..], words);
    assert_eq!(
        read(&spec).await.unwrap(),
        [
            "1|João|\"x\"\n||ab|glad|dom|{\"a\":  1}|{\"a\": 1}|true|-32768|-2147483648|-9223372036854775808|\
             0.10000000149011612|0.1|99999999999999999999999999999999.999999|-12345|9999-12-31T23:59:59.999999Z|\
             0001-01-01|abababababababababababababababab",
            "2|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null|null",
            "3|null|null|null|null|null|null|null|false|0|0|9007199254740993|NaN|-inf|-0.000001|0|\
             1969-12-31T22:00:00Z|9999-12-31|null",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_type_of_a_column_keeps_its_name() {
    let database = Database::create().await;
    let sql = "select 1 as id, 1.5 as n, 1::numeric(39,1) as wide, '{a}'::text[] as list, '1 day'::interval as i,
        ''::bytea as raw, now()::time as clock, int4range(1, 2) as r, '::1'::inet as ip";
    let spec = looks(&database.url, sql, vec![field("id", FieldType::Int32, true)], &[]);
    let expected = [
        "id int32",
        "n numeric",
        "wide numeric(39,1)",
        "list text[]",
        "i interval",
        "raw bytea",
        "clock time",
        "r int4range",
        "ip inet",
    ];
    assert_eq!(told(&spec).await.unwrap(), expected);
    assert_eq!(read(&spec).await.unwrap(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_column_holds_is_an_error_and_in_on_fits_no_record() {
    let database = Database::create().await;
    for (value, kind) in [
        ("'infinity'::timestamptz", "timestamp"),
        ("'0044-03-15 00:00:00+00 BC'::timestamptz", "timestamp"),
        ("'10000-01-01'::date", "date"),
        ("'-infinity'::date", "date"),
        ("'NaN'::numeric(5,2)", "decimal(5,2)"),
    ] {
        let sql = format!("select {value} as id, {value} as v");
        fits_no_column(&database.url, &sql, kind).await;
    }
}
