//! Where a part lies, and the checkpoint beside it: `.haul-KEY.part` and `.haul-KEY.meta`.
//!
//! A checkpoint claims only bytes that were synced before it was written, and before the first byte of a new version is
//! written the checkpoint of the old one is gone from the device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

use crate::files::binding::Stored;
use crate::files::claims::Claim;
use crate::files::disk::Disk;
use crate::files::error::failure;
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::root::Root;
use crate::model::failure::Failure;

/// A part in its directory. Work on the blocking pool shares it, may outlive the attempt, and keeps the claim until its
/// end.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Root>,
    pub(super) folder: Folder,
    pub(super) key: String,
    pub(super) disk: Disk,
    /// Given back with the last reference.
    _claim: Claim,
    /// Whether a checkpoint may be on the disk, or on its way there.
    meta_exists: AtomicBool,
    /// Counts what makes earlier checkpoints untrue.
    epoch: AtomicU64,
    /// Held while a checkpoint is written or removed. Waits for the device, so only the blocking pool takes it.
    saving: Mutex<()>,
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
    pub(super) fn new(root: Arc<Root>, folder: Folder, key: &str, disk: Disk, claim: Claim, has_meta: bool) -> Place {
        Place {
            root,
            folder,
            key: key.to_owned(),
            disk,
            _claim: claim,
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
        self.disk.sync().map_err(SaveError::Data)?;
        self.write_claim(stored).map_err(|_| SaveError::Claim)
    }

    fn write_claim(&self, stored: &Stored) -> io::Result<()> {
        let temporary = meta_draft_name(&self.key);
        let json = serde_json::to_vec(stored)?;
        let file = self.folder.open_with(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let written = file.write_all_at(&json, 0).and_then(|()| self.folder.rename(&temporary, &meta_name(&self.key)));
        if written.is_err() {
            let _ = self.folder.remove(&temporary);
        }
        written
    }

    /// Empties the part. The old claims are off the device before new bytes can be written under them.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.remove_meta()?;
        self.folder.sync()?;
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
        self.remove_meta()
            .and_then(|()| self.folder.remove(&part_name(&self.key)))
            .map_err(|error| self.fail("remove", &error))?;
        self.root.prune(self.folder.path());
        Ok(())
    }

    /// Ends all checkpoints, those on their way included.
    pub(super) fn remove_meta(&self) -> io::Result<()> {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        if !self.has_meta() {
            return Ok(());
        }
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.folder.remove(&meta_name(&self.key))
    }
}

/// Whether there is a checkpoint, and what it claims, if it can be believed: bytes that the file does not have make it
/// void.
pub(super) fn load(folder: &Folder, key: &str, file: &File) -> (bool, Option<Stored>) {
    let meta = match folder.open(&meta_name(key)) {
        Ok(Some(meta)) => meta,
        Ok(None) => return (false, None),
        // It cannot be read, and must not outlive the bytes that it may claim.
        Err(_) => return (true, None),
    };
    let stored: Option<Stored> = serde_json::from_reader(io::BufReader::new(meta)).ok();
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let fits = |stored: &Stored| stored.ranges.end() <= length.min(stored.binding.version.total.unwrap_or(u64::MAX));
    (true, stored.filter(fits))
}

/// The name of the part of a key.
pub(super) fn part_name(key: &str) -> String {
    format!("{}{key}.part", names::OWN_PREFIX)
}

/// The name of the checkpoint of a key.
pub(super) fn meta_name(key: &str) -> String {
    format!("{}{key}.meta", names::OWN_PREFIX)
}

/// The name of a checkpoint until it is whole.
pub(super) fn meta_draft_name(key: &str) -> String {
    format!("{}-tmp", meta_name(key))
}
