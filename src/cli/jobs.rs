//! `haul list`, `show`, `tasks`, and what is done to a job.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::client::{Client, Usage};
use crate::cli::jobref;
use crate::cli::output::{self, Format};
use crate::pb;

/// Which jobs to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only jobs in this state, as `running`; may be given again
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// Only jobs with this label, as `key=value`; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// At most so many, the newest; 0: all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Which tasks to list.
#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    /// The job's id, or a unique prefix of it
    job: String,
    /// Only tasks in this state, as `failed`; may be given again
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// At most so many; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// What is done to a job.
#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// Stop a job's tasks and end it
    Cancel {
        /// The job's id, or a unique prefix of it
        job: String,
        /// Why, for people
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let no new attempt of a job start, and stop those that run
    Pause {
        /// The job's id, or a unique prefix of it
        job: String,
    },
    /// Go on with a paused job
    Resume {
        /// The job's id, or a unique prefix of it
        job: String,
    },
    /// Run failed and cancelled tasks of an ended job again
    Retry {
        /// The job's id, or a unique prefix of it
        job: String,
        /// Only this task; may be given again
        #[arg(long = "task", value_name = "INDEX")]
        tasks: Vec<u32>,
    },
    /// Delete an ended job
    Delete {
        /// The job's id, or a unique prefix of it
        job: String,
        /// Also delete the files that its downloads left
        #[arg(long)]
        files: bool,
    },
}

/// Lists jobs, newest first.
pub(crate) async fn list(client: &Client, format: Format, args: ListArgs) -> anyhow::Result<ExitCode> {
    let states = states(&args.states, |name| pb::JobState::from_str_name(&format!("JOB_STATE_{name}")).map(i32::from))?;
    let labels = labels(&args.labels)?;
    let mut request = pb::ListJobsRequest { states, labels, ..Default::default() };
    let mut jobs: Vec<pb::Job> = Vec::new();
    loop {
        request.page_size = page_size(args.limit, jobs.len());
        let call = client.jobs().list_jobs(request.clone()).await;
        let page = call.map_err(|status| client.explain(&status))?.into_inner();
        jobs.extend(page.jobs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || is_enough(args.limit, jobs.len()) {
            break;
        }
    }
    match format {
        Format::Json => print_json("haul.v1.Job", &jobs)?,
        Format::Text => {
            let rows: Vec<Vec<String>> = jobs.iter().map(job_row).collect();
            output::table(&["JOB", "STATE", "DONE", "FAILED", "TASKS", "BYTES", "CREATED", "TITLE"], &rows);
        }
    }
    tell_of_more(&request.page_token, jobs.len());
    Ok(ExitCode::SUCCESS)
}

/// Labels as they are written on the command line.
pub(crate) fn labels(texts: &[String]) -> Result<HashMap<String, String>, Usage> {
    let split = |text: &String| {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Usage(format!("`{text}` is no label; write it like `team=red`")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(split).collect()
}

fn is_enough(limit: usize, have: usize) -> bool {
    limit > 0 && have >= limit
}

fn page_size(limit: usize, have: usize) -> i32 {
    const PAGE_MAX: usize = 1000;
    let wanted = if limit == 0 { PAGE_MAX } else { limit.saturating_sub(have).min(PAGE_MAX) };
    i32::try_from(wanted).unwrap_or(i32::MAX)
}

/// A list that was cut must not look like a whole one.
fn tell_of_more(page_token: &str, shown: usize) {
    if !page_token.is_empty() {
        output::say(&format!("haul: there are more than these {shown}; `--limit 0` lists all"));
    }
}

fn job_row(job: &pb::Job) -> Vec<String> {
    let counts = job.counts.unwrap_or_default();
    vec![
        job.job_id.clone(),
        output::word(job.state().as_str_name(), "JOB_STATE_"),
        counts.succeeded.to_string(),
        counts.failed.to_string(),
        counts.total.to_string(),
        output::size(job.progress.unwrap_or_default().bytes_done),
        output::time(job.create_time.as_ref()),
        job.title.clone(),
    ]
}

fn states(names: &[String], parse: impl Fn(&str) -> Option<i32>) -> anyhow::Result<Vec<i32>> {
    let known = |name: &String| {
        parse(&name.to_uppercase().replace([' ', '-'], "_"))
            .ok_or_else(|| Usage(format!("`{name}` is no state; one is like `running` or `failed`")).into())
    };
    names.iter().map(known).collect()
}

fn print_json<M: prost::Message>(name: &str, messages: &[M]) -> anyhow::Result<()> {
    messages.iter().try_for_each(|message| output::json_line(name, message))
}

/// Shows a job.
pub(crate) async fn show(client: &Client, format: Format, job: &str) -> anyhow::Result<ExitCode> {
    let request = pb::GetJobRequest { job_id: jobref::resolve(client, job).await?, ..Default::default() };
    let answer = client.jobs().get_job(request).await.map_err(|status| client.explain(&status))?.into_inner();
    print_job(format, &answer.job.unwrap_or_default())
}

fn print_job(format: Format, job: &pb::Job) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        output::json_line("haul.v1.Job", job)?;
        return Ok(ExitCode::SUCCESS);
    }
    let counts = job.counts.unwrap_or_default();
    let progress = job.progress.unwrap_or_default();
    let mut lines = vec![
        ("job", job.job_id.clone()),
        ("title", job.title.clone()),
        ("labels", shown_labels(&job.labels)),
        ("state", output::word(job.state().as_str_name(), "JOB_STATE_") + if job.open { ", open" } else { "" }),
        ("directory", job.directory.clone()),
        (
            "tasks",
            format!(
                "{} in all: {} succeeded, {} failed, {} cancelled, {} running, {} backing off, {} pending",
                counts.total,
                counts.succeeded,
                counts.failed,
                counts.cancelled,
                counts.running,
                counts.backing_off,
                counts.pending
            ),
        ),
        ("bytes", format!("{} of {}", output::size(progress.bytes_done), output::size(progress.bytes_total))),
        ("speed", speed(&progress)),
        ("created", output::time(job.create_time.as_ref())),
        ("started", output::time(job.start_time.as_ref())),
        ("ended", output::time(job.end_time.as_ref())),
        ("deleted on", output::time(job.expire_time.as_ref())),
        ("failure", job.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default()),
    ];
    for waiting in &job.waiting {
        let why = waiting.waiting.as_ref().map(|waiting| waiting.message.clone()).unwrap_or_default();
        lines.push(("waiting", format!("{} tasks: {why}", waiting.tasks)));
    }
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        output::line(&format!("{name:<11}{}", output::plain(value)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Labels on one line, in order of their keys.
fn shown_labels(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn speed(progress: &pb::Progress) -> String {
    if progress.bytes_per_second == 0 {
        return String::new();
    }
    let left = progress.estimated_remaining.and_then(|left| std::time::Duration::try_from(left).ok());
    let left = left.map(|left| format!(", {} left", indicatif::HumanDuration(left))).unwrap_or_default();
    format!("{}/s{left}", output::size(progress.bytes_per_second))
}

/// Lists tasks of a job, in order.
pub(crate) async fn tasks(client: &Client, format: Format, args: TasksArgs) -> anyhow::Result<ExitCode> {
    let states =
        states(&args.states, |name| pb::TaskState::from_str_name(&format!("TASK_STATE_{name}")).map(i32::from))?;
    let job_id = jobref::resolve(client, &args.job).await?;
    let mut request = pb::ListTasksRequest { job_id, states, ..Default::default() };
    let (mut rows, mut count) = (Vec::new(), 0);
    loop {
        request.page_size = page_size(args.limit, count);
        let call = client.jobs().list_tasks(request.clone()).await;
        let page = call.map_err(|status| client.explain(&status))?.into_inner();
        count += page.tasks.len();
        match format {
            // At once: a job may have a million of them.
            Format::Json => print_json("haul.v1.Task", &page.tasks)?,
            Format::Text => rows.extend(page.tasks.iter().map(task_row)),
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || is_enough(args.limit, count) {
            break;
        }
    }
    if format == Format::Text {
        output::table(&["TASK", "STATE", "ATTEMPTS", "BYTES", "URL", ""], &rows);
    }
    tell_of_more(&request.page_token, count);
    Ok(ExitCode::SUCCESS)
}

fn task_row(task: &pb::Task) -> Vec<String> {
    let error = task.error.as_ref().or(task.last_error.as_ref()).map(|error| error.message.clone());
    let why = error.or_else(|| task.waiting.as_ref().map(|waiting| waiting.message.clone())).unwrap_or_default();
    vec![
        if task.key.is_empty() { task.task_index.to_string() } else { format!("{} {}", task.task_index, task.key) },
        output::word(task.state().as_str_name(), "TASK_STATE_"),
        task.attempts.to_string(),
        output::size(task.progress.unwrap_or_default().bytes_done),
        task.url.clone(),
        why,
    ]
}

/// Does something to a job, and shows it.
pub(crate) async fn control(client: &Client, format: Format, control: Control) -> anyhow::Result<ExitCode> {
    let explain = |status: tonic::Status| client.explain(&status);
    let mut jobs = client.jobs();
    let job = match control {
        Control::Cancel { job, reason } => {
            let request = pb::CancelJobRequest { job_id: jobref::resolve(client, &job).await?, reason };
            jobs.cancel_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Pause { job } => {
            let request = pb::PauseJobRequest { job_id: jobref::resolve(client, &job).await? };
            jobs.pause_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Resume { job } => {
            let request = pb::ResumeJobRequest { job_id: jobref::resolve(client, &job).await? };
            jobs.resume_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Retry { job, tasks } => {
            let request = pb::RetryJobRequest { job_id: jobref::resolve(client, &job).await?, task_indexes: tasks };
            jobs.retry_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Delete { job, files } => {
            let request = pb::DeleteJobRequest { job_id: jobref::resolve(client, &job).await?, delete_files: files };
            let answer = jobs.delete_job(request).await.map_err(explain)?.into_inner();
            if format == Format::Json {
                output::json_line("haul.v1.DeleteJobResponse", &answer)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    print_job(format, &job.unwrap_or_default())
}
