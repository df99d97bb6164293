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

/// What a request takes without being asked: what is kept of each call is more than that. So a small call, which may be the
/// one that makes room, is never refused.
const FREE_BYTES: u64 = 4 << 10;

/// A number of bytes with a bound.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    /// How many of these are used by what has no time to end in.
    resting: AtomicU64,
    max: u64,
}

impl Budget {
    /// Makes an empty budget of `max` bytes.
    pub fn new(max: u64) -> Budget {
        Budget { used: AtomicU64::new(0), resting: AtomicU64::new(0), max }
    }

    /// Takes or releases the difference between two numbers of bytes. Nothing changes where there is no room.
    fn change(&self, held: &mut u64, bytes: u64) -> Result<(), Full> {
        change(&self.used, self.max, held, bytes)
    }

    /// The same, of what rests: half of all may.
    fn change_resting(&self, held: &mut u64, bytes: u64) -> Result<(), Full> {
        change(&self.resting, self.max / 2, held, bytes)
    }
}

fn change(used: &AtomicU64, max: u64, held: &mut u64, bytes: u64) -> Result<(), Full> {
    match bytes.checked_sub(*held) {
        Some(more) => {
            let more = |used: u64| used.checked_add(more).filter(|used| *used <= max);
            used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Full)?;
        }
        None => {
            used.fetch_sub(*held - bytes, Ordering::Relaxed);
        }
    }
    *held = bytes;
    Ok(())
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
    free: u64,
    announced: u64,
    come: u64,
    /// What of it rests, in the connection's share and in the whole.
    resting: [u64; 2],
}

impl Hold {
    /// Makes a hold on nothing.
    pub fn new(share: Arc<Share>) -> Hold {
        Hold { share, free: 0, announced: 0, come: 0, resting: [0; 2] }
    }

    /// Makes a hold for a request, whose first bytes are free.
    pub fn of_request(share: Arc<Share>) -> Hold {
        let mut hold = Hold::new(share);
        hold.free = FREE_BYTES;
        hold
    }

    /// Holds a message of `announced` bytes, of which `come` are here, instead of what was held.
    pub fn set(&mut self, announced: u64, come: u64) -> Result<(), Full> {
        self.share.own.change(&mut self.announced, announced.saturating_sub(self.free))?;
        self.share.whole.change(&mut self.come, come.saturating_sub(self.free))
    }

    /// Notes that all that is held stays so for as long as the client likes. Only half of a share, and half of the whole, may
    /// rest like that, so that the other half always comes back.
    pub fn rest(&mut self) -> Result<(), Full> {
        self.share.own.change_resting(&mut self.resting[0], self.announced)?;
        self.share.whole.change_resting(&mut self.resting[1], self.come)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // What becomes less always finds room.
        let _ = self.set(0, 0);
        let _ = self.rest();
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
    #[test]
    fn half_may_rest_and_small_requests_need_no_room() {
        let whole = Arc::new(Budget::new(100 << 10));
        let share = || Arc::new(Share::new(whole.clone(), 60 << 10));
        let (one, other) = (share(), share());
        let held = |share: &Arc<Share>, bytes: u64| {
            let mut hold = Hold::of_request(share.clone());
            hold.set(bytes, bytes).map(|()| hold)
        };
        let mut first = held(&one, 34 << 10).unwrap();
        assert_eq!((first.rest(), first.rest()), (Ok(()), Ok(())), "half of the share, once");
        let mut second = held(&one, 5 << 10).unwrap();
        assert_eq!(second.rest(), Err(Full), "the connection's share");
        let mut third = held(&other, 25 << 10).unwrap();
        assert_eq!(third.rest(), Err(Full), "the whole");
        assert_eq!(third.set(24 << 10, 24 << 10), Ok(()));
        assert_eq!(third.rest(), Ok(()));
        let more = held(&share(), 53 << 10).unwrap();
        assert_eq!(held(&other, (4 << 10) + 1).err(), Some(Full));
        let mut small = held(&other, 4 << 10).unwrap();
        assert_eq!(small.rest(), Ok(()));
        drop((first, second, third, more, small));
        assert_eq!([&whole.used, &whole.resting].map(|bytes| bytes.load(Ordering::Relaxed)), [0, 0]);
    }
}
