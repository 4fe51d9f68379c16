//! Passwords that stand in addresses (`scheme://user:password@host`) must not be shown.

/// The same text with every such password as `***`.
pub(super) fn passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        // The authority ends at a slash or where the value ends; a password may hold an @ itself.
        let end = after.find(['/', '?', '#', '"', '\'', '\n', ' ', '\\']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((credentials, host)) => {
                let user = credentials.split_once(':').map_or(credentials, |(user, _)| user);
                let password = if credentials.contains(':') { ":***" } else { "" };
                shown.push_str(&format!("{user}{password}@{host}"));
            }
            None => shown.push_str(authority),
        }
        rest = tail;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let text = "url = 'postgres://app:s3cr@et@db:5432/x' # see https://pulso.example/docs\nother = \"amqp://u@h\"";
        let expected = "url = 'postgres://app:***@db:5432/x' # see https://pulso.example/docs\nother = \"amqp://u@h\"";
        assert_eq!(passwords(text), expected);
        assert_eq!(passwords("postgres://a:b@c"), "postgres://a:***@c");
        assert_eq!(passwords(""), "");
    }
}
