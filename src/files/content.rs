//! Fetched bodies that are too large for the database: one file for each, under the data directory.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::files::device;
use crate::files::error::{blocking, failure};
use crate::files::folder::DiskRoom;
use crate::files::ranges::RangeSet;
use crate::files::space;
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{JobId, TaskId};

/// The part of the reserve, as a fraction, that bodies leave to the database: where downloads wait, they still go on.
const RESERVE_SHARE: u64 = 4;
/// Of a body that is written as it arrives, room is looked for in steps of this.
const ROOM_STEP: u64 = 1 << 20;

/// A body that is written as it arrives. Dropped before [`Spooling::finish`], it leaves no file.
#[derive(Debug)]
pub struct Spooling {
    store: ContentStore,
    /// Bytes until room is looked for again.
    granted: u64,
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
    /// Given back last, once nothing can touch the files any more.
    _claim: Claim,
}

/// The pages that are written, each by one at a time: work on the blocking pool may outlive the attempt that began it, and
/// must neither meet that of the next attempt in one file nor put its own in the place of what that has stored.
#[derive(Debug, Default)]
struct Claims(Mutex<HashMap<(TaskId, u32), Arc<Semaphore>>>);

/// The right to write one page.
#[derive(Debug)]
struct Claim {
    claims: Arc<Claims>,
    page: (TaskId, u32),
    permit: Option<OwnedSemaphorePermit>,
}

impl Claims {
    /// Waits until nobody else writes the page.
    async fn claim(self: &Arc<Self>, task: TaskId, page: u32) -> Claim {
        let mut claim = Claim { claims: Arc::clone(self), page: (task, page), permit: None };
        let turns = Arc::clone(self.lock().entry(claim.page).or_insert_with(|| Arc::new(Semaphore::new(1))));
        // Never closed, so that there is always a permit.
        claim.permit = turns.acquire_owned().await.ok();
        claim
    }

    /// Waits until nobody writes a page of the job any more.
    async fn wait_for(self: &Arc<Self>, job: JobId) {
        loop {
            let written = self.lock().keys().find(|(task, _)| task.job == job).copied();
            let Some((task, page)) = written else { return };
            drop(self.claim(task, page).await);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TaskId, u32), Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut turns = self.claims.lock();
        self.permit = None;
        // Whoever waits has a share of it.
        if turns.get(&self.page).is_some_and(|turns| Arc::strong_count(turns) == 1) {
            turns.remove(&self.page);
        }
    }
}

impl Spooling {
    /// Writes the next bytes to the page cache.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        if length > self.granted {
            self.store.check_room(length.max(ROOM_STEP))?;
            self.granted = length.max(ROOM_STEP);
        }
        self.granted -= length;
        self.file.write_all(bytes).map_err(|error| fail("write", &self.path, &error))
    }

    /// Completes the body and makes it durable.
    pub async fn finish(mut self) -> Result<(), Failure> {
        blocking(move || {
            let temporary = self.temporary.as_deref().unwrap_or(Path::new(""));
            publish(&self.file, temporary, &self.path).map_err(|error| fail("write", &self.path, &error))?;
            // Nothing is left for its end to remove.
            self.temporary.take();
            Ok(())
        })
        .await
    }
}

impl Drop for Spooling {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // A file that cannot be removed now is removed with its job.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Publishes a file: its bytes are synced before the rename, and its directory before success is reported.
fn publish(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    device::sync_bytes(file, &RangeSet::from_start(file.metadata()?.len()))?;
    fs::rename(temporary, path)?;
    device::sync_names(File::open(path.parent().unwrap_or(Path::new(".")))?)
}

/// Returns a builder of folders that only the server's user can enter, whatever its umask lets others do.
fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Creates an empty file that only the server's user can read.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Stores bodies by task and page. A body that exists is complete and on the device.
#[derive(Clone, Debug)]
pub struct ContentStore {
    place: PathBuf,
    reserve: Option<u64>,
    claims: Arc<Claims>,
}

impl ContentStore {
    /// Opens the store in this directory, which is created if it is missing. `reserve`: the bytes that downloads leave free;
    /// `None`: 1 GiB or 5 % of the file system, whichever is less. Bodies may have all but a quarter of that.
    pub fn open(place: &Path, reserve: Option<u64>) -> Result<ContentStore, Failure> {
        private_folder().recursive(true).create(place).map_err(|error| fail("make the directory", place, &error))?;
        Ok(ContentStore { place: place.to_owned(), reserve, claims: Arc::default() })
    }

    /// Fails with `DISK_FULL` where so many more bytes would reach into what is left free: the database lies on the same
    /// file system, and without room nothing can be acknowledged, to nobody.
    pub fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        // Where the free space is unknown, everything fits.
        let Ok(room) = DiskRoom::of_path(&self.place) else { return Ok(()) };
        let reserve = space::reserve_on(self.reserve, room) / RESERVE_SHARE;
        if bytes.saturating_add(reserve) <= room.free {
            return Ok(());
        }
        let message = format!(
            "there is no room for {bytes} bytes of the body in `{}`: {} are free, and {reserve} are kept so \
             (`disk_reserve`)",
            self.place.display(),
            room.free
        );
        Err(Failure::retryable(FailureReason::DiskFull, message))
    }

    /// Stores a page of a task's content, in place of one from an earlier attempt.
    pub async fn write(&self, task: TaskId, page: u32, body: Bytes) -> Result<(), Failure> {
        self.check_room(body.len() as u64)?;
        let claim = self.claims.claim(task, page).await;
        let (store, path) = (self.clone(), self.path(task, page));
        blocking(move || {
            let written = store.write_now(&path, task.job, &body).map_err(|error| fail("write", &path, &error));
            drop(claim);
            written
        })
        .await
    }

    fn write_now(&self, path: &Path, job: JobId, body: &[u8]) -> io::Result<()> {
        self.make_folder(job)?;
        let temporary = path.with_extension("tmp");
        let mut file = private_file(&temporary)?;
        let published = file.write_all(body).and_then(|()| publish(&file, &temporary, path));
        // On a full disk, what is of no use takes the room of others.
        published.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Begins a page that is written as it arrives.
    pub async fn spool(&self, task: TaskId, page: u32) -> Result<Spooling, Failure> {
        let claim = self.claims.claim(task, page).await;
        let (store, path) = (self.clone(), self.path(task, page));
        blocking(move || {
            let begin = || {
                store.make_folder(task.job)?;
                let temporary = path.with_extension("tmp");
                Ok((private_file(&temporary)?, temporary))
            };
            let (file, temporary) = begin().map_err(|error| fail("write", &path, &error))?;
            Ok(Spooling { store, granted: 0, file, temporary: Some(temporary), path, _claim: claim })
        })
        .await
    }

    fn make_folder(&self, job: JobId) -> io::Result<()> {
        match private_folder().create(self.folder(job)) {
            // What is there the next time would be taken for durable.
            Ok(()) => File::open(&self.place)
                .and_then(device::sync_names)
                .inspect_err(|_| drop(fs::remove_dir(self.folder(job)))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads at most `length` bytes of a page from `offset` on; `None` if there is no such page.
    pub async fn read(&self, task: TaskId, page: u32, offset: u64, length: usize) -> Result<Option<Bytes>, Failure> {
        let path = self.path(task, page);
        blocking(move || {
            let read = || {
                let file = File::open(&path)?;
                let left = file.metadata()?.len().saturating_sub(offset);
                let mut bytes = vec![0; left.min(length as u64) as usize];
                file.read_exact_at(&mut bytes, offset)?;
                io::Result::Ok(Bytes::from(bytes))
            };
            match read() {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(fail("read", &path, &error)),
            }
        })
        .await
    }

    /// Removes the first `count` pages of a task, which must not be kept. That this has begun outlives a crash: see
    /// [`ContentStore::is_dropping`].
    pub async fn drop_pages(&self, task: TaskId, count: u32) -> Result<(), Failure> {
        let (store, folder) = (self.clone(), self.folder(task.job));
        blocking(move || {
            let drop_all = || {
                private_file(&store.dropping(task))?.sync_all()?;
                File::open(&folder)?.sync_all()?;
                for page in 0..count {
                    remove_file(&store.path(task, page))?;
                }
                File::open(&folder)?.sync_all()
            };
            match drop_all() {
                // No page of any task of the job is in a file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                dropped => dropped.map_err(|error| fail("remove pages of", &folder, &error)),
            }
        })
        .await
    }

    /// Returns whether [`ContentStore::drop_pages`] was called for a task. It counts as long as there are rows of these pages.
    pub async fn is_dropping(&self, task: TaskId) -> Result<bool, Failure> {
        let path = self.dropping(task);
        blocking(move || path.try_exists().map_err(|error| fail("look for", &path, &error))).await
    }

    /// Forgets that pages of a task were dropped: no row of them is left.
    pub async fn have_dropped(&self, task: TaskId) -> Result<(), Failure> {
        let (path, folder) = (self.dropping(task), self.folder(task.job));
        // Pages that follow are durable at once, and so has to be that this is gone.
        let forget = move || match remove_file(&path).and_then(|()| File::open(&folder)?.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", &path, &error)),
            _ => Ok(()),
        };
        blocking(forget).await
    }

    /// The file that says that pages of a task are being dropped.
    fn dropping(&self, task: TaskId) -> PathBuf {
        self.folder(task.job).join(format!("{}-dropped", task.index))
    }

    /// Removes everything that is stored for a job, once what is still being written of it is. A job without content is not
    /// an error.
    pub async fn remove(&self, job: JobId) -> Result<(), Failure> {
        self.claims.wait_for(job).await;
        let folder = self.folder(job);
        blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", &folder, &error)),
            _ => Ok(()),
        })
        .await
    }

    fn folder(&self, job: JobId) -> PathBuf {
        self.place.join(job.to_string())
    }

    fn path(&self, task: TaskId, page: u32) -> PathBuf {
        self.folder(task.job).join(format!("{}-{page}", task.index))
    }
}

/// Removes a file that need not be there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fail(action: &str, path: &Path, error: &io::Error) -> Failure {
    failure(action, &path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leaves_the_reserve_free() {
        let place = tempfile::tempdir().unwrap();
        let task = TaskId { job: JobId(uuid::Uuid::now_v7()), index: 3 };
        let store = ContentStore::open(place.path(), Some(u64::MAX / 2)).unwrap();
        let failure = store.write(task, 0, Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, true), "{failure}");
        let mut spool = store.spool(task, 0).await.unwrap();
        assert_eq!(spool.write(b"x").unwrap_err().reason, FailureReason::DiskFull);
        drop(spool);
        assert_eq!(store.read(task, 0, 0, 9).await.unwrap(), None);
        let store = ContentStore::open(place.path(), Some(0)).unwrap();
        store.write(task, 0, Bytes::from_static(b"x")).await.unwrap();
    }

    #[tokio::test]
    async fn a_page_is_written_by_one_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let store = ContentStore::open(place.path(), Some(0)).unwrap();
        let task = TaskId { job: JobId(uuid::Uuid::now_v7()), index: 3 };
        let mut late = store.spool(task, 0).await.unwrap();
        late.write(b"of an attempt that was given up").unwrap();
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, store.spool(task, 0)).await.is_err());
        assert!(tokio::time::timeout(soon, store.write(task, 0, Bytes::from_static(b"x"))).await.is_err());
        store.write(task, 1, Bytes::from_static(b"another page")).await.unwrap();
        let (ended, begun) = tokio::join!(late.finish(), store.spool(task, 0));
        ended.unwrap();
        let mut next = begun.unwrap();
        next.write(b"of the next").unwrap();
        next.finish().await.unwrap();
        assert_eq!(store.read(task, 0, 0, 99).await.unwrap().as_deref(), Some(&b"of the next"[..]));
        assert!(store.claims.lock().is_empty());
    }

    /// What an attempt has left on the blocking pool makes the folder of its job, whenever its turn comes.
    #[tokio::test]
    async fn what_is_still_written_of_a_job_is_removed_with_it() {
        let place = tempfile::tempdir().unwrap();
        let store = ContentStore::open(place.path(), Some(0)).unwrap();
        let task = TaskId { job: JobId(uuid::Uuid::now_v7()), index: 3 };
        let other = TaskId { job: JobId(uuid::Uuid::now_v7()), index: 3 };
        let (late, of_another) = (store.spool(task, 0).await.unwrap(), store.spool(other, 0).await.unwrap());
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, store.remove(task.job)).await.is_err());
        let (ended, removed) = tokio::join!(late.finish(), store.remove(task.job));
        ended.unwrap();
        removed.unwrap();
        assert!(!store.folder(task.job).exists());
        assert!(store.folder(other.job).exists());
        drop(of_another);
        assert!(store.claims.lock().is_empty());
    }

    #[tokio::test]
    async fn keeps_and_forgets() {
        let place = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&place.path().join("content"), None).unwrap();
        let task = TaskId { job: JobId(uuid::Uuid::now_v7()), index: 3 };
        assert_eq!(store.read(task, 0, 0, 9).await.unwrap(), None);
        store.write(task, 0, Bytes::from_static(b"first")).await.unwrap();
        store.write(task, 0, Bytes::from_static(b"second")).await.unwrap();
        assert_eq!(store.read(task, 0, 2, 3).await.unwrap().as_deref(), Some(&b"con"[..]));
        assert_eq!(store.read(task, 0, 9, 3).await.unwrap().as_deref(), Some(&b""[..]));
        store.remove(task.job).await.unwrap();
        store.remove(task.job).await.unwrap();
        assert_eq!(store.read(task, 0, 0, 9).await.unwrap(), None);
    }

    #[tokio::test]
    async fn dropped_pages_are_gone_and_said_to_be() {
        let place = tempfile::tempdir().unwrap();
        let store = ContentStore::open(place.path(), Some(0)).unwrap();
        let job = JobId(uuid::Uuid::now_v7());
        let (task, other) = (TaskId { job, index: 3 }, TaskId { job, index: 4 });
        store.drop_pages(task, 9).await.unwrap();
        assert!(!store.is_dropping(task).await.unwrap(), "there was no page");
        for page in [0, 2] {
            store.write(task, page, Bytes::from_static(b"x")).await.unwrap();
            store.write(other, page, Bytes::from_static(b"x")).await.unwrap();
        }
        store.drop_pages(task, 3).await.unwrap();
        for page in [0, 2] {
            assert_eq!(store.read(task, page, 0, 9).await.unwrap(), None);
            assert!(store.read(other, page, 0, 9).await.unwrap().is_some());
        }
        assert!(store.is_dropping(task).await.unwrap() && !store.is_dropping(other).await.unwrap());
        store.have_dropped(task).await.unwrap();
        assert!(!store.is_dropping(task).await.unwrap());
    }
}
