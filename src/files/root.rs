//! The download root: every path of a download starts here and stays inside.
//!
//! Paths are resolved beneath a directory handle by the kernel (`openat2`), so that neither `..` nor a symbolic link,
//! also one that is swapped in while we look, leads out of it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::XattrFlags;

use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::space::{NoSpace, Reservation, Space};
use crate::model::failure::{Failure, FailureReason};

/// Marks a directory as made by us, so that it may be removed again when nothing came to be in it.
const MADE_BY_US: &str = "user.haul.made";

/// Directories that are remembered as durable; beyond, they are simply synced again.
const DURABLE_MAX: usize = 4096;

/// The directory that all downloads lie in.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    /// The same directory.
    folder: Folder,
    space: Arc<Space>,
    /// Directories whose own names are known to be on the device.
    durable: Mutex<HashSet<String>>,
}

impl Root {
    /// Opens the root, and makes it when it is missing.
    pub fn open(path: &Path) -> Result<Root, Failure> {
        let shown = path.display().to_string();
        let open = || {
            Dir::create_ambient_dir_all(path, ambient_authority())?;
            let dir = Dir::open_ambient_dir(path, ambient_authority())?;
            let folder = Folder::new(&dir, "")?;
            Ok(Root { dir, folder, space: Arc::default(), durable: Mutex::default() })
        };
        open().map_err(|error| failure("open the download directory", &shown, &error))
    }

    /// The directory of this relative path, if it is there.
    pub fn find_folder(&self, path: &str) -> Result<Option<Folder>, Failure> {
        if path.is_empty() {
            return Ok(Some(self.folder.clone()));
        }
        names::check(path)?;
        match self.open_folder(path) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("open the directory", path, &error)),
        }
    }

    fn open_folder(&self, path: &str) -> io::Result<Folder> {
        Folder::new(&self.dir.open_dir(path)?, path)
    }

    /// The directory of this relative path, made where it is missing.
    pub fn make_folder(&self, path: &str) -> Result<Folder, Failure> {
        if let Some(folder) = self.find_folder(path)? {
            return Ok(folder);
        }
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for part in ends.map(|end| &path[..end]) {
            match self.dir.create_dir(part) {
                Ok(()) => self.mark_made(part),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failure("make the directory", part, &error)),
            }
        }
        self.find_folder(path)?.ok_or_else(|| {
            Failure::retryable(FailureReason::Io, format!("the directory `{path}` was removed while it was made"))
        })
    }

    /// Where the mark cannot be set the directory stays when it is empty, which harms nobody.
    fn mark_made(&self, path: &str) {
        if let Ok(folder) = self.open_folder(path) {
            let _ = rustix::fs::fsetxattr(folder.fd(), MADE_BY_US, b"1", XattrFlags::empty());
        }
    }

    /// Removes a directory and those above it, as long as they are empty and we made them.
    pub fn prune(&self, path: &str) {
        let mut rest = path;
        while !rest.is_empty() && self.is_made_by_us(rest) && self.dir.remove_dir(rest).is_ok() {
            self.lock_durable().remove(rest);
            rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }

    fn is_made_by_us(&self, path: &str) -> bool {
        let folder = self.open_folder(path);
        folder.is_ok_and(|folder| rustix::fs::fgetxattr(folder.fd(), MADE_BY_US, &mut [0u8; 1]).is_ok())
    }

    /// Makes the names in a folder durable, and the names of the folder and those above it once.
    pub(super) fn sync_folder(&self, folder: &Folder) -> io::Result<()> {
        folder.sync()?;
        let mut rest = folder.path();
        while !rest.is_empty() && !self.lock_durable().contains(rest) {
            let above = rest.rsplit_once('/').map_or("", |(above, _)| above);
            if above.is_empty() {
                self.folder.sync()?;
            } else {
                self.open_folder(above)?.sync()?;
            }
            let mut durable = self.lock_durable();
            if durable.len() >= DURABLE_MAX {
                durable.clear();
            }
            durable.insert(rest.to_owned());
            rest = above;
        }
        Ok(())
    }

    fn lock_durable(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `bytes` aside on the file system of `folder` for as long as the reservation lives.
    pub fn reserve(&self, folder: &Folder, bytes: u64) -> Result<Reservation, NoSpace> {
        self.space.reserve(folder, bytes)
    }

    /// Whether so many bytes are free, and not set aside, where downloads go.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.space.reserve(&self.folder, bytes).is_ok()
    }

    /// Opens a finished file for reading; `None` when it is not there.
    pub fn open_file(&self, path: &str) -> Result<Option<File>, Failure> {
        let (directory, name) = names::split(path)?;
        match self.find_folder(directory)? {
            Some(folder) => folder.open(name),
            None => Ok(None),
        }
    }

    /// Reads at most `length` bytes of a finished file from `offset` on, together with its size.
    /// `None` when the file is not there.
    pub async fn read(
        self: &Arc<Self>,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<Option<(Vec<u8>, u64)>, Failure> {
        let (root, path) = (Arc::clone(self), path.to_owned());
        blocking(move || {
            let Some(file) = root.open_file(&path)? else { return Ok(None) };
            let read = || {
                let size = file.metadata()?.len();
                let mut bytes = vec![0; size.saturating_sub(offset).min(length as u64) as usize];
                file.read_exact_at(&mut bytes, offset)?;
                Ok((bytes, size))
            };
            read().map(Some).map_err(|error| failure("read", &path, &error))
        })
        .await
    }

    /// Removes a finished file, and the directories of ours that it leaves empty. One that is not there is fine.
    pub async fn remove_file(self: &Arc<Self>, path: &str) -> Result<(), Failure> {
        let (root, path) = (Arc::clone(self), path.to_owned());
        blocking(move || {
            let (directory, name) = names::split(&path)?;
            let Some(folder) = root.find_folder(directory)? else { return Ok(()) };
            folder.remove(name).map_err(|error| failure("remove", &path, &error))?;
            root.prune(directory);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(&place.path().join("root")).unwrap();
        (place, root)
    }

    #[test]
    fn links_do_not_lead_out() {
        let (place, root) = root();
        std::os::unix::fs::symlink(place.path(), place.path().join("root/out")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.path().join("root/file")).unwrap();
        assert_eq!(root.make_folder("out").unwrap_err().reason, FailureReason::ForbiddenPath);
        assert_eq!(root.make_folder("out/new").unwrap_err().reason, FailureReason::ForbiddenPath);
        assert_eq!(root.make_folder("../x").unwrap_err().reason, FailureReason::ForbiddenPath);
        assert!(root.open_file("file").unwrap().is_none(), "a link is no finished file");
        assert!(!place.path().join("new").exists());
    }

    #[test]
    fn removes_only_empty_directories_of_its_own() {
        let (place, root) = root();
        std::fs::create_dir(place.path().join("root/theirs")).unwrap();
        root.make_folder("theirs/a/b").unwrap();
        root.make_folder("theirs/a/c").unwrap();
        root.prune("theirs/a/b");
        assert!(place.path().join("root/theirs/a/c").exists());
        root.prune("theirs/a/c");
        assert!(!place.path().join("root/theirs/a").exists());
        assert!(place.path().join("root/theirs").exists());
    }

    #[tokio::test]
    async fn reads_finished_files() {
        let (place, root) = root();
        let root = Arc::new(root);
        std::fs::write(place.path().join("root/f"), b"0123456789").unwrap();
        assert_eq!(root.read("f", 3, 4).await.unwrap(), Some((b"3456".to_vec(), 10)));
        assert_eq!(root.read("f", 20, 4).await.unwrap(), Some((Vec::new(), 10)));
        assert_eq!(root.read("g", 0, 4).await.unwrap(), None);
        root.remove_file("f").await.unwrap();
        root.remove_file("f").await.unwrap();
        assert!(!place.path().join("root/f").exists());
    }
}
