//! Lists by page. A page ends by its count or by its bytes, whichever comes first.

use tonic::Status;

use crate::api::from_proto;
use crate::api::lookup::{live_job, live_tasks};
use crate::api::status::Violations;
use crate::engine::handle::Engine;
use crate::model::job::JobState;
use crate::model::task::TaskState;
use crate::pb;
use crate::store::page_token::PageTokens;
use crate::store::{JobFilter, Store};

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 1_000;
/// Bytes of a page: well below the 4 MiB that gRPC clients take by default.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// How many to answer.
pub(crate) fn page_size(asked: i32, v: &mut Violations) -> u32 {
    match u32::try_from(asked) {
        Ok(0) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => {
            v.add("page_size", format!("is {asked}; it must not be negative"));
            0
        }
    }
}

/// How many of `messages` fit in a page.
pub(crate) fn fitting<M: prost::Message>(messages: &[M]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&M| {
        bytes += message.encoded_len() + 8;
        bytes <= PAGE_BYTES_MAX
    };
    // At least one, so that each page gets on.
    messages.iter().take_while(fits).count().max(1).min(messages.len())
}

/// See the contract's `ListJobs`.
pub(crate) async fn list_jobs(
    engine: &Engine,
    store: &dyn Store,
    request: pb::ListJobsRequest,
) -> Result<pb::ListJobsResponse, Status> {
    let mut v = Violations::default();
    let size = page_size(request.page_size, &mut v);
    let mut states = Vec::new();
    for (index, state) in request.states.iter().enumerate() {
        match JobState::from_number(i64::from(*state)) {
            Some(state) => states.push(state),
            None => v.add(format!("states[{index}]"), format!("{state} is no JobState")),
        }
    }
    from_proto::labels(&request.labels, "labels", &mut v);
    let mut filter = JobFilter {
        states,
        labels: request.labels.into_iter().collect(),
        created_after: request.create_time_after.and_then(|it| from_proto::timestamp(it, "create_time_after", &mut v)),
        created_before: request
            .create_time_before
            .and_then(|it| from_proto::timestamp(it, "create_time_before", &mut v)),
        ..JobFilter::default()
    };
    // A token goes on with the list that it came from and with no other.
    let (tokens, same) = (PageTokens::new(store.node_id()), format!("{filter:?}"));
    if !request.page_token.is_empty() {
        match tokens.read_job(same.as_bytes(), &request.page_token) {
            Ok(before) => filter.before = Some(before),
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    let mut jobs = store.jobs(&filter, size + 1).await?;
    let mut more = jobs.len() > size as usize;
    jobs.truncate(size as usize);
    let mut messages: Vec<pb::Job> = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let feed = engine.hub().feed(job.id);
        messages.push(live_job(job, feed.as_ref()));
    }
    let fitting = fitting(&messages);
    more |= fitting < messages.len();
    messages.truncate(fitting);
    let last = jobs.get(fitting.wrapping_sub(1)).filter(|_| more);
    let next_page_token = last.map(|job| tokens.after_job(same.as_bytes(), job.id)).unwrap_or_default();
    Ok(pb::ListJobsResponse { jobs: messages, next_page_token })
}

/// See the contract's `ListTasks`.
pub(crate) async fn list_tasks(
    engine: &Engine,
    store: &dyn Store,
    request: pb::ListTasksRequest,
) -> Result<pb::ListTasksResponse, Status> {
    let mut v = Violations::default();
    let job = from_proto::job_id(&request.job_id, &mut v);
    let size = page_size(request.page_size, &mut v);
    let mut states = Vec::new();
    for (index, state) in request.states.iter().enumerate() {
        match TaskState::from_number(i64::from(*state)) {
            Some(state) => states.push(state),
            None => v.add(format!("states[{index}]"), format!("{state} is no TaskState")),
        }
    }
    let (tokens, same) = (PageTokens::new(store.node_id()), format!("{job} {states:?}"));
    let mut from = 0;
    if !request.page_token.is_empty() {
        match tokens.read_task(same.as_bytes(), &request.page_token) {
            Ok(place) => from = place,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    engine.job(job).await?;
    let mut tasks = store.tasks(job, &states, from, size + 1).await?;
    let mut more = tasks.len() > size as usize;
    tasks.truncate(size as usize);
    let mut messages = live_tasks(engine, job, &tasks).await;
    let fitting = fitting(&messages);
    more |= fitting < messages.len();
    messages.truncate(fitting);
    let last = tasks.get(fitting.wrapping_sub(1)).filter(|_| more);
    let token = last.map(|task| tokens.from_task(same.as_bytes(), task.index + 1));
    Ok(pb::ListTasksResponse { tasks: messages, next_page_token: token.unwrap_or_default() })
}
