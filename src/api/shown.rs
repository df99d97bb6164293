//! How far a job is, as its watchers are told: written once for all of them, in the order of the fields.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::time::Instant;

use crate::api::lookup::waits;
use crate::api::to_proto;
use crate::codec::Encoded;
use crate::engine::feed::Feed;
use crate::engine::handle::Engine;
use crate::engine::published::Shown;
use crate::model::job::Job;
use crate::model::time::Timestamp;
use crate::model::told;
use crate::pb;

/// The most running tasks in a progress message.
const ACTIVE_MAX: usize = 100;

/// `WatchJobResponse` with a `progress` whose fields are written before.
#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, optional, tag = "2")]
    time: Option<prost_types::Timestamp>,
    #[prost(bytes = "bytes", tag = "7")]
    progress: Bytes,
}

/// Writes how far a job is now, running tasks included.
pub(crate) fn written_now(feed: &Feed) -> Shown {
    let (at, job) = (Instant::now(), feed.job());
    let id = job.id.to_string();
    let active = feed.active(ACTIVE_MAX).iter().map(|(_, active)| to_proto::active(&id, active)).collect();
    let message = pb::JobProgress {
        counts: Some(to_proto::counts(&told::counts(job.state, job.counts))),
        progress: Some(to_proto::job_progress(&feed.progress(), &job.counts)),
        active,
        ..Default::default()
    };
    Shown { at, job, bytes: message.encode_to_vec().into() }
}

/// Writes why the tasks of a job wait, as that was found at most `age` ago.
pub(crate) async fn written_waits(engine: &Engine, feed: &Feed, age: Duration) -> Bytes {
    let mut waiting = waits(engine, &feed.job(), age, None).await;
    // That of a rate moves on with each request, and says nothing new.
    let moves = |wait: &pb::Waiting| wait.reason() == pb::WaitReason::RateLimit;
    waiting.iter_mut().filter_map(|tasks| tasks.waiting.as_mut()).filter(|it| moves(it)).for_each(|it| it.until = None);
    pb::JobProgress { waiting, ..Default::default() }.encode_to_vec().into()
}

/// Writes what failed.
pub(crate) fn written_failures(job: &Job) -> Bytes {
    pb::JobProgress { failures: to_proto::failures(&job.failures), ..Default::default() }.encode_to_vec().into()
}

/// Returns the message of a watch that was told event `sequence` last, with the progress that these parts are, in this order.
pub(crate) fn message(sequence: u64, time: Timestamp, parts: &[&Bytes]) -> Encoded {
    let mut progress = BytesMut::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        progress.extend_from_slice(part);
    }
    let time = Some(to_proto::timestamp(time));
    Encoded::of(&Written { sequence, time, progress: progress.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::watch_job_response::Event;

    #[test]
    fn parts_are_the_message_that_they_stand_for() {
        let parts = pb::JobProgress {
            counts: Some(pb::TaskCounts { total: 7, ..Default::default() }),
            progress: Some(pb::Progress { bytes_done: 1, ..Default::default() }),
            active: vec![pb::Task { key: "a".into(), ..Default::default() }],
            ..Default::default()
        };
        let waiting = vec![pb::WaitingTasks { tasks: 3, ..Default::default() }];
        let failures = vec![pb::FailureCount { count: 2, ..Default::default() }];
        let whole = pb::JobProgress { waiting: waiting.clone(), failures: failures.clone(), ..parts.clone() };
        let time = Some(to_proto::timestamp(Timestamp(5)));
        let expected = pb::WatchJobResponse { sequence: 9, time, event: Some(Event::Progress(whole)) };
        let written = [
            parts,
            pb::JobProgress { waiting, ..Default::default() },
            pb::JobProgress { failures, ..Default::default() },
        ]
        .map(|part| Bytes::from(part.encode_to_vec()));
        let sent = message(9, Timestamp(5), &written.each_ref());
        assert_eq!(sent.bytes(), &expected.encode_to_vec());
    }
}
