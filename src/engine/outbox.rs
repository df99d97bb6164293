//! The batch that fills while another is being committed, and what follows it.

mod seal;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::engine::command::EngineError;
use crate::engine::effect::Effect;
use crate::engine::queue::Head;
use crate::engine::queue::task::BatchNumber;
use crate::model::access::AccessRow;
use crate::model::audit::{AuditEntry, Of};
use crate::model::event::{EventHead, EventKind};
use crate::model::ids::{JobId, JobMap, TaskId};
use crate::model::job::Job;
use crate::model::pause::PauseChange;
use crate::store::{
    Addition, Batch, Claim, Content, LaneNumber, NewEvent, NewPage, StoredEvent, StoredTask, Submission, TaskMove,
    Which,
};

/// Tasks, attempts and pages that may wait for a commit before nothing more is begun.
const CHANGES_MAX: usize = 50_000;
/// Memory that they may take, in bytes, roughly. What is taken in one go comes on top, and what is at the disk.
const BYTES_MAX: usize = 32 << 20;
/// Memory of pages of fetches beyond which no more are added. On a full disk what cannot be left out of a batch has to fit into
/// what the store lends, twice: in its log, and where that is copied to.
const PAGES_BYTES_MAX: usize = 8 << 20;
/// Ends of attempts that a batch takes, or as many as may run, if that is more. Those that come while another batch is at the
/// disk wait then, so that the next one is not the larger the longer that took: whoever asks for something waits for both.
const ENDS_MAX: usize = 64;
/// Memory of a row that moves, beside what it holds.
const ROW_BYTES: usize = 512;

/// Changes that wait to be committed together.
pub(crate) struct Outbox {
    batch: Batch,
    /// Tasks, attempts and pages in it, as a measure of how long the commit will take.
    changes: usize,
    /// The memory that it takes, roughly.
    bytes: usize,
    /// That of the pages in it.
    pages_bytes: usize,
    effects: Vec<Effect>,
    /// The number of the batch that fills, from 1.
    number: BatchNumber,
    /// Jobs whose moving part changed.
    dirty: BTreeSet<JobId>,
    /// Durable events of jobs, in order, for their watchers.
    events: JobMap<Vec<Arc<StoredEvent>>>,
    /// Tasks whose end is in the batch.
    ended: Vec<(TaskId, LaneNumber)>,
    /// Whether something was added that is to be committed at once.
    is_urgent: bool,
}

/// A batch on its way to the store.
pub(crate) struct Sealed {
    pub(crate) number: BatchNumber,
    pub(crate) batch: Batch,
    pub(crate) effects: Vec<Effect>,
    pub(crate) ended: Vec<(TaskId, LaneNumber)>,
}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox {
            batch: Batch::default(),
            changes: 0,
            bytes: 0,
            pages_bytes: 0,
            effects: Vec::new(),
            number: 1,
            dirty: BTreeSet::new(),
            events: JobMap::default(),
            ended: Vec::new(),
            is_urgent: false,
        }
    }

    /// The number of the batch that fills.
    pub(crate) fn number(&self) -> BatchNumber {
        self.number
    }

    /// Whether more may be begun before this is at the disk.
    pub(crate) fn is_roomy(&self) -> bool {
        self.changes < CHANGES_MAX && self.bytes < BYTES_MAX
    }

    /// How many jobs or tasks whose time is over the batch still takes, where it is to have about `most` events. They may be over
    /// all at once, and nobody else waits for as long as it takes to store them all.
    pub(crate) fn room_for_late(&self, most: usize) -> usize {
        if self.is_roomy() { most.saturating_sub(self.batch.events.len()) } else { 0 }
    }

    fn count(&mut self, changes: usize, bytes: usize) {
        self.changes += changes;
        self.bytes += bytes;
    }

    /// Adds a submission. Returns its place among those of the batch.
    pub(crate) fn submit(&mut self, submission: Submission) -> usize {
        let tasks: usize = submission.tasks.iter().map(|(_, spec)| spec.memory_bytes()).sum();
        self.is_urgent = true;
        self.count(submission.tasks.len() + 1, submission.job.spec.memory_bytes() + tasks);
        self.batch.submissions.push(submission);
        self.batch.submissions.len() - 1
    }

    /// Adds a chunk of tasks. Returns its place among those of the batch.
    pub(crate) fn add(&mut self, addition: Addition) -> usize {
        let tasks: usize = addition.tasks.iter().map(|(_, spec)| spec.memory_bytes()).sum();
        self.is_urgent = true;
        self.count(addition.tasks.len() + 1, ROW_BYTES + tasks);
        self.batch.additions.push(addition);
        self.batch.additions.len() - 1
    }

    /// Adds a page of a fetch. Whoever waits for it has an effect of its own.
    pub(crate) fn page(&mut self, page: NewPage) {
        let bytes = page_bytes(&page);
        self.count(1, bytes);
        self.pages_bytes += bytes;
        self.batch.pages.push(page);
    }

    /// Whether it takes more pages of fetches.
    pub(crate) fn takes_pages(&self) -> bool {
        self.pages_bytes < PAGES_BYTES_MAX
    }

    /// Whether so few pages are in it that ends of attempts still find room beside more of them.
    pub(crate) fn takes_many_pages(&self) -> bool {
        self.pages_bytes < PAGES_BYTES_MAX / 2
    }

    /// Whether it takes more ends of attempts, where so many run at most.
    pub(crate) fn takes_ends(&self, places: usize) -> bool {
        self.batch.moves.len() < ENDS_MAX.max(places) && self.takes_pages()
    }

    /// Adds who did something.
    pub(crate) fn audit(&mut self, entry: AuditEntry) {
        self.is_urgent = true;
        self.count(1, ROW_BYTES);
        self.batch.audit.push(entry);
    }

    /// Adds what was put into the book of who may call.
    pub(crate) fn access(&mut self, rows: Vec<AccessRow>) {
        self.is_urgent = true;
        let bytes = |row: &AccessRow| if let AccessRow::Credential(credential) = row { credential.bytes() } else { 0 };
        self.count(rows.len(), rows.iter().map(|row| ROW_BYTES + bytes(row)).sum());
        self.batch.access.extend(rows);
    }

    /// Adds what became of pauses, which alone is no reason to commit at once.
    pub(crate) fn pauses(&mut self, changes: Vec<PauseChange>) {
        self.count(changes.len(), changes.len() * ROW_BYTES);
        self.batch.pauses.extend(changes);
    }

    /// Adds a job whose spec changed. Its event and its answer have the spec too.
    pub(crate) fn respecced(&mut self, job: Arc<Job>) {
        self.is_urgent = true;
        self.count(1, 2 * job.spec.memory_bytes());
        self.batch.respecced.push(job);
    }

    /// Claims that wait.
    pub(crate) fn claims(&self) -> usize {
        self.batch.claims.len()
    }

    /// Whether the batch has starts of attempts and ends of tasks alone, which nobody waits for.
    pub(crate) fn is_patient(&self) -> bool {
        !self.is_urgent
    }

    /// Whether attempts have ended.
    pub(crate) fn has_moves(&self) -> bool {
        !self.batch.moves.is_empty()
    }

    /// Whether there is nothing to commit and nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.effects.is_empty() && self.dirty.is_empty()
    }

    /// Adds where a lane begins, if that is to be written, which alone is no reason to commit at once.
    pub(crate) fn head(&mut self, head: Option<Head>) {
        self.batch.lane_heads.extend(head);
    }

    /// The batch, to add to it.
    pub(crate) fn batch(&mut self) -> &mut Batch {
        self.is_urgent = true;
        &mut self.batch
    }

    /// Adds what follows the commit.
    pub(crate) fn then(&mut self, effect: Effect) {
        self.is_urgent = true;
        self.effects.push(effect);
    }

    /// Notes that the moving part of a job changed.
    pub(crate) fn changed(&mut self, job: JobId) {
        self.is_urgent = true;
        self.dirty.insert(job);
    }

    /// Adds the start of an attempt, which alone is no reason to commit at once.
    /// `bytes` is the memory of the notice: nothing else counts the task until it waits again. `stored` is told when the claim is
    /// stored: a download asks for that before it writes a checkpoint.
    pub(crate) fn started(&mut self, claim: Claim, notice: Effect, bytes: usize, stored: Option<CancellationToken>) {
        let job = claim.id.job;
        self.dirty.insert(job);
        (self.changes, self.bytes) = (self.changes + 1, self.bytes + ROW_BYTES + bytes);
        self.batch.claims.push(claim);
        self.effects.push(notice);
        self.effects.extend(stored.map(|stored| Effect::Claimed(job, stored)));
    }

    /// Adds the row of a task that stopped running or waiting, which alone is no reason to commit at once.
    pub(crate) fn moved(&mut self, change: TaskMove) {
        self.dirty.insert(change.id.job);
        self.count(1, change.row.memory_bytes());
        self.batch.moves.push(change);
    }

    /// Notes that the row of a task which moves is written whatever stands in it.
    pub(crate) fn rewritten(&mut self, task: TaskId) {
        self.batch.unreadable_tasks.push(task);
    }

    /// Adds the end of a task as the next event of its job, which alone is no reason to commit at once.
    pub(crate) fn task_ended(&mut self, job: &mut Job, task: StoredTask) {
        let time = task.row.task.end_time.unwrap_or(job.update_time);
        let head = EventHead { sequence: next_sequence(job), time, kind: EventKind::TaskEnded, task: Some(task.index) };
        self.bytes += task.spec.memory_bytes() + task.row.memory_bytes();
        self.ended.push((TaskId { job: job.id, index: task.index }, task.lane));
        self.record(job.id, StoredEvent { head, snapshot: None, task: Some(Arc::new(task)) });
    }

    /// Adds a change or the end of a job as its next event.
    pub(crate) fn job_event(&mut self, job: &mut Job, kind: EventKind) {
        self.is_urgent = true;
        self.record_job(job, kind);
    }

    /// Adds that a job has begun as its next event. As with the start of its first attempt, that alone is no reason to commit at
    /// once.
    pub(crate) fn job_began(&mut self, job: &mut Job) {
        self.record_job(job, EventKind::JobChanged);
    }

    fn record_job(&mut self, job: &mut Job, kind: EventKind) {
        let head = EventHead { sequence: next_sequence(job), time: job.update_time, kind, task: None };
        let snapshot = Some(Arc::new(job.clone()));
        self.bytes += ROW_BYTES + size_of::<Job>();
        self.record(job.id, StoredEvent { head, snapshot, task: None });
    }

    fn record(&mut self, job: JobId, event: StoredEvent) {
        self.dirty.insert(job);
        self.batch.events.push(NewEvent { job, head: event.head, snapshot: event.snapshot.clone() });
        self.events.entry(job).or_default().push(Arc::new(event));
    }

    /// The events of a job so far, for a piece whose effect publishes them together with what the store found.
    pub(crate) fn take_events(&mut self, job: JobId) -> Vec<Arc<StoredEvent>> {
        self.events.remove(&job).unwrap_or_default()
    }

    /// Takes out everything of a job, because memory and store contradict each other about it. Callers get that as their error.
    pub(crate) fn drop_job(&mut self, job: JobId) {
        let Batch { additions, pages, dropped_pages, moves, unreadable_tasks, claims, .. } = &mut self.batch;
        for addition in additions.iter_mut().filter(|it| it.job == job) {
            // Its lanes may be some of which the store does not know.
            *addition =
                Addition { tasks: Vec::new(), new_lanes: Vec::new(), chunk_id: String::new(), ..addition.clone() };
        }
        pages.retain(|it| it.id.job != job);
        dropped_pages.retain(|it| it.job != job);
        moves.retain(|it| it.id.job != job);
        unreadable_tasks.retain(|it| it.job != job);
        claims.retain(|it| it.id.job != job);
        let Batch { sweeps, hastens, retries, events, jobs, respecced, lane_heads, audit, .. } = &mut self.batch;
        events.retain(|it| it.job != job);
        jobs.retain(|it| it.id != job);
        respecced.retain(|it| it.id != job);
        lane_heads.retain(|(of, ..)| *of != job);
        audit.retain(|it| it.of != Of::Job(job));
        self.dirty.remove(&job);
        self.events.remove(&job);
        self.ended.retain(|(id, _)| id.job != job);
        // Items that effects name by their place stay in it. Those that would move tasks move none.
        sweeps.iter_mut().filter(|it| it.job == job).for_each(|it| it.limit = 0);
        hastens.iter_mut().filter(|it| it.job == job).for_each(|it| it.limit = 0);
        for retry in retries.iter_mut().filter(|it| it.job == job) {
            (retry.which, retry.limit) = (Which::From(0), 0);
        }
        let by_place = |effect: &Effect| {
            matches!(
                effect,
                Effect::Deleted { .. }
                    | Effect::Swept { .. }
                    | Effect::Withdrawn { .. }
                    | Effect::Hastened { .. }
                    | Effect::PutBack { .. }
            )
        };
        let (dropped, kept) =
            std::mem::take(&mut self.effects).into_iter().partition(|it| it.job() == Some(job) && !by_place(it));
        self.effects = kept;
        let dropped: Vec<Effect> = dropped;
        for effect in dropped {
            effect.fail(EngineError::Contradiction(job));
        }
        self.pages_bytes = self.batch.pages.iter().map(page_bytes).sum();
        if self.is_empty() {
            // Nothing would be sent, and so nothing counted anew.
            *self = Outbox { number: self.number, ..Outbox::new() };
        }
    }

    /// Answers everybody who waits for a commit that will not come.
    pub(crate) fn fail(self, error: &EngineError) {
        for effect in self.effects {
            effect.fail(error.clone());
        }
    }
}

fn page_bytes(page: &NewPage) -> usize {
    let body = if let Content::Inline(body) = &page.content { body.len() } else { 0 };
    ROW_BYTES + body + page.next.as_ref().map_or(0, String::len)
}

fn next_sequence(job: &mut Job) -> u64 {
    job.sequence += 1;
    job.sequence
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::engine::hub::Notice;
    use crate::model::host::Host;
    use crate::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
    use crate::model::task::Task;
    use crate::model::time::Timestamp;
    use crate::store::TaskRow;

    fn id(index: u32) -> TaskId {
        TaskId { job: JobId(uuid::Uuid::nil()), index }
    }

    /// However few they are, large changes wait for the disk.
    #[test]
    fn a_batch_is_full_by_bytes_too() {
        let mut outbox = Outbox::new();
        let page = |bytes: usize| NewPage {
            id: id(0),
            page: 0,
            first_item: 0,
            items: 0,
            content: Content::Inline(vec![0; bytes].into()),
            next: None,
        };
        outbox.page(page(BYTES_MAX / 2));
        assert!(outbox.is_roomy());
        outbox.page(page(BYTES_MAX / 2));
        assert!(!outbox.is_roomy());
        let _ = outbox.seal(|_| None, |_| false, &Arc::default());
        assert!(outbox.is_roomy());
    }

    /// Nothing else counts tasks that run or have just ended.
    #[test]
    fn starts_and_ends_count_by_what_they_hold() {
        let spec = |bytes| {
            let fetch = FetchSpec { body: vec![0; bytes], ..FetchSpec::default() };
            Arc::new(TaskSpec { key: String::new(), work: Work::Fetch(fetch), options: TaskOptions::default().into() })
        };
        let task = || StoredTask { index: 0, lane: 0, spec: spec(BYTES_MAX / 2), row: TaskRow::default() };
        let mut outbox = Outbox::new();
        let claim = Claim { id: id(0), task: Task::default(), attempt_start: Timestamp(1) };
        let notice = Effect::Notify(id(0).job, 0, Notice::Started(Arc::new(task())));
        let stored = CancellationToken::new();
        outbox.started(claim, notice, task().spec.memory_bytes(), Some(stored));
        assert!(outbox.is_roomy());
        assert!(outbox.is_patient(), "nobody waits for a start, of a download neither");
        let mut job = Job::new(id(0).job, JobSpec::default(), 1, Timestamp(1));
        outbox.task_ended(&mut job, task());
        assert!(!outbox.is_roomy());
    }

    /// A chunk that follows a refused one may be of a lane that was declared with that one.
    #[test]
    fn a_job_that_is_dropped_adds_nothing() {
        let mut outbox = Outbox::new();
        let (reply, mut answer) = oneshot::channel();
        let new_lanes = vec![(1, Host::new("a:80"))];
        let (job, chunk_id) = (id(0).job, "c".to_owned());
        let nth =
            outbox.add(Addition { job, chunk_id: chunk_id.clone(), digest: [0; 32], new_lanes, tasks: Vec::new() });
        outbox.then(Effect::AdmitTasks { nth, job, chunk_id, digest: [0; 32], tasks: Vec::new(), reply });
        outbox.drop_job(job);
        assert!(matches!(answer.try_recv(), Ok(Err(EngineError::Contradiction(_)))));
        let Sealed { batch, effects, .. } = outbox.seal(|_| None, |_| false, &Arc::default());
        assert!(effects.is_empty());
        assert!(batch.additions.iter().all(|it| it.new_lanes.is_empty() && it.chunk_id.is_empty()));
    }

    /// Otherwise nothing would be taken any more: a batch with nothing in it is not sent.
    #[test]
    fn a_job_that_is_dropped_leaves_room_for_others() {
        let mut outbox = Outbox::new();
        for page in 0..2 {
            let content = Content::Inline(vec![0; BYTES_MAX].into());
            outbox.page(NewPage { id: id(0), page, first_item: 0, items: 0, content, next: None });
        }
        assert!(!outbox.takes_pages() && !outbox.is_roomy());
        outbox.drop_job(id(0).job);
        assert!(outbox.is_empty() && outbox.takes_pages() && outbox.is_roomy());
    }
}
