//! What follows a commit, now that it is durable and the store has said what it found.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::command::{Acted, EngineError, Reply, answer};
use crate::engine::effect::{Effect, LanedTasks};
use crate::engine::jobs::{Activity, Deferred, JobRun, Retrying, Stage};
use crate::engine::new_tasks::Tasks;
use crate::engine::queue::task::{BatchNumber, Cause};
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::read::{Otherwise, Repeated};
use crate::model::access::Actor;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::Job;
use crate::model::limits::Limits;
use crate::model::spec::JobSpec;
use crate::model::task::TaskState;
use crate::model::task_filter::TaskChoice;
use crate::store::{
    Added, Chunk, Committed, Hastened, LaneNumber, Purged, Retried, StoreError, StoredEvent, Submitted, Swept,
};
use crate::telemetry::metrics::End;

/// What the store answers to the pieces of a batch.
struct PieceAnswers {
    number: BatchNumber,
    retries: Vec<Retried>,
    sweeps: Vec<Swept>,
    hastened: Vec<Hastened>,
    purges: Vec<Purged>,
}

impl Scheduler {
    /// Takes in that a batch is durable, with the ends of these tasks.
    fn is_durable(&mut self, number: BatchNumber, ended: &[(TaskId, LaneNumber)]) {
        self.committed = self.committed.max(number);
        self.queue.committed(number, ended);
        let Self { cuts, queue, committed, .. } = self;
        cuts.committed(number, |task| queue.wake_one(task, *committed));
    }

    /// Performs what waited for batch `number`. What belongs to a job that the store refused is answered with an error, and
    /// the job is read again.
    pub(super) fn perform(
        &mut self,
        number: BatchNumber,
        effects: Vec<Effect>,
        ended: &[(TaskId, LaneNumber)],
        committed: Committed,
    ) {
        self.is_durable(number, ended);
        let Committed { mut submissions, mut additions, retries, sweeps, hastened, .. } = committed;
        let (purges, data_key, left_out) = (committed.purges, committed.data_key, committed.left_out);
        let mut pieces = PieceAnswers { number, retries, sweeps, hastened, purges };
        let refused: BTreeMap<JobId, String> = committed.refused.into_iter().collect();
        for effect in effects {
            if let Some(job) = effect.job().filter(|job| refused.contains_key(job)) {
                self.refused(job, effect);
                continue;
            }
            match effect {
                effect @ (Effect::Admit { .. } | Effect::AdmitTasks { .. }) if left_out.is_some() => {
                    self.left_out(effect, left_out.as_deref().unwrap_or_default());
                }
                Effect::Admit { nth, job, lanes, tasks, request, by, reply } => {
                    let submitted = submissions.get_mut(nth).map(std::mem::take).unwrap_or_default();
                    self.submitted(&submitted, *job, (lanes, tasks), request, by, reply);
                }
                Effect::AdmitTasks { nth, job, chunk_id, digest, tasks, reply } => {
                    let added = additions.get_mut(nth).map(std::mem::take).unwrap_or_default();
                    self.admit_tasks(job, added, chunk_id, digest, tasks, reply);
                }
                Effect::ReadChunk { job, chunk_id, digest, otherwise, reply } => {
                    self.read_chunk(job, (chunk_id, digest), otherwise, reply, None);
                }
                Effect::ReadRequest { request, of, otherwise, reply } => {
                    self.read_request(request, of, otherwise, reply, None);
                }
                Effect::Select(job, admitted) => self.fixed_command(job, *admitted),
                Effect::Reply(reply, job) => answer(reply, Ok(job)),
                Effect::Acted(reply, acted) => answer(reply, Ok(acted)),
                Effect::Updated(reply, job) => {
                    let (id, tenant) = (job.id, job.tenant.no);
                    answer(reply, Ok(job));
                    self.hub.changed(id, Some(tenant));
                    self.next_visitor(id);
                }
                Effect::Deleted { nth, job, tenant, reply } => {
                    let was_there = committed.deletions.get(nth).copied().unwrap_or(false);
                    self.deleted((job, tenant), was_there, reply);
                }
                Effect::LimitsStored(limits, reply) => self.limits_stored(limits, reply),
                // Without a number there was no batch with it, which cannot be.
                Effect::DataKeyStored(reply) => answer(reply, data_key.ok_or(EngineError::Draining)),
                Effect::BookStored(book, has_others) => self.publish_book(book, has_others),
                Effect::LookForJobs(deletion) => self.look_for_jobs(deletion),
                Effect::TenantDeleted(deletion) => self.tenant_deleted(deletion),
                Effect::AccessStored(told, reply) => answer(reply, Ok(told)),
                Effect::Audited(reply) => answer(reply, Ok(())),
                Effect::AckPage(job, reply) => {
                    drop(reply.send(Ok(())));
                    self.hub.page_added(job);
                }
                Effect::Publish(job, events) => self.publish(job, events),
                Effect::Notify(job, after, notice) => self.hub.notify(job, after, notice),
                Effect::Claimed(_, stored) => stored.cancel(),
                Effect::StopAttempts(job, cause) => self.stop_attempts(job, &cause),
                effect @ (Effect::Swept { .. }
                | Effect::Withdrawn { .. }
                | Effect::Hastened { .. }
                | Effect::PutBack { .. }
                | Effect::Purged { .. }) => self.piece_done(effect, &mut pieces),
                Effect::PutPartsAway(job) => self.put_parts_away(job),
                Effect::Forget(job) => self.forget(job),
            }
        }
        for (job, why) in refused {
            self.contradicted(job, &why);
        }
        self.reload_quiet();
    }

    /// The store has refused all changes of a job.
    fn refused(&mut self, job: JobId, effect: Effect) {
        match effect {
            Effect::Admit { .. } => self.not_admitted(job),
            Effect::Purged { .. } => self.not_purged(job),
            _ => {}
        }
        effect.fail(EngineError::Contradiction(job));
    }

    /// There was no room for the tasks that a batch was to add.
    fn left_out(&mut self, effect: Effect, why: &str) {
        let (job, tenant, count) = match &effect {
            Effect::Admit { job, .. } => (job.id, Some(job.tenant.no), job.counts.total),
            Effect::AdmitTasks { job, tasks, .. } => (*job, None, tasks.len() as u32),
            _ => return,
        };
        effect.fail(EngineError::StoreFull(why.to_owned()));
        if let Some(tenant) = tenant {
            self.give_back_tasks(tenant, u64::from(count));
            return self.not_admitted(job);
        }
        if let Some(run) = self.jobs.get_mut(job) {
            run.no_longer_adds(count);
            let tenant = run.job.tenant.no;
            self.give_back_tasks(tenant, u64::from(count));
        }
        self.settle_if_done(job);
    }

    /// A job is durable, or its request id was known.
    fn submitted(
        &mut self,
        submitted: &Submitted,
        job: Job,
        (lanes, tasks): (Vec<Host>, LanedTasks),
        request: Option<(String, [u8; 32])>,
        by: Arc<Actor>,
        reply: Reply<Arc<Job>>,
    ) {
        match *submitted {
            Submitted::Known { job: first, digest } => {
                self.not_admitted(job.id);
                self.give_back_tasks(job.tenant.no, u64::from(job.counts.total));
                let Some(request) = request else { return answer(reply, Err(EngineError::Contradiction(first))) };
                let hosts = tasks.iter().filter_map(|(lane, _)| lanes.get(*lane as usize).cloned()).collect();
                let tasks = Tasks { specs: tasks.into_iter().map(|(_, spec)| spec).collect(), hosts };
                let (spec, caller) = (JobSpec::clone(&job.spec), job.caller.map(|caller| *caller));
                let repeated = Repeated { spec, request: request.clone(), tasks, caller, by };
                self.known(first, digest, request, Otherwise::Submit(Box::new(repeated)), reply);
            }
            Submitted::Stored => self.admit(job, lanes, tasks, reply),
        }
    }

    /// Performs what follows a piece of long work.
    fn piece_done(&mut self, effect: Effect, answers: &mut PieceAnswers) {
        let PieceAnswers { number, retries, sweeps, hastened, purges } = answers;
        match effect {
            Effect::Swept { nth, job, state, events } => {
                let swept = sweeps.get_mut(nth).map(std::mem::take).unwrap_or_default();
                self.swept(job, state, &swept, events);
            }
            Effect::Withdrawn { nth, job, state, events } => {
                let swept = sweeps.get_mut(nth).map(std::mem::take).unwrap_or_default();
                self.withdrawn(job, state, &swept, events);
            }
            Effect::Hastened { nth, job } => {
                let hastened = hastened.get_mut(nth).map(std::mem::take).unwrap_or_default();
                self.hastened(job, *number, &hastened);
            }
            Effect::PutBack { nth, job, events } => {
                let retried = retries.get_mut(nth).map(std::mem::take).unwrap_or_default();
                self.have_put_back(job, retried, events);
            }
            Effect::Purged { nth, job } => {
                let purged = purges.get(nth).copied().unwrap_or_default();
                self.purged(job, purged);
            }
            // Whoever sorts the effects sends no other.
            other => other.fail(EngineError::Draining),
        }
    }

    /// A removal could not be stored for want of room: it is tried again with the next ones.
    pub(super) fn retry_removal(&mut self, effect: Effect, error: &StoreError) {
        match effect {
            Effect::Purged { job, .. } => self.add_piece(Piece::Purge(job)),
            Effect::Deleted { job, reply, .. } => {
                if let Some(reply) = reply {
                    answer(reply, Err(EngineError::not_stored(error)));
                }
                self.next_visitor(job);
            }
            other => other.fail(EngineError::not_stored(error)),
        }
    }

    /// A job was not stored. Commands that waited for it find that there is none.
    fn not_admitted(&mut self, job: JobId) {
        self.jobs.does_not_arrive(job);
        self.next_visitor(job);
    }

    /// Tells watchers of a job. One that is retried has no feed before it is durable that it runs again.
    fn publish(&mut self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) {
        if self.jobs.get(job.id).is_some() && self.hub.feed(job.id).is_none() {
            self.hub.open(job.clone());
        }
        self.hub.publish(job, events);
    }

    /// A durable job begins to live.
    fn admit(&mut self, job: Job, lanes: Vec<Host>, tasks: LanedTasks, reply: Reply<Arc<Job>>) {
        let id = job.id;
        let now = self.now();
        let shared = Arc::new(job);
        tracing::debug!(job = %id, tasks = shared.counts.total, "job submitted");
        self.hub.open(shared.clone());
        self.hub.created(id, shared.tenant.no);
        let waiting = self.enlist(JobRun::new(shared.clone()), now);
        for host in lanes {
            self.queue.lane_for(id, &host);
        }
        self.queue.admit(id, 0, tasks.into_iter());
        for admitted in waiting {
            self.job_command(id, admitted);
        }
        self.settle_if_done(id);
        answer(reply, Ok(shared));
    }

    fn admit_tasks(
        &mut self,
        job: JobId,
        added: Added,
        chunk_id: String,
        digest: [u8; 32],
        tasks: LanedTasks,
        reply: Reply<Chunk>,
    ) {
        let count = tasks.len() as u32;
        if let Some(run) = self.jobs.get_mut(job) {
            run.no_longer_adds(count);
            let tenant = run.job.tenant.no;
            if !matches!(added, Added::Stored { .. }) {
                self.give_back_tasks(tenant, u64::from(count));
            }
        }
        match added {
            Added::Stored { first } => {
                let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
                run.job_mut().counts.added(count);
                self.hub.added(job, count);
                if run.job.stop.is_none() {
                    self.queue.admit(job, first, tasks.into_iter());
                } else if run.to_sweep().is_some() {
                    self.add_piece(Piece::Sweep(job));
                }
                answer(reply, Ok(Chunk { first, count, digest }));
                // Its group may have been decided while no task was left that could be stopped.
                self.judge(job, None, self.now());
            }
            Added::Known(chunk) if chunk.digest == digest => answer(reply, Ok(chunk)),
            Added::Known(_) => answer(reply, Err(EngineError::ChunkIdTaken(chunk_id))),
            Added::KeysTaken(places) => {
                let key = |place: u32| tasks.get(place as usize).map(|(_, spec)| (place as usize, spec.key.clone()));
                answer(reply, Err(EngineError::KeysTaken(places.into_iter().filter_map(key).collect())));
            }
        }
        self.settle_if_done(job);
    }

    fn limits_stored(&mut self, limits: Limits, reply: Reply<Limits>) {
        self.runner.server_bytes.set(limits.bytes_per_second);
        self.runner.hosts.set_limits(limits.clone());
        self.set_left(self.runner.hosts.left());
        for host in self.runner.hosts.take_freed() {
            self.wake_host(&host);
        }
        tracing::info!(
            max_concurrent_tasks = limits.max_concurrent_tasks,
            max_per_host = limits.max_per_host,
            requests_per_second_per_host = limits.requests_per_second_per_host,
            bytes_per_second = limits.bytes_per_second,
            hosts_with_limits = limits.hosts.len(),
            "limits changed"
        );
        self.bounds.warn_of(&limits);
        answer(reply, Ok(limits));
    }

    fn stop_attempts(&mut self, job: JobId, cause: &Cause) {
        for running in self.queue.running_of(job) {
            running.stop(cause.clone());
        }
    }

    fn swept(&mut self, job: JobId, state: TaskState, swept: &Swept, events: Vec<Arc<StoredEvent>>) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        if !run.job.counts.has(state, swept.count) {
            return self.contradicted(job, &format!("{} tasks were {state}, more than were counted", swept.count));
        }
        self.runner.metrics.tasks_ended(run.kind(), End::Cancelled, u64::from(swept.count));
        let counts_hold = run.swept(state, swept.count, swept.next);
        let publish = run.job.clone();
        if run.is_swept_in_vain() {
            // What is PENDING before the head of its lane, since a row is damaged, is found from the first task on.
            self.outbox.head(Some((job, 0, 0)));
        }
        if run.to_sweep().is_some() {
            self.add_piece(Piece::Sweep(job));
        }
        self.hub.publish(publish, events);
        if !counts_hold {
            return self.contradicted(job, &format!("tasks are counted as {state}, and the store has none"));
        }
        self.go_on_with(job);
    }

    fn have_put_back(&mut self, job: JobId, retried: Retried, events: Vec<Arc<StoredEvent>>) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        run.in_flight = false;
        let failed_count = retried.failed_count();
        let Retried { failed, cancelled, first: lowest, next } = retried;
        if !run.job.counts.has(TaskState::Failed, failed_count) || !run.job.counts.has(TaskState::Cancelled, cancelled)
        {
            return self.contradicted(job, "more tasks were put back than had failed or been cancelled");
        }
        run.job_mut().put_back(&failed, cancelled, next);
        let published = run.job.clone();
        self.publish(published, events);
        let Some(run) = self.jobs.get_mut(job) else { return };
        let Stage::Retrying(retrying) = &mut run.stage else { return self.go_on_with(job) };
        let Retrying { which, first, .. } = &mut **retrying;
        *first = lowest.into_iter().chain(*first).min();
        if !matches!(which, TaskChoice::These(_)) && next.is_some() {
            self.add_piece(Piece::Retry(job));
            return self.go_on_with(job);
        }
        self.bring_parts_back(job);
    }

    /// A piece of the job is durable: what was deferred meanwhile happens now.
    pub(super) fn go_on_with(&mut self, job: JobId) {
        while let Some(run) = self.jobs.get_mut(job)
            && !run.defers()
            && let Some(deferred) = run.ongoing().and_then(|it| it.deferred.pop_front())
        {
            match deferred {
                Deferred::Command(admitted) => self.job_command(job, admitted),
                Deferred::Attempt(ended) => self.deferred_end(*ended),
            }
        }
        if self.jobs.get(job).is_some_and(|run| !run.defers()) {
            self.queue.look_at_overdue(job);
        }
        self.settle_if_done(job);
    }

    /// The end of a job is durable: memory forgets it, and what was deferred finds it ended.
    fn forget(&mut self, job: JobId) {
        let Some(run) = self.jobs.get(job).filter(|run| matches!(run.stage, Stage::Ended)) else { return };
        let counts = run.job.counts;
        tracing::info!(
            job = %job,
            state = %run.job.state,
            tasks = counts.total,
            succeeded = counts.succeeded,
            failed = counts.failed,
            cancelled = counts.cancelled,
            failure = run.job.failure.as_ref().map(|error| error.message.as_str()),
            "job ended"
        );
        self.drop_job(job);
    }

    /// Takes a job out of memory. Commands that wait for it are taken anew.
    pub(super) fn drop_job(&mut self, job: JobId) {
        self.queue.remove_job(job);
        self.deadlines.clear(&crate::engine::timers::Timer::JobDeadline(job));
        if let Some(start) = self.jobs.get(job).and_then(|run| run.job.spec.start_time) {
            self.starts.clear(start, job);
        }
        self.timers.clear(&crate::engine::timers::Timer::JobRested(job));
        self.late.forget_job(job);
        let Some(mut run) = self.jobs.remove(job) else { return self.hub.close(job) };
        let Activity { mut deferred, asked, withdrawal, hastening, .. } = run.take_activity();
        let last = run.job;
        deferred.extend(asked.into_iter().map(Deferred::Command));
        let done = withdrawal.map(|it| (it.reply, it.count)).into_iter();
        for (reply, tasks) in done.chain(hastening.map(|it| (it.reply, it.count))) {
            answer(reply, Ok(Acted { job: last.clone(), tasks }));
        }
        self.hub.close(job);
        for deferred in deferred {
            if let Deferred::Command(admitted) = deferred {
                self.job_command(job, admitted);
            }
        }
    }
}
