//! The download root: every path of a download starts here and stays inside.
//!
//! Paths are resolved beneath a directory handle by the kernel (`openat2`), so that neither `..` nor a symbolic link,
//! also one that is swapped in while we look, leads out of it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::files::candidates;
use crate::files::candidates::Candidates;
use crate::files::claims::{Claim, Claims};
use crate::files::disk::Faults;
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::open_folders::OpenFolders;
use crate::files::source;
use crate::files::space::{NoSpace, Reservation, Space};
use crate::files::syncs::Syncs;
use crate::files::together;
use crate::files::together::{Together, When};
use crate::files::unnamed;
use crate::files::unnamed::Naming;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::CreatedFile;

/// Marks a directory as made by us, so that it may be removed again when nothing came to be in it.
const MADE_BY_US: &str = "user.haul.made";

/// Directories that are remembered as durable; beyond, they are simply synced again.
const DURABLE_MAX: usize = 4096;
/// Names that are remembered as taken; beyond, they are simply tried again.
const NUMBERS_MAX: usize = 4096;

/// The directory that all downloads lie in.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    /// The same directory.
    folder: Folder,
    space: Arc<Space>,
    /// Directories whose own names are known to be on the device.
    durable: Mutex<HashSet<String>>,
    open: OpenFolders,
    /// The number that the next file of a name gets, which is taken without one. A hint: what is wrong costs a try.
    numbers: Mutex<HashMap<String, u32>>,
    candidates: Candidates,
    claims: Arc<Claims>,
    /// How a file in it that has no name gets one; `None`: files have names from the start.
    naming: Option<Naming>,
    syncs: Syncs,
    together: Arc<Together>,
    faults: Option<Arc<dyn Faults>>,
}

impl Root {
    /// Opens the root, and makes it when it is missing.
    pub fn open(path: &Path) -> Result<Root, Failure> {
        Root::with_reserve(path, None)
    }

    /// As [`Root::open`], with so many bytes that downloads leave free on their file system; `None`: 1 GiB or 5 % of it,
    /// whichever is less.
    pub fn with_reserve(path: &Path, reserve_bytes: Option<u64>) -> Result<Root, Failure> {
        let open = || {
            Dir::create_ambient_dir_all(path, ambient_authority())?;
            Dir::open_ambient_dir(path, ambient_authority())
        };
        Root::of(open(), reserve_bytes, &path.display().to_string())
    }

    fn of(dir: io::Result<Dir>, reserve_bytes: Option<u64>, shown: &str) -> Result<Root, Failure> {
        let made = dir.and_then(|dir| {
            let folder = Folder::new(&dir, "")?;
            let when = together::when(&folder);
            Ok(Root {
                naming: Naming::of(&folder),
                dir,
                folder,
                space: Arc::new(Space::new(reserve_bytes)),
                durable: Mutex::default(),
                open: OpenFolders::new(),
                numbers: Mutex::default(),
                candidates: Candidates::default(),
                claims: Arc::default(),
                syncs: Syncs::default(),
                together: Arc::new(Together::new(when)),
                faults: None,
            })
        });
        made.map_err(|error| failure("open the download directory", shown, &error))
    }

    /// Opens another root, and makes it when it is missing. What both set aside on one file system counts together.
    pub fn beside(&self, path: &Path) -> Result<Root, Failure> {
        Ok(self.counting_with(Root::open(path)?))
    }

    /// As [`Root::beside`], for a directory of this name in another one of this root. Where either is a link it is refused:
    /// whoever may write here must not lead it elsewhere.
    pub(super) fn within(&self, outer: &str, name: &str) -> Result<Root, Failure> {
        let open = || {
            let outer = make_dir(&self.dir, outer)?;
            make_dir(&outer, name).map(|inner| Dir::from_std_file(inner.into()))
        };
        Ok(self.counting_with(Root::of(open(), None, &format!("{outer}/{name}"))?))
    }

    /// Renames a directory that stands in another one of this root, if both are there.
    pub(super) fn rename_within(&self, outer: &str, name: &str, to: &str) -> io::Result<()> {
        let renamed = open_dir(&self.dir, outer).and_then(|outer| Ok(rustix::fs::renameat(&outer, name, &outer, to)?));
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    fn counting_with(&self, other: Root) -> Root {
        let (space, claims) = (Arc::clone(&self.space), Arc::new(self.claims.beside()));
        Root { space, claims, open: self.open.beside(), faults: self.faults.clone(), ..other }
    }

    /// Lets the disk fail as `faults` says.
    #[must_use]
    pub fn with_faults(self, faults: Arc<dyn Faults>) -> Root {
        Root { faults: Some(faults), ..self }
    }

    /// Gives each part its name from the start, as where the file system has no files without one.
    #[must_use]
    pub fn with_named_parts(self) -> Root {
        Root { naming: None, ..self }
    }

    /// Makes each small file durable together with others, as where many are.
    #[must_use]
    pub fn with_files_together(self) -> Root {
        Root { together: Arc::new(Together::new(When::Always)), ..self }
    }

    /// The files that are being made durable.
    pub(super) fn together(&self) -> &Arc<Together> {
        &self.together
    }

    /// Forces all that is written on the file system of the root to the device.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.sync_all())?;
        Ok(rustix::fs::syncfs(self.folder.fd())?)
    }

    pub(super) fn faults(&self) -> Option<Arc<dyn Faults>> {
        self.faults.clone()
    }

    /// Whether the part of this path is in use.
    pub(super) fn is_claimed(&self, path: &str) -> bool {
        self.claims.has(path)
    }

    /// Claims the part of this path; `None`: it is in use.
    pub(super) fn claim(&self, path: String) -> Option<Claim> {
        self.claims.claim(path)
    }

    /// A new file in this directory that has no name, and how it gets one; `None`: there can be none there.
    pub(super) fn unnamed(&self, folder: &Folder) -> Option<(File, Naming)> {
        // Other file systems below the root were not looked at.
        let naming = self.naming.filter(|_| folder.device() == self.folder.device())?;
        Some((unnamed::open(folder).ok()?, naming))
    }

    /// Whether a part in `folder` may be kept while its download waits for room there.
    pub(super) fn may_wait(&self, folder: &Folder, part_name: &str) -> bool {
        self.claims.may_wait(folder, part_name)
    }

    /// Whether a part in `folder` may be kept while its download waits for room within what its tenant may store.
    pub(super) fn may_wait_for_tenant(&self, folder: &Folder, part_name: &str) -> bool {
        self.claims.may_wait_for_tenant(folder, part_name)
    }

    /// Notes that a part does not wait for room any more.
    pub(super) fn goes_on(&self, folder: &Folder, part_name: impl Fn() -> String) {
        self.claims.goes_on(folder, part_name);
    }

    /// The directory of this relative path, if it is there.
    pub fn find_folder(&self, path: &str) -> Result<Option<Folder>, Failure> {
        if path.is_empty() {
            return Ok(Some(self.folder.clone()));
        }
        if let Some(folder) = self.open.get(path) {
            return Ok(Some(folder));
        }
        names::check(path)?;
        match self.open_folder(path) {
            Ok(folder) => {
                self.open.keep(path, &folder);
                Ok(Some(folder))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("open the directory", path, &error)),
        }
    }

    /// Opens the directory anew the next time.
    pub(super) fn forget_folder(&self, path: &str) {
        self.open.forget(path);
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
                Ok(()) => {
                    // Whatever was known of one of this name that is gone.
                    lock(&self.durable).remove(part);
                    self.mark_made(part);
                }
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
        self.prune_around(path, None);
    }

    /// As [`Root::prune`], where `own` is the path of a part that was in it and is being removed.
    pub(super) fn prune_around(&self, path: &str, own: Option<&str>) {
        let mut rest = path;
        let remove = |path: &str| self.claims.remove_unused(path, own, || self.dir.remove_dir(path).is_ok());
        while !rest.is_empty() && self.is_made_by_us(rest) && remove(rest) {
            lock(&self.durable).remove(rest);
            self.forget_folder(rest);
            rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }

    fn is_made_by_us(&self, path: &str) -> bool {
        let folder = self.open_folder(path);
        folder.is_ok_and(|folder| rustix::fs::fgetxattr(folder.fd(), MADE_BY_US, &mut [0u8; 1]).is_ok())
    }

    /// Makes the names in a folder durable, and the names of the folder and those above it once.
    pub(super) fn sync_folder(&self, folder: &Folder) -> io::Result<()> {
        self.syncs.sync(folder.path(), || self.sync_names(folder))?;
        let mut rest = folder.path();
        while !rest.is_empty() && !lock(&self.durable).contains(rest) {
            let above = rest.rsplit_once('/').map_or("", |(above, _)| above);
            if above.is_empty() {
                self.sync_names(&self.folder)?;
            } else {
                self.sync_names(&self.open_folder(above)?)?;
            }
            let mut durable = lock(&self.durable);
            if durable.len() >= DURABLE_MAX {
                durable.clear();
            }
            durable.insert(rest.to_owned());
            rest = above;
        }
        Ok(())
    }

    fn sync_names(&self, folder: &Folder) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.sync_names(folder.path()))?;
        folder.sync()
    }

    /// The number to try first for a file whose name is `path`, which is taken.
    pub(super) fn first_number(&self, path: &str) -> u32 {
        lock(&self.numbers).get(path).copied().unwrap_or(0)
    }

    /// What is remembered of files that were renamed.
    pub(super) fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// Remembers that all numbers before `next` were taken.
    pub(super) fn note_number(&self, path: String, next: u32) {
        let mut numbers = lock(&self.numbers);
        if numbers.len() >= NUMBERS_MAX {
            numbers.clear();
        }
        let number = numbers.entry(path).or_default();
        *number = next.max(*number);
    }

    /// Sets `bytes` aside on the file system of `folder` for as long as the reservation lives.
    pub fn reserve(&self, folder: &Folder, bytes: u64) -> Result<Reservation, NoSpace> {
        self.space.reserve(folder, bytes)
    }

    /// Whether so many bytes are free, beside the reserve and what is set aside, on the file system of the directory
    /// `folder`. A look at the file system and nothing else; a directory that is not there yet is looked for above.
    pub fn has_room(&self, folder: &str, bytes: u64) -> bool {
        let mut path = folder;
        let handle = loop {
            match self.find_folder(path) {
                Ok(Some(handle)) => break handle,
                // What is wrong with it is for the attempt to say.
                Err(_) => return true,
                Ok(None) => path = path.rsplit_once('/').map_or("", |(above, _)| above),
            }
        };
        self.space.has_room(&handle, bytes)
    }

    /// Opens a finished file for reading; `None` when it is not there.
    pub fn open_file(&self, path: &str) -> Result<Option<File>, Failure> {
        let (directory, name) = names::split(path)?;
        match self.find_folder(directory)? {
            Some(folder) => folder.open(name),
            None => Ok(None),
        }
    }

    /// Opens a finished download of `size` bytes for reading, whatever happens to its name afterwards. `None`: it is not
    /// there, or it is not the one that the download left.
    pub async fn open_finished(
        self: &Arc<Self>,
        path: &str,
        size: u64,
        created: Option<CreatedFile>,
    ) -> Result<Option<Finished>, Failure> {
        let (root, path) = (Arc::clone(self), path.to_owned());
        blocking(move || {
            let Some(file) = root.open_file(&path)? else { return Ok(None) };
            let metadata = file.metadata().map_err(|error| failure("look at", &path, &error))?;
            let identity = source::identity(&metadata);
            let is_it = metadata.len() == size && created.is_none_or(|created| created == identity);
            Ok(is_it.then(|| Finished { file: Arc::new(file), size, identity, path }))
        })
        .await
    }

    /// Removes a finished download if it is still the file that `created` names, of `size` bytes, and the directories made
    /// by haul that this leaves empty. Says whether it was.
    pub async fn remove_created(
        self: &Arc<Self>,
        path: &str,
        size: u64,
        created: CreatedFile,
    ) -> Result<bool, Failure> {
        let (root, path) = (Arc::clone(self), path.to_owned());
        blocking(move || {
            let (directory, name) = names::split(&path)?;
            let Some(folder) = root.find_folder(directory)? else { return Ok(false) };
            let aside = format!("{}gone-{}", names::OWN_PREFIX, created.inode);
            let is_it = |name: &str| {
                // One that may not be read is of somebody else.
                let Some(file) = folder.open_own(name)? else { return Ok(false) };
                let metadata = file.metadata().map_err(|error| failure("look at", &folder.path_of(name), &error))?;
                Ok(metadata.len() == size && source::identity(&metadata) == created)
            };
            // A crash may have left it there, or somebody else's that was moved before it was looked at.
            if folder.has(&aside)? && !is_it(&aside)? {
                candidates::put_back(&folder, &aside, name).map_err(|error| failure("put back", &path, &error))?;
            }
            let is_gone = if is_it(name)? { remove_checked(&folder, name, &aside, is_it)? } else { is_it(&aside)? };
            if is_gone {
                folder.remove(&aside).map_err(|error| failure("remove", &path, &error))?;
                root.prune(directory);
            }
            Ok(is_gone)
        })
        .await
    }
}

/// Moves the file that has the name to `aside` if that is the one. `false`: it is another one, which stays.
///
/// Nothing keeps somebody else from putting a file of theirs there between a look and a removal, which would destroy it. So it
/// is moved, and only then looked at: a file of theirs is put back.
fn remove_checked(
    folder: &Folder,
    name: &str,
    aside: &str,
    is_it: impl Fn(&str) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let fail = |error: io::Error| failure("remove", &folder.path_of(name), &error);
    match folder.rename_to_free(name, aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // There is no room for another name, and this is what makes room.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            let is_own = is_it(name)?;
            if is_own {
                folder.remove(name).map_err(fail)?;
            }
            return Ok(is_own);
        }
        moved => moved.map_err(fail)?,
    }
    let is_own = is_it(aside);
    if is_own != Ok(true) {
        candidates::put_back(folder, aside, name).map_err(fail)?;
    }
    is_own
}

/// A finished download that is open for reading.
#[derive(Clone, Debug)]
pub struct Finished {
    file: Arc<File>,
    size: u64,
    /// What it was when it was opened.
    identity: CreatedFile,
    path: String,
}

impl Finished {
    /// Reads at most `length` bytes from `offset` on; fewer only at the end. Returns `None` for a file that was written to, or cut
    /// short, since it was opened: what is read could be of two files.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Option<Vec<u8>>, Failure> {
        let Finished { file, size, identity, path } = self.clone();
        blocking(move || {
            let mut bytes = vec![0; size.saturating_sub(offset).min(length as u64) as usize];
            match file.read_exact_at(&mut bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read.map_err(|error| failure("read", &path, &error))?,
            }
            let metadata = file.metadata().map_err(|error| failure("look at", &path, &error))?;
            Ok((metadata.len() == size && source::identity(&metadata) == identity).then_some(bytes))
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a directory, and makes it when it is missing.
fn make_dir(outer: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&outer, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
        Ok(()) | Err(Errno::EXIST) => open_dir(outer, name),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory that is no link.
fn open_dir(outer: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(outer, name, flags, Mode::empty())?)
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
        assert!(root.open_file("file").unwrap().is_none(), "a link is not a finished file");
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
    async fn reads_and_removes_only_what_a_download_left() {
        let (place, root) = root();
        let root = Arc::new(root);
        let path = place.path().join("root/f");
        std::fs::write(&path, b"0123456789").unwrap();
        let created = source::identity(&std::fs::metadata(&path).unwrap());
        let file = root.open_finished("f", 10, Some(created)).await.unwrap().unwrap();
        assert_eq!(file.read(3, 4).await.unwrap().unwrap(), b"3456");
        assert_eq!(file.read(20, 4).await.unwrap().unwrap(), b"");
        assert!(root.open_finished("g", 10, None).await.unwrap().is_none());
        std::fs::rename(&path, place.path().join("root/moved")).unwrap();
        std::fs::write(&path, b"9876543210").unwrap();
        assert_eq!(file.read(3, 4).await.unwrap().unwrap(), b"3456", "it stays the one that was opened");
        assert!(root.open_finished("f", 10, Some(created)).await.unwrap().is_none(), "another file of that name");
        assert!(!root.remove_created("f", 10, created).await.unwrap());
        assert!(path.exists());
        assert!(root.remove_created("moved", 10, created).await.unwrap());
        assert!(!root.remove_created("moved", 10, created).await.unwrap(), "it is gone");
    }

    #[test]
    fn what_takes_the_name_while_it_is_removed_stays() {
        let (place, root) = root();
        let at = place.path().join("root");
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(&at).unwrap().map(|it| it.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let folder = root.find_folder("").unwrap().unwrap();
        // Between the first look and the move.
        std::fs::write(at.join("f"), "theirs").unwrap();
        assert_eq!(remove_checked(&folder, "f", ".haul-gone-1", |_| Ok(false)), Ok(false));
        assert_eq!((std::fs::read(at.join("f")).unwrap(), names()), (b"theirs".to_vec(), vec!["f".into()]));
        // And once more before it is put back.
        let again = |_: &str| {
            std::fs::write(at.join("f"), "also theirs").unwrap();
            Ok(false)
        };
        assert_eq!(remove_checked(&folder, "f", ".haul-gone-1", again), Ok(false));
        assert_eq!(std::fs::read(at.join("f (1)")).unwrap(), b"theirs");
        assert_eq!(names(), ["f", "f (1)"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_aside_of_somebody_else_is_put_back() {
        let (place, root) = root();
        let (root, at) = (Arc::new(root), place.path().join("root"));
        std::fs::write(at.join("f"), "0123").unwrap();
        let created = source::identity(&std::fs::metadata(at.join("f")).unwrap());
        std::fs::rename(at.join("f"), at.join("g")).unwrap();
        std::fs::write(at.join(format!(".haul-gone-{}", created.inode)), "theirs").unwrap();
        assert!(!root.remove_created("f", 4, created).await.unwrap());
        assert_eq!(std::fs::read(at.join("f")).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn what_a_crash_left_half_removed_is_removed_by_the_next_try() {
        let (place, root) = root();
        let (root, at) = (Arc::new(root), place.path().join("root"));
        std::fs::write(at.join("f"), "0123").unwrap();
        let created = source::identity(&std::fs::metadata(at.join("f")).unwrap());
        std::fs::rename(at.join("f"), at.join(format!(".haul-gone-{}", created.inode))).unwrap();
        assert!(root.remove_created("f", 4, created).await.unwrap());
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    }
}
