//! Directories that are kept open for the next download there: opening one costs a small file as much as writing it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use crate::files::folder::Folder;

/// How many are kept,
const OPEN_MAX: usize = 64;
/// of so many descriptors that the process may have one,
const DESCRIPTORS_EACH: u64 = 16;
/// and each for so long.
const OPEN_TIME: Duration = Duration::from_secs(1);

/// The directories by their paths, and since when they are kept.
#[derive(Debug)]
pub(super) struct OpenFolders {
    open: Mutex<HashMap<String, (Folder, Instant)>>,
    most: usize,
}

impl OpenFolders {
    pub(super) fn new() -> OpenFolders {
        OpenFolders { open: Mutex::default(), most: most_of(getrlimit(Resource::Nofile).current) }
    }

    /// Returns the directory of this path, if it is kept.
    pub(super) fn get(&self, path: &str) -> Option<Folder> {
        let open = self.lock();
        open.get(path).filter(|(_, since)| since.elapsed() < OPEN_TIME).map(|(folder, _)| folder.clone())
    }

    /// Keeps the directory of this path; all others are let go where that would be too many.
    pub(super) fn keep(&self, path: &str, folder: &Folder) {
        let mut open = self.lock();
        if open.len() >= self.most {
            open.clear();
        }
        open.insert(path.to_owned(), (folder.clone(), Instant::now()));
    }

    /// Lets go of the directory of this path.
    pub(super) fn forget(&self, path: &str) {
        self.lock().remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Folder, Instant)>> {
        // What is not in it is opened anew.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many are kept where there may be so many descriptors; `None`: any number.
fn most_of(descriptors: Option<u64>) -> usize {
    descriptors.map_or(OPEN_MAX, |limit| usize::try_from(limit / DESCRIPTORS_EACH).unwrap_or(OPEN_MAX).min(OPEN_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_where_descriptors_are_few() {
        assert_eq!([Some(80), Some(256), Some(1 << 20), None].map(most_of), [5, 16, 64, 64]);
    }
}
