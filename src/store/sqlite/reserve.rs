//! Room on the disk that is kept for deleting: a full disk must not keep anybody from making room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};

use crate::store::sqlite::needs::Left;

/// Room for all that the log may hold, which has to be copied into the database before the log can begin anew, and for
/// a batch of deletions and purges.
const RESERVE_BYTES_MAX: u64 = 40 << 20;
/// The share of a small disk that is reserved.
const SHARE: u64 = 4;
/// The part of the reserve that is lent, one in so many.
const LENT_SHARE: u64 = 5;
/// The room that must be left beside the reserve.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// Bytes that are written to find out whether there is any room.
const PROBE_BYTES: usize = 1 << 16;

/// Whether an error says that there is no room left, on the disk or within a quota.
fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file that holds room, or held it until there was none. A part of it is lent to small batches of all kinds, and more to
/// those that add nothing, so that work can be ended on a full disk; the rest is for deletions alone, and nobody else can take it
/// meanwhile.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// How much of it is held now.
    held: u64,
    /// Whether it was ever held. On a disk that never had so much room nothing is kept back.
    was_held: bool,
}

/// For writing, and not through a link: that would lead to any file that this user may write.
fn own(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
}

impl Reserve {
    /// The reserve of a data directory, which is made if there is room.
    pub(super) fn of(dir: &Path) -> Reserve {
        let bytes = statvfs(dir).map_or(RESERVE_BYTES_MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) / SHARE);
        let bytes = bytes.min(RESERVE_BYTES_MAX) >> 16 << 16;
        let path = dir.join("haul.reserve");
        let there = fs::metadata(&path).ok();
        let held = there.as_ref().map_or(0, |file| file.len().min(bytes));
        let mut reserve = Reserve { path, bytes, held, was_held: there.is_some() };
        reserve.restore();
        reserve
    }

    /// How much room is held, or was.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether any room is held.
    pub(super) fn is_held(&self) -> bool {
        self.held > 0
    }

    /// Whether some of the room was needed and has not come back.
    pub(super) fn is_short(&self) -> bool {
        self.was_held && self.held < self.bytes
    }

    /// The part that is lent.
    pub(super) fn lent(&self) -> u64 {
        self.bytes / LENT_SHARE
    }

    /// What is left of it, where a copy of the log makes the database longer by so much, and so much of the disk is free. Whoever
    /// deletes has to copy the log, and needs a part beside that. What was lent and is free still is as good for that, and no more:
    /// a quota may be less than what the disk says.
    pub(super) fn left(&self, growth: u64, free: u64) -> Left {
        let lent = self.lent();
        let free = free.min(self.bytes.saturating_sub(self.held));
        match self.held {
            _ if !self.was_held => Left::NoReserve,
            held if held >= self.bytes => Left::All,
            held if held >= growth + 2 * lent => Left::Another,
            held if held + free >= (self.bytes - lent).min(growth + lent) => Left::Deletions,
            _ => Left::Less,
        }
    }

    /// How much of the disk is free, as far as that can be found out.
    pub(super) fn free(&self) -> u64 {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        statvfs(dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether a file in the directory cannot be written for want of room, of the disk or of a quota.
    pub(super) fn finds_no_room(&self) -> bool {
        let path = self.path.with_extension("probe");
        let write = || -> io::Result<()> {
            let mut file = own(OpenOptions::new().create(true).truncate(true)).open(&path)?;
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        };
        let written = write();
        // It may not have been made.
        let _ = fs::remove_file(&path);
        written.is_err_and(|error| is_want_of_room(&error))
    }

    /// Whether the disk has room for so many bytes more beside the part that is lent.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.free() >= bytes + self.lent()
    }

    /// Lends a part of the room, or another one.
    pub(super) fn lend(&mut self) {
        self.shrink(self.held.saturating_sub(self.lent()));
    }

    /// Gives all the room to whoever needs it next. The empty file stays, so that the next start knows of it.
    pub(super) fn give_up(&mut self) {
        self.shrink(0);
    }

    fn shrink(&mut self, bytes: u64) {
        if self.held <= bytes {
            return;
        }
        self.held = bytes;
        if let Err(error) = own(&mut OpenOptions::new()).open(&self.path).and_then(|file| file.set_len(bytes)) {
            tracing::warn!(%error, path = %self.path.display(), "the reserve of the store cannot be given up");
        }
    }

    /// Takes the room again, if there is enough of it: all, or else what deletions need.
    pub(super) fn restore(&mut self) {
        for bytes in [self.bytes, self.bytes - self.lent()] {
            if self.held >= bytes {
                return;
            }
            match self.take(bytes) {
                Ok(true) => {
                    (self.held, self.was_held) = (bytes, true);
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    // Whatever was written of it is in somebody's way.
                    let held = std::mem::replace(&mut self.held, bytes);
                    self.shrink(held);
                    tracing::warn!(%error, path = %self.path.display(), "no room is reserved for deletions");
                    return;
                }
            }
        }
    }

    fn take(&self, bytes: u64) -> io::Result<bool> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let disk = statvfs(dir)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes - self.held + ROOM_BYTES_MIN {
            return Ok(false);
        }
        let mut file = own(OpenOptions::new().create(true).truncate(false)).open(&self.path)?;
        if let Err(errno) = fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            let error = io::Error::from(errno);
            if is_want_of_room(&error) {
                // A quota is not in the numbers above. Nothing is written to find out how far it goes: each commit asks again,
                // and what is left of it is for these.
                file.set_len(self.held)?;
                return Ok(false);
            }
            // The file system cannot promise room; bytes that are written have it.
            file.seek(io::SeekFrom::Start(self.held))?;
            let zeros = vec![0; 1 << 16];
            for _ in 0..(bytes - self.held).div_ceil(zeros.len() as u64) {
                file.write_all(&zeros)?;
            }
        }
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The room for deletions stays where nobody else can take it.
    #[test]
    fn a_part_of_the_room_is_lent_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 10 << 16;
        let new = || Reserve { path: dir.path().join("haul.reserve"), bytes, held: 0, was_held: false };
        let mut reserve = new();
        let length = || fs::metadata(dir.path().join("haul.reserve")).unwrap().len();
        assert_eq!((reserve.is_short(), reserve.left(0, 0)), (false, Left::NoReserve));
        reserve.restore();
        assert_eq!((length(), reserve.is_short(), reserve.left(0, 0)), (bytes, false, Left::All));
        reserve.lend();
        assert_eq!((length(), reserve.is_short()), (8 << 16, true));
        let left = [0, 4 << 16, 5 << 16, bytes].map(|growth| reserve.left(growth, 0));
        assert_eq!(left, [Left::Another, Left::Another, Left::Deletions, Left::Deletions]);
        reserve.lend();
        assert_eq!(length(), 6 << 16);
        let left = [0, 2 << 16, 4 << 16, 5 << 16].map(|growth| reserve.left(growth, 0));
        assert_eq!(left, [Left::Another, Left::Another, Left::Deletions, Left::Less]);
        // What was lent and nobody has used counts, and what else is free does not.
        let left = [5 << 16, 8 << 16].map(|growth| reserve.left(growth, 1 << 16));
        assert_eq!(left, [Left::Deletions, Left::Less]);
        assert_eq!([8 << 16, 9 << 16].map(|growth| reserve.left(growth, u64::MAX)), [Left::Deletions, Left::Deletions]);
        reserve.give_up();
        assert_eq!((length(), reserve.is_short(), reserve.left(0, 0)), (0, true, Left::Less));
        reserve.lend();
        reserve.restore();
        assert_eq!((length(), reserve.is_short(), reserve.left(0, 0)), (bytes, false, Left::All));
    }

    #[test]
    fn a_quota_is_no_room_and_a_broken_disk_is_no_want_of_it() {
        let error = |errno: rustix::io::Errno| is_want_of_room(&io::Error::from(errno));
        assert!(error(rustix::io::Errno::NOSPC) && error(rustix::io::Errno::DQUOT));
        assert!(!error(rustix::io::Errno::IO) && !error(rustix::io::Errno::ROFS));
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve { path: dir.path().join("haul.reserve"), bytes: 0, held: 0, was_held: false };
        assert!(!reserve.finds_no_room());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of the look");
    }
}
