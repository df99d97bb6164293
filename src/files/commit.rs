//! How a part becomes a file: complete, synced and under its name at once.
//!
//! The order is the crash argument. The bytes are synced before the name leads to them; the name is synced before the
//! download is said to be done; the checkpoint goes last, since without its part it claims nothing. A crash in between
//! leaves the part, or the finished file with a record of the task that made it, which [`committed_before`] finds.

use std::io;
use std::sync::Arc;

use crate::files::Durability;
use crate::files::candidates;
use crate::files::candidates::{CANDIDATES_MAX, Wanted};
use crate::files::checkpoint::{Place, meta_draft_name, meta_name, part_name};
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::ranges::RangeSet;
use crate::files::root::Root;
use crate::files::source::{Existing, Record};
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::CreatedFile;

/// Attempts at files of no more bytes leave nothing behind, as they make no checkpoints.
const LEFT_FROM_BYTES: u64 = 64 << 10;
/// Names that are tried although they were taken the last time.
const FEW: u32 = 16;

/// What happens to a file that has the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing, and the commit fails with `FILE_EXISTS`.
    Refuse,
    /// Nothing, and the next free name is taken.
    Rename,
    /// It is replaced.
    Replace,
    /// It is replaced if a download made it from one of these sources and nobody has changed it since; else as `Rename`.
    ReplaceOwn(Vec<String>),
}

impl Taken {
    fn may_rename(&self) -> bool {
        matches!(self, Taken::Rename | Taken::ReplaceOwn(_))
    }
}

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Relative to the root.
    pub path: String,
    /// Tells it from a file that takes its name later.
    pub created: CreatedFile,
    /// What is remembered with it.
    pub record: Record,
}

/// A finished part on its way to its name, in the steps of [`Commit::run`].
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) taken: Taken,
    pub(super) durability: Durability,
    pub(super) record: Record,
    /// The key of the part is of one task for ever, so that a file of that key is the task's own.
    pub(super) is_of_task: bool,
}

impl Commit {
    /// All steps for one file.
    pub(super) fn run(mut self, place: &Place) -> Result<Committed, Failure> {
        let created = self.prepare(place)?;
        if self.durability == Durability::Full {
            let written = RangeSet::from_start(self.size);
            place.disk.sync(&written).map_err(|error| place.fail("finish", &error))?;
        }
        let name = self.give_name(place)?;
        if self.durability == Durability::Full {
            place.root.sync_folder(&place.home()).map_err(|error| place.fail("finish", &error))?;
        }
        self.end(place, &name, created)
    }

    /// Looks at the part, and remembers with it where it came from. Says what identifies it.
    pub(super) fn prepare(&mut self, place: &Place) -> Result<CreatedFile, Failure> {
        let fail = |error: io::Error| place.fail("finish", &error);
        let mut metadata = place.disk.metadata().map_err(fail)?;
        if metadata.len() > self.size {
            // Of an attempt before, at a longer version.
            place.disk.truncate(self.size).map_err(fail)?;
            metadata = place.disk.metadata().map_err(fail)?;
        }
        if metadata.len() != self.size {
            let message =
                format!("the part file has {} bytes and not the {} that were received", metadata.len(), self.size);
            return Err(Failure::retryable(FailureReason::Io, message));
        }
        Ok(self.record.write(place.disk.file(), &metadata))
    }

    /// Gives the part a name, once its bytes are on the device where they are to be. Returns the name.
    pub(super) fn give_name(&self, place: &Place) -> Result<String, Failure> {
        // One that came late would name the part beside its file.
        place.end_saves();
        if !place.is_named() && self.size > LEFT_FROM_BYTES {
            // Of an attempt that a kill cut, and that the store does not know of.
            for left in [part_name(&place.key), meta_name(&place.key), meta_draft_name(&place.key)] {
                let _ = place.home().remove(&left);
            }
        }
        // What was hashed is what gets the name, and not a file that somebody has put in its place.
        let fail = |error: io::Error| place.fail("finish", &error);
        if place.is_named() && !place.is_at(&part_name(&place.key)).map_err(fail)? {
            return Err(replaced(place));
        }
        // What has the name afterwards is not looked at: it may be another task's by then, which has overwritten this one.
        give_name(place, &self.name, &self.taken, &self.record, self.is_of_task)
    }

    /// The name is on the device where it is to be.
    pub(super) fn end(self, place: &Place, name: &str, created: CreatedFile) -> Result<Committed, Failure> {
        place.remove_meta().map_err(|error| place.fail("finish", &error))?;
        Ok(Committed { path: place.folder.path_of(name), created, record: self.record })
    }
}

fn replaced(place: &Place) -> Failure {
    let path = place.folder.path_of(&part_name(&place.key));
    let message = format!("somebody has put another file in the place of `{path}`, so what was downloaded is gone");
    Failure::retryable(FailureReason::Io, message)
}

fn give_name(place: &Place, name: &str, taken: &Taken, record: &Record, is_of_task: bool) -> Result<String, Failure> {
    let folder = &place.folder;
    if *taken == Taken::Replace {
        return replace(place, name);
    }
    let mut number = 0;
    for _ in 0..CANDIDATES_MAX {
        let candidate = names::candidate(name, number);
        match place.take_free_name(&candidate) {
            Ok(()) => {
                if number > 0 {
                    let path = folder.path_of(name);
                    place.root.candidates().note(&path, number, record);
                    place.root.note_number(path, number + 1);
                }
                return Ok(candidate);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("rename to", &folder.path_of(&candidate), &error)),
        }
        if number > 0 {
            number += 1;
            continue;
        }
        // Of this very task, whose attempt a kill cut before anything of it was stored.
        let key = Wanted::Key(&place.key);
        if is_of_task
            && let Some((own, _)) =
                candidates::find(place.root.candidates(), &place.home(), name, taken.may_rename(), key)?
            && replace_own(place, &own, key)?
        {
            return Ok(own);
        }
        if !taken.may_rename() {
            return Err(exists(folder, name));
        }
        if let Taken::ReplaceOwn(sources) = taken
            && let Some((own, _)) = made_before(&place.root, &place.home(), name, sources, taken)?
            && replace_own(place, &own, Wanted::Sources(sources))?
        {
            return Ok(own);
        }
        // Those before it were taken the last time. A few are tried again, since one may be free by now.
        let next = place.root.first_number(&folder.path_of(name));
        number = if next > FEW { next } else { 1 };
    }
    Err(exists(folder, name))
}

fn replace(place: &Place, name: &str) -> Result<String, Failure> {
    let folder = place.home();
    let rename = || place.take_name().and_then(|()| folder.rename(&part_name(&place.key), name));
    let renamed = if place.is_named() { rename() } else { place.take_free_name(name) };
    let renamed =
        renamed.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { rename() } else { Err(error) });
    match renamed {
        Ok(()) => Ok(name.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(exists(&folder, name)),
        Err(error) => Err(failure("rename to", &folder.path_of(name), &error)),
    }
}

/// Replaces a file that a download made from one of these sources. `false`: it was changed, replaced or removed just now,
/// and what has the name stays.
///
/// Nothing keeps somebody else from putting a file of theirs there between a look and a rename, which would destroy it. So
/// the two names change their files, and only then it is looked at what came out: a file of theirs is put back.
fn replace_own(place: &Place, name: &str, wanted: Wanted<'_>) -> Result<bool, Failure> {
    place.take_name().map_err(|error| failure("name", &place.folder.path_of(name), &error))?;
    let (folder, part) = (place.home(), part_name(&place.key));
    let fail = |error: io::Error| failure("rename to", &folder.path_of(name), &error);
    // For a moment the name of the part leads to the old file, which must not be taken for the new one after a crash.
    if place.has_meta() {
        place.remove_meta().and_then(|()| folder.sync()).map_err(fail)?;
    }
    match folder.exchange(&part, name) {
        Ok(true) => {}
        // What can be done there: the look was a moment ago.
        Ok(false) => return replace(place, name).map(|_| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(fail(error)),
    }
    let is_own = is_it(&folder, &part, wanted);
    if is_own == Ok(true) {
        folder.remove(&part).map_err(fail)?;
        return Ok(true);
    }
    // Theirs, or nobody knows whose: it is put back.
    let is_back = folder.exchange(&part, name).is_ok();
    if is_back && folder.leads_to(&part, place.disk.file()).map_err(fail)? {
        return is_own;
    }
    // Removed or replaced once more meanwhile. Whatever it is, it keeps a name that people see.
    candidates::put_back(&folder, &part, name).map_err(fail)?;
    let message = format!("`{}` was replaced by others while it was to be replaced", folder.path_of(name));
    Err(Failure::retryable(FailureReason::Io, message))
}

/// Whether this file is the wanted one, and nobody has changed it since.
fn is_it(folder: &Folder, name: &str, wanted: Wanted<'_>) -> Result<bool, Failure> {
    let Some(file) = folder.open(name)? else { return Ok(false) };
    let existing = Existing::of(file, folder).map_err(|error| failure("look at", &folder.path_of(name), &error))?;
    Ok(existing.record().is_some_and(|record| wanted.is(record)))
}

/// The failure of a name that is taken.
pub fn exists(folder: &Folder, name: &str) -> Failure {
    Failure::fatal(
        FailureReason::FileExists,
        format!("`{}` exists already; remove it, or choose another path or conflict policy", folder.path_of(name)),
    )
}

/// The file that an earlier attempt of the task `key` committed, when a crash kept it from saying so: its name.
pub fn committed_before(
    root: &Root,
    folder: &Folder,
    name: &str,
    key: &str,
    taken: &Taken,
) -> Result<Option<(String, Existing)>, Failure> {
    candidates::find(root.candidates(), folder, name, taken.may_rename(), Wanted::Key(key))
}

/// The file that a download made from one of these sources, of this name, or of one that a rename gave it.
pub fn made_before(
    root: &Root,
    folder: &Folder,
    name: &str,
    sources: &[String],
    taken: &Taken,
) -> Result<Option<(String, Existing)>, Failure> {
    candidates::find(root.candidates(), folder, name, taken.may_rename(), Wanted::Sources(sources))
}

/// Forces a file, and its name in `folder`, to the device: whoever has put it there may not have come to that.
pub async fn make_durable(root: &Arc<Root>, folder: &Folder, existing: &Existing) -> Result<(), Failure> {
    let fail = |folder: &Folder, error: &io::Error| failure("sync", folder.path(), error);
    let file = existing.file.try_clone().map_err(|error| fail(folder, &error))?;
    let (root, folder) = (Arc::clone(root), folder.clone());
    // Holes are not looked for: what haul made had none when it got its name, and a copy of it may have some in the place of zeros.
    blocking(move || file.sync_data().and_then(|()| root.sync_folder(&folder)).map_err(|error| fail(&folder, &error)))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Root;
    use crate::files::part::{Part, PartKey};

    /// What a look has found to be a download's own is somebody else's by the time of the rename.
    #[test]
    fn a_file_that_somebody_puts_there_at_the_last_moment_stays() {
        let at = tempfile::tempdir_in(".").unwrap();
        let root = Arc::new(Root::open(at.path()).unwrap());
        let part = Part::create(&root, "", PartKey { name: "k", is_shared: false }).unwrap();
        let (place, _) = part.into_place();
        place.disk.write(0, b"new").unwrap();
        let sources = ["a".to_owned()];
        let wanted = Wanted::Sources(&sources);
        assert!(!replace_own(&place, "f", wanted).unwrap(), "there is nothing any more");
        std::fs::write(at.path().join("f"), "theirs").unwrap();
        assert!(!replace_own(&place, "f", wanted).unwrap());
        assert_eq!(std::fs::read(at.path().join("f")).unwrap(), b"theirs");
        assert_eq!(std::fs::read(at.path().join(part_name("k"))).unwrap(), b"new");
        let own = std::fs::File::open(at.path().join("f")).unwrap();
        let mut record = Record { source: "a".into(), ..Record::default() };
        record.write(&own, &own.metadata().unwrap());
        assert!(replace_own(&place, "f", wanted).unwrap());
        assert_eq!(std::fs::read(at.path().join("f")).unwrap(), b"new");
        assert!(!at.path().join(part_name("k")).exists());
    }
}
