//! How a part becomes a file: complete, synced and under its name at once.
//!
//! The order is the crash argument. The bytes are synced before the name leads to them; the name is synced before the
//! download is said to be done; the checkpoint goes last, since without its part it claims nothing. A crash in between
//! leaves the part, or the finished file with a record of the task that made it, which [`committed_before`] finds.

use std::io;
use std::sync::Arc;

use crate::files::Durability;
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::part::{Bound, Shared, part_name};
use crate::files::source::{Existing, Record};
use crate::model::failure::{Failure, FailureReason};

/// Names that are tried before a rename gives up.
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
    /// It is replaced, unless it is known to come from elsewhere than these URLs: then as `Rename`.
    ReplaceOwn(Vec<String>),
}

impl Taken {
    fn may_rename(&self) -> bool {
        matches!(self, Taken::Rename | Taken::ReplaceOwn(_))
    }
}

impl Bound {
    /// Gives the finished part its name. `size` is what it must have. Returns its path relative to the root.
    pub async fn commit(self, name: &str, size: u64, taken: Taken, durability: Durability) -> Result<String, Failure> {
        let shared = Arc::clone(self.part().shared());
        let binding = self.binding();
        let record = Record {
            key: shared.key.clone(),
            url: binding.url.clone(),
            etag: binding.version.etag.clone(),
            last_modified: binding.version.last_modified.clone(),
            content_type: binding.content_type.clone(),
            ..Record::default()
        };
        let commit = Commit { name: name.to_owned(), size, taken, durability, record };
        // What waits for nothing is done in place: a small file costs a few system calls and no change of threads.
        if durability == Durability::None && !shared.has_meta() {
            return commit.run(&shared);
        }
        blocking(move || commit.run(&shared)).await
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
    fn run(self, shared: &Shared) -> Result<String, Failure> {
        let fail = |error: io::Error| shared.fail("finish", &error);
        let length = shared.file.metadata().map_err(fail)?.len();
        if length != self.size {
            let message = format!("the part file has {length} bytes and not the {} that were received", self.size);
            return Err(Failure::retryable(FailureReason::Io, message));
        }
        self.record.write(&shared.file);
        if self.durability == Durability::Full {
            shared.file.sync_data().map_err(fail)?;
        }
        let name = give_name(shared, &self.name, &self.taken)?;
        if self.durability == Durability::Full {
            shared.root.sync_folder(&shared.folder).map_err(fail)?;
        }
        shared.remove_meta().map_err(fail)?;
        Ok(shared.folder.path_of(&name))
    }
}

fn give_name(shared: &Shared, name: &str, taken: &Taken) -> Result<String, Failure> {
    let folder = &shared.folder;
    if *taken == Taken::Replace {
        return replace(shared, name);
    }
    for nth in 0..CANDIDATES_MAX {
        let candidate = names::candidate(name, nth);
        match folder.rename_to_free(&part_name(&shared.key), &candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("rename to", &folder.path_of(&candidate), &error)),
        }
        match taken {
            Taken::ReplaceOwn(urls) if is_from(folder, &candidate, urls)? => return replace(shared, &candidate),
            taken if !taken.may_rename() => return Err(exists(folder, name)),
            _ => {}
        }
    }
    Err(exists(folder, name))
}

fn replace(shared: &Shared, name: &str) -> Result<String, Failure> {
    let folder = &shared.folder;
    match folder.rename(&part_name(&shared.key), name) {
        Ok(()) => Ok(name.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(exists(folder, name)),
        Err(error) => Err(failure("rename to", &folder.path_of(name), &error)),
    }
}

/// Whether a file may have come from one of `urls`: it says so, or does not say where from.
fn is_from(folder: &Folder, name: &str, urls: &[String]) -> Result<bool, Failure> {
    let Some(file) = folder.open(name)? else { return Ok(false) };
    let existing = Existing::of(file).map_err(|error| failure("look at", &folder.path_of(name), &error))?;
    Ok(existing.source().is_none_or(|url| urls.iter().any(|own| own == url)))
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
    find_candidate(folder, name, taken, |existing| existing.record.as_ref().is_some_and(|record| record.key == key))
}

/// The first file that has the name, or one that a rename would have given it, and that `is_it`.
pub fn find_candidate(
    folder: &Folder,
    name: &str,
    taken: &Taken,
    is_it: impl Fn(&Existing) -> bool,
) -> Result<Option<(String, Existing)>, Failure> {
    let last = if taken.may_rename() { CANDIDATES_MAX } else { 1 };
    for nth in 0..last {
        let candidate = names::candidate(name, nth);
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
