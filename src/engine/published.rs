//! Durable events on their way to watchers, and what was made of them for all watchers of a job.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::time::Instant;

use crate::model::job::Job;
use crate::store::StoredEvent;

/// What is sent of an event, without the spec of a job.
const WRITTEN_BYTES: usize = 512;

/// A durable event on its way to the watchers of its job.
#[derive(Debug)]
pub struct Published {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// The event as it is sent, once somebody has written it for all of them.
    pub written: OnceLock<Bytes>,
}

impl Published {
    /// An event that nobody has written yet.
    pub fn new(event: Arc<StoredEvent>) -> Arc<Published> {
        Arc::new(Published { event, written: OnceLock::new() })
    }
}

/// Durable events of a job that follow one another, as they are sent, put together for all watchers who are as far.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The number of the event before the first one.
    pub after: u64,
    /// The number of the last one.
    pub upto: u64,
    /// The version of the job that this was all of, if it was.
    pub all_of: Option<u64>,
    /// What is sent.
    pub bytes: Bytes,
}

/// How far a job is, as its watchers are told, written for all of them.
#[derive(Clone, Debug)]
pub struct Shown {
    /// When it was this far.
    pub at: Instant,
    /// The job as it was then.
    pub job: Arc<Job>,
    /// What is sent.
    pub bytes: Bytes,
}

/// The memory of an event, roughly, with what is sent of it.
pub(crate) fn bytes_of(event: &StoredEvent) -> usize {
    let task = event.task.as_ref().map_or(0, |task| task.spec.memory_bytes() + task.row.memory_bytes());
    let snapshot = event.snapshot.as_ref().map_or(0, |job| size_of_val(&**job) + 2 * job.spec.memory_bytes());
    size_of::<Published>() + size_of_val(event) + WRITTEN_BYTES + task + snapshot
}
