//! Bodies of fetches, read whole: into a task's message, or a page of a listing at a time.

use bytes::Bytes;
use prost::Message as _;
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

/// The most bytes of a task's message: what clients accept by default, less what surrounds it.
const TASK_BYTES_MAX: usize = 7 << 19;

/// Leaves the body out of a message that would be too long with it.
pub(crate) fn omit_where_too_long(message: &mut pb::Task) {
    if message.encoded_len() > TASK_BYTES_MAX
        && let Some(pb::task::Result::FetchResult(result)) = &mut message.result
        && !result.body.is_empty()
    {
        result.body = Bytes::new();
        result.body_omitted = true;
    }
}

/// What is wrong where a page has no content, and its job is there.
pub(crate) const PAGE_LOST: &str = "a page has lost its content";

/// Returns the error of content that is not there any more: that of the job, if that was deleted meanwhile.
pub(crate) async fn lost(engine: &Engine, id: TaskId, what: &str) -> Status {
    match engine.job(id.job).await {
        Ok(_) => internal(what),
        Err(error) => error.into(),
    }
}

/// Reads a page.
pub(crate) async fn whole_page(engine: &Engine, store: &dyn Store, id: TaskId, page: u32) -> Result<Bytes, Status> {
    match store.page_content(id, page).await? {
        Some(Content::Inline(body)) => Ok(body),
        Some(Content::File { bytes, .. }) => {
            let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
            match engine.read_content(id, page, 0, wanted).await {
                Ok(body) => Ok(body),
                Err(failure) => Err(lost(engine, id, &failure.message).await),
            }
        }
        None => Err(lost(engine, id, PAGE_LOST).await),
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
    let (Some(Outcome::Fetch(outcome)), Work::Fetch(spec)) = (task.row.outcome.as_deref(), &task.spec.work) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_would_be_too_long_goes_without_its_body() {
        let task = |body: usize, url: usize| {
            let body = Bytes::from(vec![7; body]);
            let result = pb::task::Result::FetchResult(pb::FetchResult { body, ..Default::default() });
            let mut task = pb::Task { result: Some(result), url: "x".repeat(url), ..Default::default() };
            omit_where_too_long(&mut task);
            let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!() };
            (result.body.len(), result.body_omitted)
        };
        assert_eq!(task(2 << 20, 1 << 20), (2 << 20, false));
        assert_eq!(task(2 << 20, 2 << 20), (0, true));
        assert_eq!(task(0, 4 << 20), (0, false));
    }
}
