//! The status page's files, part of the program: it works without any request outside the cluster.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const FILES: [(&str, &str, &str); 4] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("../page/app.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
];

pub(crate) fn file(name: &str) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, contents)) => ([(header::CONTENT_TYPE, *kind)], *contents).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the content security policy forbids would silently not work.
    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for (name, kind, contents) in FILES {
            let outside = contents.match_indices("://").filter(|(at, _)| {
                // The name of the SVG namespace is no address.
                !contents[..*at].ends_with("http") || !contents[*at..].starts_with("://www.w3.org/2000/svg")
            });
            assert_eq!(outside.count(), 0, "{name} names another place");
            assert!(!contents.contains("innerHTML"), "{name} makes markup of text");
            if kind.starts_with("text/html") {
                assert!(!contents.contains("<style") && !contents.contains(" style=") && !contents.contains("onclick"));
                assert_eq!(contents.matches("<script").count(), 1);
            }
        }
    }
}
