//! `StreamItems`: the items of a listing, in order, while its pages arrive.
//!
//! One page is held at a time, so that a listing of any length costs the memory of a page.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::content::whole_page;
use crate::api::status::{draining, internal, precondition};
use crate::engine::handle::Engine;
use crate::model::ids::{JobId, TaskId};
use crate::model::spec::Work;
use crate::pb;
use crate::store::{PageHead, Store, StoredTask};

/// Pages whose heads are read at once.
const HEADS_MAX: u32 = 64;
/// How long a follower waits at most before it looks for new pages.
const LOOK: Duration = Duration::from_millis(250);

struct Items {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    id: TaskId,
    pointer: String,
    /// The next item to send.
    next_item: u64,
    next_page: Option<u32>,
    heads: VecDeque<PageHead>,
    /// The page that is being sent: its head, and its items still to send.
    items: VecDeque<(u64, u32, String)>,
    over: bool,
}

/// The items after `after`.
pub(crate) fn stream(
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
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
        items: VecDeque::new(),
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

fn no_items(id: TaskId) -> Status {
    precondition("NOT_PAGINATED", &id.to_string(), "the task has no items: only a fetch with `pagination` has")
}

impl Items {
    async fn next(&mut self) -> Result<Option<pb::StreamItemsResponse>, Status> {
        loop {
            if let Some((item_index, page, json)) = self.items.pop_front() {
                self.next_item = item_index + 1;
                return Ok(Some(pb::StreamItemsResponse { item_index, page, json }));
            }
            if let Some(head) = self.next_head().await? {
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
        let body: Bytes = whole_page(&self.engine, self.store.as_ref(), self.id, head.page).await?;
        let texts = self.engine.items(&body, &self.pointer).map_err(|failure| internal(failure.message))?;
        let numbered = (head.first_item..head.first_item + head.items).zip(texts);
        let wanted = numbered.filter(|(index, _)| *index >= self.next_item);
        self.items.extend(wanted.map(|(index, json)| (index, head.page, json)));
        Ok(())
    }

    /// Waits for more pages; false when none will come.
    async fn more(&mut self) -> Result<bool, Status> {
        // First the state, then the pages: what was durable before the end is found after it.
        let task = self.store.task(self.id).await?;
        let ended = task.is_none_or(|task| task.row.task.state.is_ended());
        let from = self.next_page.unwrap_or(0);
        self.heads.extend(self.store.page_heads(self.id, from, HEADS_MAX).await?);
        if !self.heads.is_empty() {
            return Ok(true);
        }
        if ended {
            return Ok(false);
        }
        tokio::select! {
            () = self.closing.cancelled() => Err(draining()),
            () = tokio::time::sleep(LOOK) => Ok(true),
        }
    }
}
