//! A panel's question, within its bounds.

use std::time::{Duration, Instant};

use pulso_connectors::panel::{PanelLimits, PanelRows, ask_panel};
use pulso_job::spec::TargetKind;

use crate::support::Database;

const LIMITS: PanelLimits = PanelLimits { rows: 3, bytes: 60, time: Duration::from_secs(5) };

async fn ask(database: &Database, sql: &str, limits: PanelLimits) -> Result<PanelRows, String> {
    let target = TargetKind::MySql { url: database.url.clone().into(), zone: "UTC".to_owned(), max_refused: 1.0 };
    ask_panel(&target, sql, limits).await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_as_the_database_writes_them() {
    let database = Database::create().await;
    let sql = "select cast(7 as signed) as `Number`, 0.25e0 as share, cast(1.5 as decimal(6,2)) as exact, 'é' as text,
        timestamp '2026-01-02 03:04:05' as local, date '2026-01-02' as day, time '26:00:01' as span, null as nothing";
    let found = ask(&database, sql, PanelLimits { bytes: 1_000, ..LIMITS }).await.unwrap();
    let columns: Vec<(&str, &str)> = found.columns.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let expected = [
        ("share", "float64", Some("0.25")),
        ("exact", "decimal(6,2)", Some("1.50")),
        ("text", "string", Some("é")),
        ("local", "timestamp", Some("2026-01-02 03:04:05.000000")),
        ("day", "date", Some("2026-01-02")),
        ("span", "time", Some("26:00:01.000000")),
        ("nothing", "null", None),
    ];
    // Whether a small number is an int32 or an int64 is the server's to say.
    assert_eq!((columns[0].0, found.rows[0][0].as_deref()), ("Number", Some("7")));
    for ((name, kind, value), at) in expected.iter().zip(1..) {
        assert_eq!((columns[at], found.rows[0][at].as_deref()), ((*name, *kind), *value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_costs_no_more_than_it_may() {
    let database = Database::create().await;
    database.query("create table t (k int primary key); insert into t values (1), (2), (3), (4)").await;
    for (sql, rows, truncated) in [
        ("select k from t order by k limit 3;", 3, false),
        ("select k from t order by k", 3, true),
        ("select k from t order by k limit 100", 3, true),
        ("select repeat('x', 30) from t limit 2", 2, false),
        ("select repeat('x', 30) from t", 2, true),
        ("select repeat('x', 61)", 0, true),
    ] {
        let found = ask(&database, sql, LIMITS).await.unwrap();
        assert_eq!((found.rows.len(), found.truncated), (rows, truncated), "{sql}");
    }
    let began = Instant::now();
    let slow = ask(&database, "select sleep(60)", PanelLimits { time: Duration::from_secs(1), ..LIMITS }).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{slow:?}");
    // Nothing is written, whatever the check let through.
    let refused = ask(&database, "insert into t values (5)", LIMITS).await.unwrap_err();
    assert!(refused.contains("READ ONLY") || refused.contains("read only"), "{refused}");
    assert_eq!(database.text("select count(*) from t").await, "4");
    let wrong = ask(&database, "select nothing from t", LIMITS).await.unwrap_err();
    assert!(wrong.contains("nothing"), "{wrong}");
}
