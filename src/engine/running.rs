//! The attempts that run. Each is known by its task, so that one whose end is lost has failed, and holds neither its task nor
//! its job.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::attempt::Ended;
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{Fence, TaskId};
use crate::model::outcome::{AttemptEnd, AttemptReport};

/// From so many running attempts on, many end within moments.
pub(crate) const CROWD: usize = 16;
/// How long ends are gathered, from when the last ones were taken.
const GATHER: Duration = Duration::from_millis(1);
/// They are taken earlier when as many have come as one in so many of those that run.
const PART: usize = 16;

/// All attempts whose end has not been taken.
///
/// Each end would wake the loop, and each wake-up takes the processor from a transfer. So where many attempts run, those ends
/// that come soon after others are gathered for a moment, or until they are a share of all that run.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    running: JoinSet<Ended>,
    of: HashMap<Id, (TaskId, Fence)>,
    gathered: Arc<Gathered>,
    /// When the last end was taken.
    taken: Option<Instant>,
}

/// Ends that have come and were not taken.
#[derive(Debug, Default)]
struct Gathered {
    ends: AtomicUsize,
    enough: AtomicUsize,
    reached: Notify,
}

impl Gathered {
    fn are_enough(&self) -> bool {
        self.ends.load(Ordering::Relaxed) >= self.enough.load(Ordering::Relaxed)
    }

    fn add(&self) {
        let ends = self.ends.fetch_add(1, Ordering::Relaxed) + 1;
        if ends == self.enough.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }
}

impl Attempts {
    /// Runs an attempt at a task.
    pub(crate) fn spawn(
        &mut self,
        of: (TaskId, Fence),
        attempt: impl Future<Output = Ended> + Send + 'static,
        runtime: &Handle,
    ) {
        let gathered = self.gathered.clone();
        let counted = async move {
            let ended = attempt.await;
            gathered.add();
            ended
        };
        let spawned = self.running.spawn_on(counted, runtime);
        self.of.insert(spawned.id(), of);
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// How long the ends that come are still gathered; `None`: they are not, and the next one is worth a turn.
    pub(crate) fn rest(&self) -> Option<Duration> {
        if self.running.len() < CROWD {
            return None;
        }
        GATHER.checked_sub(self.taken?.elapsed()).filter(|left| !left.is_zero())
    }

    /// Begins to gather ends, when those that were there were taken.
    fn gather(&mut self) {
        self.taken = Some(Instant::now());
        self.gathered.enough.store((self.running.len() / PART).max(2), Ordering::Relaxed);
        self.gathered.ends.store(0, Ordering::Relaxed);
    }

    /// Waits for the next end, or until enough have come where they are gathered; `None`: none runs.
    pub(crate) async fn next(&mut self, gathers: bool) -> Option<Ended> {
        // It was notified, too, of those that were taken since.
        while gathers && !self.gathered.are_enough() {
            self.gathered.reached.notified().await;
        }
        loop {
            let ended = self.running.join_next_with_id().await?;
            if let Some(ended) = self.take(ended) {
                return Some(ended);
            }
        }
    }

    /// Returns an end that is there already.
    pub(crate) fn try_next(&mut self) -> Option<Ended> {
        loop {
            let ended = self.running.try_join_next_with_id()?;
            if let Some(ended) = self.take(ended) {
                return Some(ended);
            }
        }
    }

    fn take(&mut self, ended: Result<(Id, Ended), JoinError>) -> Option<Ended> {
        match ended {
            Ok((spawned, ended)) => {
                self.of.remove(&spawned);
                self.gather();
                Some(ended)
            }
            // Attempts catch their panics and are not aborted while the loop runs: what ran this one has ended.
            Err(error) => {
                let (id, fence) = self.of.remove(&error.id())?;
                tracing::error!(task = %id, "an attempt was lost: {error}");
                let message = "the attempt was lost; that is a defect of haul, please report it with the server's log";
                let end = AttemptEnd::Failed(Failure::retryable(FailureReason::Internal, message));
                Some(Ended { id, fence, end, report: AttemptReport::default(), body: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::JobId;

    #[tokio::test]
    async fn an_attempt_that_is_lost_with_its_thread_has_failed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 7 };
        let mut attempts = Attempts::default();
        attempts.spawn((id, 3), std::future::pending(), runtime.handle());
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        // Whoever is given to it from now on is lost at once.
        attempts.spawn((id, 4), std::future::pending(), &handle);
        let mut fences = Vec::new();
        while let Some(ended) = attempts.next(false).await {
            assert!(matches!(&ended.end, AttemptEnd::Failed(failure) if failure.retryable), "{ended:?}");
            assert_eq!(ended.id, id);
            fences.push(ended.fence);
        }
        fences.sort_unstable();
        assert_eq!(fences, [3, 4]);
        assert!(attempts.is_empty() && attempts.of.is_empty());
    }

    #[tokio::test]
    async fn an_end_is_taken_once() {
        let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 7 };
        let mut attempts = Attempts::default();
        let failed = AttemptEnd::Failed(Failure::fatal(FailureReason::Cancelled, "stopped"));
        let ended = Ended { id, fence: 1, end: failed, report: AttemptReport::default(), body: None };
        attempts.spawn((id, 1), std::future::ready(ended), &Handle::current());
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts.next(false).await.map(|ended| ended.fence), Some(1));
        assert!(attempts.try_next().is_none() && attempts.of.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn ends_that_come_soon_after_others_are_gathered() {
        let (mut attempts, mut ways) = (Attempts::default(), Vec::new());
        for index in 0..64 {
            let (way, ends) = tokio::sync::oneshot::channel::<()>();
            let id = TaskId { job: JobId(uuid::Uuid::nil()), index };
            let end = AttemptEnd::Failed(Failure::fatal(FailureReason::Cancelled, "stopped"));
            let ended = Ended { id, fence: 1, end, report: AttemptReport::default(), body: None };
            let attempt = async move {
                let _ = ends.await;
                ended
            };
            attempts.spawn((id, 1), attempt, &Handle::current());
            ways.push(way);
        }
        let mut end = async |count| {
            ways.truncate(ways.len() - count);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(attempts.rest(), None, "the first end is worth a turn");
        end(1).await;
        assert!(attempts.next(false).await.is_some());
        assert_eq!(attempts.rest(), Some(GATHER));
        end(2).await;
        assert!(futures_util::poll!(std::pin::pin!(attempts.next(true))).is_pending(), "two of 63 wait");
        end(1).await;
        assert!(futures_util::poll!(std::pin::pin!(attempts.next(true))).is_ready(), "three are a sixteenth of 63");
        while attempts.try_next().is_some() {}
        assert_eq!((attempts.len(), attempts.rest()), (60, Some(GATHER)));
        tokio::time::advance(GATHER).await;
        assert_eq!(attempts.rest(), None);
        end(50).await;
        while attempts.try_next().is_some() {}
        assert_eq!((attempts.len(), attempts.rest()), (10, None), "where few run, each end is worth a turn");
    }
}
