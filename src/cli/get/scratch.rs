//! The directory that the database of one run lies in, and those of runs that were killed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, OFlags};
use uuid::Uuid;

const PREFIX: &str = "haul-get-";
/// The file that the database locks for as long as its process lives.
const LOCK: &str = "haul.lock";
/// A younger directory may be of a run that has not locked it yet.
const AGE_MIN: Duration = Duration::from_secs(60);

/// A directory for the database of one run, removed with it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Makes a directory that only its user can read: URLs hold passwords. What runs left that were killed goes.
    pub(super) fn new() -> anyhow::Result<Scratch> {
        let above = std::env::temp_dir();
        let name = format!("{PREFIX}{}", Uuid::now_v7());
        if let Some(now) = begun(&name) {
            remove_stale(&above, now);
        }
        let path = above.join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the directory `{}` for the time of this run", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies where the system cleans up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes the directories of runs of this user that have ended without doing so. What cannot be told or removed stays.
fn remove_stale(above: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let is_old = entry
            .file_name()
            .to_str()
            .and_then(begun)
            .is_some_and(|begun| now.duration_since(begun).is_ok_and(|age| age >= AGE_MIN));
        if is_old && let Ok(Some(_lock)) = lock_of_nobody(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// When the run began whose directory has this name; `None`: it is of no run.
fn begun(name: &str) -> Option<SystemTime> {
    let id = Uuid::parse_str(name.strip_prefix(PREFIX)?).ok()?;
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// Locks a directory of this user that no process has locked; `None`: it is not one.
fn lock_of_nobody(directory: &Path) -> io::Result<Option<File>> {
    let metadata = std::fs::symlink_metadata(directory)?;
    let is_own = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_own || metadata.mode() & 0o077 != 0 {
        return Ok(None);
    }
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().read(true).write(true).custom_flags(flags).open(directory.join(LOCK))?;
    Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::{NoContext, Timestamp};

    use super::*;

    #[test]
    fn only_what_a_run_left_that_is_gone_is_removed() {
        let above = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let make = |name: String, mode: u32, has_lock: bool| {
            let path = above.path().join(name);
            std::fs::create_dir(&path).unwrap();
            // Whatever the umask is.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            has_lock.then(|| File::create_new(path.join(LOCK)).unwrap())
        };
        let name = |seconds| format!("{PREFIX}{}", Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0)));
        make(name(999_000), 0o700, true);
        make(name(0), 0o700, true);
        let stay = [name(999_941), name(999_001), name(999_002), name(999_003), format!("{PREFIX}x")];
        make(stay[0].clone(), 0o700, true);
        let lock = make(stay[1].clone(), 0o700, true).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        make(stay[2].clone(), 0o700, false);
        make(stay[3].clone(), 0o755, true);
        make(stay[4].clone(), 0o700, true);
        let link = name(999_004);
        std::os::unix::fs::symlink(above.path().join(&stay[4]), above.path().join(&link)).unwrap();
        remove_stale(above.path(), now);
        let left = std::fs::read_dir(above.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        let mut expected = [&stay[..], &[link]].concat();
        expected.sort();
        assert_eq!(left, expected);
        assert!(above.path().join(&stay[4]).join(LOCK).exists());
    }
}
