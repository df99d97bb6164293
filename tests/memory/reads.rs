//! The reading half.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use haul::model::audit::{AuditFilter, AuditRecord, AuditRow};
use haul::model::book::Book;
use haul::model::counts::Counts;
use haul::model::event::EventKind;
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskId, TaskIndex};
use haul::model::job::Job;
use haul::model::limits::LimitsPatch;
use haul::model::pause::{HostPause, PauseKey};
use haul::model::spec::Work;
use haul::model::task::TaskState;
use haul::model::tenant::{Party, TenantNo};
use haul::model::time::Timestamp;
use haul::store::page_token::PageTokens;
use haul::store::{
    Answer, AuditPage, AuditPlace, Chunk, Content, CutAttempt, CutPage, DuePage, DueTask, EventPage, JobFilter,
    JobPage, LaneNumber, LanePage, Listed, NewPage, PAGE_BYTES_MAX, PageHead, Recovered, Store, StoreError,
    StoredEvent, StoredTask, TaskPage, TaskQuery,
};
use haul::vault::{Key, Vault};

use super::job::JobRows;
use super::{LOOK_MAX, MemoryStore, Rows};

/// Attempts of one part.
const CLAIMS_MAX: usize = 4096;

fn now<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    std::future::ready(Ok::<T, StoreError>(value)).boxed()
}

/// A page of at most `limit` items, which ends before the first one that begins beyond the bytes that a page may have.
/// Returns the items and whether more may follow.
fn page<T>(mut items: impl Iterator<Item = T>, limit: u32, bytes_of: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while page.len() < limit as usize && bytes < PAGE_BYTES_MAX {
        let Some(item) = items.next() else { return (page, false) };
        bytes += bytes_of(&item);
        page.push(item);
    }
    let has_more = !page.is_empty() && (bytes >= PAGE_BYTES_MAX || items.next().is_some());
    (page, has_more)
}

fn task_bytes(task: &StoredTask) -> usize {
    task.spec.memory_bytes()
}

/// Listings have the last attempt of those without a result.
fn cut_log(task: &mut StoredTask) {
    let kept = usize::from(task.row.outcome.is_none());
    let surplus = task.row.log.len().saturating_sub(kept);
    task.row.log.drain(..surplus);
}

fn head_of(page: &NewPage) -> PageHead {
    let bytes = match &page.content {
        Content::Inline(data) => data.len() as u64,
        Content::File { bytes, .. } => *bytes,
    };
    let NewPage { page, first_item, items, next, .. } = page;
    PageHead { page: *page, first_item: *first_item, items: *items, bytes, next: next.clone() }
}

fn is_download(task: &StoredTask) -> bool {
    matches!(task.spec.work, Work::Download(_))
}

impl JobRows {
    fn tasks_from(&self, from: TaskIndex) -> impl Iterator<Item = StoredTask> {
        self.tasks.range(from..).filter_map(|(index, _)| self.task(*index))
    }

    fn lane_page(&self, lane: LaneNumber, from: TaskIndex, limit: u32, now: Timestamp) -> LanePage {
        let mut of_lane = self.tasks.range(from..).filter(|(_, (of, _))| *of == lane).map(|(index, _)| *index);
        let looked_at: Vec<TaskIndex> = of_lane.by_ref().take(LOOK_MAX as usize).collect();
        let beyond = of_lane.next();
        let may_start = |task: &StoredTask| {
            let task = &task.row.task;
            task.state == TaskState::Pending
                || task.state == TaskState::BackingOff && task.due.is_some_and(|due| due <= now)
        };
        let found = looked_at.into_iter().filter_map(|index| self.task(index)).filter(may_start);
        let (tasks, has_more) = page(found, limit, task_bytes);
        let is_full = has_more || tasks.len() == limit as usize;
        let next = if is_full { tasks.last().map(|last| last.index + 1) } else { beyond };
        LanePage { tasks, next, first_unreadable: None }
    }
}

impl Rows {
    /// The rows of a job that is not deleted.
    pub(super) fn visible(&self, job: JobId) -> Option<&JobRows> {
        self.jobs.get(&job).filter(|rows| !rows.row().deleted)
    }

    fn listed_tasks(
        &self,
        job: JobId,
        limit: u32,
        from: TaskIndex,
        fits: impl Fn(&StoredTask) -> bool,
    ) -> Listed<StoredTask> {
        let all = self.visible(job).into_iter().flat_map(|rows| rows.tasks_from(from));
        let (items, has_more) = page(all.filter(fits), limit, task_bytes);
        Listed { items, has_more }
    }

    fn events(&self, job: JobId, after: u64, limit: u32) -> Listed<StoredEvent> {
        let Some(rows) = self.visible(job) else { return Listed::default() };
        let told = rows.events.range(after.saturating_add(1)..).map(|(sequence, (head, snapshot))| {
            let task = head.task.and_then(|index| rows.told_task(index, *sequence)).map(Into::into);
            StoredEvent { head: *head, snapshot: snapshot.clone(), task }
        });
        let (items, has_more) = page(told, limit, |_| 0);
        Listed { items, has_more }
    }

    fn claims(&self, after: Option<TaskId>) -> CutPage {
        let all = self.jobs.iter().flat_map(|(job, rows)| {
            rows.claims.iter().filter_map(|(index, claim)| {
                let id = TaskId { job: *job, index: *index };
                Some(CutAttempt { id, attempt_start: claim.attempt_start, task: rows.task(*index)? })
            })
        });
        let attempts: Vec<_> = all.filter(|cut| after.is_none_or(|after| cut.id > after)).take(CLAIMS_MAX).collect();
        let next = attempts.last().filter(|_| attempts.len() == CLAIMS_MAX).map(|cut| cut.id);
        CutPage { attempts, unreadable: Vec::new(), next }
    }

    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> DuePage {
        let mut due: Vec<DueTask> = Vec::new();
        for (job, rows) in &self.jobs {
            for (index, row) in rows.states.iter() {
                let id = TaskId { job: *job, index: *index };
                let entry = row.task.due.map(|due| DueTask { due, id });
                let waits = row.task.state == TaskState::BackingOff && rows.claims.get(index).is_none();
                due.extend(entry.filter(|entry| waits && after.is_none_or(|after| *entry > after)));
            }
        }
        due.sort_unstable();
        let is_full = due.len() >= limit as usize;
        due.truncate(limit as usize);
        let next = due.last().copied().filter(|_| is_full);
        let with_task = |entry: DueTask| Some((entry, self.jobs.get(&entry.id.job)?.task(entry.id.index)?));
        DuePage { tasks: due.into_iter().filter_map(with_task).collect(), next }
    }

    fn recover(&self, after: Option<JobId>) -> Recovered {
        let unfinished = self.jobs.iter().filter(|(id, rows)| {
            !rows.row().deleted && !rows.row().job.state.is_ended() && after.is_none_or(|after| **id > after)
        });
        let all = unfinished.map(|(_, rows)| (rows.job(), lanes(rows)));
        let (jobs, has_more) = page(all, u32::MAX, |(job, _)| job.spec.memory_bytes());
        let next = jobs.last().filter(|_| has_more).map(|(job, _)| job.id);
        Recovered::new(next, move || jobs)
    }
}

fn lanes(rows: &JobRows) -> Vec<(Host, TaskIndex)> {
    rows.lanes.iter().map(|(_, lane)| lane.clone()).collect()
}

impl Store for MemoryStore {
    fn node_id(&self) -> String {
        "memory".to_owned()
    }

    fn keyed(&self, digest: [u8; 32]) -> [u8; 32] {
        // Nobody reads it from a disk.
        digest
    }

    fn page_tokens(&self) -> PageTokens {
        let key = Key::read(&"0".repeat(64)).unwrap();
        PageTokens::new(Arc::new(Vault::new(vec![(1, key.clone())], &key).unwrap()))
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Answer<'_, Option<LimitsPatch>> {
        now(self.rows().limits.clone())
    }

    fn stored_bytes(&self) -> Answer<'_, Vec<(TenantNo, u64)>> {
        let mut sums = BTreeMap::new();
        for rows in self.rows().jobs.values() {
            let job = &rows.row().job;
            *sums.entry(job.tenant.no).or_insert(0) += job.stored_bytes();
        }
        now(sums.into_iter().collect())
    }

    fn host_pauses(&self) -> Answer<'_, Vec<(PauseKey, HostPause)>> {
        let rows = self.rows();
        let mut pauses: Vec<_> = rows.pauses.iter().map(|(key, pause)| (key.clone(), pause.clone())).collect();
        pauses.sort_by_key(|(_, pause)| pause.time);
        now(pauses)
    }

    fn access(&self) -> Answer<'_, Book> {
        now(Book::of(self.rows().access.iter().cloned()))
    }

    fn audit<'a>(&'a self, filter: &'a AuditFilter, place: AuditPlace, limit: u32) -> Answer<'a, AuditPage> {
        let rows = self.rows();
        let record = |(at, row): (usize, &AuditRow)| AuditRecord {
            sequence: at as u64 + 1,
            row: row.clone(),
            // Nobody edits it on a disk.
            chain: Vec::new(),
        };
        let all = rows.audit.iter().enumerate().map(record).filter(|it| filter.fits(&it.row));
        let mut records: Vec<AuditRecord> = match place {
            AuditPlace::After(last) => all.filter(|it| it.sequence > last).collect(),
            AuditPlace::Before(last) => all.filter(|it| it.sequence < last).rev().collect(),
        };
        let has_more = records.len() > limit as usize;
        records.truncate(limit as usize);
        let next = records.last().filter(|_| has_more).map(|last| match place {
            AuditPlace::After(_) => AuditPlace::After(last.sequence),
            AuditPlace::Before(_) => AuditPlace::Before(last.sequence),
        });
        now(AuditPage { records, next })
    }

    fn audit_head(&self) -> Answer<'_, Option<String>> {
        let count = self.rows().audit.len() as u64;
        now((count > 0).then(|| format!("{count}:")))
    }

    fn job(&self, id: JobId) -> Answer<'_, Option<Job>> {
        now(self.rows().visible(id).map(JobRows::job))
    }

    fn jobs<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<Job>> {
        let rows = self.rows();
        let JobPage { items, examined, next } =
            rows.find_jobs(filter, limit, |rows| rows.row().job.spec.memory_bytes());
        let items = items.into_iter().filter_map(|id| rows.jobs.get(&id).map(JobRows::job)).collect();
        now(JobPage { items, examined, next })
    }

    fn job_ids<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<JobId>> {
        now(self.rows().find_jobs(filter, limit, |_| 0))
    }

    fn find_tasks<'a>(&'a self, job: JobId, query: &'a TaskQuery, limit: u32) -> Answer<'a, TaskPage> {
        let mut found = self.rows().visible(job).map(|rows| rows.find_tasks(query, limit)).unwrap_or_default();
        found.items.iter_mut().for_each(cut_log);
        now(found)
    }

    fn events_before<'a>(
        &'a self,
        job: JobId,
        before: u64,
        kinds: &'a [EventKind],
        limit: u32,
    ) -> Answer<'a, EventPage> {
        now(self.rows().visible(job).map(|rows| rows.events_before(before, kinds, limit)).unwrap_or_default())
    }

    fn request<'a>(&'a self, of: Party, request_id: &'a str) -> Answer<'a, Option<(JobId, [u8; 32])>> {
        now(self.rows().requests.get(&(request_id.to_owned(), of.principal, of.tenant)).copied())
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>> {
        now(self.rows().visible(id.job).and_then(|rows| rows.task(id.index)))
    }

    fn task_by_key<'a>(&'a self, job: JobId, key: &'a str) -> Answer<'a, Option<StoredTask>> {
        let rows = self.rows();
        now(rows.visible(job).and_then(|rows| rows.task(*rows.keys.get(&key.to_owned())?)))
    }

    fn tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>> {
        let fits = |task: &StoredTask| states.is_empty() || states.contains(&task.row.task.state);
        let mut listed = self.rows().listed_tasks(job, limit, from, fits);
        listed.items.iter_mut().for_each(cut_log);
        now(listed)
    }

    fn events(&self, job: JobId, after: u64, limit: u32) -> Answer<'_, Listed<StoredEvent>> {
        now(self.rows().events(job, after, limit))
    }

    fn page_heads(&self, id: TaskId, from: u32, limit: u32) -> Answer<'_, Vec<PageHead>> {
        let rows = self.rows();
        let pages = rows.visible(id.job).into_iter();
        let pages = pages.flat_map(|rows| rows.pages.range((id.index, from)..=(id.index, u32::MAX)));
        now(pages.map(|(_, page)| head_of(page)).take(limit as usize).collect())
    }

    fn page_of_item(&self, id: TaskId, item: u64) -> Answer<'_, Option<PageHead>> {
        let rows = self.rows();
        let pages = rows.visible(id.job).into_iter();
        let mut pages = pages.flat_map(|rows| rows.pages.range((id.index, 0)..=(id.index, u32::MAX))).rev();
        now(pages.find(|(_, page)| page.first_item <= item).map(|(_, page)| head_of(page)))
    }

    fn last_page(&self, id: TaskId) -> Answer<'_, Option<PageHead>> {
        let rows = self.rows();
        let pages = rows.visible(id.job).into_iter();
        let mut pages = pages.flat_map(|rows| rows.pages.range((id.index, 0)..=(id.index, u32::MAX)));
        now(pages.next_back().map(|(_, page)| head_of(page)))
    }

    fn page_content(&self, id: TaskId, page: u32) -> Answer<'_, Option<Content>> {
        let rows = self.rows();
        now(rows.visible(id.job).and_then(|rows| rows.pages.get(&(id.index, page))).map(|page| page.content.clone()))
    }

    fn recover(&self, after: Option<JobId>) -> Answer<'_, Recovered> {
        now(self.rows().recover(after))
    }

    fn claims(&self, after: Option<TaskId>) -> Answer<'_, CutPage> {
        now(self.rows().claims(after))
    }

    fn lane_page(
        &self,
        job: JobId,
        lane: LaneNumber,
        from: TaskIndex,
        limit: u32,
        time: Timestamp,
    ) -> Answer<'_, LanePage> {
        let rows = self.rows();
        now(rows.visible(job).map(|rows| rows.lane_page(lane, from, limit, time)).unwrap_or_default())
    }

    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> Answer<'_, DuePage> {
        now(self.rows().due_tasks(after, limit))
    }

    fn visit(&self, job: JobId) -> Answer<'_, Option<Job>> {
        self.job(job)
    }

    fn lanes(&self, job: JobId) -> Answer<'_, Vec<(Host, TaskIndex)>> {
        now(self.rows().visible(job).map(lanes).unwrap_or_default())
    }

    fn chunk<'a>(&'a self, job: JobId, chunk_id: &'a str) -> Answer<'a, Option<Chunk>> {
        now(self.rows().visible(job).and_then(|rows| rows.chunks.get(&chunk_id.to_owned()).cloned()))
    }

    fn task_states<'a>(&'a self, job: JobId, indexes: &'a [TaskIndex]) -> Answer<'a, Vec<(TaskIndex, TaskState)>> {
        let rows = self.rows();
        let mut states: Vec<(TaskIndex, TaskState)> = Vec::new();
        if let Some(rows) = rows.visible(job) {
            let there = indexes.iter().filter(|index| rows.tasks.get(index).is_some());
            states.extend(there.map(|index| (*index, rows.state(*index))));
        }
        states.sort_unstable_by_key(|(index, _)| *index);
        states.dedup();
        now(states)
    }

    fn recount(&self, job: JobId) -> Answer<'_, Counts> {
        now(self.rows().visible(job).map(JobRows::recount).unwrap_or_default())
    }

    fn download_tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>> {
        let fits =
            |task: &StoredTask| is_download(task) && task.row.task.fence > 0 && states.contains(&task.row.task.state);
        now(self.rows().listed_tasks(job, limit, from, fits))
    }

    fn expired_jobs(&self, time: Timestamp, limit: u32) -> Answer<'_, Vec<(JobId, TenantNo)>> {
        let rows = self.rows();
        let expiring =
            rows.jobs.iter().filter_map(|(id, rows)| Some((rows.row().expire_time?, (*id, rows.row().job.tenant.no))));
        let mut expired: Vec<_> = expiring.filter(|(expires, _)| *expires <= time).collect();
        expired.sort_unstable();
        now(expired.into_iter().map(|(_, id)| id).take(limit as usize).collect())
    }

    fn deleted_jobs(&self, limit: u32) -> Answer<'_, Vec<JobId>> {
        let rows = self.rows();
        let deleted = rows.jobs.iter().filter(|(_, rows)| rows.row().deleted).map(|(id, _)| *id);
        now(deleted.take(limit as usize).collect())
    }
}
