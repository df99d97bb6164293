//! Why something does not run now.

use std::collections::HashMap;

use crate::engine::explanation::{BACKING_OFF, Explanation, JOB_PAUSED, Wait, WaitReason, as_many};
use crate::engine::queue::Hold;
use crate::engine::queue::task;
use crate::engine::scheduler::Scheduler;
use crate::limits::Blocked;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::JobState;
use crate::model::outcome::ShortOf;
use crate::model::storage::UsedUp;
use crate::model::tenant::DEFAULT_NO;
use crate::model::time::Timestamp;
use crate::store::LaneNumber;

/// Lanes that an explanation of a whole job looks at.
const LANES_MAX: usize = 1000;

/// What is said of a task that waits for another one which may have brought the server down.
const APART: &str = "tasks that ran each time the server died run one at a time, since one of them may be the cause";

impl Scheduler {
    /// Explains why `tasks` of a job do not run; without tasks, why the job does not.
    pub(super) fn explain(&self, job: JobId, tasks: &[(TaskIndex, LaneNumber)]) -> Explanation {
        let now = self.now();
        if self.jobs.get(job).is_none() {
            return Explanation::default();
        }
        let mut explanation = Explanation { job: self.job_wait(job, now), ..Explanation::default() };
        if explanation.job.is_some() {
            return explanation;
        }
        let mut of_lane: HashMap<LaneNumber, Option<Wait>> = HashMap::new();
        for (index, lane) in tasks {
            let own = self.queue.wait_of(TaskId { job, index: *index }).map(task_wait);
            let mut of_its_lane = || of_lane.entry(*lane).or_insert_with(|| self.lane_wait(job, *lane)).clone();
            if let Some(wait) = own.or_else(&mut of_its_lane) {
                explanation.tasks.insert(*index, wait);
            }
        }
        if tasks.is_empty() {
            explanation.lanes = self.lane_waits(job);
        }
        explanation
    }

    /// The text of a reason is made once, however many lanes have it.
    fn lane_waits(&self, job: JobId) -> Vec<(Wait, u32)> {
        let mut waits: Vec<(Wait, u32)> = Vec::new();
        for (number, _, count) in self.queue.busy_lanes(job, LANES_MAX) {
            let Some(why) = self.why(job, number) else { continue };
            match waits.iter_mut().find(|(other, _)| other.reason == why.reason()) {
                Some((_, total)) => *total = total.saturating_add(count),
                None => waits.push((self.told(job, why), count)),
            }
        }
        waits
    }

    fn job_wait(&self, job: JobId, now: Timestamp) -> Option<Wait> {
        let run = self.jobs.get(job)?;
        let wait = |reason, until, message: &str| Some(Wait { reason, until, message: message.to_owned() });
        if self.draining {
            return wait(WaitReason::Draining, None, "the server is shutting down; it goes on after the restart");
        }
        if run.job.state == JobState::Paused {
            return wait(WaitReason::JobPaused, None, JOB_PAUSED);
        }
        let start = run.job.spec.start_time.filter(|start| *start > now)?;
        wait(WaitReason::StartTime, Some(start), "the job's `start_time` has not come yet")
    }

    fn lane_wait(&self, job: JobId, lane: LaneNumber) -> Option<Wait> {
        self.why(job, lane).map(|why| self.told(job, why))
    }

    fn why(&self, job: JobId, lane: LaneNumber) -> Option<Why<'_>> {
        let tenant = self.jobs.get(job)?.job.tenant.no;
        if let Some(wait) = self.queue.lane_wait(job, lane) {
            return Some(Why::Task(wait));
        }
        match self.queue.hold(job, lane) {
            Hold::Job => None,
            Hold::Cap => Some(Why::Cap),
            Hold::Rate => Some(Why::JobRate),
            Hold::Tenant => Some(self.storage_used_up(tenant).map_or(Why::Tenant, Why::Storage)),
            Hold::Host | Hold::Turn => {
                let host = self.queue.host_of(job, lane)?;
                match self.runner.hosts.check(host, tenant) {
                    Err(blocked) => Some(Why::Host(host, blocked)),
                    Ok(()) if !self.runner.hosts.has_place() => Some(Why::Server),
                    Ok(()) => None,
                }
            }
        }
    }

    fn told(&self, job: JobId, why: Why<'_>) -> Wait {
        let reason = why.reason();
        let hosts = &self.runner.hosts;
        let run = self.jobs.get(job);
        let tenant = run.map_or(DEFAULT_NO, |run| run.job.tenant.no);
        let (until, message) = match why {
            Why::Task(wait) => return task_wait(wait),
            Why::Cap => {
                let cap = run.map_or(0, |run| run.job.spec.group.max_concurrency);
                (None, as_many(cap, " of the job", "its `max_concurrency` allows"))
            }
            Why::JobRate => {
                let until = run.and_then(|run| run.rates_allow(self.now()).err());
                (until, "the job's `requests_per_second` is used up".to_owned())
            }
            Why::Host(host, Blocked::Full) => {
                let max = hosts.max_concurrent(host);
                (None, format!("`{host}` has as many requests as it may have (at most {max})"))
            }
            Why::Tenant => (None, self.tenant_limit(tenant)),
            Why::Storage(used_up) => (None, format!("{used_up}; delete jobs, or ask for a larger quota")),
            Why::Host(host, Blocked::Share) => {
                (None, format!("the tenant has as many requests to `{host}` as its `running_per_host` allows"))
            }
            Why::Host(host, Blocked::LeftToOthers) => {
                let max = hosts.max_concurrent(host);
                (None, format!("the rest of the {max} requests that `{host}` may have is left to other tenants"))
            }
            Why::Host(host, Blocked::Rate(until)) => {
                (Some(until), format!("the rate of requests to `{host}` is used up"))
            }
            Why::Host(host, Blocked::Paused(until)) => (Some(until), hosts.explain_pause(host, tenant, until)),
            Why::Server => {
                let (allowed, possible) = (hosts.limits().max_concurrent_tasks, self.bounds.attempts);
                let by = if allowed > possible { "there are descriptors for" } else { "the server allows" };
                (None, as_many(allowed.min(possible), "", by))
            }
        };
        Wait { reason, until, message }
    }
}

/// What a lane waits for.
#[derive(Clone, Copy)]
enum Why<'a> {
    Task(&'a task::Wait),
    Cap,
    JobRate,
    Tenant,
    Storage(UsedUp),
    Host(&'a Host, Blocked),
    Server,
}

impl Why<'_> {
    fn reason(&self) -> WaitReason {
        match self {
            Why::Task(wait) => task_reason(wait),
            Why::Cap => WaitReason::JobLimit,
            Why::JobRate | Why::Host(_, Blocked::Rate(_)) => WaitReason::RateLimit,
            Why::Tenant | Why::Host(_, Blocked::Share | Blocked::LeftToOthers) => WaitReason::TenantLimit,
            Why::Storage(_) => WaitReason::TenantStorage,
            Why::Host(_, Blocked::Full) => WaitReason::HostLimit,
            Why::Host(_, Blocked::Paused(_)) => WaitReason::HostPaused,
            Why::Server => WaitReason::ServerLimit,
        }
    }
}

fn task_reason(wait: &task::Wait) -> WaitReason {
    match wait {
        task::Wait::Backoff(_) => WaitReason::BackingOff,
        task::Wait::Host { .. } => WaitReason::HostPaused,
        task::Wait::Apart(_) => WaitReason::ServerLimit,
        task::Wait::Disk { of: ShortOf::Disk, .. } => WaitReason::DiskSpace,
        task::Wait::Disk { of: ShortOf::Tenant, .. } => WaitReason::TenantStorage,
    }
}

fn task_wait(wait: &task::Wait) -> Wait {
    let (until, message) = match wait {
        task::Wait::Backoff(due) => (Some(*due), BACKING_OFF.to_owned()),
        task::Wait::Host { until, message, .. } => (Some(*until), message.clone()),
        task::Wait::Apart(until) => (Some(*until), APART.to_owned()),
        task::Wait::Disk { message, .. } => (None, message.clone()),
    };
    Wait { reason: task_reason(wait), until, message }
}
