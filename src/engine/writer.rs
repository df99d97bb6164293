//! The one caller of the store's writing half.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::store::{Batch, Committed, StoreError, WriteStore};

/// The longest wait between tries of a batch that the store could not take.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A batch and where its result goes.
pub(crate) type Order = (Batch, oneshot::Sender<Result<Committed, StoreError>>);

/// Commits batches one after the other until the orders end, then closes the store.
///
/// A full disk is waited out: the batch is held, nothing is acknowledged meanwhile, and it goes on when there is room.
/// Any other failure is final: what is on the disk is then known only to a restart.
pub(crate) async fn run(mut store: Box<dyn WriteStore>, mut orders: mpsc::Receiver<Order>) {
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
