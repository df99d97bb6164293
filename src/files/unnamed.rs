//! Files that have no name yet. What is in one is gone with its process, and it costs a file system less than one with a
//! name for a while: a small download gets its only name when it is complete.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::files::folder::Folder;

/// The permissions that a new file asks for, before the process's mask.
const MODE: u32 = 0o666;

/// How a file without a name gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its descriptor. Before Linux 6.10 that needs a privilege.
    ByDescriptor,
    /// By the path that `/proc` has for the descriptor.
    ByPath,
}

impl Naming {
    /// How it is done on the file system of this directory; `None`: not at all.
    pub(super) fn of(folder: &Folder) -> Option<Naming> {
        let file = open(folder).ok()?;
        // Before Linux 6.0 some file systems did not obey the mask.
        if file.metadata().ok()?.permissions().mode() & 0o777 != MODE & !mask()? {
            return None;
        }
        // A name that is taken is found out last: nothing else stands in the way then, and nothing is changed.
        let would_do = |naming: &Naming| naming.link(&file, folder, ".").is_err_and(|error| is_taken(&error));
        [Naming::ByDescriptor, Naming::ByPath].into_iter().find(would_do)
    }

    /// Gives a file the name, unless that is taken, which is `AlreadyExists`.
    pub(super) fn link(self, file: &File, folder: &Folder, name: &str) -> io::Result<()> {
        match self {
            Naming::ByDescriptor => rustix::fs::linkat(file, "", folder.fd(), name, AtFlags::EMPTY_PATH)?,
            Naming::ByPath => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, path, folder.fd(), name, AtFlags::SYMLINK_FOLLOW)?;
            }
        }
        Ok(())
    }
}

/// A new file in this directory without a name.
pub(super) fn open(folder: &Folder) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(folder.fd(), ".", flags, Mode::from_raw_mode(MODE))?))
}

fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EXIST.raw_os_error())
}

/// The mask of the process, without setting it, which is the only way that the system calls have.
fn mask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
