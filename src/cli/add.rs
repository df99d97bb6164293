//! `haul add`: feeds an open job.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::args::{Format, JobRef, Usage};
use crate::cli::client::Client;
use crate::cli::feed::{Fed, feed};
use crate::cli::imported;
use crate::cli::jobref;
use crate::cli::json;
use crate::cli::lists::{Entry, ListError};
use crate::cli::patience::Patience;
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::imports::Kind;
use crate::model::text::plain;
use crate::pb;

/// URLs of tasks, and what the tasks do.
#[derive(Debug, Args)]
pub(crate) struct Urls {
    /// The URLs to get, one task each
    #[arg(value_name = "URL")]
    pub(crate) urls: Vec<String>,
    /// A list: URLs, one a line, `#` begins a comment; or as --format says; `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// How the list is written: URLs, JSON of haul.v1.TaskSpec, an input file of aria2, or Metalink
    #[arg(long, value_name = "FORMAT", default_value = "auto", requires = "input")]
    pub(crate) format: imported::Format,
    /// Keep the responses instead of downloading files
    #[arg(long, conflicts_with = "download")]
    pub(crate) fetch: bool,
    /// Download files (the default)
    #[arg(long)]
    pub(crate) download: bool,
}

impl Urls {
    /// What the tasks do.
    pub(crate) fn kind(&self) -> Kind {
        if self.fetch { Kind::Fetch } else { Kind::Download }
    }

    /// The option that says what the tasks do, if one is given.
    pub(crate) fn kind_flag(&self) -> Option<&'static str> {
        [(self.fetch, "--fetch"), (self.download, "--download")]
            .into_iter()
            .find(|(is_given, _)| *is_given)
            .map(|(_, flag)| flag)
    }

    /// The URLs of the command line, then those of the list.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = Result<Entry, ListError>> + Send + 'static, Usage> {
        let open = |path: &PathBuf| imported::open(path, self.format);
        let list = self.input.as_ref().map(open).transpose()?;
        Ok(self.typed()?.into_iter().map(Ok).chain(list.into_iter().flatten()))
    }

    /// The URLs of the command line.
    fn typed(&self) -> Result<Vec<Entry>, Usage> {
        self.urls.iter().map(|text| Entry::typed(text).map_err(Usage)).collect()
    }
}

/// What to add to which job.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    job: JobRef,
    #[command(flatten)]
    urls: Urls,
}

/// Adds tasks to an open job; each chunk of them is durable when it is answered.
pub(crate) async fn run(client: &Client, format: Format, args: AddArgs) -> anyhow::Result<ExitCode> {
    if args.urls.urls.is_empty() && args.urls.input.is_none() {
        return Err(Usage("nothing to add; name URLs, or a list of them with `-i FILE`".to_owned()).into());
    }
    screen::go_on_unread();
    let entries = args.urls.entries()?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let fed = add(client, format, &job_id, args.urls.kind(), entries, Patience::default(), "").await?;
    if format == Format::Text {
        screen::line(added(&fed));
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds the tasks of a list. An error says how many of them are durable, and that the rest can follow where the job
/// takes more; `then` is what is to be done after that.
pub(crate) async fn add(
    client: &Client,
    format: Format,
    job_id: &str,
    kind: Kind,
    entries: impl Iterator<Item = Result<Entry, ListError>> + Send + 'static,
    patience: Patience,
    then: &str,
) -> anyhow::Result<Fed> {
    let print = |answer: &_| match format {
        Format::Json => json::print("haul.v1.AddTasksResponse", answer),
        Format::Text => Ok(()),
    };
    let cut = match feed(client, job_id, kind, entries, patience, print).await {
        Ok(fed) => return Ok(fed),
        Err(cut) => cut,
    };
    let ended = if cut.is_closed { ended(client, job_id).await } else { None };
    let rest = if cut.is_closed {
        String::new()
    } else {
        format!("; when the cause is gone, `haul add {job_id}` with the same list adds the rest{then}")
    };
    let why = ended.unwrap_or_else(|| cut.error.to_string());
    let text = format!("{why}\n{}{rest}", added(&cut.fed));
    Err(if cut.error.is::<Usage>() { Usage(text).into() } else { anyhow::Error::msg(text) })
}

/// Says how a job ended that takes no more tasks because of it; `None`: it was sealed, is gone, or cannot be asked for.
async fn ended(client: &Client, job_id: &str) -> Option<String> {
    // What ends a job stops its tasks first.
    let timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let request = pb::WaitJobRequest { job_id: job_id.to_owned(), timeout };
    let job = client.jobs().wait_job(request).await.ok()?.into_inner().job?;
    let state = match job.state() {
        pb::JobState::Failed => "FAILED",
        pb::JobState::Cancelled => "CANCELLED",
        _ => return None,
    };
    let failure = job.failure.unwrap_or_default();
    let task = failure.task_index.map(|index| format!("task {index}: ")).unwrap_or_default();
    let counted = job.group.is_none_or(|group| group.mode() != pb::GroupMode::Collect && group.max_failures == 0);
    let then = if counted && failure.task_index.is_some() {
        "; with `--mode collect` a job goes on when a task fails"
    } else {
        ""
    };
    Some(format!(
        "job `{job_id}` has ended, {state} ({task}{}), and takes no more tasks{then}",
        plain(&failure.message)
    ))
}

/// `1,234 tasks are in the job, from index 0 on`.
fn added(fed: &Fed) -> String {
    match fed.first_index {
        None => "no task was added".to_owned(),
        Some(first) => {
            let verb = if fed.tasks == 1 { "is" } else { "are" };
            format!("{} {verb} in the job, from index {first} on", words::count(fed.tasks, "task"))
        }
    }
}
