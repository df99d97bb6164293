//! One process a data directory.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio::time::Instant;

use crate::store::sqlite::open_error::OpenError;

/// A lock on a data directory. The kernel takes it back when the process ends, however it ends; the file stays.
#[derive(Debug)]
pub(super) struct DirLock(#[allow(dead_code)] File); // Held, not read.

/// A process that was killed ends only when its writes have, and whoever restarts it at once should not have to know.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The file that is locked. It has the number of the process that holds it.
pub(super) const LOCK_FILE: &str = "haul.lock";

/// Returns the error of a directory that another process has locked.
fn in_use(dir: &Path, mut lock: File) -> OpenError {
    let mut holder = String::new();
    // A holder that cannot be read is left out.
    let _ = lock.read_to_string(&mut holder);
    OpenError::InUse { path: dir.to_owned(), pid: holder.trim().parse().ok() }
}

impl DirLock {
    /// Locks `dir`, or says who has it and keeps it.
    pub(super) async fn wait_for(dir: &Path) -> Result<DirLock, OpenError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match DirLock::take(dir) {
                Err(OpenError::InUse { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK_INTERVAL).await,
                done => return done,
            }
        }
    }

    /// Says who has `dir`, if somebody has. Nothing is made, and nobody is kept out for longer than the look takes.
    pub(super) fn look(dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(OpenError::Unreadable { path, error }),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(in_use(dir, file)),
            Err(error) => Err(OpenError::Unreadable { path, error: error.into() }),
            Ok(()) => Ok(()),
        }
    }

    /// Locks `dir`, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<DirLock, OpenError> {
        let path = dir.join(LOCK_FILE);
        let unwritable = |error| OpenError::Unwritable { path: dir.to_owned(), error };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // It names the holder, whom we may have to name.
            .mode(0o600)
            // A link that the directory's user has put there would lead to any file that this user may write.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(unwritable)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(if error == Errno::WOULDBLOCK { in_use(dir, file) } else { unwritable(error.into()) });
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(unwritable)?;
        Ok(DirLock(file))
    }
}
