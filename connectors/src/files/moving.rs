//! Moving files away once nothing needs them. Nothing is ever deleted or overwritten.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use pulso_core::files::{FileNumber, PlacedFile};
use pulso_core::ids::SplitId;
use pulso_job::spec::{FilesSourceSpec, SourceFormat};

use super::look::{Identity, identity};

/// Moves these files to where the job says. Returns what became of each: true where it stays; a file that could not be
/// moved is not named, and the reason of one such is told.
#[must_use]
pub fn retire(source: &FilesSourceSpec, files: &[PlacedFile]) -> (Vec<(SplitId, FileNumber, bool)>, Option<String>) {
    let is_document = matches!(source.format, SourceFormat::Json { .. });
    let (mut retired, mut trouble) = (Vec::new(), None);
    for PlacedFile { split, number, file } in files {
        let folder = if file.bad.is_some() { &source.when_bad } else { &source.when_done };
        let path = Path::new(&file.path);
        let stays = match (identity(path), folder) {
            // Moved before a crash, or by somebody else.
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => false,
            (Err(error), _) => {
                trouble = Some(format!("{}: {error}", file.path));
                continue;
            }
            // Another file has taken its place, and is found as such.
            (Ok(now), _) if now.inode != file.inode => false,
            // Something was added to it.
            (Ok(now), _) if now.size != file.to => true,
            // It was written anew, and is found as such.
            (Ok(now), _) if is_document && now.modified != file.modified => true,
            (Ok(_), None) => true,
            (Ok(_), Some(folder)) => match move_to(path, folder) {
                Ok(()) => false,
                Err(error) => {
                    trouble = Some(format!("{} to {}: {error}", file.path, folder.display()));
                    continue;
                }
            },
        };
        retired.push((*split, *number, stays));
    }
    (retired, trouble)
}

/// Into the folder, under the first name that is free.
fn move_to(path: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    // Under whatever name: a file that is "linked" there already would be removed.
    if identity(folder)?.is_same_as(identity(parent)?) {
        return Err(io::Error::other("the file lies in that very folder: name another one in the job"));
    }
    for number in 1.. {
        let to = folder.join(name(path, number));
        match fs::hard_link(path, &to) {
            Ok(()) => {
                fs::remove_file(path)?;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Linked before a crash, and not removed from here. A symbolic link to it is another thing.
                let entry = |path: &Path| fs::symlink_metadata(path).map(|data| Identity::of(&data));
                if entry(&to)?.is_same_as(entry(path)?) {
                    fs::remove_file(path)?;
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_to(path, &to)?;
                fs::remove_file(path)?;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    File::open(folder)?.sync_all()?;
    // Else it might be back after a power cut, and be read once more.
    File::open(parent)?.sync_all()
}

/// To another file system: under a hidden name first, so that the name means the whole file.
fn copy_to(path: &Path, to: &Path) -> io::Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = to.with_file_name(format!(".{name}.pulso"));
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).open(&hidden)?;
    io::copy(&mut File::open(path)?, &mut copy)?;
    copy.sync_all()?;
    fs::hard_link(&hidden, to)?;
    fs::remove_file(&hidden)
}

/// `a.json`, `a-2.json`, `a-3.json`.
fn name(path: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return path.file_name().map(PathBuf::from).unwrap_or_default();
    }
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(path.file_stem()), part(path.extension()));
    let dot = if extension.is_empty() { "" } else { "." };
    PathBuf::from(format!("{stem}-{number}{dot}{extension}"))
}
