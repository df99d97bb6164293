//! The store in one `SQLite` database: one connection that writes (see [`SqliteWriter`]), a few that read.
//!
//! Files are by group of tables. Nothing outside knows the internal numbers of jobs or any SQL. Reads go through single
//! statements, each of which sees one state of the database.

mod check;
mod errors;
mod events;
mod insert;
mod jobs;
mod lock;
mod numbers;
mod open;
mod pages;
mod purge;
mod recovery;
mod rows;
mod states;
mod sweep;
mod tasks;
mod writer;

use std::sync::Arc;

use sqlx::SqlitePool;

pub use crate::store::sqlite::open::{Durability, OpenError};
pub use crate::store::sqlite::writer::SqliteWriter;

use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::Limits;
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::store::sqlite::lock::DirLock;
use crate::store::{
    Answer, Chunk, Content, DueTask, JobFilter, LaneNumber, PageHead, Recovered, Store, StoredEvent, StoredTask,
};

/// The reading half.
pub struct SqliteStore {
    pool: SqlitePool,
    node_id: String,
    /// Held as long as anybody may read.
    _lock: Arc<DirLock>,
}

impl Store for SqliteStore {
    fn node_id(&self) -> String {
        self.node_id.clone()
    }

    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn limits(&self) -> Answer<'_, Option<Limits>> {
        Box::pin(jobs::limits(&self.pool))
    }

    fn job(&self, id: JobId) -> Answer<'_, Option<Job>> {
        Box::pin(jobs::job(&self.pool, id))
    }

    fn jobs<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, Vec<Job>> {
        Box::pin(jobs::jobs(&self.pool, filter, limit))
    }

    fn request<'a>(&'a self, request_id: &'a str) -> Answer<'a, Option<(JobId, [u8; 32])>> {
        Box::pin(jobs::request(&self.pool, request_id))
    }

    fn chunk<'a>(&'a self, job: JobId, chunk_id: &'a str) -> Answer<'a, Option<Chunk>> {
        Box::pin(jobs::chunk(&self.pool, job, chunk_id))
    }

    fn taken_keys<'a>(&'a self, job: JobId, keys: &'a [String]) -> Answer<'a, Vec<String>> {
        Box::pin(tasks::taken_keys(&self.pool, job, keys))
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>> {
        Box::pin(tasks::task(&self.pool, id))
    }

    fn task_by_key<'a>(&'a self, job: JobId, key: &'a str) -> Answer<'a, Option<StoredTask>> {
        Box::pin(tasks::by_key(&self.pool, job, key))
    }

    fn tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Vec<StoredTask>> {
        Box::pin(tasks::list(&self.pool, job, states, from, limit))
    }

    fn task_states<'a>(&'a self, job: JobId, indexes: &'a [TaskIndex]) -> Answer<'a, Vec<(TaskIndex, TaskState)>> {
        Box::pin(tasks::states(&self.pool, job, indexes))
    }

    fn events(&self, job: JobId, after: u64, limit: u32) -> Answer<'_, Vec<StoredEvent>> {
        Box::pin(events::after(&self.pool, job, after, limit))
    }

    fn page_heads(&self, id: TaskId, from: u32, limit: u32) -> Answer<'_, Vec<PageHead>> {
        Box::pin(pages::heads(&self.pool, id, from, limit))
    }

    fn page_of_item(&self, id: TaskId, item: u64) -> Answer<'_, Option<PageHead>> {
        Box::pin(pages::of_item(&self.pool, id, item))
    }

    fn last_page(&self, id: TaskId) -> Answer<'_, Option<PageHead>> {
        Box::pin(pages::last(&self.pool, id))
    }

    fn page_content(&self, id: TaskId, page: u32) -> Answer<'_, Option<Content>> {
        Box::pin(pages::content(&self.pool, id, page))
    }

    fn recover(&self) -> Answer<'_, Recovered> {
        Box::pin(recovery::recover(&self.pool))
    }

    fn lane_page(&self, job: JobId, lane: LaneNumber, from: TaskIndex, limit: u32) -> Answer<'_, Vec<StoredTask>> {
        Box::pin(tasks::lane_page(&self.pool, job, lane, from, limit))
    }

    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> Answer<'_, Vec<DueTask>> {
        Box::pin(recovery::due(&self.pool, after, limit))
    }

    fn lanes(&self, job: JobId) -> Answer<'_, Vec<(LaneNumber, Host, TaskIndex)>> {
        Box::pin(recovery::lanes(&self.pool, job))
    }

    fn expired_jobs(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<JobId>> {
        Box::pin(jobs::expired(&self.pool, now, limit))
    }

    fn deleted_jobs(&self, limit: u32) -> Answer<'_, Vec<JobId>> {
        Box::pin(jobs::deleted(&self.pool, limit))
    }

    fn download_paths(&self, job: JobId, from: TaskIndex, limit: u32) -> Answer<'_, Vec<(TaskIndex, String)>> {
        Box::pin(tasks::download_paths(&self.pool, job, from, limit))
    }
}
