//! What the scheduler reads, and what else it waits for, while it goes on.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::engine::command::{Admitted, Command, EngineError, Reply, answer};
use crate::engine::patience::{caught, patiently, promptly};
use crate::engine::queue::LaneRead;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::read::{Otherwise, Read, Repeated, trusted};
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::tenant::Party;
use crate::store::{Chunk, StoreError};

impl Scheduler {
    /// Begins the reads that the queue wants.
    pub(super) fn begin_reads(&mut self) {
        if self.draining {
            return;
        }
        while let Some(read) = self.queue.next_read() {
            let (store, now) = (self.runner.store.clone(), self.now());
            let LaneRead { job, lane, from, .. } = read;
            let limit = self.bounds.lane_page;
            self.reads.spawn(async move {
                let page = caught(patiently(|| store.lane_page(job, lane, from, limit, now))).await;
                Read::Lane(read, page)
            });
        }
        if let Some(after) = self.queue.begin_due_read() {
            let (store, limit) = (self.runner.store.clone(), self.bounds.due_page);
            self.reads.spawn(async move { Read::Due(caught(patiently(|| store.due_tasks(Some(after), limit))).await) });
        }
    }

    pub(super) fn read_done(&mut self, read: Result<Read, tokio::task::JoinError>) -> Result<(), StoreError> {
        let read = read.map_err(|error| StoreError::Fatal(format!("a read was lost: {error}")))?;
        match read {
            Read::Lane(read, page) => {
                let head = self.queue.lane_read(read, trusted(page)?);
                self.outbox.head(head);
            }
            Read::Due(page) => {
                let page = trusted(page)?;
                self.queue.due_read(page);
            }
            Read::Visited(job, admitted, found) => {
                if let Err(StoreError::Fatal(why)) = found {
                    return Err(StoreError::Fatal(why));
                }
                self.visited(job, admitted, found);
            }
            Read::Chunk { chunk_id, digest, known, otherwise, reply } => {
                answer(reply, known_chunk(chunk_id, digest, known, otherwise));
            }
            Read::Request { request, known, otherwise, reply } => match known {
                Ok(Some((job, digest))) => self.known(job, digest, request, Otherwise::Refuse(otherwise), reply),
                Ok(None) => answer(reply, Err(otherwise)),
                Err(error) => answer(reply, Err(error.into())),
            },
            Read::Known { job, found, taken, otherwise, reply } => match (*found, taken) {
                (Ok(Some(_)), Some(request_id)) => answer(reply, Err(EngineError::RequestIdTaken(request_id))),
                (Ok(Some(job)), None) => answer(reply, Ok(job.into())),
                (Ok(None), _) => self.deleted_meanwhile(job, otherwise, reply),
                (Err(error), _) => answer(reply, Err(error.into())),
            },
            Read::JobsOf(deletion, has_jobs) => self.looked_for_jobs(deletion, has_jobs),
            Read::TenantGone(deletion, is_aside) => self.tenant_gone(*deletion, is_aside),
            Read::PartsAway(job, gone) => self.parts_away(job, gone),
            Read::PartsBack(job) => self.retried(job),
            Read::Removable(jobs) => match trusted(jobs)? {
                Some(jobs) => self.remove_jobs(jobs),
                None => self.not_looked(),
            },
            Read::LeftDropped(job, tenant, is_over) => self.left_dropped(job, tenant, trusted(is_over)?),
            Read::Forgotten(job) => self.forgotten(job),
            Read::Space(fitting) => self.space_found(fitting),
            Read::Late(id, found) => self.late_read(id, found)?,
            Read::Reloaded(job, found) => match *found {
                Err(StoreError::Unreadable(why)) => self.not_reloaded(job, &why),
                found => match trusted(found)? {
                    Some(found) => self.reloaded(job, found),
                    None => self.reload(job),
                },
            },
        }
        Ok(())
    }

    /// Puts the part files of an ending job where nobody sees them, for a retry.
    pub(super) fn put_parts_away(&mut self, job: JobId) {
        let Some(ending) = self.jobs.get(job).map(|run| run.job.clone()) else { return };
        let files = self.runner.files.clone();
        self.reads.spawn(async move {
            // Where this panics, what is left is found by nobody.
            let gone = caught(files.put_away(&ending).map(Ok)).await.unwrap_or_default();
            Read::PartsAway(job, gone)
        });
    }

    /// Looks for a chunk that is not taken any more: it may have been before.
    pub(super) fn read_chunk(
        &mut self,
        job: JobId,
        (chunk_id, digest): (String, [u8; 32]),
        otherwise: EngineError,
        reply: Reply<Chunk>,
        room: Option<OwnedSemaphorePermit>,
    ) {
        if reply.is_closed() {
            return;
        }
        let store = self.runner.store.clone();
        self.reads.spawn(async move {
            // So many wait at once as commands have room.
            let _room = room;
            let known = caught(promptly(|| store.chunk(job, &chunk_id))).await;
            Read::Chunk { chunk_id, digest, known, otherwise, reply }
        });
    }

    /// The request id of a submission was used before: the first job is the answer, if it is the same and was not deleted since.
    pub(super) fn known(
        &mut self,
        job: JobId,
        digest: [u8; 32],
        (request_id, asked): (String, [u8; 32]),
        otherwise: Otherwise,
        reply: Reply<Arc<Job>>,
    ) {
        let taken = (digest != asked).then_some(request_id);
        if let Some(feed) = self.hub.feed(job) {
            return answer(reply, taken.map_or_else(|| Ok(feed.job()), |id| Err(EngineError::RequestIdTaken(id))));
        }
        let store = self.runner.store.clone();
        self.reads.spawn(async move {
            let found = Box::new(caught(promptly(|| store.visit(job))).await);
            Read::Known { job, found, taken, otherwise, reply }
        });
    }

    /// The job that a request id stood for was deleted since: the id is free again.
    fn deleted_meanwhile(&mut self, job: JobId, otherwise: Otherwise, reply: Reply<Arc<Job>>) {
        match otherwise {
            Otherwise::Submit(repeated) => {
                tracing::debug!(%job, "a request id is free again, so its request is taken anew");
                let Repeated { spec, request, tasks, caller, by } = *repeated;
                let (spec, request) = (Box::new(spec), Some(request));
                self.command(Admitted {
                    command: Command::Submit { spec, request, tasks, caller, reply },
                    by,
                    room: None,
                });
            }
            Otherwise::Refuse(error) => answer(reply, Err(error)),
        }
    }

    /// Looks for a request that is not taken now: it may have been before.
    pub(super) fn read_request(
        &mut self,
        request: (String, [u8; 32]),
        of: Party,
        otherwise: EngineError,
        reply: Reply<Arc<Job>>,
        room: Option<OwnedSemaphorePermit>,
    ) {
        if reply.is_closed() {
            return;
        }
        let store = self.runner.store.clone();
        self.reads.spawn(async move {
            let _room = room;
            let known = caught(promptly(|| store.request(of, &request.0))).await;
            Read::Request { request, known, otherwise, reply }
        });
    }
}

fn known_chunk(
    chunk_id: String,
    digest: [u8; 32],
    known: Result<Option<Chunk>, StoreError>,
    otherwise: EngineError,
) -> Result<Chunk, EngineError> {
    match known {
        Ok(Some(chunk)) if chunk.digest == digest => Ok(chunk),
        Ok(Some(_)) => Err(EngineError::ChunkIdTaken(chunk_id)),
        Ok(None) => Err(otherwise),
        Err(error) => Err(error.into()),
    }
}
