//! What the server has to do, in numbers: summed up once for all who watch them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::to_proto;
use crate::engine::handle::Engine;
use crate::model::counts::Counts;
use crate::model::tenant::TenantNo;
use crate::pb;

/// How old a sum may be: it looks at every job that has not ended.
const AGE_MAX: Duration = Duration::from_millis(250);

/// What one tenant has to do, or all of them.
#[derive(Clone, Debug, Default)]
struct Sum {
    states: BTreeMap<i32, u32>,
    tasks: Counts,
    bytes_per_second: u64,
}

/// The sums of one look.
#[derive(Debug, Default)]
struct Sums {
    all: Sum,
    /// Of each tenant that has a job.
    tenants: HashMap<TenantNo, (Arc<str>, Sum)>,
}

/// The numbers, as they were summed up last. One look serves all tenants and everybody who asks.
pub(crate) struct Totals {
    engine: Engine,
    /// Cancelled once the server shuts down.
    draining: CancellationToken,
    last: Mutex<Option<(Instant, Arc<Sums>)>>,
}

impl Totals {
    pub(crate) fn new(engine: Engine, draining: CancellationToken) -> Totals {
        Totals { engine, draining, last: Mutex::default() }
    }

    /// Returns the numbers of a tenant, or of all, of now, nearly; without `jobs_created`, which each watch has of its own.
    pub(crate) fn now(&self, tenant: Option<TenantNo>) -> pb::ServerTotals {
        let sums = self.sums();
        let none = Sum::default();
        let sum = tenant.map_or(&sums.all, |no| sums.tenants.get(&no).map_or(&none, |(_, sum)| sum));
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

    /// Returns the tasks of the tenants with these names, nearly of now.
    pub(crate) fn tasks_of(&self, is_of: impl Fn(&str) -> bool) -> Counts {
        let mut counts = Counts::default();
        for (name, sum) in self.sums().tenants.values() {
            if is_of(name) {
                add(&mut counts, &sum.tasks);
            }
        }
        counts
    }

    fn sums(&self) -> Arc<Sums> {
        let now = Instant::now();
        if let Some((since, known)) = self.lock().as_mut() {
            if now.saturating_duration_since(*since) < AGE_MAX {
                return known.clone();
            }
            // Whoever asks meanwhile takes the old ones, and does not wait.
            *since = now;
        }
        let sums = Arc::new(self.sum());
        *self.lock() = Some((now, sums.clone()));
        sums
    }

    fn sum(&self) -> Sums {
        let hub = self.engine.hub();
        let mut sums = Sums::default();
        for job in hub.jobs().iter().filter(|job| !job.state.is_ended()) {
            let (_, own) =
                sums.tenants.entry(job.tenant.no).or_insert_with(|| (job.tenant.name.clone(), Sum::default()));
            for sum in [own, &mut sums.all] {
                *sum.states.entry(job.state as i32).or_default() += 1;
                add(&mut sum.tasks, &job.counts);
            }
        }
        for feed in hub.busy_jobs().into_iter().filter_map(|job| hub.feed(job)) {
            let rate = feed.progress().bytes_per_second;
            let own = sums.tenants.get_mut(&feed.job().tenant.no).map(|(_, sum)| sum);
            for sum in own.into_iter().chain([&mut sums.all]) {
                sum.bytes_per_second = sum.bytes_per_second.saturating_add(rate);
            }
        }
        sums
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Arc<Sums>)>> {
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
