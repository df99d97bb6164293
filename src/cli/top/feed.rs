//! Reads what `haul top` shows, once a second, and tries again for as long as the server is away.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cli::client::Client;
use crate::cli::pages;
use crate::cli::patience::{self, Patience};
use crate::cli::top::state::{Answer, JobView, Wish};
use crate::pb;
use crate::pb::watch_jobs_response::Event;

/// How often it is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// A list whose reading takes long is read less often: so many times as long passes until it is read again.
const REST: u32 = 4;
/// Empty pages after which a list is cut.
const EMPTY_MAX: usize = 10;

/// Reads until nobody listens.
pub(super) async fn follow(client: Client, mut wishes: watch::Receiver<Wish>, answers: mpsc::Sender<Answer>) {
    let mut patience = Patience::of_server_that_answered();
    loop {
        let wish = wishes.borrow_and_update().clone();
        let begun = Instant::now();
        let (read, wait) = match read(&client, &wish).await {
            Ok(read) => {
                patience.heard();
                (read, INTERVAL.max(begun.elapsed() * REST))
            }
            Err(status) if patience::may_help(&status) => {
                let why = client.explain(&status).to_string();
                (vec![Answer::Lost(why)], patience.wait(&status).unwrap_or(patience::BACKOFF_MAX))
            }
            Err(status) => (vec![Answer::Refused(client.explain(&status).to_string())], INTERVAL),
        };
        for answer in read {
            if answers.send(answer).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = answers.closed() => return,
            changed = wishes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads what is wished for, and how much the server does.
pub(super) async fn read(client: &Client, wish: &Wish) -> Result<Vec<Answer>, Status> {
    let page = match wish {
        Wish::Jobs { view, search, rows } => {
            let states: &[pb::JobState] = match view {
                JobView::All => &[],
                JobView::Open => {
                    &[pb::JobState::Pending, pb::JobState::Running, pb::JobState::Paused, pb::JobState::Cancelling]
                }
                JobView::Failed => &[pb::JobState::Failed],
            };
            let wished = pb::ListJobsRequest {
                states: states.iter().map(|state| i32::from(*state)).collect(),
                search: search.clone(),
                ..Default::default()
            };
            let mut list = Rows::new(*rows);
            while let Some((page_size, page_token)) = list.wanted() {
                let request = pb::ListJobsRequest { page_size, page_token, ..wished.clone() };
                let page = client.jobs().list_jobs(request).await?.into_inner();
                list.add(page.jobs, page.next_page_token);
            }
            let (jobs, has_more) = list.read();
            Answer::Jobs { jobs, has_more }
        }
        Wish::Job { id, tasks, rows } => {
            let job = Box::new(job(client, id).await?);
            let (tasks, has_more) = match tasks {
                // A place among all tasks: what is read is around it, and not from the first on.
                Some(list) if list.first_task_index.is_some() => {
                    (client.jobs().list_tasks(list.clone()).await?.into_inner().tasks, false)
                }
                Some(wished) => {
                    let mut list = Rows::new(*rows);
                    while let Some((page_size, page_token)) = list.wanted() {
                        let request = pb::ListTasksRequest { page_size, page_token, ..wished.clone() };
                        let page = client.jobs().list_tasks(request).await?.into_inner();
                        list.add(page.tasks, page.next_page_token);
                    }
                    list.read()
                }
                None => (Vec::new(), false),
            };
            Answer::Job { job, tasks, has_more }
        }
        Wish::Task { id, index } => {
            let task = Some(pb::get_task_request::Task::TaskIndex(*index));
            let request = pb::GetTaskRequest { job_id: id.clone(), task, ..Default::default() };
            let task = client.jobs().get_task(request).await?.into_inner().task.unwrap_or_default();
            Answer::Task { job: Box::new(job(client, id).await?), task: Box::new(task) }
        }
        Wish::Hosts { rows } => {
            let mut list = Rows::new(*rows);
            while let Some((page_size, page_token)) = list.wanted() {
                let page =
                    client.admin().list_hosts(pb::ListHostsRequest { page_size, page_token }).await?.into_inner();
                list.add(page.hosts, page.next_page_token);
            }
            let (hosts, has_more) = list.read();
            Answer::Hosts { hosts, has_more }
        }
    };
    // Who may see a job may not see how much the others do, and there may be too many watchers: then that is left out.
    let is_refused = |status: &Status| matches!(status.code(), Code::PermissionDenied | Code::ResourceExhausted);
    let totals = match totals(client).await {
        Err(status) if !is_refused(&status) => return Err(status),
        totals => totals.unwrap_or_default(),
    };
    Ok(vec![Answer::Totals(totals), page])
}

async fn job(client: &Client, id: &str) -> Result<pb::Job, Status> {
    let request = pb::GetJobRequest { job_id: id.to_owned(), ..Default::default() };
    Ok(client.jobs().get_job(request).await?.into_inner().job.unwrap_or_default())
}

/// The first entries of a list, as they are read page by page.
struct Rows<T> {
    most: usize,
    all: Vec<T>,
    /// The token of the next page; `None`: there is none.
    next: Option<String>,
    /// How many pages were empty. A page may be empty though there are more, where the server looked at many entries that do
    /// not match: after some of those the list is cut, so that none takes for ever.
    empty: usize,
}

impl<T> Rows<T> {
    fn new(most: usize) -> Rows<T> {
        Rows { most, all: Vec::new(), next: Some(String::new()), empty: 0 }
    }

    /// Returns the size and the token of the page to read, unless enough was read.
    fn wanted(&self) -> Option<(i32, String)> {
        let is_enough = pages::is_enough(self.most, self.all.len()) || self.empty >= EMPTY_MAX;
        let next = self.next.clone().filter(|_| !is_enough)?;
        Some((pages::page_size(self.most, self.all.len()), next))
    }

    fn add(&mut self, page: Vec<T>, next: String) {
        self.empty += usize::from(page.is_empty());
        self.all.extend(page);
        self.next = (!next.is_empty()).then_some(next);
    }

    /// Returns the entries, and whether there are more.
    fn read(self) -> (Vec<T>, bool) {
        (self.all, self.next.is_some())
    }
}

/// How much the server does, which a watch says first.
async fn totals(client: &Client) -> Result<Option<pb::ServerTotals>, Status> {
    let request = pb::WatchJobsRequest { max_jobs: Some(0), totals: true, ..Default::default() };
    let mut stream = client.jobs().watch_jobs(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.event {
            Some(Event::Totals(totals)) => return Ok(Some(totals)),
            Some(Event::Synced(_)) | None => break,
            Some(Event::Job(_) | Event::DeletedJobId(_)) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_far_as_they_are_wished_for() {
        let mut list = Rows::new(1_200);
        assert_eq!(list.wanted(), Some((1_000, String::new())));
        list.add(vec![0; 1_000], "a".to_owned());
        assert_eq!(list.wanted(), Some((200, "a".to_owned())));
        list.add(vec![0; 200], "b".to_owned());
        assert_eq!(list.wanted(), None);
        let (all, has_more) = list.read();
        assert!(all.len() == 1_200 && has_more);

        let mut sparse = Rows::<u8>::new(10);
        while let Some((_, token)) = sparse.wanted() {
            sparse.add(Vec::new(), token + "x");
        }
        assert_eq!(sparse.read(), (Vec::new(), true), "a list that nothing matches is cut");
        let mut short = Rows::new(10);
        short.add(vec![1], String::new());
        assert_eq!((short.wanted(), short.read()), (None, (vec![1], false)));
    }
}
