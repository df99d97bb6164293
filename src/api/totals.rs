//! What the server has to do, in numbers: summed up once for all who watch them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::to_proto;
use crate::engine::handle::Engine;
use crate::model::access::{Actor, PrincipalNo};
use crate::model::counts::Counts;
use crate::model::job::Job;
use crate::model::role::{Role, holds_at};
use crate::model::tenant::TenantNo;
use crate::model::told;
use crate::pb;

/// How old a sum may be. It looks at every job that has not ended, so it is made anew the less often the longer that takes: a
/// twentieth of the time goes into it at most, and where there are few jobs it is of now.
const AGE_MAX: Duration = Duration::from_millis(250);
const AGE_IN_LOOKS: u32 = 20;

/// What one tenant, or one creator of jobs in it, has to do, or all of them.
#[derive(Clone, Debug, Default)]
struct Sum {
    states: BTreeMap<i32, u32>,
    tasks: Counts,
    bytes_per_second: u64,
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        for (state, count) in &other.states {
            *self.states.entry(*state).or_default() += count;
        }
        add(&mut self.tasks, &other.tasks);
        self.bytes_per_second = self.bytes_per_second.saturating_add(other.bytes_per_second);
    }
}

/// The sums of one look.
#[derive(Debug, Default)]
struct Sums {
    all: Sum,
    /// Of each tenant that has a job.
    tenants: HashMap<TenantNo, (Arc<str>, Sum)>,
    /// Of each who created a job in a tenant.
    creators: HashMap<(TenantNo, PrincipalNo), Sum>,
}

impl Sums {
    /// Returns the sums that count a job.
    fn of(&mut self, job: &Job) -> [&mut Sum; 3] {
        let no = job.tenant.no;
        let (_, tenant) = self.tenants.entry(no).or_insert_with(|| (job.tenant.name.clone(), Sum::default()));
        [&mut self.all, tenant, self.creators.entry((no, job.creator.no)).or_default()]
    }

    /// Returns the sum of the jobs of a tenant, or of all, and of one creator, or of all.
    fn seen_by(&self, tenant: Option<TenantNo>, created_by: Option<PrincipalNo>) -> Sum {
        match (tenant, created_by) {
            (None, None) => self.all.clone(),
            (Some(no), None) => self.tenants.get(&no).map(|(_, sum)| sum.clone()).unwrap_or_default(),
            (Some(no), Some(creator)) => self.creators.get(&(no, creator)).cloned().unwrap_or_default(),
            (None, Some(creator)) => {
                let mut all = Sum::default();
                for (_, sum) in self.creators.iter().filter(|((_, of), _)| *of == creator) {
                    all.add(sum);
                }
                all
            }
        }
    }
}

/// The sums, and how long they count as those of now.
#[derive(Debug)]
struct Look {
    at: Instant,
    age_max: Duration,
    sums: Arc<Sums>,
}

/// The numbers, as they were summed up last. One look serves all tenants and everybody who asks.
pub(crate) struct Totals {
    engine: Engine,
    /// Cancelled once the server shuts down.
    draining: CancellationToken,
    last: Mutex<Option<Look>>,
}

impl Totals {
    pub(crate) fn new(engine: Engine, draining: CancellationToken) -> Totals {
        Totals { engine, draining, last: Mutex::default() }
    }

    /// Returns the numbers of a tenant, or of all, and of one creator, or of all, of now, nearly; without `jobs_created`, which
    /// each watch has of its own.
    pub(crate) fn now(&self, tenant: Option<TenantNo>, created_by: Option<PrincipalNo>) -> pb::ServerTotals {
        let sum = self.sums().seen_by(tenant, created_by);
        pb::ServerTotals {
            jobs: sum.states.iter().map(|(state, count)| pb::JobStateCount { state: *state, count: *count }).collect(),
            tasks: Some(to_proto::counts(&sum.tasks)),
            bytes_per_second: sum.bytes_per_second,
            jobs_created: 0,
            draining: self.draining.is_cancelled(),
        }
    }

    /// Returns the tasks of all tenants, nearly of now.
    pub(crate) fn tasks(&self) -> Counts {
        self.sums().all.tasks
    }

    /// Returns the tasks of the tenants at which somebody has a role, nearly of now; where that is to submit alone, those of its
    /// own jobs.
    pub(crate) fn tasks_seen_by(&self, actor: &Actor) -> Counts {
        let sums = self.sums();
        let mut counts = Counts::default();
        for (no, (name, sum)) in &sums.tenants {
            let has = |role| holds_at(&actor.grants, role, name);
            if [Role::Read, Role::Control, Role::Admin].into_iter().any(has) {
                add(&mut counts, &sum.tasks);
            } else if has(Role::Submit)
                && let Some(own) = sums.creators.get(&(*no, actor.principal))
            {
                add(&mut counts, &own.tasks);
            }
        }
        counts
    }

    fn sums(&self) -> Arc<Sums> {
        let now = Instant::now();
        if let Some(last) = self.lock().as_mut() {
            if now.saturating_duration_since(last.at) < last.age_max {
                return last.sums.clone();
            }
            // Whoever asks meanwhile takes the old ones, and does not wait.
            (last.at, last.age_max) = (now, AGE_MAX);
        }
        let sums = Arc::new(self.sum());
        let age_max = now.elapsed().saturating_mul(AGE_IN_LOOKS).min(AGE_MAX);
        *self.lock() = Some(Look { at: now, age_max, sums: sums.clone() });
        sums
    }

    fn sum(&self) -> Sums {
        let hub = self.engine.hub();
        let mut sums = Sums::default();
        for job in hub.jobs().iter().filter(|job| !job.state.is_ended()) {
            for sum in sums.of(job) {
                *sum.states.entry(job.state as i32).or_default() += 1;
                add(&mut sum.tasks, &told::counts(job.state, job.counts));
            }
        }
        for feed in hub.busy_jobs().into_iter().filter_map(|job| hub.feed(job)) {
            let rate = feed.progress().bytes_per_second;
            for sum in sums.of(&feed.job()) {
                sum.bytes_per_second = sum.bytes_per_second.saturating_add(rate);
            }
        }
        sums
    }

    fn lock(&self) -> MutexGuard<'_, Option<Look>> {
        // What is in it is replaced whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the tasks of one more job.
fn add(sum: &mut Counts, counts: &Counts) {
    sum.total = sum.total.saturating_add(counts.total);
    sum.pending = sum.pending.saturating_add(counts.pending);
    sum.running = sum.running.saturating_add(counts.running);
    sum.backing_off = sum.backing_off.saturating_add(counts.backing_off);
    sum.succeeded = sum.succeeded.saturating_add(counts.succeeded);
    sum.failed = sum.failed.saturating_add(counts.failed);
    sum.cancelled = sum.cancelled.saturating_add(counts.cancelled);
}
