//! Bodies of fetches, read whole: into a task's message, or a page of a listing at a time.

use bytes::Bytes;
use tonic::Status;

use crate::api::status::internal;
use crate::engine::handle::Engine;
use crate::model::ids::{JobId, TaskId};
use crate::model::outcome::Outcome;
use crate::model::spec::Work;
use crate::pb;
use crate::store::{Content, Store, StoredTask};

/// The most bytes of a body that a task's message holds: with all else of a task it stays within the 4 MiB that clients
/// accept by default.
const INLINE_BYTES_MAX: u64 = 2 << 20;

/// Reads a page.
pub(crate) async fn whole_page(engine: &Engine, store: &dyn Store, id: TaskId, page: u32) -> Result<Bytes, Status> {
    match store.page_content(id, page).await? {
        Some(Content::Inline(body)) => Ok(body),
        Some(Content::File { bytes, .. }) => {
            let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
            engine.read_content(id, page, 0, wanted).await.map_err(|failure| internal(failure.message))
        }
        None => Err(internal("a page has lost its content")),
    }
}

/// Puts the body of a fetch into its message, or notes that it is left out: a listing has no body of its own, and one
/// that is too large is read with `ReadContent`.
pub(crate) async fn include(
    engine: &Engine,
    store: &dyn Store,
    job: JobId,
    task: &StoredTask,
    message: &mut pb::Task,
) -> Result<(), Status> {
    let (Some(Outcome::Fetch(outcome)), Work::Fetch(spec)) = (&task.row.outcome, &task.spec.work) else {
        return Ok(());
    };
    let Some(pb::task::Result::FetchResult(result)) = &mut message.result else { return Ok(()) };
    if spec.pagination.is_some() || outcome.body_bytes > INLINE_BYTES_MAX {
        result.body_omitted = true;
    } else if outcome.body_bytes > 0 {
        result.body = whole_page(engine, store, TaskId { job, index: task.index }, 0).await?;
    }
    Ok(())
}
