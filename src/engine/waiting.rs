//! Why something does not run now.

use std::collections::HashMap;

use crate::engine::lanes::Hold;
use crate::engine::scheduler::Scheduler;
use crate::engine::state::Shelf;
use crate::limits::Blocked;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::JobState;
use crate::model::task::TaskState;
use crate::model::time::Timestamp;

/// What a task waits for, as the contract names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The contract's names.
pub enum WaitReason {
    ServerLimit,
    HostLimit,
    JobLimit,
    RateLimit,
    HostPaused,
    BackingOff,
    StartTime,
    JobPaused,
    DiskSpace,
    Draining,
}

/// Why, until when where that is known, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub reason: WaitReason,
    /// Until when.
    pub until: Option<Timestamp>,
    /// For a person.
    pub message: String,
}

/// Why the waiting tasks of a job do not run.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// What holds the whole job.
    job: Option<Wait>,
    /// What holds the tasks for a host.
    hosts: HashMap<Host, Wait>,
    /// Tasks that were given back to wait for something of their own.
    shelved: HashMap<TaskIndex, Wait>,
    /// Reasons over all lanes that have work, each with how many tasks of them are in memory.
    pub lanes: Vec<(Wait, u32)>,
}

impl Explanation {
    /// Why a waiting task does not run; `None` when it is about to.
    pub fn task(
        &self,
        index: TaskIndex,
        host: Option<&Host>,
        state: TaskState,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Wait> {
        if let Some(wait) = &self.job {
            return Some(wait.clone());
        }
        if let Some(wait) = self.shelved.get(&index) {
            return Some(wait.clone());
        }
        if state == TaskState::BackingOff && due.is_some_and(|due| due > now) {
            return Some(Wait {
                reason: WaitReason::BackingOff,
                until: due,
                message: "its next attempt is not due yet".into(),
            });
        }
        host.and_then(|host| self.hosts.get(host)).cloned()
    }

    /// What holds the whole job.
    pub fn job(&self) -> Option<&Wait> {
        self.job.as_ref()
    }
}

/// Lanes that an explanation of a whole job looks at.
const LANES_MAX: usize = 1000;

impl Scheduler {
    pub(crate) fn explain(&self, job: JobId, hosts: &[Host]) -> Explanation {
        let now = self.now();
        let Some(run) = self.jobs.get(&job) else { return Explanation::default() };
        let mut explanation = Explanation { job: self.job_wait(job, now), ..Explanation::default() };
        for (id, waiting) in self.waiting.iter().filter(|(id, _)| id.job == job) {
            if let Some(shelf) = &waiting.shelf {
                explanation.shelved.insert(id.index, shelf_wait(shelf));
            }
        }
        for host in hosts {
            if let Some(wait) = run.lane_of.get(host).and_then(|lane| self.lane_wait(job, *lane, host)) {
                explanation.hosts.insert(host.clone(), wait);
            }
        }
        if hosts.is_empty() {
            explanation.lanes = self.lane_waits(job);
        }
        explanation
    }

    fn lane_waits(&self, job: JobId) -> Vec<(Wait, u32)> {
        let Some(run) = self.jobs.get(&job) else { return Vec::new() };
        let mut waits: Vec<(Wait, u32)> = Vec::new();
        for (number, lane) in run.lanes.iter().enumerate().filter(|(_, lane)| lane.has_work()).take(LANES_MAX) {
            let Some(wait) = self.lane_wait(job, number as u32, &lane.host) else { continue };
            let count = (lane.again.len() + lane.page.len()) as u32;
            match waits.iter_mut().find(|(other, _)| other.reason == wait.reason) {
                Some((_, total)) => *total += count,
                None => waits.push((wait, count)),
            }
        }
        waits
    }

    fn job_wait(&self, job: JobId, now: Timestamp) -> Option<Wait> {
        let run = self.jobs.get(&job)?;
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

    fn lane_wait(&self, job: JobId, lane: u32, host: &Host) -> Option<Wait> {
        let run = self.jobs.get(&job)?;
        let held = run.lanes.get(lane as usize).filter(|lane| lane.is_held());
        if let Some(index) = held.and_then(|lane| lane.shelved.first().copied()) {
            // What holds those before it.
            return self.waiting.get(&TaskId { job, index })?.shelf.as_ref().map(shelf_wait);
        }
        let limits = self.runner.hosts.limits();
        let wait = |reason, until, message| Some(Wait { reason, until, message });
        match self.lanes.hold(job, lane) {
            Hold::Job => None,
            Hold::Cap => {
                let cap = run.job.spec.group.max_concurrency;
                wait(
                    WaitReason::JobLimit,
                    None,
                    format!("{cap} tasks of the job run, as many as its `max_concurrency` allows"),
                )
            }
            Hold::Rate => {
                let until = run.rates.check(self.now()).err();
                wait(WaitReason::RateLimit, until, "the job's `requests_per_second` is used up".to_owned())
            }
            Hold::Host | Hold::Turn => match self.runner.hosts.check(host) {
                Err(Blocked::Full) => {
                    let max = self.runner.hosts.max_concurrent(host);
                    wait(
                        WaitReason::HostLimit,
                        None,
                        format!("`{host}` has as many requests as it may have (at most {max})"),
                    )
                }
                Err(Blocked::Rate(until)) => {
                    wait(WaitReason::RateLimit, Some(until), format!("the rate of requests to `{host}` is used up"))
                }
                Err(Blocked::Paused(until)) => {
                    wait(WaitReason::HostPaused, Some(until), self.runner.hosts.explain_pause(host, until))
                }
                Ok(()) if self.running.len() >= limits.max_concurrent_tasks as usize => {
                    let max = limits.max_concurrent_tasks;
                    wait(WaitReason::ServerLimit, None, format!("{max} tasks run, as many as the server allows"))
                }
                Ok(()) => None,
            },
        }
    }

    /// How many tasks wait at a host, as far as they are in memory.
    pub(crate) fn waiting_at(&self, host: &Host) -> u32 {
        let count = |(job, lane): (JobId, u32)| {
            let lane = self.jobs.get(&job).and_then(|run| run.lanes.get(lane as usize));
            lane.map_or(0, |lane| lane.again.len() + lane.page.len())
        };
        self.lanes.parked_at(host).map(count).sum::<usize>() as u32
    }
}

fn shelf_wait(shelf: &Shelf) -> Wait {
    let (reason, message) = match shelf {
        Shelf::Disk(_) => {
            (WaitReason::DiskSpace, "the disk has not the room for it; it goes on when there is".to_owned())
        }
        Shelf::Host(_, message) => (WaitReason::HostPaused, message.clone()),
    };
    Wait { reason, until: Some(shelf.due()), message }
}
