//! Whether the client of a connection reads what it asked for.
//!
//! A connection asks the body of an answer for more when it has room to write; until then the answer waits for the client.
//! A client that opens no window, or reads nothing, makes it wait for ever, and pings say nothing about that. So a
//! connection on which answers wait and none of them has moved for a time has no use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The answers of one connection that wait for its client.
#[derive(Debug)]
pub(super) struct Unread(Mutex<State>);

#[derive(Debug)]
struct State {
    waiting: usize,
    /// When an answer moved last, or the first of those that wait began to.
    moved: Instant,
}

impl Unread {
    /// Makes the count of a connection without answers.
    pub(super) fn new() -> Arc<Unread> {
        Arc::new(Unread(Mutex::new(State { waiting: 0, moved: Instant::now() })))
    }

    /// Counts an answer that begins, and that waits for the client from now on.
    pub(super) fn answering(self: Arc<Self>) -> Answering {
        let answering = self.silent();
        answering.set_waits(true);
        answering
    }

    /// Counts what waits for nobody yet.
    pub(super) fn silent(self: Arc<Self>) -> Answering {
        Answering { unread: self, waits: AtomicBool::new(false) }
    }

    /// Waits until answers have waited for the client for `time`, and none of them has moved.
    pub(super) async fn stuck(&self, time: Duration) {
        let mut end = Instant::now() + time;
        loop {
            tokio::time::sleep_until(end).await;
            let now = Instant::now();
            let moved = self.with(|state| if state.waiting > 0 { state.moved } else { now });
            end = moved + time;
            if end <= now {
                return;
            }
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answering {
    unread: Arc<Unread>,
    waits: AtomicBool,
}

impl Answering {
    /// Returns how many calls are open on the connection, roughly: each of them holds this count, and the connection itself does.
    pub(super) fn calls(&self) -> usize {
        Arc::strong_count(&self.unread)
    }

    /// Notes that the answer has moved, and whether it waits for the client now.
    pub(super) fn set_waits(&self, waits: bool) {
        let waited = self.waits.swap(waits, Ordering::Relaxed);
        self.unread.with(|state| {
            state.waiting = state.waiting + usize::from(waits) - usize::from(waited);
            state.moved = Instant::now();
        });
    }
}

impl Answering {
    /// Returns whether the answer waits for the client.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Notes that something of the answer has left.
    pub(super) fn has_moved(&self) {
        self.unread.with(|state| state.moved = Instant::now());
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.set_waits(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_stuck_once_answers_wait_and_none_moves() {
        let unread = Unread::new();
        let begun = Instant::now();
        let first = unread.clone().answering();
        // The server has nothing to say yet, so nothing waits for the client.
        first.set_waits(false);
        assert!(tokio::time::timeout(TIME * 10, unread.stuck(TIME)).await.is_err());
        let second = unread.clone().answering();
        first.set_waits(true);
        let moves = async {
            for _ in 0..10 {
                tokio::time::sleep(TIME / 2).await;
                second.set_waits(true);
            }
        };
        tokio::join!(unread.stuck(TIME), moves);
        assert_eq!(begun.elapsed(), TIME * 16, "ten of silence, five in which one moves, and one in which none does");
        drop(second);
        drop(first);
        assert!(tokio::time::timeout(TIME * 10, unread.stuck(TIME)).await.is_err());
    }
}
