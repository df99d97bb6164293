//! The one gate for the bytes of a download: what is in its file, what is claimed of it, and its digests.
//!
//! A [`Bound`] is a part that takes bytes of one version. There are two ways to one: [`Bound::restart`], which drops what
//! is held, and [`Bound::resume`], which takes the proof that the bytes to come belong to those that are held. From then
//! on [`Bound::put`] is the only way in, and keeps three promises:
//!
//! - no byte is written where one is held: the first one stays, and what comes again is compared with it;
//! - a digest takes only bytes that were just written at their offset, or that are read back from the file;
//! - nothing is claimed that was written after the last checkpoint once forcing it to the device has failed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use tokio_util::sync::CancellationToken;

use crate::files::binding::{Admitted, Before, Binding, Stored};
use crate::files::checkpoint::{Place, SaveError, part_name};
use crate::files::digest::Hasher;
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::part::{LARGE_BYTES, Part};
use crate::files::ranges::RangeSet;
use crate::files::remarks::Remarks;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::credential::echo::{EchoScan, echoed};
use crate::model::failure::{Failure, FailureReason};

/// Read back in blocks that fit the second-level cache.
const READ_BYTES: usize = 256 << 10;

/// A part file that takes bytes of one version.
#[derive(Debug)]
pub struct Bound {
    place: Arc<Place>,
    binding: Binding,
    gate: Mutex<Gate>,
}

#[derive(Debug)]
struct Gate {
    /// What is in the file.
    have: RangeSet,
    /// What the last checkpoint claims.
    saved: RangeSet,
    /// Bytes since then.
    unsaved: u64,
    /// `None` while another thread reads the file into it.
    hasher: Option<Hasher>,
    /// The digests cover the bytes up to here.
    hashed: u64,
    connections: u32,
    is_pieced: bool,
    /// What there was before bytes of other sources joined.
    before: Option<Before>,
    remarks: Remarks,
    is_contradicted: bool,
    is_doubtful: bool,
}

impl Bound {
    /// Drops what is held, and takes bytes of what `binding` says from now on. Digests are computed by `algorithms`,
    /// and by those that the origin announced.
    pub async fn restart(
        part: Part,
        binding: Binding,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> Result<Bound, Failure> {
        let (place, is_new) = part.into_place();
        if is_new && !place.has_meta() {
            place.disk.note_new();
        } else {
            // Of a large file that takes its time.
            let place = Arc::clone(&place);
            blocking(move || {
                let dropped = if place.has_meta() { place.forget() } else { place.empty() };
                dropped.map_err(|error| place.fail("start over", &error))
            })
            .await?;
        }
        Ok(Bound::of(place, binding, RangeSet::default(), None, algorithms))
    }

    /// Goes on with the held bytes, as `admitted` allows.
    pub fn resume(part: Part, admitted: Admitted, algorithms: impl IntoIterator<Item = Algorithm>) -> Bound {
        let (binding, ranges, before) = admitted.into_parts();
        let (place, _) = part.into_place();
        Bound::of(place, binding, ranges, before, algorithms)
    }

    fn of(
        place: Arc<Place>,
        binding: Binding,
        have: RangeSet,
        before: Option<Before>,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> Bound {
        let announced = binding.announced.iter().map(|checksum| checksum.algorithm);
        let hasher = Hasher::new(algorithms.into_iter().chain(announced));
        let gate = Gate {
            saved: have.clone(),
            have,
            unsaved: 0,
            hasher: Some(hasher),
            hashed: 0,
            connections: binding.connections,
            is_pieced: binding.is_pieced,
            before,
            remarks: Remarks::default(),
            is_contradicted: false,
            is_doubtful: false,
        };
        Bound { place, binding, gate: Mutex::new(gate) }
    }

    /// Looks for a secret in the bytes, in the order in which they are in the file, whichever answers brought them.
    /// [`Bound::digests`] fails where it is there.
    pub fn look_for(&self, scan: EchoScan) {
        if let Some(hasher) = &mut self.lock().hasher {
            hasher.look_for(scan);
        }
    }

    /// Lets bytes of another answer join, as `admitted` allows.
    pub fn join(&self, admitted: &Admitted) {
        let mut gate = self.lock();
        gate.is_pieced |= admitted.binding().is_pieced;
        let Some(joined) = admitted.before() else { return };
        match &mut gate.before {
            Some(before) => before.add_all(joined),
            none => *none = Some(joined.clone()),
        }
    }

    /// Keeps what is known of sources with what is held.
    pub fn set_remarks(&self, remarks: Remarks) {
        self.lock().remarks = remarks;
    }

    /// Some of the bytes are wrong. Goes back to what there was before those of other sources joined, if any did, and says
    /// what is left. What it does not claim any more is written anew. `were_checked`: as [`Stored::after_wrong_bytes`] has it.
    pub fn go_back(&mut self, were_checked: bool) -> Stored {
        let left = self.stored().after_wrong_bytes(were_checked);
        self.binding = left.binding.clone();
        let mut gate = self.lock();
        gate.is_doubtful |= left.ranges.is_empty();
        gate.is_pieced = left.binding.is_pieced;
        gate.connections = left.binding.connections;
        gate.is_contradicted = false;
        gate.before = None;
        gate.remarks = left.remarks.clone();
        gate.have = left.ranges.clone();
        gate.saved = RangeSet::default();
        gate.hasher = None;
        drop(gate);
        self.place.outdate_saves();
        self.place.disk.note_left(&left.ranges);
        left
    }

    /// So many connections bring its bytes now.
    pub fn note_connections(&self, count: u32) {
        let mut gate = self.lock();
        gate.connections = gate.connections.max(count);
    }

    /// Whether only a digest vouches for some of its bytes.
    pub fn is_pieced(&self) -> bool {
        self.lock().is_pieced
    }

    /// An answer contradicted itself: the bytes that it brought may be other ones than it said.
    pub fn contradict(&self) {
        self.lock().is_contradicted = true;
    }

    /// Whether an origin sent other bytes again than those that are held, or contradicted itself: some bytes may be wrong,
    /// or of another version.
    pub fn is_contradicted(&self) -> bool {
        self.lock().is_contradicted
    }

    /// What its bytes belong to.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Shows the bytes that are held.
    pub fn with_held<T>(&self, look: impl FnOnce(&RangeSet) -> T) -> T {
        look(&self.lock().have)
    }

    /// Whether its part has its name already, so that it outlives a kill.
    pub fn is_named(&self) -> bool {
        self.place.is_named()
    }

    /// What a further answer is compared with.
    pub fn stored(&self) -> Stored {
        let gate = self.lock();
        self.claim(&gate)
    }

    /// The directory that it lies in.
    pub fn folder(&self) -> &Folder {
        &self.place.folder
    }

    pub(super) fn into_parts(self) -> (Arc<Place>, Binding) {
        let Bound { place, binding, gate } = self;
        let Gate { is_pieced, connections, .. } = gate.into_inner().unwrap_or_else(PoisonError::into_inner);
        (place, Binding { connections, is_pieced, ..binding })
    }

    /// Sets the size, where it became known only at the end.
    pub fn set_total(&mut self, total: u64) {
        self.binding.version.total = Some(total);
    }

    /// The body of an answer of unknown length ended here. One that is shorter than what is held is of another version.
    pub fn end_at(&self, total: u64) -> Result<(), Failure> {
        let mut gate = self.lock();
        if gate.have.end() <= total {
            return Ok(());
        }
        gate.is_contradicted = true;
        let message = format!("the body ended at byte {total}, but {} bytes arrived before", gate.have.end());
        Err(Failure::retryable(FailureReason::ContentChanged, message))
    }

    /// Whether what is held may be kept while its download waits for room. One download on each file system may: several
    /// would wait for the room that the others hold.
    pub fn may_wait(&self) -> bool {
        self.place.root.may_wait(&self.place.folder, &part_name(&self.place.key))
    }

    /// As [`Bound::may_wait`], where it is its tenant that may not store more. One download of a tenant may.
    pub fn may_wait_for_tenant(&self) -> bool {
        self.place.root.may_wait_for_tenant(&self.place.folder, &part_name(&self.place.key))
    }

    /// Keeps nothing of what is held when the part is closed.
    pub fn give_up(&self) {
        let mut gate = self.lock();
        gate.is_doubtful = true;
        gate.saved = RangeSet::default();
    }

    /// Takes bytes of an admitted answer for this offset. Those that are missing are written, to the page cache
    /// and in place, since a call costs less than handing them to another thread. Those that are held are compared with
    /// the file; one that differs is `CONTENT_CHANGED`.
    pub async fn put(&self, at: u64, bytes: &Bytes) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes.len() {
            let (start, rest) = (at + done as u64, &bytes[done..]);
            let written = self.write_missing(start, rest)?;
            done += written;
            if written == 0 {
                let held = self.with_held(|have| have.run_at(start).1 - start).min(rest.len() as u64) as usize;
                self.compare(start, bytes.slice(done..done + held)).await?;
                done += held;
            }
        }
        Ok(())
    }

    /// Writes the first of these bytes, up to one that is held. Says how many.
    fn write_missing(&self, at: u64, bytes: &[u8]) -> Result<usize, Failure> {
        let mut gate = self.lock();
        let (is_held, end) = gate.have.run_at(at);
        if is_held {
            return Ok(0);
        }
        let missing = &bytes[..bytes.len().min(usize::try_from(end - at).unwrap_or(usize::MAX))];
        if let Err(error) = self.place.disk.write(at, missing) {
            let failure = self.place.fail("write", &error);
            // A device that fails may have lost more than these.
            gate.is_doubtful |= failure.reason == FailureReason::Io;
            return Err(failure);
        }
        gate.unsaved += gate.have.add(at..at + missing.len() as u64);
        gate.digest_written(at, missing);
        Ok(missing.len())
    }

    /// Compares bytes that came again with those in the file, on the blocking pool: they may have to be read from the
    /// device.
    async fn compare(&self, at: u64, bytes: Bytes) -> Result<(), Failure> {
        let place = Arc::clone(&self.place);
        let is_same = blocking(move || {
            let mut held = vec![0; bytes.len()];
            place.disk.read(at, &mut held).map_err(|error| place.fail("read", &error))?;
            Ok(held == bytes)
        })
        .await?;
        if is_same {
            return Ok(());
        }
        self.lock().is_contradicted = true;
        let message = format!("from byte {at} on the origin sent other bytes than before");
        Err(Failure::retryable(FailureReason::ContentChanged, message))
    }

    /// Has the file system set the room for `total` bytes aside, in one piece where it can. `false`: it cannot do that. On
    /// the blocking pool: some file systems take long over a large file.
    pub async fn preallocate(&self, total: u64) -> Result<bool, Failure> {
        let place = Arc::clone(&self.place);
        blocking(move || match rustix::fs::fallocate(place.disk.file(), FallocateFlags::KEEP_SIZE, 0, total) {
            Ok(()) => Ok(true),
            Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
                Err(place.fail("set room aside for", &error.into()))
            }
            Err(_) => Ok(false),
        })
        .await
    }

    /// Bytes that the file system has set aside for the file beside those that are held: a part that was preallocated and
    /// not filled has them already.
    pub fn spare_bytes(&self) -> u64 {
        let allocated = self.place.disk.allocated_bytes();
        allocated.saturating_sub(self.with_held(RangeSet::bytes))
    }

    /// Gives back what was set aside behind the last byte. In place, since no byte may be written meanwhile.
    pub fn give_room_back(&self) {
        if self.place.disk.tail_bytes() > 0 {
            // Where it cannot be given back, it stays with the part.
            let _ = self.place.disk.give_tail_back();
        }
    }

    /// Bytes that came since the last checkpoint.
    pub fn unsaved_bytes(&self) -> u64 {
        self.lock().unsaved
    }

    /// What the last checkpoint claims, in bytes.
    pub fn saved_bytes(&self) -> u64 {
        self.lock().saved.bytes()
    }

    /// Makes a checkpoint that claims what is held.
    ///
    /// An error means that bytes could not be forced to the device: what came since the last checkpoint is not believed
    /// any more, and nothing may go on. A checkpoint that does not fit on the disk is not an error: the previous one stands.
    pub async fn checkpoint(&self) -> Result<(), Failure> {
        let stored = {
            let mut gate = self.lock();
            gate.unsaved = 0;
            self.claim(&gate)
        };
        let place = Arc::clone(&self.place);
        let epoch = place.announce_save();
        let claimed = stored.ranges.clone();
        let saved = blocking(move || match place.save(&stored, epoch) {
            Ok(()) => Ok(true),
            Err(SaveError::Claim) => Ok(false),
            Err(SaveError::Data(error)) => Err(place.fail("sync", &error)),
        });
        match saved.await {
            Ok(true) => self.lock().saved = claimed,
            Ok(false) => {}
            Err(failure) => {
                self.lock().is_doubtful = true;
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Stops taking bytes, with a last checkpoint. What is not believed is not kept; a part without any byte is removed.
    pub async fn close(self) -> Option<Part> {
        let is_saved = {
            let gate = self.lock();
            gate.is_doubtful || gate.have == gate.saved
        };
        if !is_saved {
            // The state that it leaves says what it could not claim.
            let _ = self.checkpoint().await;
        }
        let claim = self.claim(&self.lock());
        let Bound { place, gate, .. } = self;
        // What was set aside behind the bytes is for others, until the part is gone on with. To give much back takes time;
        // where it cannot be given back, it stays with the part.
        let tail = place.disk.tail_bytes();
        if tail >= LARGE_BYTES {
            let place = Arc::clone(&place);
            let _ = blocking(move || place.disk.give_tail_back().map_err(|error| place.fail("cut", &error))).await;
        } else if tail > 0 {
            let _ = place.disk.give_tail_back();
        }
        let gate = gate.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ranges = if gate.is_doubtful { gate.saved } else { gate.have };
        let is_empty = ranges.is_empty();
        let part = Part::kept(place, Stored { ranges, ..claim });
        if is_empty {
            // The reason why the attempt ends is the one to report, and not that an empty file stays.
            let _ = part.discard().await;
            return None;
        }
        Some(part)
    }

    /// Removes the part with all that it holds.
    pub async fn discard(self) -> Result<(), Failure> {
        Part::kept(self.place, Stored::default()).discard().await
    }

    fn claim(&self, gate: &Gate) -> Stored {
        Stored {
            binding: self.claimed(gate),
            ranges: gate.have.clone(),
            refusals: 0,
            before: gate.before.clone(),
            remarks: gate.remarks.clone(),
        }
    }

    fn claimed(&self, gate: &Gate) -> Binding {
        Binding { is_pieced: gate.is_pieced, connections: gate.connections, ..self.binding.clone() }
    }

    /// Reads what lies complete behind the connections into the digests, on the blocking pool. Fewer than `least` bytes
    /// are left for later, more than `most` are not read in one go. Says whether there were any.
    ///
    /// Must run to its end: the digests are with the other thread meanwhile.
    pub async fn digest_behind(&self, least: u64, most: u64) -> Result<bool, Failure> {
        let (mut hasher, from, to) = {
            let mut gate = self.lock();
            let (from, complete) = (gate.hashed, gate.have.prefix());
            let is_idle = gate.hasher.as_ref().is_none_or(Hasher::is_idle);
            if is_idle || complete < from.saturating_add(least) {
                return Ok(false);
            }
            let Some(hasher) = gate.hasher.take() else { return Ok(false) };
            (hasher, from, complete.min(from.saturating_add(most)))
        };
        let place = Arc::clone(&self.place);
        let hasher = blocking(move || {
            let uncut = CancellationToken::new();
            hash_file(place.disk.file(), &mut hasher, from, to, &uncut).map_err(|error| place.fail("read", &error))?;
            Ok(hasher)
        })
        .await?;
        let mut gate = self.lock();
        gate.hasher = Some(hasher);
        gate.hashed = to;
        Ok(true)
    }

    /// The digests of the file, which has `total` bytes. What they do not cover yet is read back.
    pub async fn digests(&self, total: u64, stop: &CancellationToken) -> Result<Vec<Checksum>, Failure> {
        let (hasher, from) = {
            let mut gate = self.lock();
            (gate.hasher.take(), gate.hashed)
        };
        let Some(mut hasher) = hasher else {
            return Err(Failure::retryable(FailureReason::Internal, "the digests were lost"));
        };
        if hasher.is_idle() || from == total {
            return finished(hasher);
        }
        let (place, stop) = (Arc::clone(&self.place), stop.clone());
        blocking(move || {
            hash_file(place.disk.file(), &mut hasher, from, total, &stop)
                .map_err(|error| place.fail("read", &error))?;
            finished(hasher)
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digests of a stream without the secret that was looked for.
fn finished(hasher: Hasher) -> Result<Vec<Checksum>, Failure> {
    if hasher.has_secret() { Err(echoed()) } else { Ok(hasher.finish()) }
}

impl Gate {
    /// Digests are computed as long as bytes come in order; for the rest see [`Bound::digest_behind`].
    fn digest_written(&mut self, at: u64, bytes: &[u8]) {
        if let Some(hasher) = self.hasher.as_mut().filter(|hasher| at == self.hashed && !hasher.is_idle()) {
            hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }
}

/// Hashes a finished file.
pub async fn hash_existing(
    file: File,
    path: String,
    mut hasher: Hasher,
    stop: &CancellationToken,
) -> Result<Vec<Checksum>, Failure> {
    let stop = stop.clone();
    blocking(move || {
        file.metadata()
            .and_then(|metadata| hash_file(&file, &mut hasher, 0, metadata.len(), &stop))
            .map_err(|error| failure("read", &path, &error))?;
        Ok(hasher.finish())
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
