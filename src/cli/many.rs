//! `haul control`: one thing is done to all jobs that match.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::args::{Format, Usage};
use crate::cli::client::Client;
use crate::cli::json;
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::cli::which::WhichJobs;
use crate::pb;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// Pause jobs that are pending or running
    Pause,
    /// Resume paused jobs
    Resume,
    /// Cancel jobs that have not ended
    Cancel,
    /// Run the failed and cancelled tasks of failed and cancelled jobs again
    Retry,
    /// Delete ended jobs
    Delete,
}

impl Action {
    /// The action as the contract names it.
    pub(crate) fn of_contract(self) -> pb::JobAction {
        match self {
            Action::Pause => pb::JobAction::Pause,
            Action::Resume => pb::JobAction::Resume,
            Action::Cancel => pb::JobAction::Cancel,
            Action::Retry => pb::JobAction::Retry,
            Action::Delete => pb::JobAction::Delete,
        }
    }

    /// What it does, and what it has done.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Action::Pause => ("pause", "paused"),
            Action::Resume => ("resume", "resumed"),
            Action::Cancel => ("cancel", "cancelled"),
            Action::Retry => ("retry", "retried"),
            Action::Delete => ("delete", "deleted"),
        }
    }
}

/// What to do to which jobs.
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// What to do to all jobs that match
    action: Action,
    #[command(flatten)]
    which: WhichJobs,
    /// The reason, for people; only with `cancel`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Also delete the files that the downloads made; only with `delete`
    #[arg(long)]
    files: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Counts the jobs, asks, and does it.
pub(crate) async fn control(client: &Client, format: Format, args: ControlArgs) -> anyhow::Result<ExitCode> {
    let filter = args.which.filter()?;
    if args.reason.is_some() && args.action != Action::Cancel {
        return Err(Usage("`--reason` applies only to `cancel`".to_owned()).into());
    }
    if args.files && args.action != Action::Delete {
        return Err(Usage("`--files` applies only to `delete`".to_owned()).into());
    }
    if filter == pb::JobFilter::default() {
        return Err(Usage("say which jobs: `--state`, `--label` or `--search`".to_owned()).into());
    }
    let request = pb::ControlJobsRequest {
        filter: Some(filter),
        action: args.action.of_contract().into(),
        reason: args.reason.unwrap_or_default(),
        delete_files: args.files,
        validate_only: false,
    };
    if !args.yes {
        let asked = pb::ControlJobsRequest { validate_only: true, ..request.clone() };
        let matched = run(client, Format::Text, asked).await?.matched;
        if matched > 0 && !is_confirmed(args.action, matched)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    // The server stops with a call that nobody follows.
    screen::go_on_unread();
    let last = run(client, format, request).await?;
    if format == Format::Text {
        let failed = if last.failed_count > 0 { format!(", {} failed", last.failed_count) } else { String::new() };
        screen::line(format!("{} {}{failed}", args.action.words().1, words::count(last.done.into(), "job")));
    }
    Ok(if last.failed_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what a call says until its end. Returns the last message.
async fn run(
    client: &Client,
    format: Format,
    request: pb::ControlJobsRequest,
) -> anyhow::Result<pb::ControlJobsResponse> {
    let print = |message: &pb::ControlJobsResponse| match format {
        Format::Json => json::print("haul.v1.ControlJobsResponse", message),
        Format::Text => {
            for failure in &message.failed {
                screen::say(format!("haul: {}: {}", failure.job_id, failure.message));
            }
            Ok(())
        }
    };
    follow(client, request, print).await
}

/// Follows a call to its end. Returns the last message.
pub(crate) async fn follow(
    client: &Client,
    request: pb::ControlJobsRequest,
    mut say: impl FnMut(&pb::ControlJobsResponse) -> anyhow::Result<()>,
) -> anyhow::Result<pb::ControlJobsResponse> {
    let explain = |status: tonic::Status| client.explain(&status);
    let mut stream = client.jobs().control_jobs(request).await.map_err(explain)?.into_inner();
    let mut last = pb::ControlJobsResponse::default();
    while let Some(message) = stream.message().await.map_err(explain)? {
        say(&message)?;
        last = message;
    }
    Ok(last)
}

/// Asks whoever sits there. A script has to say `--yes`.
fn is_confirmed(action: Action, matched: u32) -> anyhow::Result<bool> {
    let what = format!("{} {}", action.words().0, words::count(matched.into(), "job"));
    if !std::io::stdin().is_terminal() {
        return Err(Usage(format!("this would {what}; say `--yes` to do it")).into());
    }
    screen::say(format!("{what}? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
