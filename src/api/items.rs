//! `StreamItems`: the items of a listing, in order, while its pages arrive.
//!
//! One page is held at a time, within what answers to one client may take, so that a listing of any length costs the memory
//! of a page.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::bodies::whole_page;
use crate::api::flush::flush;
use crate::api::outbound::AnswerRoom;
use crate::api::status::{draining, internal, not_found, precondition, task_failed};
use crate::api::to_proto;
use crate::engine::handle::Engine;
use crate::engine::version::Follower;
use crate::listen::budget::Hold;
use crate::model::ids::{JobId, TaskId};
use crate::model::spec::Work;
use crate::model::task::TaskState;
use crate::pb;
use crate::store::{PageHead, Store, StoredTask};

/// The most pages whose heads are read at once.
const HEADS_MAX: u32 = 64;
/// How long a follower waits before it looks again for a job that is about to leave memory or to come into it.
const LOOK: Duration = Duration::from_millis(250);
/// The most bytes of an item in one message: what is left of the 4 MiB that clients accept by default.
const PART_BYTES_MAX: usize = (4 << 20) - (1 << 10);

/// A page whose items are on their way to the client.
struct Page {
    number: u32,
    body: Bytes,
    /// Where each item is in the body.
    items: Vec<Range<u32>>,
    /// The index of the first of them in the listing.
    first: u64,
    /// The place of the item to send next, how much of it was sent, and in how many parts.
    at: usize,
    sent: usize,
    part: u32,
    _room: Option<Hold>,
}

impl Page {
    fn next_part(&mut self) -> Result<Option<pb::StreamItemsResponse>, Status> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        let text = self.body.get(item.start as usize..item.end as usize).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| internal("an item is not UTF-8"))?;
        let end = text.floor_char_boundary(self.sent.saturating_add(PART_BYTES_MAX));
        let message = pb::StreamItemsResponse {
            item_index: self.first + self.at as u64,
            page: self.number,
            json: text[self.sent..end].to_owned(),
            part: self.part,
            last_part: end == text.len(),
        };
        if message.last_part {
            (self.at, self.sent, self.part) = (self.at + 1, 0, 0);
        } else {
            (self.sent, self.part) = (end, self.part + 1);
        }
        Ok(Some(message))
    }
}

struct Items {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    id: TaskId,
    pointer: String,
    /// The index of the next item to send.
    next_item: u64,
    next_page: Option<u32>,
    heads: VecDeque<PageHead>,
    /// The page that is being sent.
    page: Option<Page>,
    /// What pages that wait for the client may take.
    room: Option<AnswerRoom>,
    over: bool,
}

/// Returns the items after `after`.
pub(crate) fn stream(
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    room: Option<AnswerRoom>,
    job: JobId,
    task: &StoredTask,
    after: Option<u64>,
) -> Result<impl Stream<Item = Result<pb::StreamItemsResponse, Status>> + Send + 'static, Status> {
    let id = TaskId { job, index: task.index };
    let Work::Fetch(fetch) = &task.spec.work else { return Err(no_items(id)) };
    let Some(pagination) = &fetch.pagination else { return Err(no_items(id)) };
    let items = Items {
        engine,
        store,
        closing,
        id,
        pointer: pagination.items_pointer.clone(),
        next_item: after.map_or(0, |after| after.saturating_add(1)),
        next_page: None,
        heads: VecDeque::new(),
        page: None,
        room,
        over: false,
    };
    Ok(unfold(items, |mut items| async move {
        if items.over {
            return None;
        }
        let item = items.next().await.transpose()?;
        items.over = item.is_err();
        Some((item, items))
    }))
}

/// Waits for a change of the job, which may also be its end.
async fn changed(news: Option<Follower>) {
    match news {
        // An error means that the job has left memory.
        Some(mut news) => drop(news.changed().await),
        None => tokio::time::sleep(LOOK).await,
    }
}

fn no_items(id: TaskId) -> Status {
    precondition(
        "NOT_PAGINATED",
        &id.to_string(),
        "the task has no items: only a fetch with `pagination` has; read its content instead",
    )
}

impl Items {
    async fn next(&mut self) -> Result<Option<pb::StreamItemsResponse>, Status> {
        loop {
            if let Some(page) = &mut self.page {
                if let Some(message) = page.next_part()? {
                    self.next_item = message.item_index + u64::from(message.last_part);
                    return Ok(Some(message));
                }
                self.page = None;
            }
            flush().await;
            if let Some(head) = self.next_head().await? {
                // Of a long listing there is always a next page.
                if self.closing.is_cancelled() {
                    return Err(draining());
                }
                self.open(&head).await?;
                continue;
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn next_head(&mut self) -> Result<Option<PageHead>, Status> {
        if self.heads.is_empty() {
            let from = match self.next_page {
                Some(page) => page,
                None => self.store.page_of_item(self.id, self.next_item).await?.map_or(0, |head| head.page),
            };
            self.heads.extend(self.store.page_heads(self.id, from, HEADS_MAX).await?);
        }
        let head = self.heads.pop_front();
        if let Some(head) = &head {
            self.next_page = Some(head.page + 1);
        }
        Ok(head)
    }

    async fn open(&mut self, head: &PageHead) -> Result<(), Status> {
        // Before the page is read, which may be large: a client that reads none of it opens many.
        let bytes = head.bytes + head.items * size_of::<Range<u32>>() as u64;
        let room = self.room.as_ref().map(|room| room.hold(bytes)).transpose()?;
        let body: Bytes = whole_page(&self.engine, self.store.as_ref(), self.id, head.page).await?;
        let mut items = self.engine.items(&body, &self.pointer).map_err(|failure| internal(failure.message))?;
        // A listing may end within a page.
        items.truncate(usize::try_from(head.items).unwrap_or(usize::MAX));
        let at = usize::try_from(self.next_item.saturating_sub(head.first_item)).unwrap_or(usize::MAX);
        let (number, first) = (head.page, head.first_item);
        self.page = Some(Page { number, body, items, first, at, sent: 0, part: 0, _room: room });
        Ok(())
    }

    /// Waits for more pages; false when the listing is complete. A listing that is not ends with the task's error.
    async fn more(&mut self) -> Result<bool, Status> {
        // First the subscription, then the state, then the pages: what is durable before each is found after it.
        let news = self.engine.hub().feed(self.id.job).map(|feed| feed.subscribe_to_pages());
        let task = self.store.task(self.id).await?;
        let task = task.ok_or_else(|| not_found("task", &self.id.to_string()))?;
        let from = self.next_page.unwrap_or(0);
        self.heads.extend(self.store.page_heads(self.id, from, HEADS_MAX).await?);
        if !self.heads.is_empty() {
            return Ok(true);
        }
        match task.row.task.state {
            TaskState::Succeeded => return Ok(false),
            state if state.is_ended() => {
                let error = task.placed_error().as_ref().map(to_proto::task_error).unwrap_or_default();
                return Err(task_failed(self.id, error));
            }
            _ => {}
        }
        tokio::select! {
            () = self.closing.cancelled() => Err(draining()),
            () = changed(news) => Ok(true),
        }
    }
}
