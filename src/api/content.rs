//! `haul.v1.ContentService`: the results of tasks, as bytes and as items.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, unfold};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::api::access::caller::Caller;
use crate::api::bodies::{PAGE_LOST, lost};
use crate::api::flush::flush;
use crate::api::items;
use crate::api::lookup;
use crate::api::outbound::AnswerRoom;
use crate::api::status::{draining, internal, out_of_range, precondition};
use crate::api::watchers::{Watchers, kept};
use crate::engine::handle::Engine;
use crate::engine::handle::Finished;
use crate::model::ids::{JobId, TaskId};
use crate::model::outcome::Outcome;
use crate::pb;
use crate::store::{Content, Store, StoredTask};

/// The most bytes of one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// The most pages of a listing whose heads are held at once to find a place in it.
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

/// Where the bytes of a task are.
enum Source {
    /// One handle for the whole call: what takes the name meanwhile is another file.
    File(Finished),
    Pages(Pages),
}

/// The pages of a fetch, of which a few heads are held: a listing may have any number.
#[derive(Default)]
struct Pages {
    /// The numbers and the bytes of pages, in their order.
    heads: VecDeque<(u32, u64)>,
    /// Where the first of them begins in the whole.
    start: u64,
    /// The page behind the last of them.
    next: u32,
    /// The page that was read last, with its number.
    held: Option<(u32, Content)>,
}

impl Pages {
    /// Returns the page that holds a byte, and the place of the byte in it. No later call asks for a byte before it.
    async fn of_byte(&mut self, store: &dyn Store, id: TaskId, at: u64) -> Result<Option<(u32, u64)>, Status> {
        loop {
            while let Some((page, bytes)) = self.heads.front() {
                if at < self.start.saturating_add(*bytes) {
                    return Ok(Some((*page, at - self.start)));
                }
                self.start = self.start.saturating_add(*bytes);
                self.heads.pop_front();
            }
            let heads = store.page_heads(id, self.next, HEADS_MAX).await?;
            let Some(last) = heads.last() else { return Ok(None) };
            self.next = last.page.saturating_add(1);
            self.heads.extend(heads.iter().map(|head| (head.page, head.bytes)));
        }
    }
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
        let is_file = matches!(task.row.outcome.as_deref(), Some(Outcome::Download(_)));
        let place = self.watchers.place(caller.holder())?;
        let file = is_file.then(|| self.watchers.file(caller.holder())).transpose()?;
        let (source, total) = self.source(job, &task).await?;
        if request.offset > total {
            let unit = if total == 1 { "byte" } else { "bytes" };
            let message = format!("`offset` is {}, beyond the end: the content has {total} {unit}", request.offset);
            return Err(out_of_range("OFFSET_BEYOND_END", message));
        }
        let to = if request.length == 0 { total } else { total.min(request.offset.saturating_add(request.length)) };
        let reader = Reader {
            engine: self.engine.clone(),
            store: self.store.clone(),
            id: TaskId { job, index: task.index },
            source,
            at: request.offset,
            to,
            total,
            is_first: true,
        };
        let closing = self.closing.clone();
        Ok(kept(
            (place, file),
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
            }),
        ))
    }

    async fn stream_items(
        &self,
        request: Request<pb::StreamItemsRequest>,
    ) -> Result<Response<Self::StreamItemsStream>, Status> {
        let caller = Caller::of(&request);
        let room = AnswerRoom::of(request.extensions());
        let request = request.into_inner();
        let (job, task) =
            lookup::task(self.store.as_ref(), &self.engine, &caller, &request.job_id, request.task).await?;
        let (engine, store, closing) = (self.engine.clone(), self.store.clone(), self.closing.clone());
        let stream = items::stream(engine, store, closing, room, job, &task, request.after_item)?;
        self.watchers.watched(caller.holder(), stream)
    }
}

impl Contents {
    async fn source(&self, job: JobId, task: &StoredTask) -> Result<(Source, u64), Status> {
        match task.row.outcome.as_deref() {
            Some(Outcome::Download(download)) => {
                let whole = self.engine.job(job).await?;
                let opened = self.engine.open_download(&whole, download).await;
                let opened = opened.map_err(|failure| internal(failure.message))?;
                let file = opened.ok_or_else(|| gone(TaskId { job, index: task.index }))?;
                Ok((Source::File(file), download.bytes))
            }
            Some(Outcome::Fetch(fetch)) => Ok((Source::Pages(Pages::default()), fetch.body_bytes)),
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
    source: Source,
    at: u64,
    to: u64,
    total: u64,
    is_first: bool,
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
        let offset = self.at;
        self.at += data.len() as u64;
        Ok(Some(pb::ReadContentResponse { offset, data, total_bytes: self.total }))
    }

    async fn read(&mut self, wanted: usize) -> Result<Bytes, Status> {
        flush().await;
        let pages = match &mut self.source {
            Source::File(file) => {
                let data = file.read(self.at, wanted).await.map_err(|failure| internal(failure.message))?;
                return data.filter(|data| !data.is_empty()).map(Bytes::from).ok_or_else(|| gone(self.id));
            }
            Source::Pages(pages) => pages,
        };
        let (store, id) = (self.store.as_ref(), self.id);
        let Some((page, offset)) = pages.of_byte(store, id, self.at).await? else {
            return Err(lost(&self.engine, id, "a page is lost").await);
        };
        if pages.held.as_ref().is_none_or(|(held, _)| *held != page) {
            let content = store.page_content(id, page).await?;
            let Some(content) = content else { return Err(lost(&self.engine, id, PAGE_LOST).await) };
            pages.held = Some((page, content));
        }
        let data = match &pages.held {
            Some((_, Content::Inline(body))) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
                body.slice(from..body.len().min(from.saturating_add(wanted)))
            }
            Some((_, Content::File { .. })) => match self.engine.read_content(id, page, offset, wanted).await {
                Ok(data) => data,
                Err(failure) => return Err(lost(&self.engine, id, &failure.message).await),
            },
            None => Bytes::new(),
        };
        if data.is_empty() { Err(lost(&self.engine, id, PAGE_LOST).await) } else { Ok(data) }
    }
}

fn gone(id: TaskId) -> Status {
    let message = "the file of the download is not the one that it left: somebody changed, replaced or removed it";
    precondition("CONTENT_GONE", &id.to_string(), message)
}
