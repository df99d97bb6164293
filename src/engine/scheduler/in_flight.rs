//! A batch that is on its way to the store.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::effect::Effect;
use crate::engine::queue::task::BatchNumber;
use crate::model::ids::TaskId;
use crate::store::{Committed, LaneNumber, StoreError};

/// A batch on its way to the store, and what follows it.
pub(super) struct InFlight {
    pub(super) result: oneshot::Receiver<Result<Committed, StoreError>>,
    pub(super) number: BatchNumber,
    pub(super) effects: Vec<Effect>,
    pub(super) ended: Vec<(TaskId, LaneNumber)>,
    pub(super) since: Instant,
}

/// Waits for the result of a batch, for ever where none is on its way.
pub(super) async fn answer_of(in_flight: &mut Option<InFlight>) -> Result<Committed, StoreError> {
    match in_flight {
        Some(in_flight) => (&mut in_flight.result).await.unwrap_or_else(|_| Err(lost())),
        None => std::future::pending().await,
    }
}

/// The error of a writer that is gone.
pub(super) fn lost() -> StoreError {
    StoreError::Fatal("the writer ended without an answer".to_owned())
}
