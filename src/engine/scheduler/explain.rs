//! Why something does not run now.

use crate::engine::explanation::{Explanation, Wait, WaitReason};
use crate::engine::queue::Hold;
use crate::engine::queue::task;
use crate::engine::scheduler::Scheduler;
use crate::limits::Blocked;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::JobState;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::LaneNumber;

/// Lanes that an explanation of a whole job looks at.
const LANES_MAX: usize = 1000;

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
        for (index, lane) in tasks {
            let own = self.queue.wait_of(TaskId { job, index: *index }).map(task_wait);
            if let Some(wait) = own.or_else(|| self.lane_wait(job, *lane)) {
                explanation.tasks.insert(*index, wait);
            }
        }
        if tasks.is_empty() {
            explanation.lanes = self.lane_waits(job);
        }
        explanation
    }

    fn lane_waits(&self, job: JobId) -> Vec<(Wait, u32)> {
        let mut waits: Vec<(Wait, u32)> = Vec::new();
        for (number, _, count) in self.queue.busy_lanes(job, LANES_MAX) {
            let Some(wait) = self.lane_wait(job, number) else { continue };
            match waits.iter_mut().find(|(other, _)| other.reason == wait.reason) {
                Some((_, total)) => *total += count as u32,
                None => waits.push((wait, count as u32)),
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
            return wait(WaitReason::JobPaused, None, "the job is paused; call ResumeJob to go on");
        }
        let start = run.job.spec.start_time.filter(|start| *start > now)?;
        wait(WaitReason::StartTime, Some(start), "the job's `start_time` has not come yet")
    }

    fn lane_wait(&self, job: JobId, lane: LaneNumber) -> Option<Wait> {
        let run = self.jobs.get(job)?;
        if let Some(wait) = self.queue.lane_wait(job, lane) {
            return Some(task_wait(wait));
        }
        let wait = |reason, until, message| Some(Wait { reason, until, message });
        match self.queue.hold(job, lane) {
            Hold::Job => None,
            Hold::Cap => {
                let cap = run.job.spec.group.max_concurrency;
                let message = format!("{cap} tasks of the job run, as many as its `max_concurrency` allows");
                wait(WaitReason::JobLimit, None, message)
            }
            Hold::Rate => {
                let until = run.rates_allow(self.now()).err();
                wait(WaitReason::RateLimit, until, "the job's `requests_per_second` is used up".to_owned())
            }
            Hold::Tenant => wait(WaitReason::TenantLimit, None, self.tenant_limit(run.job.tenant.no)),
            Hold::Host | Hold::Turn => self.host_wait(self.queue.host_of(job, lane)?, run.job.tenant.no),
        }
    }

    fn host_wait(&self, host: &Host, tenant: TenantNo) -> Option<Wait> {
        let limits = self.runner.hosts.limits();
        let wait = |reason, until, message| Some(Wait { reason, until, message });
        match self.runner.hosts.check(host, tenant) {
            Err(Blocked::Full) => {
                let max = self.runner.hosts.max_concurrent(host);
                let message = format!("`{host}` has as many requests as it may have (at most {max})");
                wait(WaitReason::HostLimit, None, message)
            }
            Err(Blocked::Share) => {
                let message = format!("the tenant has as many requests to `{host}` as its `running_per_host` allows");
                wait(WaitReason::TenantLimit, None, message)
            }
            Err(Blocked::Rate(until)) => {
                wait(WaitReason::RateLimit, Some(until), format!("the rate of requests to `{host}` is used up"))
            }
            Err(Blocked::Paused(until)) => {
                wait(WaitReason::HostPaused, Some(until), self.runner.hosts.explain_pause(host, tenant, until))
            }
            Ok(()) if !self.runner.hosts.has_place() => {
                let max = limits.max_concurrent_tasks;
                wait(WaitReason::ServerLimit, None, format!("{max} tasks run, as many as the server allows"))
            }
            Ok(()) => None,
        }
    }
}

fn task_wait(wait: &task::Wait) -> Wait {
    match wait {
        task::Wait::Backoff(due) => Wait {
            reason: WaitReason::BackingOff,
            until: Some(*due),
            message: "its next attempt is not due yet".to_owned(),
        },
        task::Wait::Host { until, message, .. } => {
            Wait { reason: WaitReason::HostPaused, until: Some(*until), message: message.clone() }
        }
        task::Wait::Disk { message, .. } => {
            Wait { reason: WaitReason::DiskSpace, until: None, message: message.clone() }
        }
    }
}
