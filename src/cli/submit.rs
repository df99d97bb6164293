//! `haul submit`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::client::{Client, Usage};
use crate::cli::jobs::labels;
use crate::cli::output::{self, Format};
use crate::cli::watch;
use crate::pb;

/// What to submit.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// What to get; one task each
    #[arg(value_name = "URL", required_unless_present = "file", conflicts_with = "file")]
    urls: Vec<String>,
    /// Keep the responses instead of downloading files
    #[arg(long, conflicts_with_all = ["download", "file"])]
    fetch: bool,
    /// Download files (the default)
    #[arg(long, conflicts_with = "file")]
    download: bool,
    /// The job as JSON of haul.v1.JobSpec; `-`: from stdin
    #[arg(short, long, value_name = "JOB.json")]
    file: Option<PathBuf>,
    /// Follow it to its end; exit 0 when it succeeded, 1 when not
    #[arg(long)]
    watch: bool,
    /// A name for people
    #[arg(long)]
    title: Option<String>,
    /// A label, as `key=value`; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Where downloads go, relative to the server's download root
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// What a failed task does to the others [default: as in the file, else fail-fast]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Makes the submission idempotent
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

/// Submits a job.
pub(crate) async fn run(client: &Client, format: Format, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let mut job: pb::JobSpec = match &args.file {
        Some(path) => output::from_json("haul.v1.JobSpec", &read(path)?)?,
        None => {
            pb::JobSpec { tasks: args.urls.iter().map(|url| task(url, args.fetch)).collect(), ..Default::default() }
        }
    };
    job.labels.extend(labels(&args.labels)?);
    job.title = args.title.unwrap_or(job.title);
    job.directory = args.directory.unwrap_or(job.directory);
    if let Some(mode) = args.mode {
        job.group.get_or_insert_default().set_mode(mode.into());
    }
    let request =
        pb::SubmitJobRequest { request_id: args.request_id.unwrap_or_default(), job: Some(job), validate_only: false };
    let answer = client.jobs().submit_job(request).await.map_err(|status| client.explain(&status))?.into_inner();
    let job = answer.job.unwrap_or_default();
    match format {
        Format::Json => output::json_line("haul.v1.Job", &job)?,
        Format::Text => output::line(&job.job_id),
    }
    if args.watch { watch::follow(client, format, &job.job_id).await } else { Ok(ExitCode::SUCCESS) }
}

fn task(url: &str, fetch: bool) -> pb::TaskSpec {
    let url = url.to_owned();
    let work = if fetch {
        pb::task_spec::Work::Fetch(pb::FetchSpec { url, ..Default::default() })
    } else {
        pb::task_spec::Work::Download(pb::DownloadSpec { url, ..Default::default() })
    };
    pb::TaskSpec { work: Some(work), ..Default::default() }
}

fn read(path: &std::path::Path) -> Result<String, Usage> {
    let mut text = String::new();
    let read = if path == std::path::Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| Usage(format!("cannot read `{}`: {error}", path.display())))
}
