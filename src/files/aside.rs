//! Partial downloads of ended jobs: out of the download root, where only finished files belong, and kept for a retry.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::files::checkpoint::{meta_draft_name, meta_name, part_name};
use crate::files::error::{blocking, failure};
use crate::files::folder::Folder;
use crate::files::root::Root;
use crate::model::failure::Failure;
use crate::model::ids::JobId;

/// What follows the id of a job in the name of the file which says that parts of it were left in the download root.
const LEFT: &str = ".left";

/// A directory beside the database with one directory for each job. On another file system than the download root it
/// keeps nothing, since files are moved here by a rename: partial downloads of ended jobs are then removed.
#[derive(Clone, Debug)]
pub struct Aside {
    place: PathBuf,
}

/// The jobs that there are partial downloads of.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Those that have a directory of parts.
    pub kept: Vec<JobId>,
    /// Those of which parts were left in the download root, since they could not be moved.
    pub left: Vec<JobId>,
}

impl Aside {
    /// Creates a store for parts in the directory `place`, which is created with the first.
    pub fn new(place: PathBuf) -> Aside {
        Aside { place }
    }

    /// Moves the part of `key` out of the directory `folder` of `root`, and removes the directory if it is empty and haul's own.
    /// Returns whether it is kept: on another file system it cannot be, and is removed, now or by a process that was killed then.
    ///
    /// # Errors
    ///
    /// It cannot be moved for another reason, and is left where it is.
    pub async fn take(&self, root: &Arc<Root>, job: JobId, folder: String, key: String) -> Result<bool, Failure> {
        let (root, place) = (root.clone(), self.place.join(job.to_string()));
        blocking(move || {
            let is_kept = || place.join(part_name(&key)).exists();
            let Some(handle) = root.find_folder(&folder)? else { return Ok(is_kept()) };
            for name in [part_name(&key), meta_name(&key)] {
                if !handle.has(&name)? {
                    continue;
                }
                let fail = |error: io::Error| failure("set aside", &handle.path_of(&name), &error);
                give_tail_back(&handle, &name);
                match std::fs::create_dir_all(&place).and_then(|()| handle.rename_out(&name, &place)) {
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices || is_elsewhere(&handle, &place) => {
                        handle.remove(&name).map_err(fail)?;
                    }
                    // On a full disk, say. It stays where it is, and so does what says of what it is: a retry finds both.
                    Err(error) => {
                        let _ = std::fs::remove_dir(&place);
                        return Err(fail(error));
                    }
                    Ok(()) => {}
                }
            }
            // Left by a process that was killed while it wrote a checkpoint; it exists only beside a part.
            let _ = handle.remove(&meta_draft_name(&key));
            root.prune(&folder);
            // It is empty where nothing can be kept.
            let _ = std::fs::remove_dir(&place);
            Ok(is_kept())
        })
        .await
    }

    /// Removes the part of `key` that [`Aside::take`] has left in the directory `folder` of `root`, and the directory if it is
    /// empty and haul's own.
    pub async fn drop_left(&self, root: &Arc<Root>, folder: String, key: String) -> Result<(), Failure> {
        let root = root.clone();
        blocking(move || {
            let Some(handle) = root.find_folder(&folder)? else { return Ok(()) };
            for name in [meta_name(&key), meta_draft_name(&key), part_name(&key)] {
                handle.remove(&name).map_err(|error| failure("remove", &handle.path_of(&name), &error))?;
            }
            root.prune(&folder);
            Ok(())
        })
        .await
    }

    /// Moves the part of `key` back to `root`, unless there is another one by now. Where none is kept, its download starts
    /// over.
    pub async fn bring_back(&self, root: &Arc<Root>, job: JobId, folder: String, key: String) -> Result<(), Failure> {
        let (root, place) = (root.clone(), self.place.join(job.to_string()));
        blocking(move || {
            let part = part_name(&key);
            let is_kept = place.join(&part).exists();
            if is_kept && root.find_folder(&folder)?.map_or(Ok(false), |handle| handle.has(&part))? {
                return Ok(());
            }
            // A move that was cut half-way has left what says of what the part is.
            for name in [part, meta_name(&key)] {
                if !place.join(&name).exists() {
                    continue;
                }
                let handle = root.make_folder(&folder)?;
                handle
                    .rename_in(&place, &name)
                    .map_err(|error| failure("bring back", &handle.path_of(&name), &error))?;
            }
            Ok(())
        })
        .await
    }

    /// Returns whether any part of a job is kept.
    pub fn has(&self, job: JobId) -> bool {
        has_entries(&self.place.join(job.to_string()))
    }

    /// Notes that all parts of a job that are wanted back are back.
    pub async fn have_brought_back(&self, job: JobId) {
        let place = self.place.join(job.to_string());
        let _ = blocking(move || {
            // It fails where parts are left, of tasks that do not run again.
            let _ = std::fs::remove_dir(&place);
            Ok(())
        })
        .await;
    }

    /// Returns the jobs that have a directory of parts, and those of which parts were left in the download root. No directory is
    /// looked into: there may be very many.
    pub async fn jobs(&self) -> Result<Jobs, Failure> {
        let place = self.place.clone();
        blocking(move || {
            let fail = |error: io::Error| failure("look into", &place.display().to_string(), &error);
            let mut jobs = Jobs::default();
            let entries = match std::fs::read_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(jobs),
                entries => entries.map_err(fail)?,
            };
            for entry in entries {
                let name = entry.map_err(fail)?.file_name();
                let Some(name) = name.to_str() else { continue };
                match name.strip_suffix(LEFT) {
                    Some(job) => jobs.left.extend(job.parse::<JobId>()),
                    None => jobs.kept.extend(name.parse::<JobId>()),
                }
            }
            Ok(jobs)
        })
        .await
    }

    /// Notes on the device whether parts of a job are left in the download root, for the next start: without a note nobody would
    /// look there. An empty file finds room on most disks that are full.
    pub async fn note_left(&self, job: JobId, is_left: bool) -> Result<(), Failure> {
        let (place, note) = (self.place.clone(), self.place.join(format!("{job}{LEFT}")));
        blocking(move || {
            let fail = |error: io::Error| failure("note a part in", &note.display().to_string(), &error);
            if is_left {
                return make_note(&place, &note).map_err(fail);
            }
            // One that comes back after a loss of power costs the next start a look.
            match std::fs::remove_file(&note) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Removes every part that is kept of a job.
    pub async fn forget(&self, job: JobId) -> Result<(), Failure> {
        let place = self.place.join(job.to_string());
        blocking(move || remove_all(&place)).await
    }
}

/// Makes an empty file, and its name durable.
fn make_note(place: &Path, note: &Path) -> io::Result<()> {
    std::fs::create_dir_all(place)?;
    File::create(note)?;
    File::open(place)?.sync_all()?;
    // The directory may be as new.
    place.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
}

/// Gives back what was set aside for a part behind its bytes: of one whose process was killed it still is.
fn give_tail_back(folder: &Folder, name: &str) {
    if let Ok(file) = folder.open_with(name, OFlags::RDWR)
        && let Ok(metadata) = file.metadata()
    {
        // Where it cannot be given back, it stays with the part.
        let _ = file.set_len(metadata.len());
    }
}

/// Returns whether there is something in a directory.
fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove_all(place: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failure("remove", &place.display().to_string(), &error))
        }
        _ => Ok(()),
    }
}

/// Whether a directory, which need not be there yet, is on another file system than `folder`.
fn is_elsewhere(folder: &Folder, place: &Path) -> bool {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut above = place.ancestors().map(std::fs::metadata);
    // One that cannot be looked at may be on any.
    let nearest = above.find(|found| !found.as_ref().is_err_and(is_missing));
    nearest.is_some_and(|found| found.is_ok_and(|found| folder.device() != found.dev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a full disk: there is no place for it, and room may come.
    #[tokio::test]
    async fn a_part_that_cannot_be_moved_stays_where_it_is() {
        let at = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(&at.path().join("downloads")).unwrap());
        let (key, job) = ("task", JobId(uuid::Uuid::from_u128(7)));
        let [part, meta] = [part_name(key), meta_name(key)].map(|name| at.path().join("downloads").join(name));
        std::fs::write(&part, "half").unwrap();
        std::fs::write(&meta, "of what").unwrap();
        std::fs::write(at.path().join("taken"), "").unwrap();
        let nowhere = Aside::new(at.path().join("taken/partials"));
        let take = async |aside: &Aside| aside.take(&root, job, String::new(), key.to_owned()).await;
        assert!(take(&nowhere).await.is_err());
        assert!(part.exists() && meta.exists());
        nowhere.bring_back(&root, job, String::new(), key.to_owned()).await.unwrap();
        assert!(part.exists() && meta.exists(), "a retry goes on with it");
        assert!(nowhere.note_left(job, true).await.is_err() && nowhere.note_left(job, false).await.is_err());
        let files = [&part, &meta].map(|path| (path.clone(), std::fs::read(path).unwrap()));
        nowhere.drop_left(&root, String::new(), key.to_owned()).await.unwrap();
        assert!(!part.exists() && !meta.exists(), "its job was deleted");
        for (path, bytes) in &files {
            std::fs::write(path, bytes).unwrap();
        }

        let aside = Aside::new(at.path().join("partials"));
        // Something is in the way of the second of the two.
        let in_the_way = at.path().join("partials").join(job.to_string()).join(meta_name(key));
        std::fs::create_dir_all(&in_the_way).unwrap();
        assert!(take(&aside).await.is_err());
        assert!(aside.has(job) && meta.exists());
        std::fs::remove_dir(&in_the_way).unwrap();
        aside.bring_back(&root, job, String::new(), key.to_owned()).await.unwrap();
        assert!(part.exists() && meta.exists());
        assert!(take(&aside).await.unwrap());
        assert!(!part.exists() && !meta.exists());
        let jobs = async || aside.jobs().await.map(|jobs| (jobs.kept, jobs.left)).unwrap();
        aside.note_left(job, true).await.unwrap();
        assert_eq!(jobs().await, (vec![job], vec![job]));
        aside.note_left(job, false).await.unwrap();
        assert_eq!(jobs().await, (vec![job], Vec::new()));
    }
}
