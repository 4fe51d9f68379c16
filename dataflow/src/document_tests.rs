use super::*;

fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn slice(document: &str, each: &str, root: &[&str]) -> Result<(Vec<String>, String), BadDocument> {
    let mut root: Vec<Vec<String>> = root.iter().map(|text| path(text)).collect();
    root.sort();
    let root: Vec<&[String]> = root.iter().map(Vec::as_slice).collect();
    let found = elements(document.as_bytes(), Some(&path(each)), &root)?;
    Ok((found.records.into_iter().map(|range| document[range].to_owned()).collect(), found.root))
}

#[test]
fn records_are_the_elements_wherever_the_array_stands() {
    let document = r#" {"p":{"id":17,"n":"x"},"data":{"records":[ {"a":1}, 2 ,"t\"x",[3,4] ,null]},"q":1.50} "#;
    let (records, root) = slice(document, "data.records", &["p.id", "q", "none.x"]).unwrap();
    assert_eq!(records, [r#"{"a":1}"#, "2", r#""t\"x""#, "[3,4]", "null"]);
    assert_eq!(root, r#"{"p":{"id":17},"q":1.50}"#);
    assert_eq!(slice(r#"{"r":[]}"#, "r", &[]).unwrap(), (vec![], "{}".to_owned()));
}

#[test]
fn a_root_value_holds_what_is_below_it_and_a_blocked_way_stays_blocked() {
    let (_, root) = slice(r#"{"r":[1],"p":{"a":{"b":5}},"s":"text"}"#, "r", &["p.a", "p.a.b", "s.t"]).unwrap();
    assert_eq!(root, r#"{"p":{"a":{"b":5}},"s":false}"#);
    let (_, root) = slice(r#"{"r":[1,{}]}"#, "r", &["r"]).unwrap();
    assert_eq!(root, r#"{"r":[1,{}]}"#);
}

#[test]
fn what_is_not_one_document_with_the_array_is_bad() {
    for (document, bad) in [
        ("", BadDocument::InvalidJson),
        (r#"{"r":[1,2"#, BadDocument::InvalidJson),
        (r#"{"r":[1]}{"#, BadDocument::InvalidJson),
        (r#"{"r":[1,]}"#, BadDocument::InvalidJson),
        (r#"{"r":{"x":[1]}}"#, BadDocument::NoRecords),
        (r#"{"x":[1]}"#, BadDocument::NoRecords),
        (r#"[1]"#, BadDocument::NoRecords),
        (r#"{"r":[1],"r":[2]}"#, BadDocument::DuplicateKey),
    ] {
        assert_eq!(slice(document, "r", &[]), Err(bad), "{document}");
    }
    let deep = format!("{{\"r\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(slice(&deep, "r", &[]), Err(BadDocument::TooDeep));
    assert_eq!(elements(b"{\"r\":[\"\xff\"]}", Some(&path("r")), &[]), Err(BadDocument::InvalidUtf8));
}

#[test]
fn without_each_the_document_is_the_record() {
    let found = elements(b" [1, 2] ", None, &[]).unwrap();
    assert_eq!((found.records.len(), found.records[0].clone()), (1, 1..7));
    assert_eq!(elements(b"[1", None, &[]), Err(BadDocument::InvalidJson));
}

#[test]
fn a_key_comes_back_as_it_was() {
    let key = FileKey {
        file: "/in/a \"b\"\n.json".to_owned(),
        root: Some(r#"{"p":{"id":17}}"#.to_owned()),
        header: Some("id;\"n\tome\"\u{1}".to_owned()),
        bad: None,
    };
    assert_eq!(FileKey::decode(&key.encode()), Some(key));
    assert_eq!(FileKey::decode(b"{}"), None);
    assert_eq!(FileKey::decode(b"x"), None);
}
