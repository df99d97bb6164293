//! Room on the disk that is kept for deleting: a full disk must not keep anybody from making room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Room for all that the log may hold, which has to be copied into the database before the log can begin anew, and for
/// a batch of deletions and purges.
const RESERVE_BYTES: u64 = 40 << 20;
/// The room that must be there before the reserve is taken from it.
const ROOM_BYTES_MIN: u64 = RESERVE_BYTES + (1 << 20);

/// A file that holds room, or held it until there was none.
pub(super) struct Reserve {
    path: PathBuf,
    is_held: bool,
}

impl Reserve {
    /// The reserve of a data directory, which is made if there is room.
    pub(super) fn of(dir: &Path) -> Reserve {
        let mut reserve = Reserve { path: dir.join("haul.reserve"), is_held: false };
        reserve.restore();
        reserve
    }

    /// Whether the room is held.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
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
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == RESERVE_BYTES) {
            return Ok(true);
        }
        let dir = statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        if dir.f_bavail.saturating_mul(dir.f_frsize) < ROOM_BYTES_MIN {
            return Ok(false);
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        if fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).is_err() {
            // The file system cannot promise room; bytes that are written have it.
            let zeros = vec![0; 1 << 16];
            for _ in 0..RESERVE_BYTES / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
        }
        file.sync_all()?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(true)
    }
}
