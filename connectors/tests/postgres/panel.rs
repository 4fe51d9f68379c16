//! A panel's question, within its bounds.

use std::time::Duration;

use pulso_connectors::panel::{PanelLimits, PanelRows, ask_panel};
use pulso_job::spec::TargetKind;

use crate::support::Database;

async fn ask(database: &Database, sql: &str) -> PanelRows {
    let limits = PanelLimits { rows: 3, bytes: 10, time: Duration::from_secs(5) };
    let target = TargetKind::Postgres { url: database.url.clone().into(), zone: "UTC".to_owned(), max_refused: 1.0 };
    ask_panel(&target, sql, limits).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_no_more_bytes_than_it_may() {
    let database = Database::create().await;
    for (lengths, kept, truncated) in [
        ("1, 2, 3", 3, false),
        ("4, 6", 2, false),
        ("1, 2, 3, 4", 3, true),
        ("4, 7", 1, true),
        // A row is not kept because it is the first, nor because there was room before it.
        ("11", 0, true),
        ("1, 1000000", 1, true),
    ] {
        let sql = format!("select repeat('x', n), null::text from unnest(array[{lengths}]) as n");
        let found = ask(&database, &sql).await;
        assert_eq!((found.rows.len(), found.truncated), (kept, truncated), "{lengths}");
        assert!(found.rows.iter().flatten().flatten().map(String::len).sum::<usize>() <= 10);
    }
}
