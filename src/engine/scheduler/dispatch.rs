//! Starting attempts: the task that is next, its permits, its claim.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::engine::attempt::Launch;
use crate::engine::effect::Effect;
use crate::engine::feed::Active;
use crate::engine::figures;
use crate::engine::hub::Notice;
use crate::engine::queue::Admission;
use crate::engine::queue::task::{Queued, Running, Wait};
use crate::engine::scheduler::{DISK_LOOK, Scheduler};
use crate::engine::spans;
use crate::engine::timers::{Timer, Timers};
use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::permits::{AttemptPlace, HostPermit};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::{Change, Job, JobEvent};
use crate::model::progress::Meter;
use crate::model::spec::Work;
use crate::model::storage::StorageHold;
use crate::model::task::{Task, TaskEvent};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::{Claim, StoredTask};

/// Claims that may wait for a commit before no more attempts start.
const CLAIMS_MAX: usize = 8192;

impl Scheduler {
    /// Starts attempts while there are tasks and permits, and while their claims can be stored.
    pub(super) fn dispatch(&mut self) {
        let may_start =
            |this: &Self| this.outbox.claims() < CLAIMS_MAX && this.outbox.is_roomy() && this.has_few_ends();
        while !self.draining && may_start(self) && !self.is_blocked() {
            let now = self.now();
            let Some(mut place) = self.runner.hosts.take_place() else { return };
            self.set_left(place.left());
            let Some((job, task, mut permit)) = self.pick(now) else { return };
            place.begin();
            permit.belongs_to(&place);
            permit.is_for(self.jobs.get(job).map(|run| run.job.party()).unwrap_or_default());
            self.start(job, task, permit, place, now);
        }
    }

    /// Says to the queue how many places would be left, and what tenants have of those that are taken.
    pub(super) fn set_left(&mut self, left: Option<u32>) {
        if left.is_some() {
            for (tenant, idle) in self.runner.hosts.take_idle() {
                self.queue.set_idle(tenant, idle);
            }
        }
        self.queue.set_left(left);
    }

    /// Whether what has ended and was not taken in, with what it brought, is no more than what may run. An attempt that has
    /// ended gives its place to the next one, so without this they would become more for as long as the store is slower than
    /// the origins.
    fn has_few_ends(&self) -> bool {
        let out = self.attempts.len() + self.ends.len();
        self.takes_ends() || out < self.places()
    }

    fn pick(&mut self, now: Timestamp) -> Option<(JobId, Queued, HostPermit)> {
        let Self { queue, jobs, runner, timers, tenant_rates, mirrored, cuts, .. } = self;
        let mut permit = None;
        let (job, task) = queue.pick(|job, host, kept, next| {
            let Some(of) = jobs.get(job).map(|run| &run.job) else { return Admission::Empty };
            let (tenant, parts_gone) = (of.tenant.no, of.parts_gone);
            if jobs.storage_used_up(tenant).is_some() && !next.is_some_and(|next| holds_all(next, parts_gone)) {
                timers.set_earlier(now.plus(DISK_LOOK), Timer::TenantRested(tenant));
                return Admission::Behind;
            }
            let Some(run) = jobs.get_mut(job) else { return Admission::Empty };
            let due = next.and_then(|next| ready(&run.job, next)).map_or(run.arrived, |ready| ready.max(run.set_going));
            let direct = next.filter(|next| !has_proxy(&run.job, next));
            let share = |is_last| direct.and_then(|next| shared(&runner.hosts, host, tenant, (next, due), is_last));
            let rates = tenant_rates.get(&tenant).map(|(_, rates)| rates);
            let (own, of_tenant) = (run.rates_allow(now), rates.map_or(Ok(()), |rates| rates.check(now)));
            if own.is_err() || of_tenant.is_err() {
                // Nothing is sent by what shares a failure, so that no rate holds it up.
                permit = share(false);
                if permit.is_some() {
                    return Admission::Go(host.clone());
                }
            }
            if let Err(until) = own {
                timers.set_earlier(until, Timer::JobRested(job));
                return Admission::JobBlocked;
            }
            if let Err(until) = of_tenant {
                timers.set_earlier(until, Timer::TenantRested(tenant));
                return Admission::TenantResting;
            }
            let Some(next) = next else {
                // Tasks of a host that takes none are not read before their time.
                return match runner.hosts.check(host, tenant) {
                    Ok(()) => Admission::Empty,
                    Err(_) if runner.hosts.shared_failure(host, tenant, due).is_some() => Admission::Empty,
                    Err(blocked) => blocked_at(&runner.hosts, timers, host.clone(), tenant, blocked),
                };
            };
            let crashes = next.row.as_ref().map(|row| row.task.crashes).unwrap_or_default();
            if let Err(until) = cuts.admit(TaskId { job, index: next.index }, crashes, now) {
                return Admission::Aside(Wait::Apart(until));
            }
            let waited_for = next.waited_for.as_ref();
            let started = start_at(&runner.hosts, host, waited_for, (tenant, kept), || mirrors(next));
            match started.or_else(|blocked| share(true).ok_or(blocked)) {
                Ok(granted) => {
                    let host = granted.host().clone();
                    if granted.failure().is_none() {
                        run.rates().take(now);
                        rates.inspect(|rates| rates.take(now));
                    }
                    permit = Some(granted);
                    Admission::Go(host)
                }
                Err((at, blocked)) => {
                    // What is parked at a mirror that is full would not hear that its own host is back.
                    if at != *host
                        && let Err(Blocked::Paused(until)) = runner.hosts.check(host, tenant)
                    {
                        timers.set_earlier(until, Timer::MirrorWake(at.clone()));
                        mirrored.entry(at.clone()).or_default().insert(host.clone());
                    }
                    blocked_at(&runner.hosts, timers, at, tenant, blocked)
                }
            }
        })?;
        Some((job, task, permit?))
    }

    #[allow(clippy::too_many_lines)] // One step after another, each with what the one before it made.
    fn start(&mut self, job: JobId, task: Queued, permit: HostPermit, place: AttemptPlace, now: Timestamp) {
        let (id, lane) = (TaskId { job, index: task.index }, task.lane);
        let Some(run) = self.jobs.get_mut(job) else {
            drop(permit);
            return self.queue.unpick(job, lane);
        };
        let mut row = task.row.map(|row| *row).unwrap_or_default();
        let (before, held) = (row.task.state, row.held_of(&task.spec.work, run.job.parts_gone));
        let ready = figures::ready(&run.job, &row.task);
        if !row.task.crashes.is_none() {
            row.task.crashes = self.cuts.held_against(id, row.task.crashes, now);
        }
        let (is_suspect, is_first) = (row.task.crashes.are_all_but_too_many(), row.task.start_time.is_none());
        match row.task.apply(TaskEvent::Started, now) {
            Ok(started) => row.task = started,
            Err(wrong) => {
                drop(permit);
                self.queue.unpick(job, lane);
                return self.contradicted(job, &format!("task {} was to start: {wrong}", id.index));
            }
        }
        let mut options = spans::options(&run.job, &task.spec, id, row.task.fence, self.runner.traces.is_some());
        let tenant = run.job.tenant.no;
        options.timeouts.attempt = self.attempt_limit(tenant, options.timeouts.attempt);
        let storage = Arc::new(StorageHold::of(self.jobs.storage(tenant).clone(), 0));
        let credential = self.credential(job, options.http.credential.as_deref(), &task.spec, now);
        let Some(run) = self.jobs.get_mut(job) else {
            drop(permit);
            return self.queue.unpick(job, lane);
        };
        let stop = self.runner.token.child_token();
        let rest = stop.child_token();
        let meter = Arc::new(Meter::default());
        let stored = CancellationToken::new();
        let is_last = options.retry.is_last(row.task.attempts);
        let launch = Launch {
            id,
            fence: row.task.fence,
            spec: task.spec.clone(),
            options,
            directory: run.job.directory(),
            tenant: run.job.tenant.clone(),
            party: run.job.party(),
            rates: run.rates().clone(),
            tenant_rates: self.tenant_rates.get(&run.job.tenant.no).map(|(_, rates)| rates.clone()),
            permit: Mutex::new(Some(permit)),
            place: Arc::new(place),
            stop: stop.clone(),
            rest: rest.clone(),
            meter: meter.clone(),
            storage: storage.clone(),
            attempt_start: now,
            // One that comes again since a host was paused has waited for that.
            since: if task.waited_for.is_some() { Timestamp::default() } else { now },
            first_start: row.task.start_time.unwrap_or(now),
            stored: stored.clone(),
            has_history: row.task.fence > 1,
            is_first,
            is_last,
            cursor: task.cursor.clone(),
            credential,
        };
        let running = Running {
            fence: row.task.fence,
            lane,
            spec: task.spec.clone(),
            row: row.clone(),
            attempt_start: now,
            stop,
            rest,
            cause: Arc::default(),
            cursor: task.cursor,
            storage: storage.clone(),
            withdrawn: None,
        };
        if !run.job_mut().counts.try_move(before, row.task.state, 1) {
            drop(launch);
            self.queue.unpick(job, lane);
            return self.contradicted(job, &format!("no task was counted as {before}, and task {} is", id.index));
        }
        // Last, since whatever runs is waited for.
        if let Err(held) = self.queue.start(id, running) {
            drop(launch);
            self.queue.unpick(job, lane);
            return self.contradicted(job, &format!("task {} was to start and is {held:?}", id.index));
        }
        run.job_mut().held.remove(held);
        if held.bytes > 0 {
            self.jobs.hand_over(job, &storage, held.bytes);
        }
        let Some(run) = self.jobs.get_mut(job) else { return };
        let is_download = matches!(task.spec.work, Work::Download(_));
        run.job_mut().downloads |= is_download;
        self.job_started(job, now);
        let claim = Claim { id, task: row.task.clone(), attempt_start: now };
        let bytes = task.spec.memory_bytes() + row.memory_bytes();
        let notice = self.publish_start(job, StoredTask { index: id.index, lane, spec: task.spec, row }, meter);
        // What a download leaves is found by its claim.
        self.outbox.started(claim, notice, bytes, is_download.then_some(stored));
        if is_suspect {
            // If it brings the server down, that is to be held against it.
            self.outbox.changed(job);
        }
        if let Some(ready) = ready {
            self.runner.metrics.task_started(now.since(ready));
        }
        self.runner.launch(&mut self.attempts, launch);
    }

    fn publish_start(&mut self, job: JobId, task: StoredTask, meter: Arc<Meter>) -> Effect {
        let (index, task) = (task.index, Arc::new(task));
        self.hub.started(job, index, Active { task: task.clone(), meter, since: Instant::now() });
        let after = self.jobs.get(job).map(|run| run.job.sequence).unwrap_or_default();
        Effect::Notify(job, after, Notice::Started(task))
    }

    fn job_started(&mut self, job: JobId, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        if run.job_mut().apply(JobEvent::Started, now) == Ok(Change::Changed) {
            if let Some(deadline) = run.job.deadline() {
                self.deadlines.set(deadline, Timer::JobDeadline(job));
            }
            self.outbox.job_began(run.job_mut());
        }
    }
}

/// Whether a task has left all bytes of its file: it needs no room to be finished.
fn holds_all(task: &Queued, parts_gone: Option<Timestamp>) -> bool {
    task.row.as_ref().is_some_and(|row| row.holds_all(&task.spec.work, parts_gone))
}

/// Whether a task goes by a proxy of its own: a host may be gone from here and not from there.
fn has_proxy(job: &Job, task: &Queued) -> bool {
    [&job.spec.defaults.http, &task.spec.options.http].iter().any(|http| http.proxy_url.is_some())
}

/// Since when a task that is next could start, where that is known.
fn ready(job: &Job, task: &Queued) -> Option<Timestamp> {
    match &task.row {
        Some(row) => figures::ready(job, &row.task),
        None => figures::ready(job, &Task::default()),
    }
}

/// The right to fail with the last probe of a host that is gone, for a task that is due since then; `is_last`: its mirrors cannot
/// be asked either.
fn shared(
    hosts: &Arc<Hosts>,
    host: &Host,
    tenant: TenantNo,
    (task, due): (&Queued, Timestamp),
    is_last: bool,
) -> Option<HostPermit> {
    let permit = hosts.share(host, tenant, due)?;
    (is_last || mirrors(task).is_empty()).then_some(permit)
}

/// The hosts of the mirrors of a task.
fn mirrors(task: &Queued) -> Vec<Host> {
    let Work::Download(spec) = &task.spec.work else { return Vec::new() };
    spec.mirrors.iter().filter_map(|url| Host::of(&Url::parse(url).ok()?)).collect()
}

fn blocked_at(hosts: &Hosts, timers: &mut Timers, host: Host, tenant: TenantNo, blocked: Blocked) -> Admission {
    match blocked {
        // One for all lanes that wait there.
        Blocked::Rate(until) => timers.set_earlier(until, Timer::RateWake(host.clone())),
        Blocked::Paused(until) => timers.set_earlier(until, Timer::HostWake(host.clone(), tenant)),
        Blocked::Full | Blocked::Share | Blocked::LeftToOthers => {}
    }
    match blocked {
        // One that probes whether the host has come back for it takes no room of others.
        Blocked::Full if hosts.rank(&host, tenant).is_none() => Admission::TenantBlocked(host),
        Blocked::Full | Blocked::Rate(_) => Admission::HostBlocked(host),
        Blocked::Paused(_) | Blocked::Share | Blocked::LeftToOthers => Admission::TenantBlocked(host),
    }
}

/// Starts a request of a tenant to `host`, of whose room so much is kept for others, or to a mirror while `host` is paused;
/// else says which of them to wait for. A host that was waited for goes first: who asks for it only once it runs comes after all
/// that the scheduler starts there, and may find it paused again each time.
fn start_at(
    hosts: &Arc<Hosts>,
    host: &Host,
    waited_for: Option<&Host>,
    (tenant, kept): (TenantNo, u32),
    mirrors: impl FnOnce() -> Vec<Host>,
) -> Result<HostPermit, (Host, Blocked)> {
    if let Some(waited_for) = waited_for.filter(|it| *it != host)
        && let Ok(permit) = hosts.try_start(waited_for, tenant, 0)
    {
        return Ok(permit);
    }
    let mut blocked = match hosts.try_start(host, tenant, kept) {
        Ok(permit) => return Ok(permit),
        Err(why) => (host.clone(), why),
    };
    if matches!(blocked.1, Blocked::Paused(_)) {
        for mirror in mirrors() {
            match hosts.try_start(&mirror, tenant, 0) {
                Ok(permit) => return Ok(permit),
                Err(why) if why.until() < blocked.1.until() => blocked = (mirror, why),
                Err(_) => {}
            }
        }
    }
    Err(blocked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::limits::Limits;
    use crate::model::tenant::DEFAULT_NO;

    #[test]
    fn a_task_begins_at_the_host_that_it_has_waited_for() {
        let clock = Clock::system();
        let hosts = Hosts::new(Limits::default(), clock.clone());
        let (own, mirror) = (Host::new("own:80"), Host::new("mirror:80"));
        let start = |waited_for| start_at(&hosts, &own, waited_for, (DEFAULT_NO, 0), Vec::new).unwrap().host().clone();
        assert_eq!((start(None), start(Some(&mirror))), (own.clone(), mirror.clone()));
        let soon = clock.now().plus(std::time::Duration::from_secs(3600));
        hosts.pause(&mirror, DEFAULT_NO, soon, "it asked for that");
        assert_eq!(start(Some(&mirror)), own, "it is paused again, and holds up no other task of the lane");
    }
}
