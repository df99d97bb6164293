//! What the holders of an HTTP/2 connection, and the task that drives it, know of each other; and what all peers may send
//! ahead of their readers.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::runtime::Id;
use tokio_util::sync::CancellationToken;

use crate::net::lock;

/// The window that each stream may have whatever the others do: enough for a good speed over a short path.
pub(super) const WINDOW_BYTES_MIN: u32 = 256 << 10;
/// What the windows of all streams of a client may have beyond that, together: so much may lie unread in memory when bodies
/// come faster than they are read.
const WINDOWS_BYTES_MAX: i64 = 256 << 20;

/// The windows of all connections of a client.
pub(super) struct Windows {
    /// Below zero for as long as more is in use than there should be.
    left: AtomicI64,
    /// Connections that no request has.
    unused: AtomicUsize,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { left: AtomicI64::new(WINDOWS_BYTES_MAX), unused: AtomicUsize::new(0) }
    }
}

impl Windows {
    /// Returns how many connections no request has.
    pub(super) fn unused(&self) -> usize {
        self.unused.load(Ordering::Relaxed)
    }

    /// The largest window of at most `wanted` bytes that one more stream may have now.
    pub(super) fn most(&self, wanted: u32) -> u32 {
        let spare = u32::try_from(self.left.load(Ordering::Relaxed).max(0)).unwrap_or(u32::MAX);
        wanted.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MIN.saturating_add(spare))
    }

    fn try_take(&self, bytes: i64) -> bool {
        let take = |left: i64| (bytes <= left).then_some(left - bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What all holders of a connection know of it.
pub(super) struct State {
    windows: Arc<Windows>,
    account: Mutex<Account>,
    /// Those of its requests that asked not to share it.
    separate: AtomicUsize,
    /// Those of them whose stream the peer has allowed.
    open: AtomicUsize,
    /// Bytes that have come on the connection, as its wire counts them.
    received: Arc<AtomicU64>,
    /// How many had come when a request waited in vain while none came; [`u64::MAX`]: none did.
    doubted_at: AtomicU64,
    /// The runtime that moves the connection. Beside the connection's own lock, which is held for as long as that takes.
    home: Mutex<Option<Id>>,
    /// Cancelled once the peer has said how many streams it allows, or the connection has ended.
    pub(super) is_settled: CancellationToken,
}

/// What a connection has of the windows.
struct Account {
    /// Of each of its streams.
    window: u32,
    /// Requests that have the connection.
    load: usize,
    /// What is taken for them beyond [`WINDOW_BYTES_MIN`] each.
    taken: i64,
}

impl Account {
    fn of_one(&self) -> i64 {
        i64::from(self.window - WINDOW_BYTES_MIN)
    }

    /// Takes what its streams need, whether it is there or not, and gives back what they do not.
    fn settle(&mut self, windows: &Windows) {
        let needed = self.of_one().saturating_mul(i64::try_from(self.load).unwrap_or(i64::MAX));
        windows.left.fetch_sub(needed - self.taken, Ordering::Relaxed);
        self.taken = needed;
    }
}

impl State {
    /// Of a connection whose streams have a window of `window` bytes each. `received` is counted by its wire.
    pub(super) fn new(windows: &Arc<Windows>, window: u32, received: Arc<AtomicU64>) -> State {
        let window = window.max(WINDOW_BYTES_MIN);
        windows.unused.fetch_add(1, Ordering::Relaxed);
        State {
            windows: Arc::clone(windows),
            account: Mutex::new(Account { window, load: 0, taken: 0 }),
            separate: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            received,
            doubted_at: AtomicU64::new(u64::MAX),
            home: Mutex::new(None),
            is_settled: CancellationToken::new(),
        }
    }

    /// The runtime that moves the connection; `None` before there is one.
    pub(super) fn home(&self) -> Option<Id> {
        *lock(&self.home)
    }

    /// Another runtime moves the connection from now on.
    pub(super) fn set_home(&self, home: Id) {
        *lock(&self.home) = Some(home);
    }

    /// Requests that have the connection.
    pub(super) fn load(&self) -> usize {
        lock(&self.account).load
    }

    /// Returns whether there is a window for one more stream, of the size that they have here.
    pub(super) fn has_window(&self) -> bool {
        let needed = lock(&self.account).of_one();
        needed == 0 || needed <= self.windows.left.load(Ordering::Relaxed)
    }

    /// Takes what is needed for its streams to have windows of `window` bytes; `false`: it is not there.
    pub(super) fn may_grow(&self, window: u32) -> bool {
        let mut account = lock(&self.account);
        let grown = Account { window, load: account.load, taken: 0 };
        let needed = grown.of_one().saturating_mul(i64::try_from(account.load).unwrap_or(i64::MAX));
        if window < account.window || !self.windows.try_take((needed - account.taken).max(0)) {
            return false;
        }
        *account = Account { taken: needed.max(account.taken), ..grown };
        true
    }

    /// Returns how many bytes have come on the connection.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Notes that a request waited for its answer in vain. Where nothing at all has come since there were `before` bytes, the
    /// connection may be dead, as one is that a NAT has forgotten.
    pub(super) fn waited_in_vain(&self, before: u64) {
        if self.received() == before {
            self.doubted_at.store(before, Ordering::Relaxed);
        }
    }

    /// Returns whether nothing has come since a request waited in vain.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubted_at.load(Ordering::Relaxed) == self.received()
    }

    /// Returns whether the peer has allowed a stream that is still in use.
    pub(super) fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Returns whether one of them asked not to share it.
    pub(super) fn is_separate(&self) -> bool {
        self.separate.load(Ordering::Relaxed) > 0
    }

    fn change_load(&self, change: impl FnOnce(usize) -> usize) {
        let mut account = lock(&self.account);
        let before = std::mem::replace(&mut account.load, 0);
        account.load = change(before);
        match (before, account.load) {
            (0, 1..) => self.windows.unused.fetch_sub(1, Ordering::Relaxed),
            (1.., 0) => self.windows.unused.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        account.settle(&self.windows);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.load() == 0 {
            self.windows.unused.fetch_sub(1, Ordering::Relaxed);
        }
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
        state.change_load(|load| load + 1);
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
        self.state.change_load(|load| load.saturating_sub(1));
        self.state.separate.fetch_sub(usize::from(self.is_separate), Ordering::Relaxed);
        self.state.open.fetch_sub(usize::from(self.is_open), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u32 = 20 << 20;

    #[test]
    fn all_windows_together_are_bounded() {
        let windows = Arc::new(Windows::default());
        let mut streams = Vec::new();
        while windows.most(LARGE) == LARGE {
            let state = Arc::new(State::new(&windows, windows.most(LARGE), Arc::default()));
            streams.push(Lease::new(&state, false));
        }
        assert_eq!(streams.len(), 12, "of 20 MiB each");
        let rest = Arc::new(State::new(&windows, windows.most(LARGE), Arc::default()));
        streams.push(Lease::new(&rest, false));
        assert!(!rest.has_window() && !rest.may_grow(LARGE), "the window of the last is what was left");
        let small = Arc::new(State::new(&windows, windows.most(LARGE), Arc::default()));
        streams.extend((0..100).map(|_| Lease::new(&small, false)));
        assert!(small.has_window() && !small.may_grow(LARGE));
        assert_eq!(windows.left.load(Ordering::Relaxed), 0);
        drop(streams);
        assert_eq!(windows.left.load(Ordering::Relaxed), WINDOWS_BYTES_MAX, "all is given back");
        let one = Lease::new(&small, false);
        assert!(small.may_grow(LARGE) && !small.may_grow(WINDOW_BYTES_MIN));
        let two = Lease::new(&small, false);
        assert_eq!(WINDOWS_BYTES_MAX - windows.left.load(Ordering::Relaxed), 2 * i64::from(LARGE - WINDOW_BYTES_MIN));
        assert_eq!(windows.unused(), 1, "the one whose window was the rest");
        drop((one, two, small, rest));
        assert_eq!(windows.unused(), 0);
    }
}
