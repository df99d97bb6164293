//! Reads what `haul top` shows, once a second, and tries again for as long as the server is away.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::cli::client::Client;
use crate::cli::patience::{self, Patience};
use crate::cli::top::state::{JobView, Told, Wish};
use crate::pb;
use crate::pb::watch_jobs_response::Event;

/// How often it is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most jobs and hosts that are listed: more than a person looks through.
const ROWS_MAX: i32 = 200;

/// Reads until nobody listens.
pub(super) async fn follow(client: Client, mut wishes: watch::Receiver<Wish>, told: mpsc::Sender<Told>) {
    let mut patience = Patience::of_server_that_answered();
    loop {
        let wish = wishes.borrow_and_update().clone();
        let (answers, wait) = match read(&client, &wish).await {
            Ok(answers) => {
                patience.heard();
                (answers, INTERVAL)
            }
            Err(status) if patience::may_help(&status) => {
                let why = client.explain(&status).to_string();
                (vec![Told::Lost(why)], patience.wait(&status).unwrap_or(patience::BACKOFF_MAX))
            }
            Err(status) => (vec![Told::Refused(client.explain(&status).to_string())], INTERVAL),
        };
        for answer in answers {
            if told.send(answer).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told.closed() => return,
            changed = wishes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads what is wished for, and how much the server does.
pub(super) async fn read(client: &Client, wish: &Wish) -> Result<Vec<Told>, Status> {
    let page = match wish {
        Wish::Jobs { view, search } => {
            let states: &[pb::JobState] = match view {
                JobView::All => &[],
                JobView::Open => {
                    &[pb::JobState::Pending, pb::JobState::Running, pb::JobState::Paused, pb::JobState::Cancelling]
                }
                JobView::Failed => &[pb::JobState::Failed],
            };
            let request = pb::ListJobsRequest {
                page_size: ROWS_MAX,
                states: states.iter().map(|state| i32::from(*state)).collect(),
                search: search.clone(),
                ..Default::default()
            };
            let page = client.jobs().list_jobs(request).await?.into_inner();
            Told::Jobs { jobs: page.jobs, has_more: !page.next_page_token.is_empty() }
        }
        Wish::Job { id, tasks } => {
            let request = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
            let job = client.jobs().get_job(request).await?.into_inner().job.unwrap_or_default();
            let tasks = match tasks {
                Some(list) => client.jobs().list_tasks(list.clone()).await?.into_inner().tasks,
                None => Vec::new(),
            };
            Told::Job { job: Box::new(job), tasks }
        }
        Wish::Hosts => {
            let request = pb::ListHostsRequest { page_size: ROWS_MAX, page_token: String::new() };
            Told::Hosts(client.admin().list_hosts(request).await?.into_inner().hosts)
        }
    };
    // Who may see a job may not see how much the others do, and there may be too many watchers: then that is left out.
    let is_refused = |status: &Status| matches!(status.code(), Code::PermissionDenied | Code::ResourceExhausted);
    let totals = match totals(client).await {
        Err(status) if !is_refused(&status) => return Err(status),
        totals => totals.unwrap_or_default(),
    };
    Ok(vec![Told::Totals(totals), page])
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
