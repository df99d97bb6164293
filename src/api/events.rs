//! Converts durable events.

use tonic::Status;

use crate::api::status::internal;
use crate::api::to_proto;
use crate::codec::Encoded;
use crate::model::event::EventKind;
use crate::model::ids::JobId;
use crate::pb;
use crate::pb::watch_job_response;
use crate::store::StoredEvent;

/// Converts the job that an event shows.
pub(crate) fn job(event: &StoredEvent) -> Result<pb::Job, Status> {
    let job = event.snapshot.as_ref().ok_or_else(|| internal("an event has lost its job"))?;
    let mut job = job.as_ref().clone();
    job.sequence = event.head.sequence;
    Ok(to_proto::job(&job, None, Vec::new()))
}

/// Converts the task that an event shows.
pub(crate) fn task(job: JobId, event: &StoredEvent) -> Result<pb::Task, Status> {
    let task = event.task.as_ref().ok_or_else(|| internal("an event has lost its task"))?;
    Ok(to_proto::task(&job.to_string(), task))
}

/// Writes the message of a watch that holds an event.
pub(crate) fn watched(event: &StoredEvent, what: watch_job_response::Event) -> Encoded {
    let time = Some(to_proto::timestamp(event.head.time));
    Encoded::of(&pb::WatchJobResponse { sequence: event.head.sequence, time, event: Some(what) })
}

/// Converts an event of a list.
pub(crate) fn listed(id: JobId, event: &StoredEvent) -> Result<pb::JobEvent, Status> {
    use pb::job_event::Event;
    let what = match event.head.kind {
        EventKind::TaskEnded => Event::TaskEnded(task(id, event)?),
        EventKind::JobChanged => Event::JobChanged(job(event)?),
        EventKind::JobEnded => Event::JobEnded(job(event)?),
    };
    let time = Some(to_proto::timestamp(event.head.time));
    Ok(pb::JobEvent { sequence: event.head.sequence, time, event: Some(what) })
}
