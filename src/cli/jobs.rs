//! `haul list`, `show` and `tasks`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::args::{Format, JobRef, Usage};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::json;
use crate::cli::labels;
use crate::cli::pages;
use crate::cli::states::{self, job_state, since, task_state};
use crate::cli::task;
use crate::cli::term::fields::print_fields;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::cli::which::WhichJobs;
use crate::pb;
use crate::pb::get_task_request::Task as TaskName;

/// Which jobs to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: WhichJobs,
    /// Only jobs that this principal submitted; `local` is whoever needed no token
    #[arg(long, value_name = "NAME")]
    created_by: Option<String>,
    /// The order: those created last first, or those ended last, which lists ended jobs alone
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Order::CreateTime)]
    order: Order,
    /// List at most N jobs, the first of that order; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// The order of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Created last first
    CreateTime,
    /// Ended last first
    EndTime,
}

/// Which tasks to list.
#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    #[command(flatten)]
    job: JobRef,
    /// Only tasks in this state, such as `failed`; may be repeated
    #[arg(long = "state", value_name = "STATE", hide_possible_values = true, value_parser = states::TASK_STATES)]
    states: Vec<String>,
    /// Begin with the task of this index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u32,
    /// Only tasks that failed in this way, such as `http-status`; may be repeated
    #[arg(long = "reason", value_name = "REASON", hide_possible_values = true, value_parser = states::REASONS)]
    reasons: Vec<String>,
    /// Only tasks at this host, as `example.com:443`, or `example.com` for each of its ports
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only tasks with this text in the key or the URL
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// List at most N tasks; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Lists jobs, newest first.
pub(crate) async fn list(client: &Client, format: Format, args: ListArgs) -> anyhow::Result<ExitCode> {
    let pb::JobFilter { states, labels, search, .. } = args.which.filter()?;
    let order = match args.order {
        Order::CreateTime => pb::JobOrder::CreateTime,
        Order::EndTime => pb::JobOrder::EndTime,
    };
    let (created_by, order) = (args.created_by.unwrap_or_default(), order.into());
    let wish = pb::ListJobsRequest { states, labels, search, created_by, order, ..Default::default() };
    let (jobs, has_more) = pages::read(client, args.limit, async |page_size, page_token| {
        let request = pb::ListJobsRequest { page_size, page_token, ..wish.clone() };
        let page = client.jobs().list_jobs(request).await?.into_inner();
        Ok((page.jobs, page.next_page_token))
    })
    .await?;
    match format {
        Format::Json => json::print_all("haul.v1.Job", &jobs)?,
        Format::Text => print_jobs(&jobs),
    }
    if has_more {
        say_that_there_are_more(jobs.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn print_jobs(jobs: &[pb::Job]) {
    // On a screen an age is read at a glance and takes fewer cells; what is kept or piped on needs the time.
    let is_screen = screen::stdout_size().is_some();
    let columns = [
        Column::id("JOB"),
        Column::whole("STATE"),
        Column::whole("DONE").number(),
        Column::optional("FAILED", 4).number(),
        Column::optional("CANCELLED", 3).number(),
        Column::optional("BYTES", 1).number(),
        if is_screen { Column::optional("AGE", 2).number() } else { Column::whole("CREATED") },
        Column::text("TITLE", 6),
    ];
    let row = |job: &pb::Job| {
        let counts = job.counts.unwrap_or_default();
        let nonzero = |count: u32, hue| match count {
            0 if is_screen => Line::default(),
            count => Line::of(if count > 0 { hue } else { Hue::Plain }, &count.to_string()),
        };
        let cells = vec![
            Line::from(job.job_id.as_str()),
            job_state(job),
            Line::from(format!("{}/{}", counts.succeeded, counts.total)),
            nonzero(counts.failed, Hue::Bad),
            nonzero(counts.cancelled, Hue::Warn),
            Line::from(words::size(job.progress.unwrap_or_default().bytes_done)),
            Line::from(if is_screen {
                job.create_time.as_ref().map(|time| words::age(since(time))).unwrap_or_default()
            } else {
                words::time(job.create_time.as_ref())
            }),
            Line::from(job.title.as_str()),
        ];
        Row { cells, remark: String::new() }
    };
    table::print(&columns, &jobs.iter().map(row).collect::<Vec<_>>());
}

/// A list that was cut must not look like a whole one.
fn say_that_there_are_more(shown: usize) {
    screen::say(format!("haul: there are more than these {shown}; `--limit 0` lists all"));
}

/// What to show of a job.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    job: JobRef,
    /// Show this task of it with its attempts: its index, or its key
    task: Option<String>,
    /// TASK is a key, even though it looks like a number
    #[arg(long, requires = "task")]
    key: bool,
    /// Print what was submitted, as JSON that `haul submit -f` takes; secrets read REDACTED
    #[arg(long)]
    spec: bool,
}

/// Shows a job, a task of it, or what was submitted.
pub(crate) async fn show(client: &Client, format: Format, args: ShowArgs) -> anyhow::Result<ExitCode> {
    let job_id = jobref::resolve(client, &args.job.job).await?;
    if let Some(name) = args.task {
        let index = name.parse::<u32>().ok().filter(|_| !args.key);
        let name = index.map_or(TaskName::TaskKey(name), TaskName::TaskIndex);
        return task::show(client, format, job_id, name, args.spec).await;
    }
    let request = pb::GetJobRequest { job_id, include_spec: args.spec };
    let answer = client.jobs().get_job(request).await.map_err(|status| client.explain(&status))?.into_inner();
    let job = answer.job.unwrap_or_default();
    if !args.spec || format == Format::Json {
        print_job(format, &job)?;
        return Ok(ExitCode::SUCCESS);
    }
    json::print_set("haul.v1.JobSpec", &job.spec.unwrap_or_default())?;
    if job.spec_tasks_omitted {
        // What is printed would make another job.
        screen::say("haul: the tasks are left out, there are too many of them; `haul tasks` lists them");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints all that is known of a job.
pub(crate) fn print_job(format: Format, job: &pb::Job) -> anyhow::Result<()> {
    match format {
        Format::Json => json::print("haul.v1.Job", job)?,
        Format::Text => print_fields(&fields(job)),
    }
    Ok(())
}

fn fields(job: &pb::Job) -> Vec<(&'static str, Line)> {
    let progress = job.progress.unwrap_or_default();
    let time = |time: &Option<prost_types::Timestamp>| Line::from(words::time(time.as_ref()));
    let bytes = match (progress.bytes_done, progress.bytes_total) {
        (0, 0) => String::new(),
        (done, 0) => words::size(done),
        (done, total) => format!("{} of {}", words::size(done), words::size(total)),
    };
    let open = if job.open { ", open for `haul add`" } else { "" };
    let failure = job.failure.as_ref().map(states::failure).unwrap_or_default();
    let mut fields = vec![
        ("job", Line::from(job.job_id.as_str())),
        ("title", Line::from(job.title.as_str())),
        ("labels", Line::from(labels::shown(&job.labels))),
        ("state", job_state(job).with(Hue::Plain, open)),
        ("directory", Line::from(job.directory.as_str())),
        ("tasks", Line::from(states::counts(&job.counts.unwrap_or_default()))),
        ("bytes", Line::from(bytes)),
        ("speed", Line::from(speed(&progress))),
        ("created", time(&job.create_time)),
        ("started", time(&job.start_time)),
        ("ended", time(&job.end_time)),
        ("deleted on", time(&job.expire_time)),
        ("failure", Line::of(Hue::Bad, &failure)),
    ];
    fields.extend(states::failures(job).iter().map(|kind| ("failed", Line::of(Hue::Bad, kind))));
    for waiting in &job.waiting {
        let why = waiting.waiting.as_ref().map(|waiting| waiting.message.as_str()).unwrap_or_default();
        let tasks = words::count(waiting.tasks.into(), "task");
        fields.push(("waiting", Line::of(Hue::Warn, &format!("{tasks}: {why}"))));
    }
    fields
}

fn speed(progress: &pb::Progress) -> String {
    if progress.bytes_per_second == 0 {
        return String::new();
    }
    let left = progress.estimated_remaining.and_then(|left| Duration::try_from(left).ok());
    let left = left.map(|left| format!(", {} left", words::duration(left))).unwrap_or_default();
    format!("{}{left}", words::rate(progress.bytes_per_second))
}

/// Lists tasks of a job, in order.
pub(crate) async fn tasks(client: &Client, format: Format, args: TasksArgs) -> anyhow::Result<ExitCode> {
    let states = args.states.iter().map(|name| states::TASK_STATES.read(name)).collect::<Result<_, Usage>>()?;
    let reasons = args.reasons.iter().map(|name| states::REASONS.read(name)).collect::<Result<_, Usage>>()?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let mut request = pb::ListTasksRequest {
        job_id,
        states,
        reasons,
        host: args.host.unwrap_or_default(),
        search: args.search.unwrap_or_default(),
        first_task_index: Some(args.from),
        ..Default::default()
    };
    let (mut rows, mut count) = (Vec::new(), 0);
    loop {
        request.page_size = pages::page_size(args.limit, count);
        let call = client.jobs().list_tasks(request.clone()).await;
        let page = call.map_err(|status| client.explain(&status))?.into_inner();
        count += page.tasks.len();
        match format {
            // At once: a job may have a million of them.
            Format::Json => json::print_all("haul.v1.Task", &page.tasks)?,
            Format::Text => rows.extend(page.tasks.iter().map(task_row)),
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || pages::is_enough(args.limit, count) {
            break;
        }
    }
    if format == Format::Text {
        let columns = [
            Column::whole("TASK").number(),
            Column::text("KEY", 6),
            Column::whole("STATE"),
            Column::optional("ATTEMPTS", 1).number(),
            Column::optional("BYTES", 2).number(),
            Column::name("URL", 20),
        ];
        table::print(&columns, &rows);
    }
    if !request.page_token.is_empty() {
        say_that_there_are_more(count);
    }
    Ok(ExitCode::SUCCESS)
}

fn task_row(task: &pb::Task) -> Row {
    let cells = vec![
        Line::from(task.task_index.to_string()),
        Line::from(task.key.as_str()),
        task_state(task),
        Line::from(task.attempts.to_string()),
        Line::from(words::size(task.progress.unwrap_or_default().bytes_done)),
        Line::from(task.url.as_str()),
    ];
    Row { cells, remark: states::why(task) }
}
