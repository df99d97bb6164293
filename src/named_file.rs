//! How a file is opened that a setting names (a key, certificates, a token, the settings themselves), and whether one may be used.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, Timespec, accessat, fcntl_getfl, fcntl_setfl, fstat, fstatfs,
    open as open_file,
};
use rustix::io::Errno;

/// The file system of pipes without a name.
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// How long a named pipe is waited for: whoever hands a secret over by one does so while the process starts.
const PIPE_WAIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Fails where this user may not use a file or directory in these ways.
pub(crate) fn may(path: &Path, access: Access) -> io::Result<()> {
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        // Filters of system calls that are older than this one answer so; the older one asks for the user who started the process,
        // which is the same.
        Err(Errno::PERM) => Ok(accessat(CWD, path, access, AtFlags::empty())?),
        asked => Ok(asked?),
    }
}

/// Opens a file for reading, and waits for nobody: a named pipe to which nothing is written within some seconds is refused, since
/// nobody may ever do so. A pipe that the process was started with (`<(command)` of a shell) has somebody at its other end, and is
/// read.
pub fn open(path: &Path) -> io::Result<File> {
    open_within(path, PIPE_WAIT)
}

fn open_within(path: &Path, wait: Timespec) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: OwnedFd = open_file(path, flags, Mode::empty())?;
    let is_named_pipe =
        FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Fifo && fstatfs(&file)?.f_type != PIPEFS_MAGIC;
    if is_named_pipe && poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&wait))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a named pipe, and nobody writes to it; name a file",
        ));
    }
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_pipe_is_read_unless_nobody_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (named, file) = (dir.path().join("pipe"), dir.path().join("file"));
        rustix::fs::mknodat(rustix::fs::CWD, &named, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        assert!(open_within(&named, soon).unwrap_err().to_string().contains("named pipe"));
        std::fs::write(&file, "text").unwrap();
        let read = |path: &Path| {
            let mut text = String::new();
            open(path).and_then(|mut file| file.read_to_string(&mut text)).map(|_| text)
        };
        assert_eq!(read(&file).unwrap(), "text");
        let to = named.clone();
        let written = std::thread::spawn(move || std::fs::write(to, "secret"));
        assert_eq!(read(&named).unwrap(), "secret");
        written.join().unwrap().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let written = std::thread::spawn(move || writer.write_all(b"late"));
        assert_eq!(read(Path::new(&path)).unwrap(), "late");
        written.join().unwrap().unwrap();
        assert_eq!(read(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
