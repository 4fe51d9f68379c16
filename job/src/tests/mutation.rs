//! Whatever is done to a job file, checking it ends with mistakes inside the file, and rendering them works.

use proptest::prelude::*;

use super::examples::FILES;
use super::submission;
use crate::check;

fn survives(text: &str) {
    let Err(diagnostics) = check(&submission(text), "job.toml") else {
        return;
    };
    assert!(diagnostics.list.iter().any(|diagnostic| diagnostic.severity == crate::Severity::Error));
    let lines = text.split('\n').count();
    for diagnostic in &diagnostics.list {
        let end = diagnostic.offset + diagnostic.length;
        assert!(
            end <= text.len() && text.is_char_boundary(diagnostic.offset) && text.is_char_boundary(end),
            "{diagnostic:?}"
        );
        assert!((1..=lines).contains(&diagnostic.line) && diagnostic.column >= 1, "{diagnostic:?}");
        assert!(!diagnostic.message.is_empty());
    }
    let rendered = diagnostics.render(false);
    assert!(!rendered.contains("Failed to read contents"), "{rendered}");
    assert!(!diagnostics.render(true).is_empty());
    assert!(diagnostics.to_json().is_object());
}

fn boundary(text: &str, at: usize) -> usize {
    let mut at = at % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn truncated(file in 0..FILES.len(), at in any::<usize>()) {
        let text = FILES[file].1;
        survives(&text[..boundary(text, at)]);
    }

    #[test]
    fn changed(file in 0..FILES.len(), changes in prop::collection::vec((any::<usize>(), 0_usize..12, "\\PC{0,6}|[\\[\\]{}\"'=.,#\\n\\x00\\x1b]{1,3}"), 1..4)) {
        let mut text = FILES[file].1.to_owned();
        for (at, removed, inserted) in changes {
            let start = boundary(&text, at);
            let end = boundary(&text, (start + removed).min(text.len()));
            text.replace_range(start..end.max(start), &inserted);
        }
        survives(&text);
    }

    #[test]
    fn lines_moved(file in 0..FILES.len(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let mut lines: Vec<&str> = FILES[file].1.lines().collect();
        let line = lines.remove(from.index(lines.len()));
        lines.insert(to.index(lines.len()), line);
        survives(&lines.join("\n"));
    }

    #[test]
    fn anything(text in "\\PC{0,200}") {
        survives(&text);
    }
}
