//! What a start of these settings would come to, without a start: all that can be read beside a running server or without one.
//!
//! Nothing is made or changed. Whether an address or a socket is in use is left out: it may be by the server that these settings are
//! for.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::Access;

use crate::clock::Clock;
use crate::config::network::Place;
use crate::listen::tls::Tls;
use crate::model::book::Book;
use crate::named_file::may;
use crate::server::admission::check_addresses;
use crate::server::error::ServeError;
use crate::server::listeners;
use crate::server::settings::ServerSettings;
use crate::store::sqlite::{OpenError, look_beside};
use crate::telemetry::traces;

/// Checks settings as a start does: the certificates, where traces go, the directories, the database with its keys, the paths of
/// sockets, and that somebody can sign in where other machines reach the server. Returns who could sign in: nobody, where nobody
/// was ever made.
pub async fn check(settings: &ServerSettings) -> Result<Book, ServeError> {
    if let Some(tls) = settings.tls.clone() {
        Tls::load(tls)?;
    }
    traces::check()?;
    surroundings(settings)?;
    let engine = &settings.engine;
    let book = look_beside(&engine.data_dir, &engine.root_keys).await.map_err(Box::new)?;
    check_addresses(settings, &book, Clock::system().now())?;
    Ok(book)
}

/// Looks at what a start needs beside its database: the directories, and the places to listen at. A start does so first, so that it and
/// the check differ in nothing.
pub(super) fn surroundings(settings: &ServerSettings) -> Result<(), ServeError> {
    let engine = &settings.engine;
    let unwritable = |error| Box::new(OpenError::Unwritable { path: engine.data_dir.clone(), error });
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    may_be_used(&engine.data_dir, all).map_err(unwritable)?;
    let dir = &engine.download_dir;
    may_be_used(dir, Access::READ_OK | Access::EXEC_OK).map_err(|error| {
        ServeError::Directory(format!("could not open the download directory `{}`: {error}", dir.display()))
    })?;
    // Fetches need none, and what is mounted for reading alone may be so for a while.
    if let Err(error) = may_be_used(dir, all) {
        tracing::warn!("the download directory `{}` cannot be written to, so downloads fail: {error}", dir.display());
    }
    let metrics = settings.metrics_listen.map(|at| ("metrics-listen", Place::Address(at)));
    let mut places = settings.listen.iter().map(|place| ("listen", place.clone())).chain(metrics);
    // What lies in a directory that the first start makes.
    let is_made = |place: &Place| {
        let Place::Socket { path, .. } = place else { return false };
        let made = [engine.data_dir.as_path(), dir.as_path()];
        path.parent().is_some_and(|above| made.contains(&above) && !above.exists())
    };
    places.try_for_each(|(flag, place)| if is_made(&place) { Ok(()) } else { listeners::look(flag, &place) })
}

/// Fails where a directory can neither be used in these ways nor made.
fn may_be_used(dir: &Path, access: Access) -> io::Result<()> {
    match dir.symlink_metadata() {
        Ok(_) if !std::fs::metadata(dir)?.is_dir() => Err(ErrorKind::NotADirectory.into()),
        Ok(_) => may(dir, access),
        Err(error) if error.kind() == ErrorKind::NotFound => may_be_made(dir, error),
        Err(error) => Err(error),
    }
}

/// Fails where a directory cannot be made, with those above it that are missing, too.
fn may_be_made(dir: &Path, missing: io::Error) -> io::Result<()> {
    let Some(above) = dir.parent() else { return Err(missing) };
    match above.symlink_metadata() {
        Ok(_) if !std::fs::metadata(above)?.is_dir() => Err(ErrorKind::NotADirectory.into()),
        Ok(_) => {
            may(above, Access::WRITE_OK | Access::EXEC_OK)?;
            holds_files(above)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => may_be_made(above, error),
        Err(error) => Err(error),
    }
}

/// Fails for a directory of the kernel, in which nobody makes another.
fn holds_files(dir: &Path) -> io::Result<()> {
    const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;
    let kind = rustix::fs::statfs(dir)?.f_type;
    if kind == rustix::fs::PROC_SUPER_MAGIC || kind == SYSFS_MAGIC {
        return Err(io::Error::new(
            ErrorKind::Unsupported,
            "its file system is the kernel's and holds no files of others",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        for good in ["", "a", "a/b/c"] {
            may_be_used(&dir.path().join(good), Access::WRITE_OK).unwrap();
        }
        assert!(!dir.path().join("a").exists(), "nothing was made");
        for bad in ["file", "file/below", "dangling", "dangling/below"] {
            may_be_used(&dir.path().join(bad), Access::READ_OK).unwrap_err();
        }
        for bad in ["/proc/x", "/sys/x/y"] {
            may_be_used(Path::new(bad), Access::READ_OK).unwrap_err();
        }
    }
}
