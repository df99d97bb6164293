//! What rows of jobs and tasks look like as JSON: the pieces of statements that write them, and what reads them back.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::access::PrincipalNo;
use crate::model::bag::Bagged as _;
use crate::model::counts::Counts;
use crate::model::failure::{TaskError, is_default};
use crate::model::failures::Failures;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Creator, Job, JobState, Stop};
use crate::model::outcome::{Attempt, Outcome};
use crate::model::progress::Held;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::task::{Crashes, Task, TaskState};
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::{DEFAULT_NO, DEFAULT_TENANT, Owner, TenantNo};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::store::sqlite::lines::{Page, Readable, readable};
use crate::store::sqlite::sealed::{self, Bag, Place};
use crate::store::{LaneNumber, StoreError, StoredTask, TaskRow};
use crate::vault::Vault;

/// A job as JSON, of `jobs j JOIN job_specs p`.
macro_rules! job_text {
    () => {
        "concat('[\"', hex(j.id), '\",', j.state, ',', j.total, ',', j.create_time, ',', coalesce(j.end_time, 'null'), ',', \
         j.moving, ',', p.spec, ',', coalesce('\"' || nullif(hex(p.sealed), '') || '\"', 'null'), ',', j.created_by, ',', \
         j.tenant, ']')"
    };
}

/// The number of the job whose id is `?1`, unless it is deleted.
macro_rules! job_no {
    () => {
        "(SELECT no FROM jobs WHERE id = ?1 AND deleted = 0)"
    };
}

/// The state row `$s` of a task as JSON, with `$log` for its log.
macro_rules! state_text {
    ($s:literal, $log:expr) => {
        concat!(
            "'[' || ",
            $s,
            ".state || ',' || ",
            $s,
            ".attempts || ',' || ",
            $s,
            ".fence || ',' || ",
            $s,
            ".crashes || ',' || coalesce(",
            $s,
            ".due, 'null') || ',' || coalesce(",
            $s,
            ".start_time, 'null') || ',' || coalesce(",
            $s,
            ".end_time, 'null') || ',' || \
             coalesce(CASE typeof(",
            $s,
            ".error) WHEN 'integer' THEN (SELECT x.error FROM shared_errors x \
             WHERE x.id = (",
            $s,
            ".id >> 32 << 32) + ",
            $s,
            ".error) ELSE ",
            $s,
            ".error END, 'null') || ',' || \
             coalesce(",
            $s,
            ".outcome, 'null') || ',' || coalesce(",
            $log,
            ", 'null') || ']'"
        )
    };
}

/// The state row `s`, or null where there is none.
macro_rules! state_or_null {
    ($log:expr) => {
        concat!("CASE WHEN s.id IS NULL THEN 'null' ELSE ", state_text!("s", $log), " END")
    };
}

/// A task as JSON, of `tasks t`, `task_states s` and `claims c`.
macro_rules! task_text {
    ($log:expr) => {
        concat!(
            "'[' || (t.id & 4294967295) || ',' || (t.lane & 4294967295) || ',' || t.spec || ',' || \
             coalesce('\"' || nullif(hex(t.sealed), '') || '\"', 'null') || ',' || \
             CASE WHEN c.id IS NULL THEN 'null' ELSE '[' || c.attempts || ',' || c.fence || ',' || c.crashes || ',' || \
             coalesce(c.start_time, 'null') || ']' END || ',' || ",
            state_or_null!($log),
            " || ']'"
        )
    };
}

/// What stands at a path of the JSON in the column `$column`; null where that is none, since `SQLite` would fail the whole
/// statement for it.
macro_rules! json_value {
    ($column:expr, $path:literal) => {
        concat!("CASE WHEN json_valid(", $column, ") THEN ", $column, " ->> '", $path, "' END")
    };
}

/// The log of a state row `s` without a result, cut to the last attempt, which says what is held; else null. One that is no JSON
/// stays as it is, so that its row does not parse.
macro_rules! last_attempt {
    () => {
        "CASE WHEN s.outcome IS NULL THEN \
         CASE WHEN json_valid(s.log) THEN '[' || (s.log -> '$[#-1]') || ']' ELSE s.log END END"
    };
}

/// The bytes of [`task_text`], about. Lengths are in the headers of rows: what is long is not read for them.
macro_rules! task_bytes {
    ($log:literal) => {
        concat!(
            "octet_length(t.spec) + coalesce(2 * octet_length(t.sealed), 0) + coalesce(octet_length(s.error), 0) + coalesce(octet_length(s.outcome), 0) \
             + coalesce(octet_length(",
            $log,
            "), 0)"
        )
    };
}

pub(super) use {job_no, job_text, json_value, last_attempt, state_or_null, state_text, task_bytes, task_text};

/// The counts that are stored; `total` has a column, and what remains is `pending`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Moved {
    #[serde(skip_serializing_if = "is_default")]
    running: u32,
    #[serde(skip_serializing_if = "is_default")]
    backing_off: u32,
    #[serde(skip_serializing_if = "is_default")]
    succeeded: u32,
    #[serde(skip_serializing_if = "is_default")]
    failed: u32,
    #[serde(skip_serializing_if = "is_default")]
    cancelled: u32,
}

impl Moved {
    fn of(counts: Counts) -> Moved {
        let Counts { total: _, pending: _, running, backing_off, succeeded, failed, cancelled } = counts;
        Moved { running, backing_off, succeeded, failed, cancelled }
    }

    fn counts(self, job: JobId, total: u32) -> Counts {
        let Moved { running, backing_off, succeeded, failed, cancelled } = self;
        let counts = Counts { total, pending: 0, running, backing_off, succeeded, failed, cancelled };
        with_pending(job, counts)
    }
}

/// What of the total is in no other state is PENDING.
pub(super) fn with_pending(job: JobId, counts: Counts) -> Counts {
    let Counts { total, running, backing_off, succeeded, failed, cancelled, .. } = counts;
    let others = [running, backing_off, succeeded, failed, cancelled].into_iter().map(i64::from).sum::<i64>();
    let pending = i64::from(total) - others;
    if pending < 0 {
        tracing::error!(%job, ?counts, "a job has more tasks in its states than in all");
    }
    Counts { pending: u32::try_from(pending).unwrap_or(0), ..counts }
}

/// The part of a job that moves and that no query names.
#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Moving {
    #[serde(skip_serializing_if = "is_default")]
    open: bool,
    #[serde(skip_serializing_if = "is_default")]
    stop: Option<Stop>,
    counts: Moved,
    #[serde(skip_serializing_if = "is_default")]
    ended_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    skipped_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    held: Held,
    #[serde(skip_serializing_if = "is_default")]
    parts_gone: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    failure: Option<Box<TaskError>>,
    #[serde(skip_serializing_if = "Failures::is_empty")]
    failures: Failures,
    sequence: u64,
    #[serde(skip_serializing_if = "is_default")]
    start_time: Option<Timestamp>,
    update_time: Timestamp,
    #[serde(skip_serializing_if = "is_default")]
    retrying: Option<TaskIndex>,
    #[serde(skip_serializing_if = "is_default")]
    retry_filter: Option<Box<TaskFilter>>,
    #[serde(skip_serializing_if = "is_default")]
    settled_failures: u32,
    #[serde(skip_serializing_if = "is_default")]
    settled_successes: u32,
    #[serde(skip_serializing_if = "is_default")]
    downloads: bool,
    #[serde(skip_serializing_if = "is_default")]
    creator: String,
    #[serde(skip_serializing_if = "is_default")]
    secrets_gone: bool,
    #[serde(skip_serializing_if = "is_default")]
    credentials: BTreeSet<String>,
    #[serde(skip_serializing_if = "is_default_tenant")]
    tenant: Arc<str>,
    #[serde(skip_serializing_if = "is_default")]
    caller: Option<Box<TraceParent>>,
}

fn is_default_tenant(name: &Arc<str>) -> bool {
    **name == *DEFAULT_TENANT
}

/// The column `jobs.moving`.
pub(super) fn moving(job: &Job) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Moving {
        open: job.open,
        stop: job.stop.clone(),
        counts: Moved::of(job.counts),
        ended_bytes: job.ended_bytes,
        skipped_bytes: job.skipped_bytes,
        held: job.held,
        parts_gone: job.parts_gone,
        failure: job.failure.clone(),
        failures: job.failures.clone(),
        sequence: job.sequence,
        start_time: job.start_time,
        update_time: job.update_time,
        retrying: job.retrying,
        retry_filter: job.retry_filter.clone(),
        settled_failures: job.settled_failures,
        settled_successes: job.settled_successes,
        downloads: job.downloads,
        creator: job.creator.name.clone(),
        secrets_gone: job.secrets_gone,
        credentials: job.credentials.clone(),
        tenant: job.tenant.name.clone(),
        caller: job.caller.clone(),
    })
}

/// See [`job_text`]. Its spec may be left as it is for a while.
#[derive(Deserialize)]
pub(super) struct JobLine<S = JobSpec>(
    JobId,
    State<JobState>,
    u32,
    Timestamp,
    Option<Timestamp>,
    Moving,
    S,
    Option<Bag>,
    PrincipalNo,
    TenantNo,
);

impl JobLine {
    /// Whether its secrets are in a bag that is not there.
    pub(super) fn lacks_bag(&self) -> bool {
        self.7.is_none() && self.6.has_marks()
    }

    pub(super) fn into_job(self, vault: &Vault) -> Result<Job, StoreError> {
        self.into_job_with(|id, spec, bag| Ok(Arc::new(sealed::whole(vault, Place::Job(id), spec, Bag::bytes(bag))?)))
    }
}

impl<S> JobLine<S> {
    /// The job, with the spec that `whole` makes of what stands here of it and of its bag.
    pub(super) fn into_job_with(
        self,
        whole: impl FnOnce(JobId, S, Option<&Bag>) -> Result<Arc<JobSpec>, StoreError>,
    ) -> Result<Job, StoreError> {
        let JobLine(id, State(state), total, create_time, end_time, moving, spec, bag, creator, tenant) = self;
        Ok(Job {
            id,
            spec: whole(id, spec, bag.as_ref())?,
            state,
            open: moving.open,
            stop: moving.stop,
            counts: moving.counts.counts(id, total),
            ended_bytes: moving.ended_bytes,
            skipped_bytes: moving.skipped_bytes,
            held: moving.held,
            parts_gone: moving.parts_gone,
            failure: moving.failure,
            failures: moving.failures,
            sequence: moving.sequence,
            create_time,
            start_time: moving.start_time,
            end_time,
            update_time: moving.update_time,
            retrying: moving.retrying,
            retry_filter: moving.retry_filter,
            settled_failures: moving.settled_failures,
            settled_successes: moving.settled_successes,
            downloads: moving.downloads,
            creator: Creator { no: creator, name: moving.creator },
            secrets_gone: moving.secrets_gone,
            credentials: moving.credentials,
            tenant: if tenant == DEFAULT_NO { Owner::default() } else { Owner { no: tenant, name: moving.tenant } },
            caller: moving.caller,
        })
    }
}

/// A state by its number in the contract.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
#[serde(bound(deserialize = "State<S>: TryFrom<i64>, <State<S> as TryFrom<i64>>::Error: Display"))]
pub(super) struct State<S>(pub(super) S);

impl TryFrom<i64> for State<JobState> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        JobState::from_number(number).map(State).ok_or_else(|| format!("a job has the unknown state {number}"))
    }
}

impl TryFrom<i64> for State<TaskState> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        TaskState::from_number(number).map(State).ok_or_else(|| format!("a task has the unknown state {number}"))
    }
}

/// See [`state_text`].
#[derive(Deserialize)]
pub(super) struct StateLine(
    State<TaskState>,
    u32,
    u32,
    Crashes,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<TaskError>,
    Option<Outcome>,
    Option<Vec<Attempt>>,
);

impl StateLine {
    pub(super) fn into_row(self) -> TaskRow {
        let StateLine(State(state), attempts, fence, crashes, due, start_time, end_time, error, outcome, log) = self;
        let task = Task { state, attempts, fence, crashes, due, start_time, end_time, error };
        TaskRow { task, log: log.unwrap_or_default(), outcome: outcome.map(Arc::new) }
    }
}

/// Attempts, fence, crashes, and start of the task, as of the running attempt.
type ClaimLine = (u32, u32, Crashes, Option<Timestamp>);

/// See [`task_text`].
#[derive(Deserialize)]
pub(super) struct TaskLine(TaskIndex, LaneNumber, TaskSpec, Option<Bag>, Option<ClaimLine>, Option<StateLine>);

impl TaskLine {
    pub(super) fn index(&self) -> TaskIndex {
        self.0
    }

    /// Whether its secrets are in a bag that is not there.
    pub(super) fn lacks_bag(&self) -> bool {
        self.3.is_none() && self.2.has_marks()
    }

    pub(super) fn into_task(self, vault: &Vault, job: JobId) -> Result<StoredTask, StoreError> {
        let TaskLine(index, lane, spec, bag, claim, state) = self;
        let spec = Arc::new(sealed::whole(vault, Place::Task(job, index), spec, Bag::bytes(bag.as_ref()))?);
        let mut row = state.map(StateLine::into_row).unwrap_or_default();
        if let Some((attempts, fence, crashes, start_time)) = claim {
            // The state row is from before the attempt: its error is the last one, its log goes on, its due is over.
            let error = row.task.error.take();
            let state = TaskState::Running;
            row.task = Task { state, attempts, fence, crashes, due: None, start_time, end_time: None, error };
        }
        Ok(StoredTask { index, lane, spec, row })
    }
}

/// Reads a page of [`task_text`] of one job.
pub(super) fn listed_tasks(vault: &Vault, page: &Page, job: JobId, limit: u32) -> Readable<StoredTask> {
    readable(page, &format!("task of job `{job}`:"), limit, |line: TaskLine| line.into_task(vault, job))
}
