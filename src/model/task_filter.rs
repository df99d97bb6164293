//! Which tasks of a job something is about: plain data, and whether a task fits.

use serde::{Deserialize, Serialize};

use crate::model::failure::{FailureReason, TaskError, is_default};
use crate::model::ids::TaskIndex;
use crate::model::task::TaskState;

/// Conditions that hold together; an empty one is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskFilter {
    /// In one of these states.
    #[serde(skip_serializing_if = "is_default")]
    pub states: Vec<TaskState>,
    /// With a failure of one of these classes.
    #[serde(skip_serializing_if = "is_default")]
    pub reasons: Vec<FailureReason>,
    /// With a failure that has one of these statuses.
    #[serde(skip_serializing_if = "is_default")]
    pub http_statuses: Vec<u16>,
    /// With a URL at this host, as `name:port`, or `name` for each of its ports.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
}

impl TaskFilter {
    /// Returns whether it has no condition.
    pub fn is_empty(&self) -> bool {
        *self == TaskFilter::default()
    }

    /// Returns whether a task fits that is in this state, with the error of its end or of the attempt before, and whose URL
    /// is at this host.
    pub fn fits(&self, state: TaskState, error: Option<&TaskError>, host: &str) -> bool {
        self.has_state(state) && self.has_failure(state, error) && self.is_at(host)
    }

    /// Returns whether tasks in this state may fit.
    pub fn has_state(&self, state: TaskState) -> bool {
        let by_state = self.states.is_empty() || self.states.contains(&state);
        by_state && (!self.looks_at_failures() || shows_failure(state))
    }

    /// Returns whether tasks without a failure do not fit.
    pub fn looks_at_failures(&self) -> bool {
        !self.reasons.is_empty() || !self.http_statuses.is_empty()
    }

    fn has_failure(&self, state: TaskState, error: Option<&TaskError>) -> bool {
        if !self.looks_at_failures() {
            return true;
        }
        error.filter(|_| shows_failure(state)).is_some_and(|error| {
            (self.reasons.is_empty() || self.reasons.contains(&error.reason))
                && (self.http_statuses.is_empty() || self.http_statuses.contains(&error.http_status))
        })
    }

    /// Returns whether a host, as `name:port`, is the one that is meant.
    pub fn is_at(&self, host: &str) -> bool {
        let of_port = |(name, port): (&str, &str)| name == self.host && port.bytes().all(|it| it.is_ascii_digit());
        self.host.is_empty() || host == self.host || host.rsplit_once(':').is_some_and(of_port)
    }
}

/// Returns whether a task in this state shows a failure: that of its end, or of the attempt before while it backs off.
fn shows_failure(state: TaskState) -> bool {
    matches!(state, TaskState::BackingOff | TaskState::Failed | TaskState::Cancelled)
}

/// Some tasks of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TaskChoice {
    /// All of them.
    #[default]
    All,
    /// These, in order and each once.
    These(Vec<TaskIndex>),
    /// Those that fit.
    Fitting(TaskFilter),
}

impl TaskChoice {
    /// Returns whether tasks in this state may be among them.
    pub fn has_state(&self, state: TaskState) -> bool {
        !matches!(self, TaskChoice::Fitting(filter) if !filter.has_state(state))
    }

    /// Returns whether a task is among them; see [`TaskFilter::fits`].
    pub fn has(&self, index: TaskIndex, state: TaskState, error: Option<&TaskError>, host: &str) -> bool {
        match self {
            TaskChoice::All => true,
            TaskChoice::These(indexes) => indexes.binary_search(&index).is_ok(),
            TaskChoice::Fitting(filter) => filter.fits(state, error, host),
        }
    }

    /// The memory that it takes beside its own size, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        match self {
            TaskChoice::All => 0,
            TaskChoice::These(indexes) => indexes.len() * size_of::<TaskIndex>(),
            TaskChoice::Fitting(filter) => filter.host.len() + filter.reasons.len() + 2 * filter.http_statuses.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Failure;

    fn error(http_status: u16) -> TaskError {
        Failure { http_status, ..Failure::fatal(FailureReason::HttpStatus, "no") }.into_error(1)
    }

    #[test]
    fn all_conditions_hold_together() {
        use TaskState as S;
        let of = |filter: &TaskFilter, state| filter.fits(state, Some(&error(404)), "a.example:443");
        assert!(of(&TaskFilter::default(), S::Pending));
        let failed = TaskFilter { states: vec![S::Failed], ..Default::default() };
        assert!(of(&failed, S::Failed) && !of(&failed, S::Cancelled));
        let by_status = TaskFilter { http_statuses: vec![403, 404], ..Default::default() };
        for (state, fits) in [(S::Failed, true), (S::BackingOff, true), (S::Running, false), (S::Pending, false)] {
            assert_eq!(of(&by_status, state), fits, "{state:?}: what it shows is the failure of now");
        }
        assert!(!by_status.fits(S::Failed, Some(&error(500)), "a.example:443"));
        assert!(!by_status.fits(S::Failed, None, "a.example:443"));
        let by_reason = TaskFilter { reasons: vec![FailureReason::Tls], ..by_status };
        assert!(!of(&by_reason, S::Failed), "the status fits, and the reason does not");
    }

    #[test]
    fn a_host_is_meant_with_its_port_or_with_all() {
        let at = |wish: &str, host: &str| TaskFilter { host: wish.to_owned(), ..Default::default() }.is_at(host);
        for (wish, host, is) in [
            ("", "a:80", true),
            ("a:80", "a:80", true),
            ("a", "a:80", true),
            ("a", "aa:80", false),
            ("a:8", "a:80", false),
            ("[::1]", "[::1]:80", true),
            ("[:", "[::1]:80", false),
        ] {
            assert_eq!(at(wish, host), is, "{wish} {host}");
        }
    }
}
