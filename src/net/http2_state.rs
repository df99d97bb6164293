//! What the holders of an HTTP/2 connection, and the task that drives it, know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// What all holders of a connection know of it.
#[derive(Default)]
pub(super) struct State {
    /// Requests that have it.
    load: AtomicUsize,
    /// Those of them that asked not to share it.
    separate: AtomicUsize,
    /// Those of them whose stream the peer has allowed.
    open: AtomicUsize,
    /// Cancelled once the peer has said how many streams it allows, or the connection has ended.
    pub(super) is_settled: CancellationToken,
}

impl State {
    /// Requests that have the connection.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Returns whether the peer has allowed a stream that is still in use.
    pub(super) fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Returns whether one of them asked not to share it.
    pub(super) fn is_separate(&self) -> bool {
        self.separate.load(Ordering::Relaxed) > 0
    }
}

/// A request's share of a connection.
pub(super) struct Lease {
    state: Arc<State>,
    is_separate: bool,
    is_open: bool,
}

impl Lease {
    pub(super) fn new(state: &Arc<State>, is_separate: bool) -> Lease {
        state.load.fetch_add(1, Ordering::Relaxed);
        state.separate.fetch_add(usize::from(is_separate), Ordering::Relaxed);
        Lease { state: Arc::clone(state), is_separate, is_open: false }
    }

    /// The peer has allowed the request's stream.
    pub(super) fn opened(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.state.open.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.load.fetch_sub(1, Ordering::Relaxed);
        self.state.separate.fetch_sub(usize::from(self.is_separate), Ordering::Relaxed);
        self.state.open.fetch_sub(usize::from(self.is_open), Ordering::Relaxed);
    }
}
