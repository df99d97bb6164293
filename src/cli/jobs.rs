//! `haul list`, `show`, `tasks`, and what is done to a job.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::client::{Client, Usage};
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
    /// At most so many, the newest
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
    /// At most so many
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
    let mut labels = std::collections::HashMap::new();
    for label in &args.labels {
        let (key, value) =
            label.split_once('=').ok_or_else(|| Usage(format!("`{label}` is no label; write it like `team=red`")))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut jobs: Vec<pb::Job> = Vec::new();
    let mut page_token = String::new();
    while jobs.len() < args.limit {
        let page_size = i32::try_from((args.limit - jobs.len()).min(1000)).unwrap_or(1000);
        let (states, labels) = (states.clone(), labels.clone());
        let request = pb::ListJobsRequest { page_size, page_token, states, labels, ..Default::default() };
        let page = client.jobs().list_jobs(request).await.map_err(|status| client.explain(&status))?.into_inner();
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if format == Format::Json {
        return print_json("haul.v1.Job", &jobs);
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(job_row).collect();
    output::table(&["JOB", "STATE", "DONE", "FAILED", "TASKS", "BYTES", "CREATED", "TITLE"], &rows);
    Ok(ExitCode::SUCCESS)
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

fn print_json<M: prost::Message>(name: &str, messages: &[M]) -> anyhow::Result<ExitCode> {
    for message in messages {
        output::line(&output::json(name, message)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a job.
pub(crate) async fn show(client: &Client, format: Format, job: &str) -> anyhow::Result<ExitCode> {
    let request = pb::GetJobRequest { job_id: client.job_id(job).await? };
    let answer = client.jobs().get_job(request).await.map_err(|status| client.explain(&status))?.into_inner();
    print_job(format, &answer.job.unwrap_or_default())
}

fn print_job(format: Format, job: &pb::Job) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        return print_json("haul.v1.Job", std::slice::from_ref(job));
    }
    let counts = job.counts.unwrap_or_default();
    let progress = job.progress.unwrap_or_default();
    let mut lines = vec![
        ("job", job.job_id.clone()),
        ("title", job.title.clone()),
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
        output::line(&format!("{name:<11}{value}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists tasks of a job, in order.
pub(crate) async fn tasks(client: &Client, format: Format, args: TasksArgs) -> anyhow::Result<ExitCode> {
    let states =
        states(&args.states, |name| pb::TaskState::from_str_name(&format!("TASK_STATE_{name}")).map(i32::from))?;
    let job_id = client.job_id(&args.job).await?;
    let mut tasks: Vec<pb::Task> = Vec::new();
    let mut page_token = String::new();
    while tasks.len() < args.limit {
        let page_size = i32::try_from((args.limit - tasks.len()).min(1000)).unwrap_or(1000);
        let request = pb::ListTasksRequest { job_id: job_id.clone(), page_size, page_token, states: states.clone() };
        let page = client.jobs().list_tasks(request).await.map_err(|status| client.explain(&status))?.into_inner();
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if format == Format::Json {
        return print_json("haul.v1.Task", &tasks);
    }
    let rows: Vec<Vec<String>> = tasks.iter().map(task_row).collect();
    output::table(&["TASK", "STATE", "ATTEMPTS", "BYTES", "URL", ""], &rows);
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
            let request = pb::CancelJobRequest { job_id: client.job_id(&job).await?, reason };
            jobs.cancel_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Pause { job } => {
            let request = pb::PauseJobRequest { job_id: client.job_id(&job).await? };
            jobs.pause_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Resume { job } => {
            let request = pb::ResumeJobRequest { job_id: client.job_id(&job).await? };
            jobs.resume_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Retry { job, tasks } => {
            let request = pb::RetryJobRequest { job_id: client.job_id(&job).await?, task_indexes: tasks };
            jobs.retry_job(request).await.map_err(explain)?.into_inner().job
        }
        Control::Delete { job, files } => {
            let request = pb::DeleteJobRequest { job_id: client.job_id(&job).await?, delete_files: files };
            jobs.delete_job(request).await.map_err(explain)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    print_job(format, &job.unwrap_or_default())
}
