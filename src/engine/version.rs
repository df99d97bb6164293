//! A number that grows, for those who wait until it has.
//!
//! As tokio's `watch`, but whoever waits longest wakes first: a `watch` wakes those who wait in a random order, so that a
//! simulation in which two do could not be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    number: AtomicU64,
    is_over: AtomicBool,
    woken: Notify,
}

/// The number.
#[derive(Debug, Default)]
pub(crate) struct Version {
    shared: Arc<Shared>,
}

/// Somebody who waits for the number to grow.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    seen: u64,
}

/// The number will not grow any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

impl Version {
    /// Follows the number as it is now.
    pub(crate) fn follow(&self) -> Follower {
        let shared = self.shared.clone();
        let seen = shared.number.load(Ordering::Acquire);
        Follower { shared, seen }
    }

    /// How many follow it.
    pub(crate) fn followers(&self) -> usize {
        Arc::strong_count(&self.shared) - 1
    }

    /// Lets it grow.
    pub(crate) fn grow(&self) {
        self.shared.number.fetch_add(1, Ordering::Release);
        self.shared.woken.notify_waiters();
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.woken.notify_waiters();
    }
}

impl Follower {
    /// Takes the number as seen as it is now.
    pub fn see(&mut self) {
        self.seen = self.shared.number.load(Ordering::Acquire);
    }

    /// The number that was seen last.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Takes the number as seen as another one saw it, of whom this has what it knows.
    pub fn see_as(&mut self, seen: u64) {
        self.seen = seen;
    }

    /// Waits until the number is another one than this has seen.
    ///
    /// # Errors
    ///
    /// It will not grow any more.
    pub async fn changed(&mut self) -> Result<(), Over> {
        let Follower { shared, seen } = self;
        loop {
            let mut woken = std::pin::pin!(shared.woken.notified());
            // From here on no wake-up is missed.
            woken.as_mut().enable();
            let number = shared.number.load(Ordering::Acquire);
            if std::mem::replace(seen, number) != number {
                return Ok(());
            }
            if shared.is_over.load(Ordering::Acquire) {
                return Err(Over);
            }
            woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_follows_hears_of_each_growth_and_of_the_end() {
        let version = Version::default();
        assert_eq!(version.followers(), 0);
        let mut follower = version.follow();
        assert!(version.followers() == 1 && follower.changed().now_or_never().is_none());
        version.grow();
        version.grow();
        assert_eq!(follower.changed().now_or_never(), Some(Ok(())));
        assert_eq!(follower.changed().now_or_never(), None);
        version.grow();
        follower.see();
        assert_eq!(follower.changed().now_or_never(), None, "it was seen");
        follower.see_as(follower.seen() - 1);
        assert_eq!(follower.changed().now_or_never(), Some(Ok(())), "the other one saw less");
        let mut waiting = Box::pin(follower.changed());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(version);
        assert_eq!(waiting.now_or_never(), Some(Err(Over)));
    }

    #[tokio::test]
    async fn who_waits_longest_wakes_first() {
        let version = Version::default();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (mut follower, sender) = (version.follow(), sender.clone());
            waiting.spawn(async move {
                follower.changed().await.unwrap();
                sender.send(number).unwrap();
            });
        }
        tokio::task::yield_now().await;
        version.grow();
        waiting.join_all().await;
        let woken: Vec<i32> = std::iter::from_fn(|| order.try_recv().ok()).collect();
        assert_eq!(woken, (0..50).collect::<Vec<_>>());
    }
}
