//! `haul top`: jobs, a job, a task and hosts on the whole screen, as they change.
//!
//! `keys`, `state`, `orders` and `draw` are pure; `feed` asks the server; here is the loop that joins them with the terminal.

mod draw;
mod feed;
mod keys;
mod listing;
mod moves;
mod orders;
mod state;
mod task;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::args::{Format, Usage};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::many::{self, Action};
use crate::cli::states;
use crate::cli::term::page::{self, Page};
use crate::cli::term::screen::{self, Size};
use crate::cli::term::words;
use crate::cli::top::keys::Key;
use crate::cli::top::state::{Answer, Order, State, TaskAction};
use crate::pb;

/// The least time between two frames.
const FRAME: Duration = Duration::from_millis(250);
/// Answers that wait for the screen.
const ANSWERS_MAX: usize = 8;
/// The page that is printed where there is no screen to fit.
const PRINTED: Size = Size { columns: 120, rows: 40 };

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Begin with this job: its id, a unique beginning or end of it, or `@last`
    #[arg(value_name = "JOB")]
    job: Option<String>,
    /// Print one frame and end
    #[arg(long)]
    once: bool,
}

/// Shows what the server does until its user leaves.
pub(crate) async fn run(client: &Client, format: Format, args: TopArgs) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        return Err(Usage("`top` is for people; `haul list -o json` has the API's JSON".to_owned()).into());
    }
    if !args.once && !screen::is_interactive() {
        let why = "there is no terminal to draw on; `haul top --once` prints one frame";
        return Err(Usage(why.to_owned()).into());
    }
    let job = match &args.job {
        Some(job) => Some(jobref::resolve(client, job).await?),
        None => None,
    };
    let mut state = State::new(job, states::now());
    // A server that is not there is said as other commands say it, before the screen is taken.
    let first = feed::read(client, &state.wish()).await.map_err(|status| client.explain(&status))?;
    for answer in first {
        state.take(answer, states::now());
    }
    if args.once {
        let sheet = draw::sheet(&state, screen::stdout_size().unwrap_or(PRINTED));
        let end = sheet.lines.len().saturating_sub(1);
        let used = sheet.lines[..end].iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        screen::lines(&sheet.lines[..used]);
        return Ok(ExitCode::SUCCESS);
    }
    Box::pin(Top::new(client, state)?.run()).await
}

/// The signals that end it, each with its number.
struct Ends([(Signal, u8); 3]);

impl Ends {
    fn listen() -> std::io::Result<Ends> {
        let [hup, int, term] = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
        let listen = |kind: SignalKind| signal(kind).map(|it| (it, kind.as_raw_value() as u8));
        Ok(Ends([listen(hup)?, listen(int)?, listen(term)?]))
    }

    /// Waits for one, and returns its number.
    async fn next(&mut self) -> u8 {
        let [hup, int, term] = &mut self.0;
        tokio::select! {
            _ = hup.0.recv() => hup.1,
            _ = int.0.recv() => int.1,
            _ = term.0.recv() => term.1,
        }
    }
}

struct Top<'a> {
    client: &'a Client,
    state: State,
    page: Page,
    /// The size of the last frame.
    size: Size,
    ends: Ends,
    wishes: watch::Sender<state::Wish>,
    answers: mpsc::Receiver<Answer>,
    /// Where the results of orders go, too.
    answering: mpsc::Sender<Answer>,
    /// The reader, and the orders that are under way. They end with this.
    tasks: JoinSet<()>,
}

impl<'a> Top<'a> {
    fn new(client: &'a Client, state: State) -> anyhow::Result<Top<'a>> {
        let ends = Ends::listen()?;
        let (wishes, wished) = watch::channel(state.wish());
        let (answering, answers) = mpsc::channel(ANSWERS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(feed::follow(client.clone(), wished, answering.clone()));
        let page = Page::open()?;
        Ok(Top { client, state, page, size: PRINTED, ends, wishes, answers, answering, tasks })
    }

    async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut typed = page::typed()?;
        let mut resized = signal(SignalKind::window_change())?;
        // The first frame is due at once.
        let mut due = Some(Instant::now());
        let mut drawn = Instant::now().checked_sub(FRAME).unwrap_or_else(Instant::now);
        loop {
            let frame = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                number = self.ends.next() => return Ok(ExitCode::from(128 + number)),
                () = frame => {
                    let (state, size) = (&self.state, &mut self.size);
                    self.page.draw(|screen| {
                        *size = screen;
                        draw::sheet(state, screen)
                    })?;
                    (due, drawn) = (None, Instant::now());
                }
                Some(answer) = self.answers.recv() => {
                    if matches!(answer, Answer::Done(_)) {
                        // What was done is to be seen at once.
                        self.wishes.send_modify(|_| {});
                    }
                    self.state.take(answer, states::now());
                    due.get_or_insert(drawn + FRAME);
                }
                piece = typed.recv() => {
                    // Without its keyboard the terminal is gone.
                    let Some(piece) = piece else { return Ok(ExitCode::FAILURE) };
                    if keys::read(&piece).into_iter().any(|key| self.is_over(key)) {
                        return Ok(ExitCode::SUCCESS);
                    }
                    due.get_or_insert(drawn + FRAME);
                }
                Some(()) = resized.recv() => {
                    due.get_or_insert(drawn + FRAME);
                }
            }
            self.wishes.send_if_modified(|wish| {
                let wished = self.state.wish();
                let is_other = *wish != wished;
                *wish = wished;
                is_other
            });
        }
    }

    /// Takes a key. Returns whether its user leaves.
    fn is_over(&mut self, key: Key) -> bool {
        let rows = draw::list_rows(self.size);
        match self.state.press(key, rows) {
            Some(Order::Quit) => return true,
            Some(Order::Control(action, job_ids)) => {
                let (client, answering) = (self.client.clone(), self.answering.clone());
                self.tasks.spawn(async move {
                    let note = control(&client, action, job_ids).await.unwrap_or_else(|error| format!("{error:#}"));
                    let _ = answering.send(Answer::Done(note)).await;
                });
            }
            Some(Order::Task(action, job_id, index)) => {
                let (client, answering) = (self.client.clone(), self.answering.clone());
                self.tasks.spawn(async move {
                    let note = match act(&client, action, job_id, index).await {
                        Ok(done) => done.to_owned(),
                        Err(status) => client.explain(&status).to_string(),
                    };
                    let _ = answering.send(Answer::Done(note)).await;
                });
            }
            Some(Order::ResumeHost(host)) => {
                let (client, answering) = (self.client.clone(), self.answering.clone());
                self.tasks.spawn(async move {
                    let done = client.admin().resume_host(pb::ResumeHostRequest { host: host.clone() }).await;
                    let note = match done {
                        Ok(_) => format!("the pause of {host} has ended"),
                        Err(status) => client.explain(&status).to_string(),
                    };
                    let _ = answering.send(Answer::Done(note)).await;
                });
            }
            None => {}
        }
        // Orders that have ended.
        while self.tasks.try_join_next().is_some() {}
        false
    }
}

/// Does something to a task. Returns what was done.
async fn act(client: &Client, action: TaskAction, job_id: String, index: u32) -> Result<&'static str, tonic::Status> {
    let task_indexes = vec![index];
    Ok(match action {
        TaskAction::Cancel => {
            let request = pb::CancelTasksRequest { job_id, task_indexes, ..Default::default() };
            client.jobs().cancel_tasks(request).await?;
            "the task is cancelled"
        }
        TaskAction::Retry => {
            let request = pb::RetryJobRequest { job_id, task_indexes, filter: None };
            client.jobs().retry_job(request).await?;
            "the task runs again"
        }
        TaskAction::RetryNow => {
            let request = pb::RetryNowRequest { job_id, task_indexes, filter: None };
            client.jobs().retry_now(request).await?;
            "the backoff of the task has ended"
        }
    })
}

/// Does something to jobs. Returns what it came to.
async fn control(client: &Client, action: Action, job_ids: Vec<String>) -> anyhow::Result<String> {
    let request = pb::ControlJobsRequest {
        filter: Some(pb::JobFilter { job_ids, ..Default::default() }),
        action: action.of_contract().into(),
        ..Default::default()
    };
    let mut failure = None;
    let last = many::follow(client, request, |message| {
        if let Some(failed) = message.failed.first() {
            failure.get_or_insert_with(|| failed.message.clone());
        }
        Ok(())
    })
    .await?;
    let done = format!("{} {}", action.words().1, words::count(last.done.into(), "job"));
    Ok(match failure {
        None => done,
        Some(why) => format!("{done}, {} failed: {why}", last.failed_count),
    })
}
