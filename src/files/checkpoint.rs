//! Where a part lies, and the checkpoint beside it: `.haul-KEY.part` and `.haul-KEY.meta`.
//!
//! A checkpoint claims only bytes that were synced before it was written, and before the first byte of a new version is
//! written the checkpoint of the old one is gone from the device.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::files::binding::Stored;
use crate::files::claims::Claim;
use crate::files::device;
use crate::files::disk::Disk;
use crate::files::error::failure;
use crate::files::folder::{Folder, single};
use crate::files::names;
use crate::files::ranges::RangeSet;
use crate::files::root::Root;
use crate::files::unnamed::Naming;
use crate::model::failure::Failure;

/// A part in its directory. Work on the blocking pool shares it, may outlive the attempt, and keeps the claim until its
/// end.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Root>,
    /// Where it was made. See [`Place::home`].
    pub(super) folder: Folder,
    /// The directory that took the place of `folder`, which somebody has removed.
    moved: Mutex<Option<Folder>>,
    pub(super) key: String,
    pub(super) disk: Disk,
    /// See [`crate::files::together::Together::errors`]; it is told before the first byte that is written here.
    errors_before: u64,
    /// Given back with the last reference.
    _claim: Claim,
    /// How the part gets its name; `None`: it has it.
    naming: Mutex<Option<Naming>>,
    /// Whether a checkpoint may be on the disk, or on its way there.
    meta_exists: AtomicBool,
    /// Counts what makes earlier checkpoints untrue.
    epoch: AtomicU64,
    /// Held while a checkpoint is written or removed. Waits for the device, so only the blocking pool takes it.
    saving: Mutex<()>,
}

/// What tells the file of a part from one that somebody puts in its place. Its number alone does not, since a file system gives that of a
/// removed file to the next one. The number of the device is none of it: some file systems have another one after each mount.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct FileId {
    inode: u64,
    /// When it was made, in nanoseconds; 0 where the file system does not know.
    born: u64,
}

impl FileId {
    fn of(file: &File) -> Option<FileId> {
        let metadata = file.metadata().ok()?;
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|born| u64::try_from(born.as_nanos()).ok()).unwrap_or_default();
        Some(FileId { inode: metadata.ino(), born })
    }

    fn is_other_than(self, of: FileId) -> bool {
        self.inode != of.inode || (self.born != of.born && self.born != 0 && of.born != 0)
    }
}

/// A checkpoint as it is on the disk.
#[derive(Serialize, Deserialize)]
struct Written<S> {
    #[serde(flatten)]
    stored: S,
    /// The file that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileId>,
}

/// What lies beside a part that is opened.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Whether there is a checkpoint.
    pub(super) has_meta: bool,
    /// What it claims, if it can be believed.
    pub(super) stored: Option<Stored>,
    /// It is of another file than the one that has the name of the part.
    pub(super) is_of_other: bool,
}

/// Why a checkpoint was not made.
#[derive(Debug)]
pub(super) enum SaveError {
    /// The bytes could not be forced to the device: those since the last checkpoint may be lost.
    Data(io::Error),
    /// The bytes are on the device, and the claim about them could not be written. The old claim stands.
    Claim,
}

impl Place {
    /// A part that is there. `naming`: how it gets its name, if it has none.
    pub(super) fn new(
        root: Arc<Root>,
        folder: Folder,
        key: &str,
        disk: Disk,
        claim: Claim,
        has_meta: bool,
        naming: Option<Naming>,
    ) -> Place {
        Place {
            errors_before: root.together().errors(),
            root,
            folder,
            moved: Mutex::default(),
            key: key.to_owned(),
            disk,
            _claim: claim,
            naming: Mutex::new(naming),
            meta_exists: AtomicBool::new(has_meta),
            epoch: AtomicU64::new(0),
            saving: Mutex::default(),
        }
    }

    pub(super) fn fail(&self, action: &str, error: &io::Error) -> Failure {
        failure(action, &self.folder.path_of(&part_name(&self.key)), error)
    }

    /// Whether a checkpoint was made, or begun.
    pub(super) fn has_meta(&self) -> bool {
        self.meta_exists.load(Ordering::Acquire)
    }

    /// Says that a checkpoint is about to be made, and which it must not be later than.
    pub(super) fn announce_save(&self) -> u64 {
        self.meta_exists.store(true, Ordering::Release);
        self.epoch.load(Ordering::Acquire)
    }

    /// Data first, then the claim about it, under a name of its own until it is whole. One that comes late, after its
    /// claims ceased to be true, does nothing.
    pub(super) fn save(&self, stored: &Stored, epoch: u64) -> Result<(), SaveError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch.load(Ordering::Acquire) != epoch {
            return Ok(());
        }
        self.disk.sync(&stored.ranges).map_err(SaveError::Data)?;
        self.take_name().and_then(|()| self.write_claim(stored)).map_err(|_| SaveError::Claim)
    }

    /// Forces the bytes of the whole, which has `size`, to the device, unless that was done together with other files when there had
    /// been so many errors.
    pub(super) fn sync_unless(&self, errors: Option<u64>, size: u64) -> io::Result<()> {
        let whole = RangeSet::from_start(size);
        if errors == Some(self.errors_before) { self.disk.synced_together(&whole) } else { self.disk.sync(&whole) }
    }

    /// Whether the part has its name.
    pub(super) fn is_named(&self) -> bool {
        self.naming().is_none()
    }

    fn naming(&self) -> MutexGuard<'_, Option<Naming>> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the part its name, if it has none. What a crash left under that name, and a checkpoint that would claim bytes
    /// which are not in this part, are removed before.
    pub(super) fn take_name(&self) -> io::Result<()> {
        let mut naming = self.naming();
        let Some(how) = *naming else { return Ok(()) };
        let (part, meta, folder) = (part_name(&self.key), meta_name(&self.key), self.home());
        if folder.leads_somewhere(&meta)? {
            folder.remove(&meta)?;
            folder.sync()?;
        }
        let linked = self.link(how, &part);
        if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            folder.remove(&part)?;
            self.link(how, &part)?;
        } else {
            linked?;
        }
        *naming = None;
        Ok(())
    }

    /// The directory that it lies in, or will.
    pub(super) fn home(&self) -> Folder {
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved.as_ref().unwrap_or(&self.folder).clone()
    }

    /// Links the file, which has no name, to this one. A directory that somebody has removed, because nothing was to be seen
    /// in it, is made again.
    fn link(&self, how: Naming, name: &str) -> io::Result<()> {
        single(name)?;
        match how.link(self.disk.file(), &self.home(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.root.forget_folder(self.folder.path());
                let made = self.root.make_folder(self.folder.path());
                let folder = made.map_err(|failure| io::Error::other(failure.message))?;
                *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.clone());
                how.link(self.disk.file(), &folder, name)
            }
            linked => linked,
        }
    }

    /// Gives the finished part the name of its file, unless that is taken, which is `AlreadyExists`.
    pub(super) fn take_free_name(&self, name: &str) -> io::Result<()> {
        match *self.naming() {
            Some(how) => self.link(how, name),
            None => self.home().rename_to_free(&part_name(&self.key), name),
        }
    }

    /// Whether a name leads to the file of this part.
    pub(super) fn is_at(&self, name: &str) -> io::Result<bool> {
        self.home().leads_to(name, self.disk.file())
    }

    /// What checkpoints claim that were announced before is not true any more.
    pub(super) fn outdate_saves(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets no checkpoint be made any more, one on its way included.
    pub(super) fn end_saves(&self) {
        self.outdate_saves();
        if self.has_meta() {
            drop(self.saving.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn write_claim(&self, stored: &Stored) -> io::Result<()> {
        let temporary = meta_draft_name(&self.key);
        let json = serde_json::to_vec(&Written { stored, file: FileId::of(self.disk.file()) })?;
        let folder = self.home();
        // Of a process that was killed, or of somebody else: a pipe would wait for its reader, and a file of another name be emptied.
        folder.remove(&temporary)?;
        let file = folder.open_with(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let written = file.write_all_at(&json, 0).and_then(|()| folder.rename(&temporary, &meta_name(&self.key)));
        if written.is_err() {
            let _ = folder.remove(&temporary);
        }
        written
    }

    /// Empties the part. The old claims are off the device before new bytes can be written under them.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.remove_meta()?;
        self.home().sync()?;
        self.meta_exists.store(false, Ordering::Release);
        self.empty()
    }

    /// A file that is empty and has taken nothing is not truncated: ext4 writes a truncated one out when it is closed, which costs a small file
    /// more than all the rest (`auto_da_alloc` in ext4's documentation).
    pub(super) fn empty(&self) -> io::Result<()> {
        let is_empty = self.disk.metadata()?.len() == 0 && self.disk.allocated_bytes() == 0;
        if is_empty { Ok(()) } else { self.disk.truncate(0) }
    }

    /// Removes the part, its checkpoint, and the directories made by haul that this leaves empty.
    pub(super) fn discard(&self) -> Result<(), Failure> {
        let remove = || {
            self.remove_meta()?;
            if self.is_named() { self.home().remove(&part_name(&self.key)) } else { Ok(()) }
        };
        remove().map_err(|error| self.fail("remove", &error))?;
        // Work that nobody waits for may have the file open for a moment more, and would keep what it takes.
        if self.disk.metadata().is_ok_and(|metadata| metadata.nlink() == 0 && metadata.blocks() > 0) {
            let _ = self.disk.truncate(0);
        }
        self.root.prune_around(self.folder.path(), Some(&self.folder.path_of(&self.key)));
        Ok(())
    }

    /// Ends all checkpoints, those on their way included.
    pub(super) fn remove_meta(&self) -> io::Result<()> {
        self.outdate_saves();
        if !self.has_meta() {
            return Ok(());
        }
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.home().remove(&meta_name(&self.key))
    }
}

/// Whether there is a checkpoint, and what it claims, if it can be believed: bytes that the file does not have make it
/// void. Of what another file holds only a digest of the whole can tell whether it is what is claimed. So it does not fail where
/// a file system numbers its files anew, and the bytes of somebody else are never taken for those that came.
pub(super) fn load(folder: &Folder, key: &str, file: &File) -> Loaded {
    let is_stranger = |meta: &File| meta.metadata().map_or(true, |metadata| folder.is_of_stranger(&metadata));
    let meta = match folder.open(&meta_name(key)) {
        // It claims whatever its maker likes.
        Ok(Some(meta)) if is_stranger(&meta) => return Loaded { has_meta: true, ..Loaded::default() },
        Ok(Some(meta)) => meta,
        Ok(None) => return Loaded::default(),
        // It cannot be read, and must not outlive the bytes that it may claim.
        Err(_) => return Loaded { has_meta: true, ..Loaded::default() },
    };
    let written: Option<Written<Stored>> = serde_json::from_reader(io::BufReader::new(meta)).ok();
    let of = written.as_ref().and_then(|written| written.file);
    let is_of_other = of.is_some_and(|of| FileId::of(file).is_some_and(|file| file.is_other_than(of)));
    let mut stored = written.map(|written| written.stored);
    if let Some(stored) = &mut stored {
        if is_of_other {
            stored.binding.is_pieced = true;
            // Nor is what was there before bytes of others joined.
            stored.before = None;
        }
        // Whoever wrote it: a name that an origin suggests never leads out of its directory.
        let name = &mut stored.binding.suggested_name;
        *name = names::sanitize(name).unwrap_or_default();
    }
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let fits = |stored: &Stored| stored.ranges.end() <= length.min(stored.binding.version.total.unwrap_or(u64::MAX));
    // A copy of it may have holes in the place of zeros, and each sync of what it claims would fail.
    let is_there = |stored: &Stored| device::look_for_holes(file, &stored.ranges).is_ok();
    Loaded { has_meta: true, stored: stored.filter(fits).filter(is_there), is_of_other }
}

/// The name of the part of a key.
pub(super) fn part_name(key: &str) -> String {
    [names::OWN_PREFIX, key, ".part"].concat()
}

/// The name of the checkpoint of a key.
pub(super) fn meta_name(key: &str) -> String {
    format!("{}{key}.meta", names::OWN_PREFIX)
}

/// The name of a checkpoint until it is whole.
pub(super) fn meta_draft_name(key: &str) -> String {
    format!("{}-tmp", meta_name(key))
}
