//! All files under a pattern. A walk of its own, since `glob` itself panics at a name that is not UTF-8.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use glob::Pattern;
use pulso_job::spec::PATTERN_OPTIONS;
use walkdir::{DirEntry, WalkDir};

use super::error::FilesError;

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) paths: Vec<String>,
    /// Something could not be looked into: what is missing here may be there all the same.
    pub(super) is_partial: bool,
    /// Why, or a file whose name is not UTF-8.
    pub(super) trouble: Option<String>,
}

/// # Errors
/// Where the pattern's fixed folder cannot be looked into.
pub(super) fn walk(pattern: &str) -> Result<Walked, FilesError> {
    let fail = |reason: String| FilesError::Pattern { pattern: pattern.to_owned(), reason };
    let compiled = |pattern: &str| Pattern::new(pattern).map_err(|error| fail(error.msg.to_owned()));
    let whole = compiled(pattern)?;
    let folder = fixed_folder(pattern);
    std::fs::read_dir(folder).map_err(|error| fail(format!("{folder}: {error}")))?;
    let names = pattern[folder.len()..].trim_start_matches('/').split('/');
    let names = names.map(compiled).collect::<Result<Vec<Pattern>, FilesError>>()?;
    let way = Way::new(&names);
    let may_lead = |entry: &DirEntry| way.may_lead(entry.depth(), entry.file_name());
    let mut walked = Walked::default();
    for entry in WalkDir::new(folder).follow_links(true).max_depth(way.depth()).into_iter().filter_entry(may_lead) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => walked.add(entry.path(), &whole),
            Ok(_) => {}
            // A link to a folder above itself: what lies there has a name without the link.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(Path::new(folder)).to_owned();
                let depth = path.strip_prefix(folder).map_or(0, |below| below.components().count());
                if way.may_lead(depth, path.file_name().unwrap_or_default()) {
                    walked.fails_at(&path, &error.into_io_error().unwrap_or(io::ErrorKind::Other.into()));
                }
            }
        }
    }
    Ok(walked)
}

/// The names of a pattern below its fixed folder.
struct Way<'p> {
    names: &'p [Pattern],
    /// So many come before `**`, behind which there may be any number of folders.
    fixed: usize,
    /// Names that begin with a point are asked for.
    hidden: bool,
}

impl<'p> Way<'p> {
    fn new(names: &'p [Pattern]) -> Self {
        let fixed = names.iter().position(|name| name.as_str() == "**").unwrap_or(names.len());
        Self { names, fixed, hidden: names.iter().any(|name| name.as_str().starts_with('.')) }
    }

    fn depth(&self) -> usize {
        if self.fixed < self.names.len() { usize::MAX } else { self.fixed }
    }

    /// Whether what has this name, so deep below the fixed folder, is on the way to a file that matches.
    fn may_lead(&self, depth: usize, name: &OsStr) -> bool {
        let name = name.to_string_lossy();
        match depth.checked_sub(1) {
            None => true,
            Some(at) if at < self.fixed => self.names[at].matches_with(&name, PATTERN_OPTIONS),
            Some(_) => self.hidden || !name.starts_with('.'),
        }
    }
}

impl Walked {
    fn add(&mut self, path: &Path, pattern: &Pattern) {
        if !pattern.matches_with(&path.to_string_lossy(), PATTERN_OPTIONS) {
            return;
        }
        match path.to_str() {
            Some(text) => self.paths.push(text.to_owned()),
            None => self.trouble = Some(format!("{}: its name is not UTF-8", path.display())),
        }
    }

    /// What has gone since it was listed, or is a link to nothing, is not there.
    pub(super) fn fails_at(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.is_partial = true;
            self.trouble = Some(format!("{}: {error}", path.display()));
        }
    }
}

/// The part of a pattern before its first star: it has to be there.
fn fixed_folder(pattern: &str) -> &str {
    let special = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    pattern[..special].rfind('/').map_or("/", |at| &pattern[..at.max(1)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use pulso_servers::{TemporaryFolder, temporary_folder};

    use super::*;

    fn tree() -> TemporaryFolder {
        let folder = temporary_folder().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a/b/c", "a/.hidden", "x[1]", "d.txt"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in
            ["1.txt", ".2.txt", "é.txt", "a/3.txt", "a/b/4.txt", "a/b/c/5.txt", "a/.hidden/6.txt", "x[1]/7.txt", "a/8"]
        {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("a/b"), at("link")).unwrap();
        symlink(at("1.txt"), at("a/again.txt")).unwrap();
        symlink(at("nothing"), at("broken.txt")).unwrap();
        folder
    }

    #[test]
    fn it_finds_what_glob_finds() {
        let folder = tree();
        let base = Pattern::escape(folder.path().to_str().unwrap());
        for pattern in [
            "*.txt",
            "1.txt",
            "*",
            "?.txt",
            "a/*",
            "*/*.txt",
            "*/*/*.txt",
            "a/**/*.txt",
            "**/[3-5].txt",
            "x[[]1[]]/*.txt",
            "d.txt/*",
        ] {
            let pattern = format!("{base}/{pattern}");
            let walked = walk(&pattern).unwrap();
            let found: BTreeSet<String> = walked.paths.into_iter().collect();
            let expected = glob::glob_with(&pattern, PATTERN_OPTIONS).unwrap().flatten().filter(|path| path.is_file());
            let expected: BTreeSet<String> = expected.map(|path| path.to_str().unwrap().to_owned()).collect();
            assert_eq!((found, walked.is_partial, walked.trouble), (expected, false, None), "{pattern}");
        }
    }

    #[test]
    fn names_with_a_point_are_found_where_it_is_written() {
        let folder = tree();
        let base = folder.path().to_str().unwrap();
        for (pattern, found) in [
            (".*.txt", vec![".2.txt"]),
            ("*/.hidden/*.txt", vec!["a/.hidden/6.txt"]),
            ("**/.hidden/*", vec!["a/.hidden/6.txt"]),
            ("**/6.txt", vec![]),
            ("*/*/6.txt", vec![]),
        ] {
            let found: Vec<String> = found.into_iter().map(|name| format!("{base}/{name}")).collect();
            assert_eq!(walk(&format!("{base}/{pattern}")).unwrap().paths, found, "{pattern}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_told_and_the_others_are_found() {
        let folder = tree();
        let name = |bytes: &[u8]| folder.path().join(OsStr::from_bytes(bytes));
        fs::write(name(b"\xe9.txt"), "").unwrap();
        fs::write(name(b"\xe9.csv"), "").unwrap();
        fs::create_dir(name(b"\xe9")).unwrap();
        fs::write(name(b"\xe9/8.txt"), "").unwrap();
        let base = folder.path().to_str().unwrap();
        let walked = walk(&format!("{base}/*.txt")).unwrap();
        assert_eq!((walked.paths.len(), walked.is_partial), (2, false));
        assert_eq!(walked.trouble, Some(format!("{base}/\u{fffd}.txt: its name is not UTF-8")));
        let walked = walk(&format!("{base}/*/8*")).unwrap();
        assert_eq!(walked.paths, [format!("{base}/a/8")]);
        assert_eq!(walked.trouble, Some(format!("{base}/\u{fffd}/8.txt: its name is not UTF-8")));
    }

    #[test]
    fn what_cannot_be_looked_into_is_told_where_it_could_match() {
        let folder = tree();
        // Root can look into everything, but for what is a link to itself.
        symlink("self.txt", folder.path().join("self.txt")).unwrap();
        let base = folder.path().to_str().unwrap();
        let walked = walk(&format!("{base}/*.txt")).unwrap();
        assert_eq!((walked.paths.len(), walked.is_partial), (2, true));
        assert!(walked.trouble.unwrap().starts_with(&format!("{base}/self.txt: ")));
        let walked = walk(&format!("{base}/a*/*.txt")).unwrap();
        assert_eq!((walked.paths.len(), walked.is_partial, walked.trouble), (2, false, None));
        fs::remove_file(folder.path().join("self.txt")).unwrap();
        symlink("..", folder.path().join("a/up")).unwrap();
        let walked = walk(&format!("{base}/**/3.txt")).unwrap();
        assert_eq!((walked.paths.len(), walked.is_partial, walked.trouble), (1, false, None), "a circle");
    }
}
