//! Memory for messages that have not arrived whole, and for answers that have not left: so much for the process, so much
//! for a connection, and so much for each who calls.
//!
//! A message is kept until it is whole, and an answer until it is written. Without a bound, one client that begins many
//! large messages and ends none fills the memory, and so does one that asks for many large answers and reads none. Without a bound
//! of its own, it would do so with as many connections as that takes, and keep out everybody else. So nobody holds more than
//! is left free for the others: one alone gets half, and where several want all they can get, each gets the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The error of a request for more bytes than the budget has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for more")]
pub struct Full;

/// What a request takes without being asked: what is kept of each call is more than that. So a small call, which may be the
/// one that makes room, is never refused.
const FREE_BYTES: u64 = 4 << 10;

/// How much less strangers may hold, all of them together, than is left free: nothing that they may ask for is large.
const STRANGERS_PART: u64 = 15;

/// Who holds a part of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Anybody who is not known. All of them are one.
    Stranger,
    /// The one of this number.
    Known(u64),
    /// The server's own user, who has no bound beside that of all.
    Owner,
}

/// A number of bytes, or of other things, with a bound.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    /// How many of these are used by what has no time to end in.
    resting: AtomicU64,
    max: u64,
    /// Who holds some of it.
    accounts: Mutex<HashMap<Holder, Weak<Account>>>,
}

/// What one holder has of a budget.
#[derive(Debug)]
struct Account {
    holder: Holder,
    used: AtomicU64,
    resting: AtomicU64,
}

impl Budget {
    /// Makes an empty budget of `max` bytes.
    pub fn new(max: u64) -> Budget {
        Budget { used: AtomicU64::new(0), resting: AtomicU64::new(0), max, accounts: Mutex::default() }
    }

    /// Returns the account of a holder, which lasts for as long as anybody uses it.
    fn account(&self, holder: Holder) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(&holder).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account { holder, used: AtomicU64::new(0), resting: AtomicU64::new(0) });
        accounts.insert(holder, Arc::downgrade(&account));
        account
    }

    /// Takes a part of a budget for somebody, until it is dropped.
    ///
    /// # Errors
    ///
    /// Fails if the budget has fewer bytes left.
    pub fn take(self: &Arc<Self>, holder: Holder, count: u64) -> Result<Taken, Full> {
        let mut taken = Taken::new(self.clone(), holder);
        taken.set(count)?;
        Ok(taken)
    }
}

/// Takes or releases the difference between two numbers of bytes, of all and of one account. Nothing changes where there is no
/// room. `own`: what the account has, and whose it is.
fn change(
    used: &AtomicU64,
    max: u64,
    own: Option<(&AtomicU64, Holder)>,
    held: &mut u64,
    count: u64,
) -> Result<(), Full> {
    match count.checked_sub(*held) {
        Some(0) => {}
        Some(more) => {
            let added = |used: u64| used.checked_add(more).filter(|used| *used <= max);
            let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).map_err(|_| Full)?;
            if let Some((own, holder)) = own {
                let mine = own.fetch_add(more, Ordering::Relaxed) + more;
                if !may_hold(holder, mine, max - before - more) {
                    own.fetch_sub(more, Ordering::Relaxed);
                    used.fetch_sub(more, Ordering::Relaxed);
                    return Err(Full);
                }
            }
        }
        None => {
            used.fetch_sub(*held - count, Ordering::Relaxed);
            if let Some((own, _)) = own {
                own.fetch_sub(*held - count, Ordering::Relaxed);
            }
        }
    }
    *held = count;
    Ok(())
}

/// Returns whether somebody may hold so much while so much is free beside it.
pub(super) fn may_hold(holder: Holder, count: u64, free: u64) -> bool {
    match holder {
        Holder::Stranger => count.saturating_mul(STRANGERS_PART) <= free,
        Holder::Known(_) => count <= free,
        Holder::Owner => true,
    }
}

/// A part of a budget that somebody holds; it is released when this is dropped.
#[derive(Debug)]
pub struct Taken {
    budget: Arc<Budget>,
    account: Arc<Account>,
    count: u64,
    /// What of it rests.
    resting: u64,
}

impl Taken {
    fn new(budget: Arc<Budget>, holder: Holder) -> Taken {
        let account = budget.account(holder);
        Taken { budget, account, count: 0, resting: 0 }
    }

    fn set(&mut self, count: u64) -> Result<(), Full> {
        let Taken { budget, account, .. } = self;
        change(&budget.used, budget.max, Some((&account.used, account.holder)), &mut self.count, count)
    }

    /// Half of all may rest.
    fn rest(&mut self, count: u64) -> Result<(), Full> {
        let Taken { budget, account, .. } = self;
        change(&budget.resting, budget.max / 2, Some((&account.resting, account.holder)), &mut self.resting, count)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // What becomes less always finds room.
        let _ = self.set(0);
        let _ = self.rest(0);
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

    /// Returns the most bytes of one message or answer of somebody on this connection, whatever there is beside it.
    pub fn max_of(&self, holder: Holder) -> u64 {
        let whole = match holder {
            Holder::Stranger => self.whole.max / (STRANGERS_PART + 1),
            Holder::Known(_) => self.whole.max / 2,
            Holder::Owner => self.whole.max,
        };
        self.own.max.min(whole)
    }
}

/// What one unfinished message takes; it is released when this is dropped.
#[derive(Debug)]
pub struct Hold {
    share: Arc<Share>,
    free: u64,
    announced: u64,
    /// What of that rests.
    resting: u64,
    come: Taken,
}

impl Hold {
    /// Makes a hold of somebody on nothing.
    pub fn new(share: Arc<Share>, holder: Holder) -> Hold {
        let come = Taken::new(share.whole.clone(), holder);
        Hold { share, free: 0, announced: 0, resting: 0, come }
    }

    /// Makes a hold for a request, whose first bytes are free.
    pub fn of_request(share: Arc<Share>, holder: Holder) -> Hold {
        let mut hold = Hold::new(share, holder);
        hold.free = FREE_BYTES;
        hold
    }

    /// Holds a message of `announced` bytes, of which `come` are here, instead of what was held.
    pub fn set(&mut self, announced: u64, come: u64) -> Result<(), Full> {
        let own = &self.share.own;
        change(&own.used, own.max, None, &mut self.announced, announced.saturating_sub(self.free))?;
        self.come.set(come.saturating_sub(self.free))
    }

    /// Notes that all that is held stays so for as long as the client likes. Only half of a share, and half of the whole, may
    /// rest like that, so that the other half always comes back.
    pub fn rest(&mut self) -> Result<(), Full> {
        self.rest_with(self.announced, self.come.count)
    }

    fn rest_with(&mut self, announced: u64, come: u64) -> Result<(), Full> {
        let own = &self.share.own;
        change(&own.resting, own.max / 2, None, &mut self.resting, announced)?;
        self.come.rest(come)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // What becomes less always finds room.
        let _ = self.set(0, 0);
        let _ = self.rest_with(0, 0);
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
        let mut first = Hold::new(one.clone(), Holder::Owner);
        let mut second = Hold::new(one, Holder::Owner);
        assert_eq!(first.set(80, 5), Ok(()));
        assert_eq!(second.set(21, 5), Err(Full), "the connection's share");
        assert_eq!(second.set(20, 5), Ok(()));
        assert_eq!(first.set(80, 80), Ok(()));
        let mut third = Hold::new(other, Holder::Owner);
        assert_eq!(third.set(100, 66), Err(Full), "the whole");
        assert_eq!(third.set(100, 65), Ok(()));
        assert_eq!(first.set(0, 0), Ok(()));
        assert_eq!(third.set(100, 100), Ok(()));
        drop((first, second, third));
        assert_eq!(whole.used.load(Ordering::Relaxed), 0);
        assert_eq!(Hold::new(share(), Holder::Owner).set(u64::MAX, 0), Err(Full));
    }
    #[test]
    fn half_may_rest_and_small_requests_need_no_room() {
        let whole = Arc::new(Budget::new(100 << 10));
        let share = || Arc::new(Share::new(whole.clone(), 60 << 10));
        let (one, other) = (share(), share());
        let held = |share: &Arc<Share>, bytes: u64| {
            let mut hold = Hold::of_request(share.clone(), Holder::Owner);
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

    #[test]
    fn nobody_holds_more_than_is_left_for_the_others() {
        let whole = Arc::new(Budget::new(1_600));
        let take = |holder, count| whole.take(holder, count);
        let first = take(Holder::Known(1), 800).unwrap();
        assert_eq!(take(Holder::Known(1), 1).err(), Some(Full), "half is for the others");
        let second = take(Holder::Known(2), 400).unwrap();
        assert_eq!(take(Holder::Known(2), 1).err(), Some(Full));
        assert_eq!(take(Holder::Stranger, 26).err(), Some(Full), "all strangers are one, and have little");
        let strangers = (take(Holder::Stranger, 15).unwrap(), take(Holder::Stranger, 10).unwrap());
        let owner = take(Holder::Owner, 375).unwrap();
        assert_eq!(take(Holder::Owner, 1).err(), Some(Full), "the whole");
        drop(first);
        let third = take(Holder::Known(3), 300).unwrap();
        drop((second, strangers, owner, third));
        assert_eq!(
            (whole.used.load(Ordering::Relaxed), whole.account(Holder::Known(9)).used.load(Ordering::Relaxed)),
            (0, 0)
        );
        assert_eq!(whole.accounts.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }
}
