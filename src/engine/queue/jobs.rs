//! Jobs and their lanes: who is there, and who may run.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::queue::lane::{Lane, Reading};
use crate::engine::queue::task::Held;
use crate::engine::queue::tight::push_tight;
use crate::engine::queue::{JobQueue, Misshared, Queue, Standing};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::tenant::{Party, Share, TenantNo};
use crate::store::LaneNumber;

/// Lanes of a job up to which a host is looked for one by one, which is smaller and as quick.
const FEW_LANES: usize = 8;
/// Lanes that are looked at to share out the tasks of a job, for each read that has shown that the shares were wrong.
const LANES_OF_A_LOOK: usize = 64;

impl JobQueue {
    fn lane(&self, host: &Host) -> Option<LaneNumber> {
        match &self.lane_of {
            Some(lane_of) => lane_of.get(host).copied(),
            None => self.lanes.iter().position(|lane| lane.host == *host).map(|number| number as LaneNumber),
        }
    }

    fn add_lane(&mut self, host: Host) -> LaneNumber {
        let number = self.lanes.len() as LaneNumber;
        push_tight(&mut self.lanes, Lane::new(host.clone()));
        if let Some(lane_of) = &mut self.lane_of {
            lane_of.insert(host, number);
        } else if self.lanes.len() > FEW_LANES {
            let named = self.lanes.iter().enumerate().map(|(number, lane)| (lane.host.clone(), number as LaneNumber));
            self.lane_of = Some(Box::new(named.collect()));
        }
        number
    }
}

impl Queue {
    /// Adds a job, without lanes.
    pub(crate) fn add_job(
        &mut self,
        job: JobId,
        priority: i32,
        cap: u32,
        may_run: bool,
        task_timeout: Option<Duration>,
    ) {
        self.rotation.add_job(job, priority, cap, may_run);
        self.jobs.insert(job, Box::new(JobQueue { may_run, task_timeout, ..JobQueue::default() }));
    }

    /// Says for whom a job is done.
    pub(crate) fn set_party(&mut self, job: JobId, party: Party) {
        self.rotation.set_party(job, party);
    }

    /// Forgets a job and every task of it that is in memory.
    pub(crate) fn remove_job(&mut self, job: JobId) {
        self.drop_waiting(job);
        if let Some(queue) = self.jobs.remove(&job) {
            self.lanes -= queue.lanes.len();
            for index in queue.held.into_keys() {
                self.running.remove(&TaskId { job, index });
            }
        }
        self.rotation.remove_job(job);
    }

    /// The lane of `job` for `host`, and whether it was made by this call. `None` if the queue does not know the job.
    pub(crate) fn lane_for(&mut self, job: JobId, host: &Host) -> Option<(LaneNumber, bool)> {
        let queue = self.jobs.get_mut(&job)?;
        if let Some(number) = queue.lane(host) {
            return Some((number, false));
        }
        let number = queue.add_lane(host.clone());
        self.lanes += 1;
        self.rotation.add_lane(job, host.clone());
        Some((number, true))
    }

    /// Adds the next lane of a job as the store has it: none of its tasks before `head` is PENDING, and `total` tasks are
    /// there in all.
    pub(crate) fn restore_lane(&mut self, job: JobId, host: Host, head: TaskIndex, total: TaskIndex) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let number = queue.add_lane(host.clone());
        let lane = &mut queue.lanes[number as usize];
        (lane.stored_head, lane.disk_from, lane.disk_to) = (head, head, total.max(head));
        self.lanes += 1;
        self.rotation.add_lane(job, host);
        self.refresh(job, number);
    }

    /// Notes that so many tasks of a job are PENDING, of which the store alone knows the lanes. Those that memory does not have are
    /// shared out by what was counted for each lane, and where they are more than that by how far the lanes reach.
    pub(crate) fn share_out(&mut self, job: JobId, pending: u32) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let known: usize = queue.lanes.iter().map(|lane| lane.queued() + lane.held_back.len()).sum();
        let reach: u64 = queue.lanes.iter().map(|lane| u64::from(lane.reach())).sum();
        let counted: u64 = queue.lanes.iter().map(|lane| u64::from(lane.counted())).sum();
        let left = u64::from(pending).saturating_sub(known as u64).min(reach);
        let is_counted = counted >= left && counted > 0;
        let all = if is_counted { counted } else { reach };
        let (mut reached, mut given) = (0, 0);
        for (number, lane) in queue.lanes.iter_mut().enumerate() {
            reached += u64::from(if is_counted { lane.counted() } else { lane.reach() });
            // Rounded so that all shares are the whole.
            let until = u128::from(left) * u128::from(reached) / u128::from(all.max(1));
            let until = u64::try_from(until).unwrap_or(left);
            lane.stored = u32::try_from(until - given).unwrap_or(u32::MAX);
            given = until;
            self.rotation.set_waiting(job, number as LaneNumber, lane.waiting());
        }
        queue.misshared = Misshared::default();
    }

    /// Notes that a lane was counted for so many tasks more than it has. All shares are made anew once that was so for a number of
    /// lanes that is some part of those of the job: it takes a look at each of them.
    pub(super) fn share_was_wrong(&mut self, job: JobId, by: i64) {
        let Some(queue) = self.jobs.get_mut(&job).filter(|_| by != 0) else { return };
        queue.misshared.tasks += by;
        queue.misshared.reads += 1;
        if queue.misshared.reads as usize * LANES_OF_A_LOOK < queue.lanes.len() {
            return;
        }
        let known = queue.lanes.iter().map(|lane| u64::from(lane.waiting()) + lane.held_back.len() as u64).sum::<u64>();
        let pending = known.saturating_add_signed(queue.misshared.tasks);
        self.share_out(job, u32::try_from(pending).unwrap_or(u32::MAX));
    }

    /// How many lanes a job has.
    pub(crate) fn lane_count(&self, job: JobId) -> usize {
        self.jobs.get(&job).map_or(0, |queue| queue.lanes.len())
    }

    /// Sets whether a job may run. The pages of one that may not are dropped: the store has them.
    pub(crate) fn set_may_run(&mut self, job: JobId, may_run: bool) {
        self.rotation.set_may_run(job, may_run);
        let Some(queue) = self.jobs.get_mut(&job).filter(|queue| queue.may_run != may_run) else { return };
        queue.may_run = may_run;
        if may_run {
            return;
        }
        let lanes = queue.lanes.len();
        let again = queue.lanes.iter().flat_map(|lane| lane.again.values());
        self.stopped.extend(again.map(|task| (task.batch, TaskId { job, index: task.index })));
        for number in 0..lanes {
            self.unload(job, number as LaneNumber);
        }
    }

    /// See `Rotation::set_standing`.
    pub(crate) fn set_standing(&mut self, standing: Standing) {
        self.rotation.set_standing(standing);
    }

    /// See `Rotation::set_shares`.
    pub(crate) fn set_shares(&mut self, shares: HashMap<TenantNo, Share>) {
        self.rotation.set_shares(shares);
    }

    /// See `Rotation::set_left`.
    pub(crate) fn set_left(&mut self, left: Option<u32>) {
        self.rotation.set_left(left);
    }

    /// See `Rotation::set_idle`.
    pub(crate) fn set_idle(&mut self, tenant: TenantNo, idle: u32) {
        self.rotation.set_idle(tenant, idle);
    }

    /// See `Rotation::set_tenant_resting`.
    pub(crate) fn set_tenant_resting(&mut self, tenant: TenantNo, is_resting: bool) {
        self.rotation.set_tenant_resting(tenant, is_resting);
    }

    /// See `Rotation::set_resting`.
    pub(crate) fn set_resting(&mut self, job: JobId, resting: bool) {
        self.rotation.set_resting(job, resting);
    }

    /// Changes how a job is chosen.
    pub(crate) fn set_order(&mut self, job: JobId, priority: i32, cap: u32) {
        self.rotation.set_priority(job, priority);
        self.rotation.set_cap(job, cap);
        self.rotation.set_resting(job, false);
    }

    /// Drops every task of a job that waits, because all of them are about to be ended in the store. Running ones stay.
    pub(crate) fn stop_job(&mut self, job: JobId) {
        self.rotation.set_may_run(job, false);
        self.drop_waiting(job);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.may_run = false;
            queue.is_stopped = true;
            for (number, lane) in queue.lanes.iter_mut().enumerate() {
                lane.disk_from = lane.disk_to;
                lane.stored = 0;
                lane.reading = Reading::Idle;
                self.rotation.set_waiting(job, number as LaneNumber, lane.waiting());
            }
        }
    }

    fn drop_waiting(&mut self, job: JobId) {
        let Some(queue) = self.jobs.get(&job) else { return };
        let lanes = queue.lanes.len();
        let held: Vec<TaskIndex> = queue
            .held
            .iter()
            .filter(|(_, held)| !matches!(held, Held::Running | Held::Leaving(_)))
            .map(|(index, _)| *index)
            .collect();
        for index in held {
            self.take(TaskId { job, index });
        }
        for number in 0..lanes {
            self.unload(job, number as LaneNumber);
        }
    }
}
