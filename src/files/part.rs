//! The part file: a download before it is finished.
//!
//! It lies beside its target as `.haul-KEY.part`, where the key belongs to one task, with its checkpoint in
//! `.haul-KEY.meta`. It is locked while in use, so that no two attempts ever write one.
//!
//! Bytes can only be written through a [`Bound`], and there are two ways to one: [`Part::restart`], which drops what is
//! held, and [`Part::resume`], which refuses a version that is not the one of the held bytes. So the bytes of a part are
//! always of one version.
//!
//! A checkpoint claims only bytes that were synced before it was written, and before the first byte of a new version is
//! written the checkpoint of the old one is gone from the device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::files::digest::Hasher;
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::names;
use crate::files::ranges::RangeSet;
use crate::files::root::Root;
use crate::files::version::{Sameness, Version};
use crate::model::failure::{Failure, FailureReason, is_default};

/// Read back in blocks that fit the second-level cache.
const READ_BYTES: usize = 256 << 10;

/// What the bytes of a part belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// The version they are of.
    pub version: Version,
    /// Where they come from, as it was asked for: which mirror. Without secrets.
    pub url: String,
    /// After redirects, without secrets.
    pub final_url: String,
    /// The name that the origin suggested; empty: none.
    #[serde(skip_serializing_if = "is_default")]
    pub suggested_name: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
    /// Some of the bytes were let in on the word of a digest that is still to be checked, and not of a validator.
    #[serde(skip_serializing_if = "is_default")]
    pub is_pieced: bool,
}

/// What decides whether bytes of two responses may lie in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Only what the origin says of them.
    Validators,
    /// A digest of the whole will be checked: it is enough if nothing but the entity tag speaks against it.
    Digest,
    /// As well, and the answer is another source's: validators of two servers say nothing of each other, so that it is
    /// enough if the sizes agree.
    DigestAcross,
}

impl Trust {
    /// Whether a digest of the whole will be checked.
    pub fn has_digest(self) -> bool {
        self != Trust::Validators
    }
}

/// What a checkpoint claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// What the bytes belong to.
    pub binding: Binding,
    /// The bytes that are on the device.
    pub ranges: RangeSet,
}

impl Stored {
    /// Whether bytes of the version `seen` may join the held ones.
    pub fn admits(&self, seen: &Version, trust: Trust) -> bool {
        let held = &self.binding.version;
        let sizes_agree = held.total.is_some() && held.total == seen.total;
        if self.binding.is_pieced && !trust.has_digest() {
            return false;
        }
        match held.compare(seen) {
            Sameness::Same => true,
            Sameness::Drifted => trust.has_digest(),
            Sameness::Unproven => trust.has_digest() && sizes_agree,
            Sameness::Different => trust == Trust::DigestAcross && sizes_agree,
        }
    }
}

/// A part file whose bytes are not added to.
#[derive(Debug)]
pub struct Part {
    shared: Arc<Shared>,
    stored: Option<Stored>,
}

/// A part file that takes bytes of one version.
#[derive(Debug)]
pub struct Bound {
    part: Part,
    binding: Binding,
    is_pieced: AtomicBool,
}

/// What work on the blocking pool shares with the part. It may outlive the part, and so keeps the lock until its end.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: Arc<Root>,
    pub(super) folder: Folder,
    pub(super) key: String,
    pub(super) file: File,
    /// Whether a checkpoint may be on the disk, or on its way there.
    meta_exists: AtomicBool,
    /// Counts what makes earlier checkpoints untrue. Held while one is written, so that a late one cannot bring claims
    /// back that are no longer so.
    epoch: Mutex<u64>,
}

impl Part {
    /// The part of this key in the directory `folder`, if there is one.
    pub fn find(root: &Arc<Root>, folder: &str, key: &str) -> Result<Option<Part>, Failure> {
        check_key(key)?;
        let Some(folder) = root.find_folder(folder)? else { return Ok(None) };
        match folder.open_with(&part_name(key), OFlags::RDWR) {
            Ok(file) => {
                let part = Part::of(root, folder, key, file)?;
                // Of a process that was killed while it made a checkpoint.
                let _ = part.shared.folder.remove(&meta_draft_name(key));
                Ok(Some(part))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("open", &folder.path_of(&part_name(key)), &error)),
        }
    }

    /// The part of this key; a new one when there is none.
    pub fn create(root: &Arc<Root>, folder: &str, key: &str) -> Result<Part, Failure> {
        check_key(key)?;
        let mut tries = 0;
        loop {
            let handle = root.make_folder(folder)?;
            match handle.open_with(&part_name(key), OFlags::RDWR | OFlags::CREATE) {
                Ok(file) => return Part::of(root, handle, key, file),
                // The directory was empty, and another download removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => tries += 1,
                Err(error) => return Err(failure("create", &handle.path_of(&part_name(key)), &error)),
            }
        }
    }

    /// Removes a checkpoint whose part has got its name: a crash may leave one.
    pub fn remove_checkpoint(root: &Arc<Root>, folder: &str, key: &str) -> Result<(), Failure> {
        check_key(key)?;
        let Some(folder) = root.find_folder(folder)? else { return Ok(()) };
        let name = meta_name(key);
        folder.remove(&name).map_err(|error| failure("remove", &folder.path_of(&name), &error))
    }

    fn of(root: &Arc<Root>, folder: Folder, key: &str, file: File) -> Result<Part, Failure> {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Failure::retryable(
                FailureReason::Io,
                format!("`{}` is in use by another download", folder.path_of(&part_name(key))),
            ));
        }
        let (has_meta, stored) = load(&folder, key, &file);
        let shared = Shared {
            root: Arc::clone(root),
            folder,
            key: key.to_owned(),
            file,
            meta_exists: AtomicBool::new(has_meta),
            epoch: Mutex::default(),
        };
        Ok(Part { shared: Arc::new(shared), stored })
    }

    /// What is held from before, as far as it is known to be on the device.
    pub fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref().filter(|stored| !stored.ranges.is_empty())
    }

    /// Drops what is held, and takes bytes of what `binding` says from now on.
    pub async fn restart(self, binding: Binding) -> Result<Bound, Failure> {
        let Part { shared, .. } = self;
        if shared.meta_exists.load(Ordering::Acquire) {
            let shared = Arc::clone(&shared);
            blocking(move || shared.forget().map_err(|error| shared.fail("start over", &error))).await?;
        } else {
            shared.empty().map_err(|error| shared.fail("start over", &error))?;
        }
        Ok(Bound::of(Part { shared, stored: None }, binding))
    }

    /// Goes on with the held bytes for a response of the version `seen`; gives the part back when they do not go
    /// together.
    #[allow(clippy::result_large_err)] // The part itself: it goes back to the caller by value, as it came.
    pub fn resume(self, seen: &Version, trust: Trust) -> Result<Bound, Part> {
        match &self.stored {
            Some(stored) if stored.admits(seen, trust) => {
                let mut binding = stored.binding.clone();
                if binding.version.compare(seen) != Sameness::Same {
                    binding.is_pieced = true;
                    // The source that serves now is asked with its own validators.
                    binding.version = Version { total: seen.total.or(binding.version.total), ..seen.clone() };
                }
                Ok(Bound::of(self, binding))
            }
            _ => Err(self),
        }
    }

    /// Goes on without a response, with bytes that need none: all are here.
    #[allow(clippy::result_large_err)] // As above.
    pub fn resume_complete(self) -> Result<Bound, Part> {
        match &self.stored {
            Some(Stored { binding, ranges }) if binding.version.total.is_some_and(|total| ranges.is_all_of(total)) => {
                let binding = binding.clone();
                Ok(Bound::of(self, binding))
            }
            _ => Err(self),
        }
    }

    /// Removes the part, its checkpoint, and the directories of ours that it leaves empty.
    pub async fn discard(self) -> Result<(), Failure> {
        let shared = self.shared;
        if !shared.meta_exists.load(Ordering::Acquire) {
            return shared.discard();
        }
        blocking(move || shared.discard()).await
    }

    /// The directory that it lies in.
    pub fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Bound {
    fn of(part: Part, binding: Binding) -> Bound {
        Bound { part, is_pieced: AtomicBool::new(binding.is_pieced), binding }
    }

    /// Notes, before the first of them is written, that bytes come which only a digest vouches for.
    pub fn note_pieced(&self) {
        self.is_pieced.store(true, Ordering::Release);
    }

    /// Whether only a digest vouches for some of its bytes.
    pub fn is_pieced(&self) -> bool {
        self.is_pieced.load(Ordering::Acquire)
    }

    /// What its bytes belong to.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The bytes that are held from before.
    pub fn held(&self) -> RangeSet {
        self.part.stored.as_ref().map(|stored| stored.ranges.clone()).unwrap_or_default()
    }

    /// The directory that it lies in.
    pub fn folder(&self) -> &Folder {
        self.part.folder()
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Notes which mirror, and which address after redirects, served last. Empty ones leave what is noted.
    pub fn served_from(&mut self, url: &str, final_url: &str) {
        if !final_url.is_empty() {
            url.clone_into(&mut self.binding.url);
            final_url.clone_into(&mut self.binding.final_url);
        }
    }

    /// Sets the size, where it became known only at the end.
    pub fn set_total(&mut self, total: u64) {
        self.binding.version.total = Some(total);
    }

    /// Writes to the page cache, in place: a call costs less than handing the bytes to another thread.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        let shared = &self.part.shared;
        shared.file.write_all_at(bytes, at).map_err(|error| shared.fail("write", &error))
    }

    /// Has the file system set the room for `total` bytes aside, in one piece where it can. `false`: it cannot do that.
    pub fn preallocate(&self, total: u64) -> Result<bool, Failure> {
        let shared = &self.part.shared;
        match rustix::fs::fallocate(&shared.file, FallocateFlags::KEEP_SIZE, 0, total) {
            Ok(()) => Ok(true),
            Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
                Err(shared.fail("set room aside for", &error.into()))
            }
            Err(_) => Ok(false),
        }
    }

    /// Makes a checkpoint that claims `ranges`, all of which were written before this call.
    ///
    /// When this fails, bytes that were written since the last checkpoint may be lost, and must not be claimed later.
    pub async fn checkpoint(&self, ranges: RangeSet) -> Result<(), Failure> {
        let shared = Arc::clone(&self.part.shared);
        let stored = Stored { binding: self.claimed(), ranges };
        let epoch = *shared.lock();
        shared.meta_exists.store(true, Ordering::Release);
        blocking(move || shared.save(&stored, epoch).map_err(|error| shared.fail("checkpoint", &error))).await
    }

    /// Stops taking bytes. `ranges` are those of the last checkpoint that succeeded; empty when there was none.
    pub fn unbind(self, ranges: RangeSet) -> Part {
        Part { stored: Some(Stored { binding: self.claimed(), ranges }), ..self.part }
    }

    fn claimed(&self) -> Binding {
        Binding { is_pieced: self.is_pieced(), ..self.binding.clone() }
    }

    /// Takes the bytes from `from` to `to` into `hasher`, reading them back from the file.
    pub async fn hash(
        &self,
        mut hasher: Hasher,
        from: u64,
        to: u64,
        stop: &CancellationToken,
    ) -> Result<Hasher, Failure> {
        let (shared, stop) = (Arc::clone(&self.part.shared), stop.clone());
        blocking(move || {
            hash_file(&shared.file, &mut hasher, from, to, &stop).map_err(|error| shared.fail("read", &error))?;
            Ok(hasher)
        })
        .await
    }
}

/// Hashes a finished file.
pub async fn hash_existing(
    file: File,
    path: String,
    mut hasher: Hasher,
    stop: &CancellationToken,
) -> Result<Hasher, Failure> {
    let stop = stop.clone();
    blocking(move || {
        file.metadata()
            .and_then(|metadata| hash_file(&file, &mut hasher, 0, metadata.len(), &stop))
            .map_err(|error| failure("read", &path, &error))?;
        Ok(hasher)
    })
    .await
}

fn hash_file(file: &File, hasher: &mut Hasher, from: u64, to: u64, stop: &CancellationToken) -> io::Result<()> {
    let mut block = vec![0; READ_BYTES];
    let mut at = from;
    while at < to {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = (to - at).min(READ_BYTES as u64) as usize;
        file.read_exact_at(&mut block[..length], at)?;
        hasher.update(&block[..length]);
        at += length as u64;
    }
    Ok(())
}

impl Shared {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, action: &str, error: &io::Error) -> Failure {
        failure(action, &self.folder.path_of(&part_name(&self.key)), error)
    }

    /// Whether a checkpoint was made, or begun.
    pub(super) fn has_meta(&self) -> bool {
        self.meta_exists.load(Ordering::Acquire)
    }

    /// Data first, then the claim about it, under a name of its own until it is whole.
    fn save(&self, stored: &Stored, epoch: u64) -> io::Result<()> {
        let current = self.lock();
        if *current != epoch {
            return Ok(());
        }
        self.file.sync_data()?;
        let temporary = meta_draft_name(&self.key);
        let file = self.folder.open_with(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let json = serde_json::to_vec(stored)?;
        let written = file.write_all_at(&json, 0).and_then(|()| self.folder.rename(&temporary, &meta_name(&self.key)));
        if written.is_err() {
            let _ = self.folder.remove(&temporary);
        }
        written
    }

    /// Empties the part. The old claims are off the device before new bytes can be written under them.
    fn forget(&self) -> io::Result<()> {
        *self.lock() += 1;
        self.folder.remove(&meta_name(&self.key))?;
        self.folder.sync()?;
        self.meta_exists.store(false, Ordering::Release);
        self.empty()
    }

    /// A new file is left alone: ext4 writes a truncated one out when it is closed, which costs a small file more than all
    /// the rest (`auto_da_alloc` in ext4's documentation).
    fn empty(&self) -> io::Result<()> {
        if self.file.metadata()?.len() == 0 { Ok(()) } else { self.file.set_len(0) }
    }

    fn discard(&self) -> Result<(), Failure> {
        self.remove_meta()
            .and_then(|()| self.folder.remove(&part_name(&self.key)))
            .map_err(|error| self.fail("remove", &error))?;
        self.root.prune(self.folder.path());
        Ok(())
    }

    /// Ends all checkpoints, those on their way included.
    pub(super) fn remove_meta(&self) -> io::Result<()> {
        *self.lock() += 1;
        if self.has_meta() { self.folder.remove(&meta_name(&self.key)) } else { Ok(()) }
    }
}

/// Whether there is a checkpoint, and what it claims, if it can be believed: bytes that the file does not have make it
/// void.
fn load(folder: &Folder, key: &str, file: &File) -> (bool, Option<Stored>) {
    let Ok(Some(meta)) = folder.open(&meta_name(key)) else { return (false, None) };
    let stored: Option<Stored> = serde_json::from_reader(io::BufReader::new(meta)).ok();
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let fits = |stored: &Stored| stored.ranges.end() <= length.min(stored.binding.version.total.unwrap_or(u64::MAX));
    (true, stored.filter(fits))
}

fn check_key(key: &str) -> Result<(), Failure> {
    if names::is_part_key(key) {
        return Ok(());
    }
    Err(Failure::fatal(FailureReason::Internal, format!("`{key}` cannot be the key of a part file")))
}

pub(super) fn part_name(key: &str) -> String {
    format!("{}{key}.part", names::OWN_PREFIX)
}

pub(super) fn meta_name(key: &str) -> String {
    format!("{}{key}.meta", names::OWN_PREFIX)
}

/// A checkpoint until it is whole.
pub(super) fn meta_draft_name(key: &str) -> String {
    format!("{}-tmp", meta_name(key))
}
