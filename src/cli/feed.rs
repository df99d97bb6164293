//! Feeds an open job through `AddTasks`, over restarts of its server.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::cli::args::Usage;
use crate::cli::chunks::{Chunk, Chunks};
use crate::cli::client::Client;
use crate::cli::faults;
use crate::cli::lists::{Entry, ListError};
use crate::cli::patience::Patience;
use crate::cli::term::screen;
use crate::imports::Kind;
use crate::model::text::plain;
use crate::pb;

/// Chunks that are sent before the first of them is answered.
const WINDOW: usize = 4;

/// What came of a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fed {
    /// Tasks that are durable.
    pub(crate) tasks: u64,
    /// The index of the first of them.
    pub(crate) first_index: Option<u32>,
}

/// Why a feed ended early. What was answered before is durable.
pub(crate) struct Cut {
    /// What came before.
    pub(crate) fed: Fed,
    /// Why it ended.
    pub(crate) error: anyhow::Error,
    /// Whether the job takes no more tasks: it is sealed, has ended or is gone.
    pub(crate) is_closed: bool,
}

/// Adds all tasks of a list to a job, and calls `answered` for each chunk that is durable.
pub(crate) async fn feed(
    client: &Client,
    job_id: &str,
    kind: Kind,
    list: impl Iterator<Item = Result<Entry, ListError>> + Send + 'static,
    patience: Patience,
    answered: impl FnMut(&pb::AddTasksResponse) -> anyhow::Result<()>,
) -> Result<Fed, Cut> {
    let (input, chunks) = mpsc::channel(1);
    // Stdin may never end: the thread is not joined, and ends with the process or when nobody takes its chunks.
    let reader = std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        for chunk in Chunks::new(kind, list) {
            if input.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    let mut feed = Feed {
        job_id,
        kind,
        chunks,
        window: VecDeque::new(),
        is_read: false,
        is_closed: false,
        fed: Fed::default(),
        answered,
    };
    let ended = match reader {
        Ok(_) => feed.run(client, patience).await,
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the thread that reads the list")),
    };
    match ended {
        Ok(()) => Ok(feed.fed),
        Err(error) => Err(Cut { fed: feed.fed, error, is_closed: feed.is_closed }),
    }
}

struct Feed<'a, F> {
    job_id: &'a str,
    kind: Kind,
    chunks: mpsc::Receiver<Result<Chunk, Vec<String>>>,
    /// Chunks that were sent and not answered, in order.
    window: VecDeque<Chunk>,
    /// Whether the list has no more chunks.
    is_read: bool,
    /// Whether the job takes no more tasks.
    is_closed: bool,
    fed: Fed,
    answered: F,
}

impl<F: FnMut(&pb::AddTasksResponse) -> anyhow::Result<()>> Feed<'_, F> {
    async fn run(&mut self, client: &Client, mut patience: Patience) -> anyhow::Result<()> {
        loop {
            let before = self.fed.tasks;
            let status = match self.connection(client).await? {
                Ok(()) => return Ok(()),
                Err(status) => status,
            };
            if self.fed.tasks > before {
                patience.heard();
            }
            let Some(wait) = patience.wait(&status) else {
                self.is_closed = matches!(status.code(), Code::FailedPrecondition | Code::NotFound);
                return Err(self.explained(client, &status));
            };
            if patience.is_first() {
                screen::say(format!("haul: the connection was cut ({}); trying again", plain(status.message())));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Feeds over one connection until all is answered; the inner error may be gone with the next connection.
    async fn connection(&mut self, client: &Client) -> anyhow::Result<Result<(), Status>> {
        let (requests, stream) = mpsc::channel(WINDOW);
        for chunk in &self.window {
            // The channel has room for all of the window.
            let _ = requests.try_send(self.request(chunk));
        }
        if self.window.is_empty() && !self.take(&requests).await? {
            return Ok(Ok(()));
        }
        let mut answers = match client.jobs().add_tasks(ReceiverStream::new(stream)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            if self.is_read && self.window.is_empty() {
                return Ok(Ok(()));
            }
            let may_send = !self.is_read && self.window.len() < WINDOW;
            tokio::select! {
                taken = self.chunks.recv(), if may_send => self.sent(taken, &requests)?,
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.take_answer(&answer)?,
                    Ok(None) => return Ok(Err(Status::unavailable("the server ended the call"))),
                    Err(status) => return Ok(Err(status)),
                },
            }
        }
    }

    /// Sends the next chunk; returns whether there is one.
    async fn take(&mut self, requests: &mpsc::Sender<pb::AddTasksRequest>) -> anyhow::Result<bool> {
        if !self.is_read {
            let taken = self.chunks.recv().await;
            self.sent(taken, requests)?;
        }
        Ok(!self.window.is_empty())
    }

    fn sent(
        &mut self,
        taken: Option<Result<Chunk, Vec<String>>>,
        requests: &mpsc::Sender<pb::AddTasksRequest>,
    ) -> anyhow::Result<()> {
        match taken {
            None => self.is_read = true,
            Some(Err(wrong)) => return Err(Usage(wrong.join("\n")).into()),
            Some(Ok(chunk)) => {
                // A stream that has ended says why when its answers are read.
                let _ = requests.try_send(self.request(&chunk));
                self.window.push_back(chunk);
            }
        }
        Ok(())
    }

    fn request(&self, chunk: &Chunk) -> pb::AddTasksRequest {
        pb::AddTasksRequest {
            job_id: self.job_id.to_owned(),
            chunk_id: chunk.id.clone(),
            tasks: chunk.entries.iter().map(|entry| entry.task(self.kind)).collect(),
        }
    }

    fn take_answer(&mut self, answer: &pb::AddTasksResponse) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.window.pop_front().is_some_and(|chunk| chunk.id == answer.chunk_id),
            "the server answered a chunk that was not sent; its answers are in the order of the chunks"
        );
        self.fed.tasks += u64::from(answer.task_count);
        self.fed.first_index.get_or_insert(answer.first_task_index);
        (self.answered)(answer)
    }

    /// What a final status says, with lines of the list in place of places in a chunk.
    fn explained(&self, client: &Client, status: &Status) -> anyhow::Error {
        let entry = |place: usize| self.window.front()?.entries.get(place);
        if let Some(wrong) = faults::in_lines(status, "tasks", entry) {
            return wrong.into();
        }
        client.explain(status)
    }
}
