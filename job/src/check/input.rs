//! What a producer of a job's input has to know of its file.

use toml::de::DeTable;

use super::name::Columns;
use super::{field, syntax};
use crate::diagnostic::Diagnostics;
use crate::document::Section;
use crate::reader::Reader;
use crate::spec::FieldSpec;
use crate::submission::Submission;

/// How the records of a job must look. Made by [`input`].
#[derive(Debug, Clone)]
pub struct InputSpec {
    pub fields: Vec<FieldSpec>,
    /// Names of the fields that a record without value has in its key.
    pub tombstone_key: Option<Vec<String>>,
}

/// Reads `[fields]` and `tombstone` of a job file; nothing else of it is looked at, so that no secret need be there.
///
/// # Errors
/// The mistakes of `[fields]`, and what is no TOML.
pub fn input(submission: &Submission, file_name: &str) -> Result<InputSpec, Diagnostics> {
    let mut reader = Reader::new(&submission.toml, &submission.environment);
    let (document, errors) = DeTable::parse_recoverable(&submission.toml);
    let mut fields = Vec::new();
    let mut tombstone_key = None;
    if syntax::report(&mut reader, &submission.toml, &errors) {
        let root = Section::new("", 0..0, document.get_ref());
        let mut columns = Columns::new(&root);
        field::read(&mut reader, &root, &mut columns);
        fields = columns.into_fields();
        tombstone_key = tombstone(&root);
    }
    reader.finish(file_name)?;
    Ok(InputSpec { fields, tombstone_key })
}

/// What is wrong with it is for [`super::check`] to tell.
fn tombstone(root: &Section<'_>) -> Option<Vec<String>> {
    let source = root.take("source")?.value.as_table()?;
    let key = source.get("tombstone")?.get_ref().as_table()?.get("key")?.get_ref().as_array()?;
    key.iter().map(|name| name.get_ref().as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::FieldType;

    fn read(toml: &str) -> Result<InputSpec, Diagnostics> {
        input(&Submission { toml: toml.to_owned(), ..Submission::default() }, "job.toml")
    }

    #[test]
    fn fields_and_tombstone_are_read_without_secrets() {
        let spec = read(include_str!("../../../jobs/csv-people.toml")).unwrap();
        let names: Vec<&str> = spec.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["id", "nome", "idade", "cidade", "valor"]);
        assert_eq!(spec.fields[4].kind, FieldType::Decimal { precision: 12, scale: 2 });
        assert_eq!(spec.tombstone_key, Some(vec!["id".to_owned()]));
        assert_eq!(read(include_str!("../../../jobs/ecommerce.toml")).unwrap().tombstone_key, None);
    }

    #[test]
    fn mistakes_of_fields_are_told() {
        assert!(read("[fields]\nid = { type = \"int46\" }").is_err());
        assert!(read("[fields\n").is_err());
        assert!(read("").is_err());
    }
}
