//! Files: a folder as a source, and a folder as a target.

mod error;
mod lines;
mod look;
mod moving;
mod opened;
mod reader;
mod target;
mod walk;

pub use error::FilesError;
pub use look::{Folder, Looked};
pub use moving::retire;
pub use reader::{FilesReader, Item};
pub use target::FilesWriter;
