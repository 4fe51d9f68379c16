//! One sink's table: how its columns go over the wire, and every statement that writes it.

use super::encode::Wire;
use super::quote;
use crate::database::{Keyed, Zone};

/// One sink's table: how its columns go over the wire, and every statement that writes it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Index into `JobSpec::sinks`.
    pub(crate) sink: usize,
    /// Quoted, with its schema.
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    pub(crate) wires: Vec<Wire>,
    /// Of columns of type `timestamp`.
    pub(crate) zone: Zone,
    /// Indexes of the key's columns; empty: rows are only appended.
    pub(crate) key: Vec<usize>,
    pub(crate) keyed: Option<Keyed>,
    /// Rows are marked in column `pulso_change`.
    pub(crate) marked: bool,
    /// What [`Table::ask_shape`] answered when the table was checked.
    pub(crate) shape: String,
}

impl Table {
    /// Where corrections wait: a table of the session.
    fn staging(&self) -> String {
        format!("pg_temp.pulso_rows_{}", self.sink)
    }

    fn deleting(&self) -> String {
        format!("pg_temp.pulso_keys_{}", self.sink)
    }

    fn column_list(&self) -> String {
        quote::list(self.columns.iter().map(String::as_str))
    }

    fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().filter_map(|&i| self.columns.get(i)).map(String::as_str)
    }

    /// Answers one text, another one as soon as a column goes otherwise over the wire or the table is another one.
    pub(crate) fn ask_shape(name: &str) -> String {
        format!(
            "SELECT string_agg(concat_ws(' ', attrelid, attname, atttypid, atttypmod), ',' ORDER BY attnum) \
             FROM pg_attribute WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped",
            quote::literal(name)
        )
    }

    /// Rows straight into the table.
    pub(crate) fn copy(&self) -> String {
        let mark = if self.marked { ", pulso_change" } else { "" };
        format!("COPY {} ({}{mark}) FROM STDIN (FORMAT binary)", self.name, self.column_list())
    }

    /// Makes the staging table where it is not there, and empties what a part of this transaction left in it.
    pub(crate) fn stage(&self) -> [String; 2] {
        prepare(&self.staging(), &self.column_list(), &self.name)
    }

    pub(crate) fn copy_staged(&self) -> String {
        format!("COPY {} FROM STDIN (FORMAT binary)", self.staging())
    }

    pub(crate) fn stage_keys(&self) -> [String; 2] {
        prepare(&self.deleting(), &quote::list(self.key_names()), &self.name)
    }

    pub(crate) fn copy_keys(&self) -> String {
        format!("COPY {} FROM STDIN (FORMAT binary)", self.deleting())
    }

    pub(crate) fn delete(&self) -> String {
        let same: Vec<String> =
            self.key_names().map(quote::identifier).map(|column| format!("t.{column} = k.{column}")).collect();
        format!("DELETE FROM {} AS t USING {} AS k WHERE {}", self.name, self.deleting(), same.join(" AND "))
    }

    /// Staged rows into the table. `tied`: some share key and newest-by column, so the database picks the one that its
    /// own rule for ties prefers.
    pub(crate) fn merge(&self, keyed: &Keyed, tied: bool) -> String {
        let (columns, key) = (self.column_list(), quote::list(self.key_names()));
        let select = if tied {
            let all = self.image("s");
            format!("SELECT DISTINCT ON ({key}) {columns} FROM {} AS s ORDER BY {key}, {all} DESC", self.staging())
        } else {
            format!("SELECT {columns} FROM {}", self.staging())
        };
        let others: Vec<String> = (0..self.columns.len())
            .filter(|i| !self.key.contains(i))
            .filter_map(|i| self.columns.get(i))
            .map(|column| quote::identifier(column))
            .map(|column| format!("{column} = EXCLUDED.{column}"))
            .collect();
        let action = match keyed {
            Keyed::KeepFirst => "NOTHING".to_owned(),
            Keyed::Upsert | Keyed::NewestBy(_) if others.is_empty() => "NOTHING".to_owned(),
            Keyed::Upsert => format!("UPDATE SET {}", others.join(", ")),
            Keyed::NewestBy(newest) => {
                format!("UPDATE SET {} WHERE {}", others.join(", "), self.is_newer(*newest))
            }
        };
        format!("INSERT INTO {} AS t ({columns}) {select} ON CONFLICT ({key}) DO {action}", self.name)
    }

    /// Null is the oldest. Of two rows equally new the one wins whose columns, as text, come later: any rule does, as
    /// long as it does not depend on which row came first.
    fn is_newer(&self, newest: usize) -> String {
        let column = self.columns.get(newest).map(|name| quote::identifier(name)).unwrap_or_default();
        let collate = if self.wires.get(newest) == Some(&Wire::Text) { " COLLATE \"C\"" } else { "" };
        format!(
            "(EXCLUDED.{column}{collate} > t.{column}{collate} OR (t.{column} IS NULL AND EXCLUDED.{column} IS NOT NULL) \
             OR (EXCLUDED.{column} IS NOT DISTINCT FROM t.{column} AND {} > {}))",
            self.image("EXCLUDED"),
            self.image("t")
        )
    }

    fn image(&self, of: &str) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|name| format!("{of}.{}", quote::identifier(name))).collect();
        format!("(ROW({})::text COLLATE \"C\")", columns.join(", "))
    }
}

/// With the types of the table's own columns, but without its constraints.
fn prepare(temporary: &str, columns: &str, table: &str) -> [String; 2] {
    let make = format!(
        "CREATE TEMPORARY TABLE IF NOT EXISTS {temporary} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} \
         WITH NO DATA"
    );
    [make, format!("DELETE FROM {temporary}")]
}
