//! Fetched bodies that are too big for the database: one file each under the data directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::files::error::{blocking, failure};
use crate::model::failure::Failure;
use crate::model::ids::{JobId, TaskId};

/// Keeps bodies by task and page. A body that is there is whole and on the device.
#[derive(Clone, Debug)]
pub struct ContentStore {
    place: PathBuf,
}

impl ContentStore {
    /// Opens the store in this directory, and makes it when it is missing.
    pub fn open(place: &Path) -> Result<ContentStore, Failure> {
        fs::create_dir_all(place).map_err(|error| fail("make the directory", place, &error))?;
        Ok(ContentStore { place: place.to_owned() })
    }

    /// Keeps a page of a task's content; one of an earlier attempt is replaced.
    pub async fn write(&self, task: TaskId, page: u32, body: Bytes) -> Result<(), Failure> {
        let (store, path) = (self.clone(), self.path(task, page));
        blocking(move || store.write_now(&path, task.job, &body).map_err(|error| fail("write", &path, &error))).await
    }

    fn write_now(&self, path: &Path, job: JobId, body: &[u8]) -> io::Result<()> {
        let folder = self.folder(job);
        match fs::create_dir(&folder) {
            Ok(()) => File::open(&self.place)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(body)?;
        file.sync_data()?;
        fs::rename(&temporary, path)?;
        File::open(&folder)?.sync_all()
    }

    /// Reads at most `length` bytes of a page from `offset` on; `None` when the page is not there.
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

    /// Removes all that is kept for a job; nothing there is fine.
    pub async fn remove(&self, job: JobId) -> Result<(), Failure> {
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

fn fail(action: &str, path: &Path, error: &io::Error) -> Failure {
    failure(action, &path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_and_forgets() {
        let place = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&place.path().join("content")).unwrap();
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
}
