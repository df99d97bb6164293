//! Files that have a name, or one that a rename would have given them: `name`, `name (1)`, `name (2)`, …, and what they are.
//!
//! The first is looked at whenever somebody asks, and opened where it is not the one that it was. There may be thousands of
//! others, of which each download would look at all; so what they are is remembered for a while. What is remembered is a hint: a file is opened, and judged anew, before it
//! is taken for what it was.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::files::error::failure;
use crate::files::folder::{Folder, Mark};
use crate::files::names;
use crate::files::source::{Existing, Record};
use crate::model::failure::Failure;

/// Names that are tried, from the first that may be free, before a rename gives up.
pub(super) const CANDIDATES_MAX: u32 = 10_000;
/// The first candidate that is not looked at each time.
const NEAR: u32 = 1;
/// How long is remembered what the others are. Files that somebody else puts there are seen after that.
const KEPT: Duration = Duration::from_secs(10);
/// Files that are remembered; beyond, all are forgotten, and looked at again.
const FILES_MAX: usize = 50_000;

/// Which file is looked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// One that a download made from one of these sources.
    Sources(&'a [String]),
    /// One that the task of this key made.
    Key(&'a str),
}

impl Wanted<'_> {
    /// Whether it is that one.
    pub(super) fn is(&self, record: &Record) -> bool {
        match self {
            Wanted::Sources(sources) => sources.contains(&record.source),
            Wanted::Key(key) => record.key == *key,
        }
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Candidates(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// By the path of the name.
    names: HashMap<String, Seen>,
    /// What they come to, at most: each file, and each name.
    count: usize,
}

/// The candidates of one name, from the [`NEAR`]th on.
#[derive(Debug, Default)]
struct Seen {
    /// When they were looked at; `None`: somebody is about to.
    since: Option<Instant>,
    of_source: HashMap<String, u32>,
    of_key: HashMap<String, u32>,
    /// What has the name itself, and by what that is recognised.
    first: Option<(Mark, Option<Record>)>,
}

impl Seen {
    fn add(&mut self, number: u32, record: &Record) {
        self.of_source.insert(record.source.clone(), number);
        self.of_key.insert(record.key.clone(), number);
    }

    fn number_of(&self, wanted: Wanted<'_>) -> Option<u32> {
        match wanted {
            Wanted::Sources(sources) => sources.iter().find_map(|source| self.of_source.get(source)).copied(),
            Wanted::Key(key) => self.of_key.get(key).copied(),
        }
    }
}

impl Candidates {
    /// Remembers a file that a download has just made.
    pub(super) fn note(&self, path: &str, number: u32, record: &Record) {
        let mut all = self.lock();
        if let Some(seen) = all.names.get_mut(path).filter(|_| number >= NEAR) {
            seen.add(number, record);
            all.count += 1;
        }
    }

    /// Whether what has the name is still what it was, and not the wanted file.
    fn is_other(&self, path: &str, mark: Mark, wanted: Wanted<'_>) -> bool {
        let all = self.lock();
        let first = all.names.get(path).and_then(|seen| seen.first.as_ref());
        first.is_some_and(|(own, record)| *own == mark && !record.as_ref().is_some_and(|record| wanted.is(record)))
    }

    /// Remembers what has the name, if anything is remembered of it.
    fn note_first(&self, path: &str, mark: Mark, existing: &Existing) {
        if let Some(seen) = self.lock().names.get_mut(path) {
            seen.first = Some((mark, existing.record().cloned()));
        }
    }

    /// The number that the wanted file has as far as is remembered; `Err`: nothing is.
    fn number_of(&self, path: &str, wanted: Wanted<'_>) -> Result<Option<u32>, ()> {
        let all = self.lock();
        let seen = all.names.get(path).filter(|seen| seen.since.is_some_and(|since| since.elapsed() < KEPT));
        seen.map(|seen| seen.number_of(wanted)).ok_or(())
    }

    /// Begins to remember what is noted from now on.
    fn begin(&self, path: &str) {
        let mut all = self.lock();
        if all.count >= FILES_MAX {
            *all = All::default();
        }
        all.names.insert(path.to_owned(), Seen::default());
        all.count += 1;
    }

    /// Remembers what was found beside what was noted meanwhile.
    fn end(&self, path: &str, found: &[(u32, Record)]) {
        let mut all = self.lock();
        let Some(seen) = all.names.get_mut(path) else { return };
        for (number, record) in found {
            seen.add(*number, record);
        }
        seen.since = Some(Instant::now());
        all.count += found.len();
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first file that has the name, or, where a rename might have, one that it would have given, and that is wanted.
pub(super) fn find(
    known: &Candidates,
    folder: &Folder,
    name: &str,
    may_rename: bool,
    wanted: Wanted<'_>,
) -> Result<Option<(String, Existing)>, Failure> {
    let path = folder.path_of(name);
    let mark = folder.mark(name)?;
    if !mark.is_some_and(|mark| known.is_other(&path, mark, wanted)) {
        let Some(existing) = look(folder, name)? else { return Ok(None) };
        if let (Some(mark), Some(existing)) = (mark, &existing) {
            known.note_first(&path, mark, existing);
        }
        if let Some(found) = existing.filter(|it| it.record().is_some_and(|record| wanted.is(record))) {
            return Ok(Some((name.to_owned(), found)));
        }
    }
    if !may_rename {
        return Ok(None);
    }
    match known.number_of(&path, wanted) {
        Ok(None) => return Ok(None),
        Ok(Some(number)) => {
            let candidate = names::candidate(name, number);
            let existing = look(folder, &candidate)?.flatten();
            if let Some(found) = existing.filter(|it| it.record().is_some_and(|record| wanted.is(record))) {
                return Ok(Some((candidate, found)));
            }
        }
        Err(()) => {}
    }
    scan(known, folder, name, wanted)
}

/// Gives a file of somebody else, which was moved out of its place, the first name that is free: its own, else one that a
/// rename would give it.
pub(super) fn put_back(folder: &Folder, from: &str, name: &str) -> io::Result<()> {
    for number in 0..CANDIDATES_MAX {
        match folder.rename_to_free(from, &names::candidate(name, number)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Looks at all candidates from the [`NEAR`]th on, and remembers them.
fn scan(
    known: &Candidates,
    folder: &Folder,
    name: &str,
    wanted: Wanted<'_>,
) -> Result<Option<(String, Existing)>, Failure> {
    let path = folder.path_of(name);
    known.begin(&path);
    let (mut found, mut all) = (None, Vec::new());
    for number in NEAR..CANDIDATES_MAX {
        let candidate = names::candidate(name, number);
        let Some(existing) = look(folder, &candidate)? else { break };
        let Some(existing) = existing else { continue };
        let Some(record) = existing.record().cloned() else { continue };
        if found.is_none() && wanted.is(&record) {
            found = Some((candidate, existing));
        }
        all.push((number, record));
    }
    known.end(&path, &all);
    Ok(found)
}

/// The file of this name; the inner `None`: something else has it.
#[allow(clippy::option_option)]
fn look(folder: &Folder, name: &str) -> Result<Option<Option<Existing>>, Failure> {
    let Some(file) = folder.open_own(name)? else { return Ok(folder.has(name)?.then_some(None)) };
    let existing = Existing::of(file, folder).map_err(|error| failure("look at", &folder.path_of(name), &error))?;
    Ok(Some(Some(existing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Root;

    fn put(place: &std::path::Path, number: u32, source: &str) {
        let path = place.join(names::candidate("f", number));
        let file = std::fs::File::create(&path).unwrap();
        let mut record = Record { source: source.into(), key: format!("k{number}"), ..Record::default() };
        record.write(&file, &file.metadata().unwrap());
    }

    /// What may not be read is not of this process, and has its name all the same.
    #[test]
    fn a_file_that_may_not_be_read_is_passed_over() {
        use std::os::unix::fs::PermissionsExt as _;
        let at = tempfile::tempdir_in(".").unwrap();
        put(at.path(), 0, "here");
        put(at.path(), 1, "here");
        std::fs::set_permissions(at.path().join("f"), std::fs::Permissions::from_mode(0o0)).unwrap();
        // The tests may be run by root, who reads everything unless it gives that up, which is for this thread alone.
        let mut own = rustix::thread::capabilities(None).unwrap();
        own.effective = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, own).unwrap();
        let root = Root::open(at.path()).unwrap();
        let folder = root.find_folder("").unwrap().unwrap();
        assert!(folder.open("f").is_err(), "the file can be read");
        assert!(matches!(look(&folder, "f"), Ok(Some(None))));
        let found = find(root.candidates(), &folder, "f", true, Wanted::Sources(&["here".to_owned()])).unwrap();
        assert_eq!(found.map(|(name, _)| name).as_deref(), Some("f (1)"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_a_hint() {
        let at = tempfile::tempdir_in(".").unwrap();
        let root = Root::open(at.path()).unwrap();
        let folder = root.find_folder("").unwrap().unwrap();
        for number in 0..40 {
            put(at.path(), number, &format!("s{number}"));
        }
        let find = |source: &str| {
            let found = find(root.candidates(), &folder, "f", true, Wanted::Sources(&[source.to_owned()])).unwrap();
            found.map(|(name, _)| name)
        };
        assert_eq!(find("s3").as_deref(), Some("f (3)"));
        assert_eq!(find("s30").as_deref(), Some("f (30)"));
        assert_eq!(find("s99"), None);
        // Of somebody else: seen after a while. Our own: at once.
        put(at.path(), 40, "s99");
        assert_eq!(find("s99"), None);
        root.candidates().note("f", 40, &Record { source: "s99".into(), key: "k40".into(), ..Record::default() });
        assert_eq!(find("s99").as_deref(), Some("f (40)"));
        // It is another one by now.
        put(at.path(), 30, "other");
        assert_eq!((find("s30"), find("other").as_deref()), (None, Some("f (30)")));
        put(at.path(), 41, "later");
        assert_eq!(find("later"), None);
        tokio::time::advance(KEPT).await;
        assert_eq!(find("later").as_deref(), Some("f (41)"));
        // What has the name itself is looked at each time.
        assert_eq!(find("s0").as_deref(), Some("f"));
        std::fs::remove_file(at.path().join("f")).unwrap();
        std::fs::write(at.path().join("f"), "theirs").unwrap();
        assert_eq!(find("s0"), None);
        std::fs::remove_file(at.path().join("f")).unwrap();
        put(at.path(), 0, "new");
        assert_eq!(find("new").as_deref(), Some("f"));
        let by_key = super::find(root.candidates(), &folder, "f", true, Wanted::Key("k25")).unwrap();
        assert_eq!(by_key.unwrap().0, "f (25)");
        assert!(super::find(root.candidates(), &folder, "f", false, Wanted::Key("k1")).unwrap().is_none());
    }
}
