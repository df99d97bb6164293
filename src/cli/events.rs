//! `haul events`: what happened to a job, the last first.

use std::process::ExitCode;

use clap::Args;

use crate::cli::args::{Format, JobRef, Usage};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::json;
use crate::cli::pages;
use crate::cli::states::{self, job_state, task_state};
use crate::cli::term::line::Line;
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::pb;
use crate::pb::job_event::Event;

/// Which events to list.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    job: JobRef,
    /// Only events of this kind: task-ended, job-changed or job-ended; may be repeated
    #[arg(long = "kind", value_name = "KIND", hide_possible_values = true, value_parser = states::EVENT_KINDS)]
    kinds: Vec<String>,
    /// List at most N events, the last; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Lists the events of a job.
pub(crate) async fn events(client: &Client, format: Format, args: EventsArgs) -> anyhow::Result<ExitCode> {
    let kinds = args.kinds.iter().map(|name| states::EVENT_KINDS.read(name)).collect::<Result<_, Usage>>()?;
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let wish = pb::ListJobEventsRequest { job_id, kinds, ..Default::default() };
    let (events, has_more) = pages::read(client, args.limit, async |page_size, page_token| {
        let request = pb::ListJobEventsRequest { page_size, page_token, ..wish.clone() };
        let page = client.jobs().list_job_events(request).await?.into_inner();
        Ok((page.events, page.next_page_token))
    })
    .await?;
    match format {
        Format::Json => json::print_all("haul.v1.JobEvent", &events)?,
        Format::Text => {
            let columns = [
                Column::whole("EVENT").number(),
                Column::optional("TIME", 1),
                Column::whole("WHAT"),
                Column::optional("STATE", 2),
                Column::name("URL", 20),
            ];
            table::print(&columns, &events.iter().map(row).collect::<Vec<_>>());
        }
    }
    if has_more {
        screen::say(format!("haul: there are more than these {}; `--limit 0` lists all", events.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(event: &pb::JobEvent) -> Row {
    let (what, state, url, remark) = match &event.event {
        Some(Event::TaskEnded(task)) => {
            (format!("task {} ended", task.task_index), task_state(task), task.url.clone(), states::why(task))
        }
        Some(Event::JobChanged(job)) => ("job changed".to_owned(), job_state(job), String::new(), String::new()),
        Some(Event::JobEnded(job)) => {
            let failure = job.failure.as_ref().map(states::failure).unwrap_or_default();
            ("job ended".to_owned(), job_state(job), String::new(), failure)
        }
        None => (String::new(), Line::default(), String::new(), String::new()),
    };
    let cells = vec![
        Line::from(event.sequence.to_string()),
        Line::from(words::time(event.time.as_ref())),
        Line::from(what),
        state,
        Line::from(url),
    ];
    Row { cells, remark }
}
