//! What the parts of a job must be to each other.

use super::{GOOD, bad, good, one, one_in, places, submission, table, with};
use crate::{
    DeadLettersTo, FieldPath, OnChange, PathStart, SinkValue, SourceSpec, StartPosition, TargetKind, WriteMode,
};

const SINK_KEY: &str = "table = \"orders\"\nkey = [\"id\", \"at\"]";

#[test]
fn expressions_see_what_they_may() {
    one("qty is null or price is not null", "total > 1", "P0041", "total", "only the columns of [fields]");
    one("qty is null or price is not null", "qty + 1", "P0044", "\"qty + 1\"", "must be true or false");
    one("qty is null or price is not null", "qty >", "P0040", "", "");
    one("qty is null or price is not null", "at < now()", "P0043", "now", "replay");
    one("qty is null or price is not null", "rond(price) > 1", "P0042", "rond", "did you mean `round`?");
    one("[time]", "[filter]\nkeep = \"note\"\n\n[time]", "P0044", "\"note\"", "must be true or false");
    one("total = \"qty * price\"", "a = \"b + 1\"\nb = \"qty\"", "P0041", "b", "sees those above it");
    let job = good(&with("total = \"qty * price\"", "z = \"qty + 1\"\na = \"z * 2\""));
    assert_eq!(job.derive.iter().map(|derive| derive.name.as_str()).collect::<Vec<_>>(), ["z", "a"]);
}

#[test]
fn a_place_in_sql_is_a_place_in_the_file() {
    let toml = with("total = \"qty * price\"", "total = \"\"\"\nqty\n  * prise\"\"\"");
    assert_eq!(places(&toml), ["P0041 28:5 prise"]);
}

#[test]
fn a_broken_column_is_one_mistake() {
    one(
        "price = { type = \"decimal(10,2)\", min = 0 }",
        "price = { type = \"decimal(40,2)\" }",
        "P0050",
        "\"decimal(40,2)\"",
        "1 to 38",
    );
    one("id = { type = \"string\"", "id = { type = \"str\"", "P0050", "\"str\"", "did you mean `string`?");
}

#[test]
fn fields_read_different_places() {
    let note = r#"note = { type = "string" }"#;
    one(note, r#"note = { type = "string", path = ["qty"] }"#, "P0053", "\"qty\"", "by the field `qty`");
    one(note, r#"note = { type = "string", path = ["a..b"] }"#, "P0053", "\"a..b\"", "object keys");
    one(note, r#"note = { type = "string", path = ["^a"] }"#, "P0053", "\"^a\"", "itself");
    one(note, r#"note = { type = "string", path = "a" }"#, "P0012", "\"a\"", "did you mean [\"a\"]?");
    one(note, r#"note = { type = "string", path = [] }"#, "P0014", "[]", "is empty");
    let paths = good(&with(note, r#"note = { type = "string", path = ["a.b", "c"] }"#)).fields[5].paths.clone();
    let keys =
        |keys: &[&str]| FieldPath { from: PathStart::Record, keys: keys.iter().map(|key| (*key).to_owned()).collect() };
    assert_eq!(paths, [keys(&["a", "b"]), keys(&["c"])]);
}

#[test]
fn timestamps_have_units_and_zones() {
    let at = "at = { type = \"timestamp\"";
    one(at, "at = { type = \"timestamp\", epoch = \"min\"", "P0014", "\"min\"", "allowed: `s`, `ms`, `us` or `ns`");
    one(
        at,
        "at = { type = \"timestamp\", assume_zone = \"America/Sao_Paolo\"",
        "P0019",
        "\"America/Sao_Paolo\"",
        "did you mean `America/Sao_Paulo`?",
    );
    one(at, "at = { type = \"timestamp\", epoch = \"s\", assume_zone = \"UTC\"", "P0051", "assume_zone", "`epoch`");
    one(
        "weight = { type = \"float64\"",
        "weight = { type = \"float64\", epoch = \"s\"",
        "P0051",
        "epoch",
        "of type timestamp",
    );
}

#[test]
fn start_is_a_position() {
    let topic = "topic = \"orders\"";
    let start = |value: &str| {
        let SourceSpec::Kafka(kafka) = good(&with(topic, &format!("{topic}\nstart = {value}"))).source else {
            panic!()
        };
        kafka.start
    };
    assert_eq!(start("\"latest\""), StartPosition::Latest);
    assert_eq!(start("\"1970-01-01T00:00:01Z\""), StartPosition::At(1_000_000));
    assert_eq!(start("1970-01-01T01:00:00+01:00"), StartPosition::At(0));
    one(topic, "topic = \"orders\"\nstart = \"1970-01-01\"", "P0019", "\"1970-01-01\"", "with a zone");
    one(topic, "topic = \"orders\"\nstart = \"beginning\"", "P0019", "\"beginning\"", "earliest");
}

#[test]
fn route_by_is_a_part_of_the_key() {
    assert_eq!(good(&with("keep_for", "route_by = [\"id\"]\nkeep_for")).routing_key, [0]);
    let toml = GOOD.replace("note = { type = \"string\" }", "note = { type = \"string\", required = true }");
    let toml = toml.replace("keep_for", "route_by = [\"note\"]\nkeep_for");
    assert_eq!(places(&toml), ["P0064 33:13 \"note\""]);
}

#[test]
fn a_derived_key_comes_from_fields_alone_and_is_never_null() {
    let key = |derive: &str| {
        let toml =
            with("total = \"qty * price\"", derive).replace("key = [\"id\", \"at\"]", "key = [\"id\", \"at\", \"k\"]");
        match crate::check(&super::submission(&toml), "job.toml") {
            Ok(_) => Vec::new(),
            Err(diagnostics) => diagnostics.list.iter().map(|d| d.message.clone()).collect(),
        }
    };
    assert!(key("k = \"coalesce(upper(id), '')\"").is_empty());
    assert_eq!(
        key("k = \"upper(note)\""),
        ["a key column must never be null, but this expression can be: coalesce(..., '') cannot"]
    );
    assert_eq!(key("j = \"upper(id)\"\nk = \"coalesce(j, '')\""), ["a key column must be derived from fields alone"]);
}

#[test]
fn sinks_have_the_key_that_their_mode_wants() {
    one(SINK_KEY, "table = \"orders\"", "P0070", "[[sink]]", "need a `key`");
    one(SINK_KEY, &format!("{SINK_KEY}\nwrite = \"append\""), "P0070", "key", "has no `key`");
    one(SINK_KEY, "table = \"orders\"\nwrite = \"append\"\nnewest_by = \"at\"", "P0070", "newest_by", "upsert");
    one(
        SINK_KEY,
        &format!("{SINK_KEY}\nwrite = \"keep_first\"\ndelete_when = \"qty = 0\""),
        "P0070",
        "delete_when",
        "upsert",
    );
    one(SINK_KEY, "table = \"orders\"\nkey = [\"id\", \"att\"]", "P0060", "\"att\"", "did you mean `at`?");
    one(
        SINK_KEY,
        &format!("{SINK_KEY}\nwrite = \"insert\""),
        "P0014",
        "\"insert\"",
        "allowed: `upsert`, `keep_first` or `append`",
    );
    let job = good(&with(SINK_KEY, "table = \"orders\"\nwrite = \"append\""));
    assert_eq!(table(&job.sinks[0]).write, WriteMode::Append);
}

#[test]
fn one_key_of_a_sink_is_one_writer() {
    let drop = GOOD.replace("keep_for = \"1h\"", "keep_for = \"1h\"\nchanged = \"drop\"");
    let key =
        |key: &str| drop.replace("table = \"orders\"\nkey = [\"id\", \"at\"]", &format!("table = \"orders\"\n{key}"));
    let lacking = key("key = [\"id\"]");
    assert_eq!(places(&lacking), ["P0071 39:7 [\"id\"]"]);
    assert!(bad(&lacking).list[0].message.contains("lacks `at`"));
    good(&key("key = [\"id\"]\nnewest_by = \"at\""));
    good(&key("key = [\"id\"]\none_to_one = true"));
    good(&key("key = [\"at\", \"note\", \"id\"]"));
    // A first row cannot be the newest.
    assert_eq!(places(&key("key = [\"id\"]\nwrite = \"keep_first\"")), ["P0071 39:7 [\"id\"]"]);
}

#[test]
fn corrections_keep_to_the_dedup_key() {
    let key = "table = \"orders\"\nkey = [\"id\", \"at\", \"note\"]";
    one(SINK_KEY, key, "P0072", "[\"id\", \"at\", \"note\"]", "columns of the dedup");
    good(&with(SINK_KEY, &format!("{key}\none_to_one = true")));
    good(&with(SINK_KEY, &format!("{key}\nnewest_by = \"at\"")));
    good(&with(SINK_KEY, &format!("{key}\nwrite = \"keep_first\"")));
    let toml = GOOD.replace("key = [\"id\", \"at\"]", "key = [\"id\"]");
    assert_eq!(places(&toml), ["P0072 29:9 \"at\""]);
    good(&toml.replace("keep_for", "changed = \"drop\"\nkeep_for"));
}

#[test]
fn tombstones_name_the_dedup_key() {
    let topic = "topic = \"orders\"";
    let tombstone = |columns: &str| format!("{topic}\ntombstone = {{ key = {columns} }}");
    good(&with(topic, &tombstone("[\"at\", \"id\"]")));
    one(topic, &tombstone("[\"id\"]"), "P0065", "tombstone", "the columns of the dedup key");
    one(topic, &tombstone("[\"id\", \"at\", \"qty\"]").replace("qty", "total"), "P0065", "\"total\"", "derived");
    let toml = with(topic, &tombstone("[\"id\", \"at\", \"map.place\"]"));
    let lookup = "[[lookup]]\nname = \"map\"\nin = \"db\"\nsql = \"select 1\"\non = [\"id\"]\n";
    one_in(&format!("{toml}{lookup}"), "P0065", "\"map.place\"", "looked up");
    let no_dedup = GOOD.replace("[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n\n[[sink]]\nto = \"db\"\ntable = \"orders\"\nkey = [\"id\", \"at\"]", "[[sink]]\nto = \"db\"\ntable = \"orders\"\nkey = [\"id\"]");
    let no_dedup = no_dedup.replace("[time]\nfield = \"at\"\n", "");
    let job = good(&no_dedup.replace(topic, &tombstone("[\"id\"]")));
    assert_eq!(job.routing_key, [0]);
    assert_eq!(good(&no_dedup).routing_key, [0], "the first keyed sink's");
    let by_split = no_dedup.replace("key = [\"id\"]", "key = [\"qty\"]\none_to_one = true");
    assert!(good(&by_split).routing_key.is_empty(), "qty is not required");
    assert_eq!(places(&no_dedup.replace("key = [\"id\"]", "key = [\"qty\"]")), ["P0071 32:7 [\"qty\"]"]);
}

#[test]
fn columns_of_a_sink_are_columns_or_expressions() {
    let columns = format!("{SINK_KEY}\ncolumns = {{ id = \"ID\", at = \"at\", double = \"qty * 2\" }}");
    let sink = &good(&with(SINK_KEY, &columns)).sinks[0];
    assert_eq!(sink.columns[0].value, SinkValue::Column(0));
    assert!(matches!(&sink.columns[2].value, SinkValue::Expression(sql) if sql.sql == "qty * 2"));
    assert_eq!(sink.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id", "at", "double"]);
    one(
        SINK_KEY,
        &format!("{SINK_KEY}\ncolumns = {{ id = \"id\", at = \"at\", xmin = \"qty\" }}"),
        "P0016",
        "xmin",
        "other purposes",
    );
    one(SINK_KEY, &format!("{SINK_KEY}\ncolumns = {{ id = \"id\", at = \"at\", q = 1 }}"), "P0012", "1", "a string");
    one(SINK_KEY, &format!("{SINK_KEY}\nwhere = \"qty\""), "P0044", "\"qty\"", "must be true or false");
}

#[test]
fn accepting_changes_needs_upserts() {
    let accept = with("topic = \"orders\"", "topic = \"orders\"\non_change = \"accept\"");
    let SourceSpec::Kafka(kafka) = good(&accept).source else { panic!() };
    assert_eq!(kafka.on_change, OnChange::Accept);
    assert_eq!(places(&accept.replace(SINK_KEY, "table = \"orders\"\nwrite = \"append\"")), ["P0074 9:1 on_change"]);
}

#[test]
fn targets_are_databases_of_their_own() {
    one("to = \"db\"", "to = \"bd\"", "P0060", "\"bd\"", "did you mean `db`?");
    let two = with("[fields]", "[target.other]\ntype = \"postgres\"\nurl = { env = \"DATABASE_URL\" }\n\n[fields]");
    assert_eq!(places(&two)[0], "P0054 14:9 other");
    one(
        "url = { env = \"DATABASE_URL\" }",
        "url = { env = \"DATABASE_URL\" }\nzone = \"America/Sao_Paolo\"",
        "P0019",
        "\"America/Sao_Paolo\"",
        "did you mean `America/Sao_Paulo`?",
    );
    one("url = { env = \"DATABASE_URL\" }", "url = \"http://x\"", "P0023", "\"http://x\"", "postgres://");
    one(
        "url = { env = \"DATABASE_URL\" }",
        "url = { env = \"DATABASE_URL\" }\nmax_refused = 2",
        "P0015",
        "2",
        "0 to 1",
    );
    let unused = with("[fields]", "[target.other]\ntype = \"postgres\"\nurl = \"postgres://h/d\"\n\n[fields]");
    let (_, warnings) = crate::check(&super::submission(&unused), "job.toml").unwrap();
    assert_eq!(warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), ["P0090"]);
}

#[test]
fn mysql_names_its_tables_in_its_own_way() {
    let url = "type = \"mysql\"\nurl = { env = \"MYSQL_URL\" }";
    let mysql = with("type = \"postgres\"\nurl = { env = \"DATABASE_URL\" }", url);
    let job = good(&mysql);
    assert_eq!(table(&job.sinks[0]).name, (String::new(), "orders".to_owned()));
    assert_eq!(job.dead_letter.to, DeadLettersTo::Table((String::new(), "pulso_dead_letters".to_owned())));
    let TargetKind::MySql { zone, .. } =
        &good(&mysql.replace(url, &format!("{url}\nzone = \"Asia/Kathmandu\""))).targets[0].kind
    else {
        panic!("a MySQL target")
    };
    assert_eq!(zone, "Asia/Kathmandu");
    let other = good(&mysql.replace("table = \"orders\"", "table = \"shop.orders\""));
    assert_eq!(table(&other.sinks[0]).name, ("shop".to_owned(), "orders".to_owned()));
    for forbidden in ["mysql.user", "pulso_ledger"] {
        let places = places(&mysql.replace("table = \"orders\"", &format!("table = \"{forbidden}\"")));
        assert_eq!(places.len(), 1, "{places:?}");
        assert!(places[0].starts_with("P0073") && places[0].ends_with(&format!("\"{forbidden}\"")), "{places:?}");
    }
    for bad in ["mysql://h/d", "mysql://u@h", "postgres://u@h/d", "mysql://u@h/d/e"] {
        let places = places(&mysql.replace("{ env = \"MYSQL_URL\" }", &format!("\"{bad}\"")));
        assert_eq!(places, [format!("P0023 12:7 \"{bad}\"")]);
    }
}

#[test]
fn dead_letters_go_to_a_table_of_their_own() {
    let section = |text: &str| format!("{GOOD}\n[dead_letter]\n{text}\n");
    assert_eq!(
        good(&section("to = \"db\"\ntable = \"ops.bad\"")).dead_letter.to,
        DeadLettersTo::Table(("ops".into(), "bad".into()))
    );
    assert_eq!(places(&section("to = \"db\"\ntable = \"orders\"")), ["P0073 42:9 \"orders\""]);
    assert_eq!(places(&section("table = \"x\"")), ["P0013 40:2 dead_letter"]);
    assert_eq!(places(&section("to = \"db\"\ntopic = \"x\"")), ["P0011 42:1 topic"]);
}

#[test]
fn panels_only_read() {
    let panel = |chart: &str, sql: &str| format!("{GOOD}\n[[panel]]\ntitle = \"T\"\n{chart}\nsql = '''{sql}'''\n");
    let line = "chart = \"line\"\nx = \"a\"\ny = [\"b\"]";
    for sql in [
        "select 1",
        "  WITH x AS (select 1) select * from x;",
        "-- note\nselect 'delete; drop' as \"update\"",
        "select $a$ insert $a$ /* ; */ , updated_at from t",
    ] {
        good(&panel(line, sql));
    }
    for sql in [
        "delete from t",
        "select 1; select 2",
        "with x as (delete from t returning 1) select * from x",
        "select 'open",
        "",
        "select * into y from t",
        "select 1 for update",
    ] {
        assert!(places(&panel(line, sql))[0].starts_with("P00"), "{sql}");
    }
    assert_eq!(places(&panel("chart = \"bar\"\nx = \"a\"", "select 1")), ["P0080 40:1 [[panel]]"]);
    assert_eq!(places(&panel("chart = \"donut\"", "select 1")), ["P0014 42:9 \"donut\""]);
    good(&panel("chart = \"number\"", "select 1"));
    good(&panel("chart = \"histogram\"\nx = \"a\"", "select 1"));
}

#[test]
fn a_panel_asks_a_database() {
    let url = "type = \"postgres\"\nurl = { env = \"DATABASE_URL\" }";
    let sink = |target: &str| with(url, target).replace(SINK_KEY, "");
    let panel = |toml: &str, rest: &str| {
        format!("{toml}\n[[panel]]\ntitle = \"T\"\nchart = \"number\"\nsql = \"select 1\"\n{rest}")
    };
    let files = format!("{}\n[dead_letter]\nto = \"db\"\n", sink("type = \"files\"\npath = \"out\""));
    good(&files);
    for (rest, at) in [("", "[[panel]]"), ("in = \"db\"", "\"db\"")] {
        let toml = panel(&files, rest);
        let line = 1 + toml.lines().position(|line| line == if rest.is_empty() { at } else { rest }).unwrap();
        let column = if rest.is_empty() { 1 } else { 6 };
        assert_eq!(places(&toml), [format!("P0080 {line}:{column} {at}")]);
        let help = bad(&toml).list[0].help.clone().unwrap_or_default();
        assert!(help.contains("type postgres"), "{help}");
    }
    // What is wrong with the one that it would ask is told, and nothing else.
    let broken = panel(&with(url, "type = \"postgres\"\nurl = \"nowhere\""), "");
    assert_eq!(bad(&broken).list.iter().map(|found| found.code.as_str()).collect::<Vec<_>>(), ["P0023"]);
}

#[test]
fn a_panel_may_ask_mysql() {
    let url = "type = \"postgres\"\nurl = { env = \"DATABASE_URL\" }";
    let mysql = "type = \"mysql\"\nurl = { env = \"MYSQL_URL\" }";
    let toml = format!("{}\n[[panel]]\ntitle = \"T\"\nchart = \"number\"\nsql = \"select 1\"\n", with(url, mysql));
    let (job, warnings) = crate::check(&submission(&toml), "job.toml").unwrap();
    assert_eq!((job.panels.len(), job.panels[0].target), (1, 0));
    assert!(warnings.is_empty(), "{warnings:?}");
}

const KAFKA: &str = "[target.bus]\ntype = \"kafka\"\nbrokers = \"other:9092, LOCALHOST:9092\"\n";

#[test]
fn a_job_does_not_read_the_topic_that_it_writes() {
    let sink = |topic: &str| format!("{GOOD}\n{KAFKA}\n[[sink]]\nto = \"bus\"\ntopic = \"{topic}\"\n");
    let letters = |topic: &str| format!("{GOOD}\n{KAFKA}\n[dead_letter]\nto = \"bus\"\ntopic = \"{topic}\"\n");
    let elsewhere = |toml: &str| toml.replace("LOCALHOST:9092", "localhost:9093");
    for toml in [sink("orders"), letters("orders")] {
        let second = toml.replacen("topic = \"orders\"", "topic = \"others\"", 1);
        good(&second);
        good(&elsewhere(&toml));
        let mistakes = bad(&toml);
        let found: Vec<(&str, usize)> = mistakes.list.iter().map(|m| (m.code.as_str(), m.offset)).collect();
        assert_eq!(found, [("P0086", toml.rfind("\"orders\"").unwrap())], "{}", mistakes.render(false));
    }
    good(&sink("Orders"));
}

#[test]
fn topics_of_pulso_are_not_for_jobs() {
    one("topic = \"orders\"", "topic = \"pulso-ledger-7-db\"", "P0086", "\"pulso-ledger-7-db\"", "Pulso's own");
    let sink = |topic: &str| format!("{GOOD}\n{KAFKA}\n[[sink]]\nto = \"bus\"\ntopic = \"{topic}\"\n");
    one_in(&sink("pulso-ledger-"), "P0086", "\"pulso-ledger-\"", "Pulso's own");
    let oversize = "topic = \"pulso-dead-letters\"";
    let reads = sink("out").replacen("topic = \"orders\"", oversize, 1);
    one_in(&reads, "P0086", "\"pulso-dead-letters\"", "too large");
    // Those of others are there to be read.
    good(&reads.replace("LOCALHOST:9092", "localhost:9093"));
    good(&with("topic = \"orders\"", oversize));
}
