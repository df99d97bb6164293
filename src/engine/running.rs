//! The attempts that run. Each gives exactly one end, also one that is lost: it has failed, and holds neither its task nor its
//! job.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::engine::attempt::Ended;
use crate::engine::workers::{Errand, Worker};
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{Fence, TaskId};
use crate::model::outcome::{AttemptEnd, AttemptReport};
use crate::net::Transport;

/// From so many running attempts on, many end within moments.
pub(crate) const CROWD: usize = 16;
/// How long ends are gathered, from when the last ones were taken.
const GATHER: Duration = Duration::from_millis(1);
/// They are taken earlier when as many have come as one in so many of those that run.
const PART: usize = 16;

/// A worker may come to have more attempts than another by one in so many of all that run, so that those of a turn go to one.
const UNEVEN: usize = 16;

/// All attempts whose end has not been taken.
///
/// Each end would wake the loop, and each wake-up takes the processor from a transfer. So where many attempts run, those ends
/// that come soon after others are gathered for a moment, or until they are a share of all that run. In the same way
/// attempts go to their worker together, since each time that it is given something costs a call of the system and a wake-up of
/// its thread.
pub(crate) struct Attempts {
    crew: Vec<Member>,
    /// Which of them is being given to in this turn.
    chosen: Option<usize>,
    running: usize,
    ends: mpsc::UnboundedSender<Due>,
    ended: mpsc::UnboundedReceiver<Due>,
    gathered: Arc<Gathered>,
    /// When the last end was taken.
    taken: Option<Instant>,
}

/// A worker, and what it has.
struct Member {
    worker: Worker,
    running: usize,
    /// What it has not been given yet.
    kept: Vec<Errand>,
}

/// The end that is due of an attempt.
#[derive(Debug)]
struct Due {
    of: (TaskId, Fence),
    /// The number of its worker.
    member: usize,
    /// `None`: it is lost.
    end: Option<Ended>,
}

/// Sends what is due when it is dropped, and so whatever becomes of the attempt.
struct Sends {
    due: Option<Due>,
    ends: mpsc::UnboundedSender<Due>,
    gathered: Arc<Gathered>,
}

impl Sends {
    fn note(mut self, ended: Ended) {
        if let Some(due) = &mut self.due {
            due.end = Some(ended);
        }
    }
}

impl Drop for Sends {
    fn drop(&mut self) {
        // Where nobody takes ends any more, nobody waits for this one.
        if let Some(due) = self.due.take()
            && self.ends.send(due).is_ok()
        {
            self.gathered.add();
        }
    }
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
    /// Attempts that run on these workers, one of which at least is needed.
    pub(crate) fn new(workers: Vec<Worker>) -> Attempts {
        let (ends, ended) = mpsc::unbounded_channel();
        let crew = workers.into_iter().map(|worker| Member { worker, running: 0, kept: Vec::new() });
        Attempts { crew: crew.collect(), chosen: None, running: 0, ends, ended, gathered: Arc::default(), taken: None }
    }

    /// Adds an attempt at a task, which begins once it is handed out.
    pub(crate) fn add<F>(&mut self, of: (TaskId, Fence), attempt: impl FnOnce(Arc<dyn Transport>) -> F)
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let Some(at) = self.choose() else { return };
        let due = Due { of, member: at, end: None };
        let sends = Sends { due: Some(due), ends: self.ends.clone(), gathered: self.gathered.clone() };
        let member = &mut self.crew[at];
        let attempt = attempt(member.worker.transport.clone());
        member.kept.push(Box::pin(async move { sends.note(attempt.await) }));
        member.running += 1;
        self.running += 1;
    }

    /// The worker that this turn gives to, unless that has too many more than the one with the fewest; then this one.
    fn choose(&mut self) -> Option<usize> {
        // What is given to one that has ended is lost at once, so that is done only where all have.
        let key = |at: &usize| self.crew.get(*at).map(|it| (it.worker.has_ended(), it.running));
        let fewest = (0..self.crew.len()).min_by_key(key)?;
        let (has_ended, running) = key(&fewest)?;
        let most = Some((has_ended, running + self.running / UNEVEN));
        self.chosen = self.chosen.filter(|at| key(at) <= most).or(Some(fewest));
        self.chosen
    }

    /// Lets what was added begin, and ends the turn.
    pub(crate) fn hand_out(&mut self) {
        self.chosen = None;
        for member in &mut self.crew {
            if !member.kept.is_empty() {
                member.worker.give(std::mem::take(&mut member.kept));
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running == 0
    }

    /// How long the ends that come are still gathered; `None`: they are not, and the next one is worth a turn.
    pub(crate) fn rest(&self) -> Option<Duration> {
        if self.running < CROWD {
            return None;
        }
        GATHER.checked_sub(self.taken?.elapsed()).filter(|left| !left.is_zero())
    }

    /// Begins to gather ends, when those that were there were taken.
    fn gather(&mut self) {
        self.taken = Some(Instant::now());
        self.gathered.enough.store((self.running / PART).max(2), Ordering::Relaxed);
        self.gathered.ends.store(0, Ordering::Relaxed);
    }

    /// Waits for the next end, or until enough have come where they are gathered; `None`: none runs.
    pub(crate) async fn next(&mut self, gathers: bool) -> Option<Ended> {
        if self.is_empty() {
            return None;
        }
        // It was notified, too, of those that were taken since.
        while gathers && !self.gathered.are_enough() {
            self.gathered.reached.notified().await;
        }
        let due = self.ended.recv().await?;
        Some(self.take(due))
    }

    /// Returns an end that is there already.
    pub(crate) fn try_next(&mut self) -> Option<Ended> {
        let due = self.ended.try_recv().ok()?;
        Some(self.take(due))
    }

    fn take(&mut self, Due { of: (id, fence), member, end }: Due) -> Ended {
        self.running -= 1;
        self.crew[member].running -= 1;
        self.gather();
        // Attempts catch their panics: what ran this one has ended.
        end.unwrap_or_else(|| {
            tracing::error!(task = %id, "an attempt was lost with its thread");
            let message = "the attempt was lost; that is a defect of haul, please report it with the server's log";
            let end = AttemptEnd::Failed(Failure::retryable(FailureReason::Internal, message));
            Ended { id, fence, end, report: AttemptReport::default(), body: None }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::engine::workers::{MakeParts, WorkerParts, Workers};
    use crate::model::ids::JobId;
    use crate::net::{Profile, Request, Response};

    struct Nowhere;

    impl Transport for Nowhere {
        fn send<'a>(&'a self, _: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
            Box::pin(std::future::pending())
        }
    }

    /// Workers on threads of their own, or one on the runtime of the test.
    async fn workers(threads: usize) -> (Workers, Attempts) {
        let close = || Box::pin(std::future::ready(())) as BoxFuture<'static, ()>;
        let make: MakeParts = Arc::new(move || WorkerParts { transport: Arc::new(Nowhere), close: Box::new(close) });
        let (workers, ways) = Workers::start(threads, &make).await.unwrap();
        (workers, Attempts::new(ways))
    }

    fn id(index: u32) -> TaskId {
        TaskId { job: JobId(uuid::Uuid::nil()), index }
    }

    fn ended(id: TaskId) -> Ended {
        let end = AttemptEnd::Failed(Failure::fatal(FailureReason::Cancelled, "stopped"));
        Ended { id, fence: 1, end, report: AttemptReport::default(), body: None }
    }

    /// The fences of all attempts, which were lost.
    async fn lost(attempts: &mut Attempts) -> Vec<Fence> {
        let mut fences = Vec::new();
        while let Some(ended) = attempts.next(false).await {
            assert!(matches!(&ended.end, AttemptEnd::Failed(failure) if failure.retryable), "{ended:?}");
            assert_eq!(ended.id, id(7));
            fences.push(ended.fence);
        }
        fences.sort_unstable();
        assert!(attempts.is_empty() && attempts.crew.iter().all(|member| member.running == 0));
        fences
    }

    #[tokio::test]
    async fn an_attempt_that_is_lost_with_its_worker_has_failed() {
        let (workers, mut attempts) = workers(0).await;
        attempts.add((id(7), 3), |_| std::future::pending());
        attempts.hand_out();
        tokio::task::yield_now().await;
        attempts.add((id(7), 4), |_| std::future::pending());
        attempts.hand_out();
        drop(workers);
        while !attempts.crew[0].worker.has_ended() {
            tokio::task::yield_now().await;
        }
        // Whoever is given to it from now on is lost at once.
        attempts.add((id(7), 5), |_| std::future::pending());
        attempts.hand_out();
        assert_eq!(lost(&mut attempts).await, [3, 4, 5]);
    }

    #[tokio::test]
    async fn an_attempt_that_panics_has_failed_alone() {
        let (workers, mut attempts) = workers(1).await;
        attempts.add((id(7), 3), |_| async { panic!("as a test wants it") });
        attempts.hand_out();
        assert_eq!(lost(&mut attempts).await, [3]);
        attempts.add((id(7), 1), |_| std::future::ready(ended(id(7))));
        attempts.hand_out();
        assert!(matches!(attempts.next(false).await, Some(Ended { fence: 1, .. })));
        drop(attempts);
        workers.shutdown().await;
    }

    #[tokio::test]
    async fn an_end_is_taken_once() {
        let (_workers, mut attempts) = workers(0).await;
        attempts.add((id(7), 1), |_| std::future::ready(ended(id(7))));
        attempts.hand_out();
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts.next(false).await.map(|ended| ended.fence), Some(1));
        assert!(attempts.try_next().is_none() && attempts.is_empty());
    }

    #[tokio::test]
    async fn attempts_end_with_their_owner() {
        /// Notes that it was dropped.
        struct Noted(Arc<AtomicBool>);

        impl Drop for Noted {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }

        for threads in [0, 2] {
            let (workers, mut attempts) = workers(threads).await;
            let (begun, begins) = tokio::sync::oneshot::channel();
            let is_dropped = Arc::<AtomicBool>::default();
            let noted = Noted(is_dropped.clone());
            attempts.add((id(7), 1), |_| async move {
                let _noted = noted;
                let _ = begun.send(());
                std::future::pending().await
            });
            attempts.hand_out();
            begins.await.unwrap();
            drop(attempts);
            workers.shutdown().await;
            assert!(is_dropped.load(Ordering::Relaxed), "with {threads} threads");
        }
    }

    /// Where few run each goes to the one that has least: each may be a long transfer.
    #[tokio::test]
    async fn attempts_of_a_turn_go_together_where_many_run() {
        let (_workers, mut attempts) = workers(2).await;
        let mut add = |count: u32| {
            for index in 0..count {
                attempts.add((id(index), 1), |_| std::future::pending());
            }
            attempts.hand_out();
            let running: Vec<usize> = attempts.crew.iter().map(|member| member.running).collect();
            running
        };
        assert_eq!(add(1), [1, 0]);
        assert_eq!(add(2), [1, 2]);
        assert_eq!(add(61), [33, 31]);
        assert_eq!(add(4), [33, 35]);
        assert_eq!(add(4), [37, 35]);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_that_come_soon_after_others_are_gathered() {
        let (_workers, mut attempts) = workers(0).await;
        let mut ways = Vec::new();
        for index in 0..64 {
            let (way, ends) = tokio::sync::oneshot::channel::<()>();
            attempts.add((id(index), 1), |_| async move {
                let _ = ends.await;
                ended(id(index))
            });
            ways.push(way);
        }
        attempts.hand_out();
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
