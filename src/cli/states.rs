//! States of jobs and tasks in words and colours.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

use crate::cli::args::Usage;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::words;
use crate::clock::Clock;
use crate::model::text::shown;
use crate::pb;

const JOB_PREFIX: &str = "JOB_STATE_";
const TASK_PREFIX: &str = "TASK_STATE_";
const FAILURE_PREFIX: &str = "FAILURE_REASON_";
const EVENT_PREFIX: &str = "JOB_EVENT_KIND_";

/// The state of a job.
pub(crate) fn job_state(job: &pb::Job) -> Line {
    let hue = match job.state() {
        pb::JobState::Succeeded => Hue::Good,
        pb::JobState::Failed => Hue::Bad,
        pb::JobState::Paused | pb::JobState::Cancelling | pb::JobState::Cancelled => Hue::Warn,
        pb::JobState::Unspecified | pb::JobState::Pending | pb::JobState::Running => Hue::Plain,
    };
    Line::of(hue, &words::state(job.state().as_str_name(), JOB_PREFIX))
}

/// The state of a task.
pub(crate) fn task_state(task: &pb::Task) -> Line {
    let hue = match task.state() {
        pb::TaskState::Succeeded => Hue::Good,
        pb::TaskState::Failed => Hue::Bad,
        pb::TaskState::BackingOff | pb::TaskState::Cancelled => Hue::Warn,
        pb::TaskState::Unspecified | pb::TaskState::Pending | pb::TaskState::Running => Hue::Plain,
    };
    Line::of(hue, &words::state(task.state().as_str_name(), TASK_PREFIX))
}

/// Whether a job has ended.
pub(crate) fn is_ended(state: pb::JobState) -> bool {
    matches!(state, pb::JobState::Succeeded | pb::JobState::Failed | pb::JobState::Cancelled)
}

/// A closed set of names that an argument is one of. It is read in any spelling (`backing off`, `backing-off`, `BACKING_OFF`), and a
/// shell completes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    what: &'static str,
    prefix: &'static str,
    of: fn(i32) -> Option<&'static str>,
}

/// States of a job.
pub(crate) const JOB_STATES: Names = Names {
    what: "state",
    prefix: JOB_PREFIX,
    of: |number| pb::JobState::try_from(number).ok().map(|state| state.as_str_name()),
};

/// States of a task.
pub(crate) const TASK_STATES: Names = Names {
    what: "state",
    prefix: TASK_PREFIX,
    of: |number| pb::TaskState::try_from(number).ok().map(|state| state.as_str_name()),
};

/// Classes of failure, as `http-status`.
pub(crate) const REASONS: Names = Names {
    what: "reason",
    prefix: FAILURE_PREFIX,
    of: |number| pb::FailureReason::try_from(number).ok().map(|reason| reason.as_str_name()),
};

/// Kinds of events, as `task-ended`.
pub(crate) const EVENT_KINDS: Names = Names {
    what: "kind",
    prefix: EVENT_PREFIX,
    of: |number| pb::JobEventKind::try_from(number).ok().map(|kind| kind.as_str_name()),
};

/// Numbers of values that are looked at: none of the enums has one beyond.
const NUMBER_MAX: i32 = 200;

impl Names {
    /// The names as they are written, each with its number.
    fn all(self) -> impl Iterator<Item = (i32, String)> {
        (1..NUMBER_MAX).filter_map(move |number| {
            let name = (self.of)(number)?.strip_prefix(self.prefix)?;
            Some((number, name.to_lowercase().replace('_', "-")))
        })
    }

    /// Returns the number of a name.
    pub(crate) fn read(self, name: &str) -> Result<i32, Usage> {
        let wanted = name.to_lowercase().replace([' ', '_'], "-");
        let found = self.all().find(|(_, name)| *name == wanted);
        found.map(|(number, _)| number).ok_or_else(|| {
            let known: Vec<String> = self.all().map(|(_, name)| name).collect();
            Usage(format!("unknown {} `{}`; use one of {}", self.what, shown(name), known.join(", ")))
        })
    }
}

/// Takes any text, which [`Names::read`] judges; completions list the names.
impl TypedValueParser for Names {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.all().map(|(_, name)| PossibleValue::new(name))))
    }
}

/// `200 in all: 140 succeeded, 1 failed, 59 cancelled`, without what is none.
pub(crate) fn counts(counts: &pb::TaskCounts) -> String {
    let parts = [
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.cancelled, "cancelled"),
        (counts.running, "running"),
        (counts.backing_off, "backing off"),
        (counts.pending, "pending"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{} {state}", words::number((*count).into())))
        .collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        format!("{} in all: {}", words::number(counts.total.into()), parts.join(", "))
    }
}

/// Why a task failed, or why it does not run, and when it goes on; empty when there is nothing to say.
pub(crate) fn why(task: &pb::Task) -> String {
    why_at(task, now())
}

/// As [`why`], at a time.
pub(crate) fn why_at(task: &pb::Task, now: SystemTime) -> String {
    let error = task.error.as_ref().or(task.last_error.as_ref()).map(|error| error.message.clone());
    let waiting = task.waiting.as_ref().map(|waiting| waiting.message.clone());
    let until = |time: &prost_types::Timestamp| until_from(time, now);
    let again = task.next_attempt_time.as_ref().map(|time| format!("next attempt in {}", words::duration(until(time))));
    let parts = match (error, again) {
        (Some(error), again) => [Some(error), again],
        (None, again) => [again.or(waiting), None],
    };
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What failed, with the task that it failed in.
pub(crate) fn failure(failure: &pb::TaskError) -> String {
    match (failure.task_index, failure.url.as_str()) {
        (Some(index), "") => format!("task {index}: {}", failure.message),
        (Some(index), url) => format!("task {index} ({url}): {}", failure.message),
        (None, _) => failure.message.clone(),
    }
}

/// What failed in a job, a line for each kind, the largest first. Empty where `Job.failure` says all of it.
pub(crate) fn failures(job: &pb::Job) -> Vec<String> {
    let is_told = job.failure.is_some() && job.failures.iter().map(|kind| kind.count).sum::<u32>() <= 1;
    if is_told { Vec::new() } else { job.failures.iter().map(failure_count).collect() }
}

/// `3 tasks at a.example:443: the origin answered 404 Not Found; check the URL (tasks 0, 7, 9)`.
fn failure_count(kind: &pb::FailureCount) -> String {
    let mut line = words::count(kind.count.into(), "task");
    if !kind.host.is_empty() {
        line += &format!(" at {}", kind.host);
    }
    match (kind.reason(), kind.sample_message.as_str()) {
        (pb::FailureReason::Unspecified, _) => line += ": of other kinds",
        (reason, "") => line += &format!(": {}", words::state(reason.as_str_name(), FAILURE_PREFIX)),
        (_, message) => line += &format!(": {message}"),
    }
    let samples: Vec<String> = kind.sample_task_indexes.iter().map(u32::to_string).collect();
    if !samples.is_empty() {
        let noun = if kind.count == 1 { "task" } else { "tasks" };
        let more = if samples.len() < kind.count as usize { ", …" } else { "" };
        line += &format!(" ({noun} {}{more})", samples.join(", "));
    }
    line
}

/// How long ago a time was; zero when it is to come.
pub(crate) fn since(time: &prost_types::Timestamp) -> Duration {
    since_from(time, now())
}

/// As [`since`], at a time.
pub(crate) fn since_from(time: &prost_types::Timestamp, now: SystemTime) -> Duration {
    now.duration_since(SystemTime::try_from(*time).unwrap_or(SystemTime::UNIX_EPOCH)).unwrap_or_default()
}

/// How long it is from `now` until a time; zero when it has passed.
pub(crate) fn until_from(time: &prost_types::Timestamp, now: SystemTime) -> Duration {
    SystemTime::try_from(*time).ok().and_then(|time| time.duration_since(now).ok()).unwrap_or_default()
}

/// The time.
pub(crate) fn now() -> SystemTime {
    let micros = u64::try_from(Clock::system().now().0).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_in_any_spelling() {
        for name in ["backing-off", "backing off", "BACKING_OFF"] {
            assert_eq!(TASK_STATES.read(name).unwrap(), i32::from(pb::TaskState::BackingOff));
        }
        let error = JOB_STATES.read("odd").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown state `odd`; use one of pending, running, paused, cancelling, succeeded, failed, cancelled"
        );
        assert!(JOB_STATES.read("unspecified").is_err());
    }

    #[test]
    fn failures_are_told_by_kind() {
        let missing = pb::FailureCount {
            reason: pb::FailureReason::HttpStatus.into(),
            http_status: 404,
            host: "a.example:443".into(),
            count: 7,
            sample_task_indexes: vec![0, 2, 4, 6, 8],
            sample_message: "the origin answered 404 Not Found; check the URL".into(),
        };
        let one = pb::FailureCount { count: 1, sample_task_indexes: vec![3], ..missing.clone() };
        let silent = pb::FailureCount { sample_message: String::new(), ..one.clone() };
        let rest = pb::FailureCount { count: 1_200, ..Default::default() };
        let job = |failure: Option<pb::TaskError>, failures: &[&pb::FailureCount]| pb::Job {
            failure,
            failures: failures.iter().copied().cloned().collect(),
            ..Default::default()
        };
        let failure = Some(pb::TaskError::default());
        assert_eq!(
            failures(&job(failure.clone(), &[&missing, &silent, &rest])),
            [
                "7 tasks at a.example:443: the origin answered 404 Not Found; check the URL (tasks 0, 2, 4, 6, 8, …)",
                "1 task at a.example:443: http status (task 3)",
                "1,200 tasks: of other kinds",
            ]
        );
        assert_eq!(failures(&job(failure, &[&one])), Vec::<String>::new(), "the failure of the job is the same");
        assert_eq!(failures(&job(None, &[&one])).len(), 1, "a job that runs, or succeeded all the same");
        assert_eq!(failures(&job(None, &[])).len(), 0);
    }

    #[test]
    fn counts_name_what_there_is() {
        let some = pb::TaskCounts { total: 200, succeeded: 140, failed: 1, cancelled: 59, ..Default::default() };
        assert_eq!(counts(&some), "200 in all: 140 succeeded, 1 failed, 59 cancelled");
        assert_eq!(counts(&pb::TaskCounts::default()), "none");
    }
}
