//! Rows 1 to 20 of the list of bad input, as far as the text of a file shows them.

use super::{GOOD, bad, good, one, places, submission, table, with};
use crate::{MAX_FILE_BYTES, check, codes, decode, explain};

fn only(toml: &str, code: &str) -> String {
    let diagnostics = bad(toml);
    let shown = diagnostics.render(false);
    assert!(diagnostics.list.iter().all(|diagnostic| diagnostic.code.as_str() == code), "{shown}");
    shown
}

#[test]
fn row_1_empty_and_huge() {
    for toml in ["", "\n\n", "# only a comment\n"] {
        assert!(only(toml, "P0013").contains("the file defines nothing"));
    }
    assert!(only(&" ".repeat(10 * 1024 * 1024), "P0002").contains("at most 1048576"));
    let keys: String = (0..100_000).map(|key| format!("k{key}=1\n")).collect();
    assert!(only(&keys, "P0002").contains("100000 keys"));
    for deep in [
        format!("a = {}{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("a = {}1{}", "{ b = ".repeat(10_000), " }".repeat(10_000)),
        format!("{} = 1", vec!["a"; 10_000].join(".")),
        format!("[{}]", vec!["a"; 10_000].join(".")),
    ] {
        bad(&deep).render(false);
    }
}

#[test]
fn row_2_encodings() {
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes[20] = 0xff;
    let diagnostics = decode(&bytes, "job.toml").unwrap_err();
    assert_eq!(
        (diagnostics.list[0].code.as_str(), diagnostics.list[0].offset, diagnostics.list[0].line),
        ("P0001", 20, 2)
    );
    assert_eq!(decode(GOOD.as_bytes(), "job.toml").unwrap(), GOOD);
    assert_eq!(decode(&vec![b' '; MAX_FILE_BYTES + 1], "job.toml").unwrap_err().list[0].code.as_str(), "P0002");
    good(&format!("\u{feff}{GOOD}"));
    good(&GOOD.replace('\n', "\r\n"));
    good(&GOOD.replace("[source]", "\t[source]\t"));
    only(&GOOD.replace("[source]", "[source]\0"), "P0003");
    let smart = only(
        &with(
            r#""orders"
key_groups"#,
            "\u{201c}orders\u{201d}\nkey_groups",
        ),
        "P0003",
    );
    assert!(smart.contains("typographic quotes"), "{smart}");
    only(&format!("{GOOD}\nand so on"), "P0003");
}

#[test]
fn row_3_unknown_keys() {
    one("keep_for = \"1h\"", "keep_for = \"1h\"\nrouteby = [\"id\"]", "P0010", "routeby", "did you mean `route_by`?");
    one("[rules]", "[ruls]", "P0010", "ruls", "did you mean `rules`?");
    one("version = 1", "version = 1\nkeep_for = \"1h\"", "P0011", "keep_for", "it belongs into [dedup]");
    one("max = 10", "maxx = 10", "P0010", "maxx", "did you mean `max`?");
    one("version = 1", "version = 1\nzzz = 1", "P0010", "zzz", "allowed: `version`");
}

#[test]
fn row_4_twice() {
    assert_eq!(places(&with("topic = \"orders\"", "topic = \"orders\"\ntopic = \"b\"")), ["P0003 9:1 topic"]);
    assert_eq!(places(&format!("{GOOD}\n[source]\ntype = \"kafka\"\n")), ["P0003 40:2 source", "P0003 41:1 type"]);
    // A key that stands twice does not hide the other mistakes.
    let toml = with("topic = \"orders\"", "topic = \"orders\"\ntopic = \"b\"\ntopick = 1");
    assert_eq!(places(&toml), ["P0003 9:1 topic", "P0010 10:1 topick"]);
}

#[test]
fn row_5_wrong_types() {
    for (value, code) in [
        ("\"4\"", "P0012"),
        ("4.0", "P0012"),
        ("true", "P0012"),
        ("[4]", "P0012"),
        ("-1", "P0015"),
        ("0", "P0015"),
        ("1025", "P0015"),
        ("1_000_000_000", "P0015"),
        ("9223372036854775808", "P0015"),
    ] {
        one("key_groups = 4", &format!("key_groups = {value}"), code, value, "`key_groups`");
    }
    assert_eq!(good(&with("key_groups = 4", "key_groups = 1024")).key_groups, 1024);
    assert_eq!(good(&with("key_groups = 4", "key_groups = 0x10")).key_groups, 16);
    one("required = true }\nat", "required = \"yes\" }\nat", "P0012", "\"yes\"", "true or false");
}

#[test]
fn row_6_durations() {
    let keep = "\"1h\"";
    for (value, code) in [
        ("30", "P0017"),
        ("\"30\"", "P0017"),
        ("\"30 sec\"", "P0017"),
        ("\"-5s\"", "P0017"),
        ("\"5M\"", "P0017"),
        ("\"0s\"", "P0015"),
        ("\"99999999h\"", "P0015"),
    ] {
        one(keep, value, code, value, "");
    }
    one("field = \"at\"", "field = \"at\"\ndelay = \"25h\"", "P0015", "\"25h\"", "0s to 1d");
    // Nothing at all is a duration or size where it has a meaning.
    for key in ["delay", "lateness"] {
        good(&with("field = \"at\"", &format!("field = \"at\"\n{key} = \"0s\"")));
    }
    for key in ["max_future", "idle_after"] {
        one("field = \"at\"", &format!("field = \"at\"\n{key} = \"0s\""), "P0015", "\"0s\"", key);
    }
    for window in ["{ size = \"0s\" }", "{ size = \"1m\", slide = \"0s\" }", "{ gap = \"0ms\" }"] {
        let toml = format!(
            "{GOOD}\n[[aggregate]]\nname = \"a\"\ngroup_by = [\"id\"]\nwindow = {window}\n\
             [aggregate.columns]\nrows = \"count(*)\"\n"
        );
        only(&toml, "P0015");
    }
}

#[test]
fn row_7_sizes() {
    let size = |value: &str| {
        with(r#"note = { type = "string" }"#, &format!(r#"note = {{ type = "string", max_bytes = {value} }}"#))
    };
    assert_eq!(good(&size("\"1MB\"")).fields[5].max_bytes, 1_000_000);
    assert_eq!(good(&size("\"1MiB\"")).fields[5].max_bytes, 1_048_576);
    for value in ["64", "\"64\"", "\"18446744073709551616\"", "\"64M\""] {
        only(&size(value), "P0018");
    }
    only(&size("\"1.5GiB\""), "P0015");
    only(&size("\"0B\""), "P0015");
    one("topic = \"orders\"", "topic = \"orders\"\nmax_record = \"0B\"", "P0015", "\"0B\"", "max_record");
}

#[test]
fn row_8_ranges() {
    let qty = "min = 1, max = 10";
    one(qty, "min = 11, max = 10", "P0052", "11", "greater than `max`");
    good(&with(qty, "min = 10, max = 10"));
    one(qty, "min = 1.5", "P0052", "1.5", "a whole number of 32 bits");
    one(qty, "max = 3000000000", "P0052", "3000000000", "32 bits");
    for bound in ["nan", "inf", "-inf", "1e400"] {
        one(r#"type = "float64" }"#, &format!(r#"type = "float64", min = {bound} }}"#), "P0052", bound, "finite");
    }
    one(r#"note = { type = "string" }"#, r#"note = { type = "string", min = 1 }"#, "P0051", "min", "for numbers");
    one("min = 0 }", "min = 0.001 }", "P0052", "0.001", "2 of them behind the point");
    good(&with("min = 0 }", "min = -12.50, max = 99999999.99 }"));
    one("min = 0 }", "max = 100000000 }", "P0052", "100000000", "at most 10 digits");
    one(
        r#"weight = { type = "float64" }"#,
        r#"weight = { type = "float64", one_of = ["a"] }"#,
        "P0051",
        "one_of",
        "type string",
    );
}

#[test]
fn row_9_dedup_keys() {
    let key = "key = [\"id\", \"at\"]\nkeep_for";
    let dedup = |columns: &str| format!("key = {columns}\nkeep_for");
    one(key, &dedup("[\"ids\", \"at\"]"), "P0060", "\"ids\"", "did you mean `id`?");
    one(key, &dedup("[\"id\", \"at\", \"qty\"]"), "P0061", "\"qty\"", "required = true");
    let float = GOOD.replace(r#"weight = { type = "float64" }"#, r#"weight = { type = "float64", required = true }"#);
    assert_eq!(places(&float.replacen(key, &dedup("[\"id\", \"at\", \"weight\"]"), 1)), ["P0061 32:20 \"weight\""]);
    one(key, &dedup("[]"), "P0014", "[]", "is empty");
    one(key, &dedup("[\"id\", \"at\", \"id\"]"), "P0054", "\"id\"", "twice");
    one(key, &dedup("[\"id\", \"at\", \"total\"]"), "P0061", "\"total\"", "never be null");
    one(key, &dedup("\"id\""), "P0012", "\"id\"", "a list of strings");
}

#[test]
fn row_10_time() {
    one("field = \"at\"", "field = \"id\"", "P0062", "\"id\"", "of type timestamp");
    one("field = \"at\"", "field = \"att\"", "P0060", "\"att\"", "did you mean `at`?");
    one("field = \"at\"", "field = \"at\"\nlateness = \"2h\"", "P0063", "\"1h\"", "shorter than `lateness` (2h)");
    one("[time]\nfield = \"at\"\n", "", "P0063", "dedup", "[dedup] needs [time]");
}

#[test]
fn row_11_names() {
    let name = "name = \"orders\"\nkey_groups";
    let long = "x".repeat(300);
    for bad in ["", "two words", "../up", &long, "caf\u{e9}", "\u{1f600}", "Orders", "__proto__", "-a", "a_b"] {
        let toml = with(name, &format!("name = \"{bad}\"\nkey_groups"));
        assert!(only(&toml, "P0016").contains("a job's name has lower-case letters"), "{bad}");
    }
    good(&with(name, "name = \"select\"\nkey_groups"));
    one("note = {", "\"My Note\" = {", "P0016", "\"My Note\"", "did you mean `my_note`?");
    one("priced =", "Priced =", "P0016", "Priced", "did you mean `priced`?");
    one("total =", "qty =", "P0054", "qty", "a column of [fields] already");
    let twice = format!("{GOOD}\n[[sink]]\nto = \"db\"\ntable = \"public.orders\"\nkey = [\"id\", \"at\"]\n");
    assert_eq!(places(&twice), ["P0073 42:9 \"public.orders\""]);
}

#[test]
fn row_13_identifiers() {
    for table in ["\\\"; DROP TABLE x; --", "a\\\"b", "Orders", "a.b.c", ".a", "a.", "", "or\\u0000ders"] {
        one(
            "table = \"orders\"",
            &format!("table = \"{table}\""),
            "P0016",
            &format!("\"{table}\""),
            "is not a name for",
        );
    }
    let long = "a".repeat(64);
    one("table = \"orders\"", &format!("table = \"{long}\""), "P0016", &format!("\"{long}\""), "at most 63");
    assert_eq!(
        table(&good(&with("table = \"orders\"", "table = \"shop.order\"")).sinks[0]).name,
        ("shop".into(), "order".into())
    );
    one("table = \"orders\"", "table = \"pg_catalog.x\"", "P0073", "\"pg_catalog.x\"", "is not for tables");
    one("table = \"orders\"", "table = \"pulso.dead_letters\"", "P0073", "\"pulso.dead_letters\"", "is not for tables");
    one("key = [\"id\", \"at\"]\nkeep_for", "keep_for", "P0013", "dedup", "needs `key`");
}

#[test]
fn row_14_brokers_and_topics() {
    let brokers = "brokers = \"localhost:9092\"";
    for text in ["localhost", "a:0", "a:65536", ":9092", "a:9092,", "http://a:9092", "a b:1"] {
        one(brokers, &format!("brokers = \"{text}\""), "P0023", &format!("\"{text}\""), "host:port");
    }
    one(brokers, "brokers = \"\"", "P0014", "\"\"", "is empty");
    good(&with(brokers, "brokers = \"[::1]:9092,b.example:9093\""));
    for topic in ["", "a b", "^orders-.*", ".."] {
        one("topic = \"orders\"", &format!("topic = \"{topic}\""), "P0016", &format!("\"{topic}\""), "one topic");
    }
}

#[test]
fn row_15_kafka_properties() {
    for (line, key) in [
        ("enable.auto.commit = true", "enable"),
        ("\"enable.auto.commit\" = true", "\"enable.auto.commit\""),
        ("isolation.level = \"read_uncommitted\"", "isolation"),
        ("group.instance.id = \"a\"", "group"),
    ] {
        one("topic = \"orders\"", &format!("topic = \"orders\"\n{line}"), "P0025", key, "properties are not set");
    }
}

#[test]
fn row_20_versions() {
    one("version = 1", "version = 2", "P0031", "2", "this Pulso knows version 1");
    // What another version means is not known, so nothing else is judged.
    assert_eq!(places(&with("version = 1", "version = 2\nsome = \"thing\"")), ["P0031 1:11 2"]);
    one("version = 1\n", "", "P0013", "", "needs `version`");
}

#[test]
fn mistakes_are_shown_with_a_caret() {
    let shown = bad(&with("max = 10", "maxx = 10")).render(false);
    insta::assert_snapshot!(shown, @r#"
    P0010

      × field `qty` has no key `maxx`
        ╭─[job.toml:17:34]
     16 │ at = { type = "timestamp", required = true }
     17 │ qty = { type = "int32", min = 1, maxx = 10 }
        ·                                  ────
     18 │ price = { type = "decimal(10,2)", min = 0 }
        ╰────
      help: did you mean `max`?
    "#);
    assert!(bad(&with("[rules]", "[ruls]")).render(true).contains('\u{1b}'));
}

#[test]
fn mistakes_as_json_are_stable() {
    let json = bad(&with("version = 1", "version = 2")).to_json();
    let expected = serde_json::json!({
        "file": "job.toml",
        "diagnostics": [{
            "code": "P0031",
            "severity": "error",
            "message": "version 2 of the job language is not known",
            "help": "this Pulso knows version 1",
            "line": 1, "column": 11, "offset": 10, "length": 1,
        }],
    });
    assert_eq!(json, expected);
}

#[test]
fn text_of_the_file_cannot_steer_a_terminal() {
    let shown = bad(&with("[rules]", "[\"\\u001b[31mx\"]")).render(false);
    assert!(!shown.contains('\u{1b}'));
    let shown = bad(&with("[rules]", "[\u{1b}[31mx]")).render(false);
    assert!(!shown.contains('\u{1b}'));
    let diagnostics = check(&submission(""), "\u{1b}[31m.toml").unwrap_err();
    assert!(!format!("{diagnostics}{}", diagnostics.render(false)).contains('\u{1b}'));
}

#[test]
fn every_code_is_explained() {
    let all: Vec<_> = codes().collect();
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "ascending, none twice");
    for (code, text) in &all {
        assert_eq!(explain(&code.as_str().to_lowercase()), Some(*text));
        assert!(code.as_str().len() == 5 && text.len() > 40, "{code}");
    }
    assert_eq!(explain("P9999"), None);
}

#[test]
fn long_lists_of_mistakes_are_cut() {
    let rows: String = (0..500).map(|row| format!("z{row} = 1\n")).collect();
    let diagnostics = bad(&format!("{rows}{GOOD}"));
    assert_eq!((diagnostics.list.len(), diagnostics.left_out), (100, 400));
    assert!(diagnostics.render(false).ends_with("and 400 more\n"));
}
