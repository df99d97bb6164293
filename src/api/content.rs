//! `haul.v1.ContentService`: the results of tasks, as bytes and as items.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::api::access::caller::Caller;
use crate::api::flush::flush;
use crate::api::items;
use crate::api::lookup;
use crate::api::status::{draining, internal, out_of_range, precondition};
use crate::api::watchers::Watchers;
use crate::engine::handle::Engine;
use crate::engine::handle::Finished;
use crate::listen::peer::Peer;
use crate::model::ids::{JobId, TaskId};
use crate::model::outcome::Outcome;
use crate::pb;
use crate::store::{Content, Store, StoredTask};

/// The most bytes of one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// The most pages of a listing whose heads are read at once to find a place in it.
const HEADS_MAX: u32 = 500;

/// Implements [`pb::content_service_server::ContentService`].
#[derive(Clone)]
pub struct Contents {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    watchers: Watchers,
}

impl Contents {
    /// Makes the service over an engine and its store. `closing` ends all streams.
    pub fn new(engine: Engine, store: Arc<dyn Store>, closing: CancellationToken, watchers: Watchers) -> Contents {
        Contents { engine, store, closing, watchers }
    }
}

/// One source of bytes, in the order in which they are read.
#[derive(Debug)]
enum Piece {
    Page {
        page: u32,
        bytes: u64,
    },
    /// One handle for the whole call: what takes the name meanwhile is another file.
    File(Finished),
}

#[tonic::async_trait]
impl pb::content_service_server::ContentService for Contents {
    type ReadContentStream = BoxStream<'static, Result<pb::ReadContentResponse, Status>>;
    type StreamItemsStream = BoxStream<'static, Result<pb::StreamItemsResponse, Status>>;

    async fn read_content(
        &self,
        request: Request<pb::ReadContentRequest>,
    ) -> Result<Response<Self::ReadContentStream>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let (job, task) =
            lookup::task(self.store.as_ref(), &self.engine, &caller, &request.job_id, request.task).await?;
        let (pieces, total) = self.pieces(job, &task).await?;
        if request.offset > total {
            return Err(out_of_range(
                "OFFSET_BEYOND_END",
                format!("`offset` is {}, but there are {total} bytes", request.offset),
            ));
        }
        let to = if request.length == 0 { total } else { total.min(request.offset.saturating_add(request.length)) };
        let reader = Reader {
            engine: self.engine.clone(),
            store: self.store.clone(),
            id: TaskId { job, index: task.index },
            pieces,
            at: request.offset,
            to,
            total,
            is_first: true,
            held: None,
        };
        let closing = self.closing.clone();
        Ok(Response::new(
            unfold(Some((reader, closing)), |reader| async move {
                let (mut reader, closing) = reader?;
                let next = tokio::select! {
                    biased;
                    () = closing.cancelled() => Err(draining()),
                    next = reader.next() => next,
                };
                match next {
                    Ok(Some(chunk)) => Some((Ok(chunk), Some((reader, closing)))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            })
            .boxed(),
        ))
    }

    async fn stream_items(
        &self,
        request: Request<pb::StreamItemsRequest>,
    ) -> Result<Response<Self::StreamItemsStream>, Status> {
        let caller = Caller::of(&request);
        let room = request.extensions().get::<Arc<Peer>>().map(|peer| peer.outbound.clone());
        let request = request.into_inner();
        let (job, task) =
            lookup::task(self.store.as_ref(), &self.engine, &caller, &request.job_id, request.task).await?;
        let (engine, store, closing) = (self.engine.clone(), self.store.clone(), self.closing.clone());
        let stream = items::stream(engine, store, closing, room, job, &task, request.after_item)?;
        self.watchers.watched(stream)
    }
}

impl Contents {
    async fn pieces(&self, job: JobId, task: &StoredTask) -> Result<(Vec<Piece>, u64), Status> {
        match &task.row.outcome {
            Some(Outcome::Download(download)) => {
                let whole = self.engine.job(job).await?;
                let opened = self.engine.open_download(&whole, download).await;
                let opened = opened.map_err(|failure| internal(failure.message))?;
                let file = opened.ok_or_else(|| gone(TaskId { job, index: task.index }))?;
                Ok((vec![Piece::File(file)], download.bytes))
            }
            Some(Outcome::Fetch(_)) => {
                let id = TaskId { job, index: task.index };
                let mut pieces = Vec::new();
                let mut total = 0;
                loop {
                    let heads = self.store.page_heads(id, pieces.len() as u32, HEADS_MAX).await?;
                    total += heads.iter().map(|head| head.bytes).sum::<u64>();
                    let is_last = heads.len() < HEADS_MAX as usize;
                    pieces.extend(heads.iter().map(|head| Piece::Page { page: head.page, bytes: head.bytes }));
                    if is_last {
                        return Ok((pieces, total));
                    }
                }
            }
            None => Err(precondition(
                "NO_CONTENT",
                &format!("{job}/{}", task.index),
                "the task has no content: only a task that succeeded has, see its `state`",
            )),
        }
    }
}

struct Reader {
    engine: Engine,
    store: Arc<dyn Store>,
    id: TaskId,
    pieces: Vec<Piece>,
    at: u64,
    to: u64,
    total: u64,
    is_first: bool,
    /// The page that was read last, with its number.
    held: Option<(u32, Content)>,
}

impl Reader {
    /// Returns the next chunk. Empty content has one, which says how long it is.
    async fn next(&mut self) -> Result<Option<pb::ReadContentResponse>, Status> {
        if self.at >= self.to && !std::mem::take(&mut self.is_first) {
            return Ok(None);
        }
        self.is_first = false;
        let wanted = usize::try_from(self.to - self.at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let data = if wanted == 0 { Bytes::new() } else { self.read(wanted).await? };
        if data.is_empty() && wanted > 0 {
            return Err(gone(self.id));
        }
        let offset = self.at;
        self.at += data.len() as u64;
        Ok(Some(pb::ReadContentResponse { offset, data, total_bytes: self.total }))
    }

    async fn read(&mut self, wanted: usize) -> Result<Bytes, Status> {
        flush().await;
        let mut start = 0;
        for piece in &self.pieces {
            match piece {
                Piece::File(file) => return read_file(file, self.at, wanted).await,
                Piece::Page { page, bytes } if self.at < start + bytes => {
                    let (page, inner) = (*page, self.at - start);
                    return self.read_page(page, inner, wanted).await;
                }
                Piece::Page { bytes, .. } => start += bytes,
            }
        }
        Ok(Bytes::new())
    }

    async fn read_page(&mut self, page: u32, offset: u64, wanted: usize) -> Result<Bytes, Status> {
        if self.held.as_ref().is_none_or(|(held, _)| *held != page) {
            let content = self.store.page_content(self.id, page).await?;
            self.held = Some((page, content.ok_or_else(|| internal("a page has lost its content"))?));
        }
        match &self.held {
            Some((_, Content::Inline(body))) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
                Ok(body.slice(from..body.len().min(from + wanted)))
            }
            Some((_, Content::File { .. })) => read_content(&self.engine, self.id, page, offset, wanted).await,
            None => Ok(Bytes::new()),
        }
    }
}

async fn read_file(file: &Finished, offset: u64, wanted: usize) -> Result<Bytes, Status> {
    file.read(offset, wanted).await.map(Bytes::from).map_err(|failure| internal(failure.message))
}

fn gone(id: TaskId) -> Status {
    let message = "the file of the download is not the one that it left: somebody changed, replaced or removed it";
    precondition("CONTENT_GONE", &id.to_string(), message)
}

async fn read_content(engine: &Engine, id: TaskId, page: u32, offset: u64, wanted: usize) -> Result<Bytes, Status> {
    engine.read_content(id, page, offset, wanted).await.map_err(|failure| internal(failure.message))
}
