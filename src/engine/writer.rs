//! The one caller of the store's writing half. It has a thread of its own: a commit is several ways to the store, each of which
//! is waited for, and must not wait for the scheduler's turn between any two of them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::engine::figures;
use crate::store::{Batch, Committed, StoreError, Upkeep, WriteStore};
use crate::telemetry::metrics::Metrics;

/// The longest wait between tries of a batch that the store could not take.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The wait before the first of them.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// Tries of a batch that fail for want of a lock before that is reported.
const BUSY_TRIES: u32 = 3;

/// The time between two pieces of the store's upkeep: batches that wait have it to themselves.
const UPKEEP_PERIOD: Duration = Duration::from_millis(100);
/// How long upkeep gives way to batches that follow one another without a pause.
const UPKEEP_PATIENCE: Duration = Duration::from_secs(1);
/// The time until upkeep that failed is tried again.
const UPKEEP_RETRY: Duration = Duration::from_secs(5);
/// How long a store rests that has nothing to do for now.
const UPKEEP_REST: Duration = Duration::from_secs(30);

/// The time between two looks for more room.
const REGAIN_PERIOD: Duration = Duration::from_secs(1);
/// What is said while room is short.
const SHORT: &str = "the disk is full; jobs can be cancelled and deleted";

/// A batch and where its result goes.
pub(crate) struct Order {
    pub(crate) batch: Batch,
    pub(crate) result: oneshot::Sender<Result<Committed, StoreError>>,
}

/// Whether anything can be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Commits go through.
    #[default]
    Writable,
    /// Room is short, as this says: work ends and is removed, and nothing is added.
    Short(String),
    /// Nothing can be committed for want of room, as this says. It is tried again until it works.
    Blocked(String),
    /// Nothing can be committed for another reason that may pass, as where somebody else has locked the store. It is tried again until
    /// it works.
    Busy(String),
}

/// The running writer.
pub(crate) enum Writer {
    /// A thread, and what is closed when it has ended.
    Thread(JoinHandle<()>, oneshot::Receiver<()>),
    Here(tokio::task::JoinSet<()>),
}

/// The ways to a writer.
pub(crate) struct WriterLink {
    /// Batches, one at a time.
    pub(crate) orders: mpsc::Sender<Order>,
    /// Batches of deletions and purges alone, which may go before a batch that the store has no room for.
    pub(crate) removals: mpsc::Sender<Order>,
    pub(crate) condition: watch::Receiver<Condition>,
    /// Whether what can wait is to stay out of the next batches ([`WriteStore::wants_rest`]).
    pub(crate) rest: watch::Receiver<bool>,
}

impl WriterLink {
    /// Waits until the writer says something else than before. An error: it is gone.
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.condition.changed() => changed,
            changed = self.rest.changed() => changed,
        }
    }
}

/// Starts a writer, on a thread of its own or on the caller's runtime. It ends when the senders of its link do.
pub(crate) fn start(
    store: Box<dyn WriteStore>,
    own_thread: bool,
    clock: Clock,
    metrics: Arc<Metrics>,
) -> Result<(Writer, WriterLink), StoreError> {
    let (orders, received) = mpsc::channel(1);
    let (removals, urgent) = mpsc::channel(1);
    let (condition, seen) = watch::channel(Condition::default());
    let (rest, rest_seen) = watch::channel(false);
    let upkeep = Some(Instant::now() + UPKEEP_PERIOD);
    let work = Work { store, urgent, condition, rest, clock, metrics, upkeep, regain: None };
    let link = WriterLink { orders, removals, condition: seen, rest: rest_seen };
    if !own_thread {
        let mut here = tokio::task::JoinSet::new();
        here.spawn(work.run(received));
        return Ok((Writer::Here(here), link));
    }
    let failed = |error: std::io::Error| StoreError::Fatal(format!("cannot start the writer's thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("writer".to_owned());
    let (ends, ended) = oneshot::channel();
    let run = move || {
        let _ends: oneshot::Sender<()> = ends;
        runtime.block_on(work.run(received));
    };
    let thread = thread.spawn(run).map_err(failed)?;
    Ok((Writer::Thread(thread, ended), link))
}

impl Writer {
    /// Waits for its end. Whoever waits no longer leaves nothing behind that would.
    pub(crate) async fn join(self) {
        match self {
            Writer::Thread(thread, ended) => {
                // It is only closed.
                let _ = ended.await;
                let joined = tokio::task::spawn_blocking(move || thread.join()).await;
                if !matches!(joined, Ok(Ok(()))) {
                    tracing::error!("the writer's thread panicked");
                }
            }
            Writer::Here(mut task) => {
                if let Some(Err(error)) = task.join_next().await {
                    tracing::error!("the writer failed: {error}");
                }
            }
        }
    }
}

/// Waits until a time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Work {
    store: Box<dyn WriteStore>,
    urgent: mpsc::Receiver<Order>,
    condition: watch::Sender<Condition>,
    rest: watch::Sender<bool>,
    /// What says how long something has been kept.
    clock: Clock,
    metrics: Arc<Metrics>,
    /// When the store is asked for its upkeep; `None`: it has none to do.
    upkeep: Option<Instant>,
    /// When the store looks for more room; `None`: it is not short of any.
    regain: Option<Instant>,
}

impl Work {
    /// Commits batches one after the other until the orders end, then closes the store.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            if self.upkeep.is_some_and(|time| time + UPKEEP_PATIENCE <= Instant::now()) {
                self.keep_up().await;
            }
            // However many batches there are: without it, the log grows until nothing is left of the room.
            if self.regain.is_some_and(|time| time <= Instant::now()) {
                self.look_for_room().await;
            }
            // Whatever was done may have ended it.
            self.note_rest(self.store.wants_rest());
            let order = tokio::select! {
                biased;
                // There is one at a time, and batches may follow one another without a pause.
                Some(order) = self.urgent.recv() => {
                    self.remove(order).await;
                    self.between_commits().await;
                    continue;
                }
                order = orders.recv() => order,
                () = self.store.rested(), if *self.rest.borrow() => {
                    self.between_commits().await;
                    continue;
                }
                () = at(self.upkeep) => {
                    self.keep_up().await;
                    continue;
                }
                () = at(self.regain) => continue,
            };
            let Some(order) = order else { break };
            self.expect_upkeep(&order.batch);
            self.commit(order).await;
        }
        self.store.close().await;
    }

    /// Commits deletions and purges. A store that is busy is tried a few times. Else whoever ordered them tries again, and keeps
    /// nobody waiting meanwhile.
    async fn remove(&mut self, Order { batch, mut result }: Order) {
        self.expect_upkeep(&batch);
        let mut committed = self.store.commit(&batch).await;
        for _ in 0..BUSY_TRIES {
            let Err(StoreError::Retry(why)) = &committed else { break };
            tracing::debug!("the store is tried again: {why}");
            tokio::select! {
                biased;
                () = result.closed() => return,
                () = tokio::time::sleep(RETRY_MIN) => {}
            }
            committed = self.store.commit(&batch).await;
        }
        let is_done = committed.is_ok();
        // Whoever ordered it may be gone.
        let _ = result.send(committed);
        if is_done && matches!(*self.condition.borrow(), Condition::Writable | Condition::Short(_)) {
            self.note_room();
        }
    }

    async fn between_commits(&mut self) {
        self.store.between_commits().await;
        self.note_rest(self.store.wants_rest());
    }

    fn note_rest(&self, wants_rest: bool) {
        self.rest.send_if_modified(|rest| std::mem::replace(rest, wants_rest) != wants_rest);
    }

    /// New keys and purges leave something to do. What is to be done already is not put off by it.
    fn expect_upkeep(&mut self, batch: &Batch) {
        if batch.new_data_key || !batch.purges.is_empty() {
            let soon = Instant::now() + UPKEEP_PERIOD;
            self.upkeep = Some(self.upkeep.map_or(soon, |time| time.min(soon)));
        }
    }

    /// Lets the store look for more room.
    async fn look_for_room(&mut self) {
        if let Err(error) = self.store.regain().await {
            tracing::debug!("the store has not found more room: {error}");
        }
        self.regain = None;
        self.note_room();
    }

    /// Notes whether there is room for more, after a commit or a look.
    fn note_room(&mut self) {
        let is_short = self.store.is_short();
        let next = self.regain.unwrap_or_else(|| Instant::now() + REGAIN_PERIOD);
        self.regain = is_short.then_some(next);
        self.set(if is_short { Condition::Short(SHORT.to_owned()) } else { Condition::Writable });
    }

    /// Does a piece of the store's upkeep.
    async fn keep_up(&mut self) {
        let wait = match self.store.upkeep(self.clock.now()).await {
            Ok(Upkeep::More) => UPKEEP_PERIOD,
            Ok(Upkeep::Later) => UPKEEP_RETRY,
            Ok(Upkeep::Rest) => UPKEEP_REST,
            Ok(Upkeep::Done) => return self.upkeep = None,
            Err(error) => {
                tracing::warn!("the upkeep of the store is tried again: {error}");
                UPKEEP_RETRY
            }
        };
        self.upkeep = Some(Instant::now() + wait);
    }

    /// Commits a batch. Where there is no room for it, it goes without the tasks that it adds, so that one large submission
    /// keeps nobody from ending work. What the store certainly did not take then is tried again until it does: nothing is
    /// acknowledged meanwhile, and removals, which make room, go first. A batch whose caller is gone is given up.
    async fn commit(&mut self, order: Order) {
        let Order { mut batch, mut result } = order;
        let mut wait = RETRY_MIN;
        let mut tries = 0u32;
        let mut left_out = None;
        loop {
            let begun = Instant::now();
            let mut committed = self.store.commit(&batch).await;
            if let Ok(committed) = &mut committed {
                self.metrics.committed(figures::changes(&batch), begun.elapsed());
                committed.left_out = left_out.take();
            }
            match committed {
                Err(StoreError::Full(why)) if left_out.is_none() && batch.leave_out_tasks() => {
                    left_out = Some(why);
                    continue;
                }
                Err(StoreError::Retry(why)) if tries < BUSY_TRIES => {
                    tracing::debug!("the store is tried again: {why}");
                }
                Err(StoreError::Full(why)) => {
                    self.set(Condition::Blocked(why));
                }
                Err(StoreError::Retry(why)) => {
                    self.set(Condition::Busy(why));
                }
                done => {
                    self.note_room();
                    let _ = result.send(done);
                    self.between_commits().await;
                    return;
                }
            }
            // Nobody waits here for the store to have rested.
            self.note_rest(false);
            tries += 1;
            tokio::select! {
                biased;
                () = result.closed() => return,
                Some(order) = self.urgent.recv() => {
                    let frees = !order.batch.purges.is_empty();
                    self.remove(order).await;
                    if frees {
                        self.keep_up().await;
                    }
                    // It may have made room for the other one.
                    wait = RETRY_MIN;
                }
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
            // A log of which the copy takes no room is the room that a full disk may still have.
            if self.store.is_short()
                && let Err(error) = self.store.regain().await
            {
                tracing::debug!("the store has not found more room: {error}");
            }
        }
    }

    fn set(&self, condition: Condition) {
        self.condition.send_if_modified(|now| {
            let changes = std::mem::discriminant(now) != std::mem::discriminant(&condition);
            match &condition {
                Condition::Blocked(why) | Condition::Busy(why) if changes => {
                    tracing::error!("nothing can be committed until it works: {why}");
                }
                Condition::Short(why) if changes => tracing::error!("nothing is added any more: {why}"),
                Condition::Writable if changes => tracing::info!("changes are committed again"),
                _ => {}
            }
            *now = condition;
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::store::Answer;

    /// A store that cannot be closed before this says so.
    struct Held(mpsc::Receiver<()>);

    impl WriteStore for Held {
        fn commit<'a>(&'a mut self, _: &'a Batch) -> Answer<'a, Committed> {
            std::future::ready(Ok(Committed::default())).boxed()
        }

        fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
            async move {
                let _ = self.0.recv();
            }
            .boxed()
        }
    }

    /// A store that counts how often it is asked for its upkeep, and has nothing to do.
    struct Tended(Arc<std::sync::atomic::AtomicUsize>);

    impl WriteStore for Tended {
        fn commit<'a>(&'a mut self, _: &'a Batch) -> Answer<'a, Committed> {
            std::future::ready(Ok(Committed::default())).boxed()
        }

        fn upkeep(&mut self, _: Timestamp) -> Answer<'_, Upkeep> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::future::ready(Ok(Upkeep::Done)).boxed()
        }

        fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
            std::future::ready(()).boxed()
        }
    }

    /// Free pages are returned then, however many purges follow one another.
    #[tokio::test(start_paused = true)]
    async fn a_store_is_tended_after_purges() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (writer, link) = start(Box::new(Tended(asked.clone())), false, Clock::system(), Arc::default()).unwrap();
        let commit = async |batch: Batch| {
            let (result, answer) = oneshot::channel();
            let _ = link.orders.send(Order { batch, result }).await;
            answer.await.unwrap().unwrap();
        };
        let purge = || Batch { purges: vec![(crate::model::ids::JobId(uuid::Uuid::nil()), 1)], ..Batch::default() };
        tokio::time::sleep(Duration::from_secs(5)).await;
        commit(Batch::default()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let count = || asked.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(count(), 1, "once at the start");
        for _ in 0..50 {
            commit(purge()).await;
            tokio::time::sleep(UPKEEP_PERIOD / 2).await;
        }
        assert!(count() > 10, "{}", count());
        drop(link);
        writer.join().await;
    }

    /// A store that somebody holds for a moment, so many times.
    struct Busy(u32);

    impl WriteStore for Busy {
        fn commit<'a>(&'a mut self, _: &'a Batch) -> Answer<'a, Committed> {
            let is_free = self.0 == 0;
            self.0 = self.0.saturating_sub(1);
            let held = || StoreError::Retry("somebody holds it".to_owned());
            std::future::ready(if is_free { Ok(Committed::default()) } else { Err(held()) }).boxed()
        }

        fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
            std::future::ready(()).boxed()
        }
    }

    /// Whoever deletes is not told that there is no room because somebody holds the store for a moment.
    #[tokio::test(start_paused = true)]
    async fn a_deletion_comes_through_where_the_store_is_busy_for_a_moment() {
        let removed = async |busy: u32| {
            let (writer, link) = start(Box::new(Busy(busy)), false, Clock::system(), Arc::default()).unwrap();
            let (result, answer) = oneshot::channel();
            let _ = link.removals.send(Order { batch: Batch::default(), result }).await;
            let committed = answer.await.unwrap();
            drop(link);
            writer.join().await;
            committed
        };
        assert!(removed(2).await.is_ok());
        assert!(matches!(removed(100).await, Err(StoreError::Retry(_))));
    }

    /// A drain has a grace, and somebody may hold the lock of the database for longer.
    #[test]
    fn nobody_has_to_wait_for_a_store_that_is_held() {
        let (release, held) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let drain = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (writer, link) = start(Box::new(Held(held)), true, Clock::system(), Arc::default()).unwrap();
            drop(link);
            let joined =
                runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), writer.join()).await });
            drop(runtime);
            done.send(joined.is_ok()).unwrap();
        });
        let ended = is_done.recv_timeout(Duration::from_secs(60));
        release.send(()).unwrap();
        drain.join().unwrap();
        assert_eq!(ended, Ok(false));
    }
}
