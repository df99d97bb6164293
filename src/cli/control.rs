//! What is done to a job: `haul cancel`, `pause`, `resume`, `retry`, `seal`, `update` and `delete`.

use std::process::ExitCode;

use clap::Args;
use tonic::Status;

use crate::cli::args::{Format, JobRef, Usage};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::jobs::print_job;
use crate::cli::json;
use crate::cli::labels;
use crate::cli::states::{self, is_ended};
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::pb;

/// Which job to cancel, and why.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    job: JobRef,
    /// Only this task, while the others go on; may be repeated
    #[arg(long = "task", value_name = "INDEX")]
    tasks: Vec<u32>,
    /// The reason, for people; shown as the failure of the job or of the tasks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Which tasks of an ended job to run again.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    job: JobRef,
    #[command(flatten)]
    which: TaskArgs,
}

/// Which tasks of a job are meant; without any of it, all.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Only this task; may be repeated
    #[arg(long = "task", value_name = "INDEX", conflicts_with_all = ["reasons", "host"])]
    tasks: Vec<u32>,
    /// Only tasks that failed in this way, such as `http-status`; may be repeated
    #[arg(long = "reason", value_name = "REASON", hide_possible_values = true, value_parser = states::REASONS)]
    reasons: Vec<String>,
    /// Only tasks at this host, as `example.com:443`, or `example.com` for each of its ports
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl TaskArgs {
    /// The filter that is said, if one is.
    fn filter(&self) -> Result<Option<pb::TaskFilter>, Usage> {
        let reasons = self.reasons.iter().map(|name| states::REASONS.read(name)).collect::<Result<_, Usage>>()?;
        let filter = pb::TaskFilter { reasons, host: self.host.clone().unwrap_or_default(), ..Default::default() };
        Ok((filter != pb::TaskFilter::default()).then_some(filter))
    }
}

/// Which job to delete.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    job: JobRef,
    /// Also delete the files that its downloads made
    #[arg(long)]
    files: bool,
}

/// What to change of a job.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    job: JobRef,
    /// Its new title
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Its new priority; higher goes first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How many of its tasks run at once; 0 leaves it to the server
    #[arg(long, value_name = "N")]
    max_concurrency: Option<u32>,
    /// A label to set, as KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// A label to remove; may be repeated
    #[arg(long = "remove-label", value_name = "KEY")]
    removed_labels: Vec<String>,
}

/// Stops a job's tasks and ends it, or ends some of its tasks.
pub(crate) async fn cancel(client: &Client, format: Format, args: CancelArgs) -> anyhow::Result<ExitCode> {
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let reason = args.reason.unwrap_or_default();
    if !args.tasks.is_empty() {
        let request = pb::CancelTasksRequest { job_id, task_indexes: args.tasks, filter: None, reason };
        let call = client.jobs().cancel_tasks(request).await;
        let answer = call.map_err(|status| client.explain(&status))?.into_inner();
        if format == Format::Json {
            json::print("haul.v1.CancelTasksResponse", &answer)?;
        } else {
            screen::line(format!("cancelled {}", words::count(answer.tasks.into(), "task")));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let request = pb::CancelJobRequest { job_id, reason };
    let answer = client.jobs().cancel_job(request).await.map(|answer| answer.into_inner().job);
    shown(client, format, answer)
}

/// Pauses a job.
pub(crate) async fn pause(client: &Client, format: Format, args: JobRef) -> anyhow::Result<ExitCode> {
    let request = pb::PauseJobRequest { job_id: jobref::resolve(client, &args.job).await? };
    let answer = client.jobs().pause_job(request).await.map(|answer| answer.into_inner().job);
    shown(client, format, answer)
}

/// Resumes a paused job.
pub(crate) async fn resume(client: &Client, format: Format, args: JobRef) -> anyhow::Result<ExitCode> {
    let request = pb::ResumeJobRequest { job_id: jobref::resolve(client, &args.job).await? };
    let answer = client.jobs().resume_job(request).await.map(|answer| answer.into_inner().job);
    shown(client, format, answer)
}

/// Runs failed and cancelled tasks of an ended job again.
pub(crate) async fn retry(client: &Client, format: Format, args: RetryArgs) -> anyhow::Result<ExitCode> {
    let filter = args.which.filter()?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let request = pb::RetryJobRequest { job_id, task_indexes: args.which.tasks, filter };
    let answer = client.jobs().retry_job(request).await.map(|answer| answer.into_inner().job);
    if let Ok(Some(job)) = &answer
        && is_ended(job.state())
    {
        screen::say("haul: there was nothing to retry: no such task of the job failed or was cancelled");
    }
    shown(client, format, answer)
}

/// Which tasks that back off are to be tried now.
#[derive(Debug, Args)]
pub(crate) struct RetryNowArgs {
    #[command(flatten)]
    job: JobRef,
    #[command(flatten)]
    which: TaskArgs,
}

/// Makes tasks due that wait for their next attempt.
pub(crate) async fn retry_now(client: &Client, format: Format, args: RetryNowArgs) -> anyhow::Result<ExitCode> {
    let filter = args.which.filter()?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let request = pb::RetryNowRequest { job_id, task_indexes: args.which.tasks, filter };
    let call = client.jobs().retry_now(request).await;
    let answer = call.map_err(|status| client.explain(&status))?.into_inner();
    if format == Format::Json {
        json::print("haul.v1.RetryNowResponse", &answer)?;
    } else {
        screen::line(format!("{} due now", words::count(answer.tasks.into(), "task")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that no more tasks will come.
pub(crate) async fn seal(client: &Client, format: Format, args: JobRef) -> anyhow::Result<ExitCode> {
    let request = pb::SealJobRequest { job_id: jobref::resolve(client, &args.job).await? };
    let answer = client.jobs().seal_job(request).await.map(|answer| answer.into_inner().job);
    shown(client, format, answer)
}

/// Changes a job, a running one too.
pub(crate) async fn update(client: &Client, format: Format, args: UpdateArgs) -> anyhow::Result<ExitCode> {
    let set = labels::read(&args.labels)?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let mut paths = Vec::new();
    let mut request = pb::UpdateJobRequest { job_id, ..Default::default() };
    if let Some(title) = args.title {
        request.title = title;
        paths.push("title");
    }
    if let Some(priority) = args.priority {
        request.priority = priority;
        paths.push("priority");
    }
    if let Some(max_concurrency) = args.max_concurrency {
        request.group = Some(pb::GroupPolicy { max_concurrency, ..Default::default() });
        paths.push("group.max_concurrency");
    }
    if !set.is_empty() || !args.removed_labels.is_empty() {
        // The call replaces all labels, so those that stay are read first.
        let current =
            client.jobs().get_job(pb::GetJobRequest { job_id: request.job_id.clone(), ..Default::default() }).await;
        let current = current.map_err(|status| client.explain(&status))?.into_inner().job.unwrap_or_default();
        request.labels = current.labels;
        request.labels.retain(|key, _| !args.removed_labels.contains(key));
        request.labels.extend(set);
        paths.push("labels");
    }
    if paths.is_empty() {
        let what = "nothing to change; say `--title`, `--priority`, `--max-concurrency`, `--label` or `--remove-label`";
        return Err(Usage(what.to_owned()).into());
    }
    request.update_mask = Some(prost_types::FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
    let answer = client.jobs().update_job(request).await.map(|answer| answer.into_inner().job);
    shown(client, format, answer)
}

/// Deletes an ended job.
pub(crate) async fn delete(client: &Client, format: Format, args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let request = pb::DeleteJobRequest { job_id, delete_files: args.files };
    let answer = client.jobs().delete_job(request).await.map_err(|status| client.explain(&status))?.into_inner();
    if format == Format::Json {
        json::print("haul.v1.DeleteJobResponse", &answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(client: &Client, format: Format, answer: Result<Option<pb::Job>, Status>) -> anyhow::Result<ExitCode> {
    let job = answer.map_err(|status| client.explain(&status))?.unwrap_or_default();
    print_job(format, &job)?;
    Ok(ExitCode::SUCCESS)
}
