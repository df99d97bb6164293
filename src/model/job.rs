//! The machine of a job.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::access::PrincipalNo;
use crate::model::counts::Counts;
use crate::model::failure::{Failure, FailureReason, TaskError, is_default};
use crate::model::failures::{Alike, Failures};
use crate::model::group::{self, Verdict};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::progress::{Held, Progress};
use crate::model::spec::JobSpec;
use crate::model::task::TaskState;
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::{Owner, Party};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)] // The contract's names.
pub enum JobState {
    Pending = 1,
    Running = 2,
    Paused = 3,
    Cancelling = 4,
    Succeeded = 5,
    Failed = 6,
    Cancelled = 7,
}

impl JobState {
    /// All of them, in the order of the contract.
    pub const ALL: [JobState; 7] =
        [Self::Pending, Self::Running, Self::Paused, Self::Cancelling, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing more happens to it by itself.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// From its number in the contract and the store.
    pub fn from_number(number: i64) -> Option<JobState> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }
}

/// Its name in the contract, without the prefix.
impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Cancelling => "CANCELLING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        })
    }
}

/// Why the tasks of a job are being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Somebody called `CancelJob`, with this reason.
    Cancelled(String),
    /// More tasks failed than may.
    SiblingFailed,
    /// One success was enough.
    SiblingSucceeded,
    /// The job's timeout passed.
    TimedOut,
}

impl Stop {
    /// The error of a task that ended because of it.
    pub fn task_error(&self) -> TaskError {
        let (reason, message) = match self {
            Stop::Cancelled(why) if why.is_empty() => (FailureReason::Cancelled, "the job was cancelled".to_owned()),
            Stop::Cancelled(why) => (FailureReason::Cancelled, format!("the job was cancelled: {why}")),
            Stop::SiblingFailed => (
                FailureReason::SiblingFailed,
                "stopped because another task of the job failed; see the job's `failure`".to_owned(),
            ),
            Stop::SiblingSucceeded => {
                (FailureReason::Cancelled, "not needed any more: another task of the job succeeded first".to_owned())
            }
            Stop::TimedOut => {
                (FailureReason::TimeoutJob, "the job's `timeout` passed before this task ended".to_owned())
            }
        };
        Failure::fatal(reason, message).into_error(0)
    }
}

/// The principal that submitted a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// Its number; 0 is `local`.
    pub no: PrincipalNo,
    /// Its name; empty for `local`.
    pub name: String,
}

/// A job without its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What was asked for, with what `UpdateJob` changed since.
    pub spec: Arc<JobSpec>,
    /// Where it is.
    pub state: JobState,
    /// Whether more tasks may come.
    pub open: bool,
    /// Set once its tasks are being stopped.
    pub stop: Option<Stop>,
    /// How its tasks are.
    pub counts: Counts,
    /// Bytes of the results of its tasks. Durable, as the counts are.
    pub ended_bytes: u64,
    /// Those of them that are of files that were there already.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skipped_bytes: u64,
    /// Bytes that its downloads hold which neither run nor succeeded. Durable, as the counts are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held: Held,
    /// When its part files were removed, since they could not be kept after an end of it.
    pub parts_gone: Option<Timestamp>,
    /// What ended it, when it did not succeed; kept from the first failure that counts.
    pub failure: Option<Box<TaskError>>,
    /// Its tasks that are FAILED, by kind.
    #[serde(default, skip_serializing_if = "Failures::is_empty")]
    pub failures: Failures,
    /// The number of its last durable event.
    pub sequence: u64,
    /// When it was acknowledged.
    pub create_time: Timestamp,
    /// When its first task started.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// When it last changed.
    pub update_time: Timestamp,
    /// Set while `RetryJob` is under way: the tasks from this index on are still to be put back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retrying: Option<TaskIndex>,
    /// Beside `retrying`: which of the tasks are to be put back; `None`: all that failed or were cancelled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry_filter: Option<Box<TaskFilter>>,
    /// Failed tasks that a retry did not put back. They are not judged again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settled_failures: u32,
    /// Succeeded tasks from before a retry. They are not judged again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settled_successes: u32,
    /// Whether an attempt at a download ever started, so that part files may be there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub downloads: bool,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub creator: Creator,
    /// Whether secrets of it were erased: it cannot be tried again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets_gone: bool,
    /// The credentials that its tasks name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub credentials: BTreeSet<String>,
    /// The tenant that it is of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tenant: Owner,
    /// Where in a trace its caller stood.
    #[serde(default, skip_serializing_if = "is_default")]
    pub caller: Option<Box<TraceParent>>,
}

/// What stays of an ended job of which tasks are retried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Failed tasks that are not put back.
    pub failures: u32,
    /// Tasks that succeeded.
    pub successes: u32,
    /// The first failure among those that stay.
    pub failure: Option<TaskError>,
}

/// What can happen to a job, beside the moves of its tasks, which are in its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// An attempt starts.
    Started,
    /// `PauseJob`.
    Paused,
    /// `ResumeJob`.
    Resumed,
    /// `CancelJob`, with its reason.
    Cancelled(String),
    /// Its timeout passed.
    TimedOut,
    /// The group's verdict is to stop, with the failure that decided it.
    Stopped(Stop, Option<TaskError>),
    /// `SealJob`.
    Sealed,
    /// All its tasks have ended.
    Settled(bool),
    /// `RetryJob` begins to put failed and cancelled tasks back; these stay. See [`Job::put_back`].
    Retried(Kept),
}

impl JobEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Cancelled(_) => "cancelled",
            Self::TimedOut => "timed out",
            Self::Stopped(..) => "stopped",
            Self::Sealed => "sealed",
            Self::Settled(_) => "settled",
            Self::Retried(_) => "retried",
        }
    }
}

/// An event that does not fit the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} that is {state} cannot be {event}{}", if *of_tasks { "the tasks of a job" } else { "a job" }, advice(event))]
pub struct WrongState {
    /// Where it is.
    pub state: JobState,
    /// What was to happen.
    pub event: &'static str,
    /// Whether it was to happen to tasks of the job.
    pub of_tasks: bool,
}

/// What to do about an event that comes too early.
fn advice(event: &str) -> &'static str {
    match event {
        "deleted" => "; cancel it, or wait until it has ended",
        "retried" => "; wait until it has ended",
        _ => "",
    }
}

/// What an event made of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was that way already; nothing to store.
    None,
    /// Something changed that is published as `job_changed`.
    Changed,
    /// Its tasks are to be stopped now.
    Stopping,
    /// It has ended.
    Ended,
}

impl Job {
    /// For whom it is done.
    pub fn party(&self) -> Party {
        Party { tenant: self.tenant.no, principal: self.creator.no }
    }

    /// A job as it is when it is submitted.
    pub fn new(id: JobId, spec: JobSpec, task_count: u32, now: Timestamp) -> Job {
        let mut counts = Counts::default();
        counts.added(task_count);
        Job {
            id,
            state: JobState::Pending,
            open: spec.open,
            spec: Arc::new(spec),
            stop: None,
            counts,
            ended_bytes: 0,
            skipped_bytes: 0,
            held: Held::default(),
            parts_gone: None,
            failure: None,
            failures: Failures::default(),
            sequence: 0,
            create_time: now,
            start_time: None,
            end_time: None,
            update_time: now,
            retrying: None,
            retry_filter: None,
            settled_failures: 0,
            settled_successes: 0,
            downloads: false,
            creator: Creator::default(),
            secrets_gone: false,
            credentials: BTreeSet::new(),
            tenant: Owner::default(),
            caller: None,
        }
    }

    /// Takes in a piece of a sweep: `count` tasks in `state` ended as CANCELLED, each with an event of its own.
    pub fn swept(&mut self, state: TaskState, count: u32) {
        self.counts.shift(state, TaskState::Cancelled, count);
        self.sequence += u64::from(count);
    }

    /// Takes in a piece of a retry: these failed tasks and so many cancelled ones are PENDING again, and `next` is where to go
    /// on.
    pub fn put_back(&mut self, failed: &[Alike], cancelled: u32, next: Option<TaskIndex>) {
        for alike in failed {
            self.counts.shift(TaskState::Failed, TaskState::Pending, alike.tasks.len() as u32);
            self.failures.forget(alike);
        }
        self.counts.shift(TaskState::Cancelled, TaskState::Pending, cancelled);
        self.retrying = next;
        self.retry_filter.take_if(|_| next.is_none());
    }

    /// What it has of what its tenant may store, without its tasks that run: bodies, files that its downloads brought, and what
    /// others of them hold.
    pub fn stored_bytes(&self) -> u64 {
        (self.ended_bytes - self.skipped_bytes.min(self.ended_bytes)).saturating_add(self.held.bytes)
    }

    /// How far its tasks are that do not run: the results of those that succeeded, and what the others hold.
    pub fn progress(&self) -> Progress {
        Progress {
            done_bytes: self.ended_bytes.saturating_add(self.held.bytes),
            total_bytes: self.ended_bytes.saturating_add(self.held.total_bytes),
            bytes_per_second: 0,
        }
    }

    /// Where its downloads go, relative to the download root; empty: the root itself, which `.` asks for.
    pub fn directory(&self) -> String {
        match self.spec.directory.as_str() {
            "" => self.id.to_string(),
            "." => String::new(),
            directory => directory.to_owned(),
        }
    }

    /// When the server deletes it; `None` while it has not ended, or when it is kept.
    pub fn expire_time(&self) -> Option<Timestamp> {
        Some(self.end_time?.plus(self.spec.retention?))
    }

    /// When its timeout passes; `None` before its start, or without one.
    pub fn deadline(&self) -> Option<Timestamp> {
        Some(self.start_time?.plus(self.spec.timeout?))
    }

    /// Whether attempts may start, as far as the job itself goes.
    pub fn may_run(&self) -> bool {
        matches!(self.state, JobState::Pending | JobState::Running) && self.stop.is_none()
    }

    /// What its counts mean by its group's policy. While it is being stopped there is nothing to decide but the end.
    pub fn judge(&self) -> Verdict {
        if self.stop.is_none() {
            let settled = group::Settled { failures: self.settled_failures, successes: self.settled_successes };
            return group::judge(self.spec.group, &self.counts, settled, self.open);
        }
        if self.counts.unfinished() > 0 {
            return Verdict::Continue;
        }
        Verdict::Settle { succeeded: self.stop == Some(Stop::SiblingSucceeded) }
    }

    /// Moves the job by `event` at `now`. [`WrongState`] changes nothing.
    pub fn apply(&mut self, event: JobEvent, now: Timestamp) -> Result<Change, WrongState> {
        use JobState as S;
        let wrong = WrongState { state: self.state, event: event.name(), of_tasks: false };
        let change = match (self.state, event) {
            (S::Pending, JobEvent::Started) => {
                self.state = S::Running;
                self.start_time = self.start_time.or(Some(now));
                Change::Changed
            }
            (S::Running, JobEvent::Started)
            | (S::Paused, JobEvent::Paused)
            | (S::Pending | S::Running, JobEvent::Resumed)
            | (S::Cancelling | S::Succeeded | S::Failed | S::Cancelled, JobEvent::Cancelled(_)) => Change::None,
            (S::Pending | S::Running, JobEvent::Paused) if self.stop.is_none() => {
                self.state = S::Paused;
                Change::Changed
            }
            (S::Paused, JobEvent::Resumed) => {
                self.state = if self.start_time.is_some() { S::Running } else { S::Pending };
                Change::Changed
            }
            (S::Pending | S::Running | S::Paused, JobEvent::Cancelled(why)) => {
                let stop = Stop::Cancelled(why);
                self.state = S::Cancelling;
                self.failure = Some(Box::new(stop.task_error()));
                self.stop = Some(stop);
                Change::Stopping
            }
            (S::Pending | S::Running | S::Paused, JobEvent::TimedOut) if self.stop.is_none() => {
                self.failure = Some(Box::new(TaskError {
                    message: "the job's `timeout` passed before its tasks had ended; allow more time or ask for less"
                        .into(),
                    ..Stop::TimedOut.task_error()
                }));
                self.stop = Some(Stop::TimedOut);
                Change::Stopping
            }
            (S::Pending | S::Running | S::Paused, JobEvent::Stopped(stop, failure)) if self.stop.is_none() => {
                if stop == Stop::SiblingFailed {
                    // The first failure is the job's, in every group mode.
                    self.failure = self.failure.take().or(failure.map(Box::new));
                }
                self.stop = Some(stop);
                Change::Stopping
            }
            (S::Pending | S::Running | S::Paused | S::Cancelling, JobEvent::Sealed) if self.open => {
                self.open = false;
                Change::Changed
            }
            (_, JobEvent::Sealed) if !self.open => Change::None,
            (S::Pending | S::Running | S::Paused | S::Cancelling, JobEvent::Settled(succeeded)) => {
                self.settle(succeeded, now);
                Change::Ended
            }
            (S::Succeeded | S::Failed | S::Cancelled, JobEvent::Retried(kept)) => {
                self.retried(kept);
                Change::Changed
            }
            _ => return Err(wrong),
        };
        if change != Change::None {
            self.update_time = now;
        }
        Ok(change)
    }

    fn settle(&mut self, succeeded: bool, now: Timestamp) {
        self.state = match (&self.stop, succeeded) {
            (Some(Stop::Cancelled(_)), _) => JobState::Cancelled,
            (_, true) => JobState::Succeeded,
            (_, false) => JobState::Failed,
        };
        match self.state {
            JobState::Succeeded => self.failure = None,
            JobState::Failed if self.failure.is_none() => self.failure = Some(Box::new(nothing_left())),
            _ => {}
        }
        self.open = false;
        self.end_time = Some(now);
    }

    fn retried(&mut self, kept: Kept) {
        self.state = JobState::Pending;
        // The timeout runs from the new start.
        self.start_time = None;
        self.end_time = None;
        self.failure = kept.failure.map(Box::new);
        self.settled_failures = kept.failures;
        self.settled_successes = kept.successes;
        self.stop = None;
    }
}

/// Why a job failed of which no task did: one success was asked for, and all tasks were cancelled before.
fn nothing_left() -> TaskError {
    let message = "no task has succeeded, and none is left that could: the tasks were cancelled";
    Failure::fatal(FailureReason::Cancelled, message).into_error(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::JobSpec;

    fn job(state: JobState, open: bool) -> Job {
        let spec = JobSpec { open, ..JobSpec::default() };
        let mut job = Job::new(JobId(uuid::Uuid::nil()), spec, 2, Timestamp(1));
        job.state = state;
        job.counts = Counts { total: 2, failed: 1, cancelled: 1, ..Counts::default() };
        if state == JobState::Cancelling {
            job.stop = Some(Stop::Cancelled("why".into()));
        }
        job
    }

    #[test]
    fn every_state_by_every_event() {
        let events = [
            JobEvent::Started,
            JobEvent::Paused,
            JobEvent::Resumed,
            JobEvent::Cancelled("why".into()),
            JobEvent::TimedOut,
            JobEvent::Stopped(Stop::SiblingFailed, None),
            JobEvent::Sealed,
            JobEvent::Settled(true),
            JobEvent::Settled(false),
            JobEvent::Retried(Kept::default()),
        ];
        let mut table = String::new();
        for state in JobState::ALL {
            for event in &events {
                let mut job = job(state, !state.is_ended());
                let line = match job.apply(event.clone(), Timestamp(5)) {
                    Ok(change) => format!("{:?} {change:?} stop={:?}", job.state, job.stop),
                    Err(_) => "-".to_owned(),
                };
                table += &format!("{state:?} + {event:?} = {line}\n");
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_stopped_job_ends_by_what_stopped_it() {
        for (stop, state) in [
            (Stop::Cancelled(String::new()), JobState::Cancelled),
            (Stop::SiblingFailed, JobState::Failed),
            (Stop::TimedOut, JobState::Failed),
            (Stop::SiblingSucceeded, JobState::Succeeded),
        ] {
            let mut job = job(JobState::Running, false);
            job.stop = Some(stop);
            let Verdict::Settle { succeeded } = job.judge() else { panic!("nothing is left to run") };
            job.apply(JobEvent::Settled(succeeded), Timestamp(5)).unwrap();
            assert_eq!(job.state, state);
        }
    }
}
