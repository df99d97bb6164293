//! What is asked of the engine: applied at once, answered after the commit.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::commit::{Effect, answer};
use crate::engine::event::{Command, Control, EngineError, JobPatch, Reply, Revival, Tasks};
use crate::engine::scheduler::Scheduler;
use crate::engine::state::{Cause, JobRun, LANE_PAGE, Queued};
use crate::engine::timers::Timer;
use crate::model::event::EventKind;
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::{Change, Job, JobEvent};
use crate::model::limits::Limits;
use crate::store::{Chunk, NewJob, NewLane, NewPage, NewTask, Retry};

impl Scheduler {
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            _ if self.draining
                && !matches!(command, Command::Page { .. } | Command::Explain { .. } | Command::WaitingAt { .. }) =>
            {
                Self::refuse(command);
            }
            Command::Submit { job, request, tasks, reply } => self.submit(job, request, tasks, reply),
            Command::AddTasks { job, chunk_id, digest, tasks, reply } => {
                self.add_tasks(job, chunk_id, digest, tasks, reply);
            }
            Command::Control { job, what, reply } => self.control(job, &what, reply),
            Command::Retry { revival, reply } => self.retry(*revival, reply),
            Command::Update { job, ended, patch, reply } => self.update(job, ended, &patch, reply),
            Command::Delete { job, reply } => self.delete(job, reply),
            Command::SetLimits { limits, reply } => self.set_limits(limits, reply),
            Command::Page { id, fence, page, reply } => self.page(id, fence, page, reply),
            Command::Explain { job, hosts, reply } => drop(reply.send(self.explain(job, &hosts))),
            Command::WaitingAt { hosts, reply } => {
                drop(reply.send(hosts.iter().map(|host| self.waiting_at(host)).collect()));
            }
            Command::Drain => self.drain(),
        }
    }

    /// The writes of a submission. The job begins to live when they are durable.
    fn submit(&mut self, job: Job, request: Option<(String, [u8; 32])>, tasks: Tasks, reply: Reply<Arc<Job>>) {
        let id = job.id;
        let mut lanes: Vec<&crate::model::host::Host> = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        for (index, (spec, host)) in tasks.specs.iter().zip(&tasks.hosts).enumerate() {
            let lane = *numbers.entry(host).or_insert_with(|| {
                lanes.push(host);
                lanes.len() as u32 - 1
            });
            let id = TaskId { job: id, index: index as TaskIndex };
            self.pending.batch.new_tasks.push(NewTask { id, lane, spec: spec.clone() });
        }
        for (lane, host) in lanes.into_iter().enumerate() {
            self.pending.batch.new_lanes.push(NewLane { job: id, lane: lane as u32, host: host.clone() });
        }
        self.pending.batch.new_jobs.push(NewJob { job: job.clone(), request });
        self.pending.effects.push(Effect::Admit { job: Box::new(job), tasks, reply });
    }

    /// A durable job begins to live.
    pub(crate) fn admit(&mut self, job: Job, tasks: Tasks, reply: Reply<Arc<Job>>) {
        let id = job.id;
        let shared = Arc::new(job.clone());
        self.hub.open(shared.clone());
        self.enlist(job);
        self.admit_tasks(id, 0, tasks);
        self.settle_if_done(id);
        answer(reply, Ok(shared));
    }

    /// Takes a job into memory, without its tasks.
    pub(crate) fn enlist(&mut self, job: Job) {
        let now = self.now();
        let id = job.id;
        let run = JobRun::new(job);
        let may_run = run.may_run(now);
        self.lanes.add_job(id, run.job.spec.priority, run.job.spec.group.max_concurrency, may_run);
        if let Some(start) = run.job.spec.start_time.filter(|start| *start > now) {
            self.timers.add(start, Timer::JobStart(id));
        }
        if let Some(deadline) = run.job.deadline() {
            self.timers.add(deadline, Timer::JobDeadline(id));
        }
        self.jobs.insert(id, run);
    }

    pub(crate) fn job_start(&mut self, job: JobId, now: crate::model::time::Timestamp) {
        if let Some(run) = self.jobs.get(&job) {
            self.lanes.set_may_run(job, run.may_run(now));
        }
    }

    /// Durable tasks begin to live: the first of each lane stay in memory, the rest is read when it is its turn.
    pub(crate) fn admit_tasks(&mut self, job: JobId, first: TaskIndex, tasks: Tasks) {
        for (place, (spec, host)) in tasks.specs.into_iter().zip(tasks.hosts).enumerate() {
            let index = first + place as TaskIndex;
            let Some((number, _)) = self.lane_for(job, &host) else { return };
            let Some(run) = self.jobs.get_mut(&job) else { return };
            let lane = &mut run.lanes[number as usize];
            let all_in_memory = lane.disk_from == lane.disk_to && !lane.loading;
            lane.disk_to = index + 1;
            if run.job.stop.is_some() {
                lane.disk_from = lane.disk_to;
            } else if all_in_memory && lane.page.len() < LANE_PAGE as usize {
                lane.page.push_back(Queued { index, spec, row: None });
                lane.disk_from = lane.disk_to;
                self.lanes.has_work(job, number);
            }
        }
    }

    fn add_tasks(&mut self, job: JobId, chunk_id: String, digest: [u8; 32], tasks: Tasks, reply: Reply<Chunk>) {
        let Some(run) = self.jobs.get_mut(&job) else { return answer(reply, Err(EngineError::Sealed(job))) };
        if !run.job.open || run.job.stop.is_some() || run.settling || run.ended {
            return answer(reply, Err(EngineError::Sealed(job)));
        }
        let first = run.job.counts.total;
        let count = tasks.specs.len() as u32;
        if first.checked_add(count).is_none() {
            return answer(reply, Err(EngineError::TooManyTasks));
        }
        run.job.counts.added(count);
        self.pending.dirty.insert(job);
        for (place, (spec, host)) in tasks.specs.iter().zip(&tasks.hosts).enumerate() {
            let Some((lane, is_new)) = self.lane_for(job, host) else { return };
            if is_new {
                self.pending.batch.new_lanes.push(NewLane { job, lane, host: host.clone() });
            }
            let id = TaskId { job, index: first + place as TaskIndex };
            self.pending.batch.new_tasks.push(NewTask { id, lane, spec: spec.clone() });
        }
        let chunk = Chunk { first, count, digest };
        self.pending.batch.new_chunks.push((job, chunk_id, chunk.clone()));
        self.pending.effects.push(Effect::AdmitTasks { job, first, tasks, reply, chunk });
    }

    fn control(&mut self, job: JobId, what: &Control, reply: Reply<Option<Arc<Job>>>) {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(&job).filter(|run| !run.ended) else { return answer(reply, Ok(None)) };
        let event = match what {
            Control::Seal => JobEvent::Sealed,
            Control::Pause => JobEvent::Paused,
            Control::Resume => JobEvent::Resumed,
            Control::Cancel(why) => JobEvent::Cancelled(why.clone()),
        };
        let change = match run.job.apply(event, now) {
            Ok(change) => change,
            Err(wrong) => return answer(reply, Err(wrong.into())),
        };
        let may_run = run.may_run(now);
        match change {
            Change::Stopping if run.sweeping.is_none() => self.stopping(job),
            // Stopping already for its group's sake: the sweep goes on, and the cause of the end is now the cancel.
            Change::Stopping | Change::Changed => self.pending.job_event(run, EventKind::JobChanged),
            Change::None | Change::Ended => {}
        }
        if matches!(what, Control::Pause) && change == Change::Changed {
            self.pending.effects.push(Effect::StopAttempts(job, Cause::Pause));
        }
        self.lanes.set_may_run(job, may_run);
        self.settle_if_done(job);
        let Some(run) = self.jobs.get(&job) else { return };
        self.pending.effects.push(Effect::ReplyLive(reply, Arc::new(run.job.clone())));
    }

    fn retry(&mut self, revival: Revival, reply: Reply<Arc<Job>>) {
        let now = self.now();
        let Revival { mut job, lanes, indexes, counts: (failed, cancelled) } = revival;
        let id = job.id;
        if let Some(run) = self.jobs.get(&id) {
            let state = run.job.state;
            return answer(reply, Err(crate::model::job::WrongState { state, event: "retried" }.into()));
        }
        if let Err(wrong) = job.apply(JobEvent::Retried(failed, cancelled), now) {
            return answer(reply, Err(wrong.into()));
        }
        self.hub.open(Arc::new(job.clone()));
        self.enlist(job);
        for (number, host, _) in lanes {
            if let Some((lane, _)) = self.lane_for(id, &host) {
                debug_assert_eq!(lane, number, "lanes come in order");
                self.pending.batch.lane_heads.push((id, lane, 0));
            }
        }
        let Some(run) = self.jobs.get_mut(&id) else { return };
        self.pending.batch.retries.push(Retry { job: id, indexes });
        self.pending.job_event(run, EventKind::JobChanged);
        self.pending.effects.push(Effect::Revive(id, reply));
    }

    /// The retried tasks are PENDING on disk: the lanes may read them.
    pub(crate) fn revive(&mut self, job: JobId, reply: Reply<Arc<Job>>) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let (shared, lanes) = (Arc::new(run.job.clone()), run.lanes.len());
        // Until now there was nothing to read: a look before the commit would have found nothing, and said so to the
        // lane's head, behind which a restart does not look.
        if run.job.stop.is_none() {
            run.lanes.iter_mut().for_each(|lane| lane.disk_to = run.job.counts.total);
        }
        for lane in 0..lanes {
            self.refill(job, lane as u32);
        }
        self.settle_if_done(job);
        answer(reply, Ok(shared));
    }

    fn update(&mut self, id: JobId, ended: Option<Box<Job>>, patch: &JobPatch, reply: Reply<Option<Arc<Job>>>) {
        let now = self.now();
        if let Some(run) = self.jobs.get_mut(&id).filter(|run| !run.ended) {
            patched(&mut run.job, patch, now);
            run.rates.set(run.job.spec.rate_limit);
            self.lanes.set_priority(id, run.job.spec.priority);
            self.lanes.set_cap(id, run.job.spec.group.max_concurrency);
            self.lanes.set_resting(id, false);
            self.pending.job_event(run, EventKind::JobChanged);
            let job = Arc::new(run.job.clone());
            self.pending.batch.respecced.push(job.clone());
            self.pending.effects.push(Effect::ReplyLive(reply, job));
            return;
        }
        let Some(mut job) = ended.filter(|_| !self.jobs.contains_key(&id)) else { return answer(reply, Ok(None)) };
        // After its end a job tells watchers nothing more: only what is read of it changes.
        patched(&mut job, patch, now);
        let job = Arc::new(*job);
        self.pending.batch.jobs.push(job.clone());
        self.pending.batch.respecced.push(job.clone());
        self.pending.effects.push(Effect::ReplyLive(reply, job));
    }

    fn delete(&mut self, job: JobId, reply: Reply<()>) {
        if let Some(run) = self.jobs.get(&job) {
            let wrong = crate::model::job::WrongState { state: run.job.state, event: "deleted" };
            return answer(reply, Err(wrong.into()));
        }
        self.pending.batch.deleted.push(job);
        self.pending.effects.push(Effect::Deleted(Some(reply)));
    }

    fn set_limits(&mut self, limits: Limits, reply: Reply<()>) {
        self.pending.batch.limits = Some(limits.clone());
        self.pending.effects.push(Effect::LimitsStored(limits, reply));
    }

    /// Limits that are durable come into force.
    pub(crate) fn limits_stored(&mut self, limits: Limits, reply: Reply<()>) {
        self.runner.server_bytes.set(limits.bytes_per_second);
        self.runner.hosts.set_limits(limits);
        for host in self.runner.hosts.take_freed() {
            self.wake_host(&host);
        }
        answer(reply, Ok(()));
    }

    fn page(&mut self, id: TaskId, fence: Fence, page: NewPage, reply: oneshot::Sender<Result<(), Failure>>) {
        if self.running.get(&id).is_none_or(|running| running.fence != fence) {
            let failure = Failure::retryable(FailureReason::Internal, "the attempt is not the task's current one");
            return drop(reply.send(Err(failure)));
        }
        self.pending.batch.pages.push(page);
        self.pending.effects.push(Effect::AckPage(reply));
    }
}

fn patched(job: &mut Job, patch: &JobPatch, now: crate::model::time::Timestamp) {
    let spec = Arc::make_mut(&mut job.spec);
    let JobPatch { priority, max_concurrency, rate_limit, labels, title } = patch.clone();
    spec.priority = priority.unwrap_or(spec.priority);
    spec.group.max_concurrency = max_concurrency.unwrap_or(spec.group.max_concurrency);
    spec.rate_limit = rate_limit.unwrap_or(spec.rate_limit);
    if let Some(labels) = labels {
        spec.labels = labels;
    }
    if let Some(title) = title {
        spec.title = title;
    }
    job.update_time = now;
}
