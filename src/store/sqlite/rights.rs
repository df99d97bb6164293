//! Whether the files of a data directory are what a start needs: looked at before any of them is opened, with the rights of
//! this user, so that what is missing is told as what it is.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::Access;

use crate::named_file::may;
use crate::store::sqlite::open_error::OpenError;

/// The file of the database.
const DATABASE: &str = "haul.db";
/// The files of the database, by name; each is there only at times.
const OF_DATABASE: [&str; 4] = [DATABASE, "haul.db-wal", "haul.db-shm", "haul.db-journal"];
/// The other files of a data directory, by name.
const OTHERS: [&str; 5] = ["haul.key", "haul.key.new", "haul.lock", "haul.probe", "haul.reserve"];
/// Its directories, by name: of the bodies of responses, and of parts of downloads whose tasks are retried.
const DIRECTORIES: [&str; 2] = ["content", "partials"];
/// What a mode grants to who is not the user of the directory.
const NOT_OWN: u32 = 0o077;

/// Refuses a data directory where something else than a file has the name of one: opening a pipe would wait until somebody
/// writes to it. So is a file or directory of another user, which was put there while the directory was open to all, and whose tokens
/// and keys that user knows, or puts others in their place; and a database that this user cannot read.
pub(super) fn files(dir: &Path) -> Result<(), OpenError> {
    let Ok(of_dir) = fs::metadata(dir) else { return Ok(()) };
    let users = [rustix::process::geteuid().as_raw(), 0, of_dir.uid()];
    for path in OF_DATABASE.iter().chain(&OTHERS).chain(&DIRECTORIES).map(|name| dir.join(name)) {
        // Of a link, who made it counts as well as what it leads to.
        for found in [fs::metadata(&path), fs::symlink_metadata(&path)].into_iter().flatten() {
            if !users.contains(&found.uid()) {
                return Err(OpenError::Stranger { path, user: found.uid() });
            }
        }
        if DIRECTORIES.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(OpenError::Special { path });
        }
    }
    let database = dir.join(DATABASE);
    if is_missing(fs::metadata(&database)) && fs::symlink_metadata(&database).is_ok() {
        return Err(OpenError::Dangling { path: database });
    }
    has(dir, &OF_DATABASE, Access::READ_OK).map_err(|(path, error)| OpenError::Unreadable { path, error })
}

/// Refuses a data directory that a server could not write to: a file of its database is only for reading, or the directory is
/// another user's and open to others, which only that user can change.
pub(super) fn may_write(dir: &Path) -> Result<(), OpenError> {
    if let Some(user) = stranger(dir) {
        return Err(OpenError::OthersDirectory { path: dir.to_owned(), user });
    }
    has(dir, &OF_DATABASE, Access::WRITE_OK).map_err(|(path, error)| OpenError::ReadOnly { path, error })
}

/// Takes a directory that somebody else may have made away from all but its user.
pub(super) fn make_private(dir: &Path) -> Result<(), OpenError> {
    if let Some(user) = stranger(dir) {
        return Err(OpenError::OthersDirectory { path: dir.to_owned(), user });
    }
    let private = || {
        let mode = fs::metadata(dir)?.permissions().mode();
        let private = mode & !NOT_OWN;
        if private == mode { Ok(()) } else { fs::set_permissions(dir, fs::Permissions::from_mode(private)) }
    };
    private().map_err(|error| OpenError::Unwritable { path: dir.to_owned(), error })
}

/// Returns whose directory it is, where others can use it and this user cannot change that.
fn stranger(dir: &Path) -> Option<u32> {
    let found = fs::metadata(dir).ok()?;
    let own = rustix::process::geteuid();
    (found.mode() & NOT_OWN != 0 && found.uid() != own.as_raw() && !own.is_root()).then(|| found.uid())
}

/// Fails with the first of these files that is there and that this user may not use so.
fn has(dir: &Path, names: &[&str], access: Access) -> Result<(), (std::path::PathBuf, io::Error)> {
    for path in names.iter().map(|name| dir.join(name)) {
        match may(&path, access) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    Ok(())
}

fn is_missing<T>(found: io::Result<T>) -> bool {
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
