//! Files: a folder as a source.

mod error;
mod lines;
mod look;
mod moving;
mod opened;
mod reader;

pub use error::FilesError;
pub use look::{Folder, Looked};
pub use moving::retire;
pub use reader::{FilesReader, Item};
