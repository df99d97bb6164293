//! A count of what tasks wait for, while it is under way: plain data.

use tokio::sync::oneshot;

use crate::engine::explanation::Waits;
use crate::model::ids::JobId;
use crate::model::time::Timestamp;

/// A count that is under way, and the last one.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Jobs that are still to be looked at, while one is under way.
    pub(super) left: Option<Vec<JobId>>,
    pub(super) waits: Waits,
    pub(super) last: Option<(Timestamp, Waits)>,
    pub(super) asked: Vec<oneshot::Sender<Waits>>,
}

impl Survey {
    pub(super) fn is_under_way(&self) -> bool {
        self.left.is_some()
    }
}
