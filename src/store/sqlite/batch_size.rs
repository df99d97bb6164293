//! How much room a batch takes or makes on the disk. Pure.

use std::sync::Arc;

use crate::model::spec::TaskSpec;
use crate::store::sqlite::reserve::Reserve;
use crate::store::{Batch, Content};

/// What a row takes on the disk beside what it holds, in bytes, roughly.
const ROW_BYTES: usize = 256;
/// Whether the batch needs a small part of the reserve at most.
pub(super) fn is_small(batch: &Batch, reserve: &Reserve) -> bool {
    bytes(batch) as u64 <= reserve.lent() / 2
}

/// How much a batch adds, in bytes, roughly.
fn bytes(batch: &Batch) -> usize {
    let Batch { submissions, additions, pages, moves, claims, retries, sweeps, events, respecced, .. } = batch;
    let tasks = |tasks: &[(u32, Arc<TaskSpec>)]| -> usize {
        tasks.iter().map(|(_, spec)| ROW_BYTES + spec.memory_bytes()).sum()
    };
    let pages = pages.iter().map(|page| match &page.content {
        Content::Inline(body) => ROW_BYTES + body.len(),
        Content::File { .. } => ROW_BYTES,
    });
    let swept = sweeps.iter().map(|it| it.limit).chain(retries.iter().map(|it| it.limit));
    submissions.iter().map(|it| it.job.spec.memory_bytes() + tasks(&it.tasks)).sum::<usize>()
        + additions.iter().map(|it| tasks(&it.tasks)).sum::<usize>()
        + pages.sum::<usize>()
        + moves.iter().map(|it| ROW_BYTES + it.row.memory_bytes()).sum::<usize>()
        + respecced.iter().map(|job| job.spec.memory_bytes()).sum::<usize>()
        + swept.map(|rows| rows as usize * ROW_BYTES).sum::<usize>()
        + (claims.len() + events.len() + submissions.len() + batch.jobs.len() + batch.audit.len()) * ROW_BYTES
}

/// Whether the batch does nothing but remove.
pub(super) fn makes_room(batch: &Batch) -> bool {
    let Batch { submissions, additions, pages, moves, claims, lane_heads, retries, sweeps, .. } = batch;
    let Batch { events, jobs, respecced, limits, new_data_key, access, .. } = batch;
    let adds = !(submissions.is_empty() && additions.is_empty() && pages.is_empty() && moves.is_empty())
        || !(claims.is_empty() && lane_heads.is_empty() && retries.is_empty() && sweeps.is_empty())
        || !(events.is_empty() && jobs.is_empty() && respecced.is_empty() && limits.is_none() && !new_data_key)
        || !access.is_empty();
    !adds && !batch.is_empty()
}
