//! The machine of a task. A task starts PENDING without a trace of its own; what is here exists from its first start on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::failure::{Failure, FailureReason, TaskError};
use crate::model::ids::Fence;
use crate::model::time::Timestamp;

/// Attempts in a row that a crash of the server may cut before the task is held to be the cause.
pub const CRASHES_MAX: u32 = 3;
/// Crashes that cut attempts of one task, in a row or not, after which it is not run again either.
const ALL_CRASHES_MAX: u32 = 10;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)] // The contract's names.
pub enum TaskState {
    Pending = 1,
    Running = 2,
    BackingOff = 3,
    Succeeded = 4,
    Failed = 5,
    Cancelled = 6,
}

impl TaskState {
    /// All of them, in the order of the contract.
    pub const ALL: [TaskState; 6] =
        [Self::Pending, Self::Running, Self::BackingOff, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing more happens to it by itself.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// From its number in the contract and the store.
    pub fn from_number(number: i64) -> Option<TaskState> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }
}

/// Its name in the contract, without the prefix.
impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::BackingOff => "BACKING_OFF",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        })
    }
}

/// The moving part of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Where it is.
    pub state: TaskState,
    /// Attempts that counted, the running one included.
    pub attempts: u32,
    /// The latest attempt's, whether it counted or not.
    pub fence: Fence,
    /// Attempts that a crash cut.
    pub crashes: Crashes,
    /// While backing off: when the next attempt is due.
    pub due: Option<Timestamp>,
    /// Of its first attempt.
    pub start_time: Option<Timestamp>,
    /// Of its end.
    pub end_time: Option<Timestamp>,
    /// Once ended: why it did not succeed. Before: the error of the attempt before.
    pub error: Option<TaskError>,
}

impl Default for Task {
    fn default() -> Self {
        Task {
            state: TaskState::Pending,
            attempts: 0,
            fence: 0,
            crashes: Crashes::default(),
            due: None,
            start_time: None,
            end_time: None,
            error: None,
        }
    }
}

/// How many attempts of a task were cut by crashes since one of them came to an end of its own, or made progress that is stored. One
/// number, as the store has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crashes(u32);

impl Crashes {
    /// What of the number is for those in a row; the rest is for all.
    const IN_A_ROW: u32 = 16;

    /// Returns whether there was none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns what is left where the next crash begins a new row.
    #[must_use]
    pub fn in_a_new_row(self) -> Crashes {
        Crashes(self.0 - self.0 % Self::IN_A_ROW)
    }

    /// Returns whether one more in a row would be too much.
    pub fn are_all_but_too_many(self) -> bool {
        self.and_one_more().too_many().is_some()
    }

    fn and_one_more(self) -> Crashes {
        Crashes(self.0.saturating_add(Self::IN_A_ROW + 1))
    }

    /// Returns what is too much of them, if anything is.
    fn too_many(self) -> Option<String> {
        match (self.0 % Self::IN_A_ROW, self.0 / Self::IN_A_ROW) {
            (CRASHES_MAX.., _) => Some(format!("{CRASHES_MAX} times in a row")),
            (_, ALL_CRASHES_MAX..) => Some(format!("{ALL_CRASHES_MAX} times")),
            _ => None,
        }
    }
}

impl From<Crashes> for i64 {
    fn from(crashes: Crashes) -> i64 {
        crashes.0.into()
    }
}

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// An attempt starts: the first one, or one that was due.
    Started,
    /// The attempt has what the task is for.
    Succeeded(Fence),
    /// The attempt failed and another will follow.
    BackedOff(Fence, TaskError, Timestamp),
    /// The attempt failed and it was the last.
    Failed(Fence, TaskError),
    /// The attempt was stopped by a drain, a pause or a lack of room, and the task is requeued: the attempt does not count.
    GivenBack(Fence),
    /// The server died under the attempt: it does not count, unless it happened too often.
    Crashed,
    /// The group, the job's timeout or a person ended it. Also ends a running one, whose attempt has stopped.
    Cancelled(TaskError),
    /// The task's own timeout ended it while nothing of it ran.
    TimedOut(TaskError),
    /// `RetryJob`: from the start, with what is kept.
    Retried,
}

impl TaskEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Succeeded(_) => "Succeeded",
            Self::BackedOff(..) => "BackedOff",
            Self::Failed(..) => "Failed",
            Self::GivenBack(_) => "GivenBack",
            Self::Crashed => "Crashed",
            Self::Cancelled(_) => "Cancelled",
            Self::TimedOut(_) => "TimedOut",
            Self::Retried => "Retried",
        }
    }
}

/// An event that does not fit the state: somebody else moved first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot be {event}")]
pub struct WrongState {
    /// Where it is.
    pub state: TaskState,
    /// What was to happen.
    pub event: &'static str,
}

impl Task {
    /// The task after `event` at `now`.
    ///
    /// The end of an attempt names its fence; one that is not the current attempt's is [`WrongState`], so that a late
    /// result changes nothing.
    pub fn apply(&self, event: TaskEvent, now: Timestamp) -> Result<Task, WrongState> {
        use TaskState as S;
        let wrong = WrongState { state: self.state, event: event.name() };
        let mut next = self.clone();
        match (self.state, event) {
            (S::Pending | S::BackingOff, TaskEvent::Started) => {
                next.state = S::Running;
                next.attempts += 1;
                next.fence += 1;
                next.due = None;
                next.start_time = self.start_time.or(Some(now));
            }
            (S::Running, TaskEvent::Succeeded(fence)) if fence == self.fence => next.end(S::Succeeded, None, now),
            (S::Running, TaskEvent::BackedOff(fence, error, due)) if fence == self.fence => {
                next.state = S::BackingOff;
                next.crashes = Crashes::default();
                next.due = Some(due);
                next.error = Some(error);
            }
            (S::Running, TaskEvent::Failed(fence, error)) if fence == self.fence => {
                next.end(S::Failed, Some(error), now);
            }
            (S::Running, TaskEvent::GivenBack(fence)) if fence == self.fence => {
                next.state = S::Pending;
                next.attempts = self.attempts.saturating_sub(1);
                next.crashes = Crashes::default();
            }
            (S::Running, TaskEvent::Crashed) => {
                next.crashes = self.crashes.and_one_more();
                if let Some(why) = next.crashes.too_many() {
                    next.end(S::Failed, Some(poisonous(&why, self.attempts)), now);
                } else {
                    next.state = S::Pending;
                    next.attempts = self.attempts.saturating_sub(1);
                }
            }
            (S::Pending | S::Running | S::BackingOff, TaskEvent::Cancelled(error)) => {
                next.end(S::Cancelled, Some(error), now);
            }
            (S::Pending | S::BackingOff, TaskEvent::TimedOut(error)) => next.end(S::Failed, Some(error), now),
            (S::Failed | S::Cancelled, TaskEvent::Retried) => {
                next = Task { fence: self.fence, ..Task::default() };
            }
            _ => return Err(wrong),
        }
        Ok(next)
    }

    fn end(&mut self, state: TaskState, error: Option<TaskError>, now: Timestamp) {
        self.state = state;
        self.crashes = Crashes::default();
        self.due = None;
        self.end_time = Some(now);
        self.error = error;
    }
}

fn poisonous(why: &str, attempt: u32) -> TaskError {
    let message = format!(
        "the server died {why} while it ran this task, so it is not run again by itself; look at the server's log, then retry it"
    );
    Failure::fatal(FailureReason::Internal, message).into_error(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> TaskError {
        Failure::retryable(FailureReason::Connect, "x").into_error(1)
    }

    fn task(state: TaskState) -> Task {
        let attempts = u32::from(state != TaskState::Pending);
        Task { state, attempts, fence: 7, ..Task::default() }
    }

    #[test]
    fn every_state_by_every_event() {
        let events = [
            TaskEvent::Started,
            TaskEvent::Succeeded(7),
            TaskEvent::Succeeded(6),
            TaskEvent::BackedOff(7, error(), Timestamp(9)),
            TaskEvent::Failed(7, error()),
            TaskEvent::GivenBack(7),
            TaskEvent::Crashed,
            TaskEvent::Cancelled(error()),
            TaskEvent::TimedOut(error()),
            TaskEvent::Retried,
        ];
        let mut table = String::new();
        for state in TaskState::ALL {
            for event in &events {
                let end = match task(state).apply(event.clone(), Timestamp(5)) {
                    Ok(next) => format!("{:?} attempts={} fence={}", next.state, next.attempts, next.fence),
                    Err(_) => "-".to_owned(),
                };
                let fence = if *event == TaskEvent::Succeeded(6) { " (late)" } else { "" };
                table += &format!("{state:?} + {}{fence} = {end}\n", event.name());
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn the_third_crash_in_a_row_ends_it() {
        let mut task = Task::default();
        for crash in 1..=CRASHES_MAX {
            task = task.apply(TaskEvent::Started, Timestamp(1)).unwrap();
            task = task.apply(TaskEvent::Crashed, Timestamp(2)).unwrap();
            assert_eq!(task.state == TaskState::Failed, crash == CRASHES_MAX);
        }
        assert_eq!(task.error.unwrap().reason, FailureReason::Internal);
    }

    /// A claim whose numbers are damaged is a row as any other.
    #[test]
    fn an_attempt_that_was_not_counted_is_given_back_all_the_same() {
        for event in [TaskEvent::GivenBack(7), TaskEvent::Crashed] {
            let task = Task { attempts: 0, ..task(TaskState::Running) };
            assert_eq!(task.apply(event, Timestamp(5)).unwrap().attempts, 0);
        }
    }

    /// As where other work always comes before it, or another task always brings the server down in between.
    #[test]
    fn so_many_crashes_end_it_that_are_never_in_a_row() {
        let mut task = Task::default();
        for crash in 1..=ALL_CRASHES_MAX {
            task.crashes = task.crashes.in_a_new_row();
            task = task.apply(TaskEvent::Started, Timestamp(1)).unwrap();
            task = task.apply(TaskEvent::Crashed, Timestamp(2)).unwrap();
            assert_eq!(task.state == TaskState::Failed, crash == ALL_CRASHES_MAX, "{crash}");
        }
        assert!(task.error.unwrap().message.contains("died 10 times while"));
    }
}
