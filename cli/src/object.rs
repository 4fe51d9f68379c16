//! A JSON object in the making, its members in order, so that a bad record is a good one with a change.

use std::fmt::Write;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Object(Vec<(&'static str, String)>);

impl Object {
    /// Adds a member, or replaces it, with a number, literal, array or object as it stands.
    pub(crate) fn raw(mut self, name: &'static str, json: impl ToString) -> Object {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = json.to_string(),
            None => self.0.push((name, json.to_string())),
        }
        self
    }

    /// The same with a text.
    pub(crate) fn text(self, name: &'static str, text: &str) -> Object {
        self.raw(name, serde_json::Value::from(text))
    }

    pub(crate) fn without(mut self, name: &str) -> Object {
        self.0.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn json(&self) -> String {
        let mut json = String::from("{");
        for (at, (name, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(json, "{comma}\"{name}\":{value}");
        }
        json.push('}');
        json
    }

    /// Broken off before its end.
    pub(crate) fn cut(&self) -> String {
        let mut json = self.json();
        while json.len() > 1 && (json.ends_with('}') || !json.is_char_boundary(json.len())) {
            json.pop();
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_replaced_and_removed() {
        let object = Object::default().raw("a", 1).text("b", "\"é\n").raw("c", "{}");
        assert_eq!(object.json(), r#"{"a":1,"b":"\"é\n","c":{}}"#);
        assert_eq!(object.clone().text("a", "x").without("b").json(), r#"{"a":"x","c":{}}"#);
        assert!(serde_json::from_str::<serde_json::Value>(&object.cut()).is_err());
    }
}
