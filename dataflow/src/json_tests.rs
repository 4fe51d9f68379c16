//! serde_json is the oracle of what is JSON; what we refuse beyond it is named.

use proptest::prelude::*;

use super::*;

fn accepts(text: &str) -> Result<Token, Flaw> {
    let mut scanner = Scanner::new(text);
    let token = scanner.value(0)?;
    scanner.end().map(|()| token)
}

/// What serde_json says; nothing where it stops at a float that is too large, before it has seen all characters.
fn oracle(text: &str) -> Option<bool> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Some(true),
        // The size of a float is no question of syntax.
        Err(e) if e.to_string().contains("out of range") => {
            let skimmed = serde_json::from_str::<Box<serde_json::value::RawValue>>(text).is_ok();
            (!skimmed || !text.contains("\\u")).then_some(skimmed)
        }
        Err(_) => Some(false),
    }
}

fn agrees(text: &str) -> bool {
    oracle(text).is_none_or(|expected| accepts(text).is_ok() == expected)
}

#[test]
fn agrees_with_the_oracle_on_what_is_json() {
    let texts = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-",
        "01",
        "1.",
        ".5",
        "1.5",
        "1e5",
        "1E+5",
        "1e",
        "-1.25e-7",
        "NaN",
        "Infinity",
        "-Infinity",
        "1,5",
        "\"\"",
        "\"a\"",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u00e9\"",
        "\"\\u00g0\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "\"\u{1}\"",
        "\"\t\"",
        "[]",
        "[1,2]",
        "[1,]",
        "[,]",
        "{}",
        "{\"a\":1}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        " {\"a\" : [ ] } ",
        "{} {}",
        "{}\n{}",
        "{}x",
        "",
        " ",
        "\u{feff}{}",
        "truex",
        "tru",
        "[[[1]]]",
        "{\"a\":{\"b\":[{}]}}",
        "'a'",
        "{\"a\":undefined}",
        "/**/1",
        "\"1234567\"",
        "\"12345678\"",
        "\"1234567\\n\"",
        "\"12345678\\n12345678\"",
        "\"é\u{10348}\"",
    ];
    for text in texts {
        assert_eq!(Some(accepts(text).is_ok()), oracle(text), "{text:?}");
    }
}

#[test]
fn refuses_nesting_beyond_the_limit_without_using_the_stack() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(accepts(&nested(64)).is_ok());
    assert_eq!(accepts(&nested(65)), Err(Flaw::Depth));
    assert_eq!(accepts(&nested(1_000_000)), Err(Flaw::Depth));
    assert_eq!(accepts(&"{\"a\":".repeat(100_000)), Err(Flaw::Depth));
}

#[test]
fn says_what_a_number_and_a_text_are() {
    let kind = |text: &str| accepts(text).unwrap().kind;
    assert_eq!(kind("12"), Kind::Number { integral: true });
    assert_eq!(kind("12.0"), Kind::Number { integral: false });
    assert_eq!(kind("1e2"), Kind::Number { integral: false });
    assert_eq!(kind("\"a\""), Kind::Text { escaped: false });
    assert_eq!(kind("\"\\n\""), Kind::Text { escaped: true });
    assert!(accepts("{\"a\":\"x\\u0000\"}").unwrap().nul);
    assert!(!accepts("\"\\\\u0000\"").unwrap().nul);
}

/// Pieces that make almost-JSON likelier than random bytes do.
fn almost_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "d83d", "\\ude00", "0000", "a", "é", "0", "-", "1", ".", "e",
        "+", " ", "\n", "true", "null", "false", "\"k\"", "\"k\":", "12345678", "\u{1}",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_oracle_on_almost_json(text in almost_json()) {
        prop_assert!(agrees(&text), "{:?}", text);
    }

    #[test]
    fn accepts_all_json_and_agrees_on_a_changed_byte(value in json(), at in any::<prop::sample::Index>(), byte in 0u8..128) {
        let text = value.to_string();
        prop_assert!(accepts(&text).is_ok());
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(agrees(&changed), "{:?}", changed);
        }
    }

    #[test]
    fn unescapes_what_the_oracle_escaped(text in any::<String>()) {
        let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for quoted in [serde_json::to_string(&text).unwrap(), format!("\"{ascii}\"")] {
            let token = accepts(&quoted).unwrap();
            let mut out = String::new();
            unescape(&quoted[token.start..token.end], &mut out);
            prop_assert_eq!(&out, &text);
        }
    }
}
