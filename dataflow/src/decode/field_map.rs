//! From the paths of all fields to one walk over a record that finds the values of all of them.

use crate::json::{Flaw, Kind, Scanner, Token, unescape};

/// The root of a [`FieldMap`].
const ROOT: usize = 0;

/// A tree of the object keys that paths name.
#[derive(Debug)]
pub(crate) struct FieldMap {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<str>, usize)>,
    /// Where a value at this very place goes.
    slot: Option<usize>,
    /// Slots of the places below.
    below: Vec<usize>,
}

/// What a record has at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or null.
    Absent,
    Value(Token),
    /// The way leads through something that is not an object.
    Blocked,
}

/// What [`FieldMap::walk`] found; kept from record to record so that nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) slots: Vec<Found>,
    /// Per node the walk that saw it last.
    seen: Vec<u64>,
    walk: u64,
    key: String,
}

impl FieldMap {
    /// `paths[slot]` is the list of object keys that lead to it; no two are equal.
    pub(crate) fn new<'a>(paths: impl IntoIterator<Item = &'a [String]>) -> Self {
        let mut map = Self { nodes: vec![Node::default()] };
        for (slot, path) in paths.into_iter().enumerate() {
            let mut node = ROOT;
            for key in path {
                map.nodes[node].below.push(slot);
                let known = map.nodes[node].children.iter().find(|(name, _)| **name == **key).map(|(_, child)| *child);
                node = known.unwrap_or_else(|| {
                    let child = map.nodes.len();
                    map.nodes.push(Node::default());
                    map.nodes[node].children.push((key.as_str().into(), child));
                    child
                });
            }
            map.nodes[node].slot = Some(slot);
        }
        map
    }

    /// Checks the whole text and fills `places.slots`.
    pub(crate) fn walk(&self, text: &str, places: &mut Places) -> Result<(), Flaw> {
        places.slots.clear();
        places.slots.resize(self.nodes[ROOT].below.len(), Found::Absent);
        places.seen.resize(self.nodes.len(), 0);
        places.walk += 1;
        let mut scanner = Scanner::new(text);
        if scanner.peek() != Some(b'{') {
            scanner.value(0)?;
            scanner.end()?;
            return Err(Flaw::NotAnObject);
        }
        self.object(text, &mut scanner, ROOT, 1, places)?;
        scanner.end()
    }

    fn object(
        &self,
        text: &str,
        from: &mut Scanner<'_>,
        node: usize,
        depth: u32,
        places: &mut Places,
    ) -> Result<(), Flaw> {
        from.open(depth)?;
        if from.take(b'}') {
            return Ok(());
        }
        // Records of one producer have their keys in one order: the next is likely the one after the last.
        let mut likely = 0;
        loop {
            let key = from.key()?;
            match self.child(text, node, key, &mut likely, &mut places.key) {
                Some(child) => self.member(text, from, child, depth, places)?,
                None => {
                    from.value(depth)?;
                }
            }
            if !from.more(b'}')? {
                return Ok(());
            }
        }
    }

    fn child(&self, text: &str, node: usize, key: Token, likely: &mut usize, scratch: &mut String) -> Option<usize> {
        let mut name = text.get(key.start..key.end)?;
        if key.kind == (Kind::Text { escaped: true }) {
            scratch.clear();
            unescape(name, scratch);
            name = scratch;
        }
        let children = &self.nodes[node].children;
        if let Some((candidate, child)) = children.get(*likely)
            && **candidate == *name
        {
            *likely += 1;
            return Some(*child);
        }
        let at = children.iter().position(|(candidate, _)| **candidate == *name)?;
        *likely = at + 1;
        Some(children[at].1)
    }

    fn member(
        &self,
        text: &str,
        from: &mut Scanner<'_>,
        child: usize,
        depth: u32,
        places: &mut Places,
    ) -> Result<(), Flaw> {
        if std::mem::replace(&mut places.seen[child], places.walk) == places.walk {
            return Err(Flaw::Duplicate);
        }
        let Node { children, slot, below } = &self.nodes[child];
        let token = if from.peek() == Some(b'{') && !children.is_empty() {
            let (start, nuls) = (from.position(), from.nuls());
            self.object(text, from, child, depth + 1, places)?;
            Token { kind: Kind::Object, start, end: from.position(), nul: from.nuls() != nuls }
        } else {
            from.value(depth)?
        };
        if token.kind == Kind::Null {
            return Ok(());
        }
        match slot {
            Some(slot) => places.slots[*slot] = Found::Value(token),
            None if token.kind != Kind::Object => below.iter().for_each(|slot| places.slots[*slot] = Found::Blocked),
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(paths: &[&str], text: &str) -> Result<Vec<String>, Flaw> {
        let paths: Vec<Vec<String>> = paths.iter().map(|p| p.split('.').map(str::to_owned).collect()).collect();
        let mut places = Places::default();
        FieldMap::new(paths.iter().map(Vec::as_slice)).walk(text, &mut places)?;
        let show = |found: &Found| match found {
            Found::Absent => "absent".to_owned(),
            Found::Blocked => "blocked".to_owned(),
            Found::Value(token) => text[token.start..token.end].to_owned(),
        };
        Ok(places.slots.iter().map(show).collect())
    }

    #[test]
    fn finds_values_in_any_order_and_depth() {
        let paths = ["a", "b.c", "b.d", "e"];
        let found = find(&paths, r#" {"e":[1, 2],"x":{"a":7},"b":{"d":"t","a":0,"c":-1.5e3},"a":null} "#);
        assert_eq!(found.unwrap(), ["absent", "-1.5e3", "t", "[1, 2]"]);
        assert_eq!(find(&paths, "{}").unwrap(), ["absent"; 4]);
    }

    #[test]
    fn reads_escaped_keys_and_tells_cases_apart() {
        assert_eq!(find(&["a\"é"], r#"{"\u0061\"\u00e9":1}"#).unwrap(), ["1"]);
        assert_eq!(find(&["a", "A"], r#"{"A":1,"a":2}"#).unwrap(), ["2", "1"]);
    }

    #[test]
    fn a_way_through_something_else_is_blocked_and_through_null_is_absent() {
        assert_eq!(find(&["b.c"], r#"{"b":[1]}"#).unwrap(), ["blocked"]);
        assert_eq!(find(&["b.c"], r#"{"b":"x"}"#).unwrap(), ["blocked"]);
        assert_eq!(find(&["b.c"], r#"{"b":null}"#).unwrap(), ["absent"]);
        // Here the other spelling is a field of its own.
        assert_eq!(find(&["b.c", "b"], r#"{"b":"x"}"#).unwrap(), ["absent", "x"]);
        assert_eq!(find(&["b.c", "b"], r#"{"b":{"c":3}}"#).unwrap(), ["3", r#"{"c":3}"#]);
    }

    #[test]
    fn refuses_a_known_key_that_stands_twice() {
        assert_eq!(find(&["a"], r#"{"a":1,"a":1}"#), Err(Flaw::Duplicate));
        assert_eq!(find(&["a"], r#"{"a":null,"\u0061":1}"#), Err(Flaw::Duplicate));
        assert_eq!(find(&["a.b"], r#"{"a":{},"a":{"b":1}}"#), Err(Flaw::Duplicate));
        assert_eq!(find(&["a"], r#"{"x":1,"x":2,"a":3}"#).unwrap(), ["3"]);
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for text in ["[]", "1", "null", "\"a\""] {
            assert_eq!(find(&["a"], text), Err(Flaw::NotAnObject), "{text}");
        }
        for text in ["", " ", "{}{}", "{}\n{}", "{", "[}", "\u{feff}{}", "\0\0\0\0\u{1}{}"] {
            assert_eq!(find(&["a"], text), Err(Flaw::Syntax), "{text:?}");
        }
        let many: Vec<String> = (0..10_000).map(|n| format!("\"k{n}\":{n}")).collect();
        assert_eq!(find(&["k9999"], &format!("{{{}}}", many.join(","))).unwrap(), ["9999"]);
    }
}
