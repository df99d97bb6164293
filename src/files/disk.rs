//! The bytes of one part on the disk, and a seam where a test lets the disk fail.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use crate::files::device;
use crate::files::ranges::RangeSet;

/// A disk that fails on request, for tests. Each method is called before the operation that it is named for, and an
/// error replaces the operation.
pub trait Faults: std::fmt::Debug + Send + Sync {
    /// Bytes are about to be written at this offset.
    fn write(&self, at: u64, length: usize) -> io::Result<()>;
    /// What was written is about to be forced to the device.
    fn sync(&self) -> io::Result<()>;
    /// Whatever was written on the file system, by anybody, is about to be forced to the device. Where that succeeds,
    /// [`Faults::sync`] is still asked for each file.
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    /// The file is empty from here on.
    fn empty(&self);
    /// Of what was written, only these bytes are claimed from here on.
    fn left(&self, _ranges: &RangeSet) {}
    /// The names in the directory of this path are about to be forced to the device.
    fn sync_names(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }
}

/// What `st_blocks` counts in, whatever the blocks of the file system are.
const BLOCK_BYTES: u64 = 512;

/// An open part file.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    faults: Option<Arc<dyn Faults>>,
    /// Whether a sync has failed. Held while one is under way.
    is_lost: Mutex<bool>,
}

impl Disk {
    pub(super) fn new(file: File, faults: Option<Arc<dyn Faults>>) -> Disk {
        Disk { file, faults, is_lost: Mutex::default() }
    }

    /// The file itself, for what is not about its bytes.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// How much of the file system the file has taken; 0 where that is not known.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(BLOCK_BYTES))
    }

    /// What was set aside behind the end of the file; 0 where that is not known.
    pub(super) fn tail_bytes(&self) -> u64 {
        let tail = |metadata: Metadata| metadata.blocks().saturating_mul(BLOCK_BYTES).saturating_sub(metadata.len());
        self.file.metadata().map_or(0, tail)
    }

    /// Gives back what was set aside behind the end of the file. A file system drops that when a file is cut to the length
    /// that it has.
    pub(super) fn give_tail_back(&self) -> io::Result<()> {
        self.file.set_len(self.file.metadata()?.len())
    }

    /// Writes to the page cache.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.write(at, bytes.len())?;
        }
        self.file.write_all_at(bytes, at)
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Forces what was written to the device. After an error the kernel may have dropped what it could not write, and
    /// reports that once: a second call that succeeds says nothing of the bytes before the first. So whoever syncs after
    /// one that failed gets an error too, also where nobody has waited for the first.
    ///
    /// `written`: the bytes that are to be there.
    pub(super) fn sync(&self, written: &RangeSet) -> io::Result<()> {
        self.synced_by(|file| device::sync_bytes(file, written))
    }

    /// As [`Disk::sync`], where all that was written is on the device together with that of other files.
    pub(super) fn synced_together(&self, written: &RangeSet) -> io::Result<()> {
        self.synced_by(|file| device::look_for_holes(file, written))
    }

    fn synced_by(&self, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let mut is_lost = self.is_lost.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_lost {
            return Err(io::Error::other("what was written before could not be forced to the device"));
        }
        let faulty = self.faults.as_ref().map_or(Ok(()), |faults| faults.sync());
        let synced = faulty.and_then(|()| sync(&self.file));
        *is_lost = synced.is_err();
        synced
    }

    /// The file was created just now.
    pub(super) fn note_new(&self) {
        if let Some(faults) = &self.faults {
            faults.empty();
        }
    }

    /// Of what was written, only these bytes are claimed from here on.
    pub(super) fn note_left(&self, ranges: &RangeSet) {
        if let Some(faults) = &self.faults {
            faults.left(ranges);
        }
    }

    pub(super) fn truncate(&self, length: u64) -> io::Result<()> {
        if let Some(faults) = self.faults.as_ref().filter(|_| length == 0) {
            faults.empty();
        }
        self.file.set_len(length)
    }
}
