//! Starting attempts: the lane that is next, its permits, its task.

use std::sync::{Arc, Mutex, OnceLock};

use tokio::time::Instant;

use crate::engine::attempts::Launch;
use crate::engine::commit::Effect;
use crate::engine::hub::{Active, Notice};
use crate::engine::lanes::Admission;
use crate::engine::scheduler::Scheduler;
use crate::engine::state::{Cause, Queued, Running};
use crate::engine::timers::Timer;
use crate::limits::Blocked;
use crate::limits::hosts::{HostPermit, Hosts};
use crate::model::event::EventKind;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::{Change, JobEvent};
use crate::model::progress::Meter;
use crate::model::spec::Options;
use crate::model::task::TaskEvent;
use crate::model::time::Timestamp;
use crate::store::{Claim, LaneNumber, StoredTask};

/// Claims that may wait for a commit before no more attempts start: a disk that is full must not let them pile up.
const CLAIMS_MAX: usize = 8192;

impl Scheduler {
    /// Starts attempts while there are tasks and permits.
    pub(crate) fn dispatch(&mut self) {
        let max = self.runner.hosts.limits().max_concurrent_tasks as usize;
        while !self.draining && self.running.len() < max && self.pending.batch.claims.len() < CLAIMS_MAX {
            let now = self.now();
            let Some((job, lane, permit)) = self.pick(now) else { return };
            let Some(queued) = self.next_task(job, lane, now) else {
                // The permit goes back first, so that the lane that is woken for it finds it.
                drop(permit);
                self.lanes.unpick(job, lane);
                continue;
            };
            self.start(job, lane, queued, permit, now);
            self.refill(job, lane);
        }
    }

    fn pick(&mut self, now: Timestamp) -> Option<(JobId, LaneNumber, HostPermit)> {
        let Self { lanes, jobs, runner, timers, host_wakes, .. } = self;
        let mut permit = None;
        let (job, lane) = lanes.pick(|job, number, host| {
            let Some(run) = jobs.get(&job) else { return Admission::HostBlocked(host.clone()) };
            if let Err(until) = run.rates.check(now) {
                timers.add(until, Timer::JobRested(job));
                return Admission::JobBlocked;
            }
            match start_at(&runner.hosts, host, || run.mirrors_of_next(number)) {
                Ok(granted) => {
                    let host = granted.host().clone();
                    run.rates.take(now);
                    permit = Some(granted);
                    Admission::Go(host)
                }
                Err((host, Blocked::Full)) => Admission::HostBlocked(host),
                Err((host, Blocked::Rate(until) | Blocked::Paused(until))) => {
                    if host_wakes.get(&host).is_none_or(|set| until < *set) {
                        host_wakes.insert(host.clone(), until);
                        timers.add(until, Timer::HostWake(host.clone()));
                    }
                    Admission::HostBlocked(host)
                }
            }
        })?;
        Some((job, lane, permit?))
    }

    fn next_task(&mut self, job: JobId, lane: LaneNumber, now: Timestamp) -> Option<Queued> {
        loop {
            let queued = self.jobs.get_mut(&job)?.lanes.get_mut(lane as usize)?.next()?;
            // One whose own time has passed while it waited for its turn ends here.
            let Some(queued) = self.unless_late(job, queued, now) else { continue };
            return Some(queued);
        }
    }

    /// Says that the lane has more to give, and reads ahead.
    pub(crate) fn refill(&mut self, job: JobId, number: LaneNumber) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = run.lanes.get_mut(number as usize) else { return };
        if lane.has_work() && !lane.is_held() {
            self.lanes.has_work(job, number);
        }
        if lane.wants_page() && run.job.stop.is_none() {
            lane.loading = true;
            self.read_lane(job, number);
        }
    }

    fn start(&mut self, job: JobId, lane: LaneNumber, queued: Queued, permit: HostPermit, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let id = TaskId { job, index: queued.index };
        let mut row = queued.row.map(|row| *row).unwrap_or_default();
        let before = row.task.state;
        match row.task.apply(TaskEvent::Started, now) {
            Ok(task) => row.task = task,
            Err(wrong) => {
                tracing::error!(task = %id, "not started: {wrong}");
                return self.lanes.ended(job);
            }
        }
        run.job.counts.moved(before, row.task.state, 1);
        run.running.insert(queued.index);
        self.pending.dirty.insert(job);
        self.pending.batch.claims.push(Claim { id, task: row.task.clone(), attempt_start: now });

        let options = Options::of(&run.job.spec.defaults, &queued.spec);
        if let Some(limit) = options.timeouts.task
            && let Some(first) = row.task.start_time
        {
            self.timers.add(first.plus(limit), Timer::TaskDeadline(id));
        }
        let stop = self.runner.token.child_token();
        let cause: Arc<OnceLock<Cause>> = Arc::default();
        let meter = Arc::new(Meter::default());
        let launch = Launch {
            id,
            fence: row.task.fence,
            spec: queued.spec.clone(),
            options,
            directory: run.job.directory(),
            rates: run.rates.clone(),
            permit: Mutex::new(Some(permit)),
            stop: stop.clone(),
            meter: meter.clone(),
            attempt_start: now,
            first_start: row.task.start_time.unwrap_or(now),
            has_history: row.task.fence > 1,
        };
        self.announce_start(job, queued.index, queued.spec.clone(), &row, meter);
        let spec = queued.spec;
        let fence = row.task.fence;
        self.running.insert(id, Running { fence, lane, spec, row, attempt_start: now, stop, cause });
        self.runner.spawn(&mut self.attempts, launch);
        self.job_started(job, now);
    }

    fn announce_start(
        &mut self,
        job: JobId,
        index: u32,
        spec: Arc<crate::model::spec::TaskSpec>,
        row: &crate::store::TaskRow,
        meter: Arc<Meter>,
    ) {
        let Some(feed) = self.hub.feed(job) else { return };
        if feed.wants_notices() {
            let task = StoredTask { index, spec: spec.clone(), row: row.clone() };
            self.pending.effects.push(Effect::Notify(job, Notice::Started(Arc::new(task))));
        }
        feed.started(index, Active { spec, row: Arc::new(row.clone()), meter, since: Instant::now() });
    }

    fn job_started(&mut self, job: JobId, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        if run.job.apply(JobEvent::Started, now) == Ok(Change::Changed) {
            if let Some(deadline) = run.job.deadline() {
                self.timers.add(deadline, Timer::JobDeadline(job));
            }
            self.pending.job_event(run, EventKind::JobChanged);
        }
    }

    /// The number of the lane for `host`, made if need be.
    pub(crate) fn lane_for(&mut self, job: JobId, host: &Host) -> Option<(LaneNumber, bool)> {
        let run = self.jobs.get_mut(&job)?;
        if let Some(number) = run.lane_of.get(host) {
            return Some((*number, false));
        }
        let number = run.lanes.len() as LaneNumber;
        run.lanes.push(crate::engine::state::Lane::new(host.clone()));
        run.lane_of.insert(host.clone(), number);
        self.lanes.add_lane(job, number, host.clone());
        Some((number, true))
    }
}

/// Starts a request to `host`, or to a mirror while `host` is left alone; else says which of them to wait for.
fn start_at(
    hosts: &Arc<Hosts>,
    host: &Host,
    mirrors: impl FnOnce() -> Vec<Host>,
) -> Result<HostPermit, (Host, Blocked)> {
    let mut blocked = match hosts.try_start(host) {
        Ok(permit) => return Ok(permit),
        Err(why) => (host.clone(), why),
    };
    if matches!(blocked.1, Blocked::Paused(_)) {
        for mirror in mirrors() {
            match hosts.try_start(&mirror) {
                Ok(permit) => return Ok(permit),
                Err(why) if why.until() < blocked.1.until() => blocked = (mirror, why),
                Err(_) => {}
            }
        }
    }
    Err(blocked)
}
