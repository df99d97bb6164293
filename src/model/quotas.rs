//! What a tenant may have. Pure: the values, and which of them a change would exceed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;
use crate::model::time::Timestamp;

/// What a tenant may have at most. `None`: no limit; 0: none allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Jobs that have not ended.
    #[serde(skip_serializing_if = "is_default")]
    pub unfinished_jobs: Option<u32>,
    /// Tasks that have not ended, those that run among them: so one that is given back exceeds nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub queued_tasks: Option<u64>,
    /// Tasks that run at once.
    #[serde(skip_serializing_if = "is_default")]
    pub running_tasks: Option<u32>,
    /// Requests in flight to one host.
    #[serde(skip_serializing_if = "is_default")]
    pub running_per_host: Option<u32>,
    /// Starts of requests per second; more than 0.
    #[serde(skip_serializing_if = "is_default")]
    pub requests_per_second: Option<f64>,
    /// Bytes of response bodies per second; more than 0.
    #[serde(skip_serializing_if = "is_default")]
    pub bytes_per_second: Option<u64>,
    /// Bytes that its jobs keep.
    #[serde(skip_serializing_if = "is_default")]
    pub stored_bytes: Option<u64>,
    /// The longest time for which an ended job is kept, also where it says nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub max_retention: Option<Duration>,
    /// The longest time of one attempt, also where a task says nothing; more than 0.
    #[serde(skip_serializing_if = "is_default")]
    pub max_attempt: Option<Duration>,
    /// Calls per second; more than 0.
    #[serde(skip_serializing_if = "is_default")]
    pub calls_per_second: Option<f64>,
    /// Watches that are open at once.
    #[serde(skip_serializing_if = "is_default")]
    pub watchers: Option<u32>,
    /// Tasks that are added per second; more than 0.
    #[serde(skip_serializing_if = "is_default")]
    pub tasks_per_second: Option<f64>,
}

/// One of the quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Those of `Quotas`.
pub enum Quota {
    UnfinishedJobs,
    QueuedTasks,
    RunningTasks,
    RunningPerHost,
    RequestsPerSecond,
    BytesPerSecond,
    StoredBytes,
    MaxRetention,
    MaxAttempt,
    CallsPerSecond,
    Watchers,
    TasksPerSecond,
}

/// What a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs that have not ended.
    pub unfinished_jobs: u64,
    /// Tasks that have not ended.
    pub queued_tasks: u64,
    /// Tasks that run.
    pub running_tasks: u64,
    /// Bytes that its jobs keep, and that running tasks may add.
    pub stored_bytes: u64,
}

impl Quota {
    /// All of them, in the order of the contract.
    pub const ALL: [Quota; 12] = [
        Self::UnfinishedJobs,
        Self::QueuedTasks,
        Self::RunningTasks,
        Self::RunningPerHost,
        Self::RequestsPerSecond,
        Self::BytesPerSecond,
        Self::StoredBytes,
        Self::MaxRetention,
        Self::MaxAttempt,
        Self::CallsPerSecond,
        Self::Watchers,
        Self::TasksPerSecond,
    ];

    /// Returns the name of its field.
    pub fn name(self) -> &'static str {
        match self {
            Quota::UnfinishedJobs => "unfinished_jobs",
            Quota::QueuedTasks => "queued_tasks",
            Quota::RunningTasks => "running_tasks",
            Quota::RunningPerHost => "running_per_host",
            Quota::RequestsPerSecond => "requests_per_second",
            Quota::BytesPerSecond => "bytes_per_second",
            Quota::StoredBytes => "stored_bytes",
            Quota::MaxRetention => "max_retention",
            Quota::MaxAttempt => "max_attempt",
            Quota::CallsPerSecond => "calls_per_second",
            Quota::Watchers => "watchers",
            Quota::TasksPerSecond => "tasks_per_second",
        }
    }

    /// Returns the quota whose field has this name.
    pub fn named(name: &str) -> Option<Quota> {
        Quota::ALL.into_iter().find(|quota| quota.name() == name)
    }
}

impl Quotas {
    /// Takes one quota over from `other`.
    pub fn take(&mut self, quota: Quota, other: &Quotas) {
        match quota {
            Quota::UnfinishedJobs => self.unfinished_jobs = other.unfinished_jobs,
            Quota::QueuedTasks => self.queued_tasks = other.queued_tasks,
            Quota::RunningTasks => self.running_tasks = other.running_tasks,
            Quota::RunningPerHost => self.running_per_host = other.running_per_host,
            Quota::RequestsPerSecond => self.requests_per_second = other.requests_per_second,
            Quota::BytesPerSecond => self.bytes_per_second = other.bytes_per_second,
            Quota::StoredBytes => self.stored_bytes = other.stored_bytes,
            Quota::MaxRetention => self.max_retention = other.max_retention,
            Quota::MaxAttempt => self.max_attempt = other.max_attempt,
            Quota::CallsPerSecond => self.calls_per_second = other.calls_per_second,
            Quota::Watchers => self.watchers = other.watchers,
            Quota::TasksPerSecond => self.tasks_per_second = other.tasks_per_second,
        }
    }

    /// Returns the quota that would be exceeded by what is `more` beside what there `is`, with its value. Who adds nothing of
    /// a kind exceeds nothing of it, also where there is more than it may have by now.
    pub fn exceeded(&self, is: Usage, more: Usage) -> Option<(Quota, u64)> {
        let jobs =
            (Quota::UnfinishedJobs, self.unfinished_jobs.map(u64::from), is.unfinished_jobs, more.unfinished_jobs);
        let tasks = (Quota::QueuedTasks, self.queued_tasks, is.queued_tasks, more.queued_tasks);
        let mut all = [jobs, tasks].into_iter();
        all.find_map(|(quota, most, is, more)| {
            most.filter(|most| more > 0 && is.saturating_add(more) > *most).map(|most| (quota, most))
        })
    }
}

/// What is left of a rate: one second's worth may be used at once. What is more in one piece is taken when all of that is left,
/// and then owed. Pure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    left: f64,
    at: Timestamp,
}

impl Allowance {
    /// Returns a whole one, as it is at `now`.
    pub fn whole(rate: f64, now: Timestamp) -> Allowance {
        Allowance { left: burst(rate), at: now }
    }

    /// Takes so many of `rate` a second. None at all may always be taken, also while some are owed.
    ///
    /// # Errors
    ///
    /// How long to wait until so many can be taken; nothing was.
    pub fn take(&mut self, rate: f64, count: u64, now: Timestamp) -> Result<(), Duration> {
        if count == 0 {
            return Ok(());
        }
        let most = burst(rate);
        self.left = (self.left + now.since(self.at).as_secs_f64() * rate).min(most);
        self.at = now;
        let needed = (count as f64).min(most);
        // Sums of parts of seconds are not exact.
        if self.left + 1e-6 < needed {
            return Err(Duration::try_from_secs_f64((needed - self.left) / rate).unwrap_or(Duration::MAX));
        }
        self.left -= count as f64;
        Ok(())
    }

    /// Gives back what was taken for nothing.
    pub fn give_back(&mut self, rate: f64, count: u64) {
        self.left = (self.left + count as f64).min(burst(rate));
    }
}

fn burst(rate: f64) -> f64 {
    rate.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_judged_and_not_what_is_there() {
        let quotas = Quotas { unfinished_jobs: Some(2), queued_tasks: Some(10), ..Quotas::default() };
        let usage = |unfinished_jobs, queued_tasks| Usage { unfinished_jobs, queued_tasks, ..Usage::default() };
        assert_eq!(quotas.exceeded(usage(1, 5), usage(1, 5)), None);
        assert_eq!(quotas.exceeded(usage(2, 5), usage(1, 0)), Some((Quota::UnfinishedJobs, 2)));
        assert_eq!(quotas.exceeded(usage(1, 5), usage(0, 6)), Some((Quota::QueuedTasks, 10)));
        assert_eq!(quotas.exceeded(usage(9, 99), usage(0, 0)), None, "a quota was lowered below what there is");
        assert_eq!(quotas.exceeded(usage(9, 0), usage(0, 1)), None);
        assert_eq!(Quotas::default().exceeded(usage(9, u64::MAX), usage(1, 1)), None);
        assert_eq!(Quotas { queued_tasks: Some(0), ..Quotas::default() }.exceeded(usage(0, 0), usage(1, 0)), None);
    }

    #[test]
    fn an_allowance_is_one_second_of_its_rate_and_what_is_owed_is_waited_for() {
        let at = |seconds: f64| Timestamp((seconds * 1e6) as i64);
        let mut two = Allowance::whole(2.0, at(1.0));
        assert_eq!(two.take(2.0, 0, at(1.0)), Ok(()));
        assert_eq!((two.take(2.0, 1, at(1.0)), two.take(2.0, 1, at(1.0))), (Ok(()), Ok(())));
        assert_eq!(two.take(2.0, 1, at(1.0)), Err(Duration::from_millis(500)));
        assert_eq!(two.take(2.0, 10, at(1.5)), Err(Duration::from_millis(500)), "more than it ever has waits for all");
        assert_eq!(two.take(2.0, 10, at(2.0)), Ok(()));
        assert_eq!(two.take(2.0, 1, at(2.0)), Err(Duration::from_millis(4_500)), "and the next one for what is owed");
        assert_eq!(two.take(2.0, 0, at(2.0)), Ok(()));
        two.give_back(2.0, 10);
        assert_eq!(two.take(2.0, 2, at(2.0)), Ok(()), "what was for nothing is not owed");
        let mut slow = Allowance::whole(0.1, at(0.0));
        assert_eq!(slow.take(0.1, 1, at(0.0)), Ok(()), "one at a time, however seldom");
        assert_eq!(slow.take(0.1, 1, at(0.0)), Err(Duration::from_secs(10)));
        let mut back = Allowance::whole(1.0, at(9.0));
        assert_eq!(back.take(1.0, 1, at(9.0)), Ok(()));
        assert_eq!(back.take(1.0, 1, at(5.0)), Err(Duration::from_secs(1)), "a clock that goes back gives nothing");
    }

    #[test]
    fn each_is_found_by_its_name_and_taken_alone() {
        let all = Quotas {
            unfinished_jobs: Some(1),
            queued_tasks: Some(2),
            running_tasks: Some(3),
            running_per_host: Some(4),
            requests_per_second: Some(5.0),
            bytes_per_second: Some(6),
            stored_bytes: Some(7),
            max_retention: Some(Duration::from_secs(8)),
            max_attempt: Some(Duration::from_secs(9)),
            calls_per_second: Some(10.0),
            watchers: Some(11),
            tasks_per_second: Some(12.0),
        };
        let mut taken = Quotas::default();
        for quota in Quota::ALL {
            assert_eq!(Quota::named(quota.name()), Some(quota));
            assert_ne!(taken, all);
            taken.take(quota, &all);
        }
        assert_eq!(taken, all);
        assert_eq!(Quota::named("stored"), None);
    }
}
