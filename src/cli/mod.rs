//! The command line: one file per command. `serve` and `get` run an engine in this process; the rest are clients of a
//! server and speak its contract.
//!
//! Exit codes: 0 when what was asked for is done, 1 when it failed, 2 when it was asked for in a way that cannot be.

mod admin;
mod bars;
mod client;
mod content;
mod get;
mod jobref;
mod jobs;
mod limits;
mod output;
mod serve;
mod submit;
mod watch;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::cli::client::{Client, Usage};
use crate::cli::content::CatArgs;
use crate::cli::get::GetArgs;
use crate::cli::jobs::{Control, ListArgs, TasksArgs};
use crate::cli::limits::LimitsArgs;
use crate::cli::output::Format;
use crate::cli::submit::SubmitArgs;
use crate::config::raw::ServeArgs;

/// Durable fetch and download jobs over gRPC.
#[derive(Debug, Parser)]
#[command(name = "haul", version, about)]
struct Line {
    /// The server to talk to
    #[arg(long, global = true, env = "HAUL_SERVER", value_name = "ADDR", default_value = "127.0.0.1:4285")]
    server: String,
    /// How to print
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<ServeArgs>),
    /// Download now, without a server
    Get(GetArgs),
    /// Submit a job
    Submit(Box<SubmitArgs>),
    /// Follow a job to its end; exit 0 when it succeeded, 1 when not
    Watch {
        /// The job's id, or a unique prefix of it
        job: String,
    },
    /// List jobs, newest first
    List(ListArgs),
    /// Show a job
    Show {
        /// The job's id, or a unique prefix of it
        job: String,
    },
    /// List the tasks of a job
    Tasks(TasksArgs),
    #[command(flatten)]
    Control(Control),
    /// Print what a task brought
    Cat(CatArgs),
    /// Show or change the server's limits
    Limits(LimitsArgs),
    /// List the hosts that the server talks to
    Hosts,
    /// Show what the server is and what it has to do
    Info,
    /// Let the server end as it does on SIGTERM: running tasks stop at a checkpoint
    Drain,
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    // One provider of TLS in the whole process, chosen before anything can ask for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let matches = Line::command().get_matches();
    // The environment may name a server for all commands; naming one in the line of a command that has none is a mistake.
    let names_server = matches.value_source("server") == Some(ValueSource::CommandLine);
    let line = Line::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    runtime.block_on(Box::pin(run(line, names_server))).unwrap_or_else(|error| failed(&error))
}

async fn run(line: Line, names_server: bool) -> anyhow::Result<ExitCode> {
    let format = line.output;
    let is_client = !matches!(line.command, Command::Serve(_) | Command::Get(_));
    if !is_client && (names_server || format == Format::Json) {
        let what = if names_server { "--server" } else { "-o json" };
        return Err(Usage(format!("`{what}` goes with the clients of a server, not with `serve` and `get`")).into());
    }
    match line.command {
        Command::Serve(args) => return serve::run(&args).await,
        Command::Get(args) => return get::run(args).await,
        _ => {}
    }
    let client = Client::new(&line.server)?;
    match line.command {
        Command::Submit(args) => submit::run(&client, format, *args).await,
        Command::Watch { job } => watch::follow(&client, format, &jobref::resolve(&client, &job).await?).await,
        Command::List(args) => jobs::list(&client, format, args).await,
        Command::Show { job } => jobs::show(&client, format, &job).await,
        Command::Tasks(args) => jobs::tasks(&client, format, args).await,
        Command::Control(control) => jobs::control(&client, format, control).await,
        Command::Cat(args) => content::cat(&client, format, args).await,
        Command::Limits(args) => limits::run(&client, format, args).await,
        Command::Hosts => admin::hosts(&client, format).await,
        Command::Info => admin::info(&client, format).await,
        Command::Drain => admin::drain(&client, format).await,
        Command::Serve(_) | Command::Get(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Calls, scheduling and answers need little; the transfers have threads of their own.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2).clamp(1, 4)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    output::say(&format!("haul: {error:#}"));
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
