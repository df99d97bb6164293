//! How a file is opened that a setting names: a key, certificates, a token, the settings themselves.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, fstatfs, open as open_file};

/// The file system of pipes without a name.
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// Opens a file for reading, and waits for nobody: a named pipe is refused, since nobody may ever write to it. A pipe that the
/// process was started with (`<(command)` of a shell) has somebody at its other end, and is read.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: OwnedFd = open_file(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Fifo && fstatfs(&file)?.f_type != PIPEFS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a named pipe, which nobody may ever write to; name a file",
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
    fn a_named_pipe_is_refused_and_one_without_a_name_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (named, file) = (dir.path().join("pipe"), dir.path().join("file"));
        rustix::fs::mknodat(rustix::fs::CWD, &named, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(open(&named).unwrap_err().to_string().contains("named pipe"));
        std::fs::write(&file, "text").unwrap();
        let read = |path: &Path| {
            let mut text = String::new();
            open(path).and_then(|mut file| file.read_to_string(&mut text)).map(|_| text)
        };
        assert_eq!(read(&file).unwrap(), "text");
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let written = std::thread::spawn(move || writer.write_all(b"late"));
        assert_eq!(read(Path::new(&path)).unwrap(), "late");
        written.join().unwrap().unwrap();
        assert_eq!(read(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
