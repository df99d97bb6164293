//! The rows of one job: the same tables as in `SQLite`, with the same guards.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use haul::model::counts::Counts;
use haul::model::event::{EventHead, EventKind};
use haul::model::failure::TaskError;
use haul::model::failures::Alike;
use haul::model::host::Host;
use haul::model::ids::TaskIndex;
use haul::model::job::Job;
use haul::model::spec::TaskSpec;
use haul::model::task::{Task, TaskEvent, TaskState};
use haul::model::task_filter::TaskChoice;
use haul::model::time::Timestamp;
use haul::store::{
    Added, Addition, Chunk, Claim, Hasten, Hastened, LaneNumber, NewEvent, NewPage, Purged, Retried, Retry, StoredTask,
    Submission, Sweep, Swept, TaskMove, TaskRow, Which,
};

use super::table::Table;

/// Why a job is refused.
pub(crate) type Refusal = String;

/// The row of the job itself.
#[derive(Clone)]
pub(crate) struct JobRow {
    pub(crate) job: Job,
    pub(crate) deleted: bool,
    pub(crate) expire_time: Option<Timestamp>,
}

/// All rows of one job.
pub(crate) struct JobRows {
    row: JobRow,
    /// The row before the changes of the present batch.
    before: Option<JobRow>,
    pub(crate) lanes: Table<LaneNumber, (Host, TaskIndex)>,
    pub(crate) tasks: Table<TaskIndex, (LaneNumber, Arc<TaskSpec>)>,
    pub(crate) keys: Table<String, TaskIndex>,
    pub(crate) chunks: Table<String, Chunk>,
    pub(crate) claims: Table<TaskIndex, Claim>,
    pub(crate) states: Table<TaskIndex, Arc<TaskRow>>,
    pub(crate) old_states: Table<(TaskIndex, u64), Arc<TaskRow>>,
    shared_errors: Table<String, ()>,
    pub(crate) events: Table<u64, (EventHead, Option<Arc<Job>>)>,
    pub(crate) pages: Table<(TaskIndex, u32), NewPage>,
}

/// Calls the same method of every table.
macro_rules! each_table {
    ($rows:ident, $method:ident) => {
        $rows.lanes.$method();
        $rows.tasks.$method();
        $rows.keys.$method();
        $rows.chunks.$method();
        $rows.claims.$method();
        $rows.states.$method();
        $rows.old_states.$method();
        $rows.shared_errors.$method();
        $rows.events.$method();
        $rows.pages.$method();
    };
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(what()) }
}

fn place(sequence: u64) -> Result<u64, Refusal> {
    ensure(sequence < u64::from(u32::MAX), || "the job has as many events as a job can have".to_owned())?;
    Ok(sequence)
}

impl JobRows {
    /// A new job with what was submitted with it.
    pub(crate) fn new(new: &Submission) -> Result<JobRows, Refusal> {
        let mut job = new.job.clone();
        job.counts.total = new.tasks.len() as u32;
        let expire_time = job.expire_time();
        let mut rows = JobRows {
            row: JobRow { job, deleted: false, expire_time },
            before: None,
            lanes: Table::default(),
            tasks: Table::default(),
            keys: Table::default(),
            chunks: Table::default(),
            claims: Table::default(),
            states: Table::default(),
            old_states: Table::default(),
            shared_errors: Table::default(),
            events: Table::default(),
            pages: Table::default(),
        };
        for (lane, host) in (0..).zip(&new.lanes) {
            rows.lanes.put_new(lane, (host.clone(), 0))?;
        }
        rows.insert_tasks(0, &new.tasks)?;
        Ok(rows)
    }

    pub(crate) fn settle(&mut self) {
        self.before = None;
        each_table!(self, settle);
    }

    pub(crate) fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.row = before;
        }
        each_table!(self, roll_back);
    }

    pub(crate) fn row(&self) -> &JobRow {
        &self.row
    }

    fn row_mut(&mut self) -> &mut JobRow {
        if self.before.is_none() {
            self.before = Some(self.row.clone());
        }
        &mut self.row
    }

    /// The job as it is read: what of the total is in no other state is PENDING.
    pub(crate) fn job(&self) -> Job {
        Job { counts: with_pending(self.row.job.counts), ..self.row.job.clone() }
    }

    fn end(&self) -> TaskIndex {
        self.row.job.counts.total
    }

    fn insert_tasks(&mut self, first: TaskIndex, tasks: &[(LaneNumber, Arc<TaskSpec>)]) -> Result<(), Refusal> {
        for (index, task) in (first..).zip(tasks) {
            if !task.1.key.is_empty() {
                self.keys.put_new(task.1.key.clone(), index)?;
            }
            self.tasks.put_new(index, task.clone())?;
        }
        Ok(())
    }

    fn ensure_task(&self, index: TaskIndex) -> Result<(), Refusal> {
        ensure(self.tasks.get(&index).is_some(), || format!("task {index} is not in the store"))
    }

    // Changes, in the order of a batch.

    pub(crate) fn add(&mut self, addition: &Addition) -> Result<Added, Refusal> {
        for (lane, host) in &addition.new_lanes {
            self.lanes.put_new(*lane, (host.clone(), 0))?;
        }
        if let Some(chunk) = self.chunks.get(&addition.chunk_id) {
            return Ok(Added::Known(chunk.clone()));
        }
        let mut seen = HashSet::new();
        let keyed = (0..).zip(&addition.tasks).filter(|(_, (_, spec))| !spec.key.is_empty());
        let taken = keyed.filter(|(_, (_, spec))| !seen.insert(&spec.key) || self.keys.get(&spec.key).is_some());
        let taken: Vec<u32> = taken.map(|(place, _)| place).collect();
        if !taken.is_empty() {
            return Ok(Added::KeysTaken(taken));
        }
        ensure(!self.row.deleted, || "the job is deleted".to_owned())?;
        let (first, count) = (self.end(), addition.tasks.len() as u32);
        self.row_mut().job.counts.total += count;
        self.insert_tasks(first, &addition.tasks)?;
        if !addition.chunk_id.is_empty() {
            self.chunks.put(addition.chunk_id.clone(), Chunk { first, count, digest: addition.digest });
        }
        Ok(Added::Stored { first })
    }

    pub(crate) fn add_page(&mut self, page: &NewPage) -> Result<(), Refusal> {
        self.ensure_task(page.id.index)?;
        self.pages.put_new((page.id.index, page.page), page.clone())
    }

    pub(crate) fn drop_pages(&mut self, index: TaskIndex) {
        let its: Vec<_> = self.pages.iter().map(|(key, _)| *key).filter(|key| key.0 == index).collect();
        for key in &its {
            self.pages.remove(key);
        }
    }

    pub(crate) fn move_task(&mut self, change: &TaskMove) -> Result<(), Refusal> {
        let index = change.id.index;
        self.ensure_task(index)?;
        let task = &change.row.task;
        ensure(task.state != TaskState::Running, || format!("task {index} runs without a claim"))?;
        if let Some(before) = self.states.get(&index).map(|row| &row.task) {
            ensure(!before.state.is_ended() && task.fence >= before.fence, || {
                format!("task {index} had ended already, or a newer attempt had begun")
            })?;
        }
        self.claims.remove(&index);
        self.states.put(index, Arc::new(change.row.clone()));
        Ok(())
    }

    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<(), Refusal> {
        self.ensure_task(claim.id.index)?;
        self.claims.put_new(claim.id.index, claim.clone())
    }

    pub(crate) fn move_head(&mut self, lane: LaneNumber, head: TaskIndex) {
        if let Some((host, _)) = self.lanes.get(&lane).cloned() {
            self.lanes.put(lane, (host, head));
        }
    }

    /// `upto` is the last event of the batch that tells an end from before the retry.
    pub(crate) fn retry(&mut self, retry: &Retry, upto: u64) -> Result<Retried, Refusal> {
        let ended_badly = |row: &TaskRow| matches!(row.task.state, TaskState::Failed | TaskState::Cancelled);
        let piece: Vec<TaskIndex> = match &retry.which {
            Which::From(from) => {
                let all = self.states.range(*from..).filter(|(_, row)| ended_badly(row));
                all.map(|(index, _)| *index).take(retry.limit as usize).collect()
            }
            Which::Fitting(from, filter) => {
                let all = self.states.range(*from..).filter(|(_, row)| ended_badly(row));
                let fits = |(index, row): &(&TaskIndex, &Arc<TaskRow>)| {
                    filter.fits(row.task.state, row.task.error.as_ref(), &self.host(**index))
                };
                all.filter(fits).map(|(index, _)| *index).take(retry.limit as usize).collect()
            }
            Which::These(these) => {
                let mut these = these.clone();
                these.sort_unstable();
                these.dedup();
                let all = these.iter().all(|index| self.states.get(index).is_some_and(|row| ended_badly(row)));
                ensure(all, || "not all tasks to be retried are FAILED or CANCELLED".to_owned())?;
                these
            }
        };
        let (Some(first), Some(last)) = (piece.first().copied(), piece.last().copied()) else {
            return Ok(Retried::default());
        };
        let upto = self.events.iter().next_back().map_or(0, |(sequence, _)| *sequence).max(upto);
        let mut failed = BTreeMap::new();
        let mut failed_count = 0;
        for index in &piece {
            let Some(old) = self.states.get(index).cloned() else { continue };
            if old.task.state == TaskState::Failed {
                failed_count += 1;
                let (reason, http_status) = old.task.error.as_ref().map(|it| (it.reason, it.http_status)).unzip();
                let kind =
                    (reason.map(|it| format!("{it:?}")), http_status.unwrap_or(0), self.failed_host(*index, &old));
                failed.entry(kind).or_insert_with(|| (reason, Vec::new())).1.push(*index);
            }
            let task = Task { fence: old.task.fence, ..Task::default() };
            self.states.put(*index, Arc::new(TaskRow { task, log: old.log.clone(), outcome: None }));
            self.old_states.put((*index, upto), old);
            let lane = self.tasks.get(index).map_or(0, |(lane, _)| *lane);
            if self.lanes.get(&lane).is_some_and(|(_, head)| head > index) {
                self.move_head(lane, *index);
            }
        }
        let is_full = !matches!(retry.which, Which::These(_)) && piece.len() == retry.limit as usize;
        let next = (is_full && last + 1 < self.end()).then_some(last + 1);
        let alike = |((_, http_status, host), (reason, tasks))| Alike { reason, http_status, host, tasks };
        let failed = failed.into_iter().map(alike).collect();
        Ok(Retried { failed, cancelled: piece.len() as u32 - failed_count, first: Some(first), next })
    }

    pub(crate) fn sweep(&mut self, sweep: &Sweep, look_max: TaskIndex) -> Result<Swept, Refusal> {
        let end = sweep.to.map_or(self.end(), |to| to.min(self.end()));
        let (first, last) = match sweep.state {
            TaskState::Pending => {
                let head = self.lanes.iter().map(|(_, (_, head))| *head).min().unwrap_or(0);
                let first = if sweep.from == 0 { head } else { sweep.from };
                (first, first.saturating_add(look_max).min(end))
            }
            TaskState::BackingOff => (sweep.from, end),
            state => return Err(format!("tasks in {state:?} cannot be swept")),
        };
        let in_state = |index: &TaskIndex| {
            let state = self.states.get(index).map_or(TaskState::Pending, |row| row.task.state);
            state == sweep.state && self.claims.get(index).is_none() && self.is_among(&sweep.which, *index, state)
        };
        let piece: Vec<TaskIndex> = if sweep.state == TaskState::BackingOff {
            let waiting = self.states.range(first..end.max(first)).map(|(index, _)| *index).filter(in_state);
            waiting.take(sweep.limit as usize).collect()
        } else {
            (first..last).filter(in_state).take(sweep.limit as usize).collect()
        };
        for (sequence, index) in (sweep.first_sequence..).zip(&piece) {
            let row = self.states.get(index).cloned().unwrap_or_default();
            let ended = row.task.apply(TaskEvent::Cancelled(sweep.error.clone()), sweep.time);
            let task = ended.map_err(|wrong| wrong.to_string())?;
            self.states.put(*index, Arc::new(TaskRow { task, ..(*row).clone() }));
            let kind = EventKind::TaskEnded;
            let head = EventHead { sequence: place(sequence)?, time: sweep.time, kind, task: Some(*index) };
            self.events.put_new(sequence, (head, None))?;
        }
        if !piece.is_empty() {
            self.shared_errors.put(error_name(&sweep.error), ());
        }
        let count = piece.len() as u32;
        let next = if count < sweep.limit { last } else { piece.last().map_or(0, |last| last + 1) };
        let indexes = if sweep.which == TaskChoice::All { Vec::new() } else { piece };
        Ok(Swept { count, indexes, next: (next < end).then_some(next) })
    }

    pub(crate) fn hasten(&mut self, hasten: &Hasten) -> Hastened {
        let backs_off = |index: &TaskIndex| {
            self.state(*index) == TaskState::BackingOff && self.is_among(&hasten.which, *index, TaskState::BackingOff)
        };
        let end = hasten.to.min(self.end());
        let waiting = self.states.range(hasten.from..end.max(hasten.from)).map(|(index, _)| *index).filter(backs_off);
        let piece: Vec<TaskIndex> = waiting.take(hasten.limit as usize).collect();
        let mut tasks = Vec::new();
        for index in &piece {
            let Some(row) = self.states.get(index).cloned() else { continue };
            let task = Task { due: row.task.due.map(|due| due.min(hasten.due)), ..row.task.clone() };
            self.states.put(*index, Arc::new(TaskRow { task, ..(*row).clone() }));
            tasks.push((*index, self.tasks.get(index).map_or(0, |(lane, _)| *lane)));
        }
        let is_full = piece.len() == hasten.limit as usize;
        let next = piece.last().map(|last| last + 1).filter(|next| is_full && *next < end);
        Hastened { tasks, next }
    }

    /// The host of a task's URL.
    fn host(&self, index: TaskIndex) -> String {
        let lane = self.tasks.get(&index).and_then(|(lane, _)| self.lanes.get(lane));
        lane.map(|(host, _)| host.to_string()).unwrap_or_default()
    }

    fn failed_host(&self, index: TaskIndex, row: &TaskRow) -> String {
        let task = self.tasks.get(&index).map(|(lane, spec)| {
            let (lane, spec, row) = (*lane, spec.clone(), row.clone());
            StoredTask { index, lane, spec, row }
        });
        task.map(|task| task.failed_host()).unwrap_or_default()
    }

    fn is_among(&self, which: &TaskChoice, index: TaskIndex, state: TaskState) -> bool {
        let error = self.states.get(&index).and_then(|row| row.task.error.as_ref());
        which.has(index, state, error, &self.host(index))
    }

    pub(crate) fn add_event(&mut self, event: &NewEvent) -> Result<(), Refusal> {
        self.events.put_new(place(event.head.sequence)?, (event.head, event.snapshot.clone()))
    }

    /// Takes over the moving part of a job.
    pub(crate) fn update(&mut self, job: &Job) -> Result<(), Refusal> {
        ensure(!self.row.deleted, || "the job is deleted".to_owned())?;
        let row = self.row_mut();
        let Job { spec, counts, create_time, .. } = row.job.clone();
        row.expire_time = job.expire_time();
        row.job = Job { spec, create_time, counts: Counts { total: counts.total, ..job.counts }, ..job.clone() };
        Ok(())
    }

    pub(crate) fn have_retried(&mut self, found: &Retried) {
        self.row_mut().job.put_back(&found.failed, found.cancelled, found.next);
    }

    pub(crate) fn have_swept(&mut self, state: TaskState, count: u32) {
        self.row_mut().job.swept(state, count);
    }

    pub(crate) fn update_spec(&mut self, job: &Job) {
        self.row_mut().job.spec = job.spec.clone();
    }

    /// `is_unreadable`: whatever its state.
    pub(crate) fn delete(&mut self, is_unreadable: bool) -> bool {
        let was_there = !self.row.deleted && (is_unreadable || self.row.job.state.is_ended());
        if was_there {
            let row = self.row_mut();
            (row.deleted, row.expire_time) = (true, None);
        }
        was_there
    }

    pub(crate) fn purge(&mut self, limit: u32) -> Result<Purged, Refusal> {
        ensure(self.row.deleted, || "the job is to be purged and was not deleted".to_owned())?;
        let mut left = limit;
        left -= self.pages.remove_first(left);
        left -= self.events.remove_first(left);
        left -= self.claims.remove_first(left);
        left -= self.states.remove_first(left);
        left -= self.tasks.remove_first(left);
        left -= self.shared_errors.remove_first(left);
        left -= self.lanes.remove_first(left);
        left -= self.old_states.remove_first(left);
        left -= self.keys.remove_first(left);
        left -= self.chunks.remove_first(left);
        let bytes = self.row.job.stored_bytes();
        let freed = (left > 0 && bytes > 0).then_some((self.row.job.tenant.no, bytes));
        Ok(Purged { rows: limit - left, is_gone: left > 0, freed })
    }

    // Reads.

    /// The row of a task, as the claim makes it.
    fn task_row(&self, index: TaskIndex) -> TaskRow {
        let row = self.states.get(&index).map(|row| (**row).clone()).unwrap_or_default();
        match self.claims.get(&index) {
            Some(claim) => TaskRow { task: Task { error: row.task.error, ..claim.task.clone() }, ..row },
            None => row,
        }
    }

    pub(crate) fn state(&self, index: TaskIndex) -> TaskState {
        if self.claims.get(&index).is_some() {
            return TaskState::Running;
        }
        self.states.get(&index).map_or(TaskState::Pending, |row| row.task.state)
    }

    pub(crate) fn task(&self, index: TaskIndex) -> Option<StoredTask> {
        let (lane, spec) = self.tasks.get(&index)?.clone();
        Some(StoredTask { index, lane, spec, row: self.task_row(index) })
    }

    /// The task as an event shows it: as it was before the first retry that came after.
    pub(crate) fn told_task(&self, index: TaskIndex, sequence: u64) -> Option<StoredTask> {
        let (lane, spec) = self.tasks.get(&index)?.clone();
        let old = self.old_states.range((index, sequence)..=(index, u64::MAX)).next().map(|(_, row)| row);
        let row = old.or_else(|| self.states.get(&index))?;
        Some(StoredTask { index, lane, spec, row: TaskRow { log: Vec::new(), ..(**row).clone() } })
    }

    pub(crate) fn recount(&self) -> Counts {
        let mut counts = Counts { total: self.end(), ..Counts::default() };
        let claimed = self.claims.iter().map(|(index, _)| *index);
        let unclaimed = self.states.iter().map(|(index, _)| *index).filter(|it| self.claims.get(it).is_none());
        for index in claimed.chain(unclaimed) {
            *counts.of(self.state(index)) += 1;
        }
        with_pending(counts)
    }
}

fn with_pending(counts: Counts) -> Counts {
    let Counts { total, running, backing_off, succeeded, failed, cancelled, .. } = counts;
    let others = running + backing_off + succeeded + failed + cancelled;
    Counts { pending: total.saturating_sub(others), ..counts }
}

fn error_name(error: &TaskError) -> String {
    format!("{error:?}")
}
