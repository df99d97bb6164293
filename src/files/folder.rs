//! One directory inside the download root, and what is done to single names in it.
//!
//! A name here is one path component and is never followed when it is a symbolic link, so that nothing in this file can
//! reach another directory.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FsWord, Mode, OFlags, RenameFlags, StatVfs};

use crate::files::device;
use crate::files::error::failure;
use crate::model::failure::Failure;

/// A directory handle with its path relative to the download root, for messages and results.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: Arc<OwnedFd>,
    path: Arc<str>,
    device: u64,
}

/// The permission of everybody to change what is in a directory. A group that shares one may replace each file in it, and trusts
/// itself.
const OTHERS_WRITE: u32 = 0o002;

/// What `statfs` calls NFS, SMB, CIFS, 9P and FUSE, whose servers may say that somebody else than this process has made what it
/// makes.
const MAPS_USERS: [FsWord; 5] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x6573_5546];

/// What tells a file from another one, and from itself once it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file system as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskRoom {
    /// Bytes that an ordinary user may still take.
    pub(super) free: u64,
    /// Bytes that an ordinary user could take if it were empty.
    pub(super) capacity: u64,
}

impl DiskRoom {
    /// Of the file system of a directory.
    pub(super) fn of_path(path: &Path) -> io::Result<DiskRoom> {
        Ok(DiskRoom::of(&rustix::fs::statvfs(path)?))
    }

    fn of(stat: &StatVfs) -> DiskRoom {
        let of_root = stat.f_bfree.saturating_sub(stat.f_bavail);
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        DiskRoom { free: bytes(stat.f_bavail), capacity: bytes(stat.f_blocks.saturating_sub(of_root)) }
    }
}

impl Folder {
    /// cap-std's handles are for looking names up only; this one can also be synced and carry attributes.
    pub(super) fn new(dir: &Dir, path: &str) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
        let device = rustix::fs::fstat(&dir)?.st_dev;
        Ok(Folder { dir: Arc::new(dir), path: path.into(), device })
    }

    /// Whether a file in it is of somebody who could not change the files of this process otherwise: where everybody may write, anybody
    /// may have put it there under a name that haul would give one. The owner of the directory may replace every file in it, and so may
    /// the system's administrator.
    pub(super) fn is_of_stranger(&self, file: &Metadata) -> bool {
        if [rustix::process::geteuid().as_raw(), 0].contains(&file.uid()) {
            return false;
        }
        // As the directory is now: somebody may have changed who may write there.
        let Ok(stat) = rustix::fs::fstat(&self.dir) else { return true };
        let maps_users = || rustix::fs::fstatfs(&self.dir).is_ok_and(|stat| MAPS_USERS.contains(&stat.f_type));
        stat.st_mode & OTHERS_WRITE != 0 && file.uid() != stat.st_uid && !maps_users()
    }

    /// Whether both are handles of one directory.
    pub(super) fn is_same(&self, other: &Folder) -> bool {
        let node = |folder: &Folder| rustix::fs::fstat(&folder.dir).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        Arc::ptr_eq(&self.dir, &other.dir) || node(self).is_some_and(|own| Some(own) == node(other))
    }

    /// Its path relative to the root; empty: the root itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of a name in it, relative to the root.
    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Whether something has this name, whatever it is.
    pub fn has(&self, name: &str) -> Result<bool, Failure> {
        self.leads_somewhere(name).map_err(|error| failure("look at", &self.path_of(name), &error))
    }

    pub(super) fn leads_somewhere(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What tells that which has this name from what has it later; `None`: nothing has it.
    pub(super) fn mark(&self, name: &str) -> Result<Option<Mark>, Failure> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Mark {
                inode: stat.st_ino,
                size: stat.st_size,
                modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
                changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(failure("look at", &self.path_of(name), &error.into())),
        }
    }

    /// Whether a name leads to this open file.
    pub(super) fn leads_to(&self, name: &str, file: &File) -> io::Result<bool> {
        let own = file.metadata()?;
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.dev(), own.ino())),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file for reading; `None` when there is nothing, or something else, of this name.
    pub fn open(&self, name: &str) -> Result<Option<File>, Failure> {
        self.open_unless(name, is_no_file)
    }

    /// Opens a regular file for reading; `None` also for what cannot be opened because of an error that `is_none` names.
    fn open_unless(&self, name: &str, is_none: impl Fn(&io::Error) -> bool) -> Result<Option<File>, Failure> {
        // Without O_NONBLOCK the opening of a pipe would wait for its writer.
        match self.open_with(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => Ok(file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)),
            Err(error) if is_none(&error) => Ok(None),
            Err(error) => Err(failure("open", &self.path_of(name), &error)),
        }
    }

    /// As [`Folder::open`], for a file that counts only if it was made here: one that may not be read is of somebody else.
    pub fn open_own(&self, name: &str) -> Result<Option<File>, Failure> {
        self.open_unless(name, |error| is_no_file(error) || error.kind() == io::ErrorKind::PermissionDenied)
    }

    pub(super) fn open_with(&self, name: &str, flags: OFlags) -> io::Result<File> {
        single(name)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o666))?))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        single(to)?;
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    /// Renames unless the new name is taken, which is `AlreadyExists`; atomic either way.
    pub(super) fn rename_to_free(&self, from: &str, to: &str) -> io::Result<()> {
        use rustix::io::Errno;
        single(to)?;
        match rustix::fs::renameat_with(&self.dir, from, &self.dir, to, RenameFlags::NOREPLACE) {
            // A crash between the two calls leaves a part with two names, which is noticed when it is opened.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty()) {
                    // File systems over a network, or of another system, have no hard links either.
                    Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => {
                        self.rename_over_placeholder(from, to)
                    }
                    linked => Ok(linked.and_then(|()| rustix::fs::unlinkat(&self.dir, from, AtFlags::empty()))?),
                }
            }
            other => Ok(other?),
        }
    }

    /// As [`Folder::rename_to_free`], for file systems that have nothing for it: the name is taken by an empty file first,
    /// which only this call can have made. Between the look at it and the rename somebody may still put another there: that
    /// is as much as such a file system can do.
    fn rename_over_placeholder(&self, from: &str, to: &str) -> io::Result<()> {
        let placeholder = self.open_with(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        if !self.leads_to(to, &placeholder)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to).inspect_err(|_| {
            // Where it cannot be looked at any more, it stays.
            if self.leads_to(to, &placeholder).is_ok_and(|is_own| is_own) {
                let _ = self.remove(to);
            }
        })
    }

    /// Lets two names change their files at once. `false`: the file system cannot do that.
    pub(super) fn exchange(&self, one: &str, other: &str) -> io::Result<bool> {
        use rustix::io::Errno;
        single(other)?;
        match rustix::fs::renameat_with(&self.dir, one, &self.dir, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Removes a name; one that is not there is fine.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Moves a file of it into another directory of the same file system.
    pub(super) fn rename_out(&self, name: &str, place: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, name, rustix::fs::CWD, place.join(name))?)
    }

    /// The way back.
    pub(super) fn rename_in(&self, place: &Path, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(rustix::fs::CWD, place.join(name), &self.dir, name)?)
    }

    /// Makes what was done to its names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        device::sync_names(&self.dir)
    }

    /// Whether it has been removed, so that nothing can get a name in it any more.
    pub(super) fn is_gone(&self) -> bool {
        rustix::fs::fstat(&self.dir).is_ok_and(|stat| stat.st_nlink == 0)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    /// Names its file system.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Looks at the free space of its file system.
    pub(super) fn room(&self) -> io::Result<DiskRoom> {
        Ok(DiskRoom::of(&rustix::fs::fstatvfs(&self.dir)?))
    }
}

/// Refuses what is not one name: the system would follow it out of the directory.
pub(super) fn single(name: &str) -> io::Result<()> {
    let is_single = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if is_single {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a name in this directory"))
    }
}

/// Joins two relative paths, either of which may be empty.
pub fn join(directory: &str, path: &str) -> String {
    match (directory.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => directory.to_owned(),
        _ => [directory, path].join("/"),
    }
}

/// Nothing there, or a link, or a socket: no file of ours in any case.
fn is_no_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOENT, Errno::LOOP, Errno::NXIO, Errno::ISDIR]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_takes_the_name_only_where_it_is_free() {
        let at = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(at.path(), cap_std::ambient_authority()).unwrap();
        let folder = Folder::new(&dir, "").unwrap();
        let read = |name: &str| std::fs::read_to_string(at.path().join(name)).ok();
        std::fs::write(at.path().join("part"), "whole").unwrap();
        std::fs::write(at.path().join("theirs"), "theirs").unwrap();
        let refused = folder.rename_over_placeholder("part", "theirs").unwrap_err();
        assert_eq!((refused.kind(), read("theirs").as_deref()), (io::ErrorKind::AlreadyExists, Some("theirs")));
        assert!(folder.rename_over_placeholder("nothing", "free").is_err());
        assert_eq!(read("free"), None, "the placeholder goes with what it was for");
        folder.rename_over_placeholder("part", "free").unwrap();
        assert_eq!((read("free").as_deref(), read("part")), (Some("whole"), None));
    }
}
