//! `haul submit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::add::{self, Urls};
use crate::cli::args::{Format, Usage};
use crate::cli::client::Client;
use crate::cli::faults;
use crate::cli::json;
use crate::cli::labels;
use crate::cli::lists::{self, Entry};
use crate::cli::patience::Patience;
use crate::cli::term::screen;
use crate::cli::watch;
use crate::pb;

/// Tasks that a `SubmitJob` may hold; more go through `AddTasks`.
const SUBMIT_TASKS_MAX: usize = 10_000;
/// Bytes of URLs that go into a `SubmitJob`: half of what a server takes in one message.
const SUBMIT_BYTES_MAX: usize = 8 << 20;

/// What to submit.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    urls: Urls,
    /// The job as JSON of haul.v1.JobSpec; `-` reads stdin
    #[arg(short, long, value_name = "JOB.json", conflicts_with_all = ["urls", "input"])]
    file: Option<PathBuf>,
    /// Follow the job to its end; exit 0 when it succeeded, 1 when not
    #[arg(long)]
    watch: bool,
    /// Leave the job open for `haul add`, until `haul seal`
    #[arg(long)]
    open: bool,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// A label, as KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Where downloads go, relative to the server's download directory
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// A credential stored on the server, sent with the requests that it is bound to
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,
    /// What a failed task does to the others [default: as in the file, else fail-fast]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Makes the submission idempotent: the same id with the same job answers the first one again
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// How the tasks of a job depend on each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The first failure cancels the others
    FailFast,
    /// All run to their end
    Collect,
    /// The first success cancels the others
    FirstSuccess,
}

impl From<Mode> for pb::GroupMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::FailFast => pb::GroupMode::FailFast,
            Mode::Collect => pb::GroupMode::Collect,
            Mode::FirstSuccess => pb::GroupMode::FirstSuccess,
        }
    }
}

/// Submits a job. A list that is too long for one message is fed to an open job, which is sealed at its end.
pub(crate) async fn run(client: &Client, format: Format, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let kind = args.urls.kind();
    let (mut job, mut first, mut rest) = (pb::JobSpec::default(), Vec::new(), Vec::new());
    if let Some(path) = &args.file {
        if let Some(flag) = args.urls.kind_flag() {
            let what = format!("`{flag}` is for URLs: a job file says of each task what it does; leave out `{flag}`");
            return Err(Usage(what).into());
        }
        job = json::read("haul.v1.JobSpec", &lists::read_job(path)?).map_err(|error| {
            let name = if path == Path::new("-") { "stdin".to_owned() } else { format!("`{}`", path.display()) };
            if error.is::<Usage>() { Usage(format!("{name}: {error}")).into() } else { error }
        })?;
    } else {
        let entries = entries(&args)?;
        let bytes: usize = entries.iter().map(|entry| entry.bytes().len()).sum();
        if entries.len() > SUBMIT_TASKS_MAX || bytes > SUBMIT_BYTES_MAX {
            rest = entries;
        } else {
            job.tasks = entries.iter().map(|entry| entry.task(kind)).collect();
            first = entries;
        }
    }
    job.labels.extend(labels::read(&args.labels)?);
    job.title = args.title.unwrap_or(job.title);
    job.directory = args.directory.unwrap_or(job.directory);
    if let Some(name) = args.credential {
        job.defaults.get_or_insert_default().http.get_or_insert_default().credential = name;
    }
    let stays_open = args.open || job.open;
    job.open = stays_open || !rest.is_empty();
    if let Some(mode) = args.mode {
        job.group.get_or_insert_default().set_mode(mode.into());
    }
    let request =
        pb::SubmitJobRequest { request_id: args.request_id.unwrap_or_default(), job: Some(job), validate_only: false };
    let answer = client.jobs().submit_job(request).await.map_err(|status| {
        let wrong = faults::in_lines(&status, "job.tasks", |place| first.get(place));
        wrong.map_or_else(|| client.explain(&status), Into::into)
    })?;
    let answer = answer.into_inner();
    let job = answer.job.unwrap_or_default();
    match format {
        Format::Json => json::print("haul.v1.Job", &job)?,
        Format::Text => screen::line(job.job_id.as_str()),
    }
    if !rest.is_empty() {
        // The answers of its chunks are no documents of this command: it printed its job.
        let then = if stays_open { "" } else { ", and `haul seal` ends the list: until then the job waits for more" };
        let patience = Patience::of_server_that_answered();
        add::add(client, Format::Text, &job.job_id, kind, rest.into_iter().map(Ok), patience, then).await?;
        if !stays_open {
            let request = pb::SealJobRequest { job_id: job.job_id.clone() };
            client.jobs().seal_job(request).await.map_err(|status| client.explain(&status))?;
        }
    }
    if args.watch { watch::follow(client, format, &job.job_id).await } else { Ok(ExitCode::SUCCESS) }
}

/// All URLs of the command line and its list: what is wrong with any of them is said before anything is submitted.
fn entries(args: &SubmitArgs) -> Result<Vec<Entry>, Usage> {
    if args.urls.urls.is_empty() && args.urls.input.is_none() && !args.open {
        let what = "nothing to submit; name URLs, a list of them with `-i FILE`, or a job with `-f JOB.json`";
        return Err(Usage(what.to_owned()));
    }
    let entries = lists::collected(args.urls.entries()?)?;
    if entries.is_empty() && !args.open {
        return Err(Usage("nothing to submit: the list has no URL; write each on a line of its own".to_owned()));
    }
    Ok(entries)
}
