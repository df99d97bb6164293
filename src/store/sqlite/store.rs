//! The reading half of the store, over the groups of tables.

use std::sync::Arc;

use crate::model::audit::AuditFilter;
use crate::model::book::Book;
use crate::model::counts::Counts;
use crate::model::event::EventKind;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::LimitsPatch;
use crate::model::pause::{HostPause, PauseKey};
use crate::model::task::TaskState;
use crate::model::tenant::{Party, TenantNo};
use crate::model::time::Timestamp;
use crate::store::page_token::PageTokens;
use crate::store::sqlite::lock::DirLock;
use crate::store::sqlite::reader::Reader;
use crate::store::sqlite::tasks_found::find;
use crate::store::sqlite::{access, additions, columns, events, jobs, listing, pages, pauses, recovery, tasks};
use crate::store::sqlite::{trail, upkeep};
use crate::store::{
    Answer, AuditPage, AuditPlace, Chunk, Content, CutPage, DuePage, DueTask, EventPage, JobFilter, JobPage,
    LaneNumber, LanePage, Listed, PageHead, Recovered, Sealing, Store, StoredEvent, StoredTask, TaskPage, TaskQuery,
};

/// The reading half.
pub struct SqliteStore {
    /// For whoever calls the server.
    pub(super) callers: Reader,
    /// For the events of jobs, which may be many and are read from the first on: no other call waits behind that.
    pub(super) replays: Reader,
    /// For the tasks that the engine runs, which never waits behind anybody who asks for something.
    pub(super) engine: Reader,
    /// For changes that the engine decides over what the store has, one after the other for each job. They may take long,
    /// and are waited for by whoever asked for them.
    pub(super) visits: Reader,
    pub(super) node_id: String,
    /// Held as long as anybody may read.
    pub(super) _lock: Arc<DirLock>,
}

impl Store for SqliteStore {
    fn node_id(&self) -> String {
        self.node_id.clone()
    }

    fn keyed(&self, digest: [u8; 32]) -> [u8; 32] {
        columns::keyed(&self.callers.vault, digest)
    }

    fn page_tokens(&self) -> PageTokens {
        PageTokens::new(self.callers.vault.clone())
    }

    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn sealing(&self) -> Answer<'_, Sealing> {
        Box::pin(upkeep::left(&self.callers))
    }

    fn limits(&self) -> Answer<'_, Option<LimitsPatch>> {
        Box::pin(jobs::limits(&self.callers))
    }

    fn stored_bytes(&self) -> Answer<'_, Vec<(TenantNo, u64)>> {
        Box::pin(jobs::stored_bytes(&self.callers))
    }

    fn host_pauses(&self) -> Answer<'_, Vec<(PauseKey, HostPause)>> {
        Box::pin(pauses::all(&self.callers))
    }

    fn access(&self) -> Answer<'_, Book> {
        Box::pin(access::book(&self.callers))
    }

    fn audit<'a>(&'a self, filter: &'a AuditFilter, place: AuditPlace, limit: u32) -> Answer<'a, AuditPage> {
        Box::pin(trail::list(&self.callers, filter, place, limit))
    }

    fn audit_head(&self) -> Answer<'_, Option<String>> {
        Box::pin(trail::head(&self.callers))
    }

    fn job(&self, id: JobId) -> Answer<'_, Option<Job>> {
        Box::pin(jobs::job(&self.callers, id))
    }

    fn jobs<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<Job>> {
        Box::pin(listing::jobs(&self.callers, filter, limit))
    }

    fn job_ids<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<JobId>> {
        Box::pin(listing::ids(&self.callers, filter, limit))
    }

    fn request<'a>(&'a self, of: Party, request_id: &'a str) -> Answer<'a, Option<(JobId, [u8; 32])>> {
        Box::pin(jobs::request(&self.callers, of, request_id))
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>> {
        Box::pin(tasks::task(&self.callers, id))
    }

    fn task_by_key<'a>(&'a self, job: JobId, key: &'a str) -> Answer<'a, Option<StoredTask>> {
        Box::pin(tasks::by_key(&self.callers, job, key))
    }

    fn tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>> {
        Box::pin(tasks::list(&self.callers, job, states, from, limit))
    }

    fn find_tasks<'a>(&'a self, job: JobId, query: &'a TaskQuery, limit: u32) -> Answer<'a, TaskPage> {
        Box::pin(find(&self.callers, job, query, limit))
    }

    fn events_before<'a>(
        &'a self,
        job: JobId,
        before: u64,
        kinds: &'a [EventKind],
        limit: u32,
    ) -> Answer<'a, EventPage> {
        Box::pin(events::before(&self.replays, job, before, kinds, limit))
    }

    fn events(&self, job: JobId, after: u64, limit: u32) -> Answer<'_, Listed<StoredEvent>> {
        Box::pin(events::after(&self.replays, job, after, limit))
    }

    fn page_heads(&self, id: TaskId, from: u32, limit: u32) -> Answer<'_, Vec<PageHead>> {
        Box::pin(pages::heads(&self.callers, id, from, limit))
    }

    fn page_of_item(&self, id: TaskId, item: u64) -> Answer<'_, Option<PageHead>> {
        Box::pin(pages::of_item(&self.callers, id, item))
    }

    fn last_page(&self, id: TaskId) -> Answer<'_, Option<PageHead>> {
        Box::pin(pages::last(&self.engine, id))
    }

    fn page_content(&self, id: TaskId, page: u32) -> Answer<'_, Option<Content>> {
        Box::pin(pages::content(&self.callers, id, page))
    }

    fn recover(&self, after: Option<JobId>) -> Answer<'_, Recovered> {
        Box::pin(recovery::recover(&self.engine, after))
    }

    fn claims(&self, after: Option<TaskId>) -> Answer<'_, CutPage> {
        Box::pin(recovery::claims(&self.engine, after))
    }

    fn lane_page(
        &self,
        job: JobId,
        lane: LaneNumber,
        from: TaskIndex,
        limit: u32,
        now: Timestamp,
    ) -> Answer<'_, LanePage> {
        Box::pin(tasks::lane_page(&self.engine, job, lane, from, limit, now))
    }

    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> Answer<'_, DuePage> {
        Box::pin(recovery::due(&self.engine, after, limit))
    }

    fn visit(&self, job: JobId) -> Answer<'_, Option<Job>> {
        Box::pin(jobs::job(&self.visits, job))
    }

    fn lanes(&self, job: JobId) -> Answer<'_, Vec<(Host, TaskIndex)>> {
        Box::pin(recovery::lanes(&self.visits, job))
    }

    fn chunk<'a>(&'a self, job: JobId, chunk_id: &'a str) -> Answer<'a, Option<Chunk>> {
        Box::pin(additions::chunk(&self.visits, job, chunk_id))
    }

    fn task_states<'a>(&'a self, job: JobId, indexes: &'a [TaskIndex]) -> Answer<'a, Vec<(TaskIndex, TaskState)>> {
        Box::pin(tasks::states(&self.visits, job, indexes))
    }

    fn recount(&self, job: JobId) -> Answer<'_, Counts> {
        Box::pin(tasks::recount(&self.visits, job))
    }

    fn download_tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>> {
        Box::pin(tasks::downloads(&self.visits, job, states, from, limit))
    }

    fn expired_jobs(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<(JobId, TenantNo)>> {
        Box::pin(jobs::expired(&self.visits, now, limit))
    }

    fn deleted_jobs(&self, limit: u32) -> Answer<'_, Vec<JobId>> {
        Box::pin(jobs::deleted(&self.visits, limit))
    }
}
