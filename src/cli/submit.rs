//! `haul submit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tonic::Status;
use uuid::Uuid;

use crate::cli::add::{self, Urls};
use crate::cli::args::{Format, Usage};
use crate::cli::client::{self, Client};
use crate::cli::faults;
use crate::cli::json;
use crate::cli::labels;
use crate::cli::lists::{self, Entry};
use crate::cli::patience::{self, Patience};
use crate::cli::term::screen;
use crate::cli::watch;
use crate::pb;

/// Tasks that a `SubmitJob` may hold; more go through `AddTasks`.
const SUBMIT_TASKS_MAX: usize = 10_000;
/// Bytes of URLs that go into a `SubmitJob`: half of what a server takes in one message.
const SUBMIT_BYTES_MAX: usize = 8 << 20;

/// Connections that are cut before an answer comes until nobody is taken for a server that may have stored the job.
const CUTS_MAX: u32 = 3;

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
    screen::go_on_unread();
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
    let request_id = args.request_id.filter(|id| !id.is_empty()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let job = submitted(client, pb::SubmitJobRequest { request_id, job: Some(job), validate_only: false });
    let job = job.await.map_err(|(status, is_unknown)| {
        let wrong = faults::in_lines(&status, "job.tasks", |place| first.get(place));
        let error = wrong.map_or_else(|| client.explain(&status), Into::into);
        let unknown = "whether the job was submitted is not known: `haul list` says it";
        if is_unknown { anyhow::anyhow!("{error}; {unknown}") } else { error }
    })?;
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
            seal(client, &job.job_id).await?;
        }
    }
    if args.watch {
        // All of it is submitted: what is left is what is printed.
        screen::fail_unread();
        watch::follow(client, format, &job.job_id, Patience::of_server_that_answered()).await
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

/// Submits a job once. What was cut before its answer came is asked for again under the same request id: the server may have
/// stored the job. An error says, too, whether that is still not known.
async fn submitted(client: &Client, request: pb::SubmitJobRequest) -> Result<pb::Job, (Status, bool)> {
    let mut patience = Patience::default();
    let mut cuts = 0;
    loop {
        let status = match client.jobs().submit_job(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().job.unwrap_or_default()),
            Err(status) => status,
        };
        if client::is_cut(&status) {
            cuts += 1;
            if cuts == 1 {
                patience = Patience::of_server_that_answered();
            }
        }
        let may_help = patience::may_help(&status);
        let Some(wait) = patience.wait(&status).filter(|_| cuts <= CUTS_MAX) else {
            // Where the server has answered, it says what became of the job.
            return Err((status, cuts > 0 && may_help));
        };
        if patience.is_first() {
            screen::say("haul: the connection was cut before the answer came; trying again");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Seals a job all of whose tasks are there. It has to be done: a job that stays open waits for more for ever.
async fn seal(client: &Client, job_id: &str) -> anyhow::Result<()> {
    let request = pb::SealJobRequest { job_id: job_id.to_owned() };
    let mut patience = Patience::of_server_that_answered();
    let sealed = patience.persist(async || client.jobs().seal_job(request.clone()).await).await;
    sealed.map(drop).map_err(|status| {
        let error = client.explain(&status);
        anyhow::anyhow!("{error}\nall tasks are in the job, and it is open still; `haul seal {job_id}` ends the list")
    })
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
