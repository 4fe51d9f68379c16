//! A CSV file kept in step with a topic: each new or changed line a record, each removed line a record without value.
//!
//! Pure but for [`sent`], which keeps what was sent in a file, and [`watch`], which reads the CSV file.

mod cells;
mod compare;
mod lines;
pub mod sent;
pub mod watch;

pub use cells::Layout;
pub use compare::{Change, compare};
pub use lines::{Fault, Format, Held, Line, Lines, read};
pub use sent::{Sent, StateFile};
