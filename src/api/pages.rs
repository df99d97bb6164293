//! Answers lists page by page. A page ends by its count or by its bytes, whichever comes first.

use tonic::Status;

use crate::api::access::caller::{Caller, Reach};
use crate::api::events;
use crate::api::filters;
use crate::api::lookup::{listed_job, live_tasks};
use crate::api::spec_to_proto;
use crate::api::status::Violations;
use crate::api::values;
use crate::engine::handle::Engine;
use crate::model::access::{ANONYMOUS_NAME, LOCAL, LOCAL_NAME, PrincipalNo};
use crate::model::event::EventKind;
use crate::model::ids::JobId;
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::DEFAULT_NO;
use crate::model::time::Timestamp;
use crate::model::told;
use crate::pb;
use crate::store::{EventPage, JobFilter, JobOrder, JobPage, JobPlace, Store, TaskPage, TaskQuery};

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
            conditions.add_time(number, time);
        }
        if let Some(no) = filter.created_by {
            conditions.add(7, &no.to_be_bytes());
        }
        conditions.add_text(8, filter.search.as_str());
        for (number, time) in [(9, filter.ended_after), (10, filter.ended_before)] {
            conditions.add_time(number, time);
        }
        if filter.order == JobOrder::Ended {
            conditions.add(11, &[]);
        }
        // A token of one tenant is invalid for another. Tokens of the default tenant are older than tenants and name none.
        if filter.tenant != Some(DEFAULT_NO) {
            conditions.add(16, &filter.tenant.unwrap_or(0).to_be_bytes());
        }
        conditions
    }

    fn of_tasks(job: JobId, query: &TaskQuery) -> Conditions {
        let mut conditions = Conditions::default();
        conditions.add(6, job.0.as_bytes());
        let filter = &query.filter;
        for state in &filter.states {
            conditions.add(1, &[*state as u8]);
        }
        for reason in &filter.reasons {
            conditions.add(12, &[*reason as u8]);
        }
        for status in &filter.http_statuses {
            conditions.add(13, &status.to_be_bytes());
        }
        conditions.add_text(14, &filter.host);
        conditions.add_text(8, query.search.as_str());
        conditions
    }

    fn of_events(job: JobId, kinds: &[EventKind]) -> Conditions {
        let mut conditions = Conditions::default();
        conditions.add(6, job.0.as_bytes());
        for kind in kinds {
            conditions.add(15, &[*kind as u8]);
        }
        conditions
    }

    fn add_time(&mut self, number: u8, time: Option<Timestamp>) {
        if let Some(time) = time {
            self.add(number, &time.0.to_be_bytes());
        }
    }

    fn add_text(&mut self, number: u8, text: &str) {
        if !text.is_empty() {
            self.add(number, text.as_bytes());
        }
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

/// Cuts messages, of which there may be one more than `size`, to what fits in a page. Returns whether more follow.
pub(crate) fn cut_to_page<M: prost::Message>(messages: &mut Vec<M>, size: usize) -> bool {
    let all = messages.len();
    messages.truncate(size);
    messages.truncate(fitting(messages));
    messages.len() < all
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
    let states = filters::job_states(&request.states, "states", &mut v);
    values::labels(&request.labels, &"labels", &mut v);
    let mut filter = JobFilter {
        states,
        ended_after: request.end_time_after.and_then(|it| values::timestamp(it, &"end_time_after", &mut v)),
        ended_before: request.end_time_before.and_then(|it| values::before(it, &"end_time_before", &mut v)),
        search: filters::search(&request.search, "search", &mut v),
        order: order(request.order, &mut v),
        labels: request.labels.into_iter().collect(),
        created_after: request.create_time_after.and_then(|it| values::timestamp(it, &"create_time_after", &mut v)),
        created_before: request.create_time_before.and_then(|it| values::before(it, &"create_time_before", &mut v)),
        tenant: caller.only_of(),
        created_by: created_by(engine, caller, &request.created_by),
        ..JobFilter::default()
    };
    let (tokens, same) = (store.page_tokens(), Conditions::of_jobs(&filter).0);
    if !request.page_token.is_empty() {
        let place = match filter.order {
            JobOrder::Created => tokens.read_job(&same, &request.page_token).map(|id| JobPlace { id, end: None }),
            JobOrder::Ended => {
                let place = tokens.read_end(&same, &request.page_token);
                place.map(|(end, id)| JobPlace { id, end: Some(end) })
            }
        };
        match place {
            Ok(before) => filter.before = Some(before),
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    let JobPage { items: jobs, examined, mut next } = store.jobs(&filter, size).await?;
    let mut messages: Vec<pb::Job> = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let feed = engine.hub().feed(job.id);
        messages.push(listed_job(job, feed.as_ref()));
    }
    let fitting = fitting(&messages);
    if fitting < messages.len() {
        messages.truncate(fitting);
        next = jobs.get(fitting.wrapping_sub(1)).map(|job| JobPlace { id: job.id, end: job.end_time });
    }
    let token = |place: JobPlace| match (filter.order, place.end) {
        (JobOrder::Ended, Some(end)) => tokens.after_end(&same, end, place.id),
        _ => tokens.after_job(&same, place.id),
    };
    let next_page_token = next.map(token).unwrap_or_default();
    Ok(pb::ListJobsResponse { jobs: messages, next_page_token, examined })
}

fn order(number: i32, v: &mut Violations) -> JobOrder {
    match pb::JobOrder::try_from(number) {
        Ok(pb::JobOrder::Unspecified | pb::JobOrder::CreateTime) => JobOrder::Created,
        Ok(pb::JobOrder::EndTime) => JobOrder::Ended,
        Err(_) => {
            v.add("order", format!("{number} is not an order"));
            JobOrder::Created
        }
    }
}

/// Returns whose jobs are listed: those of `name`, and for who only submits, its own; `None`: all.
fn created_by(engine: &Engine, caller: &Caller, name: &str) -> Option<PrincipalNo> {
    let books = engine.books();
    let book = books.borrow();
    let named = match name {
        "" => None,
        LOCAL_NAME | ANONYMOUS_NAME => Some(LOCAL),
        // Jobs outlive the principals that submitted them. No principal has the last number.
        name => Some(book.number_of(name).unwrap_or(PrincipalNo::MAX)),
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
    let filter = TaskFilter {
        states: filters::task_states(&request.states, "states", &mut v),
        reasons: filters::reasons(&request.reasons, "reasons", &mut v),
        http_statuses: filters::http_statuses(&request.http_statuses, "http_statuses", &mut v),
        host: filters::host(&request.host, "host", &mut v),
    };
    let search = filters::search(&request.search, "search", &mut v);
    let from = request.first_task_index.unwrap_or(0);
    let mut query = TaskQuery { filter, search, from, look_max: 0 };
    let (tokens, same) = (store.page_tokens(), Conditions::of_tasks(job, &query).0);
    if !request.page_token.is_empty() {
        match tokens.read_task(&same, &request.page_token) {
            Ok(place) => query.from = place,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    caller.reach(engine, job, Reach::Look).await?;
    let state = engine.job(job).await?.state;
    let Some(stored) = told::filter(state, &query.filter) else { return Ok(pb::ListTasksResponse::default()) };
    query.filter = stored.into_owned();
    let TaskPage { items: tasks, examined, mut next } = store.find_tasks(job, &query, size).await?;
    let mut messages = live_tasks(engine, job, &tasks).await;
    if request.include_spec {
        for (task, message) in tasks.iter().zip(&mut messages) {
            message.spec = Some(spec_to_proto::task(&task.spec));
        }
    }
    let fitting = fitting(&messages);
    if fitting < messages.len() {
        messages.truncate(fitting);
        next = tasks.get(fitting.wrapping_sub(1)).and_then(|task| task.index.checked_add(1));
    }
    let token = next.map(|next| tokens.from_task(&same, next));
    Ok(pb::ListTasksResponse { tasks: messages, next_page_token: token.unwrap_or_default(), examined })
}

/// Answers `ListJobEvents`.
pub(crate) async fn list_job_events(
    engine: &Engine,
    store: &dyn Store,
    caller: &Caller,
    request: pb::ListJobEventsRequest,
) -> Result<pb::ListJobEventsResponse, Status> {
    let mut v = Violations::default();
    let id = values::job_id(&request.job_id, &mut v);
    let size = page_size(request.page_size, &mut v);
    let kinds = filters::event_kinds(&request.kinds, "kinds", &mut v);
    let (tokens, same) = (store.page_tokens(), Conditions::of_events(id, &kinds).0);
    let mut before = u64::MAX;
    if !request.page_token.is_empty() {
        match tokens.read_event(&same, &request.page_token) {
            Ok(place) => before = place,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    caller.reach(engine, id, Reach::Look).await?;
    engine.job(id).await?;
    let EventPage { items, mut next } = store.events_before(id, before, &kinds, size).await?;
    let events: Result<Vec<pb::JobEvent>, Status> = items.iter().map(|event| events::listed(id, event)).collect();
    let mut events = events?;
    let fitting = fitting(&events);
    if fitting < events.len() {
        events.truncate(fitting);
        next = items.get(fitting.wrapping_sub(1)).map(|event| event.head.sequence);
    }
    let next_page_token = next.map(|before| tokens.before_event(&same, before)).unwrap_or_default();
    Ok(pb::ListJobEventsResponse { events, next_page_token })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::model::job::JobState;
    use crate::model::task::TaskState;

    #[test]
    fn a_page_of_long_messages_has_fewer_of_them() {
        let mut two = vec![pb::Principal { title: "x".repeat(3 << 20), ..Default::default() }; 2];
        assert!(cut_to_page(&mut two, 2));
        assert_eq!(two.len(), 1);
        assert!(!cut_to_page(&mut two, 1));
    }

    /// Changing these bytes ends every token that a client holds.
    #[test]
    fn conditions_are_written_as_they_always_were() {
        let labels = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())].into();
        let filter = JobFilter {
            states: vec![JobState::Running, JobState::Failed],
            labels,
            created_after: Some(Timestamp(258)),
            tenant: Some(DEFAULT_NO),
            ..JobFilter::default()
        };
        let pending = TaskFilter { states: vec![TaskState::Pending], ..TaskFilter::default() };
        let pending = TaskQuery { filter: pending, ..TaskQuery::default() };
        let text = |conditions: Conditions| base64::engine::general_purpose::STANDARD.encode(conditions.0);
        insta::assert_snapshot!(text(Conditions::of_jobs(&filter)), @"AQAAAAAAAAABAgEAAAAAAAAAAQYCAAAAAAAAAAFhAwAAAAAAAAAAAgAAAAAAAAABYgMAAAAAAAAAATIEAAAAAAAAAAgAAAAAAAABAg==");
        insta::assert_snapshot!(text(Conditions::of_tasks(JobId(uuid::Uuid::from_u128(7)), &pending)), @"BgAAAAAAAAAQAAAAAAAAAAAAAAAAAAAABwEAAAAAAAAAAQE=");
        let plain = JobFilter { tenant: Some(DEFAULT_NO), ..JobFilter::default() };
        assert!(Conditions::of_jobs(&plain).0.is_empty());
    }
}
