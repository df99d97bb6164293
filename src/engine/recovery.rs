//! Start-up: what the last process left is taken in. Its size goes with unfinished jobs and running tasks.

use crate::engine::scheduler::Scheduler;
use crate::engine::timers::Timer;
use crate::model::ids::{JobId, TaskId};
use crate::model::task::{TaskEvent, TaskState};
use crate::model::time::Timestamp;
use crate::store::{Recovered, StoredTask, TaskMove};

impl Scheduler {
    /// Takes in what the store has. Attempts that a crash cut are given back; nothing has started when this returns.
    pub(crate) async fn recover(&mut self, recovered: Recovered) -> Result<(), crate::store::StoreError> {
        for job in recovered.jobs {
            self.hub.open(std::sync::Arc::new(job.clone()));
            self.enlist(job);
        }
        let mut lanes = recovered.lanes;
        lanes.sort_by_key(|(job, number, ..)| (*job, *number));
        for (job, number, host, head) in lanes {
            let Some(total) = self.jobs.get(&job).map(|run| run.job.counts.total) else { continue };
            let Some((lane, _)) = self.lane_for(job, &host) else { continue };
            debug_assert_eq!(lane, number, "lanes come in order");
            if let Some(lane) = self.jobs.get_mut(&job).and_then(|run| run.lanes.get_mut(lane as usize)) {
                (lane.disk_from, lane.stored_head, lane.disk_to) = (head, head, total);
                // Until the first batch is durable, the store does not show the cut ones as PENDING: a lane that reads
                // before it, because a task of it is due, would miss them for ever.
                lane.loading = true;
            }
        }
        for (id, attempt_start, _) in recovered.claims {
            self.recover_claim(id, attempt_start).await?;
        }
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for job in jobs {
            self.recover_job(job);
        }
        self.read_due();
        self.deleted_left = true;
        self.timers.add(self.now(), Timer::Housekeeping);
        Ok(())
    }

    async fn recover_claim(&mut self, id: TaskId, attempt_start: Timestamp) -> Result<(), crate::store::StoreError> {
        let now = self.now();
        let stored = self.runner.store.task(id).await?;
        let Some(StoredTask { spec, mut row, .. }) = stored else { return Ok(()) };
        let Some(run) = self.jobs.get_mut(&id.job) else { return Ok(()) };
        match row.task.apply(TaskEvent::Crashed, now) {
            Ok(task) => row.task = task,
            Err(wrong) => {
                tracing::error!(task = %id, "not recovered: {wrong}");
                return Ok(());
            }
        }
        tracing::info!(task = %id, since = attempt_start.0, "an attempt was cut by the end of the last process");
        run.job.counts.moved(TaskState::Running, row.task.state, 1);
        self.pending.dirty.insert(id.job);
        self.pending.batch.moves.push(TaskMove { id, row: row.clone() });
        if row.task.state == TaskState::Failed {
            let error = row.task.error.clone();
            if run.job.failure.is_none() {
                run.job.failure.clone_from(&error);
            }
            self.pending.task_ended(run, StoredTask { index: id.index, spec, row });
            self.judge(id.job, error, now);
            return Ok(());
        }
        // The lane reads it again from the disk, where it is PENDING once this batch is durable.
        let host = crate::engine::reads::host_of(&StoredTask { index: id.index, spec, row });
        let lane = host.and_then(|host| self.lane_for(id.job, &host)).map(|(lane, _)| lane);
        let Some(run) = self.jobs.get_mut(&id.job) else { return Ok(()) };
        if let Some((number, lane)) = lane.and_then(|lane| Some((lane, run.lanes.get_mut(lane as usize)?))) {
            lane.disk_from = lane.disk_from.min(id.index);
            if lane.lower_head(id.index) {
                self.pending.batch.lane_heads.push((id.job, number, id.index));
            }
        }
        Ok(())
    }

    fn recover_job(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        if run.job.stop.is_some() {
            run.sweeping = Some(crate::engine::state::Sweeping::default());
            self.sweeping.insert(job);
            self.lanes.set_may_run(job, false);
        }
        self.settle_if_done(job);
    }

    /// The first batch is durable: lanes may read.
    pub(crate) fn read_all_lanes(&mut self) {
        let lanes: Vec<(JobId, u32)> = self
            .jobs
            .iter()
            .filter(|(_, run)| run.job.stop.is_none())
            .flat_map(|(job, run)| (0..run.lanes.len() as u32).map(|lane| (*job, lane)))
            .collect();
        for (job, number) in lanes {
            if let Some(lane) = self.jobs.get_mut(&job).and_then(|run| run.lanes.get_mut(number as usize)) {
                lane.loading = false;
            }
            self.refill(job, number);
        }
    }
}
