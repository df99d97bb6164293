//! Whether the files of the database are still in their places.
//!
//! `SQLite` goes on in a file that somebody has removed, or put another one in the place of, and the next start finds nothing of
//! what it wrote there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What tells a file from another one.
type Mark = (u64, u64);

/// The database with its log and the index of that, as they were when they were seen first.
#[derive(Debug)]
pub(super) struct InPlace {
    files: [(PathBuf, Option<Mark>); 3],
}

impl InPlace {
    /// Notes the files of an open database. Its log need not be there yet.
    pub(super) fn of(database: &Path) -> InPlace {
        let beside = |end| {
            let mut name = database.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let files = [database.to_owned(), beside("-wal"), beside("-shm")];
        let mut place = InPlace { files: files.map(|path| (path, None)) };
        place.missing();
        place
    }

    /// Returns a file that has been removed or replaced. One that cannot be looked at is taken to be there.
    pub(super) fn missing(&mut self) -> Option<&Path> {
        let is_gone = |(path, known): &mut (PathBuf, Option<Mark>)| match fs::metadata(path) {
            Ok(found) => {
                let found = (found.dev(), found.ino());
                *known.get_or_insert(found) != found
            }
            Err(error) => error.kind() == ErrorKind::NotFound && known.is_some(),
        };
        self.files.iter_mut().find_map(|file| is_gone(file).then_some(file.0.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_or_replaced_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (database, log) = (dir.path().join("haul.db"), dir.path().join("haul.db-wal"));
        fs::write(&database, "").unwrap();
        let mut place = InPlace::of(&database);
        assert_eq!(place.missing(), None, "there is no log yet");
        fs::write(&log, "").unwrap();
        assert_eq!(place.missing(), None);
        fs::remove_file(&log).unwrap();
        assert_eq!(place.missing(), Some(log.as_path()));
        let mut place = InPlace::of(&database);
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        fs::rename(&other, &database).unwrap();
        assert_eq!(place.missing(), Some(database.as_path()));
    }
}
