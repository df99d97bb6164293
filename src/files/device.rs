//! What forces bytes and names to the device, and looks whether that was so. Two answers of ext4 are not enough by themselves:
//!
//! - Where its journal could not be written, whoever waits for that just then is told so. Whoever asks later is told that all is well,
//!   since nothing is left to be written, whatever was in the journal: names of files that are gone after a restart. From then on the
//!   file system takes no changes, so it is asked for one after each sync of names.
//! - Where it finds no blocks for bytes as it writes them back, since it cannot read where they are, it drops them and tells nobody
//!   but a sync that was waiting for just these. What is left is a hole, so after each sync of bytes there must be none.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FsWord, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::files::ranges::RangeSet;

/// What `statfs` calls ext4, and those before it.
const EXT4: FsWord = 0xef53;

/// An attribute that no directory has.
const NO_ATTRIBUTE: &str = "user.haul.none";

/// Forces the names in a directory to the device.
pub(super) fn sync_names(dir: impl AsFd) -> io::Result<()> {
    rustix::fs::fsync(&dir)?;
    match change_nothing(dir) {
        Err(error @ (Errno::ROFS | Errno::IO | Errno::UCLEAN)) => Err(error.into()),
        // It has changed nothing. Whatever else is refused says nothing of the journal.
        _ => Ok(()),
    }
}

/// Asks a file system for a change that begins as each other one does, and changes nothing.
fn change_nothing(dir: impl AsFd) -> rustix::io::Result<()> {
    match rustix::fs::fremovexattr(&dir, NO_ATTRIBUTE) {
        // Attributes are not to be had, or not in a directory that is shared and somebody else's. A file without a name costs more: ext4
        // looks past the number of each file that was removed within seconds, one by one, where it makes another one.
        Err(Errno::PERM | Errno::OPNOTSUPP) => {
            let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
            rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR).map(drop)
        }
        asked => asked,
    }
}

/// Forces the bytes of a file to the device, of which so many are its own.
pub(super) fn sync_bytes(file: &File, written: &RangeSet) -> io::Result<()> {
    file.sync_data()?;
    look_for_holes(file, written)
}

/// Fails where bytes that were written, and forced to the device, are none. Moves the place where the file is read next.
pub(super) fn look_for_holes(file: &File, written: &RangeSet) -> io::Result<()> {
    if !loses_bytes_silently(file)? {
        return Ok(());
    }
    for range in written.iter() {
        match rustix::fs::seek(file, SeekFrom::Hole(range.start)) {
            Ok(hole) if hole < range.end => return Err(io::Error::other("the file system has lost bytes of it")),
            Ok(_) => {}
            Err(Errno::NXIO) => return Err(io::Error::other("the file system has cut it short")),
            // It cannot say where they are.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether its file system may drop bytes and say nothing. Others make holes of zeros by themselves, and say what they could not
/// write.
pub(super) fn loses_bytes_silently(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type == EXT4)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::FallocateFlags;

    use super::*;

    #[test]
    fn a_sync_of_names_leaves_nothing() {
        let place = tempfile::tempdir_in(".").unwrap();
        let dir = File::open(place.path()).unwrap();
        let before = dir.metadata().unwrap();
        sync_names(&dir).unwrap();
        let names = std::fs::read_dir(place.path()).unwrap().count();
        let after = dir.metadata().unwrap();
        assert_eq!((names, before.modified().unwrap()), (0, after.modified().unwrap()));
        assert!(matches!(change_nothing(&dir), Ok(()) | Err(Errno::NODATA)));
    }

    /// What is left of bytes for which the file system found no blocks.
    #[test]
    fn bytes_that_the_file_system_has_lost_are_missed() {
        let file = tempfile::tempfile_in(".").unwrap();
        if !loses_bytes_silently(&file).unwrap() {
            return;
        }
        file.write_all_at(&vec![7; 20_000], 0).unwrap();
        let all = RangeSet::from_start(20_000);
        sync_bytes(&file, &all).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8_192, 4_096).unwrap();
        assert!(sync_bytes(&file, &all).is_err());
        sync_bytes(&file, &RangeSet::from_start(8_192)).unwrap();
        let mut behind = RangeSet::default();
        behind.add(12_288..20_000);
        sync_bytes(&file, &behind).unwrap();
        behind.add(30_000..30_001);
        assert!(sync_bytes(&file, &behind).is_err(), "it ends before that");
        // Set aside, and not written.
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
        assert!(sync_bytes(&file, &all).is_err());
    }
}
