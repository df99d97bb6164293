//! Room on the disk that is kept for deleting: a full disk must not keep anybody from making room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Room for all that the log may hold, which has to be copied into the database before the log can begin anew, and for
/// a batch of deletions and purges.
const RESERVE_BYTES_MAX: u64 = 40 << 20;
/// The share of a small disk that is reserved.
const SHARE: u64 = 4;
/// The room that must be left beside the reserve.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// Bytes that are written to find out whether there is any room.
const PROBE_BYTES: usize = 1 << 16;

/// Whether an error says that there is no room left, on the disk or within a quota.
fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file that holds room, or held it until there was none.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    is_held: bool,
}

impl Reserve {
    /// The reserve of a data directory, which is made if there is room.
    pub(super) fn of(dir: &Path) -> Reserve {
        let bytes = statvfs(dir).map_or(RESERVE_BYTES_MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) / SHARE);
        let bytes = bytes.min(RESERVE_BYTES_MAX) >> 16 << 16;
        let mut reserve = Reserve { path: dir.join("haul.reserve"), bytes, is_held: false };
        reserve.restore();
        reserve
    }

    /// How much room is held, or was.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the room is held.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether a file in the directory cannot be written for want of room, of the disk or of a quota.
    pub(super) fn finds_no_room(&self) -> bool {
        let path = self.path.with_extension("probe");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        };
        let written = write();
        // It may not have been made.
        let _ = fs::remove_file(&path);
        written.is_err_and(|error| is_want_of_room(&error))
    }

    /// Gives the room to whoever needs it next.
    pub(super) fn give_up(&mut self) {
        self.is_held = false;
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "the reserve of the store cannot be given up");
        }
    }

    /// Takes the room again, if there is enough of it.
    pub(super) fn restore(&mut self) {
        match self.take() {
            Ok(is_held) => self.is_held = is_held,
            Err(error) => {
                self.give_up();
                tracing::warn!(%error, path = %self.path.display(), "no room is reserved for deletions");
            }
        }
    }

    fn take(&self) -> io::Result<bool> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == self.bytes) {
            return Ok(true);
        }
        let dir = statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        if dir.f_bavail.saturating_mul(dir.f_frsize) < self.bytes + ROOM_BYTES_MIN {
            return Ok(false);
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        if fallocate(&file, FallocateFlags::empty(), 0, self.bytes).is_err() {
            // The file system cannot promise room; bytes that are written have it.
            let zeros = vec![0; 1 << 16];
            for _ in 0..self.bytes / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
        }
        file.sync_all()?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_no_room_and_a_broken_disk_is_no_want_of_it() {
        let error = |errno: rustix::io::Errno| is_want_of_room(&io::Error::from(errno));
        assert!(error(rustix::io::Errno::NOSPC) && error(rustix::io::Errno::DQUOT));
        assert!(!error(rustix::io::Errno::IO) && !error(rustix::io::Errno::ROFS));
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve { path: dir.path().join("haul.reserve"), bytes: 0, is_held: false };
        assert!(!reserve.finds_no_room());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of the look");
    }
}
