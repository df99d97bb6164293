//! Directories that are kept open for the next download there: opening one costs a small file as much as writing it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use crate::files::folder::Folder;

/// How many are kept, of all roots together,
const OPEN_MAX: usize = 64;
/// of so many descriptors that the process may have one,
const DESCRIPTORS_EACH: u64 = 16;
/// and each for so long.
const OPEN_TIME: Duration = Duration::from_secs(1);

/// The directories of one root. What is kept of roots that are beside each other counts together.
#[derive(Debug)]
pub(super) struct OpenFolders {
    all: Arc<Mutex<All>>,
    /// The number of the root.
    root: u64,
    most: usize,
}

/// The directories of all roots.
#[derive(Debug, Default)]
struct All {
    /// By the number of their root and by their paths, and since when they are kept.
    open: HashMap<u64, HashMap<String, (Folder, Instant)>>,
    /// How many numbers of roots were given.
    roots: u64,
}

impl OpenFolders {
    pub(super) fn new() -> OpenFolders {
        OpenFolders { all: Arc::default(), root: 0, most: most_of(getrlimit(Resource::Nofile).current) }
    }

    /// Makes those of another root.
    pub(super) fn beside(&self) -> OpenFolders {
        let mut all = self.lock();
        all.roots += 1;
        OpenFolders { all: Arc::clone(&self.all), root: all.roots, most: self.most }
    }

    /// Returns the directory of this path, if it is kept.
    pub(super) fn get(&self, path: &str) -> Option<Folder> {
        let all = self.lock();
        let kept = all.open.get(&self.root)?.get(path);
        kept.filter(|(_, since)| since.elapsed() < OPEN_TIME).map(|(folder, _)| folder.clone())
    }

    /// Keeps the directory of this path; all others are let go where that would be too many.
    pub(super) fn keep(&self, path: &str, folder: &Folder) {
        let mut all = self.lock();
        if all.open.values().map(HashMap::len).sum::<usize>() >= self.most {
            all.open.clear();
        }
        all.open.entry(self.root).or_default().insert(path.to_owned(), (folder.clone(), Instant::now()));
    }

    /// Lets go of the directory of this path.
    pub(super) fn forget(&self, path: &str) {
        if let Some(own) = self.lock().open.get_mut(&self.root) {
            own.remove(path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // What is not in it is opened anew.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenFolders {
    fn drop(&mut self) {
        self.lock().open.remove(&self.root);
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

    /// Each tenant has a root of its own, and there may be many.
    #[test]
    fn those_of_all_roots_are_bounded_together() {
        let at = tempfile::tempdir().unwrap();
        let dir = cap_std::fs::Dir::open_ambient_dir(at.path(), cap_std::ambient_authority()).unwrap();
        let folder = |path: &str| Folder::new(&dir, path).unwrap();
        let mut first = OpenFolders::new();
        first.most = 4;
        let others: Vec<_> = (0..3).map(|_| first.beside()).collect();
        let kept = || first.lock().open.values().map(HashMap::len).sum::<usize>();
        for nth in 0..10 {
            for root in others.iter().chain([&first]) {
                root.keep(&nth.to_string(), &folder("of one"));
                assert!(kept() <= 4 && root.get(&nth.to_string()).is_some());
            }
        }
        first.keep("a", &folder("a"));
        assert!(others.iter().all(|root| root.get("a").is_none()), "each has its own");
        drop(others);
        assert!(first.lock().open.keys().all(|root| *root == 0), "nothing is kept of a root that is gone");
    }
}
