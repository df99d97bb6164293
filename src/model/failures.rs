//! What went wrong in a job, counted by kind: a table that stays small however many of its tasks fail.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::model::failure::{FailureReason, TaskError, is_default};
use crate::model::ids::TaskIndex;

/// The most kinds that are counted apart; more are counted together.
const KINDS_MAX: usize = 50;
/// The most tasks that are named for one kind.
const SAMPLES_MAX: usize = 5;
/// The most bytes of the message that is kept of one kind.
const MESSAGE_BYTES_MAX: usize = 256;

/// How many tasks failed for the same reason, with the same status, at the same host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureCount {
    /// The class; `None`: tasks of kinds beyond those that are counted apart.
    #[serde(skip_serializing_if = "is_default")]
    pub reason: Option<FailureReason>,
    /// The status, where a response was the reason; else 0.
    #[serde(skip_serializing_if = "is_default")]
    pub http_status: u16,
    /// The host of the URL that failed, as `name:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// How many tasks.
    pub count: u32,
    /// The first of them, by index.
    #[serde(skip_serializing_if = "is_default")]
    pub samples: Vec<TaskIndex>,
    /// The message of the one that came first.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
}

/// Some tasks that failed for the same reason, with the same status, at the same host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alike {
    /// The class; `None` where it is not known.
    pub reason: Option<FailureReason>,
    /// The status, where a response was the reason; else 0.
    pub http_status: u16,
    /// The host of the URL that failed, as `name:port`.
    pub host: String,
    /// Which tasks.
    pub tasks: Vec<TaskIndex>,
}

/// The tasks of a job that are FAILED, counted by kind. Cheap to clone, since a job is cloned with each commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failures(Arc<Vec<FailureCount>>);

impl Default for Failures {
    /// None, which all jobs share that have none.
    fn default() -> Self {
        static NONE: LazyLock<Arc<Vec<FailureCount>>> = LazyLock::new(Arc::default);
        Failures(NONE.clone())
    }
}

impl Failures {
    /// Counts a task that failed.
    pub fn note(&mut self, task: TaskIndex, error: &TaskError, host: &str) {
        let place = self.place(error.reason, error.http_status, host).unwrap_or_else(|| self.new_kind(error, host));
        let kind = &mut Arc::make_mut(&mut self.0)[place];
        kind.count += 1;
        let at = kind.samples.partition_point(|sample| *sample < task);
        kind.samples.insert(at, task);
        kind.samples.truncate(SAMPLES_MAX);
    }

    /// Takes back what [`Failures::note`] counted of some tasks, because they run again. Of the kind's other tasks at most those
    /// stay named that were.
    pub fn forget(&mut self, alike: &Alike) {
        let Alike { reason, http_status, host, tasks } = alike;
        let mut left = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let own = reason.and_then(|reason| self.place(reason, *http_status, host));
        // Some may have been counted with the rest, before there was a place for their kind.
        for place in own.into_iter().chain(self.0.iter().position(|it| it.reason.is_none())) {
            let kind = &mut Arc::make_mut(&mut self.0)[place];
            let taken = left.min(kind.count);
            kind.count -= taken;
            left -= taken;
            kind.samples.retain(|sample| !tasks.contains(sample));
        }
        if self.0.iter().any(|kind| kind.count == 0) {
            Arc::make_mut(&mut self.0).retain(|kind| kind.count > 0);
        }
    }

    /// Returns how many tasks failed.
    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, kind| sum.saturating_add(kind.count))
    }

    fn place(&self, reason: FailureReason, http_status: u16, host: &str) -> Option<usize> {
        let is_it = |it: &FailureCount| it.reason == Some(reason) && it.http_status == http_status && it.host == host;
        self.0.iter().position(is_it)
    }

    /// Returns the place of a kind that was not seen yet: its own, or that of the rest.
    fn new_kind(&mut self, error: &TaskError, host: &str) -> usize {
        if self.0.len() >= KINDS_MAX
            && let Some(rest) = self.0.iter().position(|it| it.reason.is_none())
        {
            return rest;
        }
        let kind = if self.0.len() < KINDS_MAX {
            FailureCount {
                reason: Some(error.reason),
                http_status: error.http_status,
                host: host.to_owned(),
                message: error.message[..error.message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned(),
                ..FailureCount::default()
            }
        } else {
            FailureCount::default()
        };
        Arc::make_mut(&mut self.0).push(kind);
        self.0.len() - 1
    }

    /// Returns the kinds, the largest first and the rest last.
    pub fn by_size(&self) -> Vec<&FailureCount> {
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort_by_key(|kind| (kind.reason.is_none(), std::cmp::Reverse(kind.count)));
        kinds
    }

    /// Returns whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(http_status: u16) -> TaskError {
        crate::model::failure::Failure {
            http_status,
            ..crate::model::failure::Failure::fatal(FailureReason::HttpStatus, "no")
        }
        .into_error(1)
    }

    fn alike(http_status: u16, host: &str, tasks: &[TaskIndex]) -> Alike {
        Alike { reason: Some(FailureReason::HttpStatus), http_status, host: host.to_owned(), tasks: tasks.to_vec() }
    }

    #[test]
    fn tasks_are_counted_by_kind_with_the_first_of_each() {
        let mut failures = Failures::default();
        for task in [9, 3, 7, 1, 8, 2, 6] {
            failures.note(task, &error(404), "a:80");
        }
        failures.note(4, &error(404), "b:80");
        failures.note(5, &error(500), "a:80");
        failures.note(0, &error(500), "a:80");
        let seen: Vec<_> = failures.by_size().iter().map(|it| (it.http_status, it.host.as_str(), it.count)).collect();
        assert_eq!(seen, [(404, "a:80", 7), (500, "a:80", 2), (404, "b:80", 1)]);
        assert_eq!(failures.by_size()[0].samples, [1, 2, 3, 6, 7]);
        failures.forget(&alike(404, "a:80", &[1, 2, 3]));
        failures.forget(&alike(404, "b:80", &[4]));
        let seen: Vec<_> = failures.by_size().iter().map(|it| (it.http_status, it.host.as_str(), it.count)).collect();
        assert_eq!(seen, [(404, "a:80", 4), (500, "a:80", 2)]);
        assert_eq!(failures.by_size()[0].samples, [6, 7]);
    }

    #[test]
    fn any_number_of_kinds_stays_a_small_table_that_adds_up() {
        let mut failures = Failures::default();
        for task in 0..200 {
            failures.note(task, &error(500), &format!("host-{}:80", task % 100));
        }
        let kinds = failures.by_size();
        assert_eq!(kinds.len(), KINDS_MAX + 1);
        assert_eq!(kinds.iter().map(|kind| kind.count).sum::<u32>(), 200);
        let rest = kinds.last().unwrap();
        assert_eq!((rest.reason, rest.count, rest.samples.as_slice()), (None, 100, &[50, 51, 52, 53, 54][..]));
        for host in 0..100 {
            failures.forget(&alike(500, &format!("host-{host}:80"), &[host]));
            assert_eq!(failures.total(), 199 - host);
        }
        for host in 0..100 {
            failures.forget(&alike(500, &format!("host-{host}:80"), &[host + 100]));
        }
        assert!(failures.is_empty(), "{failures:?}");
    }

    #[test]
    fn a_kind_of_which_some_are_with_the_rest_is_forgotten_as_a_whole() {
        let mut failures = Failures::default();
        for task in 0..52 {
            failures.note(task, &error(500), &format!("host-{task}:80"));
        }
        for gone in 0..2 {
            failures.forget(&alike(500, &format!("host-{gone}:80"), &[gone]));
        }
        failures.note(60, &error(500), "host-51:80");
        assert_eq!(failures.total(), 51);
        failures.forget(&alike(500, "host-51:80", &[51, 60]));
        assert_eq!(failures.total(), 49);
        assert!(failures.by_size().iter().all(|kind| !kind.samples.contains(&51)), "{failures:?}");
    }
}
