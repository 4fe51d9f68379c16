//! A chain on disk: numbered records, each put only where none is yet, and the files that they publish.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pulso_core::ids::{Attempt, JobId};
use pulso_job::spec::FileFormat;
use uuid::Uuid;

use super::record::{Kind, Marks, Publication, Record, Stream};
use super::table::TableFile;

/// Where the ledger of one job lies in a target's folder.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What readers look into.
    pub(super) folder: PathBuf,
    pub(super) job: JobId,
    /// In front of the names of its files.
    pub(super) name: String,
}

/// One writer's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) path: PathBuf,
    pub(super) attempt: Attempt,
    pub(super) id: Uuid,
}

/// The newest record of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) number: u64,
    pub(super) record: Record,
}

/// A file that rows are gathered into, and how readers will know it.
struct Gathered {
    file: Growing,
    publication: Publication,
}

enum Growing {
    Lines(File),
    Table(Box<TableFile>),
}

impl Place {
    pub(super) fn ledger(&self) -> PathBuf {
        self.folder.join("_pulso").join(self.job.to_string())
    }

    /// All chains there are; none where there is no ledger.
    pub(super) fn chains(&self) -> io::Result<Vec<Chain>> {
        let entries = match fs::read_dir(self.ledger()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut chains = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let parts = name.split_once('-').and_then(|(attempt, id)| Some((attempt.parse().ok()?, id.parse().ok()?)));
            if let Some((attempt, id)) = parts {
                chains.push(Chain { path, attempt: Attempt(attempt), id });
            }
        }
        chains.sort_by_key(|chain| (chain.attempt, chain.id));
        Ok(chains)
    }

    /// A new chain, which everybody sees from now on.
    pub(super) fn announce(&self, attempt: Attempt) -> io::Result<Chain> {
        let id = Uuid::new_v4();
        let path = self.ledger().join(format!("{:010}-{id}", attempt.0));
        fs::create_dir_all(&path)?;
        for folder in [path.as_path(), &self.ledger(), &self.folder.join("_pulso"), &self.folder] {
            sync(folder)?;
        }
        let chain = Chain { path, attempt, id };
        chain.put(0, &Record::new(Kind::Announced, Marks::new(), Vec::new()))?;
        Ok(chain)
    }
}

impl Chain {
    fn record(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}"))
    }

    /// Numbers of the records, ascending.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// `None` where there is no record, or no chain any more.
    pub(super) fn newest(&self) -> io::Result<Option<Newest>> {
        loop {
            let numbers = match self.numbers() {
                Ok(numbers) => numbers,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(number) = numbers.last().copied() else { return Ok(None) };
            match self.read(number) {
                Ok(record) => return Ok(Some(Newest { number, record })),
                // Its writer has gone on and tidied up behind itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn read(&self, number: u64) -> io::Result<Record> {
        let path = self.record(number);
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
        Record::decode(&fs::read(&path)?).map_err(wrong)
    }

    /// Puts a record where none is. `AlreadyExists`: somebody was first. `NotFound`: the chain is gone.
    ///
    /// Durable once this returns; where it fails otherwise, only a look tells whether the record is there.
    pub(super) fn put(&self, number: u64, record: &Record) -> io::Result<()> {
        let hidden = self.path.join(format!(".{}", Uuid::new_v4()));
        let linked = write_new(&hidden, &[&record.encode()]).and_then(|()| fs::hard_link(&hidden, self.record(number)));
        fs::remove_file(&hidden).ok();
        linked?;
        sync(&self.path)
    }

    /// Numbers up to `last` behind the last record that has published all before it.
    fn unpublished(&self, last: u64) -> io::Result<Vec<u64>> {
        let mut unpublished = Vec::new();
        for number in self.numbers()?.into_iter().rev().filter(|number| *number <= last) {
            if matches!(self.read(number)?.head.kind, Kind::Published { .. }) {
                break;
            }
            unpublished.push(number);
        }
        unpublished.reverse();
        Ok(unpublished)
    }

    /// Gathers the rows of records up to `last` that are not published into files that are whole and nobody sees yet.
    pub(super) fn gather(&self, last: u64, prefix: &str) -> io::Result<Vec<Publication>> {
        let mut files = BTreeMap::new();
        let gathered = self.gather_into(&mut files, last, prefix);
        let files: Vec<Publication> = files.into_values().map(|gathered| gathered.publication).collect();
        if gathered.is_err() {
            self.discard(&files);
        }
        gathered.map(|()| files)
    }

    fn gather_into(&self, files: &mut BTreeMap<Stream, Gathered>, last: u64, prefix: &str) -> io::Result<()> {
        let number_of_gathering = Uuid::new_v4();
        for number in self.unpublished(last)? {
            for (index, (stream, bytes)) in self.read(number)?.rows.into_iter().enumerate() {
                if !files.contains_key(&stream) {
                    let ready = format!("ready-{number_of_gathering}-{}-{index}", files.len());
                    let id = self.id.simple().to_string();
                    let (attempt, part) = (self.attempt, &id[..8]);
                    let name = format!("{prefix}-{}-{attempt}-{part}-{last:08}.{}", stream.name, stream.extension);
                    let file = Growing::new(File::create_new(self.path.join(&ready))?, &stream);
                    let publication = Publication { ready, name };
                    let gathered = files.entry(stream.clone()).or_insert(Gathered { file, publication });
                    gathered.file.append(stream.header.as_bytes())?;
                }
                if let Some(gathered) = files.get_mut(&stream) {
                    gathered.file.append(&bytes)?;
                }
            }
        }
        for gathered in files.values_mut() {
            gathered.file.finish()?;
        }
        sync(&self.path)
    }

    /// Files that were gathered in vain: another record was first.
    pub(super) fn discard(&self, files: &[Publication]) {
        for file in files {
            fs::remove_file(self.path.join(&file.ready)).ok();
        }
    }

    /// Lets readers see what a record has decided. A rename happens once, whoever tries and however often.
    pub(super) fn publish(&self, files: &[Publication], folder: &Path) -> io::Result<()> {
        for Publication { ready, name } in files {
            match fs::rename(self.path.join(ready), folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        if !files.is_empty() {
            sync(folder)?;
        }
        Ok(())
    }

    /// Records below this one say nothing any more.
    pub(super) fn forget_before(&self, number: u64) -> io::Result<()> {
        for number in self.numbers()?.into_iter().filter(|before| *before < number) {
            match fs::remove_file(self.record(number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Takes the whole chain away. First it loses its name: whoever still wants to write into it finds nothing.
    pub(super) fn remove(&self) -> io::Result<()> {
        let gone = self.path.with_file_name(format!(".gone-{}", self.id));
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::remove_dir_all(&gone),
        }
    }
}

impl Growing {
    fn new(file: File, stream: &Stream) -> Self {
        match stream.extension == FileFormat::Parquet.extension() {
            true => Self::Table(Box::new(TableFile::new(file))),
            false => Self::Lines(file),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Lines(file) => file.write_all(bytes),
            Self::Table(table) => table.append(bytes),
        }
    }

    /// Whole and on disk.
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(file) => file.sync_all(),
            Self::Table(table) => table.finish(),
        }
    }
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest path of Linux.
    const PATH_MAX: usize = 4_095;

    #[test]
    fn what_was_gathered_in_vain_is_taken_away() {
        let folder = pulso_servers::temporary_folder().unwrap();
        let mut path = folder.path().to_owned();
        // There is room for `/ready-UUID-9-9`, and none for `/ready-UUID-10-10`.
        while let left @ 1.. = (PATH_MAX - 48).saturating_sub(path.as_os_str().len() + 1) {
            path.push("x".repeat(if left > 200 { 100 } else { left }));
        }
        fs::create_dir_all(&path).unwrap();
        let chain = Chain { path, attempt: Attempt(1), id: Uuid::new_v4() };
        let stream = |number: usize| Stream {
            name: format!("sink{number}"),
            extension: "csv".to_owned(),
            header: "a\n".to_owned(),
        };
        let rows = |count| (0..count).map(|number| (stream(number), b"1\n".to_vec())).collect();
        chain.put(0, &Record::new(Kind::Committed, Marks::new(), rows(11))).unwrap();
        let failed = chain.gather(0, "ward").unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::InvalidFilename, "{failed}");
        let names: Vec<_> = fs::read_dir(&chain.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["000000000000"]);
        fs::remove_file(chain.record(0)).unwrap();
        chain.put(0, &Record::new(Kind::Committed, Marks::new(), rows(10))).unwrap();
        assert_eq!(chain.gather(0, "ward").unwrap().len(), 10);
    }
}
