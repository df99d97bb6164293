//! The loop: next event, apply, commit, perform effects.
//!
//! One task owns all running state: the [`Queue`] has the tasks that memory holds, the [`JobTable`] the jobs, the
//! [`Outbox`] the changes that wait to be committed. The loop applies what happens to memory at once and gathers the
//! writes; while one batch is being committed the next one fills (group commit without a timer). Answers, publications
//! and stops wait for the commit of what they tell of.

mod access;
mod commands;
mod commits;
mod counting;
mod credentials;
mod crowded;
mod cuts;
mod dispatch;
mod ends;
mod explain;
mod holds;
mod housekeeping;
mod in_flight;
mod incoming;
mod incoming_page;
mod late;
mod late_reads;
mod linger;
mod parked;
mod perform;
mod piece;
mod pieces;
mod quotas;
mod read;
mod reads;
pub(crate) mod recovery;
mod reload;
mod rereads;
mod selections;
mod shared;
mod survey;
mod suspects;
mod tenants;
mod visits;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::engine::attempt::Ended;
use crate::engine::bounds::Bounds;
use crate::engine::command::{Admitted, Command, EngineError};
use crate::engine::credentials::Uses;
use crate::engine::hub::Hub;
use crate::engine::jobs::{JobRun, JobTable};
use crate::engine::outbox::Outbox;
use crate::engine::queue::task::{BatchNumber, Cause, Running};
use crate::engine::queue::{Queue, Standing};
use crate::engine::runner::{Checks, Runner};
use crate::engine::running::Attempts;
use crate::engine::scheduler::crowded::Crowded;
use crate::engine::scheduler::cuts::Cuts;
use crate::engine::scheduler::holds::Holds;
use crate::engine::scheduler::in_flight::{InFlight, answer_of, lost};
use crate::engine::scheduler::incoming_page::IncomingPages;
use crate::engine::scheduler::late_reads::LateReads;
use crate::engine::scheduler::linger::Linger;
use crate::engine::scheduler::parked::Parked;
use crate::engine::scheduler::piece::Pieces;
use crate::engine::scheduler::read::Read;
use crate::engine::scheduler::rereads::Rereads;
use crate::engine::scheduler::shared::Shared;
use crate::engine::scheduler::survey::Survey;
use crate::engine::timers::{Starts, Timer, Timers};
use crate::engine::workers::Worker;
use crate::engine::writer::{Condition, WriterLink};
use crate::limits::transport::JobRates;
use crate::model::book::Book;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::limits::{Limits, RateLimit};
use crate::model::quotas::Allowance;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::StoreError;

/// Commands that are taken in one go.
const COMMANDS_MAX: usize = 256;
/// Timers that are worked off in one go.
const TIMERS_MAX: usize = 1024;
/// Lanes parked at the mirrors of hosts that are back, of which so many look in one go; tasks whose waits are over, of which so
/// many do of each kind.
const WAKES_MAX: usize = 1024;
/// How often the free disk space is looked at while a download waits for some.
const DISK_LOOK: Duration = Duration::from_secs(1);
/// All running state.
pub(crate) struct Scheduler {
    runner: Arc<Runner>,
    hub: Arc<Hub>,

    bounds: Bounds,
    queue: Queue,
    jobs: JobTable,
    outbox: Outbox,
    /// Pages that wait for the batch after this one.
    incoming: IncomingPages,
    /// Ends of attempts that were deferred, and wait for the batch after this one with what they bring.
    ends: VecDeque<Ended>,
    /// Room for commands that wait for their jobs.
    parked: Parked,
    /// Jobs that were paused or sealed since room became short.
    holds: Holds,
    /// Long work on jobs that goes on piece by piece, a bounded number of rows in each commit.
    pieces: Pieces,
    /// Jobs of which named tasks are to be put back with the next commit, and how many.
    named_retries: Vec<(JobId, usize)>,
    /// Retries of named tasks for which that commit has no room.
    crowded: Crowded,
    /// Tasks whose attempts the end of the last process cut.
    cuts: Cuts,
    /// Jobs that are to be read again, because memory and store contradict each other about them.
    reloading: Vec<JobId>,
    rereads: Rereads,
    /// Deleted jobs whose rows are being removed.
    purging: HashSet<JobId>,
    timers: Timers,
    starts: Starts,
    /// The ends of the times that jobs have: apart, since they wait where more has ended than a batch takes.
    deadlines: Timers,
    shared: Shared,
    /// The limits as they were decided last; those in force may still be older.
    limits: Limits,
    /// Who may call, as it was decided last; what is in force may still be older.
    book: Arc<Book>,
    books: watch::Sender<Arc<Book>>,
    uses: Uses,
    /// The rates of all tenants, with what they allow: attempts have them for as long as they run, whether they are limited
    /// when these begin or not.
    tenant_rates: HashMap<TenantNo, (RateLimit, Arc<JobRates>)>,
    /// Hosts at which lanes wait because they are full mirrors, each with the paused hosts of those lanes, until a timer has them
    /// look again.
    mirrored: BTreeMap<Host, BTreeSet<Host>>,
    /// What is left to tenants of their `tasks_per_second`.
    allowances: HashMap<TenantNo, Allowance>,
    /// Tenants that are being deleted, with their names.
    closing_tenants: HashMap<TenantNo, Arc<str>>,
    rng: SmallRng,

    draining: bool,
    /// Whether a drain has waited as long as it waits for attempts.
    is_cut: bool,
    looks: Looks,
    late: LateReads,
    survey: Survey,
    checks: Checks,

    attempts: Attempts,
    reads: JoinSet<Read>,
    link: WriterLink,
    in_flight: Option<InFlight>,
    removals: Removals,
    /// The last batch that is durable.
    committed: BatchNumber,
}

/// Deletions and purges that go before everything else, since nothing else finds room.
#[derive(Default)]
struct Removals {
    in_flight: Option<InFlight>,
    /// Whether they wait a moment, because there was no room even for them.
    rest: bool,
    /// Whether those that were tried last were not stored, which is said once.
    fail: bool,
}

/// The looks that the scheduler takes from time to time.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a look of its own.
struct Looks {
    /// Whether the store may have deleted jobs that are not being purged.
    deleted_left: bool,
    /// Whether a look for expired and deleted jobs is under way.
    for_removable: bool,
    /// Whether a look at the free disk space is under way.
    for_space: bool,
    /// The last task for which disk space was looked for.
    space_after: Option<TaskId>,
    /// Files of deleted jobs.
    forgetting: Forgetting,
}

/// The files of deleted jobs.
#[derive(Debug, Default)]
struct Forgetting {
    /// Jobs whose files are to be removed.
    jobs: VecDeque<JobId>,
    /// How many jobs have theirs removed now.
    under_way: usize,
}

impl Scheduler {
    /// A scheduler that knows no job yet.
    pub(crate) fn new(
        (runner, workers): (Arc<Runner>, Vec<Worker>),
        hub: Arc<Hub>,
        link: WriterLink,
        books: watch::Sender<Arc<Book>>,
        bounds: Bounds,
        seed: u64,
        checks: Checks,
    ) -> Scheduler {
        let limits = Limits::clone(&runner.hosts.limits());
        let book = books.borrow().clone();
        let mut queue = Queue::new(bounds);
        let hosts = runner.hosts.clone();
        queue.set_standing(Standing(Arc::new(move |host, tenant| hosts.rank(host, tenant))));
        Scheduler {
            runner,
            hub,
            bounds,
            queue,
            jobs: JobTable::default(),
            outbox: Outbox::new(),
            incoming: IncomingPages::new(),
            ends: VecDeque::new(),
            parked: Parked::default(),
            holds: Holds::default(),
            pieces: Pieces::default(),
            named_retries: Vec::new(),
            crowded: Crowded::new(bounds.crowded_bytes),
            cuts: Cuts::default(),
            reloading: Vec::new(),
            rereads: Rereads::default(),
            purging: HashSet::new(),
            timers: Timers::default(),
            starts: Starts::default(),
            deadlines: Timers::default(),
            shared: Shared::default(),
            limits,
            book,
            books,
            uses: Uses::default(),
            tenant_rates: HashMap::new(),
            mirrored: BTreeMap::new(),
            allowances: HashMap::new(),
            closing_tenants: HashMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            draining: false,
            is_cut: false,
            looks: Looks { deleted_left: true, ..Looks::default() },
            late: LateReads::default(),
            survey: Survey::default(),
            checks,
            attempts: Attempts::new(workers),
            reads: JoinSet::new(),
            link,
            in_flight: None,
            removals: Removals::default(),
            committed: 0,
        }
    }

    /// Runs until it has drained, or until the store cannot be trusted. Then nothing runs any more, and all that was
    /// acknowledged is durable.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Admitted<Command>>) -> Result<(), StoreError> {
        let result = self.go_on(&mut commands).await;
        commands.close();
        while let Some(Admitted { command, .. }) = commands.recv().await {
            command.refuse(EngineError::Draining);
        }
        for command in self.crowded.take_all().chain(self.jobs.take_waiting()) {
            command.refuse(EngineError::Draining);
        }
        self.reads.shutdown().await;
        self.outbox.fail(&EngineError::Draining);
        result
    }

    async fn go_on(&mut self, commands: &mut mpsc::Receiver<Admitted<Command>>) -> Result<(), StoreError> {
        let mut taken = Vec::with_capacity(COMMANDS_MAX);
        let mut lingering = Linger::default();
        let mut has_callers = true;
        let mut woken = Instant::now();
        loop {
            self.wake_due();
            self.dispatch();
            self.attempts.hand_out();
            self.begin_reads();
            self.survey_on();
            let running = self.attempts.len();
            let linger = lingering.left(&self.outbox, running);
            let is_full = !self.outbox.takes_ends(self.places());
            let linger = linger.filter(|_| self.pieces.is_empty() && !self.draining && !is_full);
            let mut has_places = false;
            if linger.is_none() {
                has_places = self.begin_commits().await;
                if self.outbox.is_empty() {
                    lingering = Linger::default();
                }
            }
            self.check();
            if self.has_drained() || self.has_drained_in_vain() {
                return Ok(());
            }
            // While nothing can be committed, what adds to the batch is refused, and deletions have to come through.
            let roomy = self.outbox.is_roomy() || self.is_blocked();
            let goes_on = self.survey.is_under_way() || (self.queue.has_to_wake() || has_places) && !self.draining;
            let wait = self.wait();
            let takes_ends = self.takes_ends();
            self.runner.metrics.looped(woken.elapsed());
            let gathers = self.attempts.rest().filter(|_| takes_ends);
            let sleep = sleep([linger, gathers].into_iter().flatten().fold(wait, Duration::min));
            tokio::select! {
                biased;
                result = answer_of(&mut self.in_flight) => self.commit_done(result)?,
                result = answer_of(&mut self.removals.in_flight) => self.removals_done(result)?,
                Some(ended) = self.attempts.next(gathers.is_some()), if takes_ends => self.attempt_ended(ended),
                Some(read) = self.reads.join_next() => self.read_done(read)?,
                count = commands.recv_many(&mut taken, COMMANDS_MAX), if roomy && has_callers => {
                    if count == 0 {
                        has_callers = false;
                        self.drain();
                    }
                }
                () = self.runner.hosts.freed(), if gathers.is_none() => {}
                changed = self.link.changed() => changed.map_err(|_| lost())?,
                // To sleep no time takes until the next tick of the clock.
                () = tokio::task::yield_now(), if goes_on => {}
                () = sleep, if !goes_on => {}
            }
            woken = Instant::now();
            // The order above is fixed, so that a simulation can be repeated: whatever else is ready has its turn now.
            self.take_what_is_done()?;
            while roomy
                && taken.len() < COMMANDS_MAX
                && let Ok(command) = commands.try_recv()
            {
                taken.push(command);
            }
            for command in taken.drain(..) {
                self.command(command);
            }
            self.take_freed();
        }
    }

    /// Wakes lanes at hosts that have room again. Those that come now are taken here: nothing needs to be woken for them once more.
    fn take_freed(&mut self) {
        let _ = self.runner.hosts.freed().now_or_never();
        let freed = self.runner.hosts.take_freed();
        if !freed.is_empty() {
            self.set_left(self.runner.hosts.left());
        }
        for host in freed {
            self.queue.wake_host(&host, 1);
        }
        for host in self.runner.hosts.take_lost() {
            self.queue.wake_all(&host);
        }
    }

    /// Whether a drain has waited long enough for nothing but a commit that cannot be made. Until then whoever holds the store
    /// may let go of it: what has ended and is not stored runs again, and may be what must not.
    fn has_drained_in_vain(&self) -> bool {
        if self.draining
            && self.is_cut
            && self.attempts.is_empty()
            && let Condition::Blocked(why) | Condition::Busy(why) = self.condition()
        {
            // Nothing of it was acknowledged.
            tracing::warn!("the last changes were not stored: {why}; what had ended runs again after the restart");
            return true;
        }
        false
    }

    /// Takes all attempts and reads that have ended by now.
    fn take_what_is_done(&mut self) -> Result<(), StoreError> {
        self.take_ends();
        while let Some(read) = self.reads.try_join_next() {
            self.read_done(read)?;
        }
        Ok(())
    }

    /// Takes in the attempts that have ended by now, as many as the batch takes.
    fn take_ends(&mut self) {
        while self.takes_ends()
            && let Some(ended) = self.attempts.try_next()
        {
            self.attempt_ended(ended);
        }
    }

    /// Whether attempts that have ended are taken in, with what they bring. A drain that gives up waits for none.
    fn takes_ends(&self) -> bool {
        self.outbox.takes_ends(self.places()) && !self.store_rests() || self.is_cut
    }

    /// Whether the store is to be given no more than callers wait for.
    fn store_rests(&self) -> bool {
        *self.link.rest.borrow()
    }

    /// How many tasks may run at once.
    fn places(&self) -> usize {
        self.limits.max_concurrent_tasks.min(self.bounds.attempts) as usize
    }

    fn now(&self) -> Timestamp {
        self.runner.clock.now()
    }

    fn condition(&self) -> Condition {
        self.link.condition.borrow().clone()
    }

    fn is_blocked(&self) -> bool {
        *self.link.condition.borrow() != Condition::Writable
    }

    /// How long nothing is due. What is late and finds no room in the batch waits for the next one.
    fn wait(&self) -> Duration {
        if self.has_late_to_read() {
            return Duration::ZERO;
        }
        let now = self.now();
        let ends_wait = self.room_for_late() == 0;
        let late = self.queue.next_late().map(|due| due.since(now)).into_iter().chain([self.deadlines.wait(now)]);
        let queue = self.queue.next_due().map(|due| due.since(now));
        let timers = [self.timers.wait(now), self.starts.wait(now)];
        let all = queue.into_iter().chain(late.filter(|_| !ends_wait)).chain(timers);
        all.min().unwrap_or_default()
    }

    fn room_for_late(&self) -> usize {
        self.outbox.room_for_late(self.bounds.piece_rows as usize)
    }

    /// However many jobs start or wake at once, others have their turns between them.
    fn wake_due(&mut self) {
        let now = self.now();
        for _ in 0..TIMERS_MAX {
            let Some(job) = self.starts.pop_due(now) else { break };
            self.job_may_run(job, now);
        }
        for _ in 0..TIMERS_MAX {
            let Some(timer) = self.timers.pop_due(now) else { break };
            match timer {
                // They stand apart.
                Timer::JobDeadline(job) => self.deadlines.set(now, Timer::JobDeadline(job)),
                Timer::JobRested(job) => self.queue.set_resting(job, false),
                Timer::HostWake(host, _) => self.wake_host(&host),
                Timer::RateWake(host) => self.rate_allows(&host),
                Timer::MirrorWake(host) => {
                    self.mirrored.remove(&host);
                    self.queue.wake_all(&host);
                }
                Timer::TenantRested(tenant) => self.queue.set_tenant_resting(tenant, false),
                Timer::Housekeeping => self.look_for_removals(),
                Timer::DiskLook => self.look_for_space(),
                Timer::LateRested(id) => self.late_rested(id),
                Timer::JobReread(job) => self.read_again(job),
                Timer::Removals => self.removals.rest = false,
                Timer::Cut => {
                    self.is_cut = true;
                    self.queue.all_running().for_each(Running::cut);
                }
            }
        }
        self.queue.wake_more(WAKES_MAX);
        self.end_all_late(now);
        self.queue.wake_due(now, self.committed, WAKES_MAX);
    }

    /// Ends jobs and tasks whose time is over, as many as the batch takes: after a restart that may be all of them.
    fn end_all_late(&mut self, now: Timestamp) {
        while self.room_for_late() > 0
            && let Some(timer) = self.deadlines.pop_due(now)
        {
            if let Timer::JobDeadline(job) = timer {
                self.job_deadline(job, now);
            }
        }
        let (room, jobs) = (self.room_for_late(), &self.jobs);
        for (job, task) in self.queue.take_late(now, room, |job| jobs.get(job).is_some_and(JobRun::defers)) {
            self.end_late(job, task, now);
        }
        self.read_late();
    }

    /// As many lanes look as the rate of a host lets start something, and one that learns when it does so again.
    fn rate_allows(&mut self, host: &Host) {
        match self.runner.hosts.lookers(host) {
            Ok(lanes) => self.queue.wake_host(host, lanes as usize),
            Err(until) => self.timers.set_earlier(until, Timer::RateWake(host.clone())),
        }
    }

    /// After a pause or a change of limits, as many lanes look again as the host might have room for.
    fn wake_host(&mut self, host: &Host) {
        let room = self.runner.hosts.max_concurrent(host);
        self.queue.wake_host(host, room as usize);
    }

    /// Starts no attempt any more; those that run stop at a checkpoint, and their tasks are requeued.
    fn drain(&mut self) {
        if !self.draining {
            tracing::info!(
                running = self.queue.running(),
                "draining: running attempts stop at a checkpoint and are requeued"
            );
            self.draining = true;
            for running in self.queue.all_running() {
                running.stop(Cause::Drain);
            }
            self.timers.set(self.now().plus(self.runner.drain_patience), Timer::Cut);
        }
    }

    fn has_drained(&self) -> bool {
        self.draining
            && self.queue.running() == 0
            && self.attempts.is_empty()
            && self.in_flight.is_none()
            && self.removals.in_flight.is_none()
            && self.outbox.is_empty()
    }

    /// Checks the invariants of all owners, in tests that ask for it.
    #[allow(clippy::panic)] // A simulation has to stop where the first contradiction is.
    fn check(&self) {
        if self.checks == Checks::Off {
            return;
        }
        let indexes = self.queue.check().and_then(|()| self.jobs.check(|job| self.queue.running_of(job).count()));
        if let Err(what) = indexes.and_then(|()| self.check_quotas()) {
            panic!("an invariant does not hold: {what}");
        }
    }
}
