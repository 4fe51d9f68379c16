//! Files as a target. The ledger is in the target's folder: a chain of immutable records for each connection of a writer,
//! each put where none is yet. A record holds what key groups have committed together with the rows: one atomic step.
//! From time to time a chain's rows become files that readers see, each renamed into its place once. docs/adr/0008.

mod chain;
mod record;
mod rows;
mod table;
mod takeover;
mod writer;

pub use writer::FilesWriter;
