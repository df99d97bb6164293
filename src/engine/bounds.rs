//! How much is held, read and moved at once. Plain numbers, which simulations make small to see every limit at work.

use crate::model::limits::Limits;

/// The bounds of an engine's memory and of its pieces of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Memory for tasks that wait, in bytes, roughly.
    pub queue_bytes: usize,
    /// Memory for jobs that have not ended, with their lanes and without their tasks, in bytes, roughly. More are refused.
    pub jobs_bytes: usize,
    /// Tasks of a lane that one read brings at most. A read ends earlier at 4 MiB; see `Store::lane_page`.
    pub lane_page: u32,
    /// Tasks of a lane that may wait for a host or for disk space before the lane gives no more: those behind them would
    /// most likely come to wait for the same, one by one, at the cost of a request each.
    pub held_back: usize,
    /// Tasks that back off in memory. A million of them cost disk, and these some tens of megabytes at most.
    pub backoffs: usize,
    /// Tasks that back off and that one read brings at most.
    pub due_page: u32,
    /// Rows of long work that one commit moves, over all jobs together.
    pub piece_rows: u32,
    /// The least share of that for one job; not more than all of it.
    pub piece_share: u32,
    /// Memory of what the store has of jobs whose retries wait for a batch with room for the tasks that they name, in bytes, roughly.
    pub crowded_bytes: usize,
    /// Changed jobs that are kept for those who follow many and look late: some megabytes.
    pub changed_jobs: usize,
    /// Attempts that run at once at most, whatever the limits allow.
    pub attempts: u32,
}

impl Bounds {
    /// How many times the memory of the queue is that of the jobs.
    pub const JOBS: usize = 16;

    /// Says in the log where more attempts are allowed than there may be.
    pub fn warn_of(&self, limits: &Limits) {
        if limits.max_concurrent_tasks > self.attempts {
            let (allowed, possible) = (limits.max_concurrent_tasks, self.attempts);
            tracing::warn!(
                "max_concurrent_tasks is {allowed}, and {possible} tasks run at once: more would use up what may be open of files \
                 and connections; allow more of these (`ulimit -n`, `LimitNOFILE=`)"
            );
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            queue_bytes: 64 << 20,
            jobs_bytes: Bounds::JOBS * (64 << 20),
            lane_page: 256,
            held_back: 256,
            backoffs: 20_000,
            due_page: 5_000,
            piece_rows: 4096,
            piece_share: 256,
            crowded_bytes: 4 << 20,
            changed_jobs: 100_000,
            attempts: u32::MAX,
        }
    }
}
