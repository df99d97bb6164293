//! `AddTasks`: chunks of tasks for an open job, each acknowledged in order once it is durable.
//!
//! The next chunk is read when the one before is durable, so that HTTP/2's flow control slows a client that sends faster
//! than the disk writes, and the server buffers one chunk.

use std::sync::Arc;

use futures_util::stream::{Stream, unfold};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::api::access::caller::{Caller, Reach};
use crate::api::client_options::ClientOptions;
use crate::api::complete::complete;
use crate::api::credentials;
use crate::api::flush::flush;
use crate::api::from_proto;
use crate::api::status::{Violations, draining};
use crate::api::values::{self, ID_BYTES_MAX};
use crate::engine::handle::Engine;
use crate::model::ids::JobId;
use crate::pb;

struct Feeder {
    /// As the caller calls it.
    engine: Engine,
    caller: Caller,
    chunks: Streaming<pb::AddTasksRequest>,
    closing: CancellationToken,
    allowed: ClientOptions,
    job: Option<JobId>,
    over: bool,
}

/// Returns the answers, one a chunk. The first error ends the stream; what was answered before it is durable.
pub(crate) fn answers(
    engine: &Engine,
    caller: Caller,
    chunks: Streaming<pb::AddTasksRequest>,
    closing: CancellationToken,
    allowed: ClientOptions,
) -> impl Stream<Item = Result<pb::AddTasksResponse, Status>> + Send + use<> {
    let engine = engine.by(caller.actor.clone());
    let feeder = Feeder { engine, caller, chunks, closing, allowed, job: None, over: false };
    unfold(feeder, |mut feeder| async move {
        if feeder.over {
            return None;
        }
        let answer = feeder.next().await.transpose()?;
        feeder.over = answer.is_err();
        Some((answer, feeder))
    })
}

impl Feeder {
    async fn next(&mut self) -> Result<Option<pb::AddTasksResponse>, Status> {
        let chunk = tokio::select! {
            chunk = self.chunks.message() => chunk.map_err(complete)?,
            () = self.closing.cancelled() => return Err(draining()),
        };
        let Some(chunk) = chunk else { return Ok(None) };
        flush().await;
        let mut v = Violations::default();
        let job = self.job(&chunk.job_id, &mut v);
        if chunk.chunk_id.is_empty() {
            v.add("chunk_id", "is empty; give each chunk an id, so that it can be sent again after a cut");
        }
        values::text(&chunk.chunk_id, &"chunk_id", ID_BYTES_MAX, &mut v);
        if chunk.tasks.is_empty() {
            v.add("tasks", "is empty; a chunk holds at least one task");
        }
        if v.is_empty() {
            self.caller.reach(&self.engine, job, Reach::Feed).await?;
        }
        // What a task may set depends on what its job sets for it.
        let spec = if v.is_empty() { self.engine.job(job).await?.spec.clone() } else { Arc::default() };
        let tasks = from_proto::tasks(chunk.tasks, &"tasks", &spec.defaults, &mut v);
        // What is right in itself may not be allowed just now.
        let mut now = Violations::default();
        self.allowed.check(&spec.defaults, None, (tasks.specs(), "tasks"), &mut now);
        credentials::check(&self.engine, &self.caller.actor, &spec.defaults, None, (tasks.specs(), "tasks"), &mut now);
        let is_only_now = v.is_empty() && !now.is_empty();
        let known = if is_only_now { self.engine.added(job, &chunk.chunk_id, tasks.specs()).await? } else { None };
        let stored = if let Some(stored) = known {
            stored
        } else {
            v.append(now);
            let tasks = v.or(tasks)?;
            self.engine.add_tasks(job, &chunk.chunk_id, tasks).await?
        };
        Ok(Some(pb::AddTasksResponse {
            chunk_id: chunk.chunk_id,
            first_task_index: stored.first,
            task_count: stored.count,
        }))
    }

    fn job(&mut self, text: &str, v: &mut Violations) -> JobId {
        if let Some(job) = self.job.filter(|_| text.is_empty()) {
            return job;
        }
        let job = values::job_id(text, v);
        if self.job.is_some_and(|first| first != job) {
            v.add("job_id", "differs from that of the first message; one stream feeds one job");
        }
        self.job = Some(job);
        job
    }
}
