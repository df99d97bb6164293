//! How rows travel out of `SQLite`: each as a JSON array, all of them as one text.
//!
//! Reading a row through sqlx costs microseconds, and a million of them seconds; one text of a million rows is read in a
//! fraction. The texts are put together by plain concatenation, since every piece is a number or JSON that we wrote.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::counts::Counts;
use crate::model::failure::{TaskError, is_default};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Job, JobState, Stop};
use crate::model::outcome::{Attempt, Outcome};
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::task::{Task, TaskState};
use crate::model::time::Timestamp;
use crate::store::{StoreError, StoredTask, TaskRow};

/// A job's row as JSON, of `jobs j JOIN job_specs p`.
macro_rules! job_text {
    () => {
        "'[\"' || hex(j.id) || '\",' || j.state || ',' || j.create_time || ',' || coalesce(j.end_time, 'null') || ',' || \
         j.moving || ',' || p.spec || ']'"
    };
}

/// The number of the job whose id is `?1`, unless it is deleted.
macro_rules! job_no {
    () => {
        "(SELECT no FROM jobs WHERE id = ?1 AND deleted = 0)"
    };
}

/// The state row `s` of a task as JSON, with `$log` for its log.
macro_rules! state_text {
    ($log:literal) => {
        concat!(
            "'[' || s.state || ',' || s.attempts || ',' || s.fence || ',' || s.crashes || ',' || coalesce(s.due, 'null') \
             || ',' || coalesce(s.start_time, 'null') || ',' || coalesce(s.end_time, 'null') || ',' || \
             coalesce(s.error, 'null') || ',' || coalesce(s.outcome, 'null') || ',' || coalesce(",
            $log,
            ", 'null') || ']'"
        )
    };
}

/// The state row, or null where there is none.
macro_rules! state_or_null {
    ($log:literal) => {
        concat!("CASE WHEN s.id IS NULL THEN 'null' ELSE ", state_text!($log), " END")
    };
}

/// A task as JSON, of `tasks t`, `task_states s` and `claims c`.
macro_rules! task_text {
    ($log:literal) => {
        concat!(
            "'[' || (t.id & 4294967295) || ',' || t.spec || ',' || CASE WHEN c.id IS NULL THEN 'null' ELSE '[' || \
             c.attempts || ',' || c.fence || ',' || c.crashes || ',' || coalesce(c.start_time, 'null') || ']' END || ',' || ",
            state_or_null!($log),
            " || ']'"
        )
    };
}

/// All lines of a query as one JSON array.
macro_rules! array_of {
    ($($piece:expr),+) => {
        concat!("SELECT '[' || coalesce(group_concat(line, ','), '') || ']' FROM (", $($piece),+, ")")
    };
}

pub(super) use {array_of, job_no, job_text, state_or_null, state_text, task_text};

/// Reads what [`array_of`] made.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    Ok(serde_json::from_str(text)?)
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
    counts: Counts,
    #[serde(skip_serializing_if = "is_default")]
    ended_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    failure: Option<TaskError>,
    sequence: u64,
    #[serde(skip_serializing_if = "is_default")]
    start_time: Option<Timestamp>,
    update_time: Timestamp,
}

/// The column `jobs.moving`.
pub(super) fn moving(job: &Job) -> Result<String, StoreError> {
    let moving = Moving {
        open: job.open,
        stop: job.stop.clone(),
        counts: job.counts,
        ended_bytes: job.ended_bytes,
        failure: job.failure.clone(),
        sequence: job.sequence,
        start_time: job.start_time,
        update_time: job.update_time,
    };
    Ok(serde_json::to_string(&moving)?)
}

/// See [`job_text`].
#[derive(Deserialize)]
pub(super) struct JobLine(JobId, i64, Timestamp, Option<Timestamp>, Moving, Arc<JobSpec>);

impl JobLine {
    pub(super) fn into_job(self) -> Result<Job, StoreError> {
        let JobLine(id, state, create_time, end_time, moving, spec) = self;
        let state = JobState::from_number(state)
            .ok_or_else(|| StoreError::Fatal(format!("job `{id}` has the unknown state {state}")))?;
        Ok(Job {
            id,
            spec,
            state,
            open: moving.open,
            stop: moving.stop,
            counts: moving.counts,
            ended_bytes: moving.ended_bytes,
            failure: moving.failure,
            sequence: moving.sequence,
            create_time,
            start_time: moving.start_time,
            end_time,
            update_time: moving.update_time,
        })
    }
}

/// Reads an array of [`job_text`].
pub(super) fn parse_jobs(text: &str) -> Result<Vec<Job>, StoreError> {
    parse::<Vec<JobLine>>(text)?.into_iter().map(JobLine::into_job).collect()
}

/// See [`state_text`].
#[derive(Deserialize)]
pub(super) struct StateLine(
    i64,
    u32,
    u32,
    u32,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<TaskError>,
    Option<Outcome>,
    Option<Vec<Attempt>>,
);

impl StateLine {
    pub(super) fn into_row(self) -> Result<TaskRow, StoreError> {
        let StateLine(state, attempts, fence, crashes, due, start_time, end_time, error, outcome, log) = self;
        let state = TaskState::from_number(state)
            .ok_or_else(|| StoreError::Fatal(format!("a task has the unknown state {state}")))?;
        let task = Task { state, attempts, fence, crashes, due, start_time, end_time, error };
        Ok(TaskRow { task, log: log.unwrap_or_default(), outcome })
    }
}

/// Attempts, fence, crashes, and start of the task, as of the running attempt.
type ClaimLine = (u32, u32, u32, Option<Timestamp>);

/// See [`task_text`].
#[derive(Deserialize)]
pub(super) struct TaskLine(TaskIndex, Arc<TaskSpec>, Option<ClaimLine>, Option<StateLine>);

impl TaskLine {
    pub(super) fn into_task(self) -> Result<StoredTask, StoreError> {
        let TaskLine(index, spec, claim, state) = self;
        let mut row = state.map(StateLine::into_row).transpose()?.unwrap_or_default();
        if let Some((attempts, fence, crashes, start_time)) = claim {
            // The state row is from before the attempt: its error is the last one, its log goes on, its due is over.
            let error = row.task.error.take();
            let state = TaskState::Running;
            row.task = Task { state, attempts, fence, crashes, due: None, start_time, end_time: None, error };
        }
        Ok(StoredTask { index, spec, row })
    }
}

/// Reads an array of [`task_text`].
pub(super) fn parse_tasks(text: &str) -> Result<Vec<StoredTask>, StoreError> {
    parse::<Vec<TaskLine>>(text)?.into_iter().map(TaskLine::into_task).collect()
}
