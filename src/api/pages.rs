//! Answers lists page by page. A page ends by its count or by its bytes, whichever comes first.

use std::collections::BTreeSet;

use tonic::Status;

use crate::api::access::caller::{Caller, Reach};
use crate::api::lookup::{listed_job, live_tasks};
use crate::api::spec_to_proto;
use crate::api::status::Violations;
use crate::api::values;
use crate::engine::handle::Engine;
use crate::model::access::{LOCAL, LOCAL_NAME, PrincipalNo};
use crate::model::ids::JobId;
use crate::model::job::JobState;
use crate::model::task::TaskState;
use crate::pb;
use crate::store::{JobFilter, Listed, Store};

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 1_000;
/// The most bytes of a page: well below the 4 MiB that gRPC clients accept by default.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// Returns how many to answer.
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

/// Reads the states that a listing is limited to, each once and in the order of the contract.
fn states<S>(numbers: &[i32], read: fn(i64) -> Option<S>, v: &mut Violations) -> Vec<S> {
    for (index, number) in numbers.iter().enumerate() {
        if read(i64::from(*number)).is_none() {
            v.add(format!("states[{index}]"), format!("{number} is not a state"));
        }
    }
    let numbers: BTreeSet<i32> = numbers.iter().copied().collect();
    numbers.into_iter().filter_map(|number| read(i64::from(number))).collect()
}

/// The conditions of a listing as bytes, to which its page tokens are bound.
///
/// The form is kept from version to version: a condition that is not set leaves no trace, so that one that a later
/// version adds does not end the tokens of this one.
#[derive(Default)]
struct Conditions(Vec<u8>);

impl Conditions {
    fn of_jobs(filter: &JobFilter) -> Conditions {
        let mut conditions = Conditions::default();
        for state in &filter.states {
            conditions.add(1, &[*state as u8]);
        }
        for (key, value) in &filter.labels {
            conditions.add(2, key.as_bytes());
            conditions.add(3, value.as_bytes());
        }
        for (number, time) in [(4, filter.created_after), (5, filter.created_before)] {
            if let Some(time) = time {
                conditions.add(number, &time.0.to_be_bytes());
            }
        }
        if let Some(no) = filter.created_by {
            conditions.add(7, &no.to_be_bytes());
        }
        conditions
    }

    fn of_tasks(job: JobId, states: &[TaskState]) -> Conditions {
        let mut conditions = Conditions::default();
        conditions.add(6, job.0.as_bytes());
        for state in states {
            conditions.add(1, &[*state as u8]);
        }
        conditions
    }

    /// Adds a condition by its number and its value, whose length goes in too.
    fn add(&mut self, number: u8, value: &[u8]) {
        self.0.push(number);
        self.0.extend_from_slice(&(value.len() as u64).to_be_bytes());
        self.0.extend_from_slice(value);
    }
}

/// Returns how many of `messages` fit in a page.
pub(crate) fn fitting<M: prost::Message>(messages: &[M]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&M| {
        bytes += message.encoded_len() + 8;
        bytes <= PAGE_BYTES_MAX
    };
    // At least one, so that each page makes progress.
    messages.iter().take_while(fits).count().max(1).min(messages.len())
}

/// Answers `ListJobs`.
pub(crate) async fn list_jobs(
    engine: &Engine,
    store: &dyn Store,
    caller: &Caller,
    request: pb::ListJobsRequest,
) -> Result<pb::ListJobsResponse, Status> {
    let mut v = Violations::default();
    let size = page_size(request.page_size, &mut v);
    let states = states(&request.states, JobState::from_number, &mut v);
    values::labels(&request.labels, "labels", &mut v);
    let mut filter = JobFilter {
        states,
        labels: request.labels.into_iter().collect(),
        created_after: request.create_time_after.and_then(|it| values::timestamp(it, "create_time_after", &mut v)),
        created_before: request.create_time_before.and_then(|it| values::timestamp(it, "create_time_before", &mut v)),
        created_by: created_by(engine, caller, &request.created_by),
        ..JobFilter::default()
    };
    let (tokens, same) = (store.page_tokens(), Conditions::of_jobs(&filter).0);
    if !request.page_token.is_empty() {
        match tokens.read_job(&same, &request.page_token) {
            Ok(before) => filter.before = Some(before),
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    let Listed { items: jobs, has_more: mut more } = store.jobs(&filter, size).await?;
    let mut messages: Vec<pb::Job> = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let feed = engine.hub().feed(job.id);
        messages.push(listed_job(job, feed.as_ref()));
    }
    let fitting = fitting(&messages);
    more |= fitting < messages.len();
    messages.truncate(fitting);
    let last = jobs.get(fitting.wrapping_sub(1)).filter(|_| more);
    let next_page_token = last.map(|job| tokens.after_job(&same, job.id)).unwrap_or_default();
    Ok(pb::ListJobsResponse { jobs: messages, next_page_token, examined: 0 })
}

/// Returns whose jobs are listed: those of `name`, and for who only submits, its own; `None`: all.
fn created_by(engine: &Engine, caller: &Caller, name: &str) -> Option<PrincipalNo> {
    let books = engine.books();
    let book = books.borrow();
    let named = match name {
        "" => None,
        LOCAL_NAME => Some(LOCAL),
        name => Some(book.principal(name).map_or(PrincipalNo::MAX, |it| it.no)),
    };
    match (caller.only_own(), named) {
        (Some(own), Some(named)) if own != named => Some(PrincipalNo::MAX),
        (Some(own), _) => Some(own),
        (None, named) => named,
    }
}

/// Answers `ListTasks`.
pub(crate) async fn list_tasks(
    engine: &Engine,
    store: &dyn Store,
    caller: &Caller,
    request: pb::ListTasksRequest,
) -> Result<pb::ListTasksResponse, Status> {
    let mut v = Violations::default();
    let job = values::job_id(&request.job_id, &mut v);
    let size = page_size(request.page_size, &mut v);
    let states = states(&request.states, TaskState::from_number, &mut v);
    let (tokens, same) = (store.page_tokens(), Conditions::of_tasks(job, &states).0);
    let mut from = 0;
    if !request.page_token.is_empty() {
        match tokens.read_task(&same, &request.page_token) {
            Ok(place) => from = place,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    caller.reach(engine, job, Reach::Look).await?;
    engine.job(job).await?;
    let Listed { items: tasks, has_more: mut more } = store.tasks(job, &states, from, size).await?;
    let mut messages = live_tasks(engine, job, &tasks).await;
    if request.include_spec {
        for (task, message) in tasks.iter().zip(&mut messages) {
            message.spec = Some(spec_to_proto::task(&task.spec));
        }
    }
    let fitting = fitting(&messages);
    more |= fitting < messages.len();
    messages.truncate(fitting);
    let last = tasks.get(fitting.wrapping_sub(1)).filter(|_| more);
    let token = last.map(|task| tokens.from_task(&same, task.index + 1));
    Ok(pb::ListTasksResponse { tasks: messages, next_page_token: token.unwrap_or_default(), examined: 0 })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::model::time::Timestamp;

    /// Changing these bytes ends every token that a client holds.
    #[test]
    fn conditions_are_written_as_they_always_were() {
        let labels = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())].into();
        let filter = JobFilter {
            states: vec![JobState::Running, JobState::Failed],
            labels,
            created_after: Some(Timestamp(258)),
            ..JobFilter::default()
        };
        let text = |conditions: Conditions| base64::engine::general_purpose::STANDARD.encode(conditions.0);
        insta::assert_snapshot!(text(Conditions::of_jobs(&filter)), @"AQAAAAAAAAABAgEAAAAAAAAAAQYCAAAAAAAAAAFhAwAAAAAAAAAAAgAAAAAAAAABYgMAAAAAAAAAATIEAAAAAAAAAAgAAAAAAAABAg==");
        insta::assert_snapshot!(text(Conditions::of_tasks(JobId(uuid::Uuid::from_u128(7)), &[TaskState::Pending])), @"BgAAAAAAAAAQAAAAAAAAAAAAAAAAAAAABwEAAAAAAAAAAQE=");
        assert!(Conditions::of_jobs(&JobFilter::default()).0.is_empty());
    }
}
