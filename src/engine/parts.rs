//! The files that a job leaves beside its rows: part files while it lives, partial downloads of an ended one until it is
//! retried or deleted, bodies too long for the database.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::files::aside::Aside;
use crate::files::{ContentStore, Root};
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::spec::{DownloadSpec, Work};
use crate::model::task::TaskState;
use crate::store::{Store, StoreError};

/// Tasks that are looked at in one go.
const TASKS_MAX: u32 = 500;

/// The files of all jobs.
pub(crate) struct JobParts {
    root: Arc<Root>,
    content: Arc<ContentStore>,
    aside: Aside,
    store: Arc<dyn Store>,
    /// Parts are named by URL and path, and stay where they are when their job ends.
    by_url: bool,
}

impl JobParts {
    pub(crate) fn new(
        root: Arc<Root>,
        content: Arc<ContentStore>,
        aside: PathBuf,
        store: Arc<dyn Store>,
        by_url: bool,
    ) -> JobParts {
        JobParts { aside: Aside::new(root.clone(), aside), root, content, store, by_url }
    }

    /// The name of a task's part: its own, so that two jobs never share one, or that of its URL and path.
    pub(crate) fn key(&self, id: TaskId, spec: &DownloadSpec) -> String {
        if !self.by_url {
            return format!("{}-{}", id.job, id.index);
        }
        let digest = Sha256::digest(format!("{}\n{}", spec.url, spec.path));
        digest.iter().take(12).fold(String::new(), |key, byte| key + &format!("{byte:02x}"))
    }

    /// Puts the part files of an ending job away, so that none is left beside the finished files.
    pub(crate) async fn put_away(&self, job: JobId, directory: &str) {
        if self.by_url {
            return;
        }
        // The end of the last attempt may not be committed yet: its task still reads RUNNING.
        let states = [TaskState::Failed, TaskState::Cancelled, TaskState::Running];
        let result = self.for_parts(job, directory, &states, async |folder, key| {
            if let Err(failure) = self.aside.take(job, folder, key).await {
                tracing::warn!(%job, "a part file is left: {}", failure.message);
            }
        });
        if let Err(error) = result.await {
            tracing::warn!(%job, "part files are left: {error}");
        }
    }

    /// Brings them back for a retry.
    pub(crate) async fn bring_back(&self, job: JobId, directory: &str) {
        if !self.aside.has(job) {
            return;
        }
        let states = [TaskState::Failed, TaskState::Cancelled];
        let result = self.for_parts(job, directory, &states, async |folder, key| {
            if let Err(failure) = self.aside.bring_back(job, folder, key).await {
                tracing::warn!(%job, "a download begins anew: {}", failure.message);
            }
        });
        if let Err(error) = result.await {
            tracing::warn!(%job, "downloads begin anew: {error}");
        }
    }

    async fn for_parts(
        &self,
        job: JobId,
        directory: &str,
        states: &[TaskState],
        act: impl AsyncFn(String, String),
    ) -> Result<(), StoreError> {
        let mut from: TaskIndex = 0;
        loop {
            let tasks = self.store.tasks(job, states, from, TASKS_MAX).await?;
            let Some(last) = tasks.last() else { return Ok(()) };
            from = last.index + 1;
            for task in tasks {
                // One that never started has no part.
                let Work::Download(spec) = &task.spec.work else { continue };
                if task.row.task.fence > 0 {
                    let key = self.key(TaskId { job, index: task.index }, spec);
                    act(folder(directory, spec), key).await;
                }
            }
        }
    }

    /// Deletes what a deleted job left: its partial downloads and its bodies.
    pub(crate) async fn forget(&self, job: JobId) {
        for result in [self.content.remove(job).await, self.aside.forget(job).await] {
            if let Err(failure) = result {
                tracing::warn!(%job, "{}", failure.message);
            }
        }
    }

    /// Deletes finished downloads.
    pub(crate) async fn delete_files(&self, paths: Vec<String>) {
        for path in paths {
            if let Err(failure) = self.root.remove_file(&path).await {
                tracing::warn!("{}", failure.message);
            }
        }
    }
}

/// The directory that a download's file, and so its part, lies in.
fn folder(directory: &str, spec: &DownloadSpec) -> String {
    match spec.path.rsplit_once('/') {
        Some((above, _)) if directory.is_empty() => above.to_owned(),
        Some((above, _)) => format!("{directory}/{above}"),
        None => directory.to_owned(),
    }
}
