//! What is asked of the engine: applied at once, answered after the commit.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rand::RngExt as _;

use crate::engine::command::{Admitted, Command, Control, EngineError, JobCommand, JobPatch, Reply, answer};
use crate::engine::effect::{Effect, LanedTasks};
use crate::engine::jobs::{Deferred, JobRun, Stage};
use crate::engine::new_tasks::Tasks;
use crate::engine::queue::task::Cause;
use crate::engine::scheduler::incoming_page::Incoming;
use crate::engine::scheduler::{Scheduler, credentials};
use crate::engine::timers::Timer;
use crate::engine::writer::Condition;
use crate::model::access::{AccessError, Actor, LOCAL};
use crate::model::audit::{AuditRow, Of, SERVER};
use crate::model::credential::NAMED_MAX;
use crate::model::event::EventKind;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Change, Creator, Job, JobEvent, WrongState};
use crate::model::limits::{Limits, LimitsPatch};
use crate::model::spec::JobSpec;
use crate::model::tenant::{Party, Scope};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::store::{Addition, Chunk, LaneNumber, Submission};

/// The memory of a lane, in bytes, roughly.
const LANE_BYTES: usize = 384;

impl Scheduler {
    pub(super) fn command(&mut self, admitted: Admitted<Command>) {
        let Admitted { command, by, room } = admitted;
        if self.draining
            && !matches!(
                command,
                Command::Page { .. }
                    | Command::Explain { .. }
                    | Command::WaitingAt { .. }
                    | Command::Waits { .. }
                    | Command::Usage { .. }
            )
        {
            return command.refuse(EngineError::Draining);
        }
        if command.is_abandoned() {
            return;
        }
        let condition = self.condition();
        if condition == Condition::Writable {
            self.holds.clear();
        }
        if let Some(error) = command.not_now(condition) {
            return self.refuse_unless_known(Admitted { command, by, room }, error);
        }
        match command {
            Command::Submit { spec, request, tasks, caller, reply } => {
                self.submit((*spec, caller), request, tasks, by, reply);
            }
            Command::Job(job, command) => self.job_command(job, Admitted { command, by, room }),
            Command::SetLimits { patch, reply } => self.set_limits(&patch, &by, reply),
            Command::NewDataKey { reply } => {
                self.outbox.batch().new_data_key = true;
                self.note(&by, Of::Always, |now| {
                    AuditRow::done(&by, "AccessService/RotateDataKey", SERVER.to_owned(), "", now)
                });
                self.outbox.then(Effect::DataKeyStored(reply));
            }
            Command::Access { change, reply } => self.change_access(change, by, reply),
            Command::ResumeHost { host, reply } => self.resume_host(host, &by, reply),
            Command::Audit { rows, reply } => self.store_audit(rows, reply),
            Command::Page { id, fence, page, reply } => self.page(Incoming { id, fence, page, reply }),
            Command::Explain { job, tasks, reply } => drop(reply.send(self.explain(job, &tasks))),
            Command::Waits { reply } => self.ask_survey(reply),
            Command::Usage { tenants, reply } => {
                drop(reply.send(tenants.into_iter().map(|tenant| self.jobs.usage(tenant)).collect()));
            }
            Command::WaitingAt { hosts, whose, reply } => {
                drop(reply.send(hosts.iter().map(|host| self.queue.waiting_at(host, whose)).collect()));
            }
            Command::Drain => self.drain(),
        }
    }

    /// Refuses a command for want of room. A repetition needs none: it is answered with what was stored.
    fn refuse_unless_known(&mut self, admitted: Admitted<Command>, error: EngineError) {
        let Admitted { command, by, room } = admitted;
        match command {
            Command::Submit { request: Some(request), reply, .. } => match party(&by) {
                Some(of) => self.read_request(request, of, error, reply, room),
                None => answer(reply, Err(error)),
            },
            Command::Job(job, JobCommand::AddTasks { chunk_id, digest, reply, .. }) if !chunk_id.is_empty() => {
                self.read_chunk(job, (chunk_id, digest), error, reply, room);
            }
            command => command.refuse(error),
        }
    }

    /// Takes a command for one job: at once, when a piece of the job is committed, or by a visit.
    pub(super) fn job_command(&mut self, job: JobId, admitted: Admitted<JobCommand>) {
        // Readers see tasks as soon as they are durable, which is before they are counted here. What is asked of the tasks of
        // the job is asked of those, too.
        if admitted.command.has_to_be_fixed() && self.jobs.get(job).is_some_and(JobRun::is_adding) {
            return self.outbox.then(Effect::Select(job, Box::new(admitted)));
        }
        self.fixed_command(job, admitted);
    }

    /// Takes a command for one job that acts on no task that comes later.
    pub(super) fn fixed_command(&mut self, job: JobId, mut admitted: Admitted<JobCommand>) {
        if let Some(run) = self.jobs.get(job) {
            admitted.command.fix(run.job.counts.total);
        }
        let is_visited = self.jobs.is_visited(job);
        let Self { jobs, parked, .. } = self;
        match jobs.get_mut(job) {
            // What it is told does not depend on what is waited for.
            Some(run) if run.takes_no_tasks() && admitted.command.adds_tasks() => self.apply(job, admitted),
            Some(run) if run.defers() => {
                let admitted = if run.defers_for_long() { parked.admit(admitted) } else { Some(admitted) };
                run.activity_mut().deferred.extend(admitted.map(Deferred::Command));
            }
            Some(_) => self.apply(job, admitted),
            None => {
                let Some(admitted) = (if is_visited { parked.admit(admitted) } else { Some(admitted) }) else { return };
                if jobs.visit(job, Some(admitted)) {
                    self.next_visitor(job);
                }
            }
        }
    }

    /// What waits for a job waits for long from now on: in room of its own, unless it is answered at once.
    pub(super) fn park_deferred(&mut self, job: JobId) {
        let deferred = self.jobs.get_mut(job).and_then(JobRun::ongoing).map(|it| std::mem::take(&mut it.deferred));
        for deferred in deferred.into_iter().flatten() {
            match deferred {
                Deferred::Command(admitted) => self.fixed_command(job, admitted),
                Deferred::Attempt(ended) => {
                    if let Some(run) = self.jobs.get_mut(job) {
                        run.activity_mut().deferred.push_back(Deferred::Attempt(ended));
                    }
                }
            }
        }
    }

    fn apply(&mut self, job: JobId, admitted: Admitted<JobCommand>) {
        if matches!(admitted.command, JobCommand::CancelTasks { .. } | JobCommand::RetryNow { .. }) {
            return self.select(job, admitted);
        }
        let Admitted { command, by, .. } = admitted;
        let by = &by;
        let Some(run) = self.jobs.get_mut(job) else { return command.refuse(EngineError::NoJob(job)) };
        let state = run.job.state;
        let wrong = |event| EngineError::WrongState(job, WrongState { state, event, of_tasks: false });
        match command {
            JobCommand::AddTasks { chunk_id, digest, tasks, reply } => {
                self.add_tasks(job, chunk_id, digest, tasks, by, reply);
            }
            JobCommand::Control { what, reply } => self.control(job, &what, by, reply),
            JobCommand::Retry { reply, .. } => answer(reply, Err(wrong("retried"))),
            JobCommand::Update { patch, reply } => self.update(job, &patch, by, reply),
            JobCommand::Delete { reply, .. } => answer(reply, Err(wrong("deleted"))),
            JobCommand::CancelTasks { reply, .. } | JobCommand::RetryNow { reply, .. } => {
                answer(reply, Err(EngineError::NoJob(job)));
            }
        }
    }

    /// Refuses a submission, unless it was answered before.
    fn refuse_new(
        &mut self,
        request: Option<(String, [u8; 32])>,
        by: &Actor,
        error: EngineError,
        reply: Reply<Arc<Job>>,
    ) {
        match (request, party(by)) {
            (Some(request), Some(of)) => {
                // It may be counted because it is on its way.
                self.outbox.then(Effect::ReadRequest { request, of, otherwise: error, reply });
            }
            _ => answer(reply, Err(error)),
        }
    }

    /// The writes of a submission. The job begins to live when they are durable.
    fn submit(
        &mut self,
        (mut spec, caller): (JobSpec, Option<TraceParent>),
        request: Option<(String, [u8; 32])>,
        tasks: Tasks,
        by: Arc<Actor>,
        reply: Reply<Arc<Job>>,
    ) {
        let now = self.now();
        let Ok(count) = TaskIndex::try_from(tasks.specs.len()) else {
            let id = self.job_id(now);
            return answer(reply, Err(EngineError::TooManyTasks(id)));
        };
        if self.is_full_of_jobs(spec.memory_bytes(), 0) {
            return self.refuse_new(request, &by, EngineError::TooManyJobs, reply);
        }
        let tenant = match &by.scope {
            Scope::One(owner) if self.takes_jobs_of(owner.no) => owner.clone(),
            Scope::One(owner) => return answer(reply, Err(AccessError::NoTenant(owner.name.to_string()).into())),
            // The layer lets no such call on.
            Scope::Nowhere | Scope::Every => return answer(reply, Err(EngineError::NoTenant)),
        };
        let count_of = u64::from(count);
        let admitted = self.admits(tenant.no, 1, count_of);
        let admitted = admitted.and_then(|()| self.admits_times(tenant.no, &mut spec, &tasks.specs));
        // Last: what is refused for another reason is not counted.
        if let Err(refusal) = admitted.and_then(|()| self.take_tasks(tenant.no, count_of)) {
            return self.refuse_new(request, &by, refusal, reply);
        }
        let mut job = Job::new(self.job_id(now), spec, count, now);
        job.creator = creator(&by);
        job.credentials = credentials::named(&job.spec, &tasks);
        job.tenant = tenant;
        job.caller = caller.map(Box::new);
        self.shared.spec(&mut job);
        let mut lanes: Vec<Host> = Vec::new();
        let mut numbers: HashMap<Host, LaneNumber> = HashMap::new();
        let mut laned: LanedTasks = Vec::with_capacity(tasks.specs.len());
        for (spec, host) in tasks.specs.into_iter().zip(tasks.hosts) {
            let lane = *numbers.entry(host).or_insert_with_key(|host| {
                lanes.push(self.shared.host(host.clone()));
                lanes.len() as LaneNumber - 1
            });
            laned.push((lane, spec));
        }
        self.jobs.arrives(job.id, job.tenant.no, u64::from(count));
        let id = job.id;
        let nth = self.outbox.submit(Submission {
            job: job.clone(),
            request: request.clone(),
            lanes: lanes.clone(),
            tasks: laned.clone(),
        });
        self.note_job(&by, Of::Submission(nth), "SubmitJob", id);
        self.outbox.then(Effect::Admit { nth, job: Box::new(job), lanes, tasks: laned, request, by, reply });
    }

    /// Whether unfinished jobs would take more memory than they may with a spec of so many bytes and so many lanes more.
    pub(super) fn is_full_of_jobs(&self, bytes: usize, lanes: usize) -> bool {
        self.jobs.bytes() + (self.queue.lanes() + lanes) * LANE_BYTES + bytes > self.bounds.jobs_bytes
    }

    /// A new id: a `UUIDv7` of the scheduler's clock and chance, so that ids sort by creation.
    fn job_id(&mut self, now: Timestamp) -> JobId {
        let millis = u64::try_from(now.0 / 1000).unwrap_or(0);
        JobId(uuid::Builder::from_unix_timestamp_millis(millis, &self.rng.random()).into_uuid())
    }

    /// Takes a job into memory, without lanes. Returns the commands that waited for it, to be taken once it is complete.
    pub(super) fn enlist(&mut self, run: JobRun, now: Timestamp) -> VecDeque<Admitted<JobCommand>> {
        let id = run.job.id;
        let spec = &run.job.spec;
        let may_run = run.may_run(now);
        self.queue.add_job(id, spec.priority, spec.group.max_concurrency, may_run, spec.defaults.timeouts.task);
        self.queue.set_party(id, run.job.party());
        if let Some(start) = spec.start_time.filter(|start| *start > now) {
            self.starts.set(start, id);
        }
        if let Some(deadline) = run.job.deadline() {
            self.deadlines.set(deadline, Timer::JobDeadline(id));
        }
        self.jobs.insert(run)
    }

    /// Lets a job run, or not, by what it is now.
    pub(super) fn job_may_run(&mut self, job: JobId, now: Timestamp) {
        if let Some(run) = self.jobs.get(job) {
            let may_run = run.may_run(now);
            self.queue.set_may_run(job, may_run);
        }
    }

    fn add_tasks(
        &mut self,
        job: JobId,
        chunk_id: String,
        digest: [u8; 32],
        tasks: Tasks,
        by: &Actor,
        reply: Reply<Chunk>,
    ) {
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        if run.takes_no_tasks() {
            // A chunk that was stored while the job was open, or is on its way, is answered again all the same.
            let otherwise = EngineError::Sealed(job, run.job.state);
            return self.outbox.then(Effect::ReadChunk { job, chunk_id, digest, otherwise, reply });
        }
        let count = tasks.specs.len() as u64;
        let has_too_many = u64::from(run.job.counts.total) + run.adding() + count > u64::from(u32::MAX);
        let tenant = run.job.tenant.no;
        let full = match (has_too_many, self.is_full_of_jobs(0, 0)) {
            (true, _) => Some(EngineError::TooManyTasks(job)),
            (_, true) => Some(EngineError::TooManyJobs),
            _ => {
                let admitted = self.admits(tenant, 0, count);
                let admitted = admitted.and_then(|()| self.admits_attempts(tenant, "tasks", &tasks.specs));
                admitted.and_then(|()| self.take_tasks(tenant, count)).err()
            }
        };
        if let Some(otherwise) = full {
            // It may be counted because it is on its way.
            return self.outbox.then(Effect::ReadChunk { job, chunk_id, digest, otherwise, reply });
        }
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        run.arrived = now;
        let named = credentials::named(&run.job.spec, &tasks);
        if named.union(&run.job.credentials).count() > NAMED_MAX + 1 {
            self.give_back_tasks(tenant, count);
            // They are written with each change of the job. One more is that of its defaults.
            let why = format!("name too many credentials: all tasks of a job name at most {NAMED_MAX}");
            return answer(reply, Err(AccessError::Invalid("tasks", why).into()));
        }
        run.activity_mut().adding += count;
        if !named.is_subset(&run.job.credentials) {
            self.jobs.names(job, named);
            self.outbox.changed(job);
        }
        let mut new_lanes = Vec::new();
        let mut laned: LanedTasks = Vec::with_capacity(tasks.specs.len());
        for (spec, host) in tasks.specs.into_iter().zip(&tasks.hosts) {
            let Some((lane, is_new)) = self.queue.lane_for(job, host) else { continue };
            if is_new {
                new_lanes.push((lane, host.clone()));
            }
            laned.push((lane, spec));
        }
        let nth =
            self.outbox.add(Addition { job, chunk_id: chunk_id.clone(), digest, new_lanes, tasks: laned.clone() });
        self.note_job(by, Of::Addition(nth), "AddTasks", job);
        self.outbox.then(Effect::AdmitTasks { nth, job, chunk_id, digest, tasks: laned, reply });
    }

    fn control(&mut self, job: JobId, what: &Control, by: &Actor, reply: Reply<Arc<Job>>) {
        let (now, condition, has_others) = (self.now(), self.condition(), !self.book.has_one_tenant());
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        // What only holds work may not use up what is left for those who end some.
        let holds = matches!(what, Control::Pause | Control::Seal) && matches!(condition, Condition::Short(_));
        let tenant = run.job.tenant.no;
        if let Condition::Short(why) = condition
            && holds
            && !self.holds.may(tenant, has_others)
        {
            return answer(reply, Err(EngineError::StoreFull(why)));
        }
        let event = match what {
            Control::Seal => JobEvent::Sealed,
            Control::Pause => JobEvent::Paused,
            Control::Resume => JobEvent::Resumed,
            Control::Cancel(why) => JobEvent::Cancelled(why.clone()),
        };
        let change = match run.job_mut().apply(event, now) {
            Ok(change) => change,
            Err(wrong) => return answer(reply, Err(EngineError::WrongState(job, wrong))),
        };
        if matches!(what, Control::Resume) {
            (run.arrived, run.set_going) = (now, now);
        }
        match change {
            Change::Stopping if !matches!(run.stage, Stage::Sweeping(_)) => self.stopping(job),
            // The tasks are being ended already, for the sake of the group: only the cause of the job's end is another one.
            Change::Stopping | Change::Changed => self.outbox.job_event(run.job_mut(), EventKind::JobChanged),
            Change::None | Change::Ended => {}
        }
        if change != Change::None {
            self.note_job(by, Of::Job(job), what.method(), job);
            if holds {
                self.holds.count(tenant);
            }
        }
        if matches!(what, Control::Pause) && change == Change::Changed {
            self.outbox.then(Effect::StopAttempts(job, Cause::Pause));
        }
        self.job_may_run(job, now);
        if let Some(run) = self.jobs.get(job) {
            self.outbox.then(Effect::Reply(reply, run.job.clone()));
        }
        self.settle_if_done(job);
    }

    fn update(&mut self, job: JobId, patch: &JobPatch, by: &Actor, reply: Reply<Arc<Job>>) {
        let now = self.now();
        self.jobs.respec(job, |job| patch.apply(job, now));
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        run.set_rates(now);
        // A job that rested by its old rate may start by the new one.
        self.timers.clear(&Timer::JobRested(job));
        self.queue.set_resting(job, false);
        self.queue.set_order(job, run.job.spec.priority, run.job.spec.group.max_concurrency);
        self.outbox.job_event(run.job_mut(), EventKind::JobChanged);
        let changed = run.job.clone();
        self.outbox.respecced(changed.clone());
        self.note_update(by, job, patch);
        self.outbox.then(Effect::Reply(reply, changed));
    }

    pub(super) fn note_update(&mut self, by: &Actor, job: JobId, patch: &JobPatch) {
        self.note(by, Of::Job(job), |now| AuditRow {
            changed: patch.changed(),
            ..AuditRow::of_job(by, "UpdateJob", job, now)
        });
    }

    /// Limits are merged here, so that of two patches at once neither is lost.
    fn set_limits(&mut self, patch: &LimitsPatch, by: &Actor, reply: Reply<Limits>) {
        self.limits = patch.over(&self.limits);
        self.note(by, Of::Always, |now| AuditRow {
            changed: patch.changed(),
            ..AuditRow::done(by, "AdminService/UpdateLimits", SERVER.to_owned(), "", now)
        });
        let limits = &mut self.outbox.batch().limits;
        *limits = Some(patch.clone().after(limits.take().unwrap_or_default()));
        self.outbox.then(Effect::LimitsStored(self.limits.clone(), reply));
    }
}

/// What a job keeps of who submits it.
fn creator(by: &Actor) -> Creator {
    if by.principal == LOCAL { Creator::default() } else { Creator { no: by.principal, name: by.name.clone() } }
}

/// Whose requests those of somebody are.
fn party(by: &Actor) -> Option<Party> {
    by.scope.no().map(|tenant| Party { tenant, principal: by.principal })
}
