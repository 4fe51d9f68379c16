use super::*;

fn format() -> Format {
    Format { delimiter: b',', key: vec!["id".to_owned()], input: None }
}

fn open(text: &str) -> Lines {
    read(text.as_bytes(), &format(), false).unwrap()
}

fn closed(text: &str) -> Lines {
    read(text.as_bytes(), &format(), true).unwrap()
}

fn good(lines: &Lines) -> Vec<(u64, &str)> {
    lines.good.iter().map(|line| (line.number, line.record.as_str())).collect()
}

fn held(keys: &[&str]) -> Held {
    Held::Keys(keys.iter().map(|key| (*key).to_owned()).collect())
}

#[test]
fn quotes_embedded_newlines_crlf_and_a_byte_order_mark() {
    for end in ["\n", "\r\n"] {
        let text = ["\u{feff}id,n", "1,\"a, \"\"b\"\"\"", "", "2,\"c\nd\"", "3,e", ""].join(end);
        let lines = open(&text);
        let expected =
            [(2, r#"{"id":"1","n":"a, \"b\""}"#), (4, r#"{"id":"2","n":"c\nd"}"#), (6, r#"{"id":"3","n":"e"}"#)];
        assert_eq!(good(&lines), expected, "{end:?}");
        assert!(!lines.unfinished && lines.faults.is_empty());
        assert_eq!(lines.held, held(&[]));
    }
}

#[test]
fn a_line_without_end_waits_and_its_row_stays() {
    let lines = open("id,n\n1,a\n2,b");
    assert_eq!(good(&lines).len(), 1);
    assert!(lines.unfinished && lines.faults.is_empty());
    assert_eq!(lines.held, held(&["2"]));
    // The key itself may go on: 2 or 23.
    assert_eq!(open("id,n\n1,a\n2").held, Held::All);
    // Nobody writes any more.
    let lines = closed("id,n\n1,a\n2,b");
    assert_eq!((good(&lines).len(), lines.unfinished), (2, false));
}

#[test]
fn an_open_quote_holds_what_it_may_have_swallowed() {
    let lines = open("id,n\n1,a\n2,\"b\n3,c\n4,d\n");
    assert_eq!((good(&lines).len(), lines.unfinished), (1, true));
    assert_eq!(lines.held, Held::All);
    let lines = closed("id,n\n1,a\n2,\"b\n3,c\n4,d\n");
    assert_eq!((good(&lines).len(), lines.unfinished, &lines.held), (1, true, &Held::All));
    assert_eq!((lines.faults.len(), lines.faults[0].line), (1, 3));
    assert_eq!(closed("id,n\n1,a\n2,\"b").held, held(&["2"]));
}

#[test]
fn half_of_a_line_end_ends_a_line() {
    let lines = open("id,n\r\n1,a\r");
    assert_eq!((good(&lines).len(), lines.unfinished), (1, false));
}

#[test]
fn bad_lines_are_told_and_do_not_stop_the_rest() {
    let lines = open("id,n\n1\n2,b,c\n3,d\n,e\n3,f\n4,g\n");
    assert_eq!(good(&lines), [(4, r#"{"id":"3","n":"d"}"#), (7, r#"{"id":"4","n":"g"}"#)]);
    let faults: Vec<(u64, &str)> = lines.faults.iter().map(|fault| (fault.line, fault.what.as_str())).collect();
    assert_eq!(
        faults,
        [
            (2, "1 columns where the header has 2; the line is not sent"),
            (3, "3 columns where the header has 2; the line is not sent"),
            (5, "the key column id is empty; the line is not sent"),
            (6, "the key of line 4 again; the line is not sent"),
        ]
    );
    // Their rows may still be meant.
    assert_eq!(lines.held, held(&["1", "2"]));
}

#[test]
fn a_bad_line_that_spans_others_holds_all() {
    let lines = open("id,n\n1,\"a\n2,b\n3,c\",d\n4,e\n");
    assert_eq!((good(&lines).len(), &lines.held), (1, &Held::All));
}

#[test]
fn text_that_is_not_utf8() {
    let lines = read(b"id,n\n1,caf\xe9\n2,b\n", &format(), false).unwrap();
    assert_eq!((good(&lines).len(), lines.faults[0].line), (1, 2));
    assert_eq!(lines.held, held(&["1"]));
    assert!(read(b"id,n\xe9\n", &format(), false).unwrap_err().contains("UTF-8"));
}

#[test]
fn without_a_header_nothing_is_known() {
    assert!(read(b"", &format(), true).is_err());
    assert!(read(b"id,n", &format(), false).is_err());
    assert!(read(b"\n", &format(), true).is_err());
    assert_eq!(closed("id,n"), open("id,n\n"));
}

#[test]
fn another_delimiter() {
    let format = Format { delimiter: b';', ..format() };
    let lines = read(b"id;n\n1;2,5\n", &format, false).unwrap();
    assert_eq!(good(&lines), [(2, r#"{"id":"1","n":"2,5"}"#)]);
}
