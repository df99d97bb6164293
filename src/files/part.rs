//! The part file: a download before it is finished, and who may use it.
//!
//! It lies beside its target under a name that belongs to one task ([`PartKey`]), with its checkpoint. It is claimed
//! while in use, so that no two attempts ever write one. Bytes get into it through [`crate::files::bound::Bound`] alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::files::binding::Stored;
use crate::files::checkpoint::{Loaded, Place, load, meta_draft_name, meta_name, part_name};
use crate::files::claims::Claim;
use crate::files::disk::Disk;
use crate::files::error::{blocking, failure};
use crate::files::folder::{Folder, join};
use crate::files::names;
use crate::files::remarks::Remarks;
use crate::files::root::Root;
use crate::files::source::may_be_finished;
use crate::model::failure::{Failure, FailureReason};

/// How long an attempt waits for work on its part that one before it has begun and does not wait for, such as a checkpoint
/// that is on its way to the device; and how often it looks.
const REST_WAIT: Duration = Duration::from_millis(100);
const REST_LOOK: Duration = Duration::from_millis(5);
/// Files from this size on are removed, and cut, on the blocking pool.
pub(super) const LARGE_BYTES: u64 = 16 << 20;
/// How often a part is looked for that is removed or renamed while it is opened.
const TRIES_MAX: u32 = 10;

/// Names a part.
#[derive(Clone, Copy, Debug)]
pub struct PartKey<'a> {
    /// Letters, digits, `-` and `_`; belongs to one task for ever.
    pub name: &'a str,
    /// Whether another process may use the same key, so that the part is locked. A key with the id of a job is unique.
    pub is_shared: bool,
}

/// A part file that is not added to.
#[derive(Debug)]
pub struct Part {
    place: Arc<Place>,
    stored: Option<Stored>,
    /// Created just now, so that it is empty.
    is_new: bool,
    /// The checkpoint says all that `stored` does.
    is_noted: bool,
}

impl Part {
    /// Waits a moment until nothing uses the part of this key.
    pub async fn at_rest(root: &Root, folder: &str, key: PartKey<'_>) {
        let path = join(folder, key.name);
        for _ in 0..REST_WAIT.as_millis() / REST_LOOK.as_millis() {
            if !root.is_claimed(&path) {
                return;
            }
            tokio::time::sleep(REST_LOOK).await;
        }
    }

    /// The part of this key in the directory `folder`, if there is one.
    pub fn find(root: &Arc<Root>, folder: &str, key: PartKey<'_>) -> Result<Option<Part>, Failure> {
        check_key(key)?;
        let Some(folder) = root.find_folder(folder)? else { return Ok(None) };
        let claim = claim(root, &folder, key)?;
        Part::open(root, &folder, key, claim).map(Result::ok)
    }

    /// When the checkpoint of this key was written, by the clock of the file system; `None` when there is none.
    pub fn checkpoint_time(root: &Arc<Root>, folder: &str, key: PartKey<'_>) -> Option<SystemTime> {
        check_key(key).ok()?;
        let folder = root.find_folder(folder).ok()??;
        folder.open(&meta_name(key.name)).ok()??.metadata().ok()?.modified().ok()
    }

    /// The part of this key; a new one when there is none. One that is not shared is not looked for, which is for
    /// [`Part::find`], and a new one has no name before its first checkpoint.
    pub fn create(root: &Arc<Root>, folder: &str, key: PartKey<'_>) -> Result<Part, Failure> {
        check_key(key)?;
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let handle = root.make_folder(folder)?;
            let claim = claim(root, &handle, key)?;
            if !key.is_shared
                && let Some((file, naming)) = root.unnamed(&handle)
            {
                // A file without a name can be made in a directory that was removed just now, and never gets one there.
                if handle.is_gone() {
                    root.forget_folder(folder);
                    continue;
                }
                let place = Place::new(
                    Arc::clone(root),
                    handle,
                    key.name,
                    Disk::new(file, root.faults()),
                    claim,
                    false,
                    Some(naming),
                );
                return Ok(Part { place: Arc::new(place), stored: None, is_new: true, is_noted: false });
            }
            let name = part_name(key.name);
            match handle.open_with(&name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
                Ok(file) if !key.is_shared || lock(&handle, key, &file)? => {
                    return Ok(Part::of(root, handle, key, file, claim, Loaded::default(), true));
                }
                // Another process has used it up between the two calls.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if let Ok(part) = Part::open(root, &handle, key, claim)? {
                        return Ok(part);
                    }
                }
                Err(error) => {
                    // The directory was empty, and another download removed it just now.
                    let is_gone = error.kind() == io::ErrorKind::NotFound;
                    let failure = failure("create", &handle.path_of(&name), &error);
                    if !is_gone {
                        return Err(failure);
                    }
                    root.forget_folder(folder);
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| in_use(folder, key)))
    }

    /// Removes the checkpoint that lies beside a part which was created just now: a crash may have left it, and it would
    /// claim bytes that are not in this one.
    pub fn drop_foreign_checkpoint(&self) -> Result<(), Failure> {
        if !self.is_new {
            return Ok(());
        }
        let (folder, name) = (&self.place.folder, meta_name(&self.place.key));
        if !folder.has(&name)? {
            return Ok(());
        }
        // Off the device before the first byte of the new part can be on it.
        let removed = folder.remove(&name).and_then(|()| folder.sync());
        removed.map_err(|error| failure("remove", &folder.path_of(&name), &error))
    }

    /// Removes a checkpoint whose part has got its name: a crash may leave one.
    pub fn remove_checkpoint(root: &Arc<Root>, folder: &str, key: PartKey<'_>) -> Result<(), Failure> {
        check_key(key)?;
        let Some(folder) = root.find_folder(folder)? else { return Ok(()) };
        let name = meta_name(key.name);
        folder.remove(&name).map_err(|error| failure("remove", &folder.path_of(&name), &error))
    }

    /// Opens the part that is there; releases the claim when there is none.
    fn open(root: &Arc<Root>, folder: &Folder, key: PartKey<'_>, claim: Claim) -> Result<Result<Part, Claim>, Failure> {
        let name = part_name(key.name);
        let fail = |error: &io::Error| failure("open", &folder.path_of(&name), error);
        for _ in 0..TRIES_MAX {
            let file = match folder.open_with(&name, OFlags::RDWR) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(claim)),
                Err(error) => return Err(fail(&error)),
            };
            if key.is_shared && !lock(folder, key, &file)? {
                continue;
            }
            let metadata = file.metadata().map_err(|error| fail(&error))?;
            if folder.is_of_stranger(&metadata) {
                return Err(of_stranger(&folder.path_of(&name)));
            }
            // A crash between the two steps of a rename by links: it is a second name of the finished file. A part that others have
            // linked, as some backups do, is as good as before.
            let is_linked = metadata.nlink() > 1;
            let loaded = load(folder, key.name, &file);
            // Nothing says that one without a checkpoint is haul's own, and what it holds would be overwritten under its other name. Nor
            // does that of another file.
            if is_linked && (loaded.stored.is_none() || loaded.is_of_other || may_be_finished(&file, key.name)) {
                folder.remove(&name).map_err(|error| fail(&error))?;
                return Ok(Err(claim));
            }
            // Of a process that was killed while it made a checkpoint.
            let _ = folder.remove(&meta_draft_name(key.name));
            return Ok(Ok(Part::of(root, folder.clone(), key, file, claim, loaded, false)));
        }
        Err(in_use(folder.path(), key))
    }

    fn of(
        root: &Arc<Root>,
        folder: Folder,
        key: PartKey<'_>,
        file: File,
        claim: Claim,
        loaded: Loaded,
        is_new: bool,
    ) -> Part {
        let disk = Disk::new(file, root.faults());
        let place = Place::new(Arc::clone(root), folder, key.name, disk, claim, loaded.has_meta, None);
        Part { place: Arc::new(place), stored: loaded.stored, is_new, is_noted: true }
    }

    pub(super) fn kept(place: Arc<Place>, stored: Stored) -> Part {
        // Its last checkpoint may have failed.
        Part { place, stored: Some(stored), is_new: false, is_noted: false }
    }

    pub(super) fn into_place(self) -> (Arc<Place>, bool) {
        (self.place, self.is_new)
    }

    /// What is held from before, as far as it is known to be on the device.
    pub fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref().filter(|stored| !stored.ranges.is_empty())
    }

    /// What is known of sources: also where no byte is held.
    pub fn remarks(&self) -> Remarks {
        self.stored.as_ref().map(|stored| stored.remarks.clone()).unwrap_or_default()
    }

    /// Sets how many attempts in a row were refused a range of what is held, also for later ones. Where it cannot be written,
    /// that is forgotten and all else stands.
    pub async fn set_refusals(&mut self, refusals: u32) {
        let Some(stored) = self.stored.as_mut().filter(|stored| stored.refusals != refusals) else { return };
        stored.refusals = refusals;
        self.note().await;
    }

    /// Sets what [`Part::remarks`] tells later attempts. `false`: it cannot be written.
    pub async fn set_remarks(&mut self, remarks: &Remarks) -> bool {
        let stored = self.stored.get_or_insert_default();
        if stored.remarks == *remarks && (self.is_noted || remarks.is_empty()) {
            return true;
        }
        stored.remarks = remarks.clone();
        self.note().await
    }

    /// Writes what is claimed once more, with what was noted since.
    async fn note(&mut self) -> bool {
        let Some(stored) = self.stored.clone() else { return false };
        let place = Arc::clone(&self.place);
        let epoch = place.announce_save();
        self.is_noted = blocking(move || Ok(place.save(&stored, epoch).is_ok())).await.unwrap_or(false);
        self.is_noted
    }

    /// Whether it may be kept while its download waits for room, as [`crate::files::bound::Bound::may_wait`] has it.
    pub fn may_wait(&self) -> bool {
        self.place.root.may_wait(&self.place.folder, &part_name(&self.place.key))
    }

    /// Whether its file has another name, by which somebody else may have it.
    pub fn is_linked(&self) -> bool {
        self.place.disk.metadata().is_ok_and(|metadata| metadata.nlink() > 1)
    }

    /// Removes the part, its checkpoint, and the directories made by haul that this leaves empty.
    pub async fn discard(self) -> Result<(), Failure> {
        let place = self.place;
        // What is small goes at once; to give a large file's blocks back takes time.
        if !place.has_meta() && place.disk.allocated_bytes() < LARGE_BYTES {
            return place.discard();
        }
        blocking(move || place.discard()).await
    }
}

fn claim(root: &Root, folder: &Folder, key: PartKey<'_>) -> Result<Claim, Failure> {
    let claim = root.claim(folder.path_of(key.name)).ok_or_else(|| in_use(folder.path(), key))?;
    root.goes_on(folder, || part_name(key.name));
    Ok(claim)
}

/// Locks the part against other processes. `false`: the name leads to another file by now, because the process that had
/// the lock has finished this one or removed it.
fn lock(folder: &Folder, key: PartKey<'_>, file: &File) -> Result<bool, Failure> {
    let name = part_name(key.name);
    let fail = |action: &str, error: io::Error| failure(action, &folder.path_of(&name), &error);
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(in_use(folder.path(), key)),
        Err(error) if !has_no_locks(error) => return Err(fail("lock", error.into())),
        _ => {}
    }
    folder.leads_to(&name, file).map_err(|error| fail("look at", error))
}

/// Whether a file system has no locks: some over a network are mounted so. The claim within this process is all there is
/// then.
fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL)
}

fn in_use(folder: &str, key: PartKey<'_>) -> Failure {
    let path = join(folder, &part_name(key.name));
    Failure::retryable(FailureReason::Io, format!("`{path}` is in use by another download"))
}

/// The failure of a part that somebody else has put there, who may write to it at any time. It may be one that they want.
fn of_stranger(path: &str) -> Failure {
    let message = format!("`{path}` is of another user, who could change what is downloaded; choose another directory");
    Failure::fatal(FailureReason::Io, message)
}

fn check_key(key: PartKey<'_>) -> Result<(), Failure> {
    if names::is_part_key(key.name) {
        return Ok(());
    }
    Err(Failure::fatal(FailureReason::Internal, format!("`{}` cannot be the key of a part file", key.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::ranges::RangeSet;
    use crate::files::source::Record;

    #[test]
    fn a_lock_counts_only_for_what_the_name_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let folder = root.find_folder("").unwrap().unwrap();
        let key = PartKey { name: "k", is_shared: true };
        drop(Part::create(&root, "", key).unwrap());
        let file = folder.open_with(&part_name("k"), OFlags::RDWR).unwrap();
        assert!(lock(&folder, key, &file).unwrap());
        drop(file);
        let file = folder.open_with(&part_name("k"), OFlags::RDWR).unwrap();
        folder.rename(&part_name("k"), "finished").unwrap();
        assert!(!lock(&folder, key, &file).unwrap(), "another process has finished it meanwhile");
    }

    /// Of a crash between the two steps of a rename by links: the finished file must not be emptied.
    #[test]
    fn a_part_that_is_a_second_name_of_the_finished_file_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let [finished, part] = ["finished".to_owned(), part_name("k")].map(|name| place.path().join(name));
        std::fs::write(&finished, "whole").unwrap();
        let file = File::open(&finished).unwrap();
        Record { key: "k".into(), ..Record::default() }.write(&file, &file.metadata().unwrap());
        std::fs::hard_link(&finished, &part).unwrap();
        assert!(Part::find(&root, "", PartKey { name: "k", is_shared: true }).unwrap().is_none());
        assert_eq!(std::fs::read(&finished).unwrap(), b"whole");
        assert!(!part.exists());
    }

    /// A backup by links has every file twice.
    #[test]
    fn a_part_that_somebody_links_is_kept() {
        // Where files have attributes.
        let place = tempfile::tempdir_in(".").unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let key = PartKey { name: "k", is_shared: false };
        let names = [part_name("k"), "copy".to_owned()].map(|name| place.path().join(name));
        let part = Part::create(&root, "", key).unwrap();
        part.place.disk.write(0, b"half").unwrap();
        let stored = Stored { ranges: RangeSet::from_start(4), ..Stored::default() };
        assert!(part.place.save(&stored, part.place.announce_save()).is_ok());
        drop(part);
        std::fs::hard_link(&names[0], &names[1]).unwrap();
        assert!(Part::find(&root, "", key).unwrap().is_some());
        assert_eq!(std::fs::read(&names[0]).unwrap(), b"half");
        // Without a checkpoint it may be anybody's.
        std::fs::remove_file(place.path().join(meta_name("k"))).unwrap();
        assert!(Part::find(&root, "", key).unwrap().is_none());
        assert_eq!(std::fs::read(&names[1]).unwrap(), b"half");
    }

    /// A copy may have holes in the place of zeros: what it claims is not there by the measure of each sync.
    #[test]
    fn a_part_with_holes_claims_nothing() {
        use rustix::fs::FallocateFlags;
        let place = tempfile::tempdir_in(".").unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let key = PartKey { name: "k", is_shared: false };
        let part = Part::create(&root, "", key).unwrap();
        part.place.disk.write(0, &vec![0; 20_000]).unwrap();
        let stored = Stored { ranges: RangeSet::from_start(20_000), ..Stored::default() };
        assert!(part.place.save(&stored, part.place.announce_save()).is_ok());
        drop(part);
        assert!(Part::find(&root, "", key).unwrap().unwrap().stored().is_some());
        let file = File::options().write(true).open(place.path().join(part_name("k"))).unwrap();
        if !crate::files::device::loses_bytes_silently(&file).unwrap() {
            return;
        }
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4_096, 8_192).unwrap();
        assert!(Part::find(&root, "", key).unwrap().unwrap().stored().is_none());
    }

    /// Whoever may write in the directory may have put a pipe there, which would wait for its reader for ever.
    #[test]
    fn what_has_the_name_of_a_draft_is_in_nobodys_way() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let place = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let key = PartKey { name: "k", is_shared: false };
        let part = Part::create(&root, "", key).unwrap();
        let draft = place.path().join(meta_draft_name("k"));
        mknodat(CWD, &draft, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        part.place.disk.write(0, b"half").unwrap();
        let stored = Stored { ranges: RangeSet::from_start(4), ..Stored::default() };
        assert!(part.place.save(&stored, part.place.announce_save()).is_ok());
        drop(part);
        assert!(Part::find(&root, "", key).unwrap().unwrap().stored().is_some());
    }
}
