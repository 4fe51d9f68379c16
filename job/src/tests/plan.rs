//! What `plan` tells of a job, and of a changed one.

use super::examples::FILES;
use super::{GOOD, good};
use crate::{Comparison, Fate, JobSpec, Kept, compare, plan};

fn of_file(name: &str) -> JobSpec {
    good(FILES.iter().find(|(known, _)| *known == name).unwrap().1)
}

fn fate<'c>(comparison: &'c Comparison, state: &str) -> &'c Fate {
    &comparison
        .states
        .iter()
        .find(|change| change.state == state)
        .unwrap_or_else(|| panic!("{state}: {comparison}"))
        .fate
}

#[test]
fn a_job_with_two_stages() {
    insta::assert_snapshot!(plan(&of_file("ecommerce")), @r"
    job ecommerce: reads topic ecommerce-events, state in 32 key groups
    stage 1: exchange by event_id (the key of [dedup])
      dedup by event_id, remembered for 7d; a changed record is ignored
    stage 2: exchange by product_category (the group_by of revenue_by_category lacks event_id of the routing key)
      aggregate revenue_by_category by product_category, windows of 1h, a row at every change
    target db (postgres), one transaction per TaskManager and epoch:
      1. table public.events from records: the first by event_id stays
      2. table public.products from records: upsert by product_id, the newest by updated_at stays
      3. table public.transactions from records: the first by transaction_id stays
      4. table public.revenue_by_category from revenue_by_category: upsert by product_category, window_start
    dead letters: table pulso.dead_letters in db
    ");
}

#[test]
fn an_aggregate_may_share_the_exchange() {
    let plan = plan(&of_file("health-vitals"));
    assert_eq!(plan.stages.len(), 1);
    assert_eq!(
        (plan.stages[0].exchange_by.as_slice(), plan.stages[0].because.as_str()),
        ([vec!["patient_id".to_owned()]].as_slice(), "`route_by` of [dedup]")
    );
    assert!(plan.stages[0].work[1].contains("so it shares this exchange"), "{:?}", plan.stages[0].work);
    assert_eq!(plan.dead_letters, "topic health-data-dlq in kafka");
    assert!(plan.hints.is_empty());
}

const BY_ID: &str = "[[aggregate]]\nname = \"by_id\"\ngroup_by = [\"id\"]\nwindow = { size = \"1m\" }\n\
                     columns = { n = \"count(*)\", most = \"max(total)\" }\n";

#[test]
fn the_route_that_saves_an_exchange_is_told() {
    let with =
        |route: &str| format!("{GOOD}{BY_ID}").replace("keep_for = \"1h\"", &format!("keep_for = \"1h\"\n{route}"));
    let hints = plan(&good(&with(""))).hints;
    assert!(
        hints.len() == 1 && hints[0].starts_with("`route_by = [\"id\"]` in [dedup] would save the aggregate by_id"),
        "{hints:?}"
    );
    // Taken, it is no hint any more.
    let routed = plan(&good(&with("route_by = [\"id\"]")));
    assert_eq!((routed.stages.len(), routed.hints.len()), (1, 0));
    let none = |toml: &str| assert_eq!(plan(&good(toml)).hints, [] as [String; 0]);
    // Not a part of the dedup key.
    none(&with("changed = \"drop\"").replace("group_by = [\"id\"]", "group_by = [\"note\"]"));
    // A sink's key would lack it.
    let other = with("changed = \"drop\"\nroute_by = [\"at\"]");
    none(&other.replace("table = \"orders\"\nkey = [\"id\", \"at\"]", "table = \"orders\"\nkey = [\"at\"]"));
}

#[test]
fn a_file_compared_with_itself_keeps_everything() {
    for name in ["health-vitals", "ecommerce", "early-warning", "csv-people", "iot-sensors"] {
        let job = of_file(name);
        let comparison = compare(&job, &job);
        assert!(!comparison.drops() && comparison.notes.is_empty(), "{comparison}");
        assert!(comparison.states.iter().all(|change| change.fate == Fate::Kept { note: None }), "{comparison}");
    }
}

/// Each change with the state that it costs and a word of the reason; an empty reason: kept.
const CHANGES: [(&str, &str, &str, &str); 28] = [
    ("topic = \"orders\"", "topic = \"sales\"", "positions", "topic sales is read from its start"),
    ("topic = \"orders\"", "topic = \"orders\"\nstart = \"latest\"", "positions", ""),
    (
        "keep_for = \"1h\"",
        "keep_for = \"1h\"\nroute_by = [\"id\"]",
        "dedup",
        "the routing key is another one: it was id, at, and is id",
    ),
    ("keep_for = \"1h\"", "keep_for = \"2h\"", "dedup", ""),
    ("key = [\"id\", \"at\"]\nkeep_for", "key = [\"at\", \"id\"]\nkeep_for", "dedup", "the key is another one"),
    (
        "id = { type = \"string\"",
        "id = { type = \"int64\"",
        "dedup",
        "the key is another one: its columns have changed",
    ),
    ("note = { type = \"string\" }", "note = { type = \"json\" }", "dedup", ""),
    ("note = { type = \"string\" }", "note = { type = \"bool\" }", "dedup", ""),
    ("max = 10", "max = 11", "dedup", ""),
    ("max = 10", "max = 11", "aggregate by_id", ""),
    ("priced = \"qty is null or price is not null\"", "priced = \"price is not null\"", "aggregate by_id", ""),
    ("size = \"1m\"", "size = \"2m\"", "aggregate by_id", "its window has changed"),
    ("group_by = [\"id\"]", "group_by = [\"id\", \"at\"]", "aggregate by_id", "its group_by has changed"),
    ("max(total)", "min(total)", "aggregate by_id", "its columns have changed"),
    ("most = ", "largest = ", "aggregate by_id", ""),
    ("total = \"qty * price\"", "total = \"qty * price * 2\"", "aggregate by_id", "a column that it reads has changed"),
    ("total = \"qty * price\"", "total = \"qty * price\"\nother = \"qty + 1\"", "aggregate by_id", ""),
    (
        "price = { type = \"decimal(10,2)\"",
        "price = { type = \"decimal(11,2)\"",
        "aggregate by_id",
        "a column that it reads has changed",
    ),
    ("group_by = [\"id\"]", "where = \"qty > 1\"\ngroup_by = [\"id\"]", "aggregate by_id", "its `where` has changed"),
    ("window = {", "emit = \"close\"\nwindow = {", "aggregate by_id", "its `emit` has changed"),
    ("field = \"at\"", "field = \"at\"\nlateness = \"9m\"", "aggregate by_id", "`lateness` has grown"),
    (
        "at = { type = \"timestamp\"",
        "at = { type = \"timestamp\", assume_zone = \"UTC\"",
        "dedup",
        "its columns have changed",
    ),
    ("key = [\"id\", \"at\"]\nkeep_for", "key = [\"at\", \"id\"]\nkeep_for", "aggregate by_id", "dedup is dropped"),
    ("keep_for = \"1h\"", "keep_for = \"1h\"\nchanged = \"drop\"", "aggregate by_id", "corrections or deletes"),
    ("name = \"by_id\"", "name = \"another\"", "aggregate by_id", "no longer in the file"),
    (
        "at = { type = \"timestamp\"",
        "on = { type = \"timestamp\", required = true }\nat = { type = \"timestamp\"",
        "dedup",
        "",
    ),
    ("field = \"at\"", "field = \"on\"", "dedup", "the event time is another one"),
    ("field = \"at\"", "field = \"on\"", "aggregate by_id", "the event time is another one"),
];

#[test]
fn what_a_change_costs() {
    let on = "on = { type = \"timestamp\", required = true }\n";
    for (from, to, state, reason) in CHANGES {
        let mut before = format!("{GOOD}{BY_ID}");
        if to.contains("\"on\"") {
            // Corrections would need the event time in the key.
            before = before.replace("qty = {", &format!("{on}qty = {{"));
            before = before.replace("keep_for = \"1h\"", "keep_for = \"1h\"\nchanged = \"drop\"");
        }
        assert!(before.contains(from), "{from}");
        let comparison = compare(&good(&before), &good(&before.replacen(from, to, 1)));
        assert_eq!(comparison.time, reason.contains("event time") || to.contains("assume_zone"), "{to}");
        assert_eq!(comparison.drops_positions(), state == "positions" && !reason.is_empty(), "{to}");
        match fate(&comparison, state) {
            Fate::Kept { .. } => assert!(reason.is_empty(), "{to}: {comparison}"),
            Fate::Dropped { reason: told } => {
                assert!(!reason.is_empty() && told.contains(reason), "{to}: {comparison}");
                assert!(comparison.drops());
            }
            Fate::New => panic!("{to}: {comparison}"),
        }
    }
}

/// What the job of a file has whose place `to` takes.
fn changed(before: &(JobSpec, Option<Kept>), to: &str) -> (JobSpec, Option<Kept>) {
    let (old, kept) = before;
    let comparison = compare(old, &good(to));
    let kept = crate::kept(old, kept.as_ref(), &good(to), &comparison).unwrap();
    let submission = crate::Submission { kept: Some(kept.clone()), ..super::submission(to) };
    (crate::check(&submission, "job.toml").unwrap().0, Some(kept))
}

#[test]
fn what_is_kept_keeps_its_number_and_nothing_else_gets_one_that_was_used() {
    let file = format!("{GOOD}{BY_ID}");
    let numbers = |(job, _): &(JobSpec, Option<Kept>)| job.states().map(|(_, number)| number).collect::<Vec<_>>();
    let first = (good(&file), None);
    assert_eq!(numbers(&first), [0, 1]);
    let names: Vec<String> = first.0.states().map(|(name, _)| name).collect();
    assert_eq!(names, ["dedup", "aggregate by_id"]);
    // Another one in front, the same: by its name, not its place.
    let another = BY_ID.replace("by_id", "other");
    let second = changed(&first, &format!("{GOOD}{another}{BY_ID}").replace("key_groups = 4", "key_groups = 8"));
    assert_eq!((numbers(&second), second.0.key_groups), (vec![0, 2, 1], 4));
    let third = changed(&second, &file.replace("size = \"1m\"", "size = \"2m\""));
    assert_eq!(numbers(&third), [0, 3]);
    let fourth = changed(&third, &file);
    assert_eq!((numbers(&fourth), fourth.0.key_groups), (vec![0, 4], 4));
    let fifth = changed(&fourth, &file.replace("key = [\"id\", \"at\"]\nkeep_for", "key = [\"at\", \"id\"]\nkeep_for"));
    assert_eq!(numbers(&fifth), [5, 6]);
    // After 65,535 of them the job has to be another one.
    let used_up = Kept { next: u16::MAX, ..fifth.1.unwrap() };
    let comparison = compare(&fifth.0, &good(&file));
    assert_eq!(crate::kept(&fifth.0, Some(&used_up), &good(&file), &comparison), None);
}

#[test]
fn what_is_kept_otherwise_is_told() {
    let job = good(GOOD);
    let changed = |from: &str, to: &str| compare(&job, &good(&super::with(from, to))).to_string();
    let text = changed("note = { type = \"string\" }", "note = { type = \"bool\" }");
    assert!(
        text.contains("dedup: kept; [fields] have changed, so a record that comes again counts as a correction once"),
        "{text}"
    );
    let text = changed("table = \"orders\"", "table = \"sales\"");
    assert!(text.contains("table public.orders in db: nothing more is written to it"), "{text}");
    assert!(text.contains("table public.sales in db: gets what comes from here on"), "{text}");
    let text = changed("table = \"orders\"", "table = \"orders\"\nwhere = \"qty > 1\"");
    assert!(text.contains("table public.orders in db: is written otherwise"), "{text}");
    assert!(changed("key_groups = 4", "key_groups = 8").contains("`key_groups` stays 4"));
    let text = compare(&job, &good(&format!("{GOOD}{BY_ID}"))).to_string();
    assert!(text.contains("aggregate by_id: new, begins empty"), "{text}");
}

const LOOKUP: &str = "[[lookup]]\nname = \"map\"\nin = \"db\"\nsql = \"select id, most from map\"\non = [\"id\"]\n";

/// Two aggregates, of which one reads what a lookup gives.
fn with_lookup() -> String {
    let another = BY_ID.replace("by_id", "looked_up").replace("max(total)", "max(bounded)");
    super::with("total = \"qty * price\"", "total = \"qty * price\"\nbounded = \"map.most + qty\"")
        + LOOKUP
        + BY_ID
        + &another
}

#[test]
fn lookups_are_told() {
    let text = plan(&good(&with_lookup())).to_string();
    let line = "lookup map: read from db every 1m, joined by id; a record without a row is a dead letter; types of its \
                columns are assumed: its database was not asked";
    assert_eq!(text.lines().nth(1), Some(line));
    let nulls =
        with_lookup().replace("on = [\"id\"]", "on = [\"id\", \"note\"]\nrefresh = \"90s\"\nmissing = \"null\"");
    let types = ["id", "note", "most"]
        .map(|name| (name.to_owned(), if name == "most" { "int64" } else { "string" }.to_owned()));
    let known = crate::Submission { lookups: [("map".to_owned(), types.to_vec())].into(), ..super::submission(&nulls) };
    let plan = plan(&crate::check(&known, "job.toml").unwrap().0);
    let line =
        "lookup map: read from db every 90s, joined by id, note; a record without a row has nulls in its columns";
    assert_eq!(plan.lookups[0].to_string(), line);
}

#[test]
fn a_changed_lookup_costs_what_reads_it_and_is_told() {
    let before = with_lookup();
    let note = "lookup map: has other rows from here on; what is in state and in tables stays";
    let same = compare(&good(&before), &good(&before));
    assert!(!same.drops() && same.notes.is_empty(), "{same}");
    for (from, to, drops, told) in [
        ("select id, most from map", "select id, most from map where most > 1", true, true),
        ("on = [\"id\"]", "on = [\"id\", \"note\"]", true, true),
        ("on = [\"id\"]", "on = [\"id\"]\nmissing = \"null\"", true, false),
        ("on = [\"id\"]", "on = [\"id\"]\nrefresh = \"5m\"\nmax_rows = 7", false, false),
    ] {
        let comparison = compare(&good(&before), &good(&before.replacen(from, to, 1)));
        assert!(before.contains(from), "{from}");
        let dropped = Fate::Dropped { reason: "a column that it reads has changed".to_owned() };
        assert_eq!(*fate(&comparison, "aggregate looked_up") == dropped, drops, "{to}: {comparison}");
        for state in ["dedup", "aggregate by_id"] {
            assert_eq!(*fate(&comparison, state), Fate::Kept { note: None }, "{to}: {comparison}");
        }
        assert_eq!(comparison.notes.iter().any(|found| found == note), told, "{to}: {comparison}");
    }
    // The types are the database's, and may be others the next time.
    let typed = |most: &str| {
        let types = [("id", "string"), ("most", most)].map(|(name, of)| (name.to_owned(), of.to_owned()));
        let known =
            crate::Submission { lookups: [("map".to_owned(), types.into())].into(), ..super::submission(&before) };
        crate::check(&known, "job.toml").unwrap().0
    };
    let comparison = compare(&typed("int32"), &typed("int64"));
    assert!(matches!(fate(&comparison, "aggregate looked_up"), Fate::Dropped { .. }), "{comparison}");
    // In the argument itself, however it is written.
    let direct = before.replace("max(bounded)", "max(map.most)");
    let other = direct.replace("select id, most", "select id, 2 * most as most");
    for how in ["max(map.most)", "max(\\\"map\\\".\\\"most\\\")", "max(map . most)"] {
        let (direct, other) = (direct.replace("max(map.most)", how), other.replace("max(map.most)", how));
        let comparison = compare(&good(&direct), &good(&other));
        assert!(matches!(fate(&comparison, "aggregate looked_up"), Fate::Dropped { .. }), "{how}: {comparison}");
    }
}

#[test]
fn columns_that_are_derived_from_all_above_them_are_compared_at_once() {
    let names: Vec<String> = (0..60).map(|n| format!("d{n}")).collect();
    let derived =
        |n: usize| format!("{} = \"{}\"\n", names[n], names[..n].join(" + ") + if n == 0 { "qty" } else { " + qty" });
    let all: String = (0..60).map(derived).collect();
    let file =
        format!("{GOOD}{BY_ID}").replace("max(total)", "max(d59)").replace("[derive]\n", &format!("[derive]\n{all}"));
    assert!(!compare(&good(&file), &good(&file)).drops());
    let other = file.replace("d0 = \"qty\"", "d0 = \"qty + 1\"");
    assert!(matches!(fate(&compare(&good(&file), &good(&other)), "aggregate by_id"), Fate::Dropped { .. }));
}
