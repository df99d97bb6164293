//! What others ask about the queue. Nothing here changes where a task is.

use std::collections::BTreeSet;

use crate::engine::queue::Queue;
use crate::engine::queue::rotation::Hold;
use crate::engine::queue::task::{Held, HeldBack, Running, Wait};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::outcome::ShortOf;
use crate::model::tenant::{Parties, TenantNo};
use crate::store::LaneNumber;

/// What a lane has.
#[derive(Debug)]
pub(crate) struct LaneLook<'a> {
    pub(crate) number: LaneNumber,
    pub(crate) host: &'a Host,
    /// Its tasks that wait for their turn, as far as is known.
    pub(crate) weight: u64,
    /// Tasks in memory that wait for something of their own.
    pub(crate) held_back: u64,
}

impl Queue {
    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Running tasks in all.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// A running task, to note what it has reached.
    pub(crate) fn running_task_mut(&mut self, id: TaskId) -> Option<&mut Running> {
        self.running.get_mut(&id)
    }

    /// How many tasks of a tenant run.
    pub(crate) fn running_of_tenant(&self, tenant: TenantNo) -> u32 {
        self.rotation.running_of(tenant)
    }

    /// Whether a tenant leaves the places that are free to others.
    pub(crate) fn is_held_back(&self, tenant: TenantNo) -> bool {
        self.rotation.is_held_back(tenant)
    }

    /// All running tasks.
    pub(crate) fn all_running(&self) -> impl Iterator<Item = &Running> {
        self.running.values()
    }

    /// The running tasks of a job.
    pub(crate) fn running_of(&self, job: JobId) -> impl Iterator<Item = &Running> {
        let held = self.jobs.get(&job).map(|queue| &queue.held);
        let running = held.into_iter().flatten().filter(|(_, held)| **held == Held::Running);
        running.filter_map(move |(index, _)| self.running.get(&TaskId { job, index: *index }))
    }

    /// The indexes and lanes of the running tasks of a job.
    pub(crate) fn running_places(&self, job: JobId) -> impl Iterator<Item = (TaskIndex, LaneNumber)> {
        let held = self.jobs.get(&job).map(|queue| &queue.held);
        let running = held.into_iter().flatten().filter(|(_, held)| **held == Held::Running);
        running.filter_map(move |(index, _)| Some((*index, self.running.get(&TaskId { job, index: *index })?.lane)))
    }

    /// The tasks that wait for the end of the pause of `host`.
    pub(crate) fn waiting_for_pause(&self, host: &Host) -> Vec<TaskId> {
        let is_of =
            |waiting: &HeldBack| matches!(&waiting.wait, Wait::Host { host: Some(paused), .. } if paused == host);
        self.waiting_for_hosts.iter().filter(|(_, waiting)| is_of(waiting)).map(|(entry, _)| entry.id).collect()
    }

    /// What a task waits for, if it waits for something of its own.
    pub(crate) fn wait_of(&self, id: TaskId) -> Option<&Wait> {
        match *self.jobs.get(&id.job)?.held.get(&id.index)? {
            Held::Backoff(entry) => self.backoffs.get(&entry).map(|waiting| &waiting.wait),
            held => self.held_back(id, held).map(|held_back| &held_back.wait),
        }
    }

    /// What holds back a lane whose tasks all wait for the same.
    pub(crate) fn lane_wait(&self, job: JobId, lane: LaneNumber) -> Option<&Wait> {
        let lane = self.jobs.get(&job)?.lanes.get(lane as usize)?;
        let first = lane.held_back.first().filter(|_| lane.held_back.len() >= self.held_back_max())?;
        self.wait_of(TaskId { job, index: *first })
    }

    /// What holds a lane with work.
    pub(crate) fn hold(&self, job: JobId, lane: LaneNumber) -> Hold {
        self.rotation.hold(job, lane)
    }

    /// The host of a lane.
    pub(crate) fn host_of(&self, job: JobId, lane: LaneNumber) -> Option<&Host> {
        Some(&self.jobs.get(&job)?.lanes.get(lane as usize)?.host)
    }

    /// The first `limit` lanes of a job that have work, each with its host and how many of its tasks wait, as far as is known.
    pub(crate) fn busy_lanes(&self, job: JobId, limit: usize) -> impl Iterator<Item = (LaneNumber, &Host, u32)> {
        let lanes = self.jobs.get(&job).into_iter().flat_map(|queue| queue.lanes.iter().enumerate());
        let busy = lanes.take(limit).filter(|(_, lane)| lane.next().is_some() || lane.has_more_in_store());
        busy.map(|(number, lane)| (number as LaneNumber, &lane.host, lane.waiting().max(1)))
    }

    /// Looks at the first `limit` lanes of a job.
    pub(crate) fn lane_looks(&self, job: JobId, limit: usize) -> impl Iterator<Item = LaneLook<'_>> {
        let lanes = self.jobs.get(&job).into_iter().flat_map(|queue| queue.lanes.iter().enumerate());
        lanes.take(limit).map(|(number, lane)| LaneLook {
            number: number as LaneNumber,
            host: &lane.host,
            weight: if lane.next().is_some() || lane.has_more_in_store() {
                u64::from(lane.waiting().max(1))
            } else {
                0
            },
            held_back: lane.held_back.len() as u64,
        })
    }

    /// How many tasks in memory wait for room on the disk, or within what their tenants may store.
    pub(crate) fn held_for_room(&self, of: ShortOf) -> u64 {
        let is_it = |held: &&HeldBack| matches!(&held.wait, Wait::Disk { of: it, .. } if *it == of);
        self.waiting_for_disk.values().filter(is_it).count() as u64
    }

    /// How many tasks in memory wait for the end of the pause of a host, which began when they had started.
    pub(crate) fn held_for_hosts(&self) -> u64 {
        self.waiting_for_hosts.len() as u64
    }

    /// How many tasks of some parties wait for room at a host, as far as is known.
    pub(crate) fn waiting_at(&self, host: &Host, whose: Parties) -> u32 {
        self.rotation.waiting_at(host, whose)
    }

    /// `host` may have room for so many more requests.
    pub(crate) fn wake_host(&mut self, host: &Host, room: usize) {
        self.rotation.wake_host(host, room);
    }

    /// The hosts at which lanes wait, in the order of their names.
    pub(crate) fn hosts_waited_for(&self) -> BTreeSet<Host> {
        self.rotation.hosts_waited_for()
    }

    /// All lanes that are parked at `host` now may look again: a few at a time, with [`Queue::wake_more`].
    pub(crate) fn wake_all(&mut self, host: &Host) {
        self.rotation.wake_all(host);
    }

    /// Lets more of those lanes look, in at most `steps` steps.
    pub(crate) fn wake_more(&mut self, steps: usize) {
        self.rotation.wake_more(steps);
    }

    /// Whether there are lanes for [`Queue::wake_more`].
    pub(crate) fn has_to_wake(&self) -> bool {
        self.rotation.has_to_wake()
    }
}
