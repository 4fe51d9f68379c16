//! `[[aggregate]]` and the sinks that it feeds.

use super::{GOOD, good, one_in, places};
use crate::{Emit, RowsFrom, WindowSpec};

const AGGREGATE: &str = r#"
[[aggregate]]
name = "hourly"
group_by = ["id"]
window = { size = "30m" }
[aggregate.columns]
rows = "count(*)"
most = "max(price)"

[[sink]]
to = "db"
from = "hourly"
table = "hourly"
key = ["id", "window_start"]
"#;

fn job() -> String {
    format!("{GOOD}{AGGREGATE}")
}

/// The code and place of the one mistake that a replacement makes.
fn one(from: &str, to: &str, code: &str, at: &str, help: &str) {
    assert!(AGGREGATE.contains(from), "{from}");
    one_in(&format!("{GOOD}{}", AGGREGATE.replacen(from, to, 1)), code, at, help);
}

#[test]
fn what_it_means() {
    let job = good(&job());
    let aggregate = &job.aggregates[0];
    assert_eq!(
        (aggregate.group_by.as_slice(), aggregate.emit, aggregate.own_stage),
        ([0].as_slice(), Emit::Change, true)
    );
    let half = std::time::Duration::from_secs(1_800);
    assert_eq!(aggregate.window, WindowSpec::Sliding { size: half, slide: half });
    assert_eq!(job.sinks[1].from, RowsFrom::Aggregate(0));
    let names: Vec<&str> = job.sinks[1].columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "window_start", "window_end", "rows", "most"]);
    assert_eq!((job.sinks[1].columns[3].nullable, job.sinks[1].columns[4].nullable), (false, true));
    assert_eq!(job.stages(), 2);
    // Both can fail, and are null then.
    let computed = AGGREGATE.replace("max(price)", "100 / count(price)");
    let columns = "columns = { id = \"id\", window_start = \"window_start\", share = \"100 / rows\" }";
    let computed = good(&format!("{GOOD}{computed}{columns}"));
    assert!(computed.aggregates[0].columns[1].nullable && computed.sinks[1].columns[2].nullable);
    let shared = GOOD.replace("keep_for = \"1h\"", "keep_for = \"1h\"\nroute_by = [\"id\"]");
    let shared = good(&format!("{shared}{AGGREGATE}"));
    assert_eq!((shared.stages(), shared.aggregates[0].own_stage), (1, false));
}

#[test]
fn windows() {
    let sessions = good(&job().replace("{ size = \"30m\" }", "{ gap = \"10m\" }"));
    assert!(matches!(sessions.aggregates[0].window, WindowSpec::Session { .. }) && sessions.aggregates[0].closes());
    one("{ size = \"30m\" }", "{ size = \"10m\", slide = \"20m\" }", "P0075", "\"20m\"", "tumbling");
    one(
        "{ size = \"30m\" }",
        "{ size = \"10m\", gap = \"1m\" }",
        "P0075",
        "{ size = \"10m\", gap = \"1m\" }",
        "tumbling",
    );
    one("{ size = \"30m\" }", "{ size = \"10m\", slide = \"1ms\" }", "P0075", "\"1ms\"", "tumbling");
    one("{ size = \"30m\" }", "{ size = 30 }", "P0017", "30", "\"30s\"");
    // A duplicate must be known as long as its window is open.
    one("{ size = \"30m\" }", "{ size = \"2h\" }", "P0063", "window", "still be known");
}

#[test]
fn groups_and_columns() {
    one("group_by = [\"id\"]", "group_by = [\"idd\"]", "P0060", "\"idd\"", "did you mean `id`?");
    one("group_by = [\"id\"]", "group_by = [\"note\"]", "P0076", "\"note\"", "changed = \"drop\"");
    one("max(price)", "max(prize)", "P0041", "prize", "did you mean `price`?");
    one("max(price)", "price", "P0043", "price", "");
    one("most = ", "window_end = ", "P0054", "window_end", "");
    one("most = ", "id = ", "P0054", "id", "");
    one(
        "name = \"hourly\"",
        "name = \"hourly\"\nemit = \"often\"",
        "P0014",
        "\"often\"",
        "allowed: `change` or `close`",
    );
    one("name = \"hourly\"", "name = \"hourly\"\nwhere = \"price\"", "P0044", "\"price\"", "");
    one("name = \"hourly\"", "name = \"hourly\"\nhaving = \"1\"", "P0010", "having", "");
}

#[test]
fn sinks_of_it() {
    one("key = [\"id\", \"window_start\"]", "key = [\"id\"]", "P0071", "[\"id\"]", "window_start");
    one("key = [\"id\", \"window_start\"]", "key = [\"window_start\"]", "P0071", "[\"window_start\"]", "group_by");
    one("from = \"hourly\"", "from = \"hourli\"", "P0060", "\"hourli\"", "did you mean `hourly`?");
    good(&job().replace("key = [\"id\", \"window_start\"]", "write = \"append\""));
    assert_eq!(
        places(&format!("{GOOD}\n[[sink]]\nto = \"db\"\nfrom = \"late\"\ntable = \"late\"\nwrite = \"append\"\n")),
        ["P0060 42:8 \"late\""]
    );
    good(&format!("{}\n[[sink]]\nto = \"db\"\nfrom = \"late\"\ntable = \"late\"\nwrite = \"append\"\n", job()));
}

#[test]
fn it_needs_time_and_knows_what_is_deleted() {
    let timeless = GOOD
        .replace("[time]\nfield = \"at\"\n\n", "")
        .replace("[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n\n", "");
    assert!(places(&format!("{timeless}{AGGREGATE}")).iter().any(|place| place.starts_with("P0063")));
    let blind = GOOD
        .replace("topic = \"orders\"", "topic = \"orders\"\ntombstone = { key = [\"id\", \"at\"] }")
        .replace("[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n\n", "");
    assert!(places(&format!("{blind}{AGGREGATE}")).iter().any(|place| place.starts_with("P0076")));
}

#[test]
fn a_key_that_can_be_null_is_a_warning() {
    let job = format!("{GOOD}{AGGREGATE}")
        .replace("keep_for = \"1h\"", "keep_for = \"1h\"\nchanged = \"drop\"")
        .replace("group_by = [\"id\"]", "group_by = [\"note\"]")
        .replace("key = [\"id\", \"window_start\"]", "key = [\"note\", \"window_start\"]");
    let warnings = |toml: &str| {
        let (_, warnings) = crate::check(&super::submission(toml), "job.toml").unwrap();
        warnings.into_iter().map(|w| (w.code.as_str(), toml[w.offset..][..w.length].to_owned())).collect::<Vec<_>>()
    };
    let key = "[\"note\", \"window_start\"]".to_owned();
    assert_eq!(warnings(&job), [("P0077", key.clone())]);
    let counted =
        |condition: &str| job.replace("name = \"hourly\"", &format!("name = \"hourly\"\nwhere = \"{condition}\""));
    assert_eq!(warnings(&counted("price > 1 or note is not null")), [("P0077", key)]);
    for good in [
        counted("price > 1 and note is not null"),
        job.replace("from = \"hourly\"", "from = \"hourly\"\nwhere = \"note is not null\""),
        job.replace("[time]", "[filter]\nkeep = \"note is not null\"\n\n[time]"),
        job.replace("[rules]", "[rules]\nnoted = \"note is not null\""),
        job.replace("note = { type = \"string\" }", "note = { type = \"string\", required = true }"),
        format!("{GOOD}{AGGREGATE}"),
    ] {
        assert_eq!(warnings(&good), [], "{good}");
    }
}
