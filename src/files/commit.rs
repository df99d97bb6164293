//! How a part becomes a file: complete, synced and under its name at once.
//!
//! The order is the crash argument. The bytes are synced before the name leads to them; the name is synced before the
//! download is said to be done; the checkpoint goes last, since without its part it claims nothing. A crash in between
//! leaves the part, or the finished file with a record of the task that made it, which [`committed_before`] finds.

use std::io;
use std::sync::Arc;

use crate::files::Durability;
use crate::files::bound::Bound;
use crate::files::checkpoint::{Place, part_name};
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::source::{Existing, Record};
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::CreatedFile;

/// Names that are tried, from the first that may be free, before a rename gives up.
const CANDIDATES_MAX: u32 = 10_000;

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
}

impl Bound {
    /// Gives the finished part its name. `size` is what it must have.
    pub async fn commit(
        self,
        name: &str,
        size: u64,
        taken: Taken,
        durability: Durability,
    ) -> Result<Committed, Failure> {
        let place = Arc::clone(self.place());
        let binding = self.binding();
        let record = Record {
            key: place.key.clone(),
            source: binding.source.clone(),
            url: binding.final_url.clone(),
            etag: binding.version.etag.clone(),
            last_modified: binding.version.last_modified.clone(),
            content_type: binding.content_type.clone(),
            ..Record::default()
        };
        let commit = Commit { name: name.to_owned(), size, taken, durability, record };
        // What waits for nothing is done in place: a small file costs a few system calls and no change of threads.
        if durability == Durability::None && !place.has_meta() {
            return commit.run(&place);
        }
        blocking(move || commit.run(&place)).await
    }
}

struct Commit {
    name: String,
    size: u64,
    taken: Taken,
    durability: Durability,
    record: Record,
}

impl Commit {
    fn run(self, place: &Place) -> Result<Committed, Failure> {
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
        let created = self.record.write(place.disk.file(), &metadata);
        if self.durability == Durability::Full {
            place.disk.sync().map_err(fail)?;
        }
        let name = give_name(place, &self.name, &self.taken)?;
        if self.durability == Durability::Full {
            place.root.sync_folder(&place.folder).map_err(fail)?;
        }
        place.remove_meta().map_err(fail)?;
        Ok(Committed { path: place.folder.path_of(&name), created })
    }
}

fn give_name(place: &Place, name: &str, taken: &Taken) -> Result<String, Failure> {
    let folder = &place.folder;
    if *taken == Taken::Replace {
        return replace(place, name);
    }
    let mut number = 0;
    for _ in 0..CANDIDATES_MAX {
        let candidate = names::candidate(name, number);
        match folder.rename_to_free(&part_name(&place.key), &candidate) {
            Ok(()) => {
                if number > 0 {
                    place.root.note_number(folder.path_of(name), number + 1);
                }
                return Ok(candidate);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("rename to", &folder.path_of(&candidate), &error)),
        }
        match taken {
            Taken::ReplaceOwn(sources) if is_from(folder, &candidate, sources)? => return replace(place, &candidate),
            // Those before it were taken the last time.
            Taken::Rename if number == 0 => number = place.root.first_number(&folder.path_of(name)).max(1),
            taken if !taken.may_rename() => return Err(exists(folder, name)),
            _ => number += 1,
        }
    }
    Err(exists(folder, name))
}

fn replace(place: &Place, name: &str) -> Result<String, Failure> {
    let folder = &place.folder;
    match folder.rename(&part_name(&place.key), name) {
        Ok(()) => Ok(name.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(exists(folder, name)),
        Err(error) => Err(failure("rename to", &folder.path_of(name), &error)),
    }
}

/// Whether a download made this file from one of these sources, and nobody has changed it since.
fn is_from(folder: &Folder, name: &str, sources: &[String]) -> Result<bool, Failure> {
    let Some(file) = folder.open(name)? else { return Ok(false) };
    let existing = Existing::of(file).map_err(|error| failure("look at", &folder.path_of(name), &error))?;
    Ok(existing.is_from(sources))
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
    folder: &Folder,
    name: &str,
    key: &str,
    taken: &Taken,
) -> Result<Option<(String, Existing)>, Failure> {
    find_candidate(folder, name, taken, |existing| existing.record().is_some_and(|record| record.key == key))
}

/// The first file that has the name, or one that a rename would have given it, and that `is_it`.
pub fn find_candidate(
    folder: &Folder,
    name: &str,
    taken: &Taken,
    is_it: impl Fn(&Existing) -> bool,
) -> Result<Option<(String, Existing)>, Failure> {
    let last = if taken.may_rename() { CANDIDATES_MAX } else { 1 };
    for number in 0..last {
        let candidate = names::candidate(name, number);
        if !folder.has(&candidate)? {
            break;
        }
        let Some(file) = folder.open(&candidate)? else { continue };
        let existing = Existing::of(file).map_err(|error| failure("look at", &folder.path_of(&candidate), &error))?;
        if is_it(&existing) {
            return Ok(Some((candidate, existing)));
        }
    }
    Ok(None)
}
