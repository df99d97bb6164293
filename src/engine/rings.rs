//! How much memory what is kept for watchers takes, over all jobs: events, and what was made of them. Pure.
//!
//! Each feed has its bound, and watched jobs are many. Beyond what all may take, that of the job that kept something longest
//! ago goes: its watchers read what they still want from the store.

use std::collections::BTreeMap;

use crate::model::ids::{JobId, JobMap};

/// What all rings may take, in bytes, roughly.
const ALL_BYTES_MAX: usize = 64 << 20;

/// The jobs of which something is kept, by when that was last more or less.
#[derive(Debug)]
pub(crate) struct Rings {
    most: usize,
    bytes: usize,
    by_age: BTreeMap<u64, (JobId, usize)>,
    of: JobMap<u64>,
    next: u64,
}

impl Default for Rings {
    fn default() -> Self {
        Rings::new(ALL_BYTES_MAX)
    }
}

impl Rings {
    fn new(most: usize) -> Rings {
        Rings { most, bytes: 0, by_age: BTreeMap::new(), of: JobMap::default(), next: 0 }
    }

    /// What all of it takes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that what is kept of a job takes so much now. Returns the jobs of which nothing is to be kept.
    pub(crate) fn note(&mut self, job: JobId, bytes: usize) -> Vec<JobId> {
        self.forget(job);
        if bytes == 0 {
            return Vec::new();
        }
        self.by_age.insert(self.next, (job, bytes));
        self.of.insert(job, self.next);
        self.next += 1;
        self.bytes += bytes;
        let mut gone = Vec::new();
        while self.bytes > self.most
            && let Some((_, (oldest, _))) = self.by_age.first_key_value()
        {
            let oldest = *oldest;
            self.forget(oldest);
            gone.push(oldest);
        }
        gone
    }

    fn forget(&mut self, job: JobId) {
        if let Some((_, bytes)) = self.of.remove(&job).and_then(|age| self.by_age.remove(&age)) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn what_was_published_longest_ago_goes_first() {
        let mut rings = Rings::new(100);
        assert_eq!(rings.note(job(1), 40), []);
        assert_eq!(rings.note(job(2), 40), []);
        assert_eq!(rings.note(job(1), 50), [], "it is the newest now, and counted once");
        assert_eq!(rings.note(job(3), 20), [job(2)]);
        assert_eq!(rings.bytes, 70);
        assert_eq!(rings.note(job(4), 101), [job(1), job(3), job(4)], "one that is too large for all of it, too");
        assert_eq!((rings.bytes, rings.of.len(), rings.by_age.len()), (0, 0, 0));
        assert_eq!(rings.note(job(5), 10), []);
        assert_eq!(rings.note(job(5), 0), []);
        assert_eq!((rings.bytes, rings.of.len(), rings.by_age.len()), (0, 0, 0));
    }
}
