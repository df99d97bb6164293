//! Memory for messages that have not arrived whole, and for answers that have not left: so much for the process, so much
//! for a connection.
//!
//! A message is kept until it is whole, and an answer until it is written. Without a bound, one client that begins many
//! large messages and ends none fills the memory, and so does one that asks for many large answers and reads none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// There is no room for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for more bytes")]
pub struct Full;

/// A number of bytes with a bound.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: u64,
}

impl Budget {
    /// Makes an empty budget of `max` bytes.
    pub fn new(max: u64) -> Budget {
        Budget { used: AtomicU64::new(0), max }
    }

    fn take(&self, bytes: u64) -> Result<(), Full> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(|_| ()).map_err(|_| Full)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What the unfinished messages of one connection may take, within what all may.
///
/// The connection answers for the lengths that its messages announce, since that much is reserved for them; all
/// connections together answer for the bytes that have come, or a few that only announce would keep out the rest.
#[derive(Debug)]
pub struct Share {
    own: Budget,
    whole: Arc<Budget>,
}

impl Share {
    /// Makes the budget of a connection: `max` bytes out of `whole`.
    pub fn new(whole: Arc<Budget>, max: u64) -> Share {
        Share { own: Budget::new(max), whole }
    }

    /// Returns the most bytes of this connection.
    pub fn max(&self) -> u64 {
        self.own.max.min(self.whole.max)
    }
}

/// What one unfinished message takes; it is released when this is dropped.
#[derive(Debug)]
pub struct Hold {
    share: Arc<Share>,
    announced: u64,
    come: u64,
}

impl Hold {
    /// Makes a hold on nothing.
    pub fn new(share: Arc<Share>) -> Hold {
        Hold { share, announced: 0, come: 0 }
    }

    /// Holds a message of `announced` bytes, of which `come` are here, instead of what was held.
    pub fn set(&mut self, announced: u64, come: u64) -> Result<(), Full> {
        change(&self.share.own, &mut self.announced, announced)?;
        change(&self.share.whole, &mut self.come, come)
    }
}

/// Takes or releases the difference between two numbers of bytes. Nothing changes where there is no room.
fn change(budget: &Budget, held: &mut u64, bytes: u64) -> Result<(), Full> {
    match bytes.checked_sub(*held) {
        Some(more) => budget.take(more)?,
        None => budget.give_back(*held - bytes),
    }
    *held = bytes;
    Ok(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.share.own.give_back(self.announced);
        self.share.whole.give_back(self.come);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_answers_for_what_it_announces_and_all_for_what_has_come() {
        let whole = Arc::new(Budget::new(150));
        let share = || Arc::new(Share::new(whole.clone(), 100));
        let (one, other) = (share(), share());
        let mut first = Hold::new(one.clone());
        let mut second = Hold::new(one);
        assert_eq!(first.set(80, 5), Ok(()));
        assert_eq!(second.set(21, 5), Err(Full), "the connection's share");
        assert_eq!(second.set(20, 5), Ok(()));
        assert_eq!(first.set(80, 80), Ok(()));
        let mut third = Hold::new(other);
        assert_eq!(third.set(100, 66), Err(Full), "the whole");
        assert_eq!(third.set(100, 65), Ok(()));
        assert_eq!(first.set(0, 0), Ok(()));
        assert_eq!(third.set(100, 100), Ok(()));
        drop((first, second, third));
        assert_eq!(whole.used.load(Ordering::Relaxed), 0);
        assert_eq!(Hold::new(share()).set(u64::MAX, 0), Err(Full));
    }
}
