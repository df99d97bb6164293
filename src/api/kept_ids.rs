//! The ids of jobs that watchers of many jobs keep, bounded for each watcher and for all of them together.
//!
//! A watcher keeps which jobs it sent, so that it sends their ends too, and, while it reads a long list, which of them
//! changed meanwhile. Either may be many, and watchers are many. Where all keep too many, what was sent is forgotten, the oldest
//! first, but for a few of each watcher. What is still to be sent cannot be forgotten, so that a watch ends for which that is too
//! much; what others keep does not end it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::ids::JobId;

/// The most ids that one set has: some megabytes.
const SET_MAX: usize = 100_000;
/// The most ids in the sets of all watchers, beside the few of each.
const ALL_MAX: usize = 2_000_000;
/// How many ids each set may have, however many the others have.
const FEW: usize = 200;

/// How many ids all watchers of a server keep.
#[derive(Debug)]
pub(crate) struct KeptIds {
    count: AtomicUsize,
    max: usize,
}

impl Default for KeptIds {
    fn default() -> Self {
        KeptIds { count: AtomicUsize::new(0), max: ALL_MAX }
    }
}

/// A set of ids that counts among all.
#[derive(Debug)]
struct CountedSet {
    ids: BTreeSet<JobId>,
    all: Arc<KeptIds>,
}

impl CountedSet {
    fn new(all: &Arc<KeptIds>) -> CountedSet {
        CountedSet { ids: BTreeSet::new(), all: all.clone() }
    }

    /// Adds an id. Returns whether it is new.
    fn insert(&mut self, id: JobId) -> bool {
        let is_new = self.ids.insert(id);
        if is_new {
            self.all.count.fetch_add(1, Ordering::Relaxed);
        }
        is_new
    }

    /// Removes an id. Returns whether it was there.
    fn remove(&mut self, id: JobId) -> bool {
        let was_there = self.ids.remove(&id);
        if was_there {
            self.all.count.fetch_sub(1, Ordering::Relaxed);
        }
        was_there
    }

    /// Whether it has more ids than it may, with those that all sets have.
    fn is_too_large(&self) -> bool {
        let all = self.all.count.load(Ordering::Relaxed);
        self.ids.len() > SET_MAX || self.ids.len() > FEW && all > self.all.max
    }
}

impl Drop for CountedSet {
    fn drop(&mut self) {
        self.all.count.fetch_sub(self.ids.len(), Ordering::Relaxed);
    }
}

/// The jobs that a watcher sent, the newest of them where they are too many. One that was forgotten is sent as a new one when it
/// changes, and not when it is gone.
#[derive(Debug)]
pub(crate) struct SentJobs {
    set: CountedSet,
    /// The newest job that was forgotten.
    forgotten: Option<JobId>,
}

impl SentJobs {
    /// Makes an empty set.
    pub(crate) fn new(all: &Arc<KeptIds>) -> SentJobs {
        SentJobs { set: CountedSet::new(all), forgotten: None }
    }

    pub(crate) fn contains(&self, id: JobId) -> bool {
        self.set.ids.contains(&id)
    }

    /// Whether a job may have been sent and forgotten.
    pub(crate) fn may_be_forgotten(&self, id: JobId) -> bool {
        self.forgotten.is_some_and(|newest| id <= newest)
    }

    /// Keeps a job, in the place of the oldest ones where there are too many.
    pub(crate) fn add(&mut self, id: JobId) {
        self.set.insert(id);
        while self.set.is_too_large() {
            let Some(oldest) = self.set.ids.first().copied() else { return };
            self.set.remove(oldest);
            self.forgotten = self.forgotten.max(Some(oldest));
        }
    }

    /// Forgets a job that is not to be sent any more. Returns whether it was sent.
    pub(crate) fn remove(&mut self, id: JobId) -> bool {
        self.set.remove(id)
    }
}

/// The error of a set of ids that is full: the id of another changed job was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The jobs that changed while a watcher read its list.
#[derive(Debug)]
pub(crate) struct UnsentJobs(CountedSet);

impl UnsentJobs {
    /// Makes an empty set.
    pub(crate) fn new(all: &Arc<KeptIds>) -> UnsentJobs {
        UnsentJobs(CountedSet::new(all))
    }

    /// Keeps a job until it is sent.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(crate) fn add(&mut self, id: JobId) -> Result<(), TooMany> {
        if self.0.insert(id) && self.0.ids.len() > SET_MAX { Err(TooMany) } else { Ok(()) }
    }

    /// Removes the newest job and returns it.
    pub(crate) fn pop(&mut self) -> Option<JobId> {
        let newest = self.0.ids.last().copied()?;
        self.0.remove(newest).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: usize) -> JobId {
        JobId(uuid::Uuid::from_u128(number as u128))
    }

    fn all(max: usize) -> Arc<KeptIds> {
        Arc::new(KeptIds { max, ..KeptIds::default() })
    }

    fn count(all: &KeptIds) -> usize {
        all.count.load(Ordering::Relaxed)
    }

    #[test]
    fn a_watcher_forgets_the_oldest_of_what_it_sent() {
        let all = all(ALL_MAX);
        let mut sent = SentJobs::new(&all);
        (0..SET_MAX + 10).for_each(|number| sent.add(job(number)));
        assert!(!sent.contains(job(9)) && sent.contains(job(10)));
        assert!(sent.remove(job(10)) && !sent.remove(job(10)));
        assert_eq!(count(&all), SET_MAX - 1);
        drop(sent);
        assert_eq!(count(&all), 0);
    }

    #[test]
    fn many_watchers_keep_no_more_than_all_may_and_a_few_each() {
        const WATCHERS: usize = 50;
        let all = all(10_000);
        let mut watchers: Vec<_> = (0..WATCHERS).map(|_| (SentJobs::new(&all), UnsentJobs::new(&all))).collect();
        for number in 0..1_000 {
            for (sent, unsent) in &mut watchers {
                sent.add(job(number));
                assert_eq!(unsent.add(job(number)), Ok(()), "what others keep refuses nothing");
            }
        }
        assert_eq!(count(&all), WATCHERS * (FEW + 1_000));
        for (sent, _) in &watchers {
            assert!(sent.set.ids.len() == FEW && sent.contains(job(999)));
            assert!(sent.may_be_forgotten(job(0)) && !sent.may_be_forgotten(job(999)));
        }
        drop(watchers);
        assert_eq!(count(&all), 0);
    }

    #[test]
    fn what_is_unsent_is_refused_when_it_is_too_much_and_sent_newest_first() {
        let all = all(FEW);
        let mut unsent = UnsentJobs::new(&all);
        assert!((0..SET_MAX).all(|number| unsent.add(job(number)).is_ok()));
        assert_eq!((unsent.add(job(0)), unsent.add(job(SET_MAX))), (Ok(()), Err(TooMany)));
        assert_eq!((unsent.pop(), unsent.pop()), (Some(job(SET_MAX)), Some(job(SET_MAX - 1))));
        while unsent.pop().is_some() {}
        assert_eq!(count(&all), 0, "what is sent leaves its room");
    }
}
