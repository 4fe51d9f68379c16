//! One sink's table: how its columns stand in a statement, and every statement that writes it.

use super::literal::Form;
use super::quote;
use crate::database::{Keyed, Zone};

#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Index into `JobSpec::sinks`.
    pub(crate) sink: usize,
    /// Quoted, with its database where the job names one.
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    pub(crate) forms: Vec<Form>,
    /// Of columns of type DATETIME.
    pub(crate) zone: Zone,
    /// Indexes of the key's columns; empty: rows are only appended.
    pub(crate) key: Vec<usize>,
    pub(crate) keyed: Option<Keyed>,
    /// Rows are marked in column `pulso_change`.
    pub(crate) marked: bool,
    /// What [`ask_shape`] answered when the table was checked.
    pub(crate) shape: String,
}

/// Its answer, by way of [`shape`], is another one as soon as the table is.
pub(crate) fn ask_shape(name: &str) -> String {
    format!("SHOW CREATE TABLE {name}")
}

/// The statement without the counter that every inserted row may move.
pub(crate) fn shape(row: &[Option<String>]) -> String {
    let text = row.get(1).cloned().flatten().unwrap_or_default();
    let Some((head, tail)) = text.split_once(" AUTO_INCREMENT=") else { return text };
    format!("{head}{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
}

impl Table {
    fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().filter_map(|&i| self.columns.get(i)).map(String::as_str)
    }

    /// What stands before the rows.
    pub(crate) fn insert(&self) -> String {
        let mark = if self.marked { ", `pulso_change`" } else { "" };
        let columns = quote::list(self.columns.iter().map(String::as_str));
        format!("INSERT INTO {} ({columns}{mark}) VALUES ", self.name)
    }

    /// What stands behind them.
    pub(crate) fn on_duplicate(&self) -> String {
        let Some(keyed) = &self.keyed else { return String::new() };
        let others: Vec<String> = (0..self.columns.len())
            .filter(|i| !self.key.contains(i))
            .filter_map(|i| self.columns.get(i))
            .map(|name| quote::identifier(name))
            .collect();
        // Not IGNORE, which lets much more pass than a key that is there.
        let nothing = || {
            let first = self.key_names().next().map(quote::identifier).unwrap_or_default();
            format!("{first} = {first}")
        };
        let assignments = match keyed {
            Keyed::KeepFirst => nothing(),
            Keyed::Upsert | Keyed::NewestBy(_) if others.is_empty() => nothing(),
            Keyed::Upsert => {
                others.iter().map(|name| format!("{name} = VALUES({name})")).collect::<Vec<_>>().join(", ")
            }
            Keyed::NewestBy(newest) => {
                // Assignments are made from left to right and see those before them: so the first one decides for all.
                let newer = self.is_newer(*newest);
                let one = |(i, name): (usize, &String)| {
                    let decided = if i == 0 { format!("(@pulso_newer := {newer})") } else { "@pulso_newer".to_owned() };
                    format!("{name} = IF({decided}, VALUES({name}), {name})")
                };
                others.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
            }
        };
        format!(" ON DUPLICATE KEY UPDATE {assignments}")
    }

    /// Null is the oldest. Of two rows equally new the one wins whose columns are greater, one after the other: any rule
    /// does, as long as it does not depend on which row came first.
    fn is_newer(&self, newest: usize) -> String {
        let others = (0..self.columns.len()).filter(|i| *i != newest);
        let mut rule = "FALSE".to_owned();
        for i in others.rev().chain([newest]) {
            let (Some(name), Some(form)) = (self.columns.get(i), self.forms.get(i)) else { continue };
            let name = quote::identifier(name);
            let (new, old) = (comparable(&format!("VALUES({name})"), *form), comparable(&name, *form));
            rule = format!("({new} > {old} OR {old} IS NULL AND {new} IS NOT NULL OR {new} <=> {old} AND {rule})");
        }
        // No comparison with null is true, and IF takes null for false; the variable must not be null either.
        format!("COALESCE({rule}, FALSE)")
    }

    /// Deletes the one row whose key `put` appends, column by column: a statement for each, since only that reads no
    /// other row, and waits for none.
    pub(crate) fn delete(&self, mut put: impl FnMut(usize, &mut String), out: &mut String) {
        out.push_str("DELETE FROM ");
        out.push_str(&self.name);
        for (i, name) in self.key_names().enumerate() {
            out.push_str(if i == 0 { " WHERE " } else { " AND " });
            out.push_str(&quote::identifier(name));
            out.push_str(" = ");
            put(i, out);
        }
    }
}

/// Texts compare by bytes, whatever the column's collation is.
fn comparable(value: &str, form: Form) -> String {
    match form {
        Form::Text => format!("CAST({value} AS BINARY)"),
        Form::Json => format!("CAST(CAST({value} AS CHAR) AS BINARY)"),
        Form::Number | Form::Instant | Form::LocalTime | Form::Date | Form::Uuid | Form::UuidBytes => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_no_part_of_the_shape() {
        let row = |text: &str| [Some("t".to_owned()), Some(text.to_owned())];
        let shape = |text| shape(&row(text));
        assert_eq!(
            shape("CREATE TABLE `t` (\n) ENGINE=InnoDB AUTO_INCREMENT=12 DEFAULT CHARSET=utf8mb4"),
            shape("CREATE TABLE `t` (\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4")
        );
        assert_ne!(shape("CREATE TABLE `t` (`a` int)"), shape("CREATE TABLE `t` (`a` bigint)"));
    }
}
