//! The one caller of the store's writing half, on a thread of its own: a commit is a dozen statements, each of which is
//! waited for, and must not wait for the scheduler's turn between any two of them.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::store::{Batch, Committed, StoreError, WriteStore};

/// The longest wait between tries of a batch that the store could not take.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A batch and where its result goes.
pub(crate) type Order = (Batch, oneshot::Sender<Result<Committed, StoreError>>);

/// The running writer.
pub(crate) struct WriterThread(JoinHandle<()>);

/// Starts it. It ends when the orders do.
pub(crate) fn start(store: Box<dyn WriteStore>, orders: mpsc::Receiver<Order>) -> Result<WriterThread, StoreError> {
    let failed = |error: std::io::Error| StoreError::Fatal(format!("cannot start the writer's thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("writer".to_owned());
    let thread = thread.spawn(move || runtime.block_on(run(store, orders))).map_err(failed)?;
    Ok(WriterThread(thread))
}

impl WriterThread {
    /// Waits for its end.
    pub(crate) async fn join(self) {
        let joined = tokio::task::spawn_blocking(move || self.0.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the writer's thread panicked");
        }
    }
}

/// Commits batches one after the other until the orders end, then closes the store.
///
/// A full disk is waited out: the batch is held, nothing is acknowledged meanwhile, and it goes on when there is room.
/// Any other failure is final: what is on the disk is then known only to a restart.
async fn run(mut store: Box<dyn WriteStore>, mut orders: mpsc::Receiver<Order>) {
    while let Some((batch, reply)) = orders.recv().await {
        let result = commit(store.as_mut(), &batch).await;
        // The scheduler waits for each order; it is gone only when the process is going.
        let _ = reply.send(result);
    }
    store.close().await;
}

async fn commit(store: &mut dyn WriteStore, batch: &Batch) -> Result<Committed, StoreError> {
    let mut wait = Duration::from_millis(50);
    let mut tries = 0u32;
    loop {
        match store.commit(batch).await {
            Err(StoreError::Full(why)) => tracing::error!("nothing is acknowledged until there is room: {why}"),
            Err(StoreError::Retry(why)) if tries < 100 => tracing::warn!("the store is tried again: {why}"),
            done => return done,
        }
        tries += 1;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
