//! The JSON Schema of job.toml, for editors: completion, descriptions, and mistakes as they are typed.
//!
//! A check by it is weaker than [`crate::check`], which alone knows SQL, names and how parts of a file fit together.

mod keys;

use serde_json::{Map, Value, json};

pub(crate) use self::keys::TOP;

/// What may stand at a key.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Only this number.
    Version(i64),
    Text,
    Sql,
    Boolean,
    /// From, to.
    Integer(i64, i64),
    Number,
    /// A share: 0 to 1.
    Share,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// Text of this form; the regular expression is one that JavaScript and Rust read alike.
    Form(&'static str),
    /// Any of these.
    Any(&'static [Kind]),
    Duration,
    Size,
    Secret,
    /// At least one text, none twice.
    Texts,
    Table(&'static [Key]),
    /// `[[key]]`
    Tables(&'static [Key]),
    /// Names that the author chooses.
    Named(&'static Kind),
    /// A table whose other keys depend on its `type`.
    ByType(&'static [(&'static str, &'static [Key])]),
}

#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) about: &'static str,
    pub(crate) required: bool,
    /// JSON, or else text.
    pub(crate) default: Option<&'static str>,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, kind, about, required: false, default: None }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }
}

const NAME: &str = "^[a-z_][a-z0-9_]{0,62}$";
const DURATION: &str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
const SIZE: &str = "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB|kB|MB|GB)$";
const LONGEST_SQL: usize = 16 * 1024;

/// The schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(TOP, None);
    if let Value::Object(schema) = &mut schema {
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".to_owned(), json!("Pulso job.toml"));
        let about = "A stream job: where records come from, what they must look like, and where they end up.";
        schema.insert("description".to_owned(), json!(about));
    }
    schema
}

fn table(keys: &[Key], kind: Option<&str>) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    if let Some(kind) = kind {
        properties.insert("type".to_owned(), json!({ "const": kind }));
        required.push("type");
    }
    for key in keys {
        let mut value = value(key.kind);
        if let Value::Object(value) = &mut value {
            value.insert("description".to_owned(), json!(key.about));
            if let Some(default) = key.default {
                let default = serde_json::from_str(default).unwrap_or_else(|_| json!(default));
                value.insert("default".to_owned(), default);
            }
        }
        properties.insert(key.name.to_owned(), value);
    }
    required.extend(keys.iter().filter(|key| key.required).map(|key| key.name));
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn value(kind: Kind) -> Value {
    match kind {
        Kind::Version(version) => json!({ "const": version }),
        Kind::Text => json!({ "type": "string", "minLength": 1 }),
        Kind::Sql => json!({ "type": "string", "minLength": 1, "maxLength": LONGEST_SQL }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Share => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Form(form) => json!({ "type": "string", "pattern": form }),
        Kind::Any(kinds) => json!({ "anyOf": kinds.iter().map(|kind| value(*kind)).collect::<Vec<_>>() }),
        // The pattern takes an empty text.
        Kind::Duration => json!({ "type": "string", "pattern": DURATION, "minLength": 2 }),
        Kind::Size => json!({ "type": "string", "pattern": SIZE }),
        Kind::Secret => secret(),
        Kind::Texts => {
            json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "uniqueItems": true })
        }
        Kind::Table(keys) => table(keys, None),
        Kind::Tables(keys) => json!({ "type": "array", "items": table(keys, None), "maxItems": 100 }),
        Kind::Named(kind) => json!({
            "type": "object", "patternProperties": { NAME: value(*kind) }, "additionalProperties": false,
        }),
        Kind::ByType(types) => {
            json!({ "oneOf": types.iter().map(|(name, keys)| table(keys, Some(name))).collect::<Vec<_>>() })
        }
    }
}

fn secret() -> Value {
    let variable = json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" });
    json!({ "anyOf": [
        { "type": "string", "minLength": 1 },
        {
            "type": "object",
            "properties": { "env": variable, "default": { "type": "string" } },
            "required": ["env"],
            "additionalProperties": false,
        },
        {
            "type": "object",
            "properties": { "file": { "type": "string", "minLength": 1 } },
            "required": ["file"],
            "additionalProperties": false,
        },
    ] })
}
