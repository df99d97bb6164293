//! Names of things.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names a job: a `UUIDv7` (RFC 9562), so that ids sort by creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl Hash for JobId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0.as_u128());
    }
}

/// A table of what belongs to jobs. Ids are made by the server, so nobody can choose many of one hash: that can be quick.
pub type JobMap<V> = HashMap<JobId, V, BuildHasherDefault<JobHasher>>;
/// Jobs, as [`JobMap`] has them.
pub type JobSet = HashSet<JobId, BuildHasherDefault<JobHasher>>;

/// Makes the hash of a job's id of its random part.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobHasher(u64);

impl Hasher for JobHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, id: u128) {
        // Tables look at the lowest bits and at the highest ones: by an odd factor both follow from all that are random.
        self.0 = (id as u64 ^ (id >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(8) ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(JobId)
    }
}

/// A task's place in its job, from 0 in the order of submission.
pub type TaskIndex = u32;

/// Names a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The job that it belongs to.
    pub job: JobId,
    /// Its place in the job.
    pub index: TaskIndex,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.index)
    }
}

/// A fencing token: names one attempt of one task for ever. It grows with each start, also with those that were given
/// back and did not count, so that a late result of an earlier attempt is not taken for that of the current one.
pub type Fence = u32;

#[cfg(test)]
mod tests {
    use super::*;

    /// A table takes the place from the lowest bits of a hash, and tells those of a place apart by the seven highest.
    #[test]
    fn ids_that_are_made_one_after_another_have_hashes_that_are_spread() {
        for ids in [(0..4096).map(|_| Uuid::now_v7()).collect::<Vec<_>>(), (0..4096).map(Uuid::from_u128).collect()] {
            let hash = |id: &Uuid| {
                let mut hasher = JobHasher::default();
                JobId(*id).hash(&mut hasher);
                hasher.finish()
            };
            let places: HashSet<u64> = ids.iter().map(|id| hash(id) % 4096).collect();
            let marks: HashSet<u64> = ids.iter().map(|id| hash(id) >> 57).collect();
            assert!(places.len() > 2048 && marks.len() > 100, "{} places, {} marks", places.len(), marks.len());
        }
    }
}
