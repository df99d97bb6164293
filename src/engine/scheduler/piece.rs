//! Long work on jobs that goes on piece by piece: plain values.

use crate::model::ids::JobId;

/// Long work on one job that is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Waiting tasks are ended.
    Sweep(JobId),
    /// Failed and cancelled tasks are put back.
    Retry(JobId),
    /// The rows of a deleted job are removed.
    Purge(JobId),
}
