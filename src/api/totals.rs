//! What the server has to do, in numbers: summed up once for all who watch them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::to_proto;
use crate::engine::handle::Engine;
use crate::model::counts::Counts;
use crate::model::job::Job;
use crate::model::tenant::TenantNo;
use crate::pb;

/// How old a sum may be: it looks at every job that has not ended.
const AGE_MAX: Duration = Duration::from_millis(250);

/// How long a sum is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(60);

/// Sums, and when they were made: of each tenant whose numbers are watched; `None`: of all together.
type Sums = HashMap<Option<TenantNo>, (Instant, Arc<pb::ServerTotals>)>;

/// The numbers, as they were summed up last.
pub(crate) struct Totals {
    engine: Engine,
    /// Cancelled once the server shuts down.
    draining: CancellationToken,
    last: Mutex<Sums>,
}

impl Totals {
    pub(crate) fn new(engine: Engine, draining: CancellationToken) -> Totals {
        Totals { engine, draining, last: Mutex::default() }
    }

    /// Returns the numbers of a tenant, or of all, of now, nearly; without `jobs_created`, which each watch has of its own.
    pub(crate) fn now(&self, tenant: Option<TenantNo>) -> pb::ServerTotals {
        let now = Instant::now();
        let mut last = self.lock();
        last.retain(|_, (since, _)| now.saturating_duration_since(*since) < KEPT);
        if let Some((since, known)) = last.get_mut(&tenant) {
            if now.saturating_duration_since(*since) < AGE_MAX {
                return pb::ServerTotals { draining: self.draining.is_cancelled(), ..(**known).clone() };
            }
            // Whoever asks meanwhile takes the old ones, and does not wait.
            *since = now;
        }
        drop(last);
        let sum = Arc::new(self.sum(tenant));
        self.lock().insert(tenant, (now, sum.clone()));
        (*sum).clone()
    }

    fn sum(&self, tenant: Option<TenantNo>) -> pb::ServerTotals {
        let hub = self.engine.hub();
        let is_of = |job: &Job| tenant.is_none_or(|no| no == job.tenant.no);
        let (mut states, mut tasks) = (BTreeMap::<i32, u32>::new(), Counts::default());
        for job in hub.jobs().iter().filter(|job| !job.state.is_ended() && is_of(job)) {
            *states.entry(job.state as i32).or_default() += 1;
            add(&mut tasks, &job.counts);
        }
        let feed = |job| hub.feed(job).filter(|feed| is_of(&feed.job()));
        let rate = |job| feed(job).map_or(0, |feed| feed.progress().bytes_per_second);
        pb::ServerTotals {
            jobs: states.into_iter().map(|(state, count)| pb::JobStateCount { state, count }).collect(),
            tasks: Some(to_proto::counts(&tasks)),
            bytes_per_second: hub.busy_jobs().into_iter().map(rate).fold(0, u64::saturating_add),
            jobs_created: 0,
            draining: self.draining.is_cancelled(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        // An entry is replaced whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the tasks of one more job.
pub(crate) fn add(sum: &mut Counts, counts: &Counts) {
    sum.total = sum.total.saturating_add(counts.total);
    sum.pending = sum.pending.saturating_add(counts.pending);
    sum.running = sum.running.saturating_add(counts.running);
    sum.backing_off = sum.backing_off.saturating_add(counts.backing_off);
    sum.succeeded = sum.succeeded.saturating_add(counts.succeeded);
    sum.failed = sum.failed.saturating_add(counts.failed);
    sum.cancelled = sum.cancelled.saturating_add(counts.cancelled);
}
