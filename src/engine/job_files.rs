//! The files that a job leaves beside its rows: part files while it lives, partial downloads of an ended one until it is
//! retried or deleted, bodies too long for the database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use crate::download;
use crate::engine::patience::patiently;
use crate::files::aside::Aside;
use crate::files::part::{Part, PartKey};
use crate::files::{ContentStore, Root, Roots};
use crate::model::checksum::hex;
use crate::model::failure::Failure;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::outcome::Outcome;
use crate::model::progress::Held;
use crate::model::spec::{DownloadSpec, Work};
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, StoredTask};

/// Tasks that are looked at in one go.
const TASKS_MAX: u32 = 500;
/// How often tasks are read whose parts are to come back, each time with patience: a part that does not come back is fetched anew.
const READS_MAX: u32 = 3;
/// Notes that are written in one go.
const NOTES_MAX: usize = 100;

/// The part that a task may have: its directory, its key, and of what it is.
struct FilePart {
    folder: String,
    key: String,
    spec: DownloadSpec,
    /// How much of it there is.
    held: Held,
}

/// The files of all jobs.
pub(crate) struct JobFiles {
    roots: Arc<Roots>,
    content: Arc<ContentStore>,
    aside: Aside,
    store: Arc<dyn Store>,
    /// Ended jobs of which a part could not be put away, and so is still beside the finished files. The next start is told by
    /// notes ([`Aside::note_left`]): whether there is one.
    left: Mutex<BTreeMap<JobId, bool>>,
    /// Parts are named by URL and path, and stay where they are when their job ends.
    by_url: bool,
}

impl JobFiles {
    pub(crate) fn new(
        roots: Arc<Roots>,
        content: Arc<ContentStore>,
        aside: PathBuf,
        store: Arc<dyn Store>,
        by_url: bool,
    ) -> JobFiles {
        JobFiles { aside: Aside::new(aside), roots, content, store, left: Mutex::default(), by_url }
    }

    /// Whether parts are named by URL and path, so that another process may use the same.
    pub(crate) fn by_url(&self) -> bool {
        self.by_url
    }

    /// The name of a task's part: its own, so that two jobs never share one, or that of its URL and path.
    pub(crate) fn key(&self, id: TaskId, spec: &DownloadSpec) -> String {
        if !self.by_url {
            return format!("{}-{}", id.job, id.index);
        }
        let digest = Sha256::digest(format!("{}\n{}", spec.url, spec.path));
        hex(&digest[..12])
    }

    /// Whether a download has written a checkpoint after `since`: its attempt has made progress that lasts.
    pub(crate) fn has_progressed(&self, job: &Job, index: TaskIndex, spec: &DownloadSpec, since: Timestamp) -> bool {
        let Ok(folder) = download::folder(&job.directory(), spec) else { return false };
        let Ok(root) = self.roots.of(&job.tenant) else { return false };
        let key = self.key(TaskId { job: job.id, index }, spec);
        let written = Part::checkpoint_time(&root, &folder, PartKey { name: &key, is_shared: self.by_url });
        let micros = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_micros());
        micros.is_some_and(|micros| i64::try_from(micros).is_ok_and(|micros| micros > since.0))
    }

    /// Puts the part files of an ending job away, so that none is left beside the finished files. Those that are named by
    /// URL and path stay for the next run, if it could go on with them. Returns what
    /// was removed because it could not be kept.
    pub(crate) async fn put_away(&self, job: &Job) -> Held {
        let mut gone = Held::default();
        let Some(root) = self.root_of(job) else {
            self.note_left(job.id, true).await;
            return gone;
        };
        let mut is_left = false;
        let parts_gone = job.parts_gone;
        let (job, directory) = (job.id, &job.directory());
        let states = [TaskState::Failed, TaskState::Cancelled];
        let mut from = Some(0);
        while let Some(parts) = self.next_parts((job, parts_gone), directory, &states, &mut from).await {
            for FilePart { folder, key, spec, held } in parts {
                let done = if self.by_url {
                    let key = PartKey { name: &key, is_shared: true };
                    download::drop_hopeless(&root, &folder, key, &spec).await.map(|()| true)
                } else {
                    self.aside.take(&root, job, folder, key).await
                };
                match done {
                    Ok(true) => {}
                    Ok(false) => gone.add(held),
                    Err(failure) => {
                        tracing::warn!(%job, "a part file is left: {}", failure.message);
                        is_left = true;
                    }
                }
            }
        }
        // A read that failed does not say that nothing is left.
        self.note_left(job, is_left || from.is_some()).await;
        gone
    }

    /// Notes whether parts of a job are left beside the finished files.
    async fn note_left(&self, job: JobId, is_left: bool) {
        if !is_left || self.by_url {
            let was_left = self.left().remove(&job).is_some();
            if was_left && let Err(failure) = self.aside.note_left(job, false).await {
                tracing::warn!(%job, "the next start looks for part files that are gone: {}", failure.message);
            }
            return;
        }
        let is_new = !self.left().contains_key(&job);
        self.left().entry(job).or_default();
        if let Err(failure) = self.write_note(job).await
            && is_new
        {
            tracing::warn!(%job, "the next start does not know yet of the part files that are left: {}", failure.message);
        }
    }

    /// Writes the note of a job whose parts are left, unless there is one, or they are gone by now.
    async fn write_note(&self, job: JobId) -> Result<(), Failure> {
        if self.left().get(&job).is_none_or(|is_noted| *is_noted) {
            return Ok(());
        }
        self.aside.note_left(job, true).await?;
        // Its parts may be gone by now, and the note with them.
        let is_left = self.left().get_mut(&job).map(|is_noted| *is_noted = true).is_some();
        if is_left { Ok(()) } else { self.aside.note_left(job, false).await }
    }

    /// Writes the notes that could not be written before.
    pub(crate) async fn note_again(&self) {
        let missing: Vec<JobId> =
            self.left().iter().filter(|(_, is_noted)| !**is_noted).map(|(job, _)| *job).take(NOTES_MAX).collect();
        for job in missing {
            if self.write_note(job).await.is_err() {
                // Nor would the others be.
                return;
            }
        }
    }

    fn left(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, bool>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether parts of an ended job are left beside the finished files.
    pub(crate) fn has_left(&self, job: JobId) -> bool {
        self.left().contains_key(&job)
    }

    /// Removes the parts of a job that is about to be deleted which could not be put away. Its rows say where they are, so this
    /// comes before they are hidden.
    pub(crate) async fn drop_left(&self, job: &Job) {
        if !self.has_left(job.id) {
            return;
        }
        let Some(root) = self.root_of(job) else { return };
        let states = [TaskState::Failed, TaskState::Cancelled];
        let mut from = Some(0);
        while let Some(parts) = self.next_parts((job.id, None), &job.directory(), &states, &mut from).await {
            for FilePart { folder, key, .. } in parts {
                if let Err(failure) = self.aside.drop_left(&root, folder, key).await {
                    tracing::warn!(job = %job.id, "a part file is left: {}", failure.message);
                }
            }
        }
        self.note_left(job.id, from.is_some()).await;
    }

    /// As [`JobFiles::drop_left`], for a job whose time is over. `false`: it does not end it.
    pub(crate) async fn drop_left_of(&self, job: JobId) -> Result<bool, StoreError> {
        match patiently(|| self.store.visit(job)).await {
            Ok(Some(job)) if job.state.is_ended() => self.drop_left(&job).await,
            Ok(Some(_)) => return Ok(false),
            Ok(None) => {}
            // It is removed all the same, and keeps no other from that. Where its parts are nobody can tell.
            Err(StoreError::Unreadable(why)) => tracing::warn!(%job, "part files are left: {why}"),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Returns the unfinished or ended jobs of which there may be part files that were put away. What the last process has left
    /// beside the finished files of jobs that have ended is put away now, if that can be done.
    pub(crate) async fn set_aside(&self) -> Vec<JobId> {
        let jobs = match self.aside.jobs().await {
            Ok(jobs) => jobs,
            Err(failure) => {
                tracing::warn!("part files are not looked for: {}", failure.message);
                return Vec::new();
            }
        };
        self.left().extend(jobs.left.iter().map(|job| (*job, true)));
        for job in jobs.left {
            // Boxed: it is large, and rare.
            Box::pin(self.put_away_at_last(job)).await;
        }
        jobs.kept
    }

    async fn put_away_at_last(&self, job: JobId) {
        match patiently(|| self.store.visit(job)).await {
            Ok(Some(job)) if job.state.is_ended() => {
                self.put_away(&job).await;
            }
            // It puts them away when it ends.
            Ok(Some(_)) => {}
            Ok(None) => self.note_left(job, false).await,
            Err(error) => tracing::warn!(%job, "part files are left: {error}"),
        }
    }

    /// Brings them back, for tasks that were put back: a job that has ended leaves nothing beside the finished files.
    pub(crate) async fn bring_back(&self, job: &Job) {
        if !self.aside.has(job.id) {
            return;
        }
        let Some(root) = self.root_of(job) else { return };
        let (job, directory) = (job.id, &job.directory());
        let states = [TaskState::Pending];
        let (mut from, mut tries) = (Some(0), 0);
        while from.is_some() && tries < READS_MAX {
            let Some(parts) = self.next_parts((job, None), directory, &states, &mut from).await else {
                // None is left, or they could not be read.
                tries += 1;
                continue;
            };
            tries = 0;
            for FilePart { folder, key, .. } in parts {
                if let Err(failure) = self.aside.bring_back(&root, job, folder, key).await {
                    tracing::warn!(%job, "a download begins anew: {}", failure.message);
                }
            }
        }
        // A read that failed does not say that all are back: the rest stays where it is, for the next start.
        if from.is_none() {
            self.aside.have_brought_back(job).await;
        }
    }

    fn root_of(&self, job: &Job) -> Option<Arc<Root>> {
        let root = self.roots.of(&job.tenant);
        root.inspect_err(|failure| tracing::warn!(job = %job.id, "files are left: {}", failure.message)).ok()
    }

    /// The parts that some more tasks may have; `None` after the last, where `from` is `None` too, and where they cannot be read.
    async fn next_parts(
        &self,
        (job, parts_gone): (JobId, Option<Timestamp>),
        directory: &str,
        states: &[TaskState],
        from: &mut Option<TaskIndex>,
    ) -> Option<Vec<FilePart>> {
        let first = (*from)?;
        let tasks = match patiently(|| self.store.download_tasks(job, states, first, TASKS_MAX)).await {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::warn!(%job, "part files are not looked for: {error}");
                return None;
            }
        };
        let tasks = tasks.items;
        *from = tasks.last().and_then(|last| last.index.checked_add(1));
        if tasks.is_empty() {
            return None;
        }
        let part = |task: StoredTask| match &task.spec.work {
            Work::Download(spec) => {
                // A path that is refused never had a part either.
                let folder = download::folder(directory, spec).ok()?;
                let key = self.key(TaskId { job, index: task.index }, spec);
                let held = task.row.held_of(&task.spec.work, parts_gone);
                Some(FilePart { folder, key, spec: spec.clone(), held })
            }
            Work::Fetch(_) => None,
        };
        Some(tasks.into_iter().filter_map(part).collect())
    }

    /// Deletes what a deleted job left: its partial downloads and its bodies.
    pub(crate) async fn forget(&self, job: JobId) {
        self.note_left(job, false).await;
        for result in [self.content.remove(job).await, self.aside.forget(job).await] {
            if let Err(failure) = result {
                tracing::warn!(%job, "{}", failure.message);
            }
        }
    }

    /// Deletes the finished downloads that a job created and that are still the files that it created. What it found
    /// there, and what somebody else has put there since, is not its own.
    pub(crate) async fn delete_created(&self, job: &Job) -> Result<(), StoreError> {
        let Some(root) = self.root_of(job) else { return Ok(()) };
        let job = job.id;
        let mut from = 0;
        loop {
            let read = || self.store.download_tasks(job, &[TaskState::Succeeded], from, TASKS_MAX);
            let tasks = patiently(read).await?.items;
            let Some(last) = tasks.last() else { return Ok(()) };
            from = last.index.saturating_add(1);
            for task in &tasks {
                let Some(Outcome::Download(download)) = task.row.outcome.as_deref() else { continue };
                let Some(created) = download.created else { continue };
                if let Err(failure) = root.remove_created(&download.path, download.bytes, created).await {
                    tracing::warn!(%job, "a file is left: {}", failure.message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{Durability, SqliteStore};

    /// Notes are written one after another, and meanwhile the parts of a job may go.
    #[tokio::test]
    async fn a_note_is_not_written_for_parts_that_have_gone_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _writer) = SqliteStore::open(&dir.path().join("data"), Durability::Off).await.unwrap();
        let downloads = dir.path().join("downloads");
        let roots = Roots::new(Root::open(&downloads).unwrap(), BTreeMap::new());
        let content = ContentStore::open(&dir.path().join("content"), None).unwrap();
        let files = JobFiles::new(Arc::new(roots), Arc::new(content), dir.path().join("aside"), store, false);
        let job = JobId(uuid::Uuid::nil());
        files.note_left(job, true).await;
        assert_eq!(files.aside.jobs().await.unwrap().left, [job]);
        files.note_left(job, false).await;
        files.write_note(job).await.unwrap();
        assert!(!files.has_left(job), "it takes no memory any more");
        assert!(files.aside.jobs().await.unwrap().left.is_empty(), "nor does the next start look for it");
    }
}
