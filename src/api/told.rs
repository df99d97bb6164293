//! The jobs that a watcher of jobs was told of, which tell it when they are gone or leave what it watches.
//!
//! A watcher remembers many, and watchers are many: beyond what all of them may remember together, each that is told of another
//! job forgets its oldest ones, but for a few. A job that was forgotten is told of as a new one when it changes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::ids::JobId;

/// The most that one watcher remembers: some megabytes.
pub(crate) const TOLD_MAX: usize = 100_000;
/// The most that all watchers of the process remember, beside the few of each.
const ALL_MAX: usize = 2_000_000;
/// How many each may remember, however many the others do.
const FEW: usize = 200;

/// How many jobs all watchers remember.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// The jobs that one watcher was told of.
#[derive(Debug, Default)]
pub(crate) struct Told {
    ids: BTreeSet<JobId>,
}

impl Told {
    pub(crate) fn contains(&self, id: JobId) -> bool {
        self.ids.contains(&id)
    }

    /// Remembers a job, in the place of the oldest ones where there are too many.
    pub(crate) fn add(&mut self, id: JobId) {
        if self.ids.insert(id) {
            ALL.fetch_add(1, Ordering::Relaxed);
        }
        self.shrink(ALL_MAX);
    }

    fn shrink(&mut self, all_max: usize) {
        while self.ids.len() > TOLD_MAX || self.ids.len() > FEW && ALL.load(Ordering::Relaxed) > all_max {
            let Some(oldest) = self.ids.first().copied() else { return };
            self.remove(oldest);
        }
    }

    /// Forgets a job. Returns whether it was told of.
    pub(crate) fn remove(&mut self, id: JobId) -> bool {
        let was_told = self.ids.remove(&id);
        if was_told {
            ALL.fetch_sub(1, Ordering::Relaxed);
        }
        was_told
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        ALL.fetch_sub(self.ids.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: usize) -> JobId {
        JobId(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn many_watchers_remember_less() {
        let before = ALL.load(Ordering::Relaxed);
        let (mut one, mut other) = (Told::default(), Told::default());
        (0..TOLD_MAX + 10).for_each(|number| one.add(job(number)));
        assert!(!one.contains(job(9)) && one.contains(job(10)), "the oldest are forgotten");
        (0..1000).for_each(|number| other.add(job(number)));
        assert_eq!(ALL.load(Ordering::Relaxed), before + TOLD_MAX + 1000);
        // Where all may remember less than one does, each forgets down to a few.
        other.shrink(before + 500);
        assert_eq!(other.ids.len(), FEW);
        assert!(other.contains(job(999)) && !other.contains(job(0)));
        assert!(other.remove(job(999)) && !other.remove(job(999)));
        drop((one, other));
        assert_eq!(ALL.load(Ordering::Relaxed), before);
    }
}
